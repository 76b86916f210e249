import numpy as np
import pytest
from PIL import Image

from vidsr.errors import MediaError, RequestError
from vidsr.evaluation.compare import GAP, LABEL_HEIGHT, PANEL, before_after, sheet
from vidsr.evaluation.metrics import enlarge, to_picture, to_tensor


def noise(height, width):
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)


def read(path):
    with Image.open(path) as image:
        return np.array(image)


def test_both_sides_stand_at_output_pixels(tmp_path):
    before = noise(20, 30)
    after = noise(40, 60)
    before_after(before, after, tmp_path / "pair.png")
    written = read(tmp_path / "pair.png")
    assert written.shape == (40 + LABEL_HEIGHT, 60 + GAP + 60, 3)
    assert np.array_equal(written[LABEL_HEIGHT:, :60], to_picture(enlarge(to_tensor(before), 2)))
    assert np.array_equal(written[LABEL_HEIGHT:, 60 + GAP :], after)


def test_large_pictures_are_cropped_to_their_detail(tmp_path):
    before = np.full((300, 500, 3), 128, np.uint8)
    before[250:290, 450:490] = noise(40, 40)
    after = before.repeat(4, axis=0).repeat(4, axis=1)
    before_after(before, after, tmp_path / "pair.png")
    written = read(tmp_path / "pair.png")
    panel = written[LABEL_HEIGHT:, -(PANEL[0] // 4 * 4) :]
    assert written.shape[1] <= 1600
    # All of the noise is inside: it stands enlarged by nearest neighbour in `after`.
    assert (panel != 128).any(axis=2).sum() == (after != 128).any(axis=2).sum()


def test_sheets_align_columns_and_allow_short_rows(tmp_path):
    wide, tall = noise(10, 50), noise(40, 20)
    sheet([[("wide", wide), ("tall", tall)], [("tall", tall)]], tmp_path / "deep" / "sheet.png")
    written = read(tmp_path / "deep" / "sheet.png")
    assert written.shape == (2 * (LABEL_HEIGHT + 40) + GAP, 50 + GAP + 20, 3)
    assert np.array_equal(written[LABEL_HEIGHT : LABEL_HEIGHT + 10, :50], wide)
    assert np.array_equal(written[-40:, :20], tall)


def test_labels_are_drawn(tmp_path):
    sheet([[("a label", noise(30, 90))]], tmp_path / "sheet.png")
    strip = read(tmp_path / "sheet.png")[:LABEL_HEIGHT]
    assert strip.max() > 150 > strip.min()


def test_pictures_that_are_no_pair_are_refused(tmp_path):
    with pytest.raises(RequestError, match="whole number"):
        before_after(noise(20, 30), noise(40, 61), tmp_path / "pair.png")
    with pytest.raises(RequestError, match="at least one picture"):
        sheet([[]], tmp_path / "sheet.png")


def test_an_unwritable_place_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "sheet.png").mkdir()
    with pytest.raises(MediaError, match=r"sheet\.png"):
        sheet([[("a", noise(8, 8))]], tmp_path / "sheet.png")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
