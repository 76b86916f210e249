"""What a batch has done, remembered in the output folder, so that nothing is done twice.

One JSON object a line, appended and flushed to disk: one before an output is written, one when it
is whole. A line that a crash cut short is passed over: its file is then done again. The last line
about a file counts.

Note [Done before]
~~~~~~~~~~~~~~~~~~
A file counts as done if its identity (size and time of change), what was asked for and the weights
that were used are as recorded, and the output still has its size. What was asked for leaves out
device, engine, threads, memory and the choice of overwriting, since another machine may go on with
a batch, and the version of vidsr, since an update should not redo a library; the weights are known
by their hashes.

An output gets its name a moment before its line is written, and the batch may end in between. So a
line says beforehand what is begun: if something new lies there later and no line says that it is
whole, it is ours too, and is done again.
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
from vidsr.files import locked
from vidsr.request import Job

FILE_NAME = ".vidsr-batch.jsonl"


@dataclass(frozen=True)
class Begun:
    """One line: an output that is being made, and of what."""

    name: str  # of the entry
    source: str  # absolute
    output: str  # inside the output folder; "": nothing came of what was begun
    before: int | None  # time of change (mtime_ns) of what lay there


@dataclass(frozen=True)
class Done:
    """One line: an output that is whole, what it was made of, and how."""

    name: str  # of the entry
    source: str  # absolute
    identity: tuple[int, int]  # of the source: size, mtime_ns
    asked: dict[str, Any]
    weights: list[str]  # SHA-256 of each file
    output: str  # inside the output folder
    bytes: int  # of the output


class Record:
    """What was done in an output folder, by the entries' names."""

    def __init__(self, folder: Path) -> None:
        """Read what is recorded; nothing if the folder or the record is not there yet."""
        self.folder = folder
        self._file: IO[str] | None = None
        self._done: dict[str, Done] = {}
        self._begun: dict[str, Begun] = {}  # and not done since
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
            if not locked(file):
                raise RequestError(f"another batch writes to {self.folder} now; wait for its end")
            file.seek(0)
            text = file.read()
            self._read(text)
            if text and not text.endswith("\n"):
                file.write("\n")  # so that what follows is not read as one with the line cut short
            try:
                yield
            finally:
                self._take_back()
                if not (text or self._done or self._begun):
                    path.unlink(missing_ok=True)  # a batch that did nothing

    def _read(self, text: str) -> None:
        for line in text.splitlines():
            self._keep(_line_of(line))

    def _keep(self, line: Begun | Done | None) -> None:
        if isinstance(line, Done):
            self._done[line.name] = line
        if isinstance(line, Begun) and line.output:
            self._begun[line.name] = line
        elif line is not None:
            self._begun.pop(line.name, None)

    def of(self, entry: Entry) -> Done | None:
        """What an earlier run made of an entry, whatever has changed since."""
        return self._done.get(entry.name.as_posix())

    def is_ours(self, entry: Entry) -> bool:
        """Whether the output is as a run from this very source left it: it may be replaced."""
        source, begun, done = _source_of(entry), self._unrecorded(entry), self.of(entry)
        if begun is not None:
            return begun.source == source
        return (
            done is not None
            and done.source == source
            and _size(self.folder / done.output) == done.bytes
        )

    def _unrecorded(self, entry: Entry) -> Begun | None:
        """What was begun of an entry, if its output came but no line about that."""
        begun = self._begun.get(entry.name.as_posix())
        return begun if begun is not None and self._came(begun) else None

    def _came(self, begun: Begun) -> bool:
        return _mtime(self.folder / begun.output) not in {None, begun.before}

    def why_again(self, entry: Entry, asked: dict[str, Any], weights: Collection[str]) -> str:
        """Why what an earlier run made does not count; "" if it does.

        Args:
            entry: that an earlier run made.
            asked: from `asked_of`.
            weights: hashes of all weights that there are now.
        """
        done = self._done[entry.name.as_posix()]
        if self._unrecorded(entry):
            return "a run was cut off before it was recorded"
        if done.identity != dataclasses.astuple(entry.identity):
            return "the input has changed"
        if done.asked != asked:
            return "the settings have changed"
        if not set(done.weights) <= set(weights):
            return "the model has changed"
        size = _size(self.folder / done.output)
        return "" if size == done.bytes else "its output is gone or was changed"

    def begin(self, entry: Entry, output: Path) -> None:
        """Remember that an output will be written, before it is.

        Raises:
            MediaError: the disk refuses.
        """
        if self._unrecorded(entry) and self.is_ours(entry):
            return  # it is remembered already
        inside = output.relative_to(self.folder).as_posix()
        self._append(Begun(entry.name.as_posix(), _source_of(entry), inside, _mtime(output)))

    def add(self, done: Done) -> None:
        """Remember an output that is whole; it survives a power failure from here on.

        Raises:
            MediaError: the disk refuses.
        """
        self._append(done)

    def _take_back(self) -> None:
        """Forget what was begun and came to nothing: what lies there later is somebody else's."""
        for begun in list(self._begun.values()):
            if not self._came(begun):
                self._append(dataclasses.replace(begun, output=""))

    def _append(self, line: Begun | Done) -> None:
        assert self._file is not None
        self._keep(line)
        try:
            self._file.write(json.dumps(dataclasses.asdict(line)) + "\n")
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
    if not job.formats:
        del facts["formats"]  # records from before there was such a word stay true
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
        source=_source_of(entry),
        identity=(entry.identity.size, entry.identity.mtime_ns),
        asked=asked_of(job),
        weights=weights,
        output=output.relative_to(folder).as_posix(),
        bytes=output.stat().st_size,
    )


def _line_of(text: str) -> Begun | Done | None:
    """What a line says; None if it is none of ours or cut short."""
    try:
        content = json.loads(text)
        if "identity" not in content:
            return Begun(**content)
        return Done(**{**content, "identity": tuple(content["identity"])})
    except (ValueError, TypeError):
        return None


def _source_of(entry: Entry) -> str:
    return str(entry.source.resolve())


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _mtime(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
