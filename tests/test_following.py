"""Reuse along the motion: near the whole, never further for long, and the same on any worker."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vidsr.engines.torch_engine import TorchEngine
from vidsr.following import RUN, Follow
from vidsr.models.compact import Compact, CompactOptions
from vidsr.stages import Upscale

pytest.importorskip("cv2")
CPU = torch.device("cpu")
SIZE = (64, 96)
NEAR = 40  # dB; a trained network enlarges more smoothly and comes to 50


def follow(error: float = 4.0) -> Follow:
    torch.manual_seed(0)
    network = Compact(CompactOptions(scale=2, channels=8, blocks=2)).eval()
    with torch.no_grad():  # near its enlargement of the input, as a trained one is
        for weight in network.body[-1].parameters():
            weight.mul_(0.1)
    engine = TorchEngine(network, scale=2, device=CPU, precision="fp32", tile=(96, 96))
    upscale = Upscale(engine, halo=4, overlap=4, tile=96, batch=1, part_halo=2)
    return Follow(upscale, error=error)


def scene(seed: int = 0) -> Tensor:
    """A smooth picture that is larger than what is seen of it."""
    noise = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, size=(128, 192), mode="bicubic").clamp(0, 1)


def seen(number: int, picture: Tensor) -> Tensor:
    """The scene from a camera that moves two pixels a picture."""
    return picture[..., 10 : 10 + SIZE[0], 2 * number : 2 * number + SIZE[1]].contiguous()


def psnr(ours: Tensor, theirs: Tensor) -> float:
    return float(-10 * torch.log10((ours - theirs).square().mean() + 1e-12))


def test_what_moves_is_carried_and_stays_near_what_the_network_gives() -> None:
    stage, alone, picture = follow(), follow(), scene()
    for number in range(2 * RUN):
        alone.reset()
        ours, whole = stage(seen(number, picture)), alone(seen(number, picture))
        assert psnr(ours, whole) > NEAR
    assert 2 <= stage.counters.computed < RUN


def test_the_first_of_every_run_is_computed_whole() -> None:
    stage, alone, picture = follow(error=1e9), follow(), scene()
    for number in range(2 * RUN + 1):
        ours, computed = stage(seen(number, picture)), stage.counters.computed
        alone.reset()
        whole = alone(seen(number, picture))
        assert computed == 1 + number // RUN
        assert torch.equal(ours, whole) == (number % RUN == 0)


def test_a_cut_is_computed_whole() -> None:
    stage, alone = follow(), follow()
    stage(seen(0, scene(1)))
    assert torch.equal(stage(seen(0, scene(2))), alone(seen(0, scene(2))))
    assert stage.counters.computed == 2


def test_a_picture_that_stays_keeps_its_result() -> None:
    stage, picture = follow(), seen(0, scene())
    first = stage(picture)
    torch.testing.assert_close(stage(picture), first, rtol=0, atol=1e-5)
    assert stage.counters.computed == 1


def test_only_what_is_new_is_computed() -> None:
    stage, alone, picture = follow(), follow(), seen(0, scene())
    stage(picture)
    new = picture.clone()
    new[..., 16:32, 32:48] = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    ours, whole = stage(new), alone(new)
    assert 0 < stage.counters.computed - 1 < 0.5
    assert psnr(ours[..., 36:60, 68:92], whole[..., 36:60, 68:92]) > 50
    assert psnr(ours, whole) > NEAR


def test_after_a_reset_nothing_is_remembered() -> None:
    stage, alone = follow(), follow()
    stage(seen(0, scene()))
    stage.reset()
    assert torch.equal(stage(seen(1, scene())), alone(seen(1, scene())))
