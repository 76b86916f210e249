"""Motion between neighbouring pictures: optical flow, warping along it, cuts.

The only door to OpenCV (opencv-python-headless, the extra `vidsr[color]`), which is loaded when the
first flow or warp is asked for. Everything here is numpy on the host: `luma` is (H,W) uint8,
`planes` are (C,H,W) float32, a `picture` is (H,W,C) float32, a flow is (H,W,2) float32 in pixels,
(x, y).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from vidsr.errors import RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALLEST_SIDE = 16  # pixels; below it the search finds no patch, and nothing moves
CUT_BLOCKS = 4  # blocks a side, each with a histogram of its own
CUT_BINS = 32
CUT_DISTANCE = 0.135  # of 1, see `CutDetector`
CUT_CONTRAST = 2.0  # times as far as from picture to picture before
CUT_MEMORY = 2  # pictures before


def flow(previous_luma: NDArray[np.uint8], luma: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Where each pixel of a picture was in the one before: luma[p] is previous_luma[p + flow[p]].

    Dense inverse search (Kroeger et al. 2016, arXiv:1603.03590).

    Raises:
        RequestError: OpenCV is not installed.
    """
    if min(luma.shape) < SMALLEST_SIDE:
        return np.zeros((*luma.shape, 2), np.float32)
    cv2 = opencv()
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    return cast("NDArray[np.float32]", search.calc(luma, previous_luma, None))


def warp(planes: NDArray[np.float32], flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Carry the planes of the picture before along a flow; bilinear, edges repeat.

    Raises:
        RequestError: OpenCV is not installed.
    """
    return np.stack([warp_pixels(plane, flow) for plane in planes])


def warp_pixels(picture: NDArray[np.float32], flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """As `warp`, of a picture (H,W,C) or (H,W): all channels in one pass.

    Raises:
        RequestError: OpenCV is not installed.
    """
    cv2 = opencv()
    how = cv2.INTER_LINEAR | cv2.WARP_RELATIVE_MAP
    warped = cv2.remap(picture, flow, None, how, borderMode=cv2.BORDER_REPLICATE)
    return cast("NDArray[np.float32]", warped)


def enlarged_flow(flow: NDArray[np.float32], scale: int) -> NDArray[np.float32]:
    """The same motion for a picture `scale` times as large.

    Raises:
        RequestError: OpenCV is not installed.
    """
    cv2 = opencv()
    scaled = flow * np.float32(scale)
    large = cv2.resize(scaled, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    return cast("NDArray[np.float32]", large)


def enlarged(picture: NDArray[np.float32], scale: int) -> NDArray[np.float32]:
    """A picture (H,W,C) `scale` times as large, bicubic (Keys 1981).

    Raises:
        RequestError: OpenCV is not installed.
    """
    cv2 = opencv()
    large = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return cast("NDArray[np.float32]", large)


class CutDetector:
    """Finds the first picture of each shot by its luma histograms.

    Pixels are ranked first, so that fades and old film's flicker, which change all greys but not
    their order, change little. Each of 4x4 blocks has a histogram, so that two shots with the same
    greys in other places differ. Two histograms are as far apart as their cumulative sums (the
    earth mover's distance of Rubner et al. 2000), two pictures as the mean of their blocks.

    A cut is far, and it is sudden: gunfire and whip pans are as far, but several times in a row.
    Set on the real clips, of which Tears of Steel has 25 cuts in 1,691 frames and a battle.
    """

    def __init__(self) -> None:
        self._before: NDArray[np.float64] | None = None
        self._distances: list[float] = []

    def is_cut(self, luma: NDArray[np.uint8]) -> bool:
        """Whether this picture begins a shot; the first one of all does."""
        sums = _cumulative_histograms(_ranks(luma))
        before, self._before = self._before, sums
        if before is None:
            return True
        distance = float(np.abs(sums - before).mean())
        usual = max(self._distances[-CUT_MEMORY:], default=0.0)
        self._distances = [*self._distances[-CUT_MEMORY:], distance]
        return distance > max(CUT_DISTANCE, CUT_CONTRAST * usual)

    def reset(self) -> None:
        """The next picture is the first one."""
        self._before = None
        self._distances = []


def _ranks(luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The share of pixels that are as dark or darker, 255 for all: histogram equalisation."""
    shares = np.cumsum(np.bincount(luma.ravel(), minlength=256)) / luma.size
    return (shares * 255).astype(np.uint8)[luma]


def _cumulative_histograms(luma: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(blocks, bins): the share of each block's pixels up to each level."""
    levels = luma // (256 // CUT_BINS)
    rows = np.array_split(levels, CUT_BLOCKS)
    blocks = [block for row in rows for block in np.array_split(row, CUT_BLOCKS, axis=1)]
    counts = [np.bincount(b.ravel(), minlength=CUT_BINS) / max(b.size, 1) for b in blocks]
    return np.cumsum(counts, axis=1)


@cache
def opencv(way_out: str = "--stability 0 colors every frame for itself") -> Any:
    """OpenCV, on one thread: how many there are changes what its search finds.

    Args:
        way_out: what to say to those who do without.

    Raises:
        RequestError: it is not installed.
    """
    try:
        import cv2
    except ImportError as exc:
        raise RequestError(
            "following motion needs OpenCV, which is not installed; pip install 'vidsr[color]', or "
            + way_out
        ) from exc
    cv2.setNumThreads(1)
    return cv2
