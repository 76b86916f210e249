"""What happened to a picture before we met it: mild blur, resizing, noise and compression.

The shape of the chain is that of Real-ESRGAN (Wang et al. 2021, arXiv:2107.10833, figure 2), once
and mildly: its full second-order chain teaches a network to paint. The compression is half of it
real video codecs, since that is what a frame went through.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vidsr.evaluation.similarity import gaussian
from vidsr.media.roundtrip import SMALLEST_SIDE, Codec, round_trip
from vidsr.resize import Resize

KERNELS = ("bicubic", "area", "lanczos", "bilinear")
LONGEST_CLIP = 3  # frames of a codec round trip; the last is kept: a key frame or a predicted one


@dataclass(frozen=True)
class Damage:
    """How often each thing has happened to a picture, in [0,1], and how badly it was encoded."""

    blurred: float
    resized: float
    noisy: float
    uncompressed: float
    jpeg: float
    hevc: float  # what is left went through H.264
    crf: tuple[int, int]  # constant rate factors: the first, and the first beyond


DAMAGES = {
    "mixed": Damage(0.3, 0.3, 2 / 3, uncompressed=0.1, jpeg=0.2, hevc=0.2, crf=(18, 33)),
    # Drawings come as video, small and cut from a stream: less doubt about what to undo.
    "video": Damage(0.2, 0.2, 1 / 2, uncompressed=0.05, jpeg=0.15, hevc=0.2, crf=(22, 35)),
}


class Dice:
    """Random choices, all from one generator: the same state gives the same choices."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def below(self, limit: int) -> int:
        """A whole number of [0, limit)."""
        return int(torch.randint(limit, (1,), generator=self.generator).item())

    def uniform(self, low: float, high: float) -> float:
        """A number of [low, high)."""
        return low + (high - low) * float(torch.rand((1,), generator=self.generator).item())

    def happens(self, probability: float) -> bool:
        """True with that probability."""
        return self.uniform(0, 1) < probability

    def kernel(self) -> str:
        """One of `KERNELS`; two times of three bicubic, by far the commonest."""
        return KERNELS[max(0, self.below(9) - 5)]


def reduce(rgb: Tensor, size: tuple[int, int], kernel: str) -> Tensor:
    """Resize (N,3,H,W) to `size` (height, width), antialiased, by one of `KERNELS`.

    For enlarging "area" is bilinear; the others are their textbook filters.
    """
    if kernel == "lanczos":
        return Resize(*size)(rgb).clone()  # its inference tensors are not to be trained on
    if kernel == "area":
        smaller = size[0] <= rgb.shape[-2] and size[1] <= rgb.shape[-1]
        return (
            F.interpolate(rgb, size=size, mode="area") if smaller else reduce(rgb, size, "bilinear")
        )
    return F.interpolate(rgb, size=size, mode=kernel, antialias=True, align_corners=False)


def rounded(rgb: Tensor) -> Tensor:
    """Clipped to [0,1] and rounded to 8 bits."""
    return (rgb.clamp(0, 1) * 255).round_().div_(255)


def degrade(
    high_res: Tensor, scale: int, generator: torch.Generator, damage: Damage = DAMAGES["mixed"]
) -> Tensor:
    """A mildly damaged low-res picture of a whole high-res one.

    Args:
        high_res: (3,H,W) uint8 on the CPU; H and W divide by `2 * scale`.
        scale: how many times smaller the result is, each way.
        generator: decides everything; the same state gives the same picture.
        damage: what may happen.

    Returns:
        (3,H/scale,W/scale) uint8.
    """
    dice = Dice(generator)
    rgb = high_res[None].float().div_(255)
    size = (rgb.shape[-2] // scale, rgb.shape[-1] // scale)
    if dice.happens(damage.blurred):
        rgb = _blur(rgb, dice, largest_sigma=0.3 * scale)
    if dice.happens(damage.resized):
        through = dice.uniform(0.5, 1.5)
        middle = (max(8, round(size[0] * through)), max(8, round(size[1] * through)))
        rgb = reduce(rgb, middle, dice.kernel())
    rgb = reduce(rgb, size, dice.kernel())
    if dice.happens(damage.noisy):
        rgb = _noise(rgb, dice)
    rgb = rounded(rgb)
    pixels = (rgb[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return torch.from_numpy(_compress(pixels, dice, damage)).permute(2, 0, 1).contiguous()


def sharpened(pictures: Tensor, amount: float) -> Tensor:
    """Originals with so much of an unsharp mask, of 1.5 pixels, clipped to [0,1].

    A network that is in doubt where a line runs draws it wider and flatter than it is. Asked for
    lines that are steeper than the originals', it draws them as steep (Real-ESRGAN, Wang et al.
    2021, arXiv:2107.10833, section 3.4).
    """
    blurred = F.conv2d(
        F.pad(pictures, (4,) * 4, mode="reflect"), _unsharp(pictures.device), groups=3
    )
    return (pictures + amount * (pictures - blurred)).clamp(0, 1)


@cache
def _unsharp(device: torch.device) -> Tensor:
    row = gaussian(9, 1.5).float()
    return torch.outer(row, row).expand(3, 1, 9, 9).to(device)


def _blur(rgb: Tensor, dice: Dice, *, largest_sigma: float) -> Tensor:
    """An isotropic or turned elliptic Gaussian of 7 or 9 pixels."""
    side = 7 + 2 * dice.below(2)
    first = dice.uniform(0.2, largest_sigma)
    second = dice.uniform(0.2, largest_sigma) if dice.happens(0.5) else first
    angle = dice.uniform(0, math.pi)
    grid = torch.arange(side, dtype=torch.float32) - side // 2
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    kernel = torch.exp(-((along / first) ** 2 + (across / second) ** 2) / 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, side, side)
    return F.conv2d(F.pad(rgb, (side // 2,) * 4, mode="reflect"), kernel, groups=3)


def _noise(rgb: Tensor, dice: Dice) -> Tensor:
    """Gaussian noise of up to 2 code values, or shot noise; grey every third time."""
    if dice.happens(0.5):
        grain = torch.randn(rgb.shape, generator=dice.generator) * dice.uniform(0, 2) / 255
    else:
        light = rgb.clamp(0, 1) * 255
        grain = (torch.poisson(light, generator=dice.generator) - light) / 255
        grain *= dice.uniform(0.05, 0.25)
    if dice.happens(1 / 3):
        grain = grain[:, :1]
    return rgb + grain


def _compress(pixels: NDArray[np.uint8], dice: Dice, damage: Damage) -> NDArray[np.uint8]:
    """JPEG of quality 40 to 95, or H.264 or HEVC, or nothing."""
    draw = dice.uniform(0, 1)
    if draw < damage.uncompressed:
        return pixels
    if draw < damage.uncompressed + damage.jpeg:
        return _jpeg(pixels, quality=40 + dice.below(56))
    codec: Codec = "hevc" if draw > 1 - damage.hevc and min(pixels.shape[:2]) >= 64 else "h264"
    if min(pixels.shape[:2]) < SMALLEST_SIDE[codec]:
        return pixels
    step = (dice.below(5) - 2, dice.below(5) - 2)
    clip = [
        np.roll(pixels, (step[0] * number, step[1] * number), (0, 1))
        for number in range(dice.below(LONGEST_CLIP), -1, -1)
    ]
    first, beyond = damage.crf
    return round_trip(clip, codec=codec, crf=first + dice.below(beyond - first))[-1]


def _jpeg(pixels: NDArray[np.uint8], *, quality: int) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))
