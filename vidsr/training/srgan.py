"""The super-resolution recipe: options, step, loop. Reads top to bottom.

For now the fidelity stage alone: L1 against the original, Adam, a cosine schedule, and an
exponential moving average of the weights, which is what is exported.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidsr.engines.precision import DTYPES, Precision, fastest_precision
from vidsr.errors import ModelError, RequestError
from vidsr.evaluation.metrics import enlarge, mean_psnr, psnr_y, shrink, to_picture
from vidsr.models.card import ModelCard, sha256_of
from vidsr.models.load import build
from vidsr.training import checkpoint
from vidsr.training.data import Crops, load_pictures

WARM_UP_STEPS = 8  # before the length of a run of so many minutes is settled
EXAM_SIDE = 256  # pixels of a validation crop


@dataclass(frozen=True)
class UpscaleRecipe:
    """What to train, on what, and for how long."""

    name: str  # of the exported weights
    data: tuple[Path, ...]  # folders of training pictures
    validation: tuple[Path, ...] = ()  # folders of pictures to measure PSNR-Y on
    network: Literal["compact", "srgan"] = "compact"
    scale: int = 4
    channels: int = 32
    blocks: int = 8
    minutes: float | None = None  # scales the schedule to a budget, by the measured rate
    steps: int | None = None  # or the length of the schedule in iterations
    batch: int = 16
    patch: int = 24  # side of a low-res patch in pixels
    learning_rate: float = 1e-3  # at its peak; Adam (Kingma and Ba 2015)
    ema: float = 0.999  # decay of the averaged weights, per step
    seed: int = 0
    license: str = ""  # of the weights, for their card; follows from the pictures
    report_every_seconds: float = 2.0
    checkpoint_every_seconds: float = 60.0  # at the first report after that time

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise RequestError("a training needs either --minutes or --steps")
        if self.scale not in {2, 3, 4}:
            raise RequestError(f"scale {self.scale} cannot be trained; 2, 3 or 4 can")
        if not 0 <= self.ema < 1:
            raise RequestError(f"ema {self.ema} is no decay; it lies in [0, 1)")
        for word in ("minutes", "steps", "channels", "blocks", "batch", "patch", "learning_rate"):
            value = getattr(self, word)
            if value is not None and value <= 0:
                raise RequestError(f"a training needs {word} above zero, not {value}")

    def card(self) -> ModelCard:
        """The card of the network to be trained, before it has weights."""
        sizes = {"channels": self.channels, "blocks": self.blocks}
        draft = ModelCard(self.name, self.network, sizes, self.scale, 0, half=True, sha256="")
        with torch.device("meta"):  # only its geometry is asked for
            return replace(draft, halo=build(draft).reach)


@dataclass
class TrainProgress:
    """One report of a running training."""

    step: int
    total_steps: int
    loss: float  # mean L1 since the last report, pictures in [0,1]
    megapixels_per_second: float  # of high-res crops
    seconds_left: float
    psnr: float | None = None  # dB on the validation crops, where it was measured


@dataclass
class _Run:
    """What changes while training, and what a checkpoint therefore holds."""

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    precision: Precision
    step: int = 0
    total_steps: int = 0  # 0 until the budget's worth of steps is known
    seconds: float = 0.0  # over all sessions
    log: list[dict[str, float]] = field(default_factory=list)

    @property
    def unfinished(self) -> bool:
        return self.total_steps == 0 or self.step < self.total_steps


def train(recipe: UpscaleRecipe, run_dir: Path, *, resume: bool = False) -> Iterator[TrainProgress]:
    """Train, reporting as it goes; the last report comes when weights and card are written.

    A resumed run draws the same crops and gives the same losses as an uninterrupted one. It keeps
    the length and the precision that the run was begun with.

    Raises:
        RequestError: the data cannot be used, a run is already there, or the training diverged.
        ModelError: `resume` without a whole checkpoint of this network.
        MediaError: the run folder cannot be written; the last good checkpoint stays.
    """
    if not resume and (run_dir / "checkpoint.safetensors").exists():
        raise RequestError(f"{run_dir} already holds a training; resume it or name another folder")
    side = recipe.patch * recipe.scale
    crops = Crops(
        load_pictures(recipe.data, min_side=side), recipe.scale, recipe.patch, recipe.batch
    )
    exam = _validation_crops(recipe)
    run = _start(recipe, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if resume:
        _restore(run, run_dir)
    reporter = _Reporter(run, recipe)
    while run.unfinished:
        if run.total_steps == 0 and run.step >= WARM_UP_STEPS:
            run.total_steps = reporter.steps_in(recipe.minutes or 0)
        _set_learning_rate(run, recipe)
        reporter.count(train_step(run, *crops.draw(run.generator), recipe.ema))
        if run.unfinished and reporter.report_due():
            report = reporter.report()
            if reporter.checkpoint_due():
                report.psnr = _measure(run, exam, recipe.scale)
                _save(run, recipe, run_dir)
            yield report
    report = reporter.report()
    report.psnr = _measure(run, exam, recipe.scale)
    _save(run, recipe, run_dir)
    measured = {}
    if report.psnr is not None:
        bicubic = _exam_psnr(lambda low_res: enlarge(low_res, recipe.scale), exam, recipe.scale)
        measured = {"psnr_y": round(report.psnr, 2), "bicubic_psnr_y": round(bicubic, 2)}
    export(run, recipe, run_dir, measured)
    yield report


def train_step(run: _Run, low_res: Tensor, high_res: Tensor, ema: float) -> Tensor:
    """One step of Adam on the L1 loss; returns the loss, not synchronized."""
    device = next(run.network.parameters()).device
    low_res, high_res = low_res.to(device), high_res.to(device)
    half = run.precision != "fp32"
    with torch.autocast(device.type, dtype=DTYPES[run.precision], enabled=half):
        output = run.network(low_res.contiguous(memory_format=torch.channels_last))
    loss = F.l1_loss(output.float(), high_res)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    run.optimizer.step()
    decay = min(ema, run.step / (run.step + 10))  # follows closely at the start
    averages: list[Tensor] = list(run.average.parameters())
    weights: list[Tensor] = list(run.network.parameters())
    with torch.no_grad():
        torch._foreach_lerp_(averages, weights, 1 - decay)
    run.step += 1
    return loss.detach()


def export(run: _Run, recipe: UpscaleRecipe, folder: Path, measured: dict[str, float]) -> None:
    """Write the averaged network as `<name>.safetensors` and `<name>.json`, ready for `weights/`.

    `measured` are figures on the validation crops, in dB; it may be empty.

    Raises:
        MediaError: the folder cannot be written.
    """
    weights = folder / f"{recipe.name}.safetensors"
    checkpoint.write_tensors(weights, run.average.state_dict())
    pictures = ", ".join("/".join(folder.parts[-2:]) for folder in recipe.data)
    card = replace(
        recipe.card(),
        sha256=sha256_of(weights),
        summary=f"{recipe.network} {recipe.channels}x{recipe.blocks}, x{recipe.scale}",
        trained_on=(
            f"{pictures}; antialiased bicubic low-res, 8 bit; L1, {run.step} steps of "
            f"{recipe.batch} {recipe.patch}-pixel patches, {run.seconds / 60:.0f} minutes"
        ),
        license=recipe.license,
        measured={"validation crops": measured} if measured else {},
    )
    with checkpoint.replacing(folder / f"{recipe.name}.json") as part:
        card.write(part)


def _start(recipe: UpscaleRecipe, device: torch.device) -> _Run:
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are left alone
        torch.manual_seed(recipe.seed)
        network = build(recipe.card()).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return _Run(
        network=network,
        average=copy.deepcopy(network),
        optimizer=torch.optim.Adam(network.parameters(), lr=recipe.learning_rate),
        generator=torch.Generator().manual_seed(recipe.seed),
        precision=_training_precision(device),
        total_steps=recipe.steps or 0,
    )


def _training_precision(device: torch.device) -> Precision:
    """The fastest format that has fp32's exponents: fp16 loses gradients of 1e-6, as ours are."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return fastest_precision(device)


