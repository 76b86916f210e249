import dataclasses
import json
import pickle

import pytest
import torch

from vidsr import errors
from vidsr.errors import ModelError
from vidsr.models import card as card_module
from vidsr.models.card import ModelCard, find_card, sha256_of, shipped_cards, weights_dir
from vidsr.models.load import Weights, check, find_twin, load, read_state, resolve

CARD = ModelCard(
    name="fast-x4",
    network="compact",
    sizes={"channels": 32, "blocks": 8},
    scale=4,
    halo=10,
    half=True,
    sha256="0" * 64,
    summary="größer",
    measured={"Set5": {"psnr_y": 31.1}},
)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A weights folder with two cards, in place of the shipped one."""
    for name in ("fast-x4", "fast-x2"):
        dataclasses.replace(CARD, name=name).write(tmp_path / f"{name}.json")
    monkeypatch.setattr(card_module, "weights_dir", lambda: tmp_path)
    return tmp_path


def test_a_card_survives_being_written_and_read(tmp_path):
    CARD.write(tmp_path / "card.json")
    assert ModelCard.read(tmp_path / "card.json") == CARD
    assert (tmp_path / "card.json").read_text(encoding="utf-8").endswith("}\n")


def test_a_card_without_a_fidelity_is_all_fidelity(tmp_path):
    content = dataclasses.asdict(CARD)
    del content["fidelity"]
    (tmp_path / "card.json").write_text(json.dumps(content))
    assert ModelCard.read(tmp_path / "card.json").fidelity == 1


def test_a_card_without_a_task_upscales(tmp_path):
    content = dataclasses.asdict(CARD)
    del content["task"]
    (tmp_path / "card.json").write_text(json.dumps(content))
    assert ModelCard.read(tmp_path / "card.json").task == "upscale"


def test_a_fidelity_may_be_a_whole_number(tmp_path):
    (tmp_path / "card.json").write_text(json.dumps(dataclasses.asdict(CARD) | {"fidelity": 0}))
    assert ModelCard.read(tmp_path / "card.json").fidelity == 0


@pytest.mark.parametrize(
    ("name", "family", "is_twin"),
    [
        ("photo-x4", "photo", False),
        ("my-own-x2", "my-own", False),
        ("photo-x4-perceptual", None, True),
        ("mine", None, False),
        ("-x4", None, False),
        ("photo-x", None, False),
    ],
)
def test_a_name_tells_the_family_and_a_twin_is_in_none(name, family, is_twin):
    card = dataclasses.replace(CARD, name=name)
    assert (card.family, card.is_twin) == (family, is_twin)


def test_a_card_survives_pickling():
    assert pickle.loads(pickle.dumps(CARD)) == CARD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "blue"}, "unknown fields colour"),
        ({"scale": "4"}, "scale is '4', which is no int"),
        ({"sizes": None}, "sizes is None"),
        ({"task": "paint"}, "task 'paint' with scale 4 does not exist"),
        ({"task": "colorize"}, "task 'colorize' with scale 4 does not exist"),
        ({"fidelity": "much"}, "fidelity is 'much', which is no float"),
        ({"fidelity": 1.1}, r"fidelity is 1\.1, not between 0 and 1"),
        ({"fidelity": -0.1}, r"fidelity is -0\.1, not between 0 and 1"),
        ({"fidelity": float("nan")}, "fidelity is nan, not between 0 and 1"),
    ],
)
def test_unknown_and_ill_typed_fields_are_named(tmp_path, change, message):
    (tmp_path / "card.json").write_text(json.dumps(dataclasses.asdict(CARD) | change))
    with pytest.raises(ModelError, match=message):
        ModelCard.read(tmp_path / "card.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"name": "x"}', "lacks half, halo, network"),
        (b"[1, 2]", "no JSON object"),
        (b"not json", "is not a model card"),
        (b"\xff\xfe\x00", "is not a model card"),
    ],
)
def test_what_is_no_card_is_said_to_be_none(tmp_path, content, message):
    (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        ModelCard.read(tmp_path / "card.json")


def test_a_missing_card_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"gone\.json: cannot read"):
        ModelCard.read(tmp_path / "gone.json")
    with pytest.raises(ModelError, match="cannot read"):
        ModelCard.read(tmp_path)  # a folder


def test_cards_are_found_by_name(shelf):
    assert find_card("fast-x2").name == "fast-x2"
    assert [card.name for card in shipped_cards()] == ["fast-x2", "fast-x4"]


def test_a_twin_is_listed_after_its_model(shelf):
    for name in ("fast-x4-perceptual", "fast-x2-perceptual"):
        dataclasses.replace(CARD, name=name).write(shelf / f"{name}.json")
    names = [card.name for card in shipped_cards()]
    assert names == ["fast-x2", "fast-x2-perceptual", "fast-x4", "fast-x4-perceptual"]


def test_an_unknown_name_suggests_near_ones(shelf):
    with pytest.raises(ModelError, match="'fast-4x'; did you mean fast-x4"):
        find_card("fast-4x")
    with pytest.raises(ModelError, match="there are fast, fast-x2, fast-x4"):
        find_card("zzz")


def test_a_name_cannot_lead_out_of_the_weights_folder(shelf):
    (shelf / "inner").mkdir()
    CARD.write(shelf / "inner" / "hidden.json")
    with pytest.raises(ModelError, match="unknown model"):
        find_card("inner/hidden")


def test_no_models_at_all_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(card_module, "weights_dir", lambda: tmp_path)
    with pytest.raises(ModelError, match="none are in"):
        find_card("fast-x4")


def test_the_weights_folder_lies_in_the_package_or_beside_it():
    assert weights_dir().name == "weights"


def test_an_unreadable_file_has_no_hash(tmp_path):
    with pytest.raises(ModelError, match="cannot read the weights"):
        sha256_of(tmp_path / "gone.safetensors")


# What ships.

SHIPPED = [card.name for card in shipped_cards()]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_those_of_a_complete_card(name):
    card, path = resolve(name)
    assert path.stem == card.name == name
    assert sha256_of(path) == card.sha256
    assert card.summary
    assert card.trained_on
    assert card.license
    assert card.measured
    needed = {
        "upscale": {"psnr_y", "ssim_y", "bicubic_psnr_y", "bicubic_ssim_y"},
        "colorize": {"psnr_rgb", "ciede2000", "gray_psnr_rgb", "gray_ciede2000"},
    }
    for figures in card.measured.values():
        assert needed[card.task] <= figures.keys()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_small_and_of_one_float_type(name):
    card, path = resolve(name)
    assert path.stat().st_size <= (16e6 if card.task == "colorize" else 8e6)
    kinds = {tensor.dtype for tensor in read_state(path).values()}
    assert kinds in ({torch.float32}, {torch.float16})
    assert getattr(load(card, path).options, "scale", 1) == card.scale


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_and_its_twin_are_of_one_network(name):
    card, path = resolve(name)
    twin = find_twin(path)
    if card.is_twin:
        assert name.removesuffix("-perceptual") in SHIPPED
    if twin is None:
        assert card.fidelity == 1
        return
    check(Weights(card, path, twin, fidelity=0.5))
    sizes = (card.network, card.sizes, card.scale, card.halo)
    assert (twin.card.network, twin.card.sizes, twin.card.scale, twin.card.halo) == sizes


def test_all_that_ships_is_below_sixty_megabytes_and_every_weights_file_has_a_card():
    files = list(weights_dir().iterdir())
    assert sum(path.stat().st_size for path in files) < 60e6
    assert sorted(path.stem for path in files if path.suffix == ".safetensors") == sorted(SHIPPED)


def test_every_error_class_survives_pickling():
    classes = [c for c in vars(errors).values() if isinstance(c, type)]
    assert len(classes) >= 8
    for kind in classes:
        copy = pickle.loads(pickle.dumps(kind("scale 9 does not exist")))
        assert type(copy) is kind
        assert str(copy) == "scale 9 does not exist"
