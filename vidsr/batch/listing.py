"""A folder, or many names -> the files to process, and what is left out and why."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vidsr.batch.outcome import Outcome
from vidsr.errors import MediaError, RequestError
from vidsr.media import images
from vidsr.media.containers import MUXERS
from vidsr.media.probe import has_video

# What such a file's name promises is a failure if it is not kept; any other file is looked into,
# and left alone if there is nothing to see.
_VIDEO_SUFFIXES = frozenset(MUXERS) | {
    *(".avi", ".wmv", ".asf", ".mpg", ".mpeg", ".vob", ".ogv", ".mxf", ".divx", ".y4m"),
    *(".3g2", ".f4v", ".rm", ".rmvb", ".nut"),
}
_GLOB_SIGNS = "*?["


@dataclass(frozen=True)
class Identity:
    """By what a file is known to be the same as before."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Identity:
        """The identity of a file now.

        Raises:
            OSError: it is gone.
        """
        facts = path.stat()
        return cls(facts.st_size, facts.st_mtime_ns)


@dataclass(frozen=True)
class Entry:
    """A file to process."""

    source: Path
    name: Path  # of its output inside the output folder, if no other container is needed
    identity: Identity  # when it was listed


@dataclass(frozen=True)
class Folder:
    """A folder whose files are to be processed."""

    path: Path
    recursive: bool = False
    include: tuple[str, ...] = ()  # of these globs one must match name or relative path; () is all


@dataclass
class Listing:
    """What was found."""

    entries: list[Entry] = field(default_factory=list)
    left: list[Outcome] = field(default_factory=list)  # ignored, or failed: not readable

    def ignore(self, path: Path, reason: str) -> None:
        """Name something that is left out."""
        self.left.append(Outcome(path, "ignored", reason))


def list_folder(folder: Folder, output: Path) -> Listing:
    """The files of a folder in the order of their names; the output folder is not entered.

    Links are followed, each folder is entered once, so that loops end.

    Raises:
        MediaError: there is no such folder, or it cannot be read.
        RequestError: the output folder is the folder itself.
    """
    if not folder.path.is_dir():
        raise MediaError(f"{folder.path}: no such folder")
    if output.exists() and output.samefile(folder.path):
        raise RequestError(f"{output} is the input folder itself; name another one with -o")
    if not os.access(folder.path, os.R_OK | os.X_OK):
        raise MediaError(f"{folder.path}: the folder cannot be read (Permission denied)")
    listing = Listing()
    for path in _walk(folder, output.resolve(), listing):
        relative = path.relative_to(folder.path)
        if _included(relative, folder.include):
            _add(listing, path, relative)
    return listing


def _walk(folder: Folder, output: Path, listing: Listing) -> Iterator[Path]:
    """Every file, and into `listing` what is not entered."""
    entered = {_real(folder.path), output}
    waiting = deque([folder.path])
    while waiting:
        for path in _inside(waiting.popleft(), listing):
            if _real(path) == output:
                continue
            if path.name.startswith("."):
                listing.ignore(path, "hidden")
            elif not path.is_dir():
                yield path
            elif why := _why_not_entered(path, folder, entered):
                listing.ignore(path, why)
            else:
                entered.add(_real(path))
                waiting.append(path)


def _inside(folder: Path, listing: Listing) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as exc:
        error = MediaError(f"{folder}: the folder cannot be read ({exc.strerror})")
        listing.left.append(Outcome.of_failure(folder, error))
        return []


def _why_not_entered(path: Path, folder: Folder, entered: set[Path]) -> str:
    if not folder.recursive:
        return "a folder; --recursive enters it"
    real = _real(path)
    return f"a link to {real}, which is entered already" if real in entered else ""


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # unlike `resolve`, passes over a link to itself


def _included(relative: Path, include: tuple[str, ...]) -> bool:
    names = (relative.name, relative.as_posix())
    return not include or any(fnmatch.fnmatch(name, wanted) for wanted in include for name in names)


def _add(listing: Listing, path: Path, name: Path) -> None:
    try:
        facts = path.stat()
    except OSError as exc:
        listing.ignore(path, f"a link that leads nowhere ({exc.strerror})")
        return
    if not stat.S_ISREG(facts.st_mode):  # opening a pipe would wait for ever
        listing.ignore(path, "no regular file")
        return
    reason = why_ignored(path)
    if reason:
        listing.ignore(path, reason)
    else:
        listing.entries.append(Entry(path, name, Identity(facts.st_size, facts.st_mtime_ns)))


def why_ignored(path: Path) -> str:
    """Why a file is neither a video nor a picture; "" if it is one, or its name says so."""
    if images.is_picture(path):
        return ""
    try:
        found = has_video(path)
    except MediaError:
        return "" if path.suffix.lower() in _VIDEO_SUFFIXES else "neither video nor picture"
    return "" if found else "holds no video"


def list_inputs(words: Iterable[Path]) -> Listing:
    """The files that words name; a glob stands for what it matches, but for what is no media.

    Raises:
        MediaError: no such file, or a glob that matches nothing.
        RequestError: a folder.
    """
    listing, seen = Listing(), set[Path]()
    for path, expanded in _expand(words):
        if _real(path) in seen:
            continue
        seen.add(_real(path))
        if expanded:
            _add(listing, path, Path(path.name))
        else:
            listing.entries.append(Entry(path, Path(path.name), Identity.of(path)))
    return listing


def _expand(words: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """(path, whether a glob gave it)."""
    for word in words:
        if word.is_dir():
            raise RequestError(f"{word} is a folder; `vidsr batch {word} -o OUT` takes folders")
        if word.exists():
            yield word, False
            continue
        files = _matches(word)
        if not files:
            is_glob = any(sign in str(word) for sign in _GLOB_SIGNS)
            raise MediaError(f"{word}: no {'file matches' if is_glob else 'such file'}")
        yield from ((path, True) for path in files)


def stands_for_others(word: Path) -> bool:
    """Whether a word is no file itself but a glob that matches some."""
    return not word.exists() and bool(_matches(word))


def _matches(word: Path) -> list[Path]:
    found = glob.glob(str(word), recursive=True)  # noqa: PTH207 - Path's takes none from /
    return sorted(path for path in map(Path, found) if not path.is_dir())