def _set_learning_rate(run: _Run, recipe: UpscaleRecipe) -> None:
    """Linear warm-up over 100 steps, then half a cosine down to 1 % of the peak."""
    done = run.step / run.total_steps if run.total_steps else 0.0
    cosine = 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.learning_rate * min(1.0, (run.step + 1) / 100) * cosine


class _Reporter:
    """Keeps the clock: when to report, when to save, how many steps fit in the budget."""

    def __init__(self, run: _Run, recipe: UpscaleRecipe) -> None:
        self.run, self.recipe = run, recipe
        self.began = time.monotonic() - run.seconds
        self.warm = (run.step, run.seconds)  # from where the rate is measured
        self.reported = self.saved = time.monotonic()
        self.losses: list[Tensor] = []

    def count(self, loss: Tensor) -> None:
        """Take note of a step that was just made."""
        self.losses.append(loss)
        self.run.seconds = time.monotonic() - self.began
        if self.run.step == WARM_UP_STEPS // 2:
            self.warm = (self.run.step, self.run.seconds)

    def steps_in(self, minutes: float) -> int:
        """How many steps fit in the budget, by the rate of the warm-up's second half."""
        steps, seconds = self.run.step - self.warm[0], self.run.seconds - self.warm[1]
        per_step = seconds / steps if steps else self.run.seconds / self.run.step
        return max(WARM_UP_STEPS + 1, int(minutes * 60 / per_step))

    def report_due(self) -> bool:
        return time.monotonic() - self.reported >= self.recipe.report_every_seconds

    def report(self) -> TrainProgress:
        """The progress since the last report, which is also logged in the run.

        Raises:
            RequestError: the loss is not a number any more.
        """
        run, now = self.run, time.monotonic()
        if not self.losses:  # a finished run was resumed
            return TrainProgress(run.step, run.total_steps, run.log[-1]["loss"], 0.0, 0.0)
        loss = float(torch.stack(self.losses).mean())
        if not math.isfinite(loss):
            raise RequestError(
                f"the training diverged before step {run.step} (loss {loss}); begin it again with "
                f"a learning rate below {self.recipe.learning_rate}"
            )
        rate = len(self.losses) / max(now - self.reported, 1e-9)
        megapixels = self.recipe.batch * (self.recipe.patch * self.recipe.scale) ** 2 / 1e6
        left = max(run.total_steps - run.step, 0) / rate
        self.losses, self.reported = [], now
        run.log.append({"step": run.step, "loss": loss})
        return TrainProgress(run.step, run.total_steps, loss, rate * megapixels, left)

    def checkpoint_due(self) -> bool:
        due = time.monotonic() - self.saved >= self.recipe.checkpoint_every_seconds
        if due:
            self.saved = time.monotonic()
        return due


