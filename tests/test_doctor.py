"""vidsr doctor: what is here, and the command for each thing that is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from family import ship_family

from vidsr import doctor
from vidsr.doctor import Checkup, check_up
from vidsr.engines import openvino_engine
from vidsr.errors import DeviceError


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return ship_family(monkeypatch, tmp_path / "weights", 2)


def look(tmp_path: Path) -> Checkup:
    return check_up(tmp_path, tmp_path / "cache")


def test_what_is_here_is_listed(family: Path, tmp_path: Path) -> None:
    checkup = look(tmp_path)
    assert {"python", "torch", "av", "ffmpeg"} <= checkup.versions.keys()
    assert checkup.versions["torch"].startswith(torch.__version__.partition("+")[0])
    assert checkup.devices[-1] == "cpu"
    assert checkup.cores >= 1
    assert checkup.precisions["torch"].startswith("fp32")
    assert checkup.encoders["libx264"]
    assert checkup.models == ("fast-x2",)
    assert checkup.free_disk_bytes > 0
    assert checkup.free_memory_bytes > 0


@pytest.mark.parametrize(
    ("package", "extra"),
    [("openvino", "openvino"), ("ncnn", "ncnn"), ("opencv-python-headless", "color")],
)
def test_a_missing_package_is_named_with_its_command(
    package: str, extra: str, family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == package else version(name))
    checkup = look(tmp_path)
    (missing,) = [one for one in checkup.missing if one.what == package]
    assert missing.way_out == f"pip install 'vidsr[{extra}]'"
    assert package not in checkup.versions


def test_an_openvino_that_does_not_load_is_said(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise DeviceError("OpenVINO does not load (no such symbol)")

    monkeypatch.setattr(openvino_engine, "installed", lambda: True)
    monkeypatch.setattr(openvino_engine, "precisions", fail)
    assert "does not load" in look(tmp_path).precisions["openvino"]


def test_encoders_for_cards_are_not_missing_where_there_is_no_card(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "encoders_here", lambda: {"libx265": False, "h264_nvenc": False})
    named = [one.what for one in look(tmp_path).missing]
    assert "libx265" in named
    assert "h264_nvenc" not in named


def test_little_disk_and_memory_no_weights_and_a_blocked_cache_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship_family(monkeypatch, tmp_path / "none")
    monkeypatch.setattr(doctor, "LITTLE_DISK", 1 << 62)
    monkeypatch.setattr(doctor, "LITTLE_MEMORY", 1 << 62)
    (tmp_path / "file").write_text("")
    checkup = check_up(tmp_path, tmp_path / "file" / "cache")
    named = {one.what: one.way_out for one in checkup.missing}
    assert {"disk", "memory", "weights"} <= named.keys()
    assert "XDG_CACHE_HOME" in named["cache"]
