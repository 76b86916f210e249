"""What a run tells while it goes, and at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    frames: int
    frames_expected: int
    seconds: float
    busy: dict[str, float]  # share of the time that decode, color, compute, encode were at work
    resumed: int = 0  # of the frames: done by an earlier run

    @property
    def frames_per_second(self) -> float:
        """Mean rate since the start of this run."""
        return (self.frames - self.resumed) / self.seconds if self.seconds else 0.0

    @property
    def bottleneck(self) -> str:
        """The part that the others wait for."""
        return max(self.busy, key=lambda part: self.busy[part])


@dataclass(frozen=True)
class Result:
    """What a finished run did."""

    destination: Path
    width: int
    height: int
    frames_in: int
    frames_out: int
    seconds: float
    bytes: int
    retiled: int = 0  # pictures computed again with smaller tiles, memory having run out
    recomputed: int = 0  # tiles computed again in fp32, half precision not being finite
    reused: float = 0.0  # share of all pictures that the network did not have to look at
    busy: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what was dropped or changed, and why


Event = Progress | Result
