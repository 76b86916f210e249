"""The colorization recipe: data, stages, export. Reads top to bottom.

Two stages. "pretrain" teaches which colors are likely where (rebalanced classification, the error
of the mean color, or both: see `color_classes`). "adversarial" is Pix2Pix as published (Isola et
al. 2017, arXiv:1611.07004): a PatchGAN beside 100 x L1. It begins from pretrained weights and is to
be short: what a critic adds after that is noise (DeOldify's "NoGAN").

Why a distribution and not ab itself: squared error finds the mean color, and a mean times a factor
strengthens what is doubtful too. A distribution can be sharpened after the training (`sharpen`):
doubtful places turn gray, and what remains can be strengthened. After 988 steps of 8 crops, at 0.54
of the originals' colorfulness, CIEDE2000 was 12.7 for the mean and 11.0 sharpened (gray 11.0), on
39 pictures of color/val at 64 pixels.

What is exported is the moving average of the weights, as it was when it did best on the validation
pictures, and as far as `init_share` says what it was before: half of it kept the colors of the
adversarial stage and left most of its blotches.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidsr.engines.precision import DTYPES, Precision
from vidsr.errors import ModelError
from vidsr.models.card import ModelCard, sha256_of
from vidsr.models.load import load, resolve
from vidsr.models.pix2pix import (
    ColorGenerator,
    Pix2PixGenerator,
    Pix2PixLite,
    Pix2PixOptions,
    sharpen,
)
from vidsr.training import checkpoint
from vidsr.training.color_classes import ColorClasses, class_prior
from vidsr.training.color_data import ColorCrops, load_small
from vidsr.training.color_exam import ColorExam
from vidsr.training.color_recipe import ColorizeRecipe
from vidsr.training.descent import approach, between, descend, early_decay
from vidsr.training.losses import discriminator_loss, generator_loss, l1
from vidsr.training.patchgan import PatchDiscriminator
from vidsr.training.precision import training_precision
from vidsr.training.recipe import as_options
from vidsr.training.run import (
    SHARE,
    Losses,
    Run,
    TrainProgress,
    begin,
    loop,
    plain,
    stored_facts,
)
from vidsr.training.trunk import pretrained_trunk

_TRUNK = {
    "pix2pix": "",
    "pix2pix-lite": "trunk from EfficientNet-Lite0 (ImageNet, Apache-2.0); ",
}
_PRIOR_PICTURES = 400  # enough to know how often each color is


def train(
    recipe: ColorizeRecipe,
    run_dir: Path,
    *,
    resume: bool = False,
    session_minutes: float | None = None,
) -> Iterator[TrainProgress]:
    """Train, reporting as it goes; the last report comes when weights and card are written.

    A resumed run draws the same crops and gives the same losses as an uninterrupted one, in the
    precision that it was begun with. With validation pictures it stops before its time when it gets
    no better (`patience`).

    Args:
        recipe: what to train.
        run_dir: where checkpoint, log, plot, sample sheets and at the end weights and card go.
        resume: go on from the checkpoint in `run_dir`.
        session_minutes: stop then, resumable, if the schedule is not at its end.

    Raises:
        RequestError: the data cannot be used, a run is already there, or the training diverged.
        ModelError: `resume` without a whole checkpoint of this network, or an `init` that does
            not fit.
        MediaError: the run folder cannot be written; the last good checkpoint stays.
    """
    begin(run_dir, resume=resume)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pictures = load_small(recipe.data, side=recipe.side)
    crops = ColorCrops(pictures, recipe.patch, recipe.batch, recipe.aged, recipe.mixed)
    exam = ColorExam.of(recipe.validation, recipe.patch, device) if recipe.validation else None
    stored = stored_facts(run_dir).get("precision") if resume else None
    make = partial(_trainee, recipe, _prior(recipe, pictures), device)
    batch = crops.draw(torch.Generator())
    precision = stored or training_precision(recipe.precision, device, make, *batch)
    trainee = make(precision)
    generator = torch.Generator().manual_seed(recipe.seed)
    facts = {"precision": precision, "recipe": plain(as_options(recipe))}
    run = Run(run_dir, trainee, generator, facts)
    if resume:
        run.restore()

    def examine() -> float | None:
        return _examine(run, trainee, exam) if exam else None

    for report in loop(run, crops.draw, recipe.budget(session_minutes), examine):
        if run.finished:
            export(run, trainee, recipe, exam)
        yield report
        if exam and _examinations_since_best(run) >= recipe.patience:
            run.total_steps = run.step  # which ends the loop


class Pretraining:
    """Which colors are likely where: classification alone."""

    first_typical_step = 0

    def __init__(
        self, recipe: ColorizeRecipe, prior: Tensor, device: torch.device, precision: Precision
    ) -> None:
        self.recipe, self.device, self.precision = recipe, device, precision
        self.network = _initial(recipe).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()  # noqa: FBT003
        self.best = copy.deepcopy(self.average)
        self.classes = ColorClasses(prior, recipe.rebalance).to(device)
        self.modules: dict[str, nn.Module] = {
            "network": self.network,
            "average": self.average,
            "best": self.best,
            "classes": self.classes,
        }
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "optimizer": torch.optim.AdamW(
                _groups(self.network, recipe, recipe.weight_decay), lr=recipe.learning_rate
            )
        }

    def step(self, inputs: Tensor, targets: Tensor, number: int) -> Losses:
        """See `Trainee`."""
        logits = self._logits(self._placed(inputs), number)
        entropy, error = self.classes.losses(logits, self.network.colors, targets.to(self.device))
        loss = self.recipe.entropy * entropy + error
        self.follow(loss, number)
        return {"loss": loss.detach(), "entropy": entropy.detach(), "error": error.detach()}

    def answering(self, network: ColorGenerator) -> ColorGenerator:
        """A copy of one of the networks that answers as the exported one will."""
        copied = copy.deepcopy(network).eval()
        favor = self.classes.weights**-self.recipe.unbalance
        sharpen(copied, self.recipe.temperature, favor)
        return copied

    def follow(self, loss: Tensor, number: int) -> None:
        """One step of the generator, and its average after it."""
        decay = early_decay(self.recipe.ema, number)
        descend(loss, self.network, self.optimizers["optimizer"])
        approach(self.average, self.network, decay)

    def _logits(self, lightness: Tensor, number: int) -> Tensor:
        """Those of the network, in fp32."""
        half = self.precision != "fp32"
        autocast = torch.autocast(self.device.type, dtype=DTYPES[self.precision], enabled=half)
        with self._dice(number), autocast:
            logits: Tensor = self.network.logits(lightness)
        return logits.float()

    def _placed(self, pictures: Tensor) -> Tensor:
        return pictures.to(self.device).contiguous(memory_format=torch.channels_last)

    @contextmanager
    def _dice(self, number: int) -> Iterator[None]:
        """Dropout that depends on the step alone, so that a resumed run drops the same."""
        with torch.random.fork_rng():
            torch.manual_seed(self.recipe.seed * 1_000_003 + number)
            yield


class Adversarial(Pretraining):
    """Pix2Pix: 100 x L1, and a critic that tells real colors of a picture from made ones."""

    def __init__(
        self, recipe: ColorizeRecipe, prior: Tensor, device: torch.device, precision: Precision
    ) -> None:
        super().__init__(recipe, prior, device, precision)
        self.critic = PatchDiscriminator(recipe.critic_channels).to(device)
        self.modules["critic"] = self.critic
        # As published (section 3.3): Adam with a short memory of the gradient.
        self.optimizers = {
            "optimizer": torch.optim.Adam(
                _groups(self.network, recipe, 0.0), lr=recipe.learning_rate, betas=(0.5, 0.999)
            ),
            "critic_optimizer": torch.optim.Adam(
                self.critic.parameters(), lr=recipe.critic_learning_rate, betas=(0.5, 0.999)
            ),
        }

    def answering(self, network: ColorGenerator) -> ColorGenerator:
        """A copy of one of the networks; it began as decided as it is to be."""
        return copy.deepcopy(network).eval()

    def step(self, inputs: Tensor, targets: Tensor, number: int) -> Losses:
        """See `Trainee`."""
        lightness, ab = self._placed(inputs), targets.to(self.device)
        small = F.avg_pool2d(lightness, 2)
        made = self.network.answer(self._logits(lightness, number))
        self.critic.requires_grad_(False)  # noqa: FBT003 - torch's own signature
        opinion = generator_loss(self.critic(small, made))
        distance = l1(made, ab)
        loss = opinion + self.recipe.l1_weight * distance
        self.follow(loss, number)
        self.critic.requires_grad_(True)  # noqa: FBT003
        critic = self._teach(small, made.detach(), ab)
        return {
            "loss": loss.detach(),
            "adversarial": opinion.detach(),
            "l1": distance.detach(),
            "critic": critic,
        }

    def _teach(self, small: Tensor, made: Tensor, real: Tensor) -> Tensor:
        """One step of the critic; returns its loss."""
        optimizer = self.optimizers["critic_optimizer"]
        # Halved, as published: the critic learns slower than the generator.
        loss = discriminator_loss(self.critic(small, real), self.critic(small, made)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()


def export(run: Run, trainee: Pretraining, recipe: ColorizeRecipe, exam: ColorExam | None) -> None:
    """Write the best averaged network as `<name>.safetensors` and `<name>.json`, for `weights/`.

    The weights are kept as fp16, which halves the file.

    Raises:
        MediaError: the folder cannot be written.
    """
    network = trainee.answering(trainee.best if exam else trainee.average)
    if recipe.init_share:
        began = _initial(recipe).state_dict()
        network.load_state_dict(between(network.state_dict(), began, recipe.init_share))
    weights = run.folder / f"{recipe.name}.safetensors"
    halves = {key: value.half() for key, value in network.state_dict().items()}
    checkpoint.write_tensors(weights, halves)
    pictures = ", ".join("/".join(folder.parts[-2:]) for folder in recipe.data)
    stayed = f", of which {recipe.init_share:.0%} stayed" if recipe.init_share else ""
    origin = f"from {Path(recipe.init).stem}{stayed}; " if recipe.init else _TRUNK[recipe.network]
    losses = {
        "pretrain": f"rebalanced classification, temperature {recipe.temperature:g}",
        "adversarial": f"{recipe.l1_weight:g} x L1 and a PatchGAN",
    }
    card = ModelCard(
        recipe.name,
        recipe.network,
        asdict(recipe.sizes()),
        scale=1,
        halo=0,
        half=False,
        sha256=sha256_of(weights),
        task="colorize",
        summary="Pix2Pix U-Net, lightness to color",
        trained_on=(
            f"{pictures}; lightness with gamma, grain, blur and JPEG; {origin}"
            f"{losses[recipe.stage]}, {run.step} steps of {recipe.batch} {recipe.patch}-pixel "
            f"patches, {run.seconds / 60:.0f} minutes"
        ),
        license=recipe.license,
        measured={"validation": exam.measured(network)} if exam else {},
    )
    with checkpoint.replacing(run.folder / f"{recipe.name}.json") as part:
        card.write(part)


def _prior(recipe: ColorizeRecipe, pictures: list[Tensor]) -> Tensor:
    """How often each color is among the pictures."""
    crops = ColorCrops(pictures, recipe.patch, min(_PRIOR_PICTURES, 2 * len(pictures)))
    return class_prior(crops.draw(torch.Generator().manual_seed(recipe.seed))[1])


def _trainee(
    recipe: ColorizeRecipe, prior: Tensor, device: torch.device, precision: Precision
) -> Pretraining | Adversarial:
    kind = Adversarial if recipe.stage == "adversarial" else Pretraining
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are left alone
        torch.manual_seed(recipe.seed)
        return kind(recipe, prior, device, precision)


def _initial(recipe: ColorizeRecipe) -> ColorGenerator:
    """Fresh weights, below them a trunk that was trained elsewhere; or those of `init`."""
    sizes = recipe.sizes()
    network: ColorGenerator
    if isinstance(sizes, Pix2PixOptions):
        network = Pix2PixGenerator(sizes, dropout=recipe.dropout)
    else:
        network = Pix2PixLite(sizes, dropout=recipe.dropout)
        if not recipe.init:
            network.trunk = pretrained_trunk()
    if recipe.init:
        trained = load(*resolve(recipe.init))
        if not _same_sizes(trained, network):
            raise ModelError(
                f"{recipe.init} is not the colorizer of {recipe.channels} channels and "
                f"{recipe.blocks} blocks that this training is of"
            )
        network.load_state_dict(trained.state_dict())
    return network.train()


def _same_sizes(trained: object, network: ColorGenerator) -> bool:
    """Whether they differ in nothing but the gain."""
    if not isinstance(trained, ColorGenerator) or type(trained) is not type(network):
        return False
    return replace(trained.options, gain=network.options.gain) == network.options


def _groups(
    network: ColorGenerator, recipe: ColorizeRecipe, weight_decay: float
) -> list[dict[str, object]]:
    """Weight decay for what multiplies activations of the layer before; none for the rest.

    A trunk that was trained elsewhere moves slowly and is not drawn to zero.
    """
    trunk = set(network.trunk.parameters()) if isinstance(network, Pix2PixLite) else set()
    own = [weight for weight in network.parameters() if weight not in trunk]
    groups: list[dict[str, object]] = [
        {"params": [weight for weight in own if weight.dim() > 1], "weight_decay": weight_decay},
        {"params": [weight for weight in own if weight.dim() <= 1], "weight_decay": 0.0},
    ]
    if isinstance(network, Pix2PixLite):
        moved = list(network.trunk.parameters())
        groups.append({"params": moved, "weight_decay": 0.0, SHARE: recipe.trunk_rate})
    return groups


def _examine(run: Run, trainee: Pretraining, exam: ColorExam) -> float:
    """Measure the average, keep it if it is the best so far, draw a sheet; PSNR in dB."""
    network = trainee.answering(trainee.average)
    curve = exam.curve(network)
    best = max(point.psnr for point in curve)
    if best > max((entry["psnr"] for entry in run.log if "psnr" in entry), default=0.0):
        trainee.best.load_state_dict(trainee.average.state_dict())
    if run.log:
        for point in curve:
            run.log[-1] |= point.columns()
    exam.draw(network, run.folder / "samples" / f"{run.step:06d}.png")
    return best


def _examinations_since_best(run: Run) -> int:
    scores = [entry["psnr"] for entry in run.log if "psnr" in entry]
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0
