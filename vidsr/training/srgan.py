"""The super-resolution recipe: data, stages, export. Reads top to bottom.

Two stages, as published (Ledig et al. 2017, section 3.2): fidelity first (a pixel loss alone), then
perceptual, where a critic judges what the pixel loss leaves blurred. A frozen copy of the critic,
once it can tell fidelity's output from originals, stands in for the VGG features of the paper
(after "MDF", Mustafa et al., WACV 2022). What is exported is the moving average of the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from vidsr.engines.precision import DTYPES, Precision
from vidsr.engines.remembered import usable_cores
from vidsr.evaluation.metrics import enlarge, mean_psnr, psnr_y, shrink, to_picture
from vidsr.models.card import sha256_of
from vidsr.models.load import build, load, resolve
from vidsr.training import checkpoint
from vidsr.training.data import Crops, gradients, load_pictures
from vidsr.training.descent import adam, approach, between, descend, early_decay
from vidsr.training.discriminators import open_discriminator
from vidsr.training.growth import grow
from vidsr.training.losses import (
    CriticFeatures,
    color_consistency,
    discriminator_loss,
    generator_loss,
    haar_difference,
    lattice,
    open_content_loss,
)
from vidsr.training.precision import training_precision
from vidsr.training.recipe import UpscaleRecipe, as_options
from vidsr.training.recorded import recorded
from vidsr.training.run import (
    Losses,
    Run,
    TrainProgress,
    begin,
    loop,
    plain,
    stored_facts,
)

EXAM_SIDE = 256  # pixels of a validation crop
GRADIENT_SIDE = 480  # pixels, at least; divides by twice any scale


def train(
    recipe: UpscaleRecipe,
    run_dir: Path,
    *,
    resume: bool = False,
    session_minutes: float | None = None,
) -> Iterator[TrainProgress]:
    """Train, reporting as it goes; the last report comes when weights and card are written.

    A resumed run draws the same crops and, on a processor, gives the same losses as an
    uninterrupted one. It keeps the length and the precision that the run was begun with.

    Args:
        recipe: what to train.
        run_dir: where checkpoint, log, plot and at the end weights and card are written.
        resume: go on from the checkpoint in `run_dir`.
        session_minutes: stop then, resumable, if the schedule is not at its end.

    Raises:
        RequestError: the data cannot be used, a run is already there, or the training diverged.
        ModelError: `resume` without a whole checkpoint of this network, or an `init` that does
            not fit.
        MediaError: the run folder cannot be written; the last good checkpoint stays.
        VidsrError: a process that damages pictures for a GPU died.
    """
    begin(run_dir, resume=resume)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    crops = _crops(recipe, device)
    exam = _validation_crops(recipe)
    stored = stored_facts(run_dir).get("precision") if resume else None
    precision = stored or _precision(recipe, device)
    trainee = _trainee(recipe, device, precision)
    generator = torch.Generator().manual_seed(recipe.seed)
    facts = {"precision": precision, "recipe": plain(as_options(recipe))}
    run = Run(run_dir, trainee, generator, facts)
    if resume:
        run.restore()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # all steps have one shape
        crops.prepare(usable_cores())

    def examine() -> float | None:
        if not exam:
            return None
        return _exam_psnr(lambda low_res: trainee.average(low_res.to(device)), exam, recipe.scale)

    for report in loop(run, crops.draw, recipe.budget(session_minutes), examine):
        if run.finished:
            export(run, recipe, _measured(report, exam, recipe.scale))
        yield report


class Fidelity:
    """The pixel loss alone."""

    first_typical_step = 0

    def __init__(self, recipe: UpscaleRecipe, device: torch.device, precision: Precision) -> None:
        self.recipe, self.device, self.precision = recipe, device, precision
        self.network = _initial(recipe).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).requires_grad_(False)  # noqa: FBT003
        self.content = open_content_loss(recipe.content)
        self.guarded = recipe.haar_weight > 0  # these like a lattice as much as detail
        self.modules: dict[str, nn.Module] = {"network": self.network, "average": self.average}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "optimizer": adam(self.network.parameters(), device, lr=recipe.learning_rate)
        }
        cuda = device.type == "cuda"
        self._compiled = torch.compile(self.network, dynamic=False) if cuda else self.network

        self.learn = recorded(self._learn, device)

    def step(self, low_res: Tensor, high_res: Tensor, number: int) -> Losses:
        """See `Trainee`."""
        losses = self.learn(low_res.to(self.device), high_res.to(self.device))
        approach(self.average, self.network, early_decay(self.recipe.ema, number))
        return losses

    def _learn(self, low_res: Tensor, high_res: Tensor) -> Losses:
        """One step of the generator."""
        parts = self.nearness(self.enlarged(low_res), high_res)
        loss = torch.stack(list(parts.values())).sum()
        descend(loss, self.network, self.optimizers["optimizer"])
        return {"loss": loss.detach(), **_told(parts)}

    def nearness(self, output: Tensor, high_res: Tensor) -> dict[str, Tensor]:
        """How far the output is from the original: by pixels and, as far as they count, detail."""
        parts = {"content": self.content(output, high_res)}
        if weight := self.recipe.haar_weight:
            parts["haar"] = weight * haar_difference(output, high_res)
        if self.guarded:
            strays = lattice(output, high_res, self.recipe.scale)
            parts["lattice"] = self.recipe.lattice_weight * strays
        return parts

    def enlarged(self, low_res: Tensor) -> Tensor:
        """The network's output in fp32, with gradients."""
        pictures = low_res.contiguous(memory_format=torch.channels_last)
        half = self.precision != "fp32"
        with torch.autocast(self.device.type, dtype=DTYPES[self.precision], enabled=half):
            # Compiled for gradients alone: without them it is used for a few steps.
            network = self._compiled if torch.is_grad_enabled() else self.network
            output: Tensor = network(pictures)
        return output.float()


