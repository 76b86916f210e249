"""VideoWriter: encodes frames, copies the other streams' packets, verifies, renames when whole.

Note [One frame in, one frame out]
~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~
The writer remembers the pts of every frame it was given (eight bytes each). When the encoder is
flushed and the file closed, the file is demuxed again, without decoding, and its packets are held
against what was given: every frame's pts, and every copied stream's number of packets. Only then is
the file renamed to its final name; anything else is a `VerificationError` and leaves no file.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import io
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import av
import av.error
from av.codec.context import Flags

from vidsr.errors import MediaError, RequestError, VerificationError
from vidsr.files import part_of, put_in_place
from vidsr.frame import Frame, Packet
from vidsr.media.door import open_input, output_name, picture_of, repacked, translated
from vidsr.media.encoders import VideoFormat
from vidsr.media.ffmpeg import FfmpegEncoder
from vidsr.media.probe import StreamInfo, VideoInfo
from vidsr.media.reader import Trim, VideoReader

# Containers that keep every timestamp (to a millisecond at worst). AVI cannot: it has no pts.
MUXERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".3gp": "3gp",
    ".flv": "flv",
    ".ts": "mpegts",
    ".mts": "mpegts",
    ".m2ts": "mpegts",
}
# These know no time before zero, where the first decoding time of reordered frames lies: FFmpeg
# delays all their streams by the same few frames.
DELAYED = frozenset({"mpegts", "flv"})


@dataclass(frozen=True)
class TrackPlan:
    """What becomes of one stream of the input."""

    stream: StreamInfo
    action: Literal["process", "copy", "drop"]
    reason: str = ""  # why it is dropped


@dataclass
class WriteReport:
    """What was written."""

    frames: int = 0
    copied: Counter[int] = field(default_factory=Counter)  # input stream -> packets
    lost_tags: list[str] = field(default_factory=list)  # metadata that the container cannot hold
    empty: list[int] = field(default_factory=list)  # input streams without a packet, left out
    bytes: int = 0


class VideoWriter:
    """A context manager; `finish()` makes the file appear, leaving without it leaves nothing."""

    def __init__(
        self,
        path: Path,
        *,
        source: VideoInfo,
        video: VideoFormat,
        tracks: tuple[TrackPlan, ...],
        start: Fraction | None = None,
        end: Fraction | None = None,
    ) -> None:
        """Open the output under a temporary name beside `path` and write its header.

        Raises:
            MediaError: the file cannot be made, or the encoder or container refuses.
        """
        self.path = path
        self.report = WriteReport()
        self._pts = array("q")
        self._end = 0  # of the last frame, in its time base
        self._first_dts: int | None = None
        self._info, self._format, self._plans = source, video, tracks
        self._trim = Trim(start, end)
        self._source = source.video
        self._time_base = source.time_base
        self._pix_fmt = video.pix_fmt
        self._file: av.container.OutputContainer | None = None
        self._encoder: FfmpegEncoder | None = None
        with translated(path, "opening the output"):
            self._part = part_of(path)
        if video.ffmpeg is None:
            self._open(None)
        else:
            self._encoder = FfmpegEncoder(
                self._part.with_suffix(".nut"),
                video=video,
                time_base=source.time_base,
                frame_rate=source.frame_rate,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the temporary file unless `finish` has renamed it."""
        self._abandon()

    def write(self, item: Frame | Packet) -> None:
        """Encode a frame or copy a packet.

        Raises:
            MediaError: the encoder or the disk refuses.
        """
        with translated(self.path, "writing"):
            if isinstance(item, Frame):
                self._note_time(item)
                if self._encoder is None:
                    self._encode(item)
                else:
                    self._encoder.write(item)
            elif self._encoder is None:  # else they are read again for the join
                self._copy(item)

    def finish(self) -> WriteReport:
        """Flush, close, verify, and rename over the final name.

        Raises:
            VerificationError: the file does not hold what was given; nothing is left behind.
            MediaError: the disk is full or the encoder fails at the end.
        """
        with translated(self.path, "finishing the output"):
            if self._encoder is None:
                self._mux_video(self._end_in_time(_mend_dts(self._video.encode(None))))
            else:
                self._join(self._encoder.finish(), self._encoder.delay)
            assert self._file is not None
            self._file.close()
            self._file = None
            self._verify()
            self.report.bytes = self._part.stat().st_size
            put_in_place(self._part, self.path)
        return self.report

    def _open(self, encoded: av.VideoStream | None) -> None:
        """Write the header; of a video that was encoded elsewhere, or of one that is to be."""
        source, tracks, video = self._info, self._plans, self._format
        try:
            with translated(self.path, "opening the output"), open_input(source.path) as original:
                self._file = av.open(
                    output_name(self._part),
                    "w",
                    format=muxer_of(self.path),
                    options=_muxer_options(self.path, source),
                )
                self._tags = _copy_tags(original.metadata, _CONTAINER_TAGS)
                self._file.metadata.update(self._tags)
                self._streams = {
                    track.stream.index: _add_stream(
                        self._file, original, track, source, video, encoded
                    )
                    for track in tracks
                    if track.action != "drop"
                }
                self._tracks = {track.stream.index: track.stream for track in tracks}
                trim = self._trim
                self._file.set_chapters(_chapters(original, start=trim.start, end=trim.end))
                self._file.start_encoding()
        except BaseException:
            self._abandon()
            raise
        self._video = self._streams[source.video]

    def _join(self, encoded: Path, delay: int) -> None:
        """Mux a file of video alone with the other streams, which are read once more."""
        with open_input(encoded) as container:
            self._open(container.streams.video[0])
        reader = VideoReader(
            self._info,
            copied=tuple(
                index
                for index, stream in self._tracks.items()
                if index in self._streams and index != self._source and stream.kind != "attachment"
            ),
            trim=self._trim,
        )
        ours = self._encoded_packets(encoded, delay)
        both: Iterator[Any] = heapq.merge(ours, reader.packets(), key=_decoding_moment)
        for packet in both:
            if packet.stream is self._video:
                self._mux_video([packet])
            else:
                self._copy(packet)

    def _encoded_packets(self, encoded: Path, delay: int) -> Iterator[av.Packet[Any]]:
        """The packets of a file of video alone, with every time as it was given."""
        tick = self._time_base
        with open_input(encoded) as container:
            packets = (packet for packet in container.demux(0) if packet.size)
            order = array("q", (int((p.pts or 0) * p.time_base / tick) - delay for p in packets))
        times = _decoding_times(order, self._pts)
        with open_input(encoded) as container:
            packets = (packet for packet in container.demux(0) if packet.size)
            for packet, pts, dts in zip(packets, order, times, strict=True):
                packet.pts, packet.dts, packet.time_base = pts, dts, tick
                following = bisect_right(self._pts, pts)
                end = self._pts[following] if following < len(self._pts) else self._end
                packet.duration = max(1, end - pts)
                packet.stream = self._video
                if dts == times[-1]:
                    self._end_in_time([packet])
                yield packet

    def _encode(self, frame: Frame) -> None:
        picture = repacked(picture_of(frame.planes, frame.layout), self._pix_fmt)
        picture.pts, picture.time_base = frame.pts, frame.time_base
        picture.duration = frame.duration
        color = frame.color
        picture.colorspace, picture.color_range = int(color.matrix), int(color.range)
        picture.color_primaries, picture.color_trc = color.primaries, color.transfer
        self._mux_video(self._video.encode(picture))

    def _note_time(self, frame: Frame) -> None:
        if self._pts and frame.pts <= self._pts[-1]:
            raise MediaError(
                f"{self.path}: two frames at pts {frame.pts} ({float(frame.pts * frame.time_base)} "
                "s); the input's timestamps do not increase"
            )
        self._pts.append(frame.pts)
        self.report.frames += 1
        self._end = frame.pts + frame.duration

    def _mux_video(self, packets: list[av.Packet[Any]]) -> None:
        assert self._file is not None
        if packets and self._first_dts is None:
            self._first_dts = packets[0].dts
        self._file.mux(packets)

    def _end_in_time(self, packets: list[av.Packet[Any]]) -> list[av.Packet[Any]]:
        """Let the last packet last until the last picture ends: another one, if reordered.

        mp4 adds durations up in decoding order, and its edit list cuts off what lies behind.
        """
        if packets and packets[-1].dts is not None and self._pts:
            first = packets[0].dts if self._first_dts is None else self._first_dts
            passed = packets[-1].dts - (first or 0)
            packets[-1].duration = max(1, self._end - self._pts[0] - passed)
        return packets

    def _copy(self, packet: Any) -> None:  # a PyAV packet; our protocol knows only its size
        index = packet.stream_index
        self.report.copied[index] += 1
        if self._streams[index].type == "attachment":
            return  # a cover, written with the header
        packet.stream = self._streams[index]
        assert self._file is not None
        self._file.mux_one(packet)

    def _verify(self) -> None:
        found: Counter[int] = Counter()  # input stream -> packets
        times: list[Fraction] = []
        tick = Fraction(1)
        with open_input(self._part) as written:
            kept = {key.lower(): value for key, value in written.metadata.items()}
            inputs = self._inputs_of(written)
            for packet in written.demux():
                index = inputs.get(packet.stream_index)
                if not packet.size or index is None:
                    continue
                found[index] += 1
                if index == self._source:
                    tick = packet.time_base
                    times.append((packet.pts or 0) * tick)
        self._compare_times(sorted(times), tick)
        self._compare_packets(found)
        self.report.lost_tags = [key for key in self._tags if key.lower() not in kept]

    def _inputs_of(self, written: av.container.InputContainer) -> dict[int, int]:
        """For each stream of the file its index in the input: same kind, same order.

        The index alone would not do: mp4 moves covers to the end and leaves out empty tracks.
        """
        places: defaultdict[tuple[str, bool], list[int]] = defaultdict(list)
        for stream in written.streams:
            cover = bool(stream.disposition & av.stream.Disposition.attached_pic)
            places[stream.type, cover].append(stream.index)
        ours: defaultdict[tuple[str, bool], list[int]] = defaultdict(list)
        for index in sorted(self._streams, key=lambda index: self._streams[index].index):
            ours[self._tracks[index].kind, self._tracks[index].cover].append(index)
        inputs: dict[int, int] = {}
        for sort, indices in ours.items():
            empty = {i for i in indices if i != self._source and not self.report.copied[i]}
            if len(places[sort]) >= len(indices):
                empty.clear()
            self.report.empty += sorted(empty)
            there = (index for index in indices if index not in empty)
            inputs.update(zip(places[sort], there, strict=False))
        return inputs

    def _compare_packets(self, found: Counter[int]) -> None:
        """Copied streams hold at least what was given (mp4 adds empty subtitles for the gaps)."""
        for index, given in self.report.copied.items():
            if found[index] < given:
                raise VerificationError(
                    f"{self.path}: stream {index} of the input gave {given} packets, "
                    f"{found[index]} were written"
                )

    def _compare_times(self, written: list[Fraction], tick: Fraction) -> None:
        if len(written) != len(self._pts):
            raise VerificationError(
                f"{self.path}: {len(self._pts)} frames went in, {len(written)} came out"
            )
        exact = self._time_base % tick == 0 if tick else False
        allowed = Fraction(0) if exact else tick / 2
        delay = Fraction(0)
        if written and muxer_of(self.path) in DELAYED:
            delay, allowed = written[0] - self._pts[0] * self._time_base, tick  # rounded twice
        for pts, moment in zip(self._pts, written, strict=True):
            if abs(pts * self._time_base + delay - moment) > allowed:
                raise VerificationError(
                    f"{self.path}: the frame at {float(pts * self._time_base):.6f} s was written "
                    f"at {float(moment):.6f} s"
                )

    def _abandon(self) -> None:
        if self._file is not None:
            with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
                self._file.close()
            self._file = None
        if self._encoder is not None:
            self._encoder.close()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)
            if self._encoder is not None:
                self._encoder.path.unlink(missing_ok=True)


