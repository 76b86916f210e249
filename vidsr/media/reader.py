"""VideoReader: one demux pass over a file -> frames of the processed stream, packets of the others.

Note [Who owns time]
~~~~~~~~~~~~~~~~~~~~
Time is integer ticks of a `Fraction` time base and is never computed from a frame rate. A `Frame`
carries the pts and duration that the decoder gave; the writer hands the same numbers to the
encoder, whose time base is the input's. Only the muxer rescales, once, to what its container can
hold: mp4 and mov exactly, Matroska to the nearest millisecond. A missing pts (raw streams, AVI with
packed B-frames) is the end of the frame before; that is the only pts that vidsr ever makes up.

"Frames in" are the frames that the decoder presents, after edit lists; a packet that gave no frame
is counted. The decoder is drained at the end: flush packets have size 0, and a packet without dts
is still a packet (the first key frame of a B-frame mkv is one).
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import av
import av.error

from vidsr.errors import MediaError
from vidsr.frame import Frame, Packet
from vidsr.media.deinterlace import Deinterlacer
from vidsr.media.door import layout_of, open_input, planes_of, translated
from vidsr.media.probe import VideoInfo

log = logging.getLogger("vidsr.media")


@dataclass
class ReadReport:
    """What the reader met; complete once it is exhausted."""

    packets: int = 0  # of the processed stream
    decoded: int = 0  # pictures that the decoder gave
    frames: int = 0  # presented, inside the trim; two for each picture of fields at double rate
    trimmed: int = 0  # presented but outside --start/--end
    damaged: int = 0  # frames whose errors the decoder concealed
    undecodable: int = 0  # packets that the decoder refused
    broken_off: str = ""  # why reading ended early, if it did
    first: Fraction | None = None  # seconds, of the earliest packet met
    last: Fraction = Fraction(0)  # seconds, where the latest packet ends
    copied: dict[int, int] = field(default_factory=dict)  # stream -> packets


@dataclass(frozen=True)
class Trim:
    """The half-open interval [start, end) in seconds; None is open.

    A job counts from the file's beginning, as players do; a reader on the file's own clock.
    """

    start: Fraction | None = None
    end: Fraction | None = None

    def holds(self, seconds: Fraction) -> bool:
        """Whether a moment lies inside."""
        after_start = self.start is None or seconds >= self.start
        return after_start and (self.end is None or seconds < self.end)

    def on_clock(self, begins: Fraction) -> Trim:
        """The same part of a file, by a clock that shows `begins` at the file's beginning."""
        start, end = (None if at is None else begins + at for at in (self.start, self.end))
        return Trim(start, end)

    def shift(self, time_base: Fraction) -> int:
        """Ticks to take off every timestamp, so that the output begins at zero."""
        return round(self.start / time_base) if self.start else 0


