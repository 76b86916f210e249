"""Stages: one picture in, one picture out, on the device that the picture lies on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional as F

from vidsr.engines.torch_engine import device_errors
from vidsr.errors import ModelError, OutOfMemory
from vidsr.reuse import BLOCK, cover, grown, meets
from vidsr.tiling import Blend, Grid, Rect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from vidsr.engines.engine import Engine
    from vidsr.reuse import Blocks, Parts

    # A batch of tiles and what the engine made of it -> what to use, and which are not finite.
    Check = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
    Run = Callable[[Engine, Tensor], Tensor]  # a batch of tiles through an engine, and checked
    FindLeast = Callable[[Engine, Grid, int], int | None]  # what `least_exact` says

FASTEST_TILE = {"cuda": 1024, "mps": 512}  # pixels; not measured yet
CPU_WORKING_SET = 768 << 20  # bytes that a tile may take, see _fastest_pixels
CPU_SMALLEST_TILE = 256  # pixels
CPU_LARGEST = 3 << 30  # bytes that a tile may take to lose less to its halo
SMALLEST_KEPT = 16  # pixels that a tile keeps beside halo and overlap when memory is short
MOST_IN_PARTS = 0.9  # of the whole's cost: beyond it, the whole is computed
PART_SIDES = (32, 48, 64, 96, 128)  # pixels that parts must be shown at least to be exact


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

    @property
    def holds(self) -> bool:
        """True if a picture that repeats the one before may be given the same result again."""

    def reach(self, height: int, width: int) -> int:
        """How far beside its own place a pixel's result looks, in pixels of such a picture."""

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of what a picture of that size becomes."""

    def affected(self, changed: Blocks, size: tuple[int, int], beside: int) -> Parts | None:
        """The parts of the result to compute if only some blocks of a picture (H,W) changed.

        Everything that depends on a block, directly or through what lies up to `beside` pixels
        from it, is in one of them. None is all of it, where that is as cheap or all there is.
        """

    def __call__(self, rgb: Tensor, parts: Parts | None = None) -> Tensor:
        """Process one picture; with `parts`, whatever lies elsewhere in the result may be wrong.

        Raises:
            OutOfMemory: the device's memory is full and no smaller tile is left to try.
            DeviceError: the device failed.
        """

    def redo(self, rgb: Tensor, parts: Parts | None = None) -> Tensor:
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
    computed: float = 0.0  # pictures that the network ran on; a part counts by its pixels


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
    holds = True

    def __init__(
        self,
        engine: Engine,
        *,
        halo: int,
        overlap: int,
        tile: int,
        batch: int,
        part_halo: int | None = None,
        find_least: FindLeast | None = None,
    ) -> None:
        """Make ready; `tile` (its halo included) and `batch` are upper limits.

        They shrink to what a small picture needs, and for good when memory runs out. `part_halo` is
        what is shown around parts; None is the halo, and whole tiles unless parts are then exact,
        which `find_least` tells; None is `least_exact`.
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
        self._canvas: Tensor | None = None  # where parts of a picture are put
        self._exact_parts = part_halo is None
        self._find_least = find_least or least_exact
        self._least: int | None = 0  # pixels that a part is shown at least; None: none are exact
        self._tried: tuple[int, int] | None = None  # the tile shape that this is true of
        self.part_halo = halo * engine.block if part_halo is None else part_halo

    def reach(self, height: int, width: int) -> int:
        """See `Stage`."""
        return max(height, width)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Stage`."""
        return height * self.scale, width * self.scale

    def affected(self, changed: Blocks, size: tuple[int, int], beside: int) -> Parts | None:
        """See `Stage`: rectangles, or else whole tiles."""
        grid = Grid(*size, self.tile, self._halo, self._overlap)
        reach = max(self._halo, self.part_halo) + beside
        parts: Parts = cover(grown(changed, reach), size, reach)
        if sum(part.area for part in parts) > MOST_IN_PARTS * size[0] * size[1]:
            return None
        if not self._divides(grid):
            tiles = range(len(grid))
            shown = [tile for tile in tiles if meets(changed, grid.seen(tile).grown(beside))]
            parts = tuple(grid.kept(tile).grown(beside) for tile in shown)
        return parts if self._share(grid, parts) < MOST_IN_PARTS else None

    def share(self, size: tuple[int, int], parts: Parts) -> float:
        """What parts of a picture (H,W) cost, the whole being 1."""
        return self._share(Grid(*size, self.tile, self._halo, self._overlap), parts)

    def __call__(self, rgb: Tensor, parts: Parts | None = None) -> Tensor:
        """See `Stage`."""
        output, faults = self._enlarge(rgb, parts, self._note)
        self.faulty = faults.any() if faults is not None else None
        return output

    def redo(self, rgb: Tensor, parts: Parts | None = None) -> Tensor:
        """See `Stage`."""
        output, faults = self._enlarge(rgb, parts, self._mend)
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
        run = _noting(self._mend, faults)
        with device_errors(self._engine.device):
            for band in fit.blend.bands(_outputs(fit, rgb, run)):
                end = top + band.shape[-2]
                if end > first:
                    excess = _excess(rgb, self.scale, rows=(top // self.scale, end // self.scale))
                    whole = band if excess is None else band.add_(excess)
                    yield whole[:, :, max(first - top, 0) :]
                top = end
        if faults:
            self.counters.recomputed += int(torch.cat(faults)[: len(fit.grid)].sum())

    @torch.inference_mode()
    def _enlarge(
        self, rgb: Tensor, parts: Parts | None, check: Check
    ) -> tuple[Tensor, Tensor | None]:
        """The enlarged picture, and which of its tiles were not finite if `check` looked."""
        while True:
            try:
                with device_errors(self._engine.device):
                    return self._enlarge_once(rgb, parts, check)
            except OutOfMemory as exc:
                self._shrink(max(rgb.shape[-2:]), exc)
            # Only here, after the exception and the tensors in its frames are gone, try again.

    def _enlarge_once(
        self, rgb: Tensor, parts: Parts | None, check: Check
    ) -> tuple[Tensor, Tensor | None]:
        fit = self._fit_for(rgb.shape[-2], rgb.shape[-1])
        faults: list[Tensor] = []
        run = _noting(check, faults)
        self.counters.computed += 1.0 if parts is None else self._share(fit.grid, parts)
        excess = _excess(rgb, self.scale)
        if parts is not None and self._divides(fit.grid):
            for part in parts:
                self._put(fit, part, self._patch(fit, part, rgb, run), excess)
            assert self._canvas is not None
            return self._canvas, torch.cat(faults) if faults else None
        numbers = range(len(fit.grid)) if parts is None else fit.grid.meeting(parts)
        picture = fit.blend.merge(_outputs(fit, rgb, run, numbers), numbers)
        picture = picture if excess is None else picture.add_(excess)
        return picture, torch.cat(faults)[: len(numbers)] if faults else None

    def _patch(self, fit: _Fit, part: Rect, rgb: Tensor, run: Run) -> Tensor:
        """A part of the result (1,3,h,w) float32, as the tiles of the grid would give it."""
        patch: Tensor | None = None
        for number, shown, seen in self._pieces(fit.grid, [part]):
            output = run(self._engine.resized(seen.shape, 1), seen.of(rgb))
            piece = shown.seen_from(seen).of(output, self.scale)
            if len(fit.grid) == 1:
                return piece.float()
            if patch is None:
                patch = torch.zeros(1, 3, *(self.scale * side for side in part.shape))
            fit.blend.add(patch, part, number, shown, piece[0])
        assert patch is not None
        return patch

    def _put(self, fit: _Fit, part: Rect, patch: Tensor, excess: Tensor | None) -> None:
        canvas = self._canvas_for(fit, patch)
        if excess is not None:
            patch.add_(part.of(excess, self.scale))
        part.of(canvas, self.scale).copy_(patch)

    def _canvas_for(self, fit: _Fit, patch: Tensor) -> Tensor:
        """Memory laid out as the whole result is, so that what follows rounds as it would."""
        size = (1, 3, *(self.scale * side for side in fit.size))
        if self._canvas is None or self._canvas.shape != size:
            last = len(fit.grid) == 1 and patch.stride(1) == 1
            layout = torch.channels_last if last else torch.contiguous_format
            self._canvas = torch.zeros(size).contiguous(memory_format=layout)
        return self._canvas

    def _share(self, grid: Grid, parts: Parts) -> float:
        """What parts cost, the whole being 1."""
        if not self._divides(grid):
            return len(grid.meeting(parts)) / len(grid)
        pixels = sum(seen.area for _, _, seen in self._pieces(grid, parts))
        return pixels / (len(grid) * grid.seen(0).area)

    def _pieces(self, grid: Grid, parts: Parts) -> Iterator[tuple[int, Rect, Rect]]:
        """What each tile has of each part: its number, that piece, and what the network sees."""
        for part in parts:
            for number in grid.meeting([part]):
                shown = part.shared_with(grid.kept(number))
                tile = grid.seen(number)
                seen = shown.grown(self.part_halo).shared_with(tile)
                least = seen.at_least(self._least or 0, tile)
                yield number, shown, least.aligned(self._engine.block, tile)

    def _divides(self, grid: Grid) -> bool:
        """Whether parts of any shape will do; finds out how large they must be to be exact."""
        if not self._engine.any_shape:
            return False
        if self._exact_parts and self._tried != grid.shape:
            self._least = self._find_least(self._engine, grid, self.part_halo)
            self._tried = grid.shape
        return self._least is not None

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
        again = self._exact_engine(tiles)(tiles)
        if _not_finite(again).any():
            raise ModelError(
                "the network's output is not finite even in fp32; its weights are damaged, "
                "choose another --model"
            )
        return torch.where(fault[:, None, None, None], again, output.float()), fault

    def _exact_engine(self, tiles: Tensor) -> Engine:
        if self._exact is None:
            self._exact = self._engine.in_fp32()
        batch, _, height, width = tiles.shape
        if (self._exact.tile, self._exact.batch) != ((height, width), batch):
            self._exact = self._exact.resized((height, width), batch)
        return self._exact


def _noting(check: Check, faults: list[Tensor]) -> Run:
    """Run an engine and let `check` see to the output; adds what it found to `faults`."""

    def run(engine: Engine, tiles: Tensor) -> Tensor:
        output, fault = check(tiles, engine(tiles))
        if fault is not None:
            faults.append(fault)
        return output

    return run


def _outputs(
    fit: _Fit, rgb: Tensor, run: Run, numbers: Sequence[int] | None = None
) -> Iterator[Tensor]:
    """What the engine makes of each batch of tiles: of all, or of those of some numbers."""
    for tiles in fit.grid.batches(rgb, fit.engine.batch, numbers):
        yield run(fit.engine, tiles)


@torch.inference_mode()
def least_exact(engine: Engine, grid: Grid, halo: int) -> int | None:
    """The least side in pixels from which on parts come out as in the whole tile, to the bit.

    Tried out on noise, as small parts may be summed in another order. `halo` is what they are shown
    around themselves. None if no part does.
    """
    height, width = grid.shape
    noise = torch.Generator().manual_seed(0)
    tile = torch.rand(1, 3, height, width, generator=noise).to(engine.device)
    whole = engine.resized(grid.shape, 1)(tile)

    def is_exact(seen: Rect) -> bool:
        output = engine.resized(seen.shape, 1)(seen.of(tile))
        inside = seen.grown(-halo)
        shown = inside.seen_from(seen).of(output, engine.scale)
        return torch.equal(inside.of(whole, engine.scale), shown)

    block = engine.block
    smallest = 2 * halo + BLOCK
    for side in [side for side in PART_SIDES if side > 2 * halo] or [smallest]:
        top, left = block * (side // 4 // block + 1), block * (side // 4 // block + 3)
        high, wide = min(2 * side, height - top), min(2 * side, width - left)
        if side <= min(high, wide):
            shapes = (side, side), (side, wide), (high, side)
            if all(is_exact(Rect(top, left, top + h, left + w)) for h, w in shapes):
                return side
    return None


def _not_finite(tiles: Tensor) -> Tensor:
    """Which tiles hold inf or NaN: one pass, since both survive a sum and fp32 holds the sum."""
    return ~tiles.sum(dim=(1, 2, 3), dtype=torch.float32).isfinite()


def _excess(rgb: Tensor, scale: int, rows: tuple[int, int] | None = None) -> Tensor | None:
    """What the engine clamps away, bilinearly enlarged: (1,3,H*scale,W*scale), or None.

    Added to the result, so that blacker-than-black and superwhite survive. The CPU looks first
    whether there is any; on another device looking would be waiting. With `rows` [first, end) of
    the picture, only that band of it.
    """
    first, end = rows or (0, rgb.shape[-2])
    above = max(first - 1, 0)  # bilinear weights reach one row further
    rgb = rgb[:, :, above : end + 1]
    if rgb.device.type == "cpu":
        low, high = rgb.aminmax()
        if low >= 0 and high <= 1:
            return None
    planes = (rgb - rgb.clamp(0, 1)).transpose(0, 1)  # (3,1,H,W): twice as fast on the CPU
    enlarged = F.interpolate(planes, scale_factor=float(scale), mode="bilinear")
    return enlarged.transpose(0, 1)[:, :, (first - above) * scale : (end - above) * scale]


class Repeat:
    """Repeats every pixel `scale` times each way and changes no value: for tests of the rest."""

    keeps_luma = False
    faulty = None
    holds = True

    def __init__(self, scale: int = 1) -> None:
        self.scale = scale

    def reach(self, height: int, width: int) -> int:
        """See `Stage`."""
        return 0

    def affected(self, changed: Blocks, size: tuple[int, int], beside: int) -> Parts | None:
        """See `Stage`."""
        return None

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Stage`."""
        return height * self.scale, width * self.scale

    def __call__(self, rgb: Tensor, parts: Parts | None = None) -> Tensor:
        """See `Stage`."""
        if self.scale == 1:
            return rgb
        return rgb.repeat_interleave(self.scale, dim=2).repeat_interleave(self.scale, dim=3)

    def redo(self, rgb: Tensor, parts: Parts | None = None) -> Tensor:
        """See `Stage`."""
        return self(rgb)

    def reset(self) -> None:
        """See `Stage`; nothing is remembered."""


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

    On the CPU a pixel takes as long in a tile of 320x180 as in one of 1920x1080 (measured with
    torch and OpenVINO, 24 to 64 channels, where `keep_freed_memory` was called), and large tiles
    lose less to their halos; but each worker holds what a tile takes.
    """
    if device_type == "cpu":
        frugal = min((4 * margin) ** 2, CPU_LARGEST // pixel_bytes)
        return max(CPU_WORKING_SET // pixel_bytes, CPU_SMALLEST_TILE**2, frugal)
    return FASTEST_TILE[device_type] ** 2


def bytes_per_pixel(channels: int, scale: int, itemsize: int, *, output_channels: int = 3) -> int:
    """Memory that a generator takes per input pixel: three feature maps, then four larger ones.

    Args:
        channels: of the features at the input's resolution.
        scale: output pixels per input pixel, each way.
        itemsize: bytes per number.
        output_channels: of the features at the output's resolution: 3 for a network that ends in
            a pixel shuffle, `channels` for one with convolutions after it (SRGAN, RRDB).
    """
    return itemsize * (3 * channels + 4 * output_channels * scale * scale)
