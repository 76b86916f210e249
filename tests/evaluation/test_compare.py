import numpy as np
import pytest
from evaluation.scenes import scene
from PIL import Image

from vidsr.errors import MediaError, RequestError
from vidsr.evaluation.compare import (
    CROP_SIDE,
    CROPS,
    GAP,
    LABEL_HEIGHT,
    MOST_BYTES,
    PANEL,
    ContactSheet,
    before_after,
    sheet,
)
from vidsr.evaluation.evaluate import Comparison
from vidsr.evaluation.metrics import enlarge, to_picture, to_tensor


def noise(height, width):
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)


def read(path):
    with Image.open(path) as image:
        return np.array(image)


def comparison(name, original, **models):
    """Of scale 4, with the original itself in place of bicubic."""
    return Comparison(name, original[::4, ::4], original, {"bicubic": original, **models})


def cells_of(written):
    """By row and column, for pictures of the largest size."""
    rows = written.shape[0] // (LABEL_HEIGHT + CROP_SIDE)
    columns = (written.shape[1] + GAP) // (CROP_SIDE + GAP)
    return [
        [
            written[
                row * (LABEL_HEIGHT + CROP_SIDE + GAP) + LABEL_HEIGHT :,
                column * (CROP_SIDE + GAP) :,
            ][:CROP_SIDE, :CROP_SIDE]
            for column in range(columns)
        ]
        for row in range(rows)
    ]


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


def test_a_sheet_may_be_a_jpeg_whose_colors_are_not_subsampled(tmp_path):
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = (255, 0, 0)
    stripes[:, 1::2] = (0, 0, 255)
    sheet([[("a", stripes)]], tmp_path / "sheet.jpg")
    with Image.open(tmp_path / "sheet.jpg") as image:
        assert image.format == "JPEG"
    written = read(tmp_path / "sheet.jpg")[LABEL_HEIGHT + 8 :]
    assert np.abs(written[:, ::2].mean((0, 1)) - (255, 0, 0)).max() < 30


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


def test_a_contact_sheet_shows_where_the_models_differ(tmp_path):
    original = scene(400, 480)
    first, second = original.copy(), original.copy()
    second[260:280, 330:350] = 0
    crops = ContactSheet(4)
    crops.add(comparison("a.png", original, first=first, second=second))
    crops.write(tmp_path / "sheet.png")
    ((repeated, bicubic, ours, theirs, kept),) = cells_of(read(tmp_path / "sheet.png"))
    assert (theirs[..., 0] == 0).sum() >= 400  # all of what differs is inside
    assert np.array_equal(ours, kept)
    assert np.array_equal(bicubic, kept)
    assert np.array_equal(repeated[::4, ::4], kept[::4, ::4])  # on the low-res grid
    assert np.array_equal(repeated[3::4, 3::4], kept[::4, ::4])


def test_one_model_is_held_against_bicubic(tmp_path):
    original = scene(400, 480)
    only = original.copy()
    only[:20, :20] = 0
    crops = ContactSheet(4)
    crops.add(comparison("a.png", original, only=only))
    crops.write(tmp_path / "sheet.png")
    ((_, _, ours, kept),) = cells_of(read(tmp_path / "sheet.png"))
    assert np.array_equal(kept, original[:CROP_SIDE, :CROP_SIDE])
    assert (ours[:20, :20] == 0).all()


def test_the_most_telling_pictures_come_first_and_others_give_way(tmp_path):
    crops = ContactSheet(4)
    for value in (10, 50, 30, 20, 60, 40):
        original = np.full((168, 168, 3), value, np.uint8)
        crops.add(comparison(f"{value}.png", original, only=original * 2))
    crops.write(tmp_path / "sheet.png")
    rows = cells_of(read(tmp_path / "sheet.png"))
    assert [row[-1][0, 0, 0] for row in rows] == [60, 50, 40, 30]
    assert len(rows) == CROPS


def test_pictures_smaller_than_a_crop_are_shown_whole(tmp_path):
    original = scene(40, 52)
    crops = ContactSheet(4)
    crops.add(comparison("small.png", original, only=original))
    crops.write(tmp_path / "sheet.png")
    assert read(tmp_path / "sheet.png").shape == (LABEL_HEIGHT + 40, 4 * 52 + 3 * GAP, 3)


def test_a_contact_sheet_stays_below_a_megabyte(tmp_path):
    crops = ContactSheet(4)
    for number in range(CROPS):
        models = {f"model {model}": noise(CROP_SIDE, CROP_SIDE) for model in range(8)}
        crops.add(comparison(f"{number}.png", noise(CROP_SIDE, CROP_SIDE), **models))
    crops.write(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size < MOST_BYTES


def test_long_names_do_not_run_into_the_next_column(tmp_path):
    black = np.zeros((20, 60, 3), np.uint8)
    sheet([[("a very long name of a picture.png", black), ("", black)]], tmp_path / "sheet.png")
    strip = read(tmp_path / "sheet.png")[:LABEL_HEIGHT]
    assert strip[:, :60].max() > 150
    assert strip[:, 60:].max() < 30


def test_a_contact_sheet_of_nothing_is_refused(tmp_path):
    with pytest.raises(RequestError, match="no pictures"):
        ContactSheet(4).write(tmp_path / "sheet.png")
