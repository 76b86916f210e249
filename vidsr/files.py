"""Files appear whole: written under a hidden name beside their own, flushed, then renamed.

Note [Outputs appear by rename]
~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~
A rename is the only step that shows an output, so a crash leaves the old file or the new one. But a
rename may reach the disk before the bytes do, and after a power loss the name then stands on an
empty file. Therefore the bytes are flushed first, and the folder, which holds the name, after it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def part_of(path: Path) -> Path:
    """The hidden name, beside `path` and with its suffix, under which it is written; now free.

    What lies there is removed: a remnant, or a link that would lead the writing elsewhere.

    Raises:
        OSError: the folder cannot be written.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    part.unlink(missing_ok=True)
    return part


def put_in_place(part: Path, path: Path) -> None:
    """Give a finished file its name; a file that it replaces leaves its permissions to it.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        part.chmod(path.stat().st_mode & 0o7777)
    flush_to_disk(part)
    part.replace(path)
    flush_to_disk(path.parent)


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or what a folder lists, survives a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
