"""What a batch has done, remembered in the output folder, so that nothing is done twice.

One JSON object a line, appended and flushed to disk when an output is whole. A line that a crash
cut short is passed over: its file is then done again. The last line about a file counts.

Note [Done before]
~~~~~~~~~~~~~~~~~~
A file counts as done if its identity (size and time of change), what was asked for and the weights
that were used are as recorded, and the output still has its size. What was asked for leaves out
device, engine, threads, memory and the choice of overwriting, since another machine may go on with
a batch, and the version of vidsr, since an update should not redo a library; the weights are known
by their hashes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vidsr.batch.listing import Entry
from vidsr.errors import MediaError, RequestError
from vidsr.request import Job

FILE_NAME = ".vidsr-batch.jsonl"


@dataclass(frozen=True)
class Done:
    """One line: an output, what it was made of, and how."""

    name: str  # of the entry
    source: str  # absolute
    identity: tuple[int, int]  # of the source: size, mtime_ns
    asked: dict[str, Any]
    weights: list[str]  # SHA-256 of each file
    output: str  # inside the output folder
    bytes: int  # of the output

    @classmethod
    def read(cls, line: str) -> Done | None:
        """A line, or None if it is none of ours or cut short."""
        try:
            content = json.loads(line)
            return cls(**{**content, "identity": tuple(content["identity"])})
        except (ValueError, TypeError, KeyError):
            return None


class Record:
    """What was done in an output folder, by the entries' names."""

    def __init__(self, folder: Path) -> None:
        """Read what is recorded; nothing if the folder or the record is not there yet."""
        self.folder = folder
        self._file: IO[str] | None = None
        self._done: dict[str, Done] = {}
        with contextlib.suppress(OSError):
            self._read((folder / FILE_NAME).read_text(encoding="utf-8", errors="replace"))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Open it for more; meanwhile no other batch can write to the folder.

        Raises:
            RequestError: another batch writes to the folder now.
            MediaError: the folder cannot be written.
        """
        path = self.folder / FILE_NAME
        try:
            self._file = path.open("a+", encoding="utf-8")
        except OSError as exc:
            raise MediaError(f"{path}: cannot be written ({exc.strerror})") from exc
        with self._file as file:
            _lock(file, self.folder)
            file.seek(0)
            text = file.read()
            self._read(text)
            if text and not text.endswith("\n"):
                file.write("\n")  # so that what follows is not read as one with the line cut short
            try:
                yield
            finally:
                if not file.tell():
                    path.unlink(missing_ok=True)  # a batch that did nothing

    def _read(self, text: str) -> None:
        lines = (Done.read(line) for line in text.splitlines())
        self._done.update((done.name, done) for done in lines if done is not None)

    def of(self, entry: Entry) -> Done | None:
        """What an earlier run made of an entry, whatever has changed since."""
        return self._done.get(entry.name.as_posix())

    def is_ours(self, entry: Entry) -> bool:
        """Whether the output is as a run from this very source left it: it may be replaced."""
        done = self.of(entry)
        return (
            done is not None
            and done.source == str(entry.source.resolve())
            and _size(self.folder / done.output) == done.bytes
        )

    def why_again(self, entry: Entry, asked: dict[str, Any], weights: Collection[str]) -> str:
        """Why what an earlier run made does not count; "" if it does.

        Args:
            entry: that an earlier run made.
            asked: from `asked_of`.
            weights: hashes of all weights that there are now.
        """
        done = self._done[entry.name.as_posix()]
        if done.identity != dataclasses.astuple(entry.identity):
            return "the input has changed"
        if done.asked != asked:
            return "the settings have changed"
        if not set(done.weights) <= set(weights):
            return "the model has changed"
        size = _size(self.folder / done.output)
        return "" if size == done.bytes else "its output is gone or was changed"

    def add(self, done: Done) -> None:
        """Remember an output that is whole; it survives a power failure from here on.

        Raises:
            MediaError: the disk refuses.
        """
        assert self._file is not None
        self._done[done.name] = done
        try:
            self._file.write(json.dumps(dataclasses.asdict(done)) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as exc:
            raise MediaError(f"{self._file.name}: cannot be written ({exc.strerror})") from exc


def asked_of(job: Job) -> dict[str, Any]:
    """What was asked for, as JSON has it; see the Note above."""
    facts = dataclasses.asdict(job)
    for name in ("source", "destination", "overwrite", "strict", "resume", "max_memory"):
        del facts[name]
    for name in ("device", "engine", "threads"):
        del facts["engine"][name]
    del facts["encoder"]["threads"]
    return dict(json.loads(json.dumps(facts, default=str)))


def done_of(entry: Entry, job: Job, weights: list[str], output: Path, folder: Path) -> Done:
    """The line about a finished output.

    Args:
        entry: what it was made of.
        job: what was asked for.
        weights: hashes of those that were used.
        output: the finished file.
        folder: the output folder.
    """
    return Done(
        name=entry.name.as_posix(),
        source=str(entry.source.resolve()),
        identity=(entry.identity.size, entry.identity.mtime_ns),
        asked=asked_of(job),
        weights=weights,
        output=output.relative_to(folder).as_posix(),
        bytes=output.stat().st_size,
    )


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _lock(file: IO[str], folder: Path) -> None:
    """Refuse a second writer, where the system can."""
    with contextlib.suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise RequestError(f"another batch writes to {folder} now; wait for its end") from exc
