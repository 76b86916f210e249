"""Reference figures: piq 0.8.0 on the same drawn pictures, in double precision."""

import math

import numpy as np
import pytest
from evaluation.scenes import codes, damaged, scene

from vidsr.evaluation.similarity import MS_SSIM_SMALLEST, dss, haarpsi, ms_ssim_y

MEASURES = [ms_ssim_y, dss, haarpsi]


def test_multiscale_similarity_is_piqs():
    original = scene(192, 208)
    similarity = ms_ssim_y(damaged(original), original, border=0)
    assert similarity == pytest.approx(0.951847145151, abs=1e-9)


def test_dct_subband_similarity_is_piqs():
    original = scene(192, 208)
    # piq computes some weights in single precision.
    assert dss(damaged(original), original, border=0) == pytest.approx(0.823422892, abs=1e-7)


def test_sides_that_are_no_multiple_of_eight_lose_the_rest():
    original = scene(177, 203)
    assert dss(damaged(original), original, border=0) == pytest.approx(0.803006451, abs=1e-7)


def test_haar_similarity_is_piqs():
    original = scene(192, 208)
    # piq's matrix to YIQ has four digits where the paper's authors have three.
    assert haarpsi(damaged(original), original, border=0) == pytest.approx(0.781121, abs=5e-5)


@pytest.mark.parametrize("measure", MEASURES)
def test_equal_pictures_are_wholly_similar(measure):
    for picture in (scene(176, 177), np.zeros((192, 192, 3), np.uint8)):
        assert measure(picture, picture, border=0) == pytest.approx(1)


@pytest.mark.parametrize("measure", MEASURES)
def test_more_damage_is_less_similar(measure):
    original = scene(192, 192)
    once = damaged(original)
    first, second = (measure(p, original, border=4) for p in (once, damaged(once)))
    assert 1 > first > second > 0


@pytest.mark.parametrize("measure", MEASURES)
def test_errors_in_the_border_do_not_count(measure):
    original = scene(192, 192)
    picture = original.copy()
    picture[:4], picture[-4:], picture[:, :4], picture[:, -4:] = 0, 0, 0, 0
    assert measure(picture, original, border=4) == pytest.approx(1)
    assert measure(picture, original, border=3) < 0.9999


def test_only_the_haar_similarity_sees_color():
    original = scene(192, 192)
    # Opposite steps of red and blue that leave the luma where it was.
    shifted = codes(original + np.array([11.4, 0.0, -29.9]) * 0.9)
    unclipped = ((original[..., 2] > 30) & (original[..., 0] < 240))[..., None]
    shifted = np.where(unclipped, shifted, original)
    assert dss(shifted, original, border=0) > 0.99
    assert haarpsi(shifted, original, border=0) < 0.95


def test_a_picture_too_small_for_five_scales_has_no_multiscale_similarity():
    assert MS_SSIM_SMALLEST == 176
    small = scene(175, 200)
    assert math.isnan(ms_ssim_y(small, small, border=0))


@pytest.mark.parametrize("measure", [dss, haarpsi])
def test_sixteen_pixels_are_enough_for_the_others(measure):
    original = scene(16, 16)
    assert 0 < measure(damaged(original), original, border=0) < 1
