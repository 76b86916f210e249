"""Which floating-point format a device is fast in: measured, since flags do not tell.

Note [Precision is measured]
~~~~~~~~~~~~~~~~~~~~~~~~~~~~
bf16 on a processor without hardware for it is some 100 to 400 times slower than fp32, torch gives
no warning, and there are processors that list avx512_bf16 and still run it slower than fp32. So
`auto` times one convolution both ways and keeps the answer in the user's cache. On CUDA and MPS
fp16 is always the faster one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from vidsr.engines.remembered import Remembered, processor

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


_ROUNDS = 16  # the first is the warm-up; one takes some milliseconds
_HOPELESS = 10  # times slower: not worth another round


def fastest_precision(device: torch.device, *, cache_dir: Path | None = None) -> Precision:
    """The faster of fp32 and the device's half format, remembered in `cache_dir` if given."""
    if device.type != "cpu":
        return "fp16"
    remembered = Remembered(cache_dir / "precision.json") if cache_dir else None
    key = f"{processor()} / torch {torch.__version__}"
    if remembered and (known := remembered.read(key)) in DTYPES:
        return cast("Precision", known)
    seconds = _convolution_seconds()
    choice: Precision = "bf16" if seconds["bf16"] < 0.8 * seconds["fp32"] else "fp32"
    if remembered:
        remembered.write(key, choice)
    return choice


def _convolution_seconds() -> dict[Precision, float]:
    """Best timings of the convolution that all our networks are made of, by format.

    The formats take turns, so that what else the machine does meets both of them. An emulated one
    takes 0.2 s each time, and is not tried often.
    """
    names: tuple[Precision, ...] = ("fp32", "bf16")
    operands = {name: _operands(DTYPES[name]) for name in names}
    best = dict.fromkeys(names, float("inf"))
    with torch.inference_mode():
        for number in range(_ROUNDS):
            for name in names:
                start = time.perf_counter()
                F.conv2d(*operands[name], padding=1)
                best[name] = min(best[name], time.perf_counter() - start)
            if number and max(best.values()) > _HOPELESS * min(best.values()):
                break
    return best


def _operands(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """64 channels of 48x48 places, and 64 filters of 3x3."""
    shapes = (1, 64, 48, 48), (64, 64, 3, 3)
    features, weight = (
        torch.rand(shape).to(dtype).contiguous(memory_format=torch.channels_last)
        for shape in shapes
    )
    return features, weight
