"""Fields -> whole pictures: is a file interlaced, and bwdif if it is.

Note [Flags and content]
~~~~~~~~~~~~~~~~~~~~~~~~
A flag in the file says that pictures are woven from two fields; it is often wrong both ways. So
FFmpeg's idet looks at a few pictures wherever the flag is set, and wherever it is not although the
size is one that broadcasters interlace:

    flag         content                          taken for
    interlaced   combed, or too still to tell     interlaced; pictures without a flag are kept whole
    interlaced   all of it progressive            progressive: bwdif would only cost detail
    progressive  most of it combed                interlaced
    progressive  anything else                    progressive

Which field comes first is what idet saw, where it saw it clearly: encoders state it twice, for the
stream and for each picture, and the two do not always agree.

Time is the reader's: bwdif's own timestamps are not used. One picture for each gets the pts and
duration of the picture that it was made of. At double rate a tick is halved, so that the second
field's pts, in the middle of the first one's duration, is exact.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Literal

import av
import av.error

from vidsr.errors import MediaError
from vidsr.media.door import Filter, open_input, planar_name, repacked, translated
from vidsr.media.probe import VideoInfo

Deinterlace = Literal["frame", "field", "off"]

LOOKS = 3  # places of a file that are looked at
LOOK_FRAMES = 12  # pictures at each
SURE = 6  # pictures that must agree against the flag
BROADCAST_LINES = {480, 486, 576, 1080}
BROADCAST_CONTAINERS = {"mpegts", "mpeg", "mxf", "dv", "asf", "avi"}  # 1080 lines: only in these


def decide_deinterlacing(info: VideoInfo, wanted: Deinterlace) -> tuple[VideoInfo, list[str]]:
    """The file as the reader shall present it, and what is to be said of its fields.

    With `wanted` "field" the time base is halved and the rate doubled; the picture counts as
    progressive unless it is left as it is.

    Raises:
        MediaError: the file cannot be read.
    """
    if not (info.interlaced or _is_broadcast_like(info)):
        return info, []
    seen = look_at_fields(info)
    combed = seen["tff"] + seen["bff"]
    if info.interlaced and not combed and seen["progressive"] >= SURE:
        return _as_it_is(info, wanted, "flagged interlaced, but no picture looked at is combed")
    if not info.interlaced and combed < max(SURE, seen["progressive"]):
        return info, []
    how = "interlaced" if info.interlaced else "flagged progressive, but interlaced by its content"
    if wanted == "off":
        return info, [f"{how}: processed as it is, combed edges may show (--deinterlace off)"]
    if combed >= SURE:
        info = replace(info, top_field_first=seen["tff"] >= seen["bff"])
    return _woven(info, wanted), [f"{how}: {_WORDS[wanted]}"]


_WORDS = {
    "frame": "deinterlaced with bwdif, one picture for each (--deinterlace field keeps all motion)",
    "field": "deinterlaced with bwdif, one picture for each field: the frame rate is doubled",
}


def _as_it_is(info: VideoInfo, wanted: Deinterlace, why: str) -> tuple[VideoInfo, list[str]]:
    if wanted == "off":
        return info, []
    return replace(info, interlaced=False), [f"{why}: taken for progressive"]


def _woven(info: VideoInfo, wanted: Literal["frame", "field"]) -> VideoInfo:
    by_flag = info.interlaced
    info = replace(info, interlaced=False, deinterlace=wanted, fields_flagged=by_flag)
    if wanted == "frame":
        return info
    return replace(
        info,
        time_base=info.time_base / 2,
        frame_rate=info.frame_rate * 2,
        frames_from_header=info.frames_from_header * 2,
        common_clock=info.common_clock * 2,
    )


def _is_broadcast_like(info: VideoInfo) -> bool:
    if info.height not in BROADCAST_LINES or info.frame_rate > 31:
        return False
    return info.height < 1080 or bool(BROADCAST_CONTAINERS & set(info.container.split(",")))


def look_at_fields(info: VideoInfo) -> Counter[str]:
    """How many pictures of a few places idet finds "tff", "bff", "progressive", "undetermined".

    Raises:
        MediaError: the file cannot be read.
    """
    seen: Counter[str] = Counter()
    with translated(info.path, "reading"), open_input(info.path) as container:
        video = container.streams[info.video]
        assert isinstance(video, av.VideoStream)
        for place in range(LOOKS):
            if place:
                moment = info.seconds_from_header * place / LOOKS
                try:
                    container.seek(int(moment * av.time_base) + (container.start_time or 0))
                except av.error.FFmpegError:
                    break  # a raw stream cannot be sought in
            seen.update(_idet(islice(_decodable(container, video), LOOK_FRAMES)))
    return seen


def _decodable(
    container: av.container.InputContainer, video: av.VideoStream
) -> Iterator[av.VideoFrame]:
    for packet in container.demux(video):
        with contextlib.suppress(av.error.InvalidDataError, av.error.EOFError):
            yield from packet.decode()


def _idet(pictures: Iterator[av.VideoFrame]) -> Iterator[str]:
    graph = Filter("idet")
    for picture in pictures:
        for looked_at in graph.push(picture):
            yield looked_at.metadata.get("lavfi.idet.multiple.current_frame", "undetermined")


class Deinterlacer:
    """bwdif over a file's pictures in their order; each picture carries pts and duration.

    One picture behind: it needs both neighbours of a picture, so the first and the last one that
    it is given are worse than in the middle of a file.
    """

    def __init__(self, info: VideoInfo) -> None:
        """Prepare for what `decide_deinterlacing` decided."""
        self.info = info
        self._double = info.deinterlace == "field"
        # Where the flags are right, a picture without one is no woven picture.
        which = "interlaced" if info.fields_flagged and not self._double else "all"
        parity = "tff" if info.top_field_first else "bff"
        self._filter = Filter(
            "bwdif", f"mode=send_{info.deinterlace}:parity={parity}:deint={which}"
        )
        self._times: deque[tuple[int, int]] = deque()  # pts and duration of what is in the filter
        self._second: int | None = None  # pts of the second field that comes next

    def push(self, picture: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Give a picture, get those that are ready."""
        assert picture.pts is not None
        self._times.append((picture.pts, picture.duration))
        yield from self._timed(self._filter.push(repacked(picture, planar_name(self.info.layout))))

    def drain(self) -> Iterator[av.VideoFrame]:
        """Get the last ones.

        Raises:
            MediaError: the filter has lost a picture.
        """
        if self._times:
            yield from self._timed(self._filter.push(None))
        if self._times:
            raise MediaError(f"{self.info.path}: bwdif lost {len(self._times)} pictures")

    def _timed(self, pictures: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        for picture in pictures:
            picture.time_base = self.info.time_base
            if not self._double:
                picture.pts, picture.duration = self._times.popleft()
            else:
                self._time_field(picture)
            yield picture

    def _time_field(self, picture: av.VideoFrame) -> None:
        """Give a field its half of a picture's time, in ticks that are half as long."""
        pts, duration = self._times[0]
        if len(self._times) > 1:  # a duration may promise more than there is
            duration = min(duration, self._times[1][0] - pts)
        if self._second is None:
            picture.pts, picture.duration = 2 * pts, duration
            self._second = 2 * pts + duration
        else:
            picture.pts, picture.duration = self._second, duration
            self._second = None
            self._times.popleft()
