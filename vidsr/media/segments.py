"""Segments: the encoded video of a long run in pieces, each whole on disk before the next begins.

Note [Segments]
~~~~~~~~~~~~~~~
A segment's file holds the encoder's packets as they are: pts and duration in the source's ticks,
whether it is a key frame, a checksum, the bytes. Not a media container, for each of those changes
something: Matroska rounds the time, mp4 moves it by an edit list and does not take every codec, NUT
loses durations and color tags. What a container needs beside the packets, the join gets where a run
in one go gets it: from an encoder that is opened alike and given nothing. Its headers (extradata)
must be those of every segment's encoder; a difference is an error.

The encoder starts anew at every border in every run. So decoding times of neighbours overlap where
there are B-frames, and the join makes them anew: the k-th packet is decoded when the frame d before
the k-th in presentation order is shown, d being how far packets are reordered, and the first d of
them run up at the pace of the first frames. That is what x264 does for a stream in one piece; it
increases as the pts do, and never passes a pts, by the choice of d.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import av.error

from vidsr.errors import MediaError, VerificationError
from vidsr.files import put_in_place
from vidsr.frame import Frame, Packet
from vidsr.media.containers import muxer_of
from vidsr.media.door import open_input, translated
from vidsr.media.encoders import VideoFormat
from vidsr.media.ffmpeg import FfmpegEncoder
from vidsr.media.probe import VideoInfo
from vidsr.media.writer import Pictures, VideoWriter, add_video


class SegmentEncoder(Protocol):
    """Encodes the frames of one segment into a `PacketFile`."""

    def write(self, frame: Frame) -> None:
        """Encode the next frame.

        Raises:
            MediaError: the encoder or the disk refuses.
        """

    def finish(self) -> bytes:
        """Flush, check, make the file appear, and return the encoder's extradata.

        Raises:
            MediaError: the encoder or the disk refuses.
            VerificationError: not every frame came out.
        """

    def abandon(self) -> None:
        """Let go of everything; leaves no file unless it was finished."""


class LibavSegment:
    """A `SegmentEncoder` by FFmpeg's libraries, opened as `VideoWriter` opens it."""

    def __init__(
        self, path: Path, *, destination: Path, source: VideoInfo, video: VideoFormat
    ) -> None:
        """Prepare to write `path`.

        Args:
            path: of the segment.
            destination: of the output, whose container says where headers go.
            source: what is read.
            video: what is written.

        Raises:
            MediaError: the file cannot be made.
        """
        self._destination = destination  # what errors name
        self._pictures = Pictures(source, video)
        self._durations: dict[int, int] = {}  # pts -> duration of each frame given
        with translated(destination, "opening the encoder"):
            # Never written to: it holds a stream with the very settings of a file in one go.
            self._holder = av.open(io.BytesIO(), "w", format=muxer_of(destination))
            self._stream = add_video(self._holder, source, video)
            self._file = PacketFile(path)

    def write(self, frame: Frame) -> None:
        """See `SegmentEncoder`."""
        with translated(self._destination, "writing"):
            self._durations[frame.pts] = frame.duration
            for picture in self._pictures.of(frame):
                self._add(self._stream.encode(picture))

    def finish(self) -> bytes:
        """See `SegmentEncoder`."""
        with translated(self._destination, "finishing a segment"):
            self._add(self._stream.encode(None))
            if sorted(self._file.pts) != sorted(self._durations):
                raise VerificationError(
                    f"{self._destination}: {len(self._durations)} frames went into an encoder, "
                    f"{len(self._file.pts)} came out, or at other times"
                )
            self._file.finish()
        return self._stream.codec_context.extradata or b""

    def abandon(self) -> None:
        """See `SegmentEncoder`."""
        self._file.abandon()
        with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
            self._holder.close()

    def _add(self, packets: list[av.Packet[Any]]) -> None:
        for packet in packets:
            pts = packet.pts or 0
            self._file.add(
                Coded(pts, self._durations.get(pts, 0), packet.is_keyframe, bytes(packet))
            )


class FfmpegSegment:
    """A `SegmentEncoder` by a system ffmpeg; the first one leaves `headers_of` its folder."""

    def __init__(
        self, path: Path, *, destination: Path, source: VideoInfo, video: VideoFormat
    ) -> None:
        """Start the program; see `LibavSegment`."""
        self._destination = destination
        self._tick = source.time_base
        self._durations: dict[int, int] = {}  # pts -> duration of each frame given
        self._headers = headers_of(path.parent)
        with translated(destination, "opening the output"):
            self._file = PacketFile(path)
        try:
            self._encoder = FfmpegEncoder(
                path.with_name(f"{path.name}.nut.part"),
                video=video,
                time_base=source.time_base,
                frame_rate=source.frame_rate,
            )
        except MediaError:
            self._file.abandon()
            raise

    def write(self, frame: Frame) -> None:
        """See `SegmentEncoder`."""
        self._durations[frame.pts] = frame.duration
        self._encoder.write(frame)

    def finish(self) -> bytes:
        """See `SegmentEncoder`; `FfmpegEncoder.finish` holds every pts against what was given."""
        written = self._encoder.finish()
        with translated(self._destination, "finishing a segment"):
            with open_input(written) as container:
                extradata = container.streams.video[0].codec_context.extradata or b""
                for packet in container.demux(0):
                    if packet.size:
                        self._add(packet)
            self._file.finish()
            if self._headers.exists():
                written.unlink()
            else:
                put_in_place(written, self._headers)
        self._encoder.close()
        return extradata

    def abandon(self) -> None:
        """See `SegmentEncoder`."""
        self._encoder.close()
        self._file.abandon()

    def _add(self, packet: av.Packet[Any]) -> None:
        pts = int((packet.pts or 0) * packet.time_base / self._tick) - self._encoder.delay
        self._file.add(Coded(pts, self._durations.get(pts, 0), packet.is_keyframe, bytes(packet)))


