import dataclasses
import json
import pickle

import pytest

from vidsr import errors
from vidsr.errors import ModelError
from vidsr.models import card as card_module
from vidsr.models.card import ModelCard, find_card, sha256_of, shipped_cards, weights_dir

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


def test_a_card_survives_pickling():
    assert pickle.loads(pickle.dumps(CARD)) == CARD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "blue"}, "unknown fields colour"),
        ({"scale": "4"}, "scale is '4', which is no int"),
        ({"sizes": None}, "sizes is None"),
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


def test_an_unknown_name_suggests_near_ones(shelf):
    with pytest.raises(ModelError, match="'fast-4x'; did you mean fast-x4"):
        find_card("fast-4x")
    with pytest.raises(ModelError, match="there are fast-x2, fast-x4"):
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


def test_every_error_class_survives_pickling():
    classes = [c for c in vars(errors).values() if isinstance(c, type)]
    assert len(classes) >= 8
    for kind in classes:
        copy = pickle.loads(pickle.dumps(kind("scale 9 does not exist")))
        assert type(copy) is kind
        assert str(copy) == "scale 9 does not exist"
