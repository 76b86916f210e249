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
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import av
import av.error
from av.codec.context import Flags

from vidsr.errors import MediaError, VerificationError
from vidsr.files import part_of, put_in_place
from vidsr.frame import Frame, Packet
from vidsr.media.containers import COVERS, muxer_of, muxer_options
from vidsr.media.door import (
    Filter,
    open_input,
    output_name,
    picture_of,
    repacked,
    translated,
)
from vidsr.media.encoders import VideoFormat
from vidsr.media.probe import StreamInfo, VideoInfo
from vidsr.media.subtitles import SubtitleConverter
from vidsr.media.verify import DELAYED, Promise, Span, check_written


@dataclass(frozen=True)
class TrackPlan:
    """What becomes of one stream of the input."""

    stream: StreamInfo
    action: Literal["process", "copy", "convert", "drop"]
    reason: str = ""  # why it is dropped
    codec: str = ""  # what a text subtitle is converted to


@dataclass
class WriteReport:
    """What was written."""

    frames: int = 0
    copied: Counter[int] = field(default_factory=Counter)  # input stream -> packets
    lost_tags: list[str] = field(default_factory=list)  # metadata that the container cannot hold
    not_kept: list[str] = field(default_factory=list)  # what else it has no place for: a ledger
    empty: list[int] = field(default_factory=list)  # input streams without a packet, left out
    wordless: Counter[int] = field(default_factory=Counter)  # cues that conversion left nothing of
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
        encoded: Path | None = None,
    ) -> None:
        """Open the output under a temporary name beside `path` and write its header.

        Args:
            path: of the output.
            source: what is read.
            video: what the processed stream becomes.
            tracks: what becomes of each stream.
            start: of what is kept, in seconds.
            end: of it.
            encoded: a file of video alone with the headers of what another program encoded, whose
                packets will come; None encodes here.

        Raises:
            MediaError: the file cannot be made, or the encoder or container refuses.
        """
        self.path = path
        self.report = WriteReport()
        self._pts = array("q")
        self._given: defaultdict[int, Span] = defaultdict(Span)  # input stream -> its packets' span
        self._end = 0  # of the last frame, in its time base
        self._first_dts: int | None = None
        self._info, self._format = source, video
        self._latest: list[av.Packet[Any]] = []  # of those that came encoded; not yet written
        self._source = source.video
        self._time_base = source.time_base
        self._pictures = Pictures(source, video)
        self._file: av.container.OutputContainer | None = None
        with translated(path, "opening the output"):
            self._part = part_of(path)
        try:
            with translated(path, "opening the output"), open_input(source.path) as original:
                self._file = av.open(
                    output_name(self._part),
                    "w",
                    format=muxer_of(path),
                    options=muxer_options(path, source),
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
                if start is not None or end is not None:
                    _drop_statistics(self._streams.values())
                self._converters = {
                    track.stream.index: SubtitleConverter(
                        original.streams[track.stream.index], self._streams[track.stream.index]
                    )
                    for track in tracks
                    if track.action == "convert"
                }
                self._tracks = {track.stream.index: track.stream for track in tracks}
                self._chapters = _chapters(original, start=start, end=end)
                self._file.set_chapters(self._chapters)
                self._file.start_encoding()
        except BaseException:
            self._abandon()
            raise
        self._video = self._streams[source.video]

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
                self._encode(item)
            else:
                self._copy(item)

    def write_encoded(self, packet: av.Packet[Any]) -> None:
        """Take a packet of the processed stream; a file has frames or such packets, not both.

        Args:
            packet: with pts, dts and duration in the source's time base, in decoding order.

        Raises:
            MediaError: the disk refuses.
        """
        assert packet.pts is not None
        self._pts.append(packet.pts)
        self.report.frames += 1
        end = packet.pts + (packet.duration or 0)
        self._end = max(self._end, end)
        self._given[self._source].reach(packet.pts * self._time_base, end * self._time_base)
        packet.stream = self._video
        with translated(self.path, "writing"):
            self._mux_video(self._latest)
        self._latest = [packet]

    @property
    def extradata(self) -> bytes:
        """The headers of the encoder, as the file has them."""
        return self._video.codec_context.extradata or b""

    def finish(self) -> WriteReport:
        """Flush, close, verify, and rename over the final name.

        Raises:
            VerificationError: the file does not hold what was given; nothing is left behind.
            MediaError: the disk is full or the encoder fails at the end.
        """
        assert self._file is not None
        with translated(self.path, "finishing the output"):
            for index, converter in self._converters.items():
                self._mux_converted(index, converter.drain())
                self.report.wordless[index] = converter.wordless
            packets = self._latest or _mend_dts(self._video.encode(None))
            self._mux_video(self._end_in_time(packets))
            self._file.close()
            self._file = None
            self._verify()
            self.report.bytes = self._part.stat().st_size
            put_in_place(self._part, self.path)
        return self.report

    def _note_time(self, frame: Frame) -> None:
        if self._pts and frame.pts <= self._pts[-1]:
            raise MediaError(
                f"{self.path}: two frames at pts {frame.pts} ({float(frame.pts * frame.time_base)} "
                "s); the input's timestamps do not increase"
            )
        self._pts.append(frame.pts)
        self.report.frames += 1
        self._end = frame.pts + frame.duration
        self._given[self._source].reach(frame.pts * frame.time_base, self._end * frame.time_base)

    def _encode(self, frame: Frame) -> None:
        for picture in self._pictures.of(frame):
            self._mux_video(self._video.encode(picture))

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
        if index in self._converters:
            self._mux_converted(index, self._converters[index].push(packet))
            return
        self.report.copied[index] += 1
        self._given[index].add(packet)
        if self._streams[index].type == "attachment":
            return  # a cover, written with the header
        packet.stream = self._streams[index]
        assert self._file is not None
        self._file.mux_one(packet)

    def _mux_converted(self, index: int, packets: Iterable[Any]) -> None:
        assert self._file is not None
        for packet in packets:
            self.report.copied[index] += 1
            self._given[index].add(packet)
            self._file.mux_one(packet)

    def _verify(self) -> None:
        found: Counter[int] = Counter()  # input stream -> packets
        spans: defaultdict[int, Span] = defaultdict(Span)
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
                spans[index].add(packet)
                if index == self._source:
                    tick = packet.time_base
                    times.append((packet.pts or 0) * tick)
        self._compare_times(sorted(times), tick)
        self._compare_packets(found)
        self.report.lost_tags = [key for key in self._tags if key.lower() not in kept]
        self.report.not_kept = check_written(self._part, self._promise(inputs, spans))

    def _promise(self, inputs: dict[int, int], found: dict[int, Span]) -> Promise:
        return Promise(
            path=self.path,
            source=self._info,
            video=self._format,
            chapters=len(self._chapters),
            streams=inputs,
            # An attachment has no packets, so it cannot be left out for having none.
            expected=frozenset(
                index
                for index, stream in self._tracks.items()
                if index in self._streams
                and (stream.kind == "attachment" or index not in self.report.empty)
            ),
            given=self._given,
            found=found,
        )

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
        for pts, moment in zip(sorted(self._pts), written, strict=True):
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
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)


