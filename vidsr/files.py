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
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

if sys.platform != "win32":
    import fcntl


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A hidden path to write to, which takes the place of `path` when the block ends well.

    Raises:
        OSError: the folder cannot be written, or the disk is full; what was there before stays.
    """
    part = part_of(path)
    try:
        yield part
        put_in_place(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


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
    _flush(part)
    part.replace(path)
    settle(path.parent)


def settle(folder: Path) -> None:
    """Let what was renamed or removed in a folder survive a loss of power, where it can."""
    with contextlib.suppress(OSError):  # some file systems flush no folders
        _flush(folder)


def locked(file: IO[Any]) -> bool:
    """Whether this process now holds an open file's lock; always, where there are no locks."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another process holds it
            return False
        except OSError:  # a file system without locks
            return True
    return True


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
