"""Which parts of a picture need the network: what did not change is not computed twice.

Note [What did not change]
~~~~~~~~~~~~~~~~~~~~~~~~~~
A pixel of the result depends on the pixels of the picture within the network's reach, and on a few
more for chroma and a reduction. Where all of those are, to the bit, what they were one picture
before, the result is what it was. `stream` compares the planes as they were decoded:

    nothing changed        the last result is the result; no slot, no network, no copy
    little changed         the network runs on the parts of the result that may differ, each with
                           its reach around it; the rest is copied from the last result's planes
    much changed           as if nothing had been compared

The pictures are the same with reuse and without, to the bit. That rests on one thing: a part of a
picture, with the reach around it, must come out as it would in the whole. Convolutions on a
processor are sums in an order that does not depend on the shape, unless it is so small that another
routine takes it (torch's own below 20,480 numbers, oneDNN's above), or computed in blocks: then
parts begin at whole blocks and are shown as many pixels more (Note [ncnn's own ways]). So it is
tried out with the network at hand, once for a machine, from which size on it is so. Where it is not
(an engine with compiled shapes, a GPU that chooses its algorithm by the shape) the parts are whole
tiles of the plan's grid, in the engine's own batches, and each tile depends on what it shows and on
nothing else.

Parts cost more than their share, since each needs its reach around it: (c + 2h)^2 for c^2. So what
must be computed is covered by rectangles that are split only where that saves pixels, and where
they would take nearly all of a picture the whole is computed.

Everything here is geometry, on the host. `Blocks` are booleans (rows, columns), one for each square
of `BLOCK` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vidsr.tiling import Rect

Planes = tuple[NDArray[np.uint8] | NDArray[np.uint16], ...]
Blocks = NDArray[np.bool_]
Parts = Sequence[Rect]  # of a picture

BLOCK = 8  # pixels
CALL_PIXELS = 1024  # what a call of the network costs beside its pixels, in pixels

Reuse = Literal["exact", "motion", "off"]


def changed(before: Planes, after: Planes) -> Blocks:
    """Where planes of one shape differ: Y | Y,U,V | R,G,B, chroma of any subsampling by 1, 2, 4."""
    height, width = after[0].shape
    blocks: Blocks = np.zeros((-(-height // BLOCK), -(-width // BLOCK)), np.bool_)
    for old, new in zip(before, after, strict=True):
        if np.array_equal(old, new):
            continue
        rows, columns = (
            BLOCK // round(a / b) for a, b in zip((height, width), new.shape, strict=True)
        )
        differs = np.logical_or.reduceat(old != new, range(0, new.shape[0], rows), axis=0)
        blocks |= np.logical_or.reduceat(differs, range(0, new.shape[1], columns), axis=1)
    return blocks


def grown(blocks: Blocks, pixels: int) -> Blocks:
    """All blocks that have a pixel within so many of a block, both ways."""
    for axis in (0, 1):
        blocks = _grown_along(blocks, -(-pixels // BLOCK), axis)
    return blocks


def _grown_along(blocks: Blocks, by: int, axis: int) -> Blocks:
    size = blocks.shape[axis]
    sums = np.cumsum(blocks, axis=axis)
    ends = np.minimum(np.arange(size) + by, size - 1)
    upto = sums.take(ends, axis=axis)
    before = np.arange(size) - by - 1
    passed = sums.take(np.maximum(before, 0), axis=axis)
    shape = [-1, 1] if axis == 0 else [1, -1]
    passed = np.where((before >= 0).reshape(shape), passed, 0)
    grown: Blocks = upto > passed
    return grown


def meets(blocks: Blocks, part: Rect) -> bool:
    """Whether a block lies in a part of the picture, if only by a pixel."""
    top, left = max(part.top, 0) // BLOCK, max(part.left, 0) // BLOCK
    return bool(blocks[top : -(-part.bottom // BLOCK), left : -(-part.right // BLOCK)].any())


def cover(blocks: Blocks, size: tuple[int, int], reach: int) -> tuple[Rect, ...]:
    """Rectangles that hold all blocks and do not overlap, cheap with `reach` around each.

    The smallest rectangle that holds all is split in two, and these again, wherever it saves.

    Args:
        blocks: what is to be held.
        size: (H, W) of the picture, which the last blocks may surpass.
        reach: pixels that are shown to the network around each rectangle.
    """
    sides = _Sides(size, reach)
    return tuple(
        Rect(
            top * BLOCK,
            left * BLOCK,
            min(bottom * BLOCK, size[0]),
            min(right * BLOCK, size[1]),
        )
        for top, left, bottom, right in _split(blocks, 0, 0, sides)
    )


@dataclass(frozen=True)
class _Sides:
    """How many pixels the network sees for some blocks."""

    size: tuple[int, int]
    reach: int

    def along(
        self, axis: int, first: NDArray[np.int64], end: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """For blocks [first, end) along an axis."""
        low = np.maximum(first * BLOCK - self.reach, 0)
        high = np.minimum(end * BLOCK + self.reach, self.size[axis])
        sides: NDArray[np.int64] = np.maximum(high - low, 0)
        return sides


def _split(blocks: Blocks, top: int, left: int, sides: _Sides) -> list[tuple[int, int, int, int]]:
    """(top, left, bottom, right) in blocks of each rectangle; `blocks` begins at (top, left)."""
    rows, columns = np.flatnonzero(blocks.any(axis=1)), np.flatnonzero(blocks.any(axis=0))
    if not len(rows):
        return []
    blocks = blocks[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    top, left = top + int(rows[0]), left + int(columns[0])
    height, width = blocks.shape
    whole = _cost(sides, 0, np.array([[top, top + height, left, left + width]]))[0]
    by_rows, row = _best_cut(blocks, (top, left), 0, sides)
    by_columns, column = _best_cut(blocks.T, (left, top), 1, sides)
    if min(by_rows, by_columns) + CALL_PIXELS >= whole:
        return [(top, left, top + height, left + width)]
    if by_rows <= by_columns:
        first, second = blocks[:row], blocks[row:]
        return _split(first, top, left, sides) + _split(second, top + row, left, sides)
    first, second = blocks[:, :column], blocks[:, column:]
    return _split(first, top, left, sides) + _split(second, top, left + column, sides)


def _best_cut(
    blocks: Blocks, start: tuple[int, int], axis: int, sides: _Sides
) -> tuple[float, int]:
    """The least cost of two rectangles that a cut before some line leaves, and that line.

    `axis` is the picture's axis along which lines (the first axis of `blocks`) follow each other.
    """
    count, across = blocks.shape
    if count < 2:
        return float("inf"), 0
    used = blocks.any(axis=1)
    lines = np.arange(count)
    lowest = np.where(used, blocks.argmax(axis=1), across)
    highest = np.where(used, across - blocks[:, ::-1].argmax(axis=1), 0)
    last = np.maximum.accumulate(np.where(used, lines + 1, 0))  # of the lines up to here
    next_ = np.minimum.accumulate(np.where(used, lines, count)[::-1])[::-1]
    before = (
        np.zeros(count, np.int64),
        last,
        np.minimum.accumulate(lowest),
        np.maximum.accumulate(highest),
    )
    after = (
        next_,
        np.full(count, count),
        np.minimum.accumulate(lowest[::-1])[::-1],
        np.maximum.accumulate(highest[::-1])[::-1],
    )
    offset = np.array([start[0], start[0], start[1], start[1]])
    costs = _cost(sides, axis, np.stack(before, axis=1)[:-1] + offset) + _cost(
        sides, axis, np.stack(after, axis=1)[1:] + offset
    )
    best = int(costs.argmin())
    return float(costs[best]), best + 1


def _cost(sides: _Sides, axis: int, boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels that the network sees for boxes (N,4): [first, end) along the axis, then across."""
    return sides.along(axis, boxes[:, 0], boxes[:, 1]) * sides.along(
        1 - axis, boxes[:, 2], boxes[:, 3]
    )
