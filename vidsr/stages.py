"""Stages: one picture in, one picture out, on the device that the picture lies on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional as F

from vidsr.engines.torch_engine import device_errors
from vidsr.errors import ModelError, OutOfMemory
from vidsr.tiling import Blend, Grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from vidsr.engines.engine import Engine

    # A batch of tiles and what the engine made of it -> what to use, and which are not finite.
    Check = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]

LANCZOS_LOBES = 3
RESIZE_BLOCK = 64  # output pixels that share one dense piece of a resampling matrix
FASTEST_TILE = {"cuda": 1024, "mps": 512}  # pixels; not measured yet
CPU_WORKING_SET = 128 << 20  # bytes: some four feature maps of 32 MiB, see _fastest_pixels
CPU_SMALLEST_TILE = 256  # pixels
SMALLEST_KEPT = 16  # pixels that a tile keeps beside halo and overlap when memory is short


class Stage(Protocol):
    """RGB (1,3,H,W) float32 -> RGB (1,3,*output_size(H,W)) float32, same device.

    Display range is [0,1]; values outside it (legal YUV has them) pass through unclipped. The
    output has any memory format and is the caller's; with nothing to do it may be the input.
    """

    @property
    def keeps_luma(self) -> bool:
        """True if only chroma changes: the luma plane is then copied, never recomputed."""

    @property
    def faulty(self) -> Tensor | None:
        """Whether the last picture came out non-finite, as a bool scalar on the device.

        None where that cannot happen. The stage never waits for it; whoever reads it does.
        """

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of what a picture of that size becomes."""

    def __call__(self, rgb: Tensor) -> Tensor:
        """Process one picture.

        Raises:
            OutOfMemory: the device's memory is full and no smaller tile is left to try.
            DeviceError: the device failed.
        """

    def redo(self, rgb: Tensor) -> Tensor:
        """The same picture again, its non-finite tiles in fp32; waits for the device.

        Raises:
            ModelError: a tile is not finite in fp32 either.
        """

    def reset(self) -> None:
        """Forget earlier pictures: the next one follows a cut or a seek."""


@dataclass
class Counters:
    """Fallbacks that happened; each may have changed the last bits of a picture."""

    retiled: int = 0  # times that a picture was computed again with smaller tiles
    recomputed: int = 0  # tiles that were computed again in fp32


@dataclass(frozen=True)
class _Fit:
    """All that is made ready for one picture size."""

    size: tuple[int, int]
    grid: Grid
    blend: Blend
    engine: Engine


