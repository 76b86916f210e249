"""A running training: its parts, its clock and its log, and how it survives a kill.

What is trained is a `Trainee`; the loop, the budget, checkpoints and reports are the same for all.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidsr.errors import ModelError, RequestError
from vidsr.training import checkpoint

log = logging.getLogger("vidsr.training")

WARM_UP_STEPS = 8  # at least, before the length of a run of so many minutes is settled
WARM_UP_SECONDS = 10.0  # the same; over two, a busy machine told 69 thousand steps and then 98
WARM_UP_SHARE = 0.02  # of a run's minutes, that are enough
LOST = 100.0  # times the usual loss: a training that is there never comes back
USUAL = 20  # reports, before that is known
SHARE = "share"  # of the learning rate: what a group of weights may have
LEARNING_WARM_UP = 100  # steps over which the learning rate rises to its peak

Losses = dict[str, Tensor]  # the first is the one that is reported; scalars, not synchronized
Draw = Callable[[torch.Generator], tuple[Tensor, Tensor]]  # -> inputs and what they should become


class Trainee(Protocol):
    """What is trained, as the loop sees it."""

    modules: dict[str, nn.Module]  # all that a checkpoint must hold
    optimizers: dict[str, torch.optim.Optimizer]
    first_typical_step: int  # from which on every step costs the same

    def step(self, inputs: Tensor, targets: Tensor, number: int) -> Losses:
        """One step of the optimizers; `number` counts from 0 over all sessions."""


@dataclass(frozen=True)
class Budget:
    """How long a training runs and how often it reports."""

    minutes: float | None  # scales the schedule to a budget, by the measured rate
    steps: int | None  # or the length of the schedule in iterations
    report_every_seconds: float = 2.0
    checkpoint_every_seconds: float = 60.0  # at the first report after that time
    session_minutes: float | None = None  # stop then, whole and resumable

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise RequestError("a training needs either --minutes or --steps")


@dataclass
class TrainProgress:
    """One report of a running training."""

    step: int
    total_steps: int  # 0 until the budget's worth of steps is known
    loss: float  # the mean since the last report
    megapixels_per_second: float  # of target crops
    teraflops_per_second: float  # forward and backward, as torch counts them
    seconds_left: float
    psnr: float | None = None  # dB on the validation crops, where it was measured


@dataclass
class Run:
    """What changes while training, beside the parts of the trainee."""

    folder: Path
    trainee: Trainee
    generator: torch.Generator
    facts: dict[str, Any]  # of the recipe; kept in the checkpoint for reading and resuming
    step: int = 0
    total_steps: int = 0  # 0 until the budget's worth of steps is known
    seconds: float = 0.0  # over all sessions
    flops: int = 0  # of one typical step; 0 until it was counted
    log: list[dict[str, float]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether the schedule is at its end."""
        return 0 < self.total_steps <= self.step

    def save(self) -> None:
        """Write checkpoint and log.

        Raises:
            MediaError: the folder cannot be written; the last good checkpoint stays.
        """
        tensors = {"generator": self.generator.get_state()}
        for name, module in self.trainee.modules.items():
            tensors |= checkpoint.network_tensors(name, module)
        for name, optimizer in self.trainee.optimizers.items():
            tensors |= checkpoint.optimizer_tensors(name, optimizer)
        facts = {
            "step": self.step,
            "total_steps": self.total_steps,
            "seconds": self.seconds,
            "flops": self.flops,
            **self.facts,
            "log": self.log,
        }
        checkpoint.save(self.folder / "checkpoint", tensors, facts)
        write_log(self.folder, self.log)

    def restore(self) -> None:
        """Go back to the last checkpoint.

        Raises:
            ModelError: there is none, it is damaged, or it is of another network.
        """
        tensors, facts = checkpoint.load(self.folder / "checkpoint")
        try:
            for name, module in self.trainee.modules.items():
                checkpoint.restore_network(name, module, tensors)
            for name, optimizer in self.trainee.optimizers.items():
                checkpoint.restore_optimizer(name, optimizer, tensors)
            self.generator.set_state(tensors["generator"])
            self.step, self.total_steps = int(facts["step"]), int(facts["total_steps"])
            self.seconds, self.log = float(facts["seconds"]), list(facts["log"])
            self.flops = int(facts.get("flops", 0))
        except (KeyError, IndexError, TypeError, ValueError) as exc:
            raise ModelError(f"{self.folder}: the checkpoint is not one of this training") from exc


