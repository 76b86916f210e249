"""The networks of a plan: which are chosen, and how they will be run."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from family import ship_family, tiny_model, tiny_twins, without_libraries

from vidsr.errors import DeviceError, ModelError, RequestError
from vidsr.models.card import shipped_cards
from vidsr.models.load import load_mixed
from vidsr.networks import (
    EnginePlan,
    choose_model,
    choose_weights,
    default_family,
    family_of,
    fit_tile,
    open_stages,
    plan_engine,
)
from vidsr.planning import Target
from vidsr.request import EngineRequest
from vidsr.reuse import BLOCK
from vidsr.tiling import Grid


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return ship_family(monkeypatch, tmp_path / "weights", 2, 4)


@pytest.mark.parametrize(
    ("factor", "member"),
    [
        (Fraction(1, 2), "fast-x2"),
        (Fraction(2), "fast-x2"),
        (Fraction(1706, 720), "fast-x4"),
        (Fraction(3), "fast-x4"),
        (Fraction(4), "fast-x4"),
    ],
)
def test_the_smallest_member_that_reaches_the_factor_is_taken(
    family: Path, factor: Fraction, member: str
) -> None:
    card, weights = choose_model("fast", factor)
    assert card.name == member
    assert weights == family / f"{member}.safetensors"


def test_a_named_member_is_taken_even_if_a_smaller_one_would_do(family: Path) -> None:
    assert choose_model("fast-x4", Fraction(2))[0].name == "fast-x4"


def test_a_factor_beyond_the_family_is_refused_with_the_largest(family: Path) -> None:
    with pytest.raises(RequestError, match=r"fast-x4 enlarges 4 times at most, 4\.5.*--scale 4"):
        choose_model("fast", Fraction(9, 2))


def test_a_factor_beyond_a_named_member_is_refused(family: Path) -> None:
    with pytest.raises(RequestError, match="fast-x2 enlarges 2 times at most"):
        choose_model("fast-x2", Fraction(3))


def test_a_checkpoint_is_described_by_its_card_or_by_its_tensors(tmp_path: Path) -> None:
    path = tiny_model(tmp_path, "mine", scale=2)
    with_card, _ = choose_model(str(path), Fraction(2))
    path.with_suffix(".json").unlink()
    without_card, weights = choose_model(str(path), Fraction(2))
    assert weights == path
    assert (without_card.name, without_card.scale, without_card.network) == ("mine", 2, "compact")
    assert replace(without_card, half=False) == with_card


def test_an_unknown_model_is_answered_with_near_names(family: Path) -> None:
    with pytest.raises(ModelError, match=r"'fsat-x4'; did you mean fast-x[24]"):
        choose_model("fsat-x4", Fraction(2))


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.pth: cannot read the weights"):
        choose_model(str(tmp_path / "gone.pth"), Fraction(2))


@pytest.fixture
def families(family: Path) -> Path:
    """Beside fast-x2 and fast-x4: anime-x4, and photo-x4 with a perceptual twin."""
    tiny_model(family, "anime-x4", scale=4)
    tiny_twins(family, "photo-x4", scale=4, fidelity=0.75)
    return family


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_without_a_model_a_gpu_takes_photo(families: Path, device: str) -> None:
    family, why = default_family(device, shipped_cards(), Fraction(4))
    assert family == "photo"
    assert why == (
        "the default on a GPU, --model anime for better drawings, --model fast for speed"
    )


def test_without_a_model_a_processor_takes_fast_and_names_the_better_ones(families: Path) -> None:
    family, why = default_family("cpu", shipped_cards(), Fraction(2))
    assert family == "fast"
    assert why == (
        "the default on a processor, --model photo for better film and photographs, "
        "--model anime for better drawings"
    )


def test_only_families_that_ship_and_reach_the_factor_are_taken_or_named(family: Path) -> None:
    assert default_family("cuda", shipped_cards(), Fraction(4)) == ("fast", "the default on a GPU")
    tiny_model(family, "photo-x2", scale=2)
    assert default_family("cuda", shipped_cards(), Fraction(2))[0] == "photo"
    assert default_family("cuda", shipped_cards(), Fraction(3)) == ("fast", "the default on a GPU")


def test_a_family_is_its_members_by_scale_and_has_no_twin_in_it(families: Path) -> None:
    tiny_model(families, "photo-x2", scale=2)
    assert [card.name for card in family_of("photo")] == ["photo-x2", "photo-x4"]
    assert family_of("photo-x4") == family_of("photo-x4-perceptual") == family_of("") == []


def test_a_twin_is_never_the_member_of_its_family(families: Path) -> None:
    assert choose_model("photo", Fraction(3))[0].name == "photo-x4"
    with pytest.raises(RequestError, match="photo-x4 enlarges 4 times at most"):
        choose_model("photo", Fraction(5))


def test_the_fidelity_is_the_card_s_unless_asked(families: Path) -> None:
    by_default = choose_weights("photo", Fraction(4), None)
    assert (by_default.card.name, by_default.fidelity) == ("photo-x4", 0.75)
    assert by_default.twin is not None
    assert by_default.twin.path == families / "photo-x4-perceptual.safetensors"
    assert choose_weights("photo-x4", Fraction(4), 0.0).fidelity == 0
    assert choose_weights("photo", Fraction(2), 1.0).fidelity == 1


def test_a_model_without_perceptual_weights_is_whole(families: Path) -> None:
    weights = choose_weights("fast", Fraction(2), None)
    assert (weights.twin, weights.fidelity) == (None, 1.0)


@pytest.mark.parametrize("model", ["fast", "fast-x4", "photo-x4-perceptual"])
@pytest.mark.parametrize("fidelity", [0.0, 0.5, 1.0])
def test_a_fidelity_for_a_model_without_perceptual_weights_is_refused(
    families: Path, model: str, fidelity: float
) -> None:
    with pytest.raises(RequestError, match=r"--fidelity .*has no perceptual weights to mix with"):
        choose_weights(model, Fraction(2), fidelity)


def test_a_twin_works_by_its_own_name(families: Path) -> None:
    weights = choose_weights("photo-x4-perceptual", Fraction(4), None)
    assert (weights.card.name, weights.twin, weights.fidelity) == ("photo-x4-perceptual", None, 1)


def test_a_twin_that_the_card_needs_and_that_is_missing_is_said(families: Path) -> None:
    (families / "photo-x4-perceptual.safetensors").unlink()
    with pytest.raises(ModelError, match=r"photo-x4\.safetensors: .*perceptual.*are missing"):
        choose_weights("photo", Fraction(4), None)


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
