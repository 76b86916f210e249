"""Which weights answer to a name."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from family import add_families, ship_family, tiny_model

from vidsr.errors import ModelError, RequestError
from vidsr.models.card import shipped_cards
from vidsr.models.families import (
    choose_model,
    choose_weights,
    default_family,
    family_of,
    largest_scale,
)


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


@pytest.mark.parametrize(("name", "scale"), [("fast", 4), ("fast-x2", 2), ("fast-x4", 4)])
def test_the_largest_scale_is_the_members_or_the_familys(
    family: Path, name: str, scale: int
) -> None:
    assert largest_scale(name) == scale
    if name != "fast":
        assert largest_scale(str(family / f"{name}.safetensors")) == scale


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
    return add_families(family)


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