class VideoReader:
    """Iterating yields `Frame`s in presentation order and the copied streams' packets as demuxed.

    A frame's planes are views of the decoder's own memory: they stay valid as long as the frame.
    """

    def __init__(
        self,
        info: VideoInfo,
        *,
        copied: tuple[int, ...],
        threads: int = 0,
        trim: Trim | None = None,
        lead: int = 0,
        begin: Fraction | None = None,
    ) -> None:
        """Prepare to read the processed stream of `info`, passing on the `copied` streams.

        Args:
            info: what `probe` found.
            copied: indices of the streams whose packets are yielded.
            threads: of the decoder, but for H.264; 0 lets FFmpeg choose.
            trim: what to keep, on the file's own clock.
            lead: how many frames from just before the start are yielded too, marked as such.
            begin: a moment inside the trim, in seconds on the file's own clock; what lies well
                before it may be skipped. None skips nothing.
        """
        self.info = info
        self.copied = copied
        self.threads = threads
        self.trim = trim or Trim()
        self.lead = lead if self.trim.start else 0
        self.begin = begin
        self.report = ReadReport(copied=dict.fromkeys(copied, 0))
        self._next_pts = 0
        self._leading: deque[Frame] = deque(maxlen=self.lead)
        self._deinterlacer = Deinterlacer(info) if info.deinterlace else None
        # Seconds at either end for the neighbours that a deinterlacer needs.
        self._margin = 2 / info.frame_rate if info.deinterlace else Fraction(0)
        # Streams that have packets all along; sound may lie a second behind the picture in a file.
        self._steady = {info.video} | {
            stream.index
            for stream in info.streams
            if stream.index in copied and stream.kind in {"audio", "video"} and not stream.cover
        }
        self._covers = {stream.index for stream in info.streams if stream.cover}
        # After a start, a copied video is only good from its next key frame on.
        self._without_key_frame = {
            stream.index for stream in info.streams if stream.kind == "video" and self.trim.start
        }

    def __iter__(self) -> Iterator[Frame | Packet]:
        """Read the file once.

        Raises:
            MediaError: the file cannot be opened, or its picture changes size midway.
        """
        path = self.info.path
        with translated(path, "reading"), open_input(path) as container:
            video = container.streams[self.info.video]
            assert isinstance(video, av.VideoStream)
            # By frame, FFmpeg's threads meet damage in an order that differs from run to run, and
            # so do the pictures that it makes of it. By slice, it conceals no damage in H.264: what
            # was in the memory before shows.
            video.thread_type = "SLICE"
            h264 = self.info.video_stream.codec == "h264"
            video.codec_context.thread_count = 1 if h264 else self.threads
            for packet in self._inside(container):
                if packet.stream_index != self.info.video:
                    yield from self._copy(packet)
                else:
                    yield from self._decode(packet)
            yield from self._drain(video)

    def copies(self) -> Iterator[Packet]:
        """The copied streams' packets alone, as iterating yields them; decodes nothing.

        Raises:
            MediaError: the file cannot be opened.
        """
        path = self.info.path
        with translated(path, "reading"), open_input(path) as container:
            for packet in self._inside(container):
                if packet.stream_index != self.info.video:
                    yield from self._copy(packet)
                else:
                    self.report.packets += 1

    def _inside(self, container: av.container.InputContainer) -> Iterator[av.Packet[Any]]:
        """The packets from the start on until every steady stream is past the end."""
        target = self._seek_target()
        if target is not None:
            container.seek(target)
        past_end: set[int] = set()
        for packet in self._demux(container):
            if not self._past_end(packet):
                yield packet
                continue
            past_end.add(packet.stream_index)
            if past_end >= self._steady:
                break

    def _seek_target(self) -> int | None:
        """Where to go, in microseconds, so that a key frame at or before the start comes next.

        Formats without an index (MPEG-TS) go to no key frame, so this tries, further and further
        back; None is the file's beginning.
        """
        if self.begin is not None:  # one key frame more: what follows the nearest may need it
            return self._go_back(self.begin, key_frames=2)
        if not self.trim.start:
            return None
        return self._go_back(self.trim.start - self.lead / self.info.frame_rate - self._margin)

    def _go_back(self, moment: Fraction, *, key_frames: int = 1) -> int | None:
        """Where so many key frames lie between there and a moment."""
        back = Fraction(0)
        with open_input(self.info.path) as container:
            first = Fraction(container.start_time or 0, av.time_base)
            while moment - back > first:
                target = int((moment - back) * av.time_base)
                try:
                    container.seek(target)
                except av.error.FFmpegError:  # no index, or a raw stream
                    return None
                if _key_frames_until(moment, container, self.info.video, key_frames):
                    return target
                back = 2 * back + 1
        return None

    def _demux(self, container: av.container.InputContainer) -> Iterator[av.Packet[Any]]:
        wanted = [container.streams[i] for i in (self.info.video, *self.copied)]
        try:
            for packet in container.demux(wanted):
                if packet.size:  # the flush packets are sent by `_drain`
                    self._note_time(packet)
                    yield packet
        except (av.error.InvalidDataError, av.error.OSError, av.error.EOFError) as exc:
            self.report.broken_off = exc.strerror or str(exc)
            log.info("%s: reading broke off: %s", self.info.path, self.report.broken_off)

    def _note_time(self, packet: av.Packet[Any]) -> None:
        if packet.pts is None:
            return
        moment = packet.pts * packet.time_base
        first = self.report.first
        self.report.first = moment if first is None else min(first, moment)
        end = moment + (packet.duration or 0) * packet.time_base
        self.report.last = max(self.report.last, end)

    def _copy(self, packet: av.Packet[Any]) -> Iterator[Packet]:
        """Pass on what is inside the trim, moved by it.

        A subtitle that is on the screen at the start was sent before it: it is lost where the seek
        to the start skips its packet.
        """
        if packet.stream_index in self._covers:
            self.report.copied[packet.stream_index] += 1
            yield packet  # it has no time to be cut or moved
            return
        if packet.stream.type == "subtitle":
            self._cut(packet)
        time_base = packet.time_base
        moment = packet.pts if packet.pts is not None else packet.dts
        if moment is not None and not self.trim.holds(moment * time_base):
            return
        if packet.is_keyframe:
            self._without_key_frame.discard(packet.stream_index)
        if packet.stream_index in self._without_key_frame:
            return
        shift = self.trim.shift(time_base)
        if shift:
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
        self.report.copied[packet.stream_index] += 1
        yield packet

    def _cut(self, packet: av.Packet[Any]) -> None:
        """Shorten a subtitle to what is shown inside the trim; one that is not stays outside."""
        if packet.pts is None or not packet.duration:
            return
        start, end = packet.pts, packet.pts + packet.duration
        if self.trim.start is not None:
            start = max(start, math.ceil(self.trim.start / packet.time_base))
        if self.trim.end is not None:
            end = min(end, math.ceil(self.trim.end / packet.time_base))
        if start < end:
            packet.dts = start if start > packet.pts else packet.dts
            packet.pts, packet.duration = start, end - start

    def _decode(self, packet: av.Packet[Any]) -> Iterator[Frame]:
        self.report.packets += 1
        try:
            pictures = packet.decode()
        except av.error.InvalidDataError as exc:
            self.report.undecodable += 1
            log.debug("packet %d: %s", self.report.packets, exc)
            return
        yield from self._frames(pictures)

    def _drain(self, video: av.VideoStream) -> Iterator[Frame]:
        try:
            yield from self._frames(video.codec_context.decode(None))
        except (av.error.EOFError, av.error.InvalidDataError) as exc:
            log.debug("drained: %s", exc)
        if self._deinterlacer is not None:
            yield from self._presented(self._deinterlacer.drain())

    def _past_end(self, packet: av.Packet[Any]) -> bool:
        """Whether its stream is done: dts is past the end, so nothing earlier can follow."""
        if self.trim.end is None or packet.dts is None:
            return False
        margin = self._margin if packet.stream_index == self.info.video else 0
        return bool(packet.dts * packet.time_base >= self.trim.end + margin)

    def _frames(self, pictures: list[av.VideoFrame]) -> Iterator[Frame]:
        for picture in pictures:
            self._check(picture)
            self._give_time(picture)
            self.report.decoded += 1
            if self._deinterlacer is None:
                yield from self._presented([picture])
            else:
                yield from self._presented(self._deinterlacer.push(picture))

    def _presented(self, pictures: Iterable[av.VideoFrame]) -> Iterator[Frame]:
        for picture in pictures:
            frame = self._frame(picture)
            moment = frame.pts * frame.time_base
            frame.pts -= self.trim.shift(frame.time_base)
            if not self.trim.holds(moment):
                self.report.trimmed += 1
                if moment < (self.trim.start or 0):
                    self._leading.append(replace(frame, lead=True))
                continue
            while self._leading:
                yield self._leading.popleft()
            self.report.frames += 1
            self.report.damaged += frame.damaged
            yield frame

    def _check(self, picture: av.VideoFrame) -> None:
        size = (picture.width, picture.height)
        layout = layout_of(picture.format)
        if size != (self.info.width, self.info.height) or layout != self.info.layout:
            raise MediaError(
                f"{self.info.path}: the picture changes midway from {self.info.width}x"
                f"{self.info.height} {self.info.pix_fmt} to {picture.width}x{picture.height} "
                f"{picture.format.name}; cut the file there (--end, --start)"
            )

    def _give_time(self, picture: av.VideoFrame) -> None:
        """See Note [Who owns time]."""
        if picture.pts is None:
            picture.pts = self._next_pts
        picture.duration = picture.duration or self._usual_duration(picture)
        self._next_pts = picture.pts + picture.duration

    def _frame(self, picture: av.VideoFrame) -> Frame:
        assert picture.pts is not None
        return Frame(
            planes=planes_of(picture, self.info.layout),
            layout=self.info.layout,
            color=self.info.color,
            pts=picture.pts,
            duration=picture.duration,
            time_base=picture.time_base or self.info.time_base,
            interlaced=picture.interlaced_frame,
            top_field_first=self.info.top_field_first,
            damaged=picture.is_corrupt,
        )

    def _usual_duration(self, picture: av.VideoFrame) -> int:
        rate = self.info.frame_rate / (2 if self.info.deinterlace == "field" else 1)
        return max(1, round(1 / (rate * (picture.time_base or self.info.time_base))))


def _key_frames_until(
    end: Fraction, container: av.container.InputContainer, video: int, wanted: int
) -> bool:
    """Whether so many key frames come from here on that are shown by `end`, in seconds."""
    for packet in container.demux(video):
        moment = packet.pts if packet.dts is None else packet.dts
        if moment is None:
            continue
        if moment * packet.time_base > end:
            return False
        shown = packet.pts is not None and packet.pts * packet.time_base <= end
        wanted -= packet.is_keyframe and shown
        if wanted == 0:
            return True
    return False