def loop(
    run: Run, draw: Draw, budget: Budget, examine: Callable[[], float | None]
) -> Iterator[TrainProgress]:
    """Train until the schedule or the session ends, reporting as it goes.

    The last report comes after the last checkpoint is written. `examine` measures PSNR in dB.

    Raises:
        RequestError: the training diverged.
        MediaError: the run folder cannot be written; the last good checkpoint stays.
    """
    clock = _Clock(run, budget)
    run.total_steps = run.total_steps or budget.steps or 0
    peaks = {name: _learning_rate(part) for name, part in run.trainee.optimizers.items()}
    while not run.finished and not clock.session_over():
        if run.total_steps == 0 and clock.is_warm():
            run.total_steps = clock.steps_in(budget.minutes or 0)
        for name, optimizer in run.trainee.optimizers.items():
            _set_learning_rate(optimizer, peaks[name] * _schedule(run))
        inputs, targets = draw(run.generator)
        with clock.counting_flops():
            losses = run.trainee.step(inputs, targets, run.step)
        run.step += 1
        clock.count(losses, targets)
        if not run.finished and clock.report_due():
            report = clock.report()
            if clock.checkpoint_due():
                report.psnr = _examined(run, examine)
                run.save()
            yield report
    report = clock.report()
    report.psnr = _examined(run, examine)
    run.save()
    yield report


