import math

import numpy as np
import pytest
from evaluation.scenes import damaged, scene

from vidsr.evaluation.chroma import (
    Rendition,
    ciede2000,
    colorfulness,
    psnr_rgb,
    ssim_rgb,
    to_lab,
)


def flat(*color, shape=(12, 14)):
    return np.broadcast_to(np.array(color, np.uint8), (*shape, 3)).copy()


def test_psnr_counts_an_error_in_one_channel_as_a_third():
    original = flat(100, 100, 100)
    assert psnr_rgb(flat(110, 110, 110), original) == pytest.approx(20 * math.log10(25.5))
    assert psnr_rgb(flat(110, 100, 100), original) == pytest.approx(
        20 * math.log10(25.5) + 10 * math.log10(3)
    )
    assert psnr_rgb(original, original) == math.inf


def test_similarity_falls_with_damage_and_with_lost_color():
    original = scene(40, 50)
    gray = original.mean(axis=2, keepdims=True).round().astype(np.uint8).repeat(3, axis=2)
    assert ssim_rgb(original, original) == pytest.approx(1)
    assert ssim_rgb(damaged(original), original) < 0.95
    assert ssim_rgb(gray, original) < 0.95


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [  # Sharma, Wu and Dalal 2005, table 1: pairs 1, 7 and 17
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
    ],
)
def test_differences_are_those_of_the_published_pairs(first, second, difference):
    pair = [np.array([[color]], np.float32) for color in (first, second)]
    assert ciede2000(*pair)[0, 0] == pytest.approx(difference, abs=1e-3)  # float32


def test_lab_of_primaries_is_the_known_one():
    lab = to_lab(np.array([[[255, 0, 0], [255, 255, 255], [0, 0, 0]]], np.uint8))
    assert lab.dtype == np.float32
    assert lab[0, 0] == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    assert lab[0, 1:] == pytest.approx(np.array([[100, 0, 0], [0, 0, 0]]), abs=0.01)


def test_gray_has_no_colorfulness():
    assert colorfulness(flat(77, 77, 77)) == 0


def test_one_color_alone_has_the_colorfulness_of_its_means():
    # rg = 100, yb = (200 + 100) / 2 - 50 = 100
    assert colorfulness(flat(200, 100, 50)) == pytest.approx(0.3 * math.hypot(100, 100))


def test_opposite_colors_cancel_in_the_means_and_count_in_the_deviations():
    picture = np.concatenate([flat(200, 100, 150), flat(100, 200, 150)])
    assert colorfulness(picture) == pytest.approx(100)  # rg = ±100, yb = 0


def test_a_rendition_holds_the_lab_of_its_picture():
    picture = scene(20, 24)
    rendition = Rendition.of(picture)
    assert rendition.rgb is picture
    assert np.array_equal(rendition.lab, to_lab(picture))