def muxer_of(path: Path) -> str:
    """FFmpeg's name of the container that a file name asks for.

    Raises:
        RequestError: vidsr does not write such files.
    """
    suffix = path.suffix.lower()
    if suffix == ".avi":
        raise RequestError(f"{path}: AVI cannot keep timestamps; name an .mkv or .mp4 file")
    if suffix not in MUXERS:
        raise RequestError(
            f"{path}: vidsr writes {', '.join(MUXERS)}, not {suffix or 'a name without suffix'}"
        )
    return MUXERS[suffix]


def _muxer_options(path: Path, source: VideoInfo) -> dict[str, str]:
    """mp4 and mov store each stream's delay in ticks of the movie, 1 ms unless told otherwise.

    Matroska would move every stream to make the padding before an audio track's start positive, and
    would number its tracks at random.
    """
    if muxer_of(path) in {"matroska", "webm"}:
        return {"avoid_negative_ts": "disabled", "fflags": "+bitexact"}
    if muxer_of(path) not in {"mp4", "mov", "3gp"}:
        return {}
    # Fine enough for every stream, as long as the file's length still fits in 32 bits of it.
    fine, video = source.common_clock, source.time_base.denominator
    fits = fine * (source.seconds_from_header + 1) < 2**32
    return {"movie_timescale": str(fine if fits else max(video, 1000))}