def _validation_crops(recipe: UpscaleRecipe) -> list[Tensor]:
    """The middle of each validation picture, (1,3,side,side) fp32 in [0,1]."""
    if not recipe.validation:
        return []
    pictures = load_pictures(recipe.validation, min_side=EXAM_SIDE)
    side = EXAM_SIDE - EXAM_SIDE % recipe.scale
    return [_middle(picture, side)[None].float().div_(255) for picture in pictures]


def _middle(picture: Tensor, side: int) -> Tensor:
    top, left = (picture.shape[1] - side) // 2, (picture.shape[2] - side) // 2
    return picture[:, top : top + side, left : left + side]


def _measure(run: _Run, exam: list[Tensor], scale: int) -> float | None:
    """PSNR-Y of the averaged network in dB, which is logged too; None without an exam."""
    if not exam:
        return None
    device = next(run.average.parameters()).device
    psnr = _exam_psnr(lambda low_res: run.average(low_res.to(device)), exam, scale)
    run.log[-1]["psnr"] = psnr
    return psnr


def _exam_psnr(stage: Callable[[Tensor], Tensor], exam: list[Tensor], scale: int) -> float:
    with torch.inference_mode():
        return mean_psnr(
            [
                psnr_y(
                    to_picture(stage(shrink(original, scale))), to_picture(original), border=scale
                )
                for original in exam
            ]
        )


def _save(run: _Run, recipe: UpscaleRecipe, run_dir: Path) -> None:
    tensors = {
        **checkpoint.network_tensors("network", run.network),
        **checkpoint.network_tensors("average", run.average),
        **checkpoint.optimizer_tensors(run.optimizer),
        "generator": run.generator.get_state(),
    }
    facts: dict[str, Any] = {
        "step": run.step,
        "total_steps": run.total_steps,
        "seconds": run.seconds,
        "precision": run.precision,
        "recipe": json.loads(json.dumps(asdict(recipe), default=str)),
        "log": run.log,
    }
    checkpoint.save(run_dir / "checkpoint", tensors, facts)


def _restore(run: _Run, run_dir: Path) -> None:
    tensors, facts = checkpoint.load(run_dir / "checkpoint")
    try:
        checkpoint.restore_network("network", run.network, tensors)
        checkpoint.restore_network("average", run.average, tensors)
        checkpoint.restore_optimizer(run.optimizer, tensors)
        run.generator.set_state(tensors["generator"])
        run.step, run.total_steps = int(facts["step"]), int(facts["total_steps"])
        run.seconds, run.log = float(facts["seconds"]), list(facts["log"])
        run.precision = facts.get("precision", run.precision)  # early checkpoints lack it
    except (KeyError, IndexError, TypeError, ValueError) as exc:
        raise ModelError(f"{run_dir}: the checkpoint is not one of an upscaling run") from exc
