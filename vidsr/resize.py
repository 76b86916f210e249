"""Resize: a stage that brings a picture to an exact size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from vidsr.engines.torch_engine import device_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from vidsr.reuse import Blocks, Parts

LANCZOS_LOBES = 3
RESIZE_BLOCK = 64  # output pixels that share one dense piece of a resampling matrix


class Resize:
    """Brings a picture to an exact size with a Lanczos-3 filter, antialiased when it shrinks.

    The same filter as Pillow's `LANCZOS`, in fp32 and without clipping.
    """

    keeps_luma = False
    faulty = None
    holds = True

    def __init__(self, height: int, width: int) -> None:
        self.height = height
        self.width = width
        self._from: tuple[int, int, torch.device] | None = None
        self._rows: tuple[_Piece, ...] = ()
        self._columns: tuple[_Piece, ...] = ()

    def reach(self, height: int, width: int) -> int:
        """See `Stage`."""
        stretch = max(height / self.height, width / self.width, 1.0)
        return math.ceil(LANCZOS_LOBES * stretch) + 1

    def affected(self, changed: Blocks, size: tuple[int, int], beside: int) -> Parts | None:
        """See `Stage`."""
        return None

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Stage`."""
        return self.height, self.width

    @torch.inference_mode()
    def __call__(self, rgb: Tensor, parts: Parts | None = None) -> Tensor:
        """See `Stage`."""
        height, width = rgb.shape[-2:]
        if (height, width) == (self.height, self.width):
            return rgb
        with device_errors(rgb.device):
            self._prepare(height, width, rgb.device)
            rgb = self._across(rgb)
            return torch.cat([p.matrix @ rgb[:, :, p.first : p.end] for p in self._rows], dim=2)

    @torch.inference_mode()
    def bands(self, bands: Iterable[Tensor], height: int) -> Iterator[Tensor]:
        """A picture of that height in bands from the top -> what a call makes of it, in bands."""
        held: Tensor | None = None  # rows that are resampled across, and still needed
        top = number = 0
        for band in bands:
            if (height, band.shape[-1]) == (self.height, self.width):
                yield band
                continue
            with device_errors(band.device):
                self._prepare(height, band.shape[-1], band.device)
                across = self._across(band)
                held = across if held is None else torch.cat([held, across], dim=2)
            while number < len(self._rows) and self._rows[number].end <= top + held.shape[2]:
                piece = self._rows[number]
                yield piece.matrix @ held[:, :, piece.first - top : piece.end - top]
                number += 1
            if number < len(self._rows):
                unneeded = min(self._rows[number].first - top, held.shape[2])
                held, top = held[:, :, unneeded:], top + unneeded

    def _across(self, rgb: Tensor) -> Tensor:
        """Each row resampled to the new width."""
        rgb = rgb.contiguous()
        return torch.cat([rgb[..., p.first : p.end] @ p.matrix.T for p in self._columns], dim=3)

    def redo(self, rgb: Tensor, parts: Parts | None = None) -> Tensor:
        """See `Stage`."""
        return self(rgb)

    def reset(self) -> None:
        """See `Stage`; nothing is remembered."""

    def _prepare(self, height: int, width: int, device: torch.device) -> None:
        if self._from != (height, width, device):
            self._rows = _lanczos(height, self.height, device)
            self._columns = _lanczos(width, self.width, device)
            self._from = height, width, device


@dataclass(frozen=True)
class _Piece:
    """Part of a resampling matrix, which is a narrow band: dense, but only where it is not zero."""

    first: int  # [first, end): the input pixels that it reads
    end: int
    matrix: Tensor  # (outputs, end - first)


@lru_cache(maxsize=16)
def _lanczos(before: int, after: int, device: torch.device) -> tuple[_Piece, ...]:
    """The matrix that resamples `before` pixels to `after`, in pieces of `RESIZE_BLOCK` outputs.

    Turkowski 1990, "Filters for common resampling tasks"; edges as in Pillow: taps outside the
    picture are left out and the others scaled to a sum of one.
    """
    stretch = max(before / after, 1.0)  # a filter wider than a pixel is the antialiasing
    reach = LANCZOS_LOBES * stretch
    centers = (torch.arange(after, dtype=torch.float64) + 0.5) * before / after
    pieces = []
    for start in range(0, after, RESIZE_BLOCK):
        some = centers[start : start + RESIZE_BLOCK]
        first = max(math.floor(float(some[0]) - reach), 0)
        end = min(math.ceil(float(some[-1]) + reach), before)
        taps = torch.arange(first, end, dtype=torch.float64) + 0.5
        x = (taps - some[:, None]) / stretch
        weights = torch.sinc(x) * torch.sinc(x / LANCZOS_LOBES) * (x.abs() < LANCZOS_LOBES)
        weights /= weights.sum(dim=1, keepdim=True)
        pieces.append(_Piece(first, end, weights.to(device, torch.float32)))
    return tuple(pieces)