class Upscale:
    """Enlarges with a network, tile by tile."""

    keeps_luma = False

    def __init__(self, engine: Engine, *, halo: int, overlap: int, tile: int, batch: int) -> None:
        """Make ready; `tile` (its halo included) and `batch` are upper limits.

        They shrink to what a small picture needs, and for good when memory runs out.
        """
        self.scale = engine.scale
        self.tile = tile
        self.batch = batch
        self.counters = Counters()
        self.faulty: Tensor | None = None
        self._engine = engine
        self._halo = halo
        self._overlap = overlap
        self._fit: _Fit | None = None
        self._exact: Engine | None = None

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Stage`."""
        return height * self.scale, width * self.scale

    def __call__(self, rgb: Tensor) -> Tensor:
        """See `Stage`."""
        output, faults = self._enlarge(rgb, self._note)
        self.faulty = faults.any() if faults is not None else None
        return output

    def redo(self, rgb: Tensor) -> Tensor:
        """See `Stage`."""
        output, faults = self._enlarge(rgb, self._mend)
        self.faulty = None
        self.counters.recomputed += int(faults.sum()) if faults is not None else 0
        return output

    def reset(self) -> None:
        """See `Stage`; nothing is remembered."""

    @torch.inference_mode()
    def bands(self, rgb: Tensor) -> Iterator[Tensor]:
        """The same picture from the top in bands of whole rows, (1,3,h,W*scale) each.

        So only a row of tiles is held at the output's size. Tiles that are not finite are computed
        again in fp32 at once, which waits for the device.

        Raises:
            OutOfMemory: as a call.
            DeviceError: as a call.
            ModelError: as `redo`.
        """
        done, rows = 0, rgb.shape[-2] * self.scale
        while done < rows:
            try:
                for band in self._bands_from(done, rgb):
                    done += band.shape[-2]
                    yield band
            except OutOfMemory as exc:
                self._shrink(max(rgb.shape[-2:]), exc)

    def _bands_from(self, first: int, rgb: Tensor) -> Iterator[Tensor]:
        """The bands below the first rows, which were given out before memory ran out."""
        fit = self._fit_for(rgb.shape[-2], rgb.shape[-1])
        faults: list[Tensor] = []
        top = 0
        with device_errors(self._engine.device):
            for band in fit.blend.bands(_outputs(fit, rgb, self._mend, faults)):
                if top + band.shape[-2] > first:
                    whole = _with_excess(band, rgb, self.scale, first=top // self.scale)
                    yield whole[:, :, max(first - top, 0) :]
                top += band.shape[-2]
        if faults:
            self.counters.recomputed += int(torch.cat(faults)[: len(fit.grid)].sum())

    @torch.inference_mode()
    def _enlarge(self, rgb: Tensor, check: Check) -> tuple[Tensor, Tensor | None]:
        """The enlarged picture, and which of its tiles were not finite if `check` looked."""
        while True:
            try:
                with device_errors(self._engine.device):
                    return self._enlarge_once(rgb, check)
            except OutOfMemory as exc:
                self._shrink(max(rgb.shape[-2:]), exc)
            # Only here, after the exception and the tensors in its frames are gone, try again.

    def _enlarge_once(self, rgb: Tensor, check: Check) -> tuple[Tensor, Tensor | None]:
        fit = self._fit_for(rgb.shape[-2], rgb.shape[-1])
        faults: list[Tensor] = []
        picture = fit.blend.merge(_outputs(fit, rgb, check, faults))
        picture = _with_excess(picture, rgb, self.scale)
        return picture, torch.cat(faults)[: len(fit.grid)] if faults else None

    def _fit_for(self, height: int, width: int) -> _Fit:
        """The grid and engine for a picture size; kept until the size or the tile changes."""
        if self._fit is None or self._fit.size != (height, width):
            grid = Grid(height, width, self.tile, self._halo, self._overlap)
            calls = math.ceil(len(grid) / self.batch)
            wanted = grid.shape, math.ceil(len(grid) / calls)  # as few padding tiles as can be
            if (self._engine.tile, self._engine.batch) != wanted:
                self._engine = self._engine.resized(*wanted)
            blend = Blend(grid, self.scale, self._engine.device)
            self._fit = _Fit((height, width), grid, blend, self._engine)
        return self._fit

    def _shrink(self, longest: int, cause: OutOfMemory) -> None:
        """Halve tile and batch for good.

        Raises:
            OutOfMemory: they are as small as they get.
        """
        side = min(self.tile, longest)
        floor = 2 * self._halo + self._overlap + SMALLEST_KEPT
        if side <= floor and self.batch == 1:
            device = self._engine.device
            way_out = "close other programs" if device.type == "cpu" else "choose --device cpu"
            raise OutOfMemory(
                f"{device} has too little memory even for tiles of {side} pixels; {way_out} or, "
                "if the picture is larger than that, a smaller --tile or another --model"
            ) from cause
        self.tile = min(self.tile, max(floor, side // 2))
        self.batch = max(1, self.batch // 2)
        self.counters.retiled += 1
        self._fit = None

    def _note(self, _tiles: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        return output, _not_finite(output)

    def _mend(self, tiles: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        fault = _not_finite(output)
        if not fault.any():
            return output, fault
        again = self._exact_engine()(tiles)
        if _not_finite(again).any():
            raise ModelError(
                "the network's output is not finite even in fp32; its weights are damaged, "
                "choose another --model"
            )
        return torch.where(fault[:, None, None, None], again, output.float()), fault

    def _exact_engine(self) -> Engine:
        if self._exact is None:
            self._exact = self._engine.in_fp32()
        wanted = self._engine.tile, self._engine.batch
        if (self._exact.tile, self._exact.batch) != wanted:
            self._exact = self._exact.resized(*wanted)
        return self._exact


def _outputs(fit: _Fit, rgb: Tensor, check: Check, faults: list[Tensor]) -> Iterator[Tensor]:
    """What the engine makes of each batch of tiles; adds what `check` found to `faults`."""
    for tiles in fit.grid.batches(rgb, fit.engine.batch):
        output, fault = check(tiles, fit.engine(tiles))
        if fault is not None:
            faults.append(fault)
        yield output


def _not_finite(tiles: Tensor) -> Tensor:
    """Which tiles hold inf or NaN: one pass, since both survive a sum and fp32 holds the sum."""
    return ~tiles.sum(dim=(1, 2, 3), dtype=torch.float32).isfinite()


def _with_excess(output: Tensor, rgb: Tensor, scale: int, *, first: int = 0) -> Tensor:
    """Add what the engine clamped away, bilinearly enlarged, to `output` in place.

    So blacker-than-black and superwhite survive. The CPU looks first whether there is any; on
    another device looking would be waiting. `output` may be a band, from row `first` of `rgb` on.
    """
    end = first + output.shape[-2] // scale
    above = max(first - 1, 0)  # bilinear weights reach one row further
    rgb = rgb[:, :, above : end + 1]
    if rgb.device.type == "cpu":
        low, high = rgb.aminmax()
        if low >= 0 and high <= 1:
            return output
    planes = (rgb - rgb.clamp(0, 1)).transpose(0, 1)  # (3,1,H,W): twice as fast on the CPU
    enlarged = F.interpolate(planes, scale_factor=float(scale), mode="bilinear")
    rows = slice((first - above) * scale, (end - above) * scale)
    return output.add_(enlarged.transpose(0, 1)[:, :, rows])


class Repeat:
    """Repeats every pixel `scale` times each way and changes no value: for tests of the rest."""

    keeps_luma = False
    faulty = None

    def __init__(self, scale: int = 1) -> None:
        self.scale = scale

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Stage`."""
        return height * self.scale, width * self.scale

    def __call__(self, rgb: Tensor) -> Tensor:
        """See `Stage`."""
        if self.scale == 1:
            return rgb
        return rgb.repeat_interleave(self.scale, dim=2).repeat_interleave(self.scale, dim=3)

    def redo(self, rgb: Tensor) -> Tensor:
        """See `Stage`."""
        return self(rgb)

    def reset(self) -> None:
        """See `Stage`; nothing is remembered."""


class Resize:
    """Brings a picture to an exact size with a Lanczos-3 filter, antialiased when it shrinks.

    The same filter as Pillow's `LANCZOS`, in fp32 and without clipping.
    """

    keeps_luma = False
    faulty = None

    def __init__(self, height: int, width: int) -> None:
        self.height = height
        self.width = width
        self._from: tuple[int, int, torch.device] | None = None
        self._rows: list[_Piece] = []
        self._columns: list[_Piece] = []

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Stage`."""
        return self.height, self.width

    @torch.inference_mode()
    def __call__(self, rgb: Tensor) -> Tensor:
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

    def redo(self, rgb: Tensor) -> Tensor:
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