def can_hold(suffix: str, source: VideoInfo, track: StreamInfo, encoder: str) -> bool:
    """Whether a container takes a stream, the processed one as encoded by `encoder`.

    A header is written to memory and thrown away, since some muxers refuse only then; the encoder
    itself is not opened for this.
    """
    if track.cover and MUXERS[suffix] != "mp4":
        return MUXERS[suffix] == "matroska" and track.codec in _COVERS
    try:
        with open_input(source.path) as original:
            trial = av.open(io.BytesIO(), "w", format=MUXERS[suffix])
            if track.index == source.video:
                codec = av.codec.Codec(encoder, "w").canonical_name
                trial.add_mux_stream(codec, width=source.width, height=source.height)
                if MUXERS[suffix] == "matroska":
                    return True  # it takes every codec, but no header before the encoder's own
            else:
                trial.add_stream_from_template(original.streams[track.index], opaque=True)
            trial.start_encoding()
            trial.close()
    except (av.error.FFmpegError, OSError, ValueError):
        return False
    return True


def _mend_dts(packets: list[av.Packet[Any]]) -> list[av.Packet[Any]]:
    """Give the last packets decoding times again where the encoder made them up.

    libx265 leaves its delay unset when a stream is shorter than it, and dts is then garbage.
    """
    span = 64 * max((packet.duration or 1 for packet in packets), default=1)
    if all(0 <= (p.pts or 0) - (p.dts or 0) <= span for p in packets):
        return packets
    ordered = sorted(packet.pts or 0 for packet in packets)
    delay = max(pts - (p.pts or 0) for pts, p in zip(ordered, packets, strict=True))
    for pts, packet in zip(ordered, packets, strict=True):
        packet.dts = pts - delay
    return packets


