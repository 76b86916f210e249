"""Follow: enlarges a moving picture by carrying what is there already along its motion.

Note [Reuse along the motion]
~~~~~~~~~~~~~~~~~~~~~~~~~~~~~
A large network costs seconds a frame, following the motion tens of milliseconds. So, as in FAST
(Zhang and Sze 2017, arXiv:1603.08968) and NEMO (Yeo et al. 2020), a picture is enlarged as

    the last result, carried along the optical flow
    + what the flow leaves unexplained of the small picture, enlarged (bicubic)

but only where that is near: where the mean squared residual of a tile of the small picture is
above a bound, its place is occluded, new or too complex, and the network runs on it. Where nearly
all tiles are, as after a cut, it runs on the whole picture.

Each step blurs a little, so errors would pile up. Pictures are therefore taken in runs of `RUN`:
the first is always computed whole, and the others are carried from it and from each other. Runs do
not depend on each other, so each goes to one worker and the cores work on several (Note [Two
slots]); and the first of a run costs no halo, as refreshing tile by tile would.

Parts need not be exact here, so they are given less than the network's whole reach around them:
what a network sees at the rim of its reach hardly matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from vidsr.motion import enlarged, enlarged_flow, flow, warp_pixels
from vidsr.reuse import BLOCK, cover

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from vidsr.reuse import Blocks, Parts
    from vidsr.stages import Counters, Upscale

    Pixels = NDArray[np.float32]  # (H,W,3) R'G'B' in [0,1], not clipped

RUN = 8  # pictures, of which the first is computed whole
TILE = 2 * BLOCK  # pixels, the side of what is carried or computed
REUSE_ERROR = 8.0  # mean squared, in 8-bit codes
PART_HALO = 4  # pixels around parts; at their rim it leaves 62 dB or more to the whole
MOST_IN_PARTS = 0.8  # of the whole's cost: beyond it, the whole is computed
LUMA = (0.299, 0.587, 0.114)  # only the search for motion sees it


@dataclass
class _Past:
    """The picture before."""

    luma: NDArray[np.uint8]
    small: Pixels
    large: Pixels


class Follow:
    """Enlarges a picture from the one before and, where it must, with a network; on the CPU.

    Pictures must come in order. Every `RUN`-th since the last `reset` is computed whole.
    """

    keeps_luma = False
    faulty = None
    holds = True

    def __init__(self, upscale: Upscale, *, error: float = REUSE_ERROR) -> None:
        """Make ready.

        Args:
            upscale: the network; it can enlarge parts.
            error: mean squared error of a tile of the small picture, in 8-bit codes, up to which
                it is carried.
        """
        self.error = error
        self._upscale = upscale
        self._past: _Past | None = None
        self._age = 0

    @property
    def counters(self) -> Counters:
        """Of the network."""
        return self._upscale.counters

    def reach(self, height: int, width: int) -> int:
        """See `Stage`."""
        return max(height, width)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Stage`."""
        return self._upscale.output_size(height, width)

    def affected(self, changed: Blocks, size: tuple[int, int], beside: int) -> Parts | None:
        """See `Stage`."""
        return None

    @torch.inference_mode()
    def __call__(self, rgb: Tensor, parts: Parts | None = None) -> Tensor:
        """See `Stage`."""
        small, luma = _pixels(rgb), _luma(rgb)
        past = self._past if self._age % RUN else None
        large = self._compute(rgb, None) if past is None else self._follow(past, rgb, small, luma)
        self._age += 1
        self._past = _Past(luma, small, _pixels(large))
        return large

    def redo(self, rgb: Tensor, parts: Parts | None = None) -> Tensor:
        """See `Stage`; not needed, since nothing faulty comes out."""
        return self._upscale.redo(rgb)

    def reset(self) -> None:
        """See `Stage`."""
        self._past, self._age = None, 0

    def _follow(self, past: _Past, rgb: Tensor, small: Pixels, luma: NDArray[np.uint8]) -> Tensor:
        motion = flow(past.luma, luma)
        residual = small - warp_pixels(past.small, motion)
        parts = self._uncovered(residual)
        if self._upscale.share(small.shape[:2], parts) > MOST_IN_PARTS:
            return self._compute(rgb, None)
        scale = self._upscale.scale
        large = warp_pixels(past.large, enlarged_flow(motion, scale))
        large += enlarged(residual, scale)
        carried = torch.from_numpy(large).permute(2, 0, 1)[None]
        if parts:
            fresh = self._compute(rgb, parts)
            for part in parts:
                part.of(carried, scale).copy_(part.of(fresh, scale))
        return carried

    def _uncovered(self, residual: Pixels) -> Parts:
        """The parts of the small picture that motion leaves unexplained."""
        squares = torch.from_numpy(residual * residual).mean(dim=2)[None]
        errors = F.avg_pool2d(squares, TILE, ceil_mode=True)[0] * 255**2
        blocks = (errors > self.error).numpy().repeat(TILE // BLOCK, 0).repeat(TILE // BLOCK, 1)
        height, width = residual.shape[:2]
        blocks = blocks[: -(-height // BLOCK), : -(-width // BLOCK)]
        return cover(blocks, (height, width), self._upscale.part_halo)

    def _compute(self, rgb: Tensor, parts: Parts | None) -> Tensor:
        large = self._upscale(rgb, parts)
        faulty = self._upscale.faulty
        return self._upscale.redo(rgb, parts) if faulty is not None and bool(faulty) else large


def _pixels(rgb: Tensor) -> Pixels:
    """(1,3,H,W) -> (H,W,3), not copied where it lies so."""
    return np.ascontiguousarray(rgb[0].permute(1, 2, 0).numpy())


def _luma(rgb: Tensor) -> NDArray[np.uint8]:
    weights = torch.tensor(LUMA).view(3, 1, 1)
    luma = (rgb[0] * weights).sum(dim=0).clamp_(0, 1).mul_(255).round_()
    return luma.to(torch.uint8).numpy()
