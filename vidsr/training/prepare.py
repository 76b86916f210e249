"""Pictures as they lie about -> folders to train on; what is of no use is dropped, and why is said.

Everything follows from the pictures' contents: the same pictures under other names, in other
folders or in another order give the same files and the same split.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vidsr.errors import MediaError, RequestError
from vidsr.evaluation.chroma import colorfulness
from vidsr.evaluation.evaluate import picture_paths
from vidsr.evaluation.metrics import Picture
from vidsr.training import checkpoint
from vidsr.training.color_data import GRAY, read_small

MANIFEST = "manifest.csv"
_HASH_SIDE = 16  # of the difference hash, which then has 256 bits
_QUALITY = 92  # of the JPEG files that are written, without subsampling

Bits = NDArray[np.float32]  # each -1 or 1, so that products count how many agree


@dataclass(frozen=True)
class PrepareOptions:
    """What to keep, how large, and how to part it."""

    side: int = 256  # short side in pixels of what is written; smaller pictures are dropped
    least_colorfulness: float = GRAY  # Hasler and Süsstrunk's; below it a picture is gray
    near: int = 20  # of 256 bits: pictures whose hashes differ in no more are near-duplicates
    val: float = 0.05  # share of the pictures
    test: float = 0.05

    def __post_init__(self) -> None:
        if self.side < _HASH_SIDE:
            raise RequestError(f"--side {self.side}: there is no picture below {_HASH_SIDE} pixels")
        if not 0 <= self.near < _HASH_SIDE**2 // 2:
            raise RequestError(
                f"--near {self.near}: unlike pictures differ in half of {_HASH_SIDE**2} bits, so "
                f"near-duplicates differ in 0 to {_HASH_SIDE**2 // 2 - 1}"
            )
        if min(self.val, self.test) < 0 or self.val + self.test >= 1:
            raise RequestError(
                f"--val {self.val:g} and --test {self.test:g} are shares of all pictures, and must "
                "leave some to train on"
            )


@dataclass
class Entry:
    """What became of one picture: a row of the manifest."""

    source: str  # its path
    licence: str = ""  # from the table of sources, if there is one
    split: str = ""  # "train", "val" or "test"; empty if it was dropped
    file: str = ""  # within the output folder; empty if it was dropped
    dropped: str = ""  # why; empty if it was kept


@dataclass(frozen=True)
class PrepareProgress:
    """How far it is; the last report comes when the manifest is written."""

    done: int  # pictures that were read, twice each
    total: int
    kept: int
    dropped: dict[str, int]  # by the first word of the reason


@dataclass(frozen=True)
class _Fingerprint:
    """What tells a picture from others."""

    digest: str  # hex SHA-256 of the file
    bits: Bits  # (2,256): as it is, and mirrored
    pixels: int  # of the file's picture


def prepare(
    folders: Sequence[Path],
    output: Path,
    options: PrepareOptions | None = None,
    *,
    sources: Path | None = None,
) -> Iterator[PrepareProgress]:
    """Write `output/{train,val,test}/*.jpg` and `output/manifest.csv`, reporting as it goes.

    Broken, small and gray pictures are dropped; of near-duplicates, mirrored ones included, all but
    the one of the most pixels. So none can be in two splits.

    Args:
        folders: searched with all that is below them.
        output: a folder without a manifest; made if need be.
        options: what to keep.
        sources: a CSV table with columns `file` (relative to the table) and `licence`.

    Raises:
        RequestError: a folder is missing or without usable pictures, `output` is in use or among
            what is searched, or `sources` is no such table.
        MediaError: the output cannot be written.
    """
    options = options or PrepareOptions()
    paths = _paths(folders, output)
    licences = read_licences(sources) if sources else {}
    entries = [Entry(path.as_posix(), licences.get(path.resolve(), "")) for path in paths]
    prints: dict[int, _Fingerprint] = {}
    for number, (path, entry) in enumerate(zip(paths, entries, strict=True)):
        found = _fingerprint(path, options)
        if isinstance(found, str):
            entry.dropped = found
        else:
            prints[number] = found
        yield _progress(number + 1, entries, len(prints))
    for number, kept in _duplicates(prints, options.near).items():
        entries[number].dropped = f"near-duplicate of {entries[kept].source}"
        del prints[number]
    if not prints:
        raise RequestError(f"nothing to keep among {len(paths)} pictures: {_reasons(entries)}")
    for number, (path, entry) in enumerate(zip(paths, entries, strict=True)):
        if number in prints:
            _write(path, entry, prints[number].digest, output, options)
        yield _progress(len(paths) + number + 1, entries, len(prints))
    _write_manifest(output / MANIFEST, entries)


def read_licences(sources: Path) -> dict[Path, str]:
    """The licence of each file of a table of sources.

    Raises:
        RequestError: unreadable, or without the columns `file` and `licence`.
    """
    try:
        with sources.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as exc:
        raise RequestError(f"{sources}: cannot be read as a table of sources ({exc})") from exc
    if not rows or not {"file", "licence"} <= rows[0].keys():
        raise RequestError(f"{sources}: a table of sources needs the columns file and licence")
    return {(sources.parent / row["file"]).resolve(): row["licence"] or "" for row in rows}


def difference_hash(picture: Picture) -> Bits:
    """Whether the luma rises or falls from each of 17x16 areas to its right neighbor: (256,).

    Source: "dHash" (Krawetz 2013, hackerfactor.com/blog/?/archives/529).
    """
    size = (_HASH_SIDE + 1, _HASH_SIDE)
    small = Image.fromarray(picture).convert("L").resize(size, Image.Resampling.BOX)
    luma = np.asarray(small, np.int16)
    return np.where(luma[:, 1:] > luma[:, :-1], 1, -1).astype(np.float32).ravel()


def split_of(digest: str, options: PrepareOptions) -> str:
    """Where a picture of that SHA-256 belongs."""
    place = int(digest[:16], 16) / 16**16
    if place < options.test:
        return "test"
    return "val" if place < options.test + options.val else "train"


def _paths(folders: Sequence[Path], output: Path) -> list[Path]:
    """The pictures to look at, once each."""
    if (output / MANIFEST).exists():
        raise RequestError(f"{output} already holds prepared pictures; name another folder")
    for folder in folders:
        if output.resolve().is_relative_to(folder.resolve()):
            raise RequestError(f"{output} lies within {folder}, which is searched; name another")
    paths = {path.resolve(): path for folder in folders for path in picture_paths(folder)}
    if not paths:
        raise RequestError(f"no pictures in {', '.join(str(folder) for folder in folders)}")
    return list(paths.values())


def _fingerprint(path: Path, options: PrepareOptions) -> _Fingerprint | str:
    """The picture's fingerprint, or why it is dropped."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        picture = read_small(path, options.side)
        with Image.open(path) as image:
            pixels = image.width * image.height
    except (MediaError, OSError) as exc:
        return f"broken: {str(exc).removeprefix(f'{path}: ')}"
    if picture is None:
        return f"small: below {options.side} pixels"
    if (found := colorfulness(picture)) < options.least_colorfulness:
        return f"gray: colorfulness {found:.1f}"
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    bits = np.stack([difference_hash(picture), difference_hash(mirrored)])
    return _Fingerprint(digest, bits, pixels)


