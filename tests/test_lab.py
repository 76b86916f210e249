import pytest
import torch

from vidsr import lab
from vidsr.lab import AB_SCALE, gray_to_l, lab_to_rgb, rgb_to_lab


def cube(steps=9):
    """(1,3,H,W): the whole of sRGB, coarsely."""
    axis = torch.linspace(0, 1, steps)
    return torch.cartesian_prod(axis, axis, axis).T.reshape(1, 3, steps, steps * steps)


def test_the_round_trip_is_exact_even_outside_of_srgb():
    rgb = cube() * 1.4 - 0.2  # legal YUV goes as far
    assert (lab_to_rgb(rgb_to_lab(rgb)) - rgb).abs().max() < 1e-4
    lab = torch.tensor([30.0, 100.0, -100.0]).reshape(1, 3, 1, 1)  # sRGB has no such color
    assert (rgb_to_lab(lab_to_rgb(lab)) - lab).abs().max() < 1e-2


def test_it_is_what_scikit_image_computes():
    rgb2lab = pytest.importorskip(
        "skimage.color", reason="needs scikit-image (extra: test)"
    ).rgb2lab
    theirs = torch.from_numpy(rgb2lab(cube()[0].permute(1, 2, 0).double().numpy()))
    ours = rgb_to_lab(cube())[0].permute(1, 2, 0)
    assert (ours - theirs).abs().max() < 0.01  # their matrix and white point have fewer digits


def test_gray_has_no_color_and_the_lightness_of_its_own_function():
    gray = torch.linspace(-0.1, 1.1, 60).reshape(1, 1, 6, 10)
    lab = rgb_to_lab(gray.expand(1, 3, 6, 10))
    assert lab[:, 1:].abs().max() < 2e-4
    assert (lab[:, :1] - gray_to_l(gray)).abs().max() < 1e-4
    white = gray_to_l(torch.ones(1, 1, 1, 1))
    assert abs(float(white) - 100) < 1e-4


def test_all_of_srgb_fits_the_scale_of_ab():
    assert rgb_to_lab(cube())[:, 1:].abs().max() <= AB_SCALE


@pytest.mark.parametrize("convert", [rgb_to_lab, lab_to_rgb])
def test_gradients_are_finite_even_at_black(convert):
    picture = torch.zeros(1, 3, 2, 2, requires_grad=True)
    convert(picture).sum().backward()
    assert picture.grad.isfinite().all()
    assert picture.grad.abs().sum() > 0


def test_a_first_use_in_inference_mode_leaves_training_possible():
    lab._to_xyz.cache_clear()
    lab._from_xyz.cache_clear()
    with torch.inference_mode():
        lab_to_rgb(rgb_to_lab(torch.rand(1, 3, 2, 2)))
    picture = torch.rand(1, 3, 2, 2, requires_grad=True)
    lab_to_rgb(rgb_to_lab(picture)).sum().backward()
    assert picture.grad is not None