def write_log(folder: Path, entries: list[dict[str, float]]) -> None:
    """Write `log.csv`, and `plot.png` where matplotlib is installed.

    Raises:
        MediaError: the folder cannot be written.
    """
    columns = list(dict.fromkeys(name for entry in entries for name in entry))
    with (
        checkpoint.replacing(folder / "log.csv") as part,
        part.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(entries)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        log.info("no plot.png without matplotlib: pip install 'vidsr[train]'")
        return
    figure = Figure(figsize=(8, 4), layout="constrained")
    losses = figure.add_subplot(xlabel="step", ylabel="loss", yscale="log")
    losses.plot(*_series(entries, "loss"), linewidth=1, label="loss")
    if any("psnr" in entry for entry in entries):
        psnr = losses.twinx()
        psnr.set_ylabel("validation PSNR-Y, dB")
        psnr.plot(*_series(entries, "psnr"), color="tab:red", label="PSNR-Y")
    with checkpoint.replacing(folder / "plot.png") as part:
        figure.savefig(part, format="png")


def _series(entries: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    points = [(entry["step"], entry[name]) for entry in entries if name in entry]
    return [x for x, _ in points], [y for _, y in points]


def _examined(run: Run, examine: Callable[[], float | None]) -> float | None:
    """What `examine` measured, which is logged too."""
    psnr = examine()
    if psnr is not None and run.log:
        run.log[-1]["psnr"] = psnr
    return psnr


def _learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """The peak that the optimizer was made with."""
    return float(optimizer.defaults["lr"])


def _set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        own = rate * group.get(SHARE, 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(own)  # where a recorded step reads it
        else:
            group["lr"] = own


def _schedule(run: Run) -> float:
    """Linear warm-up, then half a cosine down to 1 % of the peak."""
    done = run.step / run.total_steps if run.total_steps else 0.0
    cosine = 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2
    return min(1.0, (run.step + 1) / LEARNING_WARM_UP) * cosine


class _Clock:
    """Knows when to report, when to save, and how many steps fit in the budget."""

    def __init__(self, run: Run, budget: Budget) -> None:
        self.run, self.budget = run, budget
        self.opened = self.reported = self.saved = time.monotonic()
        self.began = self.opened - run.seconds
        self.warm = (run.step, run.seconds)  # from where the rate is measured
        self.losses: list[Losses] = []
        self.pixels = 0  # of targets since the last report

    def session_over(self) -> bool:
        limit = self.budget.session_minutes
        return limit is not None and time.monotonic() - self.opened >= limit * 60

    def counting_flops(self) -> _Counting:
        """Counts the operations of the first typical step, and none later.

        Not even after a resume: a counted step computes some operations in parts, which rounds
        otherwise, so the resumed run would differ from the uninterrupted one.
        """
        wanted = self.run.flops == 0 and self.run.step >= self.run.trainee.first_typical_step
        return _Counting(self, wanted=wanted)

    def count(self, losses: Losses, targets: Tensor) -> None:
        """Take note of a step that was just made."""
        self.losses.append(losses)
        self.pixels += targets.shape[0] * targets.shape[-2] * targets.shape[-1]
        self.run.seconds = time.monotonic() - self.began
        if self.run.step == self.run.trainee.first_typical_step + WARM_UP_STEPS // 2:
            self.warm = (self.run.step, self._seconds())

    def is_warm(self) -> bool:
        """Whether there were steps enough to tell the rate by."""
        run, minutes = self.run, self.budget.minutes or 0.0
        enough = min(WARM_UP_SECONDS, WARM_UP_SHARE * minutes * 60)
        many = run.step >= run.trainee.first_typical_step + WARM_UP_STEPS
        return many and run.seconds - self.warm[1] >= enough

    def _seconds(self) -> float:
        """Of all sessions, until all that was begun is done: a GPU runs behind."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.run.seconds = time.monotonic() - self.began
        return self.run.seconds

    def steps_in(self, minutes: float) -> int:
        """How many steps fit in the budget, by the rate of the warm-up's second half."""
        run = self.run
        steps, seconds = run.step - self.warm[0], self._seconds() - self.warm[1]
        per_step = seconds / steps if steps else run.seconds / run.step
        left = minutes * 60 - run.seconds
        return run.step + max(1, int(left / per_step))

    def _is_lost(self, loss: float) -> bool:
        """Whether a loss is so far above the usual that the weights are ruined."""
        usual = [abs(entry["loss"]) for entry in self.run.log]
        return len(usual) >= USUAL and loss > LOST * statistics.median(usual)

    def report_due(self) -> bool:
        return time.monotonic() - self.reported >= self.budget.report_every_seconds

    def report(self) -> TrainProgress:
        """The progress since the last report, which is also logged in the run.

        Raises:
            RequestError: the loss is not a number any more, or beyond all measure.
        """
        run, now = self.run, time.monotonic()
        if not self.losses:  # a finished run was resumed
            loss = run.log[-1]["loss"] if run.log else math.nan
            return TrainProgress(run.step, run.total_steps, loss, 0.0, 0.0, 0.0)
        # In an adversarial stage some steps have other losses than others.
        names = list(self.losses[-1])
        same = [losses for losses in self.losses if list(losses) == names]
        means = {name: float(torch.stack([x[name] for x in same]).mean()) for name in names}
        loss = means[names[0]]
        if not math.isfinite(loss) or self._is_lost(loss):
            raise RequestError(
                f"the training diverged before step {run.step} (loss {loss:g}); go on from its "
                "last checkpoint with --resume, or begin it again with a lower learning rate"
            )
        elapsed = max(now - self.reported, 1e-9)
        rate = len(self.losses) / elapsed
        left = max(run.total_steps - run.step, 0) / rate
        report = TrainProgress(
            run.step,
            run.total_steps,
            loss,
            self.pixels / elapsed / 1e6,
            run.flops * rate / 1e12,
            left,
        )
        self.losses, self.reported, self.pixels = [], now, 0
        first, *others = names
        run.log.append(
            {"step": run.step, "seconds": round(run.seconds, 1), "loss": means[first]}
            | {name: means[name] for name in others}
        )
        return report

    def checkpoint_due(self) -> bool:
        due = time.monotonic() - self.saved >= self.budget.checkpoint_every_seconds
        if due:
            self.saved = time.monotonic()
        return due


class _Counting:
    """Counts floating-point operations within a `with` block if wanted."""

    def __init__(self, clock: _Clock, *, wanted: bool) -> None:
        self.clock, self.wanted = clock, wanted
        self.counter = FlopCounterMode(display=False)
        self.open = ExitStack()

    def __enter__(self) -> None:
        if self.wanted:
            if torch.cuda.is_available():  # the counter cannot see into compiled networks
                self.open.enter_context(torch.compiler.set_stance("force_eager"))
            self.open.enter_context(self.counter)

    def __exit__(self, *exc: object) -> None:
        self.open.close()
        if self.wanted:
            self.clock.run.flops = self.counter.get_total_flops()


def stored_facts(folder: Path) -> dict[str, Any]:
    """What the checkpoint of a run says of itself.

    Raises:
        ModelError: no checkpoint there.
    """
    return checkpoint.load(folder / "checkpoint")[1]


def begin(folder: Path, *, resume: bool) -> None:
    """Refuse to begin where a training already is.

    Raises:
        RequestError: with the way out.
    """
    if not resume and (folder / "checkpoint.safetensors").exists():
        raise RequestError(f"{folder} already holds a training; resume it or name another folder")


def plain(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts as JSON keeps them: paths become strings, tuples lists."""
    content: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return content
