r"""Cut a picture into tiles of one shape and blend their enlargements: geometry and tensors only.

Note [Tiles and halo]
~~~~~~~~~~~~~~~~~~~~~
A network's memory grows with its input, so large pictures go through in tiles. Along one axis:

    picture    |..............................................|
    tile 0     |################hhh|
    tile 1                  |hhh##############hhh|
    tile 2                                 |hhh###############|
    seams                     /\             /\

- Every tile has the same shape, since engines and batches have a fixed one. The asked-for side says
  how many tiles there are; then the side shrinks until they just cover the picture in equal steps.
  (512 on 1280x720 is 3x2 tiles of 446x374, not of 512x512 that would overlap by a third.) A
  picture shorter than a tile is one tile of its own size.
- `halo` (h): the outer pixels of a tile see the network's zero padding instead of the picture and
  are thrown away, except at the picture's own border, where the padding belongs. So tiles give the
  picture that the whole would give, if the halo is at least the network's reach.
- `overlap`: what neighbours keep overlaps in a seam, where a linear ramp leads from one to the
  other. With a full halo the seam changes nothing; with a shorter one it hides the step.
- The weight of a tile is the ramp on its left minus the ramp on its right. These differences
  telescope: their sum is one wherever seams lie, even when three tiles meet. The ramps are
  multiples of 2^-12, so that the products of both axes, and their sum, are exact in fp32.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from vidsr.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

RAMP_STEPS = 4096  # see Note [Tiles and halo]


@dataclass(frozen=True)
class Rect:
    """Part of a picture, half-open: rows [top, bottom), columns [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w)."""
        return self.bottom - self.top, self.right - self.left

    @property
    def area(self) -> int:
        """Pixels; 0 or less if it is empty."""
        height, width = self.shape
        return height * width if height > 0 < width else 0

    def grown(self, pixels: int) -> Rect:
        """With so many pixels more on each side, which may lie outside the picture."""
        return Rect(
            self.top - pixels, self.left - pixels, self.bottom + pixels, self.right + pixels
        )

    def shared_with(self, other: Rect) -> Rect:
        """What lies in both; empty if nothing does."""
        return Rect(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )

    def at_least(self, side: int, whole: Rect) -> Rect:
        """Grown to sides of so many pixels, as far as what it is a part of has them."""
        high, wide = (
            max(own, min(side, most)) for own, most in zip(self.shape, whole.shape, strict=True)
        )
        top = max(whole.top, min(self.top, whole.bottom - high))
        left = max(whole.left, min(self.left, whole.right - wide))
        return Rect(top, left, top + high, left + wide)

    def aligned(self, step: int, whole: Rect) -> Rect:
        """Grown so that it begins at a multiple of `step` pixels from the whole's beginning."""
        top, left = (
            start - (start - origin) % step
            for start, origin in ((self.top, whole.top), (self.left, whole.left))
        )
        return Rect(top, left, self.bottom, self.right)

    def seen_from(self, other: Rect) -> Rect:
        """The same place in the coordinates of a part of the picture."""
        return Rect(
            self.top - other.top,
            self.left - other.left,
            self.bottom - other.top,
            self.right - other.left,
        )

    def of(self, picture: Tensor, scale: int = 1) -> Tensor:
        """The view (...,h*scale,w*scale) of this part of a picture enlarged `scale` times."""
        rows = slice(self.top * scale, self.bottom * scale)
        columns = slice(self.left * scale, self.right * scale)
        return picture[..., rows, columns]


