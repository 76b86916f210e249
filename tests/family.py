"""A small model family with random weights, so that tests need no weights that ship."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vidsr.engines.choice import LIBRARIES
from vidsr.models import card, load
from vidsr.models.card import PERCEPTUAL, ModelCard, sha256_of
from vidsr.models.compact import Compact, CompactOptions
from vidsr.models.pix2pix import Pix2PixGenerator, Pix2PixOptions


def tiny_model(
    folder: Path,
    name: str,
    *,
    scale: int,
    channels: int = 4,
    seed: int | None = None,
    fidelity: float = 1.0,
) -> Path:
    """A checkpoint of a small network with random weights, and its card; returns the checkpoint.

    Its card forbids half precision, so that nothing is timed to choose one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(scale if seed is None else seed)
        network = Compact(CompactOptions(scale=scale, channels=channels, blocks=1))
    path = folder / f"{name}.safetensors"
    save_file(network.state_dict(), path)
    card = dataclasses.replace(load.describe(path), half=False, fidelity=fidelity)
    card.write(path.with_suffix(".json"))
    return path


def tiny_twins(folder: Path, name: str, *, scale: int, fidelity: float = 0.75) -> Path:
    """A `tiny_model` with perceptual weights beside it, mixed by `fidelity` unless told."""
    tiny_model(folder, f"{name}{PERCEPTUAL}", scale=scale, seed=99)
    return tiny_model(folder, name, scale=scale, fidelity=fidelity)


def ship_family(monkeypatch: pytest.MonkeyPatch, folder: Path, *scales: int) -> Path:
    """Let fast-x<scale> in `folder` be the only weights that ship."""
    for scale in scales:
        tiny_model(folder, f"fast-x{scale}", scale=scale)
    monkeypatch.setattr(card, "weights_dir", lambda: folder)
    monkeypatch.setattr(card, "pulled_dir", lambda: folder / "pulled")
    return folder


def add_families(folder: Path) -> Path:
    """Beside what ships in `folder`: anime-x4, and photo-x4 with a perceptual twin."""
    tiny_model(folder, "anime-x4", scale=4)
    tiny_twins(folder, "photo-x4", scale=4, fidelity=0.75)
    return folder


def without_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only torch computes, whatever else is installed."""
    for library in LIBRARIES.values():
        monkeypatch.setattr(library, "installed", lambda: False)


def tiny_colorizer(folder: Path, name: str = "colorize", *, seed: int = 0) -> Path:
    """A checkpoint of a small network that colors, with random weights, and its card."""
    folder.mkdir(parents=True, exist_ok=True)
    options = Pix2PixOptions(channels=8, blocks=1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Pix2PixGenerator(options)
        torch.nn.init.normal_(network.head.weight, std=0.5)  # so that places differ
    path = folder / f"{name}.safetensors"
    save_file(network.state_dict(), path)
    card = ModelCard(
        name=name,
        network="pix2pix",
        sizes=dataclasses.asdict(options),
        scale=1,
        halo=0,
        half=False,
        sha256=sha256_of(path),
        task="colorize",
        summary="random colors",
    )
    card.write(path.with_suffix(".json"))
    return path
