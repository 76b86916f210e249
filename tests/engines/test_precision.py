"""The measured precision: chosen by the clock, remembered, never in the way."""

import json

import pytest
import torch

from vidsr.engines import precision
from vidsr.engines.precision import fastest_precision

CPU = torch.device("cpu")


@pytest.fixture
def measurements(monkeypatch):
    """Measurements that took place; bf16 is the faster one."""
    taken = []

    def seconds(dtype):
        taken.append(dtype)
        return 1.0 if dtype == torch.bfloat16 else 2.0

    monkeypatch.setattr(precision, "_convolution_seconds", seconds)
    return taken


def test_the_faster_format_is_chosen(measurements, monkeypatch):
    assert fastest_precision(CPU) == "bf16"
    monkeypatch.setattr(precision, "_convolution_seconds", lambda _dtype: 1.0)
    assert fastest_precision(CPU) == "fp32"  # a tie is not worth the rounding


def test_a_measurement_is_remembered(measurements, tmp_path):
    folder = tmp_path / "not" / "yet"
    first = fastest_precision(CPU, cache_dir=folder)
    taken = len(measurements)
    assert fastest_precision(CPU, cache_dir=folder) == first == "bf16"
    assert len(measurements) == taken


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null", '{"other": "bf16"}', "\x00"])
def test_a_broken_cache_is_rewritten(content, measurements, tmp_path):
    cache = tmp_path / "precision.json"
    cache.write_text(content)
    assert fastest_precision(CPU, cache_dir=tmp_path) == "bf16"
    assert "bf16" in json.loads(cache.read_text()).values()
    taken = len(measurements)
    fastest_precision(CPU, cache_dir=tmp_path)
    assert len(measurements) == taken


def test_an_unknown_answer_in_the_cache_is_measured_again(measurements, tmp_path):
    fastest_precision(CPU, cache_dir=tmp_path)
    cache = tmp_path / "precision.json"
    cache.write_text(cache.read_text().replace("bf16", "fp7"))
    assert fastest_precision(CPU, cache_dir=tmp_path) == "bf16"


def test_a_cache_that_cannot_be_written_costs_only_the_measurement(measurements, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")  # a folder cannot be made below a file, not even by root
    assert fastest_precision(CPU, cache_dir=blocked) == "bf16"
    once = len(measurements)
    assert fastest_precision(CPU, cache_dir=blocked) == "bf16"
    assert len(measurements) == 2 * once


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_other_devices_are_not_measured(kind, measurements):
    assert fastest_precision(torch.device(kind)) == "fp16"
    assert measurements == []
