"""What is here and what is missing, with the command that adds it."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from vidsr.engines.choice import LIBRARIES
from vidsr.engines.precision import fastest_precision
from vidsr.engines.remembered import can_keep, processor, usable_cores
from vidsr.engines.torch_engine import available_devices
from vidsr.errors import DeviceError
from vidsr.media.encoders import encoders_here, ffmpeg_version
from vidsr.memory import free_memory
from vidsr.models.card import shipped_cards

EXTRAS = {  # package -> (extra, what it is for)
    "ncnn": ("ncnn", "a faster engine for large networks"),
    "openvino": ("openvino", "a faster engine on most processors"),
    "opencv-python-headless": ("color", "steady color in video"),
    "scikit-image": ("train", "`vidsr evaluate`"),
    "matplotlib": ("train", "plots of training and evaluation"),
}
LITTLE_DISK, LITTLE_MEMORY = 5 << 30, 1 << 30  # bytes, below which it is said


@dataclass(frozen=True)
class Missing:
    """Something that would help."""

    what: str
    why: str
    way_out: str  # a command or an advice


@dataclass(frozen=True)
class Checkup:
    """All that was looked at."""

    versions: dict[str, str]  # of what vidsr stands on and is there
    processor: str
    cores: int
    devices: tuple[str, ...]  # the fastest first
    precisions: dict[str, str]  # engine -> what it computes in here
    encoders: dict[str, bool]  # whether each can be opened
    models: tuple[str, ...]
    free_disk_bytes: int  # where the output would go: in `folder`
    free_memory_bytes: int
    cache_folder: Path
    missing: tuple[Missing, ...]


def check_up(folder: Path, cache_dir: Path) -> Checkup:
    """Look at everything; nothing is changed but for the cache.

    Args:
        folder: whose disk is looked at.
        cache_dir: of figures and compiled models.
    """
    devices = tuple(available_devices())
    disk = shutil.disk_usage(folder).free
    memory = free_memory(torch.device("cpu"))
    encoders = encoders_here()
    models = tuple(card.name for card in shipped_cards())
    return Checkup(
        versions=_versions(),
        processor=processor(),
        cores=usable_cores(),
        devices=devices,
        precisions=_precisions(devices[0], cache_dir),
        encoders=encoders,
        models=models,
        free_disk_bytes=disk,
        free_memory_bytes=memory,
        cache_folder=cache_dir,
        missing=(
            *_missing_packages(),
            *_missing_codecs(encoders, models),
            *_short_of(folder, disk, memory),
            *_blocked(cache_dir),
        ),
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, str]:
    packages = ["torch", "av", "numpy", "pillow", "openvino", "ncnn", "opencv-python-headless"]
    found = {name: version for name in packages if (version := _version(name))}
    return {"python": platform.python_version(), **found, "ffmpeg": ffmpeg_version()}


def _precisions(device: str, cache_dir: Path) -> dict[str, str]:
    fast = fastest_precision(torch.device(device), cache_dir=cache_dir)
    words = {"torch": f"fp32; {fast} is the fastest on {device}" if fast != "fp32" else "fp32"}
    for engine, library in LIBRARIES.items():
        if library.installed():
            try:
                words[engine] = ", ".join(library.precisions())
            except DeviceError as exc:
                words[engine] = str(exc)
    return words


def _missing_packages() -> list[Missing]:
    return [
        Missing(package, why, f"pip install 'vidsr[{extra}]'")
        for package, (extra, why) in EXTRAS.items()
        if _version(package) is None
    ]


def _missing_codecs(encoders: dict[str, bool], models: tuple[str, ...]) -> list[Missing]:
    """Of encoders only those that need no card, since they come with PyAV."""
    missing = [
        Missing(name, "an encoder", "pip install --force-reinstall --only-binary :all: av")
        for name, works in encoders.items()
        if not works and "nvenc" not in name
    ]
    if not models:
        missing.append(
            Missing("weights", "nothing can be enlarged", "pip install --force-reinstall vidsr")
        )
    return missing


def _short_of(folder: Path, disk: int, memory: int) -> list[Missing]:
    missing = []
    if disk < LITTLE_DISK:
        missing.append(Missing("disk", f"{disk >> 20} MiB are free in {folder}", "free some"))
    if memory < LITTLE_MEMORY:
        missing.append(Missing("memory", f"{memory >> 20} MiB are free", "close other programs"))
    return missing


def _blocked(cache_dir: Path) -> list[Missing]:
    if can_keep(cache_dir):
        return []
    why = f"{cache_dir} cannot be written: engines are not measured, models compiled each time"
    return [Missing("cache", why, "set XDG_CACHE_HOME to a folder that can be written")]
