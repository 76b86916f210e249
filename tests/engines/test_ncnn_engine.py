"""The ncnn engine: the contract of torch's, networks written down, and parts exact to the bit."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip("ncnn")

from vidsr.engines import ncnn_engine
from vidsr.engines.ncnn_engine import BLOCK, NcnnEngine, check_convertible
from vidsr.engines.ncnn_model import written
from vidsr.errors import DeviceError, ModelError
from vidsr.models.compact import Compact, CompactOptions
from vidsr.models.rrdb import RRDBNet, RRDBOptions
from vidsr.models.srgan import MSRResNet, SRGANGenerator, SRGANOptions
from vidsr.stages import Upscale, least_exact
from vidsr.tiling import Grid, Rect

NETWORKS = [
    *(Compact(CompactOptions(scale=scale, channels=8, blocks=2)) for scale in (2, 3, 4)),
    *(SRGANGenerator(SRGANOptions(scale=scale, channels=8, blocks=1)) for scale in (2, 3, 4)),
    SRGANGenerator(SRGANOptions(scale=4, channels=32, blocks=1)),  # enough for 9x9 in two
    *(MSRResNet(SRGANOptions(scale=scale, channels=8, blocks=1)) for scale in (2, 3, 4)),
    RRDBNet(RRDBOptions(scale=4, channels=8, blocks=1, growth=4)),
]


def name_of(network: nn.Module) -> str:
    return f"{type(network).__name__}-x{network.options.scale}-{network.options.channels}"


def psnr(ours: Tensor, exact: Tensor) -> float:
    return -10 * math.log10(max(float(((ours - exact) ** 2).mean()), 1e-12))


@pytest.fixture
def network() -> Compact:
    torch.manual_seed(0)
    return Compact(CompactOptions(scale=2, channels=8, blocks=2)).eval()


def engine_of(
    network: nn.Module, tile: tuple[int, int] = (12, 16), batch: int = 2, threads: int = 1
) -> NcnnEngine:
    return NcnnEngine(network, scale=2, tile=tile, batch=batch, threads=threads)


@pytest.mark.parametrize("network", NETWORKS, ids=name_of)
@pytest.mark.parametrize("tile", [(21, 30), (16, 16), (7, 5)], ids=str)
def test_every_network_gives_what_torch_gives(network: nn.Module, tile: tuple[int, int]) -> None:
    tiles = torch.rand(2, 3, *tile)
    engine = NcnnEngine(network.eval(), scale=network.options.scale, tile=tile, batch=2)
    with torch.inference_mode():
        exact = network(tiles)
    output = engine(tiles)
    assert output.dtype == engine.dtype == torch.float32
    assert output.shape == exact.shape
    assert psnr(output, exact) >= 60  # the bar; Winograd's way gives 110 and more
    check_convertible(network, network.options.scale)


def test_input_is_clamped_in_a_copy_and_output_is_not(network: Compact) -> None:
    tiles = torch.rand(2, 3, 12, 16) * 3 - 1
    before = tiles.clone()
    engine = engine_of(network)
    assert torch.equal(engine(tiles), engine(tiles.clamp(0, 1)))
    assert torch.equal(tiles, before)
    assert engine(torch.ones(2, 3, 12, 16)).max() > 1  # the residual adds to white


def test_tiles_may_be_views_in_any_memory_format(network: Compact) -> None:
    picture = torch.rand(1, 3, 40, 50).to(memory_format=torch.channels_last)
    engine = engine_of(network, batch=1)
    tile = picture[:, :, 5:17, 9:25]
    assert torch.equal(engine(tile), engine(tile.clone(memory_format=torch.contiguous_format)))


@pytest.mark.parametrize("batch", [1, 2])
def test_each_output_is_the_callers_alone(network: Compact, batch: int) -> None:
    engine = engine_of(network, batch=batch)
    first = engine(torch.zeros(batch, 3, 12, 16))
    kept = first.clone()
    with torch.inference_mode():
        for _ in range(3):
            engine(torch.ones(batch, 3, 12, 16)).add_(1)
    assert torch.equal(first, kept)


def test_resized_leaves_the_first_engine_alone(network: Compact) -> None:
    first = engine_of(network)
    tiles = torch.rand(2, 3, 12, 16)
    before = first(tiles)
    other = first.resized((5, 7), 1)
    assert other(torch.rand(1, 3, 5, 7)).shape == (1, 3, 10, 14)
    assert torch.equal(first(tiles), before)
    assert first.in_fp32() is first


def test_another_shape_is_refused_with_both_shapes(network: Compact) -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 12, 16\).*\(2, 3, 12, 16\)"):
        engine_of(network)(torch.rand(1, 3, 12, 16))


def test_engines_of_other_tiles_run_side_by_side(network: Compact) -> None:
    engine = engine_of(network, batch=1)
    sides = [16, 24, 40, 56]
    pictures = {side: torch.rand(1, 3, side, side) for side in sides}
    with torch.inference_mode():
        exact = {side: network(picture) for side, picture in pictures.items()}

    def error(turn: int) -> float:
        side = sides[turn % len(sides)]
        output = engine.resized((side, side), 1)(pictures[side])
        return float((output - exact[side]).abs().max())

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(error, range(200))) < 1e-5


def test_more_threads_change_no_bit(network: Compact) -> None:
    tiles = torch.rand(1, 3, 50, 61)
    one, two = (engine_of(network, (50, 61), 1, threads)(tiles) for threads in (1, 2))
    assert torch.equal(one, two)


# Parts of a picture


@pytest.mark.parametrize("network", [NETWORKS[0], NETWORKS[6]], ids=name_of)
def test_parts_at_whole_blocks_with_the_reach_of_blocks_are_exact(network: nn.Module) -> None:
    scale, halo = network.options.scale, network.reach * BLOCK
    engine = NcnnEngine(network.eval(), scale=scale, tile=(190, 210))
    grid = Grid(190, 210, 300, network.reach, 8)
    assert least_exact(engine, grid, halo) is not None
    picture = torch.rand(1, 3, 190, 210)
    seen = Rect(40, 24, 190, 207)
    whole, part = engine(picture), engine.resized(seen.shape, 1)(seen.of(picture))
    inside = Rect(40 + halo, 24 + halo, 190, 207 - halo)
    assert torch.equal(inside.of(whole, scale), inside.seen_from(seen).of(part, scale))


def test_a_stage_gives_the_same_pixels_in_parts() -> None:
    network = Compact(CompactOptions(scale=2, channels=8, blocks=2)).eval()
    halo = network.reach
    stage = Upscale(
        NcnnEngine(network, scale=2, tile=(120, 140)), halo=halo, overlap=4, tile=90, batch=1
    )
    picture = torch.rand(1, 3, 120, 140)
    whole = stage(picture).clone()
    assert stage._divides(Grid(120, 140, 90, halo, 4))
    for part in (Rect(33, 41, 47, 70), Rect(0, 0, 8, 8), Rect(110, 123, 120, 140)):
        assert torch.equal(part.of(stage(picture, [part]), 2), part.of(whole, 2)), part


# Networks that cannot be written down


class Other(nn.Module):
    """A convolution, and something after it."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, **{"padding": 1, **options})  # type: ignore[arg-type]

    def forward(self, tiles: Tensor) -> Tensor:
        return self.after(self.conv(tiles))

    def after(self, features: Tensor) -> Tensor:
        return F.pixel_shuffle(features, 2)


