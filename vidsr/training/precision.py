"""Which number format a training computes in: measured on its own steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from vidsr.engines.precision import Precision, fastest_precision
from vidsr.training.run import Trainee

TIMED_STEPS = 5

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
    return _faster(trainee, inputs, targets)


def _faster(trainee: Callable[[Precision], Trainee], inputs: Tensor, targets: Tensor) -> Precision:
    """The format with the shortest step; they take turns, so that a busy machine harms both."""
    names: tuple[Precision, ...] = ("fp32", "bf16")
    trainees = {name: trainee(name) for name in names}
    best = dict.fromkeys(names, float("inf"))
    for _ in range(TIMED_STEPS):
        for name, timed in trainees.items():
            best[name] = min(best[name], _step_seconds(timed, inputs, targets))
    return min(names, key=best.__getitem__)


def _step_seconds(trainee: Trainee, inputs: Tensor, targets: Tensor) -> float:
    start = time.perf_counter()
    trainee.step(inputs, targets, trainee.first_typical_step)
    return time.perf_counter() - start