def _decoding_times(order: Sequence[int], shown: Sequence[int]) -> list[int]:
    """The dts of pictures whose pts are `order` when decoded and `shown` in the order of time.

    They are the moments shown, as much later as the reordering needs, so that none is decoded after
    it is shown; H.264 and HEVC encoders do the same.
    """
    late = max(place - bisect_left(shown, pts) for place, pts in enumerate(order))
    before = [shown[0] + shown[place] - shown[late] for place in range(late)]
    return [*before, *shown[: len(shown) - late]]


def _decoding_moment(packet: Any) -> Fraction:
    time = packet.pts if packet.dts is None else packet.dts
    return Fraction((time or 0) * packet.time_base)


def _add_stream(
    file: av.container.OutputContainer,
    original: av.container.InputContainer,
    track: TrackPlan,
    source: VideoInfo,
    video: VideoFormat,
    encoded: av.VideoStream | None,
) -> Any:  # one of PyAV's stream classes
    template = original.streams[track.stream.index]
    stream: Any
    if track.action == "process":
        add = _add_video if encoded is None else functools.partial(_add_encoded, encoded)
        stream = add(file, source, video)
        stream.metadata.update(_copy_tags(template.metadata, _STATISTICS_TAGS))
    elif track.stream.cover and file.format.name == "matroska":
        return _attach_cover(file, original, track.stream)
    else:
        # `opaque` copies the decoder's parameters; a cover or second video needs no encoder.
        stream = file.add_stream_from_template(template, opaque=True)
        stream.metadata.update(_copy_tags(template.metadata, {"duration", "encoder"}))
    # The template leaves out what makes a track findable: language, title, default, forced.
    stream.disposition = template.disposition
    return stream