class Unknown(Other):
    def after(self, features: Tensor) -> Tensor:
        return F.pixel_shuffle(torch.fft.fft2(features).real, 2)


class Cubic(Other):
    def after(self, features: Tensor) -> Tensor:
        return F.interpolate(features[:, :3], scale_factor=2, mode="bicubic")


class Added(Other):
    def after(self, features: Tensor) -> Tensor:
        return super().after(features + torch.rand(12, 1, 1))


class Deaf(Other):
    def after(self, features: Tensor) -> Tensor:
        return torch.zeros(len(features), 3, 8, 8)


class Folded(Other):
    """Subtracts what no 16x24 picture has: not what it was on the picture it was written by."""

    def after(self, features: Tensor) -> Tensor:
        return super().after(features) * float(features.shape[-2])


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (Unknown(), "no layer for"),
        (Cubic(), "no layer for __getitem__"),
        (Added(), "add.* of what does not come from the input"),
        (Deaf(), "does not come from its input"),
        (Other(stride=2), "of every pixel"),
        (Other(padding=(1, 0)), "square convolutions"),
        (RRDBNet(RRDBOptions(scale=2, channels=8, blocks=1, growth=4)), "pixel_unshuffle"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_known_is_named(network: nn.Module, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        written(network.eval())


def test_a_network_that_depends_on_the_size_is_found_out() -> None:
    with pytest.raises(ModelError, match="ncnn changes what Folded computes"):
        check_convertible(Folded().eval(), 2)


def test_without_the_package_the_command_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncnn_engine.importlib.util, "find_spec", lambda _: None)
    assert ncnn_engine.version() == "no ncnn"
    with pytest.raises(DeviceError, match=r"pip install 'vidsr\[ncnn\]'"):
        ncnn_engine.precisions()