class Perceptual(Fidelity):
    """The pixel loss beside a critic's opinion and its frozen younger self's features.

    Two more keep a generator from what a critic lets pass: a change of color, and lattices.
    """

    def __init__(self, recipe: UpscaleRecipe, device: torch.device, precision: Precision) -> None:
        super().__init__(recipe, device, precision)
        self.critic = open_discriminator(recipe.critic, recipe.critic_channels).to(device)
        self.features = CriticFeatures(self.critic)
        self.guarded = True
        self.first_typical_step = recipe.critic_steps
        self.modules |= {"critic": self.critic, "features": self.features.critic}
        self.optimizers["critic_optimizer"] = adam(
            self.critic.parameters(), device, lr=recipe.critic_learning_rate, betas=(0.5, 0.99)
        )

        self.judge = recorded(self._judge, device)

    def step(self, low_res: Tensor, high_res: Tensor, number: int) -> Losses:
        """See `Trainee`; the first `critic_steps` teach the critic alone."""
        if number < self.recipe.critic_steps:
            return self.judge(low_res.to(self.device), high_res.to(self.device))
        if number == self.recipe.critic_steps:
            self.features.critic.load_state_dict(self.critic.state_dict())
        return super().step(low_res, high_res, number)

    def _judge(self, low_res: Tensor, high_res: Tensor) -> Losses:
        """One step of the critic alone."""
        with torch.no_grad():
            output = self.enlarged(low_res)
        return {"critic": self._teach(output, high_res)}

    def _learn(self, low_res: Tensor, high_res: Tensor) -> Losses:
        """One step of the generator, then one of the critic."""
        output = self.enlarged(low_res)
        self.critic.requires_grad_(False)  # noqa: FBT003 - torch's own signature
        parts = {
            **self.nearness(output, high_res),
            "adversarial": self.recipe.adversarial_weight * generator_loss(self.critic(output)),
            "features": self.recipe.feature_weight
            * self.features.feature_matching(output, high_res),
            "color": self.recipe.color_weight * color_consistency(output, high_res),
        }
        loss = torch.stack(list(parts.values())).sum()
        descend(loss, self.network, self.optimizers["optimizer"])
        self.critic.requires_grad_(True)  # noqa: FBT003
        critic = self._teach(output.detach(), high_res)
        return {"loss": loss.detach(), **_told(parts), "critic": critic}

    def _teach(self, output: Tensor, original: Tensor) -> Tensor:
        """One step of the critic; returns its loss."""
        optimizer = self.optimizers["critic_optimizer"]
        loss = discriminator_loss(self.critic(original), self.critic(output))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()


def _told(parts: dict[str, Tensor]) -> Losses:
    """Parts of a loss for the log; a single one is the loss itself."""
    return {name: part.detach() for name, part in parts.items()} if len(parts) > 1 else {}


