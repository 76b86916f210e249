"""Many files: a folder or a list of names -> Jobs -> events; what is done is not done again.

A batch names everything that it meets: each file ends as one `Outcome`, done, skipped (an earlier
run did it, see Note [Done before]), ignored or failed, and a failure stops nothing but itself.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vidsr.batch.executor import Executor, LocalExecutor, Planned, Task
from vidsr.batch.listing import Entry, Folder, Listing, list_folder, list_inputs, stands_for_others
from vidsr.batch.outcome import Outcome, Summary
from vidsr.batch.record import Record, asked_of, done_of
from vidsr.engines.remembered import usable_cores
from vidsr.errors import RequestError, VidsrError
from vidsr.events import Progress, Result
from vidsr.job import plan
from vidsr.media import images
from vidsr.memory import memory_limit
from vidsr.models.card import sha256_of, shipped_cards
from vidsr.models.families import choose_colorizer, family_of
from vidsr.models.load import CHECKPOINT_SUFFIXES, find_twin, resolve
from vidsr.request import Job

__all__ = [
    "BatchEvent",
    "BatchRequest",
    "Executor",
    "Folder",
    "Listed",
    "LocalExecutor",
    "Outcome",
    "Planned",
    "Summary",
    "Told",
    "preview",
    "run",
    "stands_for_others",
]


@dataclass(frozen=True)
class BatchRequest:
    """What was asked for."""

    inputs: Folder | tuple[Path, ...]  # names may be globs
    output: Path  # a folder; made if the one that it is in exists
    job: Job  # what is done with each file; source and destination are filled in
    jobs: int = 1  # files at once

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise RequestError(f"--jobs {self.jobs}: at least 1")


@dataclass(frozen=True)
class Listed:
    """The first event: how many files there are to do."""

    waiting: int


@dataclass(frozen=True)
class Told:
    """How it goes with one file."""

    source: Path
    event: Planned | Progress


BatchEvent = Listed | Told | Outcome | Summary


def preview(request: BatchRequest) -> Summary:
    """What `run` would begin with; a file that is to be done has the status "waiting".

    Raises:
        VidsrError: as `run`.
    """
    began = time.perf_counter()
    _check_output(request.output)
    _check_networks(request.job)
    work = _Work(request, Record(request.output))
    waiting = (
        Outcome(entry.source, "waiting", work.again.get(entry.source, "")) for entry in work.waiting
    )
    return Summary((*waiting, *work.settled), time.perf_counter() - began)


def run(
    request: BatchRequest, executor: Executor | None = None
) -> Generator[BatchEvent, None, None]:
    """Do it: yields `Listed`, then what is told of each file, its `Outcome`, and one `Summary`.

    Closing the iterator, or an exception thrown into it, stops everything; what is done stays done.

    Args:
        request: what was asked for.
        executor: who does it; None is a `LocalExecutor`.

    Raises:
        VidsrError: nothing could be begun: no such input, no such model, no place for outputs.
    """
    began = time.perf_counter()
    _check_output(request.output)
    _check_networks(request.job)
    executor = executor or LocalExecutor(request.jobs)
    record = Record(request.output)
    with _folder(request.output), record.writing():
        work = _Work(request, record)
        yield Listed(len(work.waiting))
        yield from work.settled
        outcomes = [*work.settled]
        with contextlib.closing(executor.run(work.tasks())) as tellings:
            for number, telling in tellings:
                entry = work.waiting[number]
                if isinstance(telling, Planned):
                    work.begin(number, telling)
                if isinstance(telling, Planned | Progress):
                    yield Told(entry.source, telling)
                    continue
                outcomes.append(work.settle(number, telling))
                yield outcomes[-1]
    yield Summary(tuple(outcomes), time.perf_counter() - began)


class _Work:
    """What is to do, and what is settled without doing anything."""

    def __init__(self, request: BatchRequest, record: Record) -> None:
        self.request, self.record = request, record
        asked, weights = asked_of(request.job), _weights_there_are(request.job)
        listing = _list(request)
        before = [entry for entry in listing.entries if record.of(entry)]
        self.again = {e.source: record.why_again(e, asked, weights) for e in before}
        done = {source for source, why in self.again.items() if not why}
        refused = _refused(request, record, listing.entries, done)
        self.waiting = [e for e in listing.entries if e.source not in done | refused.keys()]
        self.settled = [
            *(Outcome(source, "skipped", "done before") for source in sorted(done)),
            *listing.left,
            *(Outcome.of_failure(source, error) for source, error in refused.items()),
        ]
        self.begun: dict[int, Planned] = {}

    def tasks(self) -> Iterator[Task]:
        """A task for each entry, numbered by its place; several at once share what they take."""
        asked, jobs = self.request.job, self.request.jobs
        if jobs > 1:
            share = max(1, (asked.engine.threads or usable_cores()) // jobs)
            encoder = replace(asked.encoder, threads=asked.encoder.threads or share)
            asked = replace(asked, engine=replace(asked.engine, threads=share), encoder=encoder)
            asked = replace(asked, max_memory=memory_limit(asked.max_memory) // jobs)
        for number, entry in enumerate(self.waiting):
            job = replace(
                asked,
                source=entry.source,
                destination=(self.request.output / entry.name).parent,
                overwrite=asked.overwrite or self.record.is_ours(entry),
            )
            yield Task(number, job, entry.identity)

    def begin(self, number: int, planned: Planned) -> None:
        """Note what will come of a file, before it is written."""
        self.begun[number] = planned
        self.record.begin(self.waiting[number], planned.destination)

    def settle(self, number: int, telling: Result | VidsrError) -> Outcome:
        """The outcome of a file, and its line in the record."""
        entry, output = self.waiting[number], self.request.output
        if isinstance(telling, VidsrError):
            _remove_empty((output / entry.name).parent, output)
            return Outcome.of_failure(entry.source, telling)
        again = self.again.get(entry.source, "")
        weights = list(self.begun[number].weights)
        self.record.add(done_of(entry, self.request.job, weights, telling.destination, output))
        return Outcome(entry.source, "done", result=telling, again=again)


def _list(request: BatchRequest) -> Listing:
    if isinstance(request.inputs, Folder):
        return list_folder(request.inputs, request.output)
    return list_inputs(request.inputs)


def _refused(
    request: BatchRequest, record: Record, entries: list[Entry], done: set[Path]
) -> dict[Path, VidsrError]:
    """Entries whose output is another one's, an input, or outside the output folder, and why."""
    inputs = {entry.source.resolve(): entry for entry in entries}
    outputs = {entry.source: _output_name(entry, record, done) for entry in entries}
    outputs.update(_moved(entries, request, done))
    taken: dict[Path, Entry] = {}
    refused: dict[Path, VidsrError] = {}
    # What is done keeps its output, and then whoever keeps its name.
    for entry in sorted(entries, key=lambda e: (e.source not in done, outputs[e.source] != e.name)):
        output = request.output / outputs[entry.source]
        other = taken.setdefault(output, entry)
        if other is entry:
            other = inputs.get(output.resolve(), entry)
        if other is not entry:
            refused[entry.source] = RequestError(
                f"{entry.source} would be written to {output}, which belongs to {other.source}; "
                "rename one of them, or give it another output folder"
            )
        elif not output.parent.resolve().is_relative_to(request.output.resolve()):
            refused[entry.source] = RequestError(
                f"{output.parent} is a link that leads out of {request.output}; remove it"
            )
    return refused


