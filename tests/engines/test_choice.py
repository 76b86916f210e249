"""Which engine is taken: by the clock, remembered, explained, and never in the way."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from vidsr.engines import choice, ncnn_engine, openvino_engine
from vidsr.engines.choice import Choice, Subject, Way, Wish, choose, measured_side
from vidsr.engines.precision import Precision
from vidsr.engines.race import race
from vidsr.errors import DeviceError, ModelError
from vidsr.models.compact import Compact, CompactOptions
from vidsr.models.srgan import SRGANGenerator, SRGANOptions

TORCH, PLANAR, OPENVINO = Way(), Way(layout="planar"), Way("openvino")


class Clock:
    """Stands in for the measurement: gives what it is told and notes what it was asked."""

    def __init__(self) -> None:
        self.seconds = {"torch fp32": 0.03, "torch fp32 planar": 0.04, "openvino fp32": 0.02}
        self.asked: list[list[str]] = []

    def measure(self, ways: list[Way], _subject: Subject) -> choice.Figures:
        self.asked.append([way.words for way in ways])
        return {way.words: self.seconds.get(way.words, 0.05) for way in ways}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Precision]:
    """A processor without bf16, with OpenVINO and no ncnn; what it lists may be changed."""
    monkeypatch.setattr(ncnn_engine, "installed", lambda: False)
    listed: list[Precision] = ["fp32"]
    monkeypatch.setattr(openvino_engine, "installed", lambda: True)
    monkeypatch.setattr(openvino_engine, "version", lambda: "openvino 1")
    monkeypatch.setattr(openvino_engine, "precisions", lambda: tuple(listed))
    monkeypatch.setattr(choice, "fastest_precision", lambda *_, **__: "fp32")
    return listed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(choice, "measure", fake.measure)
    return fake


def subject(weights: str = "sha") -> Subject:
    return Subject(lambda: Compact(CompactOptions(2, 4, 1)).eval(), 2, weights)


def chosen(cache_dir: Path | None, weights: str = "sha", **wish: object) -> Choice:
    return choose(Wish(**wish), subject(weights), cache_dir)  # type: ignore[arg-type]


def test_the_fastest_way_is_taken_and_all_figures_are_said(clock: Clock, tmp_path: Path) -> None:
    taken = chosen(tmp_path)
    assert taken.way == OPENVINO
    assert taken.measured == "openvino fp32 20 ms, torch fp32 30 ms, torch fp32 planar 40 ms"
    assert taken.notes == ()
    clock.seconds["torch fp32 planar"] = 0.01
    assert chosen(tmp_path / "other").way == PLANAR


def test_a_gain_within_noise_is_none(clock: Clock, tmp_path: Path) -> None:
    clock.seconds["openvino fp32"] = 0.0297
    assert chosen(tmp_path).way == TORCH


def test_figures_are_remembered_by_weights_and_versions(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = chosen(tmp_path / "not" / "yet")
    clock.seconds["torch fp32"] = 0.001
    assert chosen(tmp_path / "not" / "yet") == first
    assert len(clock.asked) == 1
    assert chosen(tmp_path / "not" / "yet", "other weights").way == TORCH
    monkeypatch.setattr(openvino_engine, "version", lambda: "openvino 2")
    assert chosen(tmp_path / "not" / "yet").way == TORCH
    assert len(clock.asked) == 3


def test_what_is_asked_for_is_chosen_among_what_fits(clock: Clock, tmp_path: Path) -> None:
    assert chosen(tmp_path, engine="torch").way == TORCH
    clock.seconds["torch fp32"] = 0.001
    assert chosen(tmp_path, engine="openvino").way == OPENVINO
    assert clock.asked[-1] == ["openvino fp32"]


def test_all_ways_are_measured_together_if_one_is_not_known(clock: Clock, tmp_path: Path) -> None:
    chosen(tmp_path, engine="torch")
    chosen(tmp_path)
    assert clock.asked[-1] == ["torch fp32", "torch fp32 planar", "openvino fp32"]
    chosen(tmp_path, engine="openvino")  # known by now
    assert len(clock.asked) == 2


def test_half_precision_is_tried_only_where_it_keeps_the_picture(
    clock: Clock, tmp_path: Path, machine: list[Precision]
) -> None:
    machine += ["bf16", "fp16"]
    clock.seconds["openvino bf16"] = 0.01
    assert chosen(tmp_path, half=False).way == OPENVINO
    assert chosen(tmp_path, half=True).way == Way("openvino", "bf16")
    assert chosen(tmp_path, precision="fp32", half=True).way == OPENVINO
    assert chosen(tmp_path, precision="fp16").way == Way(precision="fp16")  # of 50 and 50 ms


def test_torch_s_half_is_tried_where_its_convolution_is_faster(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "fastest_precision", lambda *_, **__: "bf16")
    chosen(tmp_path, half=True, engine="torch")
    assert clock.asked == [["torch bf16", "torch fp32", "torch fp32 planar"]]


def test_without_openvino_torch_s_layouts_are_left(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_engine, "installed", lambda: False)
    monkeypatch.setattr(openvino_engine, "precisions", pytest.fail)
    assert chosen(tmp_path).way == TORCH
    assert clock.asked == [["torch fp32", "torch fp32 planar"]]


@pytest.fixture
def ncnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is installed after all."""
    monkeypatch.setattr(ncnn_engine, "installed", lambda: True)
    monkeypatch.setattr(ncnn_engine, "version", lambda: "ncnn 1")
    monkeypatch.setattr(ncnn_engine, "precisions", lambda: ("fp32",))
    monkeypatch.setattr(ncnn_engine, "check_convertible", lambda _network, _scale: None)


