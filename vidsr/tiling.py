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
    from collections.abc import Iterable, Iterator

    from torch import Tensor

RAMP_STEPS = 4096  # see Note [Tiles and halo]


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

    def batches(self, picture: Tensor, batch: int) -> Iterator[Tensor]:
        """Yield all tiles of (1,C,H,W) as (batch,C,h,w), the last tile repeated to fill up.

        A picture that is one tile, with a batch of one, is yielded itself, not copied.
        """
        for first in range(0, len(self), batch):
            numbers = [min(first + i, len(self) - 1) for i in range(batch)]
            tiles = [self._cut(picture, number) for number in numbers]
            yield tiles[0] if batch == 1 else torch.cat(tiles)

    def position(self, number: int) -> tuple[int, int]:
        """(row, column) of a tile, both counted in tiles."""
        return divmod(number, len(self.columns.starts))

    def _cut(self, picture: Tensor, number: int) -> Tensor:
        row, column = self.position(number)
        top, left = self.rows.starts[row], self.columns.starts[column]
        height, width = self.shape
        return picture[:, :, top : top + height, left : left + width]


class Blend:
    """Puts the enlarged tiles of a grid together; holds the ramps on the device."""

    def __init__(self, grid: Grid, scale: int, device: torch.device) -> None:
        self.grid = grid
        self.scale = scale
        self._rows = _device_weights(grid.rows, scale, device)
        self._columns = _device_weights(grid.columns, scale, device)

    def merge(self, batches: Iterable[Tensor]) -> Tensor:
        """Blend (batch,C,h*scale,w*scale) in tile order into (1,C,H*scale,W*scale), float32.

        Tiles past the grid's last are padding and ignored. A single float32 tile is returned
        itself, not copied.
        """
        if len(self.grid) == 1:
            return next(iter(batches))[:1].float()
        canvas: Tensor | None = None
        tiles = (tile for batch in batches for tile in batch)
        for number, tile in enumerate(tiles):
            if canvas is None:
                size = self.grid.height * self.scale, self.grid.width * self.scale
                canvas = torch.zeros(1, len(tile), *size, device=tile.device)
            if number < len(self.grid):
                self._add(canvas, number, tile)
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
            size = (end - first) * self.scale, self.grid.width * self.scale
            band: Tensor | None = None
            for number in range(row * across, (row + 1) * across):
                tile = next(tiles)  # one at a time: an engine may use its output's memory again
                if band is None:
                    band = _continued(
                        seam, tile.new_zeros(1, len(tile), *size, dtype=torch.float32)
                    )
                self._add(band, number, tile, above=first * self.scale)
            assert band is not None
            last = rows.seams[row][0] if row < len(rows.seams) else end
            done = (last - first) * self.scale
            seam = band[:, :, done:]
            if done:
                yield band[:, :, :done]

    def _add(self, canvas: Tensor, number: int, tile: Tensor, *, above: int = 0) -> None:
        """Add a tile to a canvas that begins `above` rows below the picture's top."""
        row, column = self.grid.position(number)
        rows, columns = self.grid.rows, self.grid.columns
        top, bottom = (edge * self.scale for edge in rows.kept(row))
        left, right = (edge * self.scale for edge in columns.kept(column))
        y, x = rows.starts[row] * self.scale, columns.starts[column] * self.scale
        kept = tile[:, top - y : bottom - y, left - x : right - x]
        weights = self._rows[row][:, None] * self._columns[column]
        canvas[0, :, top - above : bottom - above, left:right].addcmul_(kept, weights)


def _continued(seam: Tensor | None, band: Tensor) -> Tensor:
    """The band, beginning with what the tiles above it have left in the seam."""
    if seam is not None:
        band[:, :, : seam.shape[2]] = seam
    return band


def _device_weights(axis: Axis, scale: int, device: torch.device) -> list[Tensor]:
    return [axis.weights(number, scale).to(device) for number in range(len(axis.starts))]
