"""The OpenVINO engine: the contract of torch's, the converted network, the store, how it fails."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("openvino")

from vidsr.engines import openvino_engine
from vidsr.engines.openvino_engine import (
    OpenVINOEngine,
    Store,
    check_convertible,
    convert,
    precisions,
)
from vidsr.engines.precision import Precision
from vidsr.errors import DeviceError, ModelError, OutOfMemory
from vidsr.models.compact import Compact, CompactOptions
from vidsr.models.rrdb import RRDBNet, RRDBOptions
from vidsr.models.srgan import MSRResNet, SRGANGenerator, SRGANOptions
from vidsr.stages import Upscale

NETWORKS = [
    *(Compact(CompactOptions(scale=scale, channels=8, blocks=2)) for scale in (2, 3, 4)),
    *(SRGANGenerator(SRGANOptions(scale=scale, channels=8, blocks=1)) for scale in (2, 3, 4)),
    *(MSRResNet(SRGANOptions(scale=scale, channels=8, blocks=1)) for scale in (2, 3, 4)),
    *(RRDBNet(RRDBOptions(scale=scale, channels=8, blocks=1, growth=4)) for scale in (1, 2, 4)),
]


def name_of(network: nn.Module) -> str:
    return f"{type(network).__name__}-x{network.options.scale}"


def engine_of(
    network: nn.Module,
    precision: Precision = "fp32",
    tile: tuple[int, int] = (12, 16),
    batch: int = 2,
    store: Store | None = None,
) -> OpenVINOEngine:
    return OpenVINOEngine(
        network, scale=2, precision=precision, tile=tile, batch=batch, store=store
    )


def psnr(ours: Tensor, exact: Tensor) -> float:
    return -10 * math.log10(max(float(((ours.float() - exact) ** 2).mean()), 1e-12))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return Compact(CompactOptions(scale=2, channels=8, blocks=2)).eval()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache" / "openvino", "these weights")


@pytest.mark.parametrize("network", NETWORKS, ids=name_of)
def test_every_network_gives_what_torch_gives(network: nn.Module) -> None:
    scale, tiles = network.options.scale, torch.rand(2, 3, 21, 30)
    engine = OpenVINOEngine(network.eval(), scale=scale, precision="fp32", tile=(21, 30), batch=2)
    with torch.inference_mode():
        exact = network(tiles)
    output = engine(tiles)
    assert output.dtype == engine.dtype == torch.float32
    assert psnr(output, exact) >= 60  # the bar; other orders of addition give 120 and more
    check_convertible(network, scale)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_where_the_processor_has_it(
    network: nn.Module, precision: Precision
) -> None:
    if precision not in precisions():
        pytest.skip(f"OpenVINO lists no {precision} on this processor")
    tiles = torch.rand(2, 3, 12, 16)
    engine = engine_of(network, precision)
    assert engine.dtype != torch.float32  # so that stages look for what is not finite
    with torch.inference_mode():
        assert psnr(engine(tiles), network(tiles)) >= 45
    assert torch.equal(engine.in_fp32()(tiles), engine_of(network)(tiles))


def test_input_is_clamped_in_a_copy_and_output_is_not(network: nn.Module) -> None:
    tiles = torch.rand(2, 3, 12, 16) * 3 - 1
    before = tiles.clone()
    engine = engine_of(network)
    assert torch.equal(engine(tiles), engine(tiles.clamp(0, 1)))
    assert torch.equal(tiles, before)
    assert engine(torch.ones(2, 3, 12, 16)).max() > 1  # the residual adds to white


def test_tiles_may_be_views_in_any_memory_format(network: nn.Module) -> None:
    picture = torch.rand(1, 3, 40, 50).to(memory_format=torch.channels_last)
    engine = engine_of(network, batch=1)
    tile = picture[:, :, 5:17, 9:25]
    assert torch.equal(engine(tile), engine(tile.clone(memory_format=torch.contiguous_format)))


def test_each_output_is_the_callers_alone(network: nn.Module) -> None:
    engine = engine_of(network)
    first = engine(torch.zeros(2, 3, 12, 16))
    kept = first.clone()
    with torch.inference_mode():
        engine(torch.ones(2, 3, 12, 16)).add_(1)
    assert torch.equal(first, kept)


def test_resized_leaves_the_first_engine_alone(network: nn.Module) -> None:
    first = engine_of(network)
    tiles = torch.rand(2, 3, 12, 16)
    before = first(tiles)
    other = first.resized((5, 7), 1)
    assert other(torch.rand(1, 3, 5, 7)).shape == (1, 3, 10, 14)
    assert torch.equal(first(tiles), before)


def test_another_shape_is_refused_with_both_shapes(network: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 12, 16\).*\(2, 3, 12, 16\)"):
        engine_of(network)(torch.rand(1, 3, 12, 16))


def test_workers_compile_and_compute_side_by_side(network: nn.Module) -> None:
    tiles = torch.rand(2, 3, 12, 16)
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda _: engine_of(network)(tiles), range(4)))
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_engines_of_other_tiles_run_side_by_side(network: nn.Module) -> None:
    first = engine_of(network, tile=(40, 50), batch=1)
    sides = [(40, 50), (33, 21), (12, 44), (28, 28)]
    with torch.inference_mode():
        pictures = [torch.rand(1, 3, *side) for side in sides]
        exact = [network(picture) for picture in pictures]

    def worst(number: int) -> float:
        number %= len(sides)
        output = first.resized(sides[number], 1)(pictures[number])
        return float((output - exact[number]).abs().max())

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(worst, range(400))) < 1e-5


def test_tiles_are_blended_as_from_torch(network: nn.Module) -> None:
    picture = torch.rand(1, 3, 60, 44)
    stage = Upscale(engine_of(network, batch=1), halo=4, overlap=4, tile=32, batch=1)
    with torch.inference_mode():
        assert psnr(stage(picture), network(picture)) >= 60


def test_a_compiled_model_is_kept_and_gives_the_same_bits(
    network: nn.Module, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = torch.rand(2, 3, 12, 16)
    fresh = engine_of(network, store=store)(tiles)
    monkeypatch.setattr(openvino_engine, "convert", pytest.fail)
    assert torch.equal(engine_of(network, store=store)(tiles), fresh)


def test_other_weights_and_other_batches_are_kept_apart(network: nn.Module, store: Store) -> None:
    engine_of(network, store=store)(torch.rand(2, 3, 12, 16))
    engine_of(network, tile=(9, 9), store=store)(torch.rand(2, 3, 9, 9))
    assert len(list(store.folder.iterdir())) == 1
    engine_of(network, batch=1, store=store)(torch.rand(1, 3, 12, 16))
    engine_of(network, store=Store(store.folder, "others"))(torch.rand(2, 3, 12, 16))
    assert len(list(store.folder.iterdir())) == 3


def test_all_shapes_run_on_one_compiled_model_and_give_the_same_pixels(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = engine_of(network, tile=(40, 50), batch=1)
    picture = torch.rand(1, 3, 40, 50)
    expected = whole(picture)
    monkeypatch.setattr(openvino_engine, "convert", pytest.fail)
    for top, left, height, width in ((0, 0, 30, 30), (3, 7, 33, 41), (10, 1, 24, 48)):
        part = whole.resized((height, width), 1)
        output = part(picture[:, :, top : top + height, left : left + width])
        inside = output[
            :, :, 2 * network.reach : -2 * network.reach, 2 * network.reach : -2 * network.reach
        ]
        rows = slice(2 * (top + network.reach), 2 * (top + height - network.reach))
        columns = slice(2 * (left + network.reach), 2 * (left + width - network.reach))
        assert torch.equal(inside, expected[:, :, rows, columns])
    assert torch.equal(whole(picture), expected)


@pytest.mark.parametrize("damage", ["empty", "cut", "altered", "of something else"])
def test_a_broken_store_is_rebuilt(network: nn.Module, store: Store, damage: str) -> None:
    tiles = torch.rand(2, 3, 12, 16)
    fresh = engine_of(network, store=store)(tiles)
    (file,) = store.folder.iterdir()
    kind, whole = "2 pictures of any size, fp32", file.read_bytes()
    if damage == "of something else":
        store.write(kind, b"no model at all" * 100)
    else:
        altered = bytearray(whole)
        altered[len(altered) // 2] ^= 1
        file.write_bytes({"empty": b"", "cut": whole[:999], "altered": bytes(altered)}[damage])
    assert torch.equal(engine_of(network, store=store)(tiles), fresh)
    rebuilt = store.read(kind)
    assert rebuilt is not None
    assert rebuilt[:15] != b"no model at all"


def test_a_store_that_cannot_be_written_is_worked_without(
    network: nn.Module, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")  # a folder cannot be made below a file, not even by root
    store = Store(blocked / "openvino", "these weights")
    assert engine_of(network, store=store)(torch.rand(2, 3, 12, 16)).shape == (2, 3, 24, 32)


def test_the_store_keeps_the_latest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_engine, "MOST_KEPT", 2)
    for number in range(5):
        store.write(str(number), b"a model")
    assert len(list(store.folder.iterdir())) == 2
    assert store.read("4") == b"a model"


class Sorts(nn.Module):
    """Something that OpenVINO does not know."""

    def forward(self, tiles: Tensor) -> Tensor:
        return torch.linalg.svd(tiles)[1] + tiles.mean()


class Cheats(nn.Module):
    """What a trace cannot hold: the way that is taken depends on the size."""

    def forward(self, tiles: Tensor) -> Tensor:
        return tiles * (2 if tiles.shape[-1] == 8 else 3)


@pytest.mark.parametrize("network", [Sorts(), Cheats()], ids=["unknown", "untraceable"])
def test_a_network_that_cannot_be_converted_is_a_model_error(network: nn.Module) -> None:
    with pytest.raises(ModelError, match=rf"OpenVINO .*{type(network).__name__}"):
        check_convertible(network, 1)


def test_a_full_memory_is_out_of_memory(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(network)

    def fail() -> None:  # as OpenVINO said it under a limit of memory
        raise RuntimeError("Exception from src/core/src/runtime/allocator.cpp:79:\nstd::bad_alloc")

    monkeypatch.setattr(engine._model, "_compiled", fail)
    with pytest.raises(OutOfMemory):
        engine(torch.rand(2, 3, 12, 16))


def test_fp32_is_always_listed_first() -> None:
    assert precisions()[0] == "fp32"


def test_without_the_package_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_engine, "installed", lambda: False)
    with pytest.raises(DeviceError, match=r"pip install 'vidsr\[openvino\]'"):
        precisions()


def test_converting_reports_to_nobody(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry = pytest.importorskip("openvino_telemetry")
    monkeypatch.setattr(telemetry.Telemetry, "init", pytest.fail)
    monkeypatch.setattr(telemetry.Telemetry, "send_event", pytest.fail)
    convert(network, 1)