def _lanczos(before: int, after: int, device: torch.device) -> list[_Piece]:
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
    return pieces


def choose_tile(
    height: int,
    width: int,
    *,
    margin: int,
    pixel_bytes: int,
    memory_bytes: int,
    device_type: str,
) -> tuple[int, int]:
    """(tile, batch) for a picture size: the fastest tile of the device, or less if memory is short.

    Args:
        height: of the picture.
        width: of the picture.
        margin: 2 * halo + overlap, what a tile gives away.
        pixel_bytes: what the network takes per input pixel, see `bytes_per_pixel`.
        memory_bytes: what it may take in all.
        device_type: "cpu", "cuda" or "mps".
    """
    fitting = memory_bytes // pixel_bytes
    pixels = min(fitting, _fastest_pixels(margin, pixel_bytes, device_type))
    if height * width <= pixels:
        return max(height, width), 1
    tile = min(max(math.isqrt(pixels), margin + SMALLEST_KEPT), max(height, width))
    if device_type == "cpu":
        return tile, 1
    return tile, max(1, pixels // (min(tile, height) * min(tile, width)))


def _fastest_pixels(margin: int, pixel_bytes: int, device_type: str) -> int:
    """How many pixels a tile has at best.

    On the CPU: feature maps above 32 MiB are fetched from the system anew each time (glibc's
    largest M_MMAP_THRESHOLD), and filling fresh pages cost half as much again as the arithmetic
    for 24 to 32 channels at 1280x720; much smaller tiles lose as much to their halos.
    """
    if device_type == "cpu":
        return max(CPU_WORKING_SET // pixel_bytes, CPU_SMALLEST_TILE**2, (4 * margin) ** 2)
    return FASTEST_TILE[device_type] ** 2


def bytes_per_pixel(channels: int, scale: int, itemsize: int, *, output_channels: int = 3) -> int:
    """Memory that a generator takes per input pixel: three feature maps at either resolution.

    Args:
        channels: of the features at the input's resolution.
        scale: output pixels per input pixel, each way.
        itemsize: bytes per number.
        output_channels: of the features at the output's resolution: 3 for a network that ends in
            a pixel shuffle, `channels` for one with convolutions after it (SRGAN, RRDB).
    """
    return 3 * itemsize * (channels + output_channels * scale * scale)
