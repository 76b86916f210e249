"""The networks of a plan: how they will be run."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family import add_families, ship_family, tiny_model, without_libraries

from vidsr.errors import DeviceError, ModelError, RequestError
from vidsr.models.load import load_mixed
from vidsr.networks import (
    EnginePlan,
    Room,
    fit_tile,
    open_stages,
    plan_color,
    plan_engine,
)
from vidsr.planning import Target
from vidsr.request import ColorRequest, EngineRequest
from vidsr.reuse import BLOCK
from vidsr.tiling import Grid


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return ship_family(monkeypatch, tmp_path / "weights", 2, 4)


@pytest.fixture
def families(family: Path) -> Path:
    return add_families(family)


def engine(size: tuple[int, int] = (48, 32), **words: object) -> EnginePlan:
    request = EngineRequest(device="cpu", **words)  # type: ignore[arg-type]
    return plan_engine(request, Fraction(2), size, cache_dir=None)


def test_an_engine_is_planned_for_a_small_picture_in_one_tile(family: Path) -> None:
    planned = engine()
    assert (planned.card.name, planned.precision, planned.device) == ("fast-x2", "fp32", "cpu")
    assert (planned.tile, planned.batch) == (48, 1)
    assert planned.threads >= 1
    assert planned.memory_bytes > 0


def test_the_model_of_the_device_is_planned_unless_another_is_named(
    families: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (engine().card.name, engine(model="photo").why) == ("fast-x2", "")
    assert engine().why.startswith("the default on a processor, --model photo")
    monkeypatch.setattr("vidsr.networks.open_device", lambda _: torch.device("cuda:0"))
    monkeypatch.setattr("vidsr.networks.free_memory", lambda _: 8 << 30)
    assert engine().card.name == "photo-x4"
    assert engine().why.startswith("the default on a GPU, --model anime")
    assert engine(model="fast").card.name == "fast-x2"


def test_on_a_gpu_the_picture_lies_beside_the_tile(
    family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidsr.networks.open_device", lambda _: torch.device("cuda:0"))
    monkeypatch.setattr("vidsr.networks.free_memory", lambda _: 64 << 20)
    request, size = EngineRequest(model="fast-x2"), (1920, 1080)
    alone, beside = (
        plan_engine(request, Fraction(2), size, cache_dir=None, room=Room(0, picture))
        for picture in (0, 60 << 20)
    )
    assert beside.tile < alone.tile


@pytest.mark.parametrize("name", ["openvino", "ncnn"])
def test_color_comes_from_the_processor_where_its_library_enlarges(
    name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidsr.engines.torch_engine.available_devices", lambda: ["cuda:0", "cpu"])
    monkeypatch.setattr("vidsr.networks.choose_colorizer", lambda _: None)
    monkeypatch.setattr("vidsr.networks.check", lambda _: None)
    assert plan_color(ColorRequest(), EngineRequest(engine=name)).engine.device == "cpu"
    assert plan_color(ColorRequest(), EngineRequest()).engine.device == "cuda:0"
    with pytest.raises(RequestError, match="computes on the processor"):
        plan_color(ColorRequest(), EngineRequest(engine=name, device="cuda:0"))


def test_an_engine_plan_says_what_is_mixed(families: Path) -> None:
    planned = engine(model="photo", fidelity=0.5)
    assert planned.weights.fidelity == 0.5
    ours, theirs = (load_mixed(replace(planned.weights, fidelity=share)) for share in (1.0, 0.0))
    for key, value in load_mixed(planned.weights).state_dict().items():
        torch.testing.assert_close(value, (ours.state_dict()[key] + theirs.state_dict()[key]) / 2)


@pytest.mark.parametrize("model", ["photo", "photo-x4"])
def test_a_twin_of_another_network_is_refused_in_the_plan(families: Path, model: str) -> None:
    tiny_model(families, "photo-x4-perceptual", scale=4, channels=6)
    with pytest.raises(ModelError, match=r"body\.0\.bias is \(6,\) here and \(4,\) there"):
        engine(model=model)
    assert engine(model=model, fidelity=1.0).card.name == "photo-x4"


def test_a_twin_that_is_not_that_of_its_card_is_refused_in_the_plan(families: Path) -> None:
    with (families / "photo-x4-perceptual.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match=r"perceptual\.safetensors: the weights are not those of"):
        engine(model="photo")


@pytest.mark.parametrize("size", [(1, 1), (48, 32), (1920, 1080), (4000, 16)])
def test_an_engine_fitted_to_another_size_is_the_one_planned_for_it(
    family: Path, size: tuple[int, int]
) -> None:
    fitted, planned = fit_tile(engine((48, 32)), size), engine(size)
    assert (fitted.tile, fitted.batch) == (planned.tile, planned.batch)
    assert fitted.memory_bytes * planned.workers == planned.memory_bytes
    assert fitted.weights == planned.weights


def test_what_parts_are_exact_is_tried_out_once_for_a_machine(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[tuple[int, int]] = []

    def least_exact(engine: object, grid: Grid, halo: int) -> int:
        tries.append(grid.shape)
        return 96

    monkeypatch.setattr("vidsr.networks.least_exact", least_exact)
    without_libraries(monkeypatch)

    def part_of(cache_dir: Path | None, size: tuple[int, int] = (320, 128)) -> object:
        request = EngineRequest(device="cpu", precision="fp32", tile=320)
        planned = plan_engine(request, Fraction(2), size, cache_dir=cache_dir)
        (stage,) = open_stages(
            planned, Target(2 * size[0], 2 * size[1], Fraction(2), square_pixels=False)
        )
        changed = np.zeros((size[1] // BLOCK, size[0] // BLOCK), dtype=bool)
        changed[0, 0] = True
        return stage.affected(changed, (size[1], size[0]), 0)

    assert part_of(tmp_path) == part_of(tmp_path)
    assert tries == [(128, 320)]
    part_of(tmp_path, (320, 160))
    assert tries == [(128, 320), (160, 320)]
    (tmp_path / "parts.json").write_text("{}")
    part_of(tmp_path)
    part_of(None)
    assert len(tries) == 4


def test_a_tile_below_halo_and_overlap_is_refused_with_the_least(family: Path) -> None:
    # halo 3 a side, overlap 16, and 16 pixels that are kept
    with pytest.raises(RequestError, match=r"--tile 32 is too small.*38 is the least"):
        engine((640, 360), tile=32)
    assert engine((640, 360), tile=38).tile == 38


def test_a_tile_as_large_as_a_tiny_picture_is_always_enough(family: Path) -> None:
    assert engine((20, 18), tile=20).tile == 20


def test_weights_that_are_not_those_of_the_card_are_refused(family: Path) -> None:
    with (family / "fast-x2.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match="the weights are not those of the card"):
        engine()


def test_an_unknown_device_is_answered_with_those_there_are(family: Path) -> None:
    with pytest.raises(DeviceError, match=r"'tpu' here; choose --device auto or .*cpu"):
        plan_engine(EngineRequest(device="tpu"), Fraction(2), (48, 32), cache_dir=None)


def test_the_tile_shrinks_to_the_free_memory(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = engine((1920, 1080))
    monkeypatch.setattr("vidsr.networks.free_memory", lambda _: 8 << 20)
    assert engine((1920, 1080)).tile < roomy.tile
    assert engine((1920, 1080)).memory_bytes <= 8 << 20