def _duplicates(prints: dict[int, _Fingerprint], near: int) -> dict[int, int]:
    """Which pictures to drop, each with the one that is kept in its place.

    The largest come first, so that what is kept does not depend on the order of the files. A
    picture is compared with dropped ones too: a chain of near-duplicates leaves one.
    """
    order = sorted(prints, key=lambda number: (-prints[number].pixels, prints[number].digest))
    seen = np.empty((len(order), _HASH_SIDE**2), np.float32)
    kept_for: list[int] = []
    duplicates: dict[int, int] = {}
    for place, number in enumerate(order):
        bits = prints[number].bits
        agreeing = (seen[:place] @ bits.T).max(axis=1, initial=-np.inf)
        like = np.flatnonzero(agreeing >= _HASH_SIDE**2 - 2 * near)
        kept = kept_for[int(like[0])] if like.size else number
        if kept != number:
            duplicates[number] = kept
        kept_for.append(kept)
        seen[place] = bits[0]
    return duplicates


def _write(path: Path, entry: Entry, digest: str, output: Path, options: PrepareOptions) -> None:
    picture = read_small(path, options.side)
    if picture is None:
        raise MediaError(f"{path}: changed while it was read; prepare the pictures again")
    entry.split = split_of(digest, options)
    entry.file = f"{entry.split}/{digest[:12]}.jpg"
    with checkpoint.replacing(output / entry.file) as part:
        Image.fromarray(picture).save(part, "JPEG", quality=_QUALITY, subsampling=0)


def _write_manifest(path: Path, entries: list[Entry]) -> None:
    columns = [entry.name for entry in fields(Entry)]
    with (
        checkpoint.replacing(path) as part,
        part.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(asdict(entry) for entry in entries)


def _progress(done: int, entries: list[Entry], kept: int) -> PrepareProgress:
    return PrepareProgress(done, 2 * len(entries), kept, _dropped(entries))


def _dropped(entries: list[Entry]) -> dict[str, int]:
    return dict(Counter(_first_word(entry.dropped) for entry in entries if entry.dropped))


def _first_word(reason: str) -> str:
    return reason.split(maxsplit=1)[0].rstrip(":")


def _reasons(entries: list[Entry]) -> str:
    return ", ".join(f"{count} {word}" for word, count in _dropped(entries).items())
