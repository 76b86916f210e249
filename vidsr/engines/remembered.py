"""This machine, and what was measured on it, kept in the user's cache between runs."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch


class Remembered:
    """One JSON object in a file, key -> whatever JSON holds; a broken file is written anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, key: str) -> Any:
        """What is kept under `key`, or None; it may be anything, so it is checked by the caller."""
        return self._entries().get(key)

    def write(self, key: str, value: Any) -> None:
        """Keep a value; where the file cannot be written it is forgotten, and nothing else."""
        entries = {**self._entries(), key: value}
        replace_file(self.path, json.dumps(entries, indent=2).encode())

    def _entries(self) -> dict[str, Any]:
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}


def replace_file(path: Path, content: bytes) -> bool:
    """Write a whole file under its name at once; False, and nothing written, if that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        Path(file.name).replace(path)
    except OSError:
        return False
    return True


def can_keep(folder: Path) -> bool:
    """Whether files can be written in a folder, which is made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def processor() -> str:
    """Model name and instruction sets of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    words = {key.strip(): value.strip() for key, value in facts.items()}
    ids = [words.get(key, "") for key in ("model name", "cpu family", "model", "stepping")]
    name = " ".join(filter(None, ids)) or platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def usable_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
