import logging

import numpy as np
import pytest
import torch
from PIL import Image

from vidsr.errors import MediaError, RequestError
from vidsr.lab import AB_SCALE, rgb_to_lab
from vidsr.training.color_data import ColorCrops, load_small, read_small, whole_pair


def picture(seed=0, height=40, width=56):
    """Smooth random colors, (3,H,W) uint8."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand((1, 3, 4, 5), generator=generator)
    large = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")
    return (large[0] * 255).to(torch.uint8)


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)


def test_a_batch_has_the_stated_shapes_and_ranges():
    crops = ColorCrops([picture(n) for n in range(3)], patch=32, batch=5)
    lightness, ab = crops.draw(torch.Generator().manual_seed(1))
    assert lightness.shape == (5, 1, 32, 32)
    assert ab.shape == (5, 2, 16, 16)
    assert lightness.abs().max() <= 1
    assert ab.abs().max() <= 1


def test_one_state_gives_one_batch():
    crops = ColorCrops([picture(n) for n in range(3)], patch=16, batch=8)
    first = crops.draw(torch.Generator().manual_seed(1))
    second = crops.draw(torch.Generator().manual_seed(1))
    other = crops.draw(torch.Generator().manual_seed(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], other[1])


def test_what_was_done_to_the_lightness_leaves_the_colors():
    flat = torch.tensor([200, 80, 40], dtype=torch.uint8)[:, None, None].expand(3, 40, 40)
    lightness, ab = ColorCrops([flat], patch=16, batch=32).draw(torch.Generator().manual_seed(0))
    true = rgb_to_lab(flat[None].float() / 255)[0, :, 0, 0]
    assert (ab - true[1:, None, None] / AB_SCALE).abs().max() < 1e-5
    assert lightness.mean(dim=(1, 2, 3)).std() > 0.05


@pytest.mark.parametrize("aged", [0.0, 1.0])
def test_only_what_is_aged_has_grain(aged):
    flat = torch.tensor([200, 80, 40], dtype=torch.uint8)[:, None, None].expand(3, 40, 40)
    crops = ColorCrops([flat], patch=16, batch=32, aged=aged)
    lightness, _ = crops.draw(torch.Generator().manual_seed(0))
    grainy = lightness.std(dim=(1, 2, 3)) > 1e-4
    assert bool(grainy.any()) == (aged > 0)
    assert lightness.mean(dim=(1, 2, 3)).std() > 0.05  # brighter or darker


def test_pictures_are_made_small_and_gray_broken_and_tiny_ones_left_out(tmp_path, caplog):
    save(picture(1, 80, 100), tmp_path / "good.png")
    save(picture(1, 80, 100)[:1].expand(3, -1, -1), tmp_path / "gray.png")
    save(picture(1, 20, 100), tmp_path / "tiny.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    with caplog.at_level(logging.WARNING):
        pictures = load_small([tmp_path], side=32)
    assert [tuple(one.shape) for one in pictures] == [(3, 32, 40)]
    assert "broken.jpg" in caplog.text
    assert "3 of 4 files were skipped" in caplog.text


def test_a_folder_without_colors_says_so(tmp_path):
    save(picture()[:1].expand(3, -1, -1), tmp_path / "gray.png")
    with pytest.raises(RequestError, match="no picture in color of at least 32x32"):
        load_small([tmp_path], side=32)


def test_a_turned_photograph_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn clockwise
    pixels = picture(0, 64, 96).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = read_small(tmp_path / "turned.jpg", 32)
    assert upright.shape == (48, 32, 3)
    expected = np.array(Image.fromarray(np.rot90(pixels, -1)).resize((32, 48)))
    assert np.abs(upright.astype(int) - expected).mean() < 4  # JPEG, and another kernel


def test_sixteen_bit_pictures_are_refused(tmp_path):
    Image.fromarray(np.zeros((40, 40), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(MediaError, match="only pictures of 8 bits"):
        read_small(tmp_path / "deep.png", 32)


def test_a_whole_picture_fits_the_generator():
    lightness, lab = whole_pair(picture(0, 45, 70))
    assert lightness.shape == (1, 1, 48, 64)
    assert lab.shape == (1, 3, 24, 32)


def test_some_patches_show_the_one_before_them_too_in_places_or_through_them():
    red, blue = (
        torch.tensor(color, dtype=torch.uint8)[:, None, None].expand(3, 40, 40)
        for color in ([220, 30, 20], [10, 60, 200])
    )
    ends = [rgb_to_lab(flat[None].float() / 255)[0, 1:, 0, 0] for flat in (red, blue)]

    def colors(mixed):
        """By patch how many there are of ab, and whether the picture's own are among them."""
        crops = ColorCrops([red, blue], patch=16, batch=64, aged=0, mixed=mixed)
        _, ab = crops.draw(torch.Generator().manual_seed(0))
        return [patch.flatten(1).T.mul(AB_SCALE).unique(dim=0) for patch in ab]

    assert all(len(found) == 1 for found in colors(0.0))
    found = colors(1.0)
    in_places = [one for one in found if len(one) > 1]
    through = [
        one for one in found if len(one) == 1 and all((one - end).norm() > 1 for end in ends)
    ]
    assert in_places
    assert through
    for patch in in_places:
        assert all(any((end - one).norm() < 1e-3 for one in patch) for end in ends)