class Pictures:
    """Frames as an encoder takes them, with their time, color tags and field order."""

    def __init__(self, source: VideoInfo, video: VideoFormat) -> None:
        self._pix_fmt = video.pix_fmt
        # libx264 takes the field order from each picture, and PyAV has no attribute for that.
        order = "tff" if source.top_field_first else "bff"
        self._fields = Filter("setfield", f"mode={order}") if video.interlaced else None

    def of(self, frame: Frame) -> list[av.VideoFrame]:
        """The picture of a frame: always one."""
        picture = repacked(picture_of(frame.planes, frame.layout), self._pix_fmt)
        picture.pts, picture.time_base = frame.pts, frame.time_base
        picture.duration = frame.duration
        color = frame.color
        picture.colorspace, picture.color_range = int(color.matrix), int(color.range)
        picture.color_primaries, picture.color_trc = color.primaries, color.transfer
        return [picture] if self._fields is None else list(self._fields.push(picture))


def _mend_dts(packets: list[av.Packet[Any]]) -> list[av.Packet[Any]]:
    """Give the last packets decoding times again where the encoder made them up.

    libx265 leaves its delay unset when a stream is shorter than it, and dts is then garbage.
    """
    ordered = sorted(packet.pts or 0 for packet in packets)
    # Durations alone would not do: those that come out of FLV are one tick.
    steps = [after - before for before, after in pairwise(ordered)]
    span = 64 * max([*steps, *(packet.duration or 1 for packet in packets)], default=1)
    if all(0 <= (p.pts or 0) - (p.dts or 0) <= span for p in packets):
        return packets
    delay = max(pts - (p.pts or 0) for pts, p in zip(ordered, packets, strict=True))
    for pts, packet in zip(ordered, packets, strict=True):
        packet.dts = pts - delay
    return packets


