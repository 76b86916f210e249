"""A small model family with random weights, so that tests need no weights that ship."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vidsr.models import card, load
from vidsr.models.compact import Compact, CompactOptions


def tiny_model(folder: Path, name: str, *, scale: int) -> Path:
    """A checkpoint of a network with 4 channels, and its card; returns the checkpoint.

    Its card forbids half precision, so that nothing is timed to choose one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(scale)
        network = Compact(CompactOptions(scale=scale, channels=4, blocks=1))
    path = folder / f"{name}.safetensors"
    save_file(network.state_dict(), path)
    dataclasses.replace(load.describe(path), half=False).write(path.with_suffix(".json"))
    return path


def ship_family(monkeypatch: pytest.MonkeyPatch, folder: Path, *scales: int) -> Path:
    """Let fast-x<scale> in `folder` be the only weights that ship."""
    for scale in scales:
        tiny_model(folder, f"fast-x{scale}", scale=scale)
    monkeypatch.setattr(card, "weights_dir", lambda: folder)
    monkeypatch.setattr(load, "weights_dir", lambda: folder)
    return folder
