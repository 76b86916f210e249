import math

import pytest
import torch

from vidsr.evaluation.metrics import shrink
from vidsr.training.degradation import DAMAGES, KERNELS, Dice, degrade, reduce, sharpened


def smooth_picture(height=144, width=160):
    """Waves that a reduction by 2 keeps."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = [torch.sin(x / 9 + k) * torch.cos(y / 11 - k) for k in range(3)]
    return ((torch.stack(waves) + 1) * 120 + 7).to(torch.uint8)


def test_one_seed_gives_the_same_picture():
    picture = smooth_picture()
    for seed in range(8):
        first, second = (degrade(picture, 2, torch.Generator().manual_seed(seed)) for _ in range(2))
        assert torch.equal(first, second)


def test_the_damage_is_mild_and_differs():
    picture = smooth_picture()
    clean = shrink(picture[None].float() / 255, 2)[0] * 255
    damaged = [degrade(picture, 2, torch.Generator().manual_seed(seed)) for seed in range(24)]
    assert {tuple(one.shape) for one in damaged} == {(3, 72, 80)}
    assert {one.dtype for one in damaged} == {torch.uint8}
    psnr = [10 * math.log10(255**2 / float((one - clean).square().mean())) for one in damaged]
    # 24 dB: half the size and back, then CRF 32; 60 dB would be nothing but rounding.
    assert min(psnr) > 24
    assert max(psnr) - min(psnr) > 6


def test_video_is_damaged_more_than_the_mix():
    picture = smooth_picture()
    clean = shrink(picture[None].float() / 255, 2)[0] * 255

    def mean_error(damage):
        seeds = (torch.Generator().manual_seed(seed) for seed in range(24))
        damaged = (degrade(picture, 2, seed, DAMAGES[damage]) for seed in seeds)
        return sum(float((one - clean).abs().mean()) for one in damaged) / 24

    assert mean_error("video") > 1.05 * mean_error("mixed")


def test_a_sharpened_edge_is_steeper_and_flat_areas_stay():
    edge = torch.full((1, 3, 32, 32), 0.3)
    edge[..., 16:] = 0.6
    sharp = sharpened(edge, 0.3)
    assert sharp[..., 16].min() - sharp[..., 15].max() > 0.3 * 1.2
    torch.testing.assert_close(sharp[..., :8], edge[..., :8])
    torch.testing.assert_close(sharpened(edge, 0.0), edge)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_keeps_the_mean_and_the_place(kernel):
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 32, 64)
    smaller = reduce(ramp, (8, 16), kernel)
    expected = torch.linspace(0, 1, 64).reshape(16, 4).mean(dim=1)
    # The filters differ at the border, where they have less to read.
    torch.testing.assert_close(smaller[0, 0, 4, 3:-3], expected[3:-3], atol=1e-4, rtol=0)


def test_small_pictures_are_degraded_without_the_codecs_that_need_more():
    for seed in range(12):
        damaged = degrade(smooth_picture(24, 24), 2, torch.Generator().manual_seed(seed))
        assert damaged.shape == (3, 12, 12)


def test_bicubic_is_drawn_two_times_of_three():
    dice = Dice(torch.Generator().manual_seed(0))
    drawn = [dice.kernel() for _ in range(600)]
    # Binomial with two thirds: 5 standard deviations.
    assert abs(drawn.count("bicubic") - 400) < 58
    assert set(drawn) == set(KERNELS)