def _add_stream(
    file: av.container.OutputContainer,
    original: av.container.InputContainer,
    track: TrackPlan,
    source: VideoInfo,
    video: VideoFormat,
    encoded: Path | None,
) -> Any:  # one of PyAV's stream classes
    template = original.streams[track.stream.index]
    stream: Any
    if track.action == "process":
        add = add_video if encoded is None else functools.partial(_add_encoded, encoded)
        stream = add(file, source, video)
        untrue = {*_STATISTICS_TAGS, "alpha_mode"}
        stream.metadata.update(_copy_tags(template.metadata, untrue))
    elif track.action == "convert":
        stream = file.add_stream(track.codec)
        stream.time_base = template.time_base
        stream.metadata.update(_copy_tags(template.metadata, _STATISTICS_TAGS))
    elif track.stream.cover and file.format.name == "matroska":
        return _attach_cover(file, original, track.stream)
    else:
        # `opaque` copies the decoder's parameters; a cover or second video needs no encoder.
        stream = file.add_stream_from_template(template, opaque=True)
        stream.metadata.update(_copy_tags(template.metadata, {"duration", "encoder"}))
    # The template leaves out what makes a track findable: language, title, default, forced.
    if track.stream.title:
        stream.metadata["title"] = track.stream.title
    stream.disposition = template.disposition
    return stream


def _attach_cover(
    file: av.container.OutputContainer, original: av.container.InputContainer, cover: StreamInfo
) -> Any:
    """Matroska keeps a cover as an attached file."""
    template = original.streams[cover.index]
    name, mimetype = COVERS[cover.codec or ""]
    data = next(bytes(packet) for packet in original.demux(template) if packet.size)
    return file.add_attachment(template.metadata.get("filename", name), mimetype, data)


def add_video(
    file: av.container.OutputContainer, source: VideoInfo, video: VideoFormat
) -> av.VideoStream:
    """Add the processed stream; its encoder opens with the header or the first picture."""
    stream = file.add_stream(
        video.encoder,
        rate=source.frame_rate,
        options=video.opening_options,
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
    encoded: Path,
    file: av.container.OutputContainer,
    source: VideoInfo,
    video: VideoFormat,
) -> av.VideoStream:
    with open_input(encoded) as container:
        stream = file.add_stream_from_template(container.streams.video[0], opaque=True)
    stream.time_base = source.time_base
    _describe(stream, source, video)
    return stream


def _describe(stream: av.VideoStream, source: VideoInfo, video: VideoFormat) -> None:
    """Colors and shape, for the container."""
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
_STATISTICS_TAGS = {
    "encoder",
    "duration",
    "bps",
    "number_of_frames",
    "number_of_bytes",
}


def _copy_tags(tags: dict[str, str], false_here: set[str]) -> dict[str, str]:
    def is_true(key: str) -> bool:
        name = key.lower().removesuffix("-eng")
        return name not in false_here and not name.startswith("_statistics")

    return {key: value for key, value in tags.items() if is_true(key)}


def _drop_statistics(streams: Iterable[Any]) -> None:
    """Of tracks that are copied in part: how many packets and bytes they had is no longer true."""
    for stream in streams:
        true = _copy_tags(stream.metadata, _STATISTICS_TAGS)
        stream.metadata.clear()
        stream.metadata.update(true)


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
