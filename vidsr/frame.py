"""Frame, PixelLayout, ColorSpec: a picture with its time and its colour tags.

These are the nouns that every other room speaks of. They hold numpy planes and plain numbers;
nothing here knows a codec, a file or a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Matrix(IntEnum):
    """YCbCr matrix coefficients; FFmpeg's AVColorSpace, which are H.273's codes (table 4)."""

    RGB = 0
    BT709 = 1
    UNSPECIFIED = 2
    FCC = 4
    BT470BG = 5
    SMPTE170M = 6
    SMPTE240M = 7
    YCGCO = 8
    BT2020_NCL = 9
    BT2020_CL = 10


class Range(IntEnum):
    """FFmpeg's AVColorRange."""

    UNSPECIFIED = 0
    LIMITED = 1
    FULL = 2


class Siting(IntEnum):
    """Where a chroma sample lies among its luma samples; FFmpeg's AVChromaLocation."""

    UNSPECIFIED = 0
    LEFT = 1
    CENTER = 2
    TOPLEFT = 3
    TOP = 4
    BOTTOMLEFT = 5
    BOTTOM = 6


@dataclass(frozen=True)
class ColorSpec:
    """What the code values mean. Past the reader, matrix, range and siting are never unspecified.

    `primaries` and `transfer` are FFmpeg's AVColorPrimaries and AVColorTransferCharacteristic
    (H.273 tables 2 and 3); vidsr carries them and never computes with them.
    """

    matrix: Matrix
    range: Range
    primaries: int
    transfer: int
    siting: Siting
    guessed: frozenset[str] = frozenset()  # names of the fields that the file did not state

    @property
    def is_hdr(self) -> bool:
        """Whether the transfer is PQ (SMPTE ST 2084) or HLG (ARIB STD-B67)."""
        return self.transfer in {16, 18}


@dataclass(frozen=True)
class PixelLayout:
    """How samples lie in planes, always planar: Y | Y,U,V | R,G,B, then A if `alpha`.

    Samples are uint8 for depth 8, else uint16 holding `depth` bits in the low end.
    """

    model: Literal["gray", "yuv", "rgb"]
    depth: int
    subsampling: tuple[int, int] = (0, 0)  # log2 of the chroma step, (horizontal, vertical)
    alpha: bool = False

    def plane_shapes(self, width: int, height: int) -> tuple[tuple[int, int], ...]:
        """Shape (H, W) of each plane of a picture; chroma sizes are rounded up."""
        step_x, step_y = self.subsampling
        chroma = (-(-height >> step_y), -(-width >> step_x))
        color = {"gray": (), "yuv": (chroma, chroma), "rgb": ((height, width),) * 2}[self.model]
        return ((height, width), *color, *(((height, width),) if self.alpha else ()))


class Packet(Protocol):
    """Compressed data of a copied stream, in transit from reader to writer (a PyAV packet)."""

    @property
    def size(self) -> int:
        """Bytes."""


@dataclass
class Frame:
    """One decoded picture: an envelope of time and colour; only the planes change on the way."""

    planes: tuple[NDArray[np.uint8] | NDArray[np.uint16], ...]
    layout: PixelLayout
    color: ColorSpec
    pts: int  # in time_base
    duration: int  # in time_base; 0 if the file does not say
    time_base: Fraction  # seconds per tick
    interlaced: bool = False
    top_field_first: bool = False
    damaged: bool = False  # the decoder concealed errors in this picture
    lead: bool = False  # from before the start: a stage that remembers sees it, nobody else does
    restart: bool = False  # stages forget earlier pictures first: a segment begins

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.planes[0].shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.planes[0].shape[0])

    @property
    def size(self) -> int:
        """Bytes of all planes."""
        return sum(plane.nbytes for plane in self.planes)