@dataclass(frozen=True)
class Axis:
    """Where tiles lie along one side of a picture; all in input pixels."""

    size: int  # of the picture
    side: int  # of every tile
    starts: tuple[int, ...]  # first pixel of each tile
    seams: tuple[tuple[int, int], ...]  # [first, end) of the ramp between a tile and the next

    @classmethod
    def fit(cls, size: int, tile: int, halo: int, overlap: int) -> Axis:
        """Lay out the fewest tiles of at most `tile` pixels, then make them as small as will do.

        Raises:
            RequestError: a tile is no larger than what its two halos and the overlap take.
        """
        if size <= tile:
            return cls(size, size, (0,), ())
        margin = 2 * halo + overlap
        if tile <= margin:
            raise RequestError(
                f"a tile of {tile} pixels leaves nothing beside two halos of {halo} and an overlap "
                f"of {overlap}; choose --tile {margin + 1} or more"
            )
        steps = math.ceil((size - tile) / (tile - margin))
        side = math.ceil((size + steps * margin) / (steps + 1))
        starts = tuple(i * (size - side) // steps for i in range(steps + 1))
        seams = tuple(
            _middle(after + halo, before + side - halo, overlap)
            for before, after in itertools.pairwise(starts)
        )
        return cls(size, side, starts, seams)

    def kept(self, number: int) -> tuple[int, int]:
        """[first, end) of the pixels to which tile `number` contributes."""
        first = self.seams[number - 1][0] if number > 0 else 0
        end = self.seams[number][1] if number < len(self.seams) else self.size
        return first, end

    def weights(self, number: int, scale: int) -> Tensor:
        """Weight of tile `number` over its kept pixels at output resolution; fp32, on the CPU."""
        first, end = self.kept(number)
        centers = torch.arange(first * scale, end * scale, dtype=torch.float64) + 0.5
        weights = torch.ones_like(centers)
        if number > 0:
            weights = _ramp(centers, self.seams[number - 1], scale)
        if number < len(self.seams):
            weights = weights - _ramp(centers, self.seams[number], scale)
        return weights.to(torch.float32)


def _middle(first: int, end: int, width: int) -> tuple[int, int]:
    """The interval of that width in the middle of [first, end)."""
    start = first + (end - first - width) // 2
    return start, start + width


def _ramp(centers: Tensor, seam: tuple[int, int], scale: int) -> Tensor:
    """From 0 before a seam to 1 after it, at output pixel centers; a step if it has no width."""
    first, end = seam
    if first == end:
        return (centers > first * scale).to(centers.dtype)
    rise = (centers - first * scale) / ((end - first) * scale)
    return (rise.clamp(0, 1) * RAMP_STEPS).round() / RAMP_STEPS


@dataclass(frozen=True)
class Grid:
    """The tiles of a picture, row by row; see Note [Tiles and halo].

    Raises:
        RequestError: the tile is too small for halo and overlap.
    """

    height: int  # of the picture
    width: int
    tile: int  # longest side of the network's input, halo included
    halo: int  # context thrown away on each inner side of a tile
    overlap: int  # width of the seams

    def __post_init__(self) -> None:
        len(self)  # lays out both axes, so that what cannot work fails here

    @cached_property
    def rows(self) -> Axis:
        """The vertical layout."""
        return Axis.fit(self.height, self.tile, self.halo, self.overlap)

    @cached_property
    def columns(self) -> Axis:
        """The horizontal layout."""
        return Axis.fit(self.width, self.tile, self.halo, self.overlap)

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of every tile."""
        return self.rows.side, self.columns.side

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def batches(
        self, picture: Tensor, batch: int, numbers: Sequence[int] | None = None
    ) -> Iterator[Tensor]:
        """Yield tiles of (1,C,H,W) as (batch,C,h,w), the last of them repeated to fill up.

        All tiles, or those of some numbers. A picture that is one tile, with a batch of one, is
        yielded itself, not copied.
        """
        numbers = range(len(self)) if numbers is None else numbers
        for first in range(0, len(numbers), batch):
            some = [numbers[min(first + i, len(numbers) - 1)] for i in range(batch)]
            tiles = [self.seen(number).of(picture) for number in some]
            yield tiles[0] if batch == 1 else torch.cat(tiles)

    def position(self, number: int) -> tuple[int, int]:
        """(row, column) of a tile, both counted in tiles."""
        return divmod(number, len(self.columns.starts))

    def seen(self, number: int) -> Rect:
        """What a tile shows to the network."""
        row, column = self.position(number)
        top, left = self.rows.starts[row], self.columns.starts[column]
        height, width = self.shape
        return Rect(top, left, top + height, left + width)

    def kept(self, number: int) -> Rect:
        """The pixels to which a tile contributes."""
        row, column = self.position(number)
        (top, bottom), (left, right) = self.rows.kept(row), self.columns.kept(column)
        return Rect(top, left, bottom, right)

    def meeting(self, parts: Iterable[Rect]) -> list[int]:
        """The tiles that contribute to any of these parts of the picture."""
        parts = list(parts)
        return [
            number
            for number in range(len(self))
            if any(self.kept(number).shared_with(part).area for part in parts)
        ]


class Blend:
    """Puts the enlarged tiles of a grid together; holds the ramps on the device."""

    def __init__(self, grid: Grid, scale: int, device: torch.device) -> None:
        self.grid = grid
        self.scale = scale
        self._rows = _device_weights(grid.rows, scale, device)
        self._columns = _device_weights(grid.columns, scale, device)

    def merge(self, batches: Iterable[Tensor], numbers: Sequence[int] | None = None) -> Tensor:
        """Blend (batch,C,h*scale,w*scale) in tile order into (1,C,H*scale,W*scale), float32.

        All tiles, or those of some numbers: then it is right where no other tile contributes.
        Tiles past the last number are padding and ignored. A single float32 tile is returned
        itself, not copied.
        """
        if len(self.grid) == 1:
            return next(iter(batches))[:1].float()
        canvas: Tensor | None = None
        tiles = (tile for batch in batches for tile in batch)
        whole = Rect(0, 0, self.grid.height, self.grid.width)
        numbers = range(len(self.grid)) if numbers is None else numbers
        for number, tile in zip(numbers, tiles, strict=False):
            if canvas is None:
                size = self.grid.height * self.scale, self.grid.width * self.scale
                canvas = torch.zeros(1, len(tile), *size, device=tile.device)
            self._add_kept(canvas, whole, number, tile)
        if canvas is None:
            raise ValueError("no tiles to blend")
        return canvas

    def bands(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The same picture as `merge`, from the top in bands of whole rows, (1,C,h,W*scale) each.

        A band is given out as soon as no tile to come reaches it; the seam below it is all that is
        kept of the tiles so far.
        """
        rows, across = self.grid.rows, len(self.grid.columns.starts)
        tiles = (tile for batch in batches for tile in batch)
        seam: Tensor | None = None
        for row in range(len(rows.starts)):
            first, end = rows.kept(row)
            place = Rect(first, 0, end, self.grid.width)
            band: Tensor | None = None
            for number in range(row * across, (row + 1) * across):
                tile = next(tiles)  # one at a time: an engine may use its output's memory again
                if band is None:
                    size = (self.scale * side for side in place.shape)
                    band = _continued(
                        seam, tile.new_zeros(1, len(tile), *size, dtype=torch.float32)
                    )
                self._add_kept(band, place, number, tile)
            assert band is not None
            last = rows.seams[row][0] if row < len(rows.seams) else end
            done = (last - first) * self.scale
            seam = band[:, :, done:]
            if done:
                yield band[:, :, :done]

    def _add_kept(self, canvas: Tensor, place: Rect, number: int, tile: Tensor) -> None:
        """Add all that a tile has for the picture; see `add`."""
        kept = self.grid.kept(number)
        values = kept.seen_from(self.grid.seen(number)).of(tile, self.scale)
        self.add(canvas, place, number, kept, values)

    def add(self, canvas: Tensor, place: Rect, number: int, part: Rect, values: Tensor) -> None:
        """Add what a tile has for a part of the picture, weighted, to a canvas of some place.

        Args:
            canvas: (1,C,h*scale,w*scale) float32 of `place`.
            place: a part of the picture, or all of it.
            number: of the tile.
            part: of the picture, within the place and within what the tile keeps.
            values: (C,h*scale,w*scale) of that part.
        """
        row, column = self.grid.position(number)
        inside = part.seen_from(self.grid.kept(number))
        weights = self._rows[row][:, None] * self._columns[column]
        target = part.seen_from(place).of(canvas[0], self.scale)
        target.addcmul_(values, inside.of(weights, self.scale))


def _continued(seam: Tensor | None, band: Tensor) -> Tensor:
    """The band, beginning with what the tiles above it have left in the seam."""
    if seam is not None:
        band[:, :, : seam.shape[2]] = seam
    return band


def _device_weights(axis: Axis, scale: int, device: torch.device) -> list[Tensor]:
    return [axis.weights(number, scale).to(device) for number in range(len(axis.starts))]