@pytest.mark.usefixtures("ncnn")
def test_ncnn_takes_part_where_it_is_installed(clock: Clock, tmp_path: Path) -> None:
    clock.seconds["ncnn fp32"] = 0.01
    taken = chosen(tmp_path)
    assert taken.way == Way("ncnn")
    assert taken.measured.startswith("ncnn fp32 10 ms, openvino fp32 20 ms")
    clock.seconds["ncnn fp32"] = 0.0197  # within noise: parts of pictures decide
    assert chosen(tmp_path / "other").way == OPENVINO
    assert chosen(None, engine="ncnn").way == Way("ncnn")
    with pytest.raises(DeviceError, match="ncnn has no bf16 on this processor"):
        chosen(tmp_path, engine="ncnn", precision="bf16")
    assert chosen(tmp_path, precision="bf16").way.engine == "torch"


@pytest.mark.usefixtures("ncnn")
def test_where_one_library_cannot_the_other_computes(
    inconvertible: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def slower(way: Way, *rest: object) -> object:
        opened.append(way.engine)
        return real(Way() if way.engine == "ncnn" else way, *rest)  # type: ignore[arg-type]

    real = choice.open_engine
    monkeypatch.setattr(choice, "open_engine", slower)
    taken = chosen(tmp_path)
    assert inconvertible
    assert set(opened) == {"torch", "ncnn"}
    assert taken.notes[0].startswith("OpenVINO cannot convert this network faithfully: ")


def test_ncnn_that_is_not_installed_is_named_with_its_command() -> None:
    with pytest.raises(DeviceError, match=r"pip install 'vidsr\[ncnn\]'"):
        chosen(None, engine="ncnn")


def test_a_precision_that_the_processor_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(DeviceError, match=r"OpenVINO has no bf16 .*--precision auto, or fp32"):
        chosen(None, engine="openvino", precision="bf16")


def test_without_a_cache_nothing_is_measured(clock: Clock) -> None:
    assert chosen(None) == Choice(TORCH)
    assert chosen(None, engine="openvino").way == OPENVINO
    assert clock.asked == []


def test_a_cache_that_cannot_be_written_is_worked_without_and_said(
    clock: Clock, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")  # a folder cannot be made below a file, not even by root
    taken = chosen(blocked / "vidsr")
    assert taken.way == TORCH
    assert f"{blocked / 'vidsr'} cannot be written" in taken.notes[0]
    assert "XDG_CACHE_HOME" in taken.notes[0]
    assert clock.asked == []


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"other": 1}', "\x00", "known: 0", "known: x"]
)
def test_a_broken_cache_is_measured_again(content: str, clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "engines.json"
    if content.startswith("known"):
        chosen(tmp_path)
        (key,) = json.loads(file.read_text())
        figures = {name: {"0": -1.0, "x": "fast"}[content[-1]] for name in clock.seconds}
        content = json.dumps({key: figures})
    file.write_text(content)
    before = len(clock.asked)
    assert chosen(tmp_path).way == OPENVINO
    assert chosen(tmp_path).way == OPENVINO
    assert len(clock.asked) == before + 1


@pytest.fixture
def inconvertible(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A network that OpenVINO cannot convert; grows by one a try."""
    tries: list[int] = []

    def refuse(_network: nn.Module, scale: int) -> None:
        tries.append(scale)
        raise ModelError("OpenVINO cannot convert it")

    monkeypatch.setattr(openvino_engine, "check_convertible", refuse)
    return tries


@pytest.mark.parametrize("engine", ["auto", "openvino"])
def test_a_network_that_cannot_be_converted_falls_back_to_torch_and_is_said(
    engine: str, inconvertible: list[int], tmp_path: Path
) -> None:
    for _ in range(2):
        taken = chosen(tmp_path, engine=engine)
        assert taken.way.engine == "torch"
        assert taken.notes == (
            "OpenVINO cannot convert this network faithfully: torch computes it",
        )
    assert len(inconvertible) == 1  # which is remembered too


def test_the_fallback_needs_no_cache(inconvertible: list[int]) -> None:
    taken = chosen(None, engine="openvino")
    assert taken.way == TORCH
    assert "torch computes it" in taken.notes[0]


def test_a_real_measurement_has_a_figure_for_every_way_and_leaves_threads_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(choice, "race", partial(race, within=0.0))
    threads = torch.get_num_threads()
    figures = choice.measure([TORCH, PLANAR, OPENVINO], subject())
    assert list(figures) == ["torch fp32", "torch fp32 planar", "openvino fp32"]
    assert all(seconds is not None and seconds > 0 for seconds in figures.values())
    assert torch.get_num_threads() == threads


def test_a_larger_network_is_measured_on_a_smaller_tile() -> None:
    small = measured_side(Compact(CompactOptions(2, 24, 8)))
    large = measured_side(SRGANGenerator(SRGANOptions()))
    assert 64 <= large < 160 < small <= 320
