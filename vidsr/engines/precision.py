"""Which floating-point format a device is fast in: measured, since flags do not tell.

Note [Precision is measured]
~~~~~~~~~~~~~~~~~~~~~~~~~~~~
bf16 on a processor without hardware for it is some 100 to 400 times slower than fp32, torch gives
no warning, and there are processors that list avx512_bf16 and still run it slower than fp32. So
`auto` times one convolution both ways and keeps the answer in the user's cache. On CUDA and MPS
fp16 is always the faster one.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal, cast

import torch
from torch.nn import functional as F

from vidsr.engines.race import processor_seconds, race
from vidsr.engines.remembered import Remembered, processor

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def fastest_precision(device: torch.device, *, cache_dir: Path | None = None) -> Precision:
    """The faster of fp32 and the device's half format, remembered in `cache_dir` if given."""
    if device.type != "cpu":
        return "fp16"
    remembered = Remembered(cache_dir / "precision.json") if cache_dir else None
    key = f"{processor()} / torch {torch.__version__}"
    if remembered and (known := remembered.read(key)) in DTYPES:
        return cast("Precision", known)
    formats: tuple[Precision, ...] = ("fp32", "bf16")
    seconds = race({name: partial(_convolution_seconds, DTYPES[name]) for name in formats})
    choice: Precision = "bf16" if seconds["bf16"] < 0.8 * seconds["fp32"] else "fp32"
    if remembered:
        remembered.write(key, choice)
    return choice


@torch.inference_mode()
def _convolution_seconds(dtype: torch.dtype) -> float:
    """Of the convolution that all our networks are made of; 1 ms, or 200 where it is emulated."""
    features = torch.rand(1, 64, 48, 48).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(64, 64, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last)
    return processor_seconds(lambda: F.conv2d(features, weight, padding=1))
