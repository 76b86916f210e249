import numpy as np
import pytest
from evaluation.scenes import scene

from vidsr.errors import RequestError
from vidsr.evaluation.controls import noise_at, unsharp_at
from vidsr.evaluation.metrics import enlarge, line_steepness, psnr_y, shrink, to_picture, to_tensor


@pytest.fixture(scope="module")
def original() -> np.ndarray:
    return scene(120, 128)


@pytest.fixture(scope="module")
def fidelity(original) -> np.ndarray:
    return to_picture(enlarge(shrink(to_tensor(original), 2), 2))


@pytest.mark.parametrize("control", [unsharp_at, noise_at])
@pytest.mark.parametrize("loss", [0.05, 1.0, 4.0])
def test_the_psnr_is_the_target(control, loss, fidelity, original):
    target = psnr_y(fidelity, original, border=2) - loss
    output = control(fidelity, original, target, border=2)
    assert output.dtype == np.uint8
    assert psnr_y(output, original, border=2) == pytest.approx(target, abs=0.01)


def test_an_unsharp_mask_makes_lines_steeper(fidelity, original):
    target = psnr_y(fidelity, original, border=2) - 2
    sharper = unsharp_at(fidelity, original, target, border=2)
    before = line_steepness(fidelity, original, border=2)
    assert line_steepness(sharper, original, border=2) > before + 0.1


def test_noise_is_gray_and_the_same_for_a_seed(fidelity, original):
    target = psnr_y(fidelity, original, border=2) - 2
    first, again, other = (
        noise_at(fidelity, original, target, border=2, seed=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    added = first.astype(int) - fidelity
    unclipped = (first > 0).all(axis=2) & (first < 255).all(axis=2)
    assert (np.ptp(added, axis=2)[unclipped] == 0).all()


@pytest.mark.parametrize("control", [unsharp_at, noise_at])
def test_a_picture_that_is_no_better_than_the_target_stays(control, fidelity, original):
    target = psnr_y(fidelity, original, border=2) + 1
    assert np.array_equal(control(fidelity, original, target, border=2), fidelity)


@pytest.mark.parametrize("control", [unsharp_at, noise_at])
def test_a_target_below_what_clipping_allows_is_refused(control, fidelity, original):
    with pytest.raises(RequestError, match=r"0\.00 dB"):
        control(fidelity, original, 0.0, border=2)


def test_equal_pictures_can_be_brought_down_too(original):
    output = noise_at(original, original, 30.0, border=2)
    assert psnr_y(output, original, border=2) == pytest.approx(30, abs=0.01)