def export(run: Run, recipe: UpscaleRecipe, measured: dict[str, float]) -> None:
    """Write the averaged network as `<name>.safetensors` and `<name>.json`, ready for `weights/`.

    `measured` are figures on the validation crops, in dB; it may be empty.

    Raises:
        MediaError: the folder cannot be written.
    """
    weights = run.folder / f"{recipe.name}.safetensors"
    checkpoint.write_tensors(weights, _exported(run, recipe))
    pictures = ", ".join("/".join(folder.parts[-2:]) for folder in recipe.data)
    words = {"mixed": "mildly blurred, noisy and compressed", "video": "mostly compressed as video"}
    damage = (
        "antialiased bicubic low-res, 8 bit"
        if recipe.degradation == "clean"
        else f"low-res {1 - recipe.damaged_share:.0%} clean (four kernels), "
        f"{recipe.damaged_share:.0%} {words[recipe.degradation]}"
    )
    if recipe.smooth_share:
        pictures += f" and {recipe.smooth_share:.0%} smooth gradients"
    share = f", of which {recipe.init_share:.0%} stayed" if recipe.init_share else ""
    origin = f"from {Path(recipe.init).stem}{share}; " if recipe.init else ""
    losses = {
        "fidelity": recipe.content,
        "perceptual": f"{recipe.content}, critic and its features",
    }
    loss = losses[recipe.stage]
    loss += f" and {recipe.haar_weight:g} x Haar responses" if recipe.haar_weight else ""
    if recipe.sharpness:
        loss += f", originals of clean crops sharpened by {recipe.sharpness:g}"
    card = replace(
        recipe.card(),
        sha256=sha256_of(weights),
        summary=f"{recipe.network} {recipe.channels}x{recipe.blocks}, x{recipe.scale}",
        trained_on=(
            f"{pictures}; {damage}; {origin}{loss}, {run.step} "
            f"steps of {recipe.batch} {recipe.patch}-pixel patches, {run.seconds / 60:.0f} minutes"
        ),
        license=recipe.license,
        measured={"validation crops": measured} if measured else {},
    )
    with checkpoint.replacing(run.folder / f"{recipe.name}.json") as part:
        card.write(part)


def _exported(run: Run, recipe: UpscaleRecipe) -> dict[str, Tensor]:
    """The average of the run, and of where it came from by `init_share`."""
    average = run.trainee.modules["average"].state_dict()
    if not recipe.init_share:
        return average
    return between(average, _initial(recipe).state_dict(), recipe.init_share)


def _crops(recipe: UpscaleRecipe, device: torch.device) -> Crops:
    pictures = load_pictures(
        recipe.data,
        min_side=recipe.patch * recipe.scale,
        multiple=2 * recipe.scale,
        device=str(device),
    )
    count = round(len(pictures) * recipe.smooth_share / (1 - recipe.smooth_share))
    side = max(GRADIENT_SIDE, 2 * recipe.patch * recipe.scale)
    smooth = gradients(count, side, torch.Generator().manual_seed(recipe.seed))
    pictures += [picture.to(device) for picture in smooth]
    return Crops(
        pictures,
        recipe.scale,
        recipe.patch,
        recipe.batch,
        recipe.degradation,
        recipe.seed,
        recipe.damaged_share,
        recipe.sharpness,
    )


def _trainee(
    recipe: UpscaleRecipe, device: torch.device, precision: Precision
) -> Fidelity | Perceptual:
    kind = Perceptual if recipe.stage == "perceptual" else Fidelity
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are left alone
        torch.manual_seed(recipe.seed)
        return kind(recipe, device, precision)


def _initial(recipe: UpscaleRecipe) -> nn.Module:
    """Fresh weights, or those of `init`, grown to the recipe's sizes."""
    network = build(recipe.card())
    return grow(load(*resolve(recipe.init)), network) if recipe.init else network


def _precision(recipe: UpscaleRecipe, device: torch.device) -> Precision:
    """What was asked for, or the faster one on noise."""
    noise = torch.Generator()
    low_res = torch.rand(recipe.batch, 3, recipe.patch, recipe.patch, generator=noise)
    high_res = torch.rand(recipe.batch, 3, *(recipe.patch * recipe.scale,) * 2, generator=noise)
    make = partial(_trainee, recipe, device)
    return training_precision(recipe.precision, device, make, low_res, high_res)


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


def _measured(report: TrainProgress, exam: list[Tensor], scale: int) -> dict[str, float]:
    if report.psnr is None:
        return {}
    bicubic = _exam_psnr(lambda low_res: enlarge(low_res, scale), exam, scale)
    return {"psnr_y": round(report.psnr, 2), "bicubic_psnr_y": round(bicubic, 2)}


def _exam_psnr(stage: Callable[[Tensor], Tensor], exam: list[Tensor], scale: int) -> float:
    """Mean PSNR-Y in dB on clean low-res pictures, as the benchmarks have them."""
    with torch.inference_mode():
        return mean_psnr(
            [
                psnr_y(
                    to_picture(stage(shrink(original, scale))), to_picture(original), border=scale
                )
                for original in exam
            ]
        )