_COVERS = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}


def _attach_cover(
    file: av.container.OutputContainer, original: av.container.InputContainer, cover: StreamInfo
) -> Any:
    """Matroska keeps a cover as an attached file."""
    template = original.streams[cover.index]
    name, mimetype = _COVERS[cover.codec or ""]
    data = next(bytes(packet) for packet in original.demux(template) if packet.size)
    return file.add_attachment(template.metadata.get("filename", name), mimetype, data)


def _add_video(
    file: av.container.OutputContainer, source: VideoInfo, video: VideoFormat
) -> av.VideoStream:
    stream = file.add_stream(
        video.encoder,
        rate=source.frame_rate,
        options=dict(video.options),
        width=video.width,
        height=video.height,
        pix_fmt=video.pix_fmt,
        time_base=source.time_base,
    )
    assert isinstance(stream, av.VideoStream)
    context = stream.codec_context
    context.thread_count = video.threads
    # Packets carry the duration of their frame; else the last one's would be lost.
    context.flags |= Flags.frame_duration
    if video.interlaced:
        context.flags |= Flags.interlaced_dct
    _describe(stream, source, video)
    return stream


def _add_encoded(
    encoded: av.VideoStream,
    file: av.container.OutputContainer,
    source: VideoInfo,
    video: VideoFormat,
) -> av.VideoStream:
    stream = file.add_stream_from_template(encoded, opaque=True)
    stream.time_base = source.time_base
    _describe(stream, source, video)
    return stream


def _describe(stream: av.VideoStream, source: VideoInfo, video: VideoFormat) -> None:
    """Colours and shape, for the container."""
    context = stream.codec_context
    context.colorspace, context.color_range = int(video.color.matrix), int(video.color.range)
    context.color_primaries, context.color_trc = video.color.primaries, video.color.transfer
    if video.sample_aspect:
        context.sample_aspect_ratio = video.sample_aspect
    if source.display_matrix:
        stream.set_display_matrix(_scaled_matrix(source, video))


def _scaled_matrix(source: VideoInfo, video: VideoFormat) -> list[int]:
    """The display matrix with its shift, which is in pixels (16.16), at the new size."""
    assert source.display_matrix is not None
    matrix = list(source.display_matrix)
    matrix[6] = matrix[6] * video.width // source.width
    matrix[7] = matrix[7] * video.height // source.height
    return [max(-(2**31), min(2**31 - 1, entry)) for entry in matrix]


# Tags that describe the file they were read from and would be false in another one.
_CONTAINER_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}
_STATISTICS_TAGS = {"encoder", "duration", "bps", "number_of_frames", "number_of_bytes"}


def _copy_tags(tags: dict[str, str], false_here: set[str]) -> dict[str, str]:
    def is_true(key: str) -> bool:
        name = key.lower().removesuffix("-eng")
        return name not in false_here and not name.startswith("_statistics")

    return {key: value for key, value in tags.items() if is_true(key)}


def _chapters(
    original: av.container.InputContainer, *, start: Fraction | None, end: Fraction | None
) -> list[Any]:
    """The chapters inside [start, end), cut to it and moved so that `start` is zero."""
    kept = []
    for chapter in original.chapters():
        tick = chapter["time_base"] or Fraction(1, 1000)
        first = max(chapter["start"], round(start / tick) if start else chapter["start"])
        last = min(chapter["end"], round(end / tick) if end else chapter["end"])
        if first < last or (chapter["start"] == chapter["end"] and start is None and end is None):
            shift = round(start / tick) if start else 0
            kept.append({**chapter, "start": first - shift, "end": last - shift})
    return kept
