"""Reader and writer with nothing between them, or with every sample doubled."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from vidsr.frame import Frame
from vidsr.media.encoders import EncoderRequest, choose_format
from vidsr.media.probe import VideoInfo, probe
from vidsr.media.reader import ReadReport, Trim, VideoReader
from vidsr.media.segments import FfmpegSegment, headers_of, joined, write_joined
from vidsr.media.writer import TrackPlan, VideoWriter, WriteReport

FAST = EncoderRequest(preset="ultrafast", threads=1)


@dataclass
class Passage:
    """What reader and writer reported."""

    read: ReadReport
    written: WriteReport


def pass_through(
    source: Path,
    path: Path,
    *,
    scale: int = 1,
    encoder: EncoderRequest = FAST,
    trim: Trim | None = None,
    drop: Collection[int] = (),
    info: VideoInfo | None = None,
    convert: Mapping[int, str] | None = None,
) -> Passage:
    """Read a file and write it again, each sample repeated `scale` times both ways."""
    trim = trim or Trim()
    info = info or probe(source)
    video, _ = choose_format(info, (scale * info.width, scale * info.height), encoder)
    video = replace(video, sample_aspect=info.sample_aspect)
    actions = {stream.index: "drop" if stream.index in drop else "copy" for stream in info.streams}
    actions[info.video] = "process"
    codecs = dict(convert or {})  # of text subtitles that are converted
    actions.update(dict.fromkeys(codecs, "convert"))
    tracks = tuple(
        TrackPlan(stream, actions[stream.index], codec=codecs.get(stream.index, ""))
        for stream in info.streams
    )
    copied = tuple(index for index, action in actions.items() if action in {"copy", "convert"})
    reader = VideoReader(info, copied=copied, threads=1, trim=trim)
    output = {"source": info, "video": video, "tracks": tracks}
    output |= {"start": trim.start, "end": trim.end}
    if video.ffmpeg is not None:
        return by_program(reader, path, scale, output)
    with VideoWriter(path, **output) as writer:
        for item in reader:
            writer.write(enlarged(item, scale) if isinstance(item, Frame) else item)
        written = writer.finish()
    return Passage(reader.report, written)


def by_program(reader: VideoReader, path: Path, scale: int, output: dict[str, Any]) -> Passage:
    """The same where a system ffmpeg encodes: one segment, then joined with the other streams."""
    info, video = output["source"], output["video"]
    with tempfile.TemporaryDirectory() as folder:
        packets = Path(folder) / "0.packets"
        segment = FfmpegSegment(packets, destination=path, source=info, video=video)
        try:
            for item in reader:
                if isinstance(item, Frame):
                    segment.write(enlarged(item, scale))
            segment.finish()
        finally:
            segment.abandon()
        others = VideoReader(info, copied=reader.copied, threads=1, trim=reader.trim)
        with VideoWriter(path, encoded=headers_of(Path(folder)), **output) as writer:
            write_joined(writer, joined([packets], info.time_base), others.copies())
            return Passage(reader.report, writer.finish())


def enlarged(frame: Frame, scale: int) -> Frame:
    """Nearest neighbour; even sizes, so that chroma and luma stay together."""
    planes = (plane.repeat(scale, axis=0).repeat(scale, axis=1) for plane in frame.planes)
    shapes = frame.layout.plane_shapes(scale * frame.width, scale * frame.height)
    cut = (plane[:height, :width] for plane, (height, width) in zip(planes, shapes, strict=True))
    return replace(frame, planes=tuple(cut))


def frames_of(path: Path, *, trim: Trim | None = None) -> list[Frame]:
    """Every frame of the processed stream."""
    reader = VideoReader(probe(path), copied=(), threads=1, trim=trim)
    return [item for item in reader if isinstance(item, Frame)]


def moments_of(path: Path) -> list[Fraction]:
    """When each frame is shown, in seconds."""
    return [frame.pts * frame.time_base for frame in frames_of(path)]


def packets_of(path: Path, index: int) -> list[tuple[Fraction, bytes]]:
    """(pts in seconds, data) of every packet of a stream, as PyAV alone reads them."""
    with av.open(str(path)) as file:
        return [
            ((packet.pts or 0) * packet.time_base, bytes(packet))
            for packet in file.demux(file.streams[index])
            if packet.size
        ]
