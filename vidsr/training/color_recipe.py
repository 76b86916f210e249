"""ColorizeRecipe: what colorizer to train, on what, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vidsr.errors import RequestError
from vidsr.models.pix2pix import MULTIPLE, ColorOptions, Pix2PixOptions
from vidsr.training.patchgan import SMALLEST_SIDE
from vidsr.training.precision import Asked
from vidsr.training.recipe import (
    check_init_share,
    check_positive,
    checked_options,
    merged_options,
)
from vidsr.training.run import Budget

SHIPPED = "recipes_color.toml"


@dataclass(frozen=True)
class ColorizeRecipe:
    """What to train, on what, and for how long."""

    name: str  # of the exported weights
    data: tuple[Path, ...]  # folders of training pictures
    validation: tuple[Path, ...] = ()  # folders of pictures to measure on, and to stop early by
    stage: Literal["pretrain", "adversarial"] = "pretrain"
    init: str = ""  # a shipped model or a checkpoint to start from; adversarial needs one
    network: Literal["pix2pix", "pix2pix-lite"] = "pix2pix"  # lite begins with pretrained features
    init_share: float = 0.0  # of init's own weights in what is exported
    channels: int = 32  # of the generator at half of the picture's size
    blocks: int = 3  # residual blocks at its bottom; pix2pix-lite has none
    minutes: float | None = None  # scales the schedule to a budget, by the measured rate
    steps: int | None = None  # or the length of the schedule in iterations
    side: int = 160  # short side in pixels that pictures are made small to
    patch: int = 96  # side of what the generator sees in pixels; a multiple of 16
    batch: int = 16
    precision: Asked = "auto"  # auto measures a step of each
    learning_rate: float = 8e-4  # at its peak; AdamW (Loshchilov and Hutter 2019)
    trunk_rate: float = 0.1  # share of it for features that were learnt elsewhere
    weight_decay: float = 0.02
    dropout: float = 0.1  # share of the bottom's channels
    ema: float = 0.998  # decay of the averaged weights, per step
    aged: float = 1.0  # share of patches whose lightness is as old cameras and files made it
    mixed: float = 0.0  # share of patches that show another picture too; not for a critic
    entropy: float = 1.0  # weight of the cross entropy, beside the squared error of the mean color
    rebalance: float = 0.5  # how much rare colors are favored: 0 not at all, 1 as in Zhang et al.
    # Of the export, and of the adversarial stage; chosen by the validation pictures. See `sharpen`.
    temperature: float = 0.25  # below 1 the colors are more decided
    unbalance: float = 0.5  # share of `rebalance` that is taken back; the training had its use
    gain: int = 250  # percent by which the colors are strengthened
    patience: int = 15  # examinations without a better one after which to stop
    seed: int = 0
    # The adversarial stage.
    l1_weight: float = 100.0  # beside 1 for the critic's opinion
    critic_channels: int = 64
    critic_learning_rate: float = 2e-4
    license: str = ""  # of the weights, for their card; follows from the pictures
    report_every_seconds: float = 2.0
    checkpoint_every_seconds: float = 60.0  # each examines, draws a sheet and saves

    def __post_init__(self) -> None:
        self.budget()  # checks minutes and steps
        self.sizes()  # checks channels
        if not self.name or not self.data:
            raise RequestError("a training needs a name and at least one folder of pictures")
        if self.patch % MULTIPLE or self.patch <= 0:
            raise RequestError(f"patch {self.patch} is no multiple of {MULTIPLE}")
        self._check_shares()
        check_init_share(self.init, self.init_share)
        if self.entropy < 0:
            raise RequestError(f"entropy {self.entropy} is below zero")
        if self.stage == "adversarial":
            self._check_adversarial()
        check_positive(self, _POSITIVE)

    def sizes(self) -> ColorOptions:
        """Of the network to be trained."""
        if self.network == "pix2pix-lite":
            return ColorOptions(self.channels, self.gain)
        return Pix2PixOptions(self.channels, self.gain, self.blocks)

    def _check_shares(self) -> None:
        for word in ("ema", "dropout"):
            if not 0 <= getattr(self, word) < 1:
                raise RequestError(f"{word} {getattr(self, word)} does not lie in [0, 1)")
        for word in ("aged", "mixed"):
            if not 0 <= getattr(self, word) <= 1:
                raise RequestError(f"{word} {getattr(self, word)} is no share, in [0, 1]")

    def _check_adversarial(self) -> None:
        if not self.init:
            raise RequestError("the adversarial stage starts from trained weights: --init NAME")
        if self.patch < 2 * SMALLEST_SIDE:
            raise RequestError(
                f"patch {self.patch}: the adversarial stage needs at least {2 * SMALLEST_SIDE} "
                "pixels for its critic"
            )

    def budget(self, session_minutes: float | None = None) -> Budget:
        """The part that the loop needs."""
        return Budget(
            self.minutes,
            self.steps,
            self.report_every_seconds,
            self.checkpoint_every_seconds,
            session_minutes,
        )


_POSITIVE = (
    "minutes",
    "steps",
    "side",
    "batch",
    "learning_rate",
    "trunk_rate",
    "temperature",
    "gain",
    "patience",
    "l1_weight",
    "critic_channels",
    "critic_learning_rate",
)


def one_recipe(
    source: str | None,
    root: Path,
    overrides: Mapping[str, object],
    *,
    run_dir: Path | None = None,
) -> ColorizeRecipe:
    """As `recipe.one_recipe`, for a colorizer.

    Raises:
        RequestError: an unknown option, a wrong type, or a file that holds several recipes.
        ModelError: no run to resume.
    """
    options = merged_options(source, root, overrides, name="mine", run_dir=run_dir, shipped=SHIPPED)
    return ColorizeRecipe(**checked_options(ColorizeRecipe, options))
