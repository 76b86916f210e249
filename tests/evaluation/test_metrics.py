import math
from pathlib import Path

import numpy as np
import pytest
from evaluation.scenes import codes, scene, texture

from vidsr.evaluation.evaluate import picture_paths, read_picture
from vidsr.evaluation.metrics import (
    color_shift,
    crop_to_multiple,
    enlarge,
    line_steepness,
    luma,
    mean_psnr,
    psnr_y,
    shrink,
    ssim_y,
    to_picture,
    to_tensor,
)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_luma_of_black_white_and_primaries_is_that_of_bt601():
    colors = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    picture = np.array([colors], dtype=np.uint8)
    assert luma(picture, border=0)[0] == pytest.approx([16, 235, 81.481, 144.553, 40.966])


def test_one_gray_level_of_error_is_a_known_psnr():
    picture = np.full((20, 20, 3), 100, np.uint8)
    # One RGB code is 219/255 of a luma code, so the PSNR is 20 log10(255 * 255 / 219).
    assert psnr_y(picture, picture + 1, border=2) == pytest.approx(20 * math.log10(255**2 / 219))


def test_equal_pictures_have_infinite_psnr_and_similarity_one():
    picture = noise(24, 30)
    assert psnr_y(picture, picture, border=4) == math.inf
    assert ssim_y(picture, picture, border=4) == 1.0


def test_errors_in_the_border_do_not_count():
    original = noise(32, 32)
    picture = original.copy()
    picture[:4], picture[-4:], picture[:, :4], picture[:, -4:] = 0, 0, 0, 0
    assert psnr_y(picture, original, border=4) == math.inf
    assert psnr_y(picture, original, border=3) < 30


def test_lines_are_flatter_in_a_blurred_and_steeper_in_a_sharpened_picture():
    original = scene(96, 96)
    blurred = to_picture(enlarge(shrink(to_tensor(original), 2), 2))
    sharpened = codes(2.0 * original - blurred)
    assert line_steepness(original, original, border=2) == 1
    assert line_steepness(blurred, original, border=2) < 0.9
    assert line_steepness(sharpened, original, border=2) > 1.1


def test_half_a_step_is_half_as_steep():
    original = np.zeros((40, 40, 3), np.uint8)
    original[:, 20:] = 200
    assert line_steepness(original // 2, original, border=4) == pytest.approx(0.5)


def test_only_steep_pixels_are_lines():
    original = np.zeros((40, 40, 3), np.uint8)
    original[:, 20:] = 200
    picture = original.copy()
    picture[::2, :10] = 50  # where the original has no line
    assert line_steepness(picture, original, border=4) == 1


def test_a_picture_without_lines_has_no_steepness():
    gentle = np.broadcast_to(np.arange(0, 80, 2, dtype=np.uint8)[:, None], (40, 40))
    picture = np.stack([gentle] * 3, axis=-1)
    assert math.isnan(line_steepness(picture, picture, border=2))


def test_a_cast_shifts_colors_and_texture_does_not():
    original = scene(96, 96) // 2 + 60
    cast = original + np.array([12, 0, 0], np.uint8)
    textured = codes(original + 12 * texture(96, 96)[..., None])
    assert color_shift(original, original, border=0) == 0
    assert color_shift(cast, original, border=0) > 4
    assert color_shift(textured, original, border=0) < 0.5


def test_the_color_shift_is_that_of_the_standard():
    # Grays differ in L* only: 42.37 and 50.43 for 100 and 120. dE00 is their difference over S_L,
    # which is 1.034 there (Sharma, Wu and Dalal 2005, equation 15).
    first, second = (np.full((32, 32, 3), gray, np.uint8) for gray in (100, 120))
    assert color_shift(first, second, border=0) == pytest.approx(8.06 / 1.034, abs=0.02)


def test_one_equal_picture_does_not_hide_the_others_in_a_mean():
    assert mean_psnr([30.0, math.inf, 32.0]) == 31.0
    assert mean_psnr([math.inf]) == math.inf


def test_pictures_survive_the_way_to_tensors_and_back():
    picture = noise(9, 7)
    assert np.array_equal(to_picture(to_tensor(picture)), picture)
    assert to_tensor(picture).shape == (1, 3, 9, 7)


def test_low_res_pictures_hold_whole_codes():
    low_res = shrink(to_tensor(noise(24, 36)), 3)
    assert low_res.shape == (1, 3, 8, 12)
    codes = low_res * 255
    assert (codes - codes.round()).abs().max() < 1e-4  # fp32 around 255


def test_cropping_cuts_right_and_bottom():
    picture = noise(11, 14)
    assert np.array_equal(crop_to_multiple(picture, 4), picture[:8, :12])


@pytest.mark.parametrize(
    ("folder", "scale", "psnr", "ssim"),
    # Published: Set5 33.66 / .9299 and 28.42 / .8104, Set14 26.00 / .7027 (EDSR, arXiv:1707.02921,
    # table 3). Set14's gray picture counts 1.3 dB more as RGB, 0.09 in the mean. torch's reduction
    # differs from MATLAB's at the edges, hence the rest.
    [("Set5", 2, 33.68, 0.9305), ("Set5", 4, 28.43, 0.8113), ("Set14", 4, 26.09, 0.7050)],
)
def test_bicubic_gives_the_published_figures(shared: Path, folder, scale, psnr, ssim):
    scores = []
    for path in picture_paths(shared / "bench" / folder):
        original = crop_to_multiple(read_picture(path), scale)
        output = to_picture(enlarge(shrink(to_tensor(original), scale), scale))
        scores.append(
            (psnr_y(output, original, border=scale), ssim_y(output, original, border=scale))
        )
    assert np.mean([score[0] for score in scores]) == pytest.approx(psnr, abs=0.02)
    assert np.mean([score[1] for score in scores]) == pytest.approx(ssim, abs=0.001)
