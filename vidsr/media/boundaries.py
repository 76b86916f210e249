"""SegmentReader: a video's frames in segments, from the start or from where an earlier run ended.

Note [Where a segment begins]
~~~~~~~~~~~~~~~~~~~~~~~~~~~~~
A segment is a fixed number of presented frames inside the trim, so its borders are the same however
often a run is interrupted. At each border every run, interrupted or not, lets stages with a memory
forget and sees the same number of frames from before the border again (`Frame.restart`,
`Frame.lead`), so that their colors do not tell where a run was cut.

A resumed run finds the border by its pts. It seeks so that decoding begins a key frame earlier than
the nearest (pictures that follow a key frame of an open group may refer to what came before it) and
compares the first frame and those that lead in with a hash that the first run took. If a file
cannot be sought or does not give the same pictures after a seek, it is decoded from the beginning
and the border found by counting. So is one that is damaged before the border: what a decoder makes
up for a lost picture depends on all that it has seen.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from vidsr.errors import MediaError
from vidsr.frame import Frame
from vidsr.media.probe import VideoInfo
from vidsr.media.reader import ReadReport, Trim, VideoReader

log = logging.getLogger("vidsr.media")


@dataclass(frozen=True)
class Boundary:
    """Where a segment begins, how to know the place again, and what was met before it."""

    frame: int  # number of its first frame, from 0 at the trim's start
    pts: int  # of that frame, in the output's ticks
    seek: Fraction  # seconds on the file's own clock, of the first frame that leads in
    digest: str  # sha256 of the samples of the frames that lead in and of the first
    decoded: int = 0  # as in `ReadReport`, up to here
    trimmed: int = 0
    damaged: int = 0  # the first frame included
    undecodable: int = 0


class SegmentReader:
    """Iterating yields the frames of the processed stream, those that lead in marked as such."""

    def __init__(
        self,
        info: VideoInfo,
        *,
        frames: int,
        trim: Trim | None = None,
        lead: int = 0,
        begin: Boundary | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            info: what `probe` found.
            frames: of each segment but the last.
            trim: what to keep.
            lead: how many frames from before each border are yielded again, marked as such.
            begin: where to go on; None is the start.
        """
        self.boundaries: dict[int, Boundary] = {}  # by the number of their first frame
        self._info = info
        self._frames = frames
        self._trim = trim or Trim()
        self._lead = lead
        self._begin = begin
        self._recent: deque[Frame] = deque(maxlen=lead)
        self._source = self._open(None)

    @property
    def report(self) -> ReadReport:
        """What was met since the start, earlier runs included; complete once it is exhausted."""
        return self._source.report

    def __iter__(self) -> Iterator[Frame]:
        """Read the file once, a resumed one perhaps again from its beginning.

        Raises:
            MediaError: as `VideoReader`, or the border is not found again.
        """
        number = self._begin.frame if self._begin else 0
        for frame in self._resumed(self._begin) if self._begin else iter(self._source):
            assert isinstance(frame, Frame)
            if frame.lead:
                self._recent.append(frame)
                yield frame
                continue
            if number % self._frames == 0 and number not in {0, self._number_of_first}:
                self._remember(number, frame)
                yield from _restarted([*self._recent, frame])
            else:
                yield frame
            self._recent.append(replace(frame, lead=True))
            number += 1

    @property
    def _number_of_first(self) -> int:
        return self._begin.frame if self._begin else 0

    def _open(self, begin: Fraction | None) -> VideoReader:
        return VideoReader(self._info, copied=(), trim=self._trim, lead=self._lead, begin=begin)

    def _remember(self, number: int, frame: Frame) -> None:
        leading, report = [*self._recent, frame], self.report
        moment = leading[0].pts + self._trim.shift(frame.time_base)
        self.boundaries[number] = Boundary(
            frame=number,
            pts=frame.pts,
            seek=moment * frame.time_base,
            digest=_digest(leading),
            decoded=report.decoded,
            trimmed=report.trimmed,
            damaged=report.damaged,
            undecodable=report.undecodable,
        )

    def _resumed(self, begin: Boundary) -> Iterator[Frame]:
        """The frames from a border on, those that lead in before them."""
        ways = [(self._by_content, begin.seek), (self._by_number, None)]
        for find, seek in ways[1:] if begin.damaged or begin.undecodable else ways:
            self._source = self._open(seek)
            frames = (frame for frame in self._source if isinstance(frame, Frame))
            found = find(frames, begin)
            if found:
                report = self.report
                report.frames, report.decoded = begin.frame + 1, begin.decoded
                report.trimmed = begin.trimmed
                report.damaged, report.undecodable = begin.damaged, begin.undecodable
                yield from found
                yield from frames
                return
            log.info("%s: frame %d was not found by a seek", self._info.path, begin.frame)
        raise MediaError(
            f"{self._info.path}: frame {begin.frame} is not where an earlier run met it; "
            "--no-resume starts anew"
        )

    def _by_content(self, frames: Iterable[Frame], begin: Boundary) -> list[Frame]:
        """The border's frame and those that lead in, if they are what they were; else nothing."""
        recent: deque[Frame] = deque(maxlen=self._lead)
        for frame in frames:
            if frame.pts >= begin.pts and not frame.lead:
                found = [*recent, frame]
                same = frame.pts == begin.pts and _digest(found) == begin.digest
                return found if same else []
            recent.append(replace(frame, lead=True))
        return []

    def _by_number(self, frames: Iterable[Frame], begin: Boundary) -> list[Frame]:
        recent: deque[Frame] = deque(maxlen=self._lead)
        number = 0
        for frame in frames:
            if number == begin.frame and not frame.lead:
                return [*recent, frame] if frame.pts == begin.pts else []
            number += not frame.lead
            recent.append(replace(frame, lead=True))
        return []


def _restarted(frames: list[Frame]) -> Iterator[Frame]:
    yield replace(frames[0], restart=True)
    yield from frames[1:]


def _digest(frames: Iterable[Frame]) -> str:
    hashed = hashlib.sha256()
    for frame in frames:
        for plane in frame.planes:
            hashed.update(np.ascontiguousarray(plane).data)
    return hashed.hexdigest()