def _output_name(entry: Entry, record: Record, done: set[Path]) -> Path:
    """Where an output is, or will be unless its container must change."""
    before = record.of(entry)
    return Path(before.output) if before and entry.source in done else entry.name


def _moved(
    entries: list[Entry], request: BatchRequest, done: set[Path]
) -> Iterator[tuple[Path, Path]]:
    """(source, name of its output) of entries whose names might meet another's, as planned.

    A plan changes nothing but the suffix, and a picture's only if a format is asked for; so only
    those whose names differ in nothing else from another entry's are planned for this.
    """
    alike = Counter(entry.name.with_suffix("") for entry in entries)
    folder = request.output if request.output.is_dir() else request.output.parent
    for entry in entries:
        alone = alike[entry.name.with_suffix("")] == 1
        stays = images.is_picture(entry.source) and not request.job.formats
        if alone or entry.source in done or stays:
            continue
        job = replace(request.job, source=entry.source, destination=folder, overwrite=True)
        with contextlib.suppress(VidsrError):  # it will fail by itself
            yield entry.source, entry.name.with_name(plan(job).destination.name)


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise RequestError(f"{output} is a file; -o names a folder for several outputs")
    if not output.exists() and not output.parent.is_dir():
        raise RequestError(f"{output.parent}: no such folder to make {output.name} in")
    folder = output if output.exists() else output.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(f"{folder} cannot be written; name another output with -o")


def _check_networks(job: Job) -> None:
    """What would fail for every file fails here, once."""
    model = job.engine.model
    if job.size is not None and model is not None and not family_of(model):
        resolve(model)
    if job.color is not None:
        choose_colorizer(job.color.model)


def _weights_there_are(job: Job) -> set[str]:
    """Hashes of all weights that ship, and of the checkpoints that are named."""
    hashes = {card.sha256 for card in shipped_cards()}
    for name in (job.engine.model, job.color.model if job.color else None):
        if name is not None and name.lower().endswith(CHECKPOINT_SUFFIXES):
            twin = find_twin(Path(name))
            hashes |= {sha256_of(path) for path in (Path(name), twin.path if twin else Path(name))}
    return hashes


@contextlib.contextmanager
def _folder(output: Path) -> Iterator[None]:
    """The output folder, made if need be, and gone again if nothing came into it."""
    output.mkdir(exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            output.rmdir()


def _remove_empty(folder: Path, output: Path) -> None:
    """Remove folders that were made for an output that did not come."""
    with contextlib.suppress(OSError):
        while folder != output:
            folder.rmdir()
            folder = folder.parent
