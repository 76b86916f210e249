"""Who does the files of a batch: this process, or several on this machine.

Note [One process a file]
~~~~~~~~~~~~~~~~~~~~~~~~~
torch's threads are set for a whole process and a decoder that crashes takes its process along. So
several files at once are done by as many processes, each fed one file after the other; one that
dies costs the file it was at, and another takes its place. What travels is data: Tasks there,
events and errors back. A worker writes nothing before its parent has answered to what it planned,
which is recorded first, see Note [Done before]. Ctrl-C reaches every process of a terminal, so
these ignore it, and are told by their parent (SIGTERM, once) to leave their file without a trace.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from vidsr.batch.listing import Identity
from vidsr.draft import Plan
from vidsr.engines.memory import keep_freed_memory
from vidsr.errors import MediaError, VidsrError
from vidsr.events import Progress, Result
from vidsr.job import plan, run
from vidsr.networks import EnginePlan
from vidsr.request import Job
from vidsr.still import StillPlan

GRACE_SECONDS = 30  # to leave a file without a trace, before a process is killed

log = logging.getLogger("vidsr.batch")


@dataclass(frozen=True)
class Task:
    """One file to do; plain data."""

    number: int  # what the answers are told apart by
    job: Job  # its destination is a folder, which is made
    identity: Identity  # of the source when it was listed


@dataclass(frozen=True)
class Planned:
    """A file is begun, and this will come of it."""

    destination: Path
    frames_expected: int
    weights: tuple[str, ...]  # SHA-256 of every file that is used


Telling = Planned | Progress | Result | VidsrError  # the last one is a Result or an error


class Executor(Protocol):
    """Does tasks, here or elsewhere; see `LocalExecutor`."""

    def run(self, tasks: Iterable[Task]) -> Generator[tuple[int, Telling], None, None]:
        """Do all tasks, taking the next one when there is room for it.

        Yields a task's number and what it tells; each task ends with one `Result` or one error,
        and an error ends nothing else. What is `Planned` is not written before the next step of
        the iterator. Closing it stops everything, and nothing half-written is left.
        """


@dataclass(frozen=True)
class LocalExecutor:
    """Does tasks on this machine, `jobs` at once."""

    jobs: int = 1
    cache_dir: Path | None = None  # as `job.plan` takes it

    def run(self, tasks: Iterable[Task]) -> Generator[tuple[int, Telling], None, None]:
        """As `Executor` says; one at a time in this very process."""
        if self.jobs > 1:
            yield from _side_by_side(tasks, self.jobs, self.cache_dir)
            return
        for task in tasks:
            for telling in work(task, self.cache_dir):
                yield task.number, telling


def work(task: Task, cache_dir: Path | None) -> Iterator[Telling]:
    """Do one task; whatever goes wrong is told, not raised."""
    try:
        yield from _work(task, cache_dir)
    except VidsrError as exc:
        yield exc
    except Exception as exc:  # a worker's top: the other files go on
        log.exception("%s", task.job.source)
        yield VidsrError(f"{task.job.source}: unexpected {type(exc).__name__}: {exc}")


def _work(task: Task, cache_dir: Path | None) -> Iterator[Telling]:
    _check_identity(task, "while it waited")
    _make_folder(task.job.destination)
    planned = plan(task.job, cache_dir=cache_dir)
    expected = planned.frames_expected if isinstance(planned, Plan) else 1
    yield Planned(planned.destination, expected, _weights_of(planned))
    with contextlib.closing(run(planned)) as events:
        for event in events:
            if isinstance(event, Result):
                _check_whole(task, event)
            yield event


def _make_folder(folder: Path | None) -> None:
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise MediaError(f"{folder}: the folder cannot be made ({exc.strerror})") from exc


def _check_identity(task: Task, when: str) -> None:
    source, then = task.job.source, task.identity
    try:
        now = Identity.of(source)
    except OSError as exc:
        raise MediaError(f"{source} is gone: it was there when the batch began") from exc
    if now != then:
        sizes = f" (from {then.size} to {now.size} bytes)" if now.size != then.size else ""
        raise MediaError(f"{source} changed {when}{sizes}; once it is whole, run the batch again")


def _check_whole(task: Task, result: Result) -> None:
    """An output of an input that changed meanwhile is of no use."""
    try:
        _check_identity(task, "while it was read")
    except MediaError:
        result.destination.unlink(missing_ok=True)
        raise


def _weights_of(planned: Plan | StillPlan) -> tuple[str, ...]:
    engines: list[EnginePlan] = [planned.engine]
    if planned.color is not None:
        engines.append(planned.color.engine)
    hashes = set()
    for weights in (engine.weights for engine in engines):
        hashes.add(weights.card.sha256)
        if weights.twin is not None and weights.fidelity < 1:
            hashes.add(weights.twin.card.sha256)
    return tuple(sorted(hashes))


# ------------------------------------------------------------------ several processes


def _side_by_side(
    tasks: Iterable[Task], jobs: int, cache_dir: Path | None
) -> Generator[tuple[int, Telling], None, None]:
    waiting = iter(tasks)
    busy: dict[Connection, _Worker] = {}
    try:
        for task in (task for _, task in zip(range(jobs), waiting, strict=False)):
            worker = _Worker(cache_dir, task)
            busy[worker.pipe] = worker
        while busy:
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                worker = busy[pipe]
                telling = worker.receive()
                yield worker.task.number, telling
                if isinstance(telling, Planned):
                    worker.go_on()
                if isinstance(telling, Result | VidsrError):
                    busy.pop(pipe)
                    following = _give_next(worker, waiting, cache_dir)
                    busy.update({following.pipe: following} if following else {})
    finally:
        for worker in busy.values():
            worker.process.terminate()  # all at once, so that they end together
        for worker in busy.values():
            worker.close()


def _give_next(worker: _Worker, waiting: Iterator[Task], cache_dir: Path | None) -> _Worker | None:
    """The worker with its next task, or another one if it died; None when none is left."""
    task = next(waiting, None)
    if task is None:
        worker.close()
        return None
    if not worker.dead:
        with contextlib.suppress(OSError):  # it died just now
            worker.give(task)
            return worker
    worker.close()
    return _Worker(cache_dir, task)


class _Worker:
    """A process at one task after the other, seen from its parent."""

    def __init__(self, cache_dir: Path | None, task: Task) -> None:
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        self.pipe, theirs = context.Pipe()
        self.process: Any = context.Process(target=_serve, args=(theirs, cache_dir), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is noticed here
        self.dead = False
        self.give(task)

    def give(self, task: Task) -> None:
        self.task = task
        self.pipe.send(task)

    def go_on(self) -> None:
        """Let it write what it planned."""
        with contextlib.suppress(OSError):  # it died; `receive` says so
            self.pipe.send(None)

    def receive(self) -> Telling:
        """What it tells next, or that it died."""
        try:
            telling: Telling = self.pipe.recv()
        except (EOFError, OSError):
            self.dead = True
            self.process.join(GRACE_SECONDS)
            return VidsrError(
                f"{self.task.job.source}: the process at work on it died (exit code "
                f"{self.process.exitcode}); memory may be short: try fewer --jobs"
            )
        return telling

    def close(self) -> None:
        """Let it end."""
        self.pipe.close()
        self.process.join(GRACE_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _serve(pipe: Connection, cache_dir: Path | None) -> None:
    """The process itself: works until the pipe is closed or it is told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    keep_freed_memory()
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            with contextlib.closing(_tellings(pipe.recv(), cache_dir)) as tellings:
                for telling in tellings:
                    pipe.send(telling)
                    if isinstance(telling, Planned):
                        pipe.recv()  # see `go_on`


def _tellings(task: Task, cache_dir: Path | None) -> Generator[Telling, None, None]:
    yield from work(task, cache_dir)


def _stop(signum: int, frame: object) -> None:
    """Stop once: a second signal must not cut short how the file is left."""
    signal.signal(signum, signal.SIG_IGN)
    raise KeyboardInterrupt