def headers_of(folder: Path) -> Path:
    """Where the segments of another program's encoder have a file with its stream's headers."""
    return folder / "headers.packets"


# ---------------------------------------------------------------- files of packets

_MAGIC = b"vidsr segment 1\n"
_HEAD = struct.Struct("<qqBII")  # pts, duration, kind, bytes and crc32 of the data
_DELTA, _KEY, _END = 0, 1, 2  # kinds; the end's pts is the number of packets


@dataclass(frozen=True)
class Coded:
    """One encoded picture."""

    pts: int  # in the source's ticks
    duration: int
    key: bool
    data: bytes


class PacketFile:
    """Takes packets in decoding order; `finish` makes the file appear, whole and on the disk."""

    def __init__(self, path: Path) -> None:
        """Open a temporary file beside `path`.

        Raises:
            OSError: it cannot be made.
        """
        self.path = path
        self.pts: list[int] = []
        self._part = path.with_name(f"{path.name}.part")
        self._file = self._part.open("wb")
        self._file.write(_MAGIC)

    def add(self, coded: Coded) -> None:
        """Append a packet.

        Raises:
            OSError: the disk refuses.
        """
        self.pts.append(coded.pts)
        self._record(coded.pts, coded.duration, _KEY if coded.key else _DELTA, coded.data)

    def finish(self) -> None:
        """Mark the end, wait for the disk, and rename.

        Raises:
            OSError: the disk refuses.
        """
        self._record(len(self.pts), 0, _END, b"")
        self._file.close()
        put_in_place(self._part, self.path)

    def abandon(self) -> None:
        """Close and remove the temporary file."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)

    def _record(self, pts: int, duration: int, kind: int, data: bytes) -> None:
        self._file.write(_HEAD.pack(pts, duration, kind, len(data), zlib.crc32(data)))
        self._file.write(data)


def read_packets(path: Path) -> Iterator[Coded]:
    """The packets of a finished segment, each checked.

    Raises:
        MediaError: missing, cut off, or altered.
    """
    count = 0
    with translated(path, "reading a segment"), path.open("rb") as file:
        whole = file.read(len(_MAGIC)) == _MAGIC
        while whole and len(head := file.read(_HEAD.size)) == _HEAD.size:
            pts, duration, kind, size, checksum = _HEAD.unpack(head)
            if kind == _END and pts == count:
                return
            data = file.read(size)
            whole = zlib.crc32(data) == checksum
            if whole:
                count += 1
                yield Coded(pts, duration, kind == _KEY, data)
    raise MediaError(f"{path} is damaged; run the same command to make it again")


def is_whole(path: Path, frames: int) -> bool:
    """Whether a segment's file is there with that many packets, unaltered."""
    try:
        return sum(1 for _ in read_packets(path)) == frames
    except MediaError:
        return False


def _pts_of(path: Path) -> list[int]:
    """The pts of every packet, in decoding order, without reading the pictures."""
    found = []
    with translated(path, "reading a segment"), path.open("rb") as file:
        file.seek(len(_MAGIC))
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            pts, _, kind, size, _ = _HEAD.unpack(head)
            if kind == _END:
                break
            found.append(pts)
            file.seek(size, os.SEEK_CUR)
    return found


# ---------------------------------------------------------------- the join


def joined(paths: Sequence[Path], time_base: Fraction) -> Iterator[av.Packet[Any]]:
    """The packets of all segments, in order, with decoding times; see Note [Segments].

    Raises:
        MediaError: a segment is damaged.
    """
    shown = array("q")  # pts of every frame, in presentation order
    reorder = 0
    for path in paths:
        decoded = _pts_of(path)
        ordered = sorted(decoded)
        shown.extend(ordered)
        late = (place - bisect_left(ordered, pts) for place, pts in enumerate(decoded))
        reorder = max(reorder, *late) if decoded else reorder
    everything = (coded for path in paths for coded in read_packets(path))
    for place, coded in enumerate(everything):
        packet: av.Packet[Any] = av.Packet(coded.data)
        packet.pts, packet.duration, packet.time_base = coded.pts, coded.duration, time_base
        packet.is_keyframe = coded.key
        packet.dts = _decoding_time(shown, place, reorder, coded.pts)
        yield packet


def _decoding_time(shown: array[int], place: int, reorder: int, pts: int) -> int:
    lag = shown[reorder] - shown[0]
    if place < reorder:
        return shown[place] - lag
    if place == len(shown) - 1:  # mp4 counts its duration from here; so it ends when it should
        return max(shown[place - reorder], pts - lag)
    return shown[place - reorder]


def write_joined(
    writer: VideoWriter, video: Iterator[av.Packet[Any]], others: Iterator[Packet]
) -> None:
    """Write encoded video and the other streams' packets, whichever comes first in time.

    Raises:
        MediaError: a segment is damaged, or the disk refuses.
    """
    waiting = next(video, None)
    for other in others:
        moment = _moment(other)
        while waiting is not None and moment is not None and (_moment(waiting) or 0) <= moment:
            writer.write_encoded(waiting)
            waiting = next(video, None)
        writer.write(other)
    while waiting is not None:
        writer.write_encoded(waiting)
        waiting = next(video, None)


def _moment(packet: Any) -> Fraction | None:  # a PyAV packet
    """Seconds, of decoding."""
    return None if packet.dts is None else packet.dts * packet.time_base
