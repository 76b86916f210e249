"""Which number format a training computes in: measured on its own steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from vidsr.engines.precision import Precision, fastest_precision
from vidsr.engines.race import processor_seconds, race
from vidsr.training.run import Trainee

MEASURING_SECONDS = 10.0

Asked = Literal["auto", "fp32", "bf16"]


def training_precision(
    asked: Asked,
    device: torch.device,
    trainee: Callable[[Precision], Trainee],
    inputs: Tensor,
    targets: Tensor,
) -> Precision:
    """The faster format with fp32's exponents: fp16 loses gradients of 1e-6, as ours are.

    On a processor bf16 must win twice: in one convolution, which costs little to try even where
    it is emulated, and then in whole steps of this training.

    Args:
        asked: "auto" to measure; anything else is taken.
        device: where the training runs.
        trainee: makes one that computes in a format.
        inputs: a batch as large as the training's.
        targets: what they should become.
    """
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if fastest_precision(device) == "fp32":
        return "fp32"
    formats: tuple[Precision, ...] = ("fp32", "bf16")
    runs = {name: partial(_step_seconds, trainee(name), inputs, targets) for name in formats}
    seconds = race(runs, within=MEASURING_SECONDS)
    return min(formats, key=seconds.__getitem__)


def _step_seconds(trainee: Trainee, inputs: Tensor, targets: Tensor) -> float:
    return processor_seconds(lambda: trainee.step(inputs, targets, trainee.first_typical_step))
