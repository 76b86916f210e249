"""What was asked for, as plain data; a `Job` is all of it.

Note [Jobs are data]
~~~~~~~~~~~~~~~~~~~~
A Job holds nothing open, survives pickle and JSON, and says the same on another machine. So a
batch is a list of Jobs, a resumed run can compare Jobs, and a cluster can send them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

from vidsr.coloring import Look
from vidsr.engines.choice import EngineName
from vidsr.engines.precision import Precision
from vidsr.errors import RequestError
from vidsr.media import images
from vidsr.media.containers import MUXERS
from vidsr.media.deinterlace import Deinterlace
from vidsr.media.encoders import EncoderRequest
from vidsr.media.reader import Trim
from vidsr.reuse import Reuse


@dataclass(frozen=True)
class SizeRequest:
    """What size was asked for; at most one of the three is set."""

    scale: int | None = None
    size: tuple[int, int] | None = None  # displayed (width, height)
    height: int | None = None  # displayed

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.scale, self.size, self.height)) > 1:
            raise RequestError("--scale, --size and --height exclude each other; give one")
        if self.scale is not None and self.scale not in {2, 3, 4}:
            other = "`vidsr colorize` only colors" if self.scale == 1 else "use --height for others"
            raise RequestError(f"--scale {self.scale}: 2, 3 and 4 work; {other}")
        sides = (*(self.size or ()), *((self.height,) if self.height is not None else ()))
        if any(side < 16 for side in sides):
            raise RequestError(f"the size asked for, {sides}, is below 16 pixels")


@dataclass(frozen=True)
class EngineRequest:
    """Which network is wanted, and how and where it should run."""

    model: str | None = None  # a family, a member, or a checkpoint's path
    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1", "mps"
    precision: Precision | Literal["auto"] = "auto"
    tile: int | None = None  # side of a tile in source pixels, its halo included
    overlap: int = 16  # source pixels over which neighbouring tiles are blended
    threads: int | None = None  # of the engine on a processor; None takes every core
    fidelity: float | None = None  # share of the fidelity weights, [0,1]; None: the card's
    engine: EngineName | Literal["auto"] = "auto"  # what computes the network
    reuse: Reuse = "exact"  # of what did not change, or also of what only moved
    reuse_error: float | None = None  # mean squared, in 8-bit codes, that motion may leave

    def __post_init__(self) -> None:
        if self.fidelity is not None and not 0 <= self.fidelity <= 1:
            raise RequestError(
                f"--fidelity {self.fidelity:g} is not between 0 (looks) and 1 (true to the source)"
            )
        if self.reuse_error is not None and self.reuse != "motion":
            raise RequestError("--reuse-error goes with --reuse motion; add it, or leave both out")
        if self.reuse_error is not None and not 0 <= self.reuse_error < math.inf:
            raise RequestError(f"--reuse-error {self.reuse_error:g} is negative or no number")
        if self.overlap < 0:
            raise RequestError(f"--overlap {self.overlap} is negative")
        if self.threads is not None and self.threads < 1:
            raise RequestError(f"--threads {self.threads}: at least 1; leave it out for all cores")


@dataclass(frozen=True)
class ColorRequest:
    """That color is wanted, and how."""

    model: str | None = None  # a model of task "colorize", or its checkpoint's path
    look: Look = field(default_factory=Look)
    reference: Path | None = None  # a picture whose colors are to be matched
    force: bool = False  # color even what is in color already


@dataclass(frozen=True)
class Job:
    """What was asked for. Plain data."""

    source: Path
    destination: Path | None = None  # None: beside the source
    size: SizeRequest | None = field(default_factory=SizeRequest)  # None: as it is, only colored
    engine: EngineRequest = field(default_factory=EngineRequest)
    encoder: EncoderRequest = field(default_factory=EncoderRequest)
    trim: Trim = field(default_factory=Trim)  # counted from the file's beginning
    deinterlace: Deinterlace = "frame"  # only where the source is interlaced
    overwrite: bool = False
    strict: bool = False  # damaged input is an error
    color: ColorRequest | None = None  # None: the source's own is kept
    resume: bool = True  # a long run works in segments, and goes on after an interruption
    rate: Fraction | None = None  # pictures a second, of numbered pictures; None: 25
    max_memory: int | None = None  # bytes of main memory; None: what is free
    formats: tuple[str, ...] = ()  # suffixes such as ".mkv"; an output whose name vidsr chooses
    # takes the first that is of its kind, video or picture, and else keeps its source's

    def __post_init__(self) -> None:
        known = dict.fromkeys((*MUXERS, *images.SUFFIXES, *images.ANIMATION_SUFFIXES))
        for suffix in self.formats:
            if suffix not in known:
                names = ", ".join(name.removeprefix(".") for name in known)
                raise RequestError(f"--format {suffix.removeprefix('.')} is none of {names}")
        if self.size is None and self.color is None:
            raise RequestError("neither a size nor color is asked for: nothing to do")
        if self.rate is not None and not 0 < self.rate <= 1000:
            raise RequestError(f"--rate {float(self.rate):g} is not between 0 and 1000 a second")
        start, end = self.trim.start, self.trim.end
        if end is not None and end <= (start or 0):
            raise RequestError(f"--end {float(end):g} is not after --start {float(start or 0):g}")
