"""VideoInfo: what a file's header says and what its first picture says.

Note [Unspecified colour]
~~~~~~~~~~~~~~~~~~~~~~~~~
Half of all files leave a colour tag out, and players then guess by the picture's size, so that an
SD clip made HD changes its colours in silence. Therefore "unspecified" ends here. The order of
trust is: the decoded picture (the bitstream), then the container's header, then a guess by the
rules below; a guess is remembered in `ColorSpec.guessed` and the output is tagged explicitly.

    matrix   width >= 1280 or height > 576 -> BT.709, else BT.601 (470BG for 576 lines, else 170M)
    range    YUV limited; RGB and the yuvj formats full
    siting   centre for JPEG and MPEG-1, top-left for BT.2020, else left

PyAV has no attribute for chroma siting; FFmpeg names it in the verbose description of a stream.
"""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import av.logging

from vidsr.errors import MediaError
from vidsr.frame import ColorSpec, Matrix, PixelLayout, Range, Siting
from vidsr.media.door import MAX_PIXELS, layout_of, open_input, translated
from vidsr.media.hdr import HdrMetadata, hdr_metadata_of

StreamKind = Literal["video", "audio", "subtitle", "data", "attachment", "unknown"]


@dataclass(frozen=True)
class StreamInfo:
    """One stream of a file, as its header describes it."""

    index: int
    kind: StreamKind
    codec: str | None  # None where FFmpeg does not know it
    language: str | None
    title: str | None
    cover: bool  # a still picture attached to the file
    disposition: int = 0  # FFmpeg's flags: default, forced, ...

    def __str__(self) -> str:
        """`stream 3 (subtitle, mov_text, eng)`."""
        words = ["cover" if self.cover else self.kind, self.codec or "unknown codec", self.language]
        return f"stream {self.index} ({', '.join(word for word in words if word)})"


@dataclass(frozen=True)
class VideoInfo:
    """What is in a video file, and how the stream that vidsr processes looks."""

    path: Path
    container: str  # FFmpeg's name of the format, such as "mov,mp4,m4a,3gp,3g2,mj2"
    streams: tuple[StreamInfo, ...]
    video: int  # index of the processed stream
    width: int  # as stored, before rotation and sample aspect ratio
    height: int
    pix_fmt: str
    layout: PixelLayout
    color: ColorSpec
    sample_aspect: Fraction | None  # width : height of a pixel, where the file says
    display_matrix: tuple[int, ...] | None  # FFmpeg's nine numbers, or None
    rotation: int  # degrees counter-clockwise, from the display matrix
    time_base: Fraction  # seconds per tick of the processed stream
    frame_rate: Fraction  # average or guessed; only rate control uses it
    frames_from_header: int  # 0 if the header does not say; never evidence
    seconds_from_header: float
    interlaced: bool
    top_field_first: bool
    chapters: int
    common_clock: int  # ticks per second of the coarsest clock that every stream's ticks fall on
    unread_alpha: bool = False  # kept beside VP8 or VP9, whose decoders in FFmpeg pass over it
    hdr: HdrMetadata = field(default_factory=HdrMetadata)
    start_seconds: Fraction = Fraction(0)  # where its clock begins; MPEG-TS rarely at zero
    # What the reader shall make of woven fields; all of the above is then said of its pictures.
    deinterlace: Literal["frame", "field"] | None = None
    fields_flagged: bool = True  # each picture's own flag says whether it is woven

    @property
    def video_stream(self) -> StreamInfo:
        """The processed stream."""
        return next(s for s in self.streams if s.index == self.video)

    @property
    def displayed_size(self) -> tuple[int, int]:
        """(width, height) as shown: sample aspect ratio and rotation applied."""
        width, height = round(self.width * (self.sample_aspect or 1)), self.height
        return (height, width) if self.rotation % 180 else (width, height)


def probe(path: Path, *, video: int | None = None) -> VideoInfo:
    """Look into a file: its header, and its first decodable picture.

    Args:
        path: of the file.
        video: index of the stream to process; None takes the best one.

    Raises:
        MediaError: missing, empty, not media, without video, or nothing decodable in it.
    """
    check_readable(path)
    with translated(path, "reading"), open_input(path) as container:
        stream = _video_stream(container, path, video)
        _check_claim(path, stream.frames)
        description = _describe(container, stream.index)
        picture = _first_picture(container, stream, path)
        layout = layout_of(picture.format)
        matrix = _display_matrix(picture)
        start = _start_seconds(container)
        return VideoInfo(
            path=path,
            container=container.format.name,
            streams=tuple(_stream_info(s) for s in container.streams),
            video=stream.index,
            width=picture.width,
            height=picture.height,
            pix_fmt=picture.format.name,
            layout=layout,
            color=_resolve_color(picture, stream, layout, description),
            sample_aspect=stream.sample_aspect_ratio or None,
            display_matrix=matrix,
            rotation=picture.rotation if matrix else 0,
            time_base=stream.time_base or Fraction(1, 90000),
            frame_rate=_frame_rate(stream),
            frames_from_header=stream.frames,
            seconds_from_header=_seconds(container, start),
            interlaced=picture.interlaced_frame,
            top_field_first="bottom first" not in description,
            chapters=len(container.chapters()),
            unread_alpha=stream.metadata.get("alpha_mode") == "1" and not layout.alpha,
            hdr=hdr_metadata_of(picture),
            common_clock=math.lcm(
                *(s.time_base.denominator for s in container.streams if s.time_base)
            ),
            start_seconds=start,
        )


def has_video(path: Path) -> bool:
    """Whether a file's header names a video stream that is no cover; nothing is decoded.

    Raises:
        MediaError: missing, empty, or not media.
    """
    check_readable(path)
    with translated(path, "reading"), open_input(path) as container:
        pictures = any(not _is_cover(stream) for stream in container.streams.video)
        return pictures and container.format.name not in _TEXT


_TEXT = {"tty", "bin", "xbin", "adf", "idf"}  # FFmpeg draws text as video


def check_readable(path: Path) -> None:
    """Refuse what is no file before FFmpeg is asked.

    Raises:
        MediaError: missing, a directory, a pipe or device, empty or not readable.
    """
    if not path.exists():
        raise MediaError(f"{path}: no such file")
    if path.is_dir():
        raise MediaError(
            f"{path} is a directory; name a file in it, or take all: `vidsr batch {path} -o OUT`"
        )
    if not path.is_file():
        raise MediaError(f"{path} is a pipe or a device; copy its content to a file first")
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except OSError as exc:
        raise MediaError(f"{path}: cannot be read ({exc.strerror})") from exc
    if not first:
        raise MediaError(f"{path} is empty")


def _check_claim(path: Path, frames: int) -> None:
    """Refuse a header whose number of frames cannot be: a coded frame is a byte at least."""
    size = path.stat().st_size
    if path.is_file() and frames > size:
        raise MediaError(
            f"{path}: its header claims {frames} frames in {size} bytes; it is damaged, copy its "
            "streams to a new file with another tool first"
        )


def _video_stream(
    container: av.container.InputContainer, path: Path, index: int | None
) -> av.VideoStream:
    """The stream that is processed: the best video stream that is no cover picture."""
    streams = [s for s in container.streams.video if not _is_cover(s)]
    if index is not None:
        streams = [s for s in streams if s.index == index]
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise MediaError(f"{path} has no video to process; it holds {kinds}")
    best = container.streams.best("video")
    chosen = best if best in streams else streams[0]
    if chosen.codec_context is None:
        raise MediaError(f"{path}: no decoder for its video; convert it with another tool first")
    return chosen


def _first_picture(
    container: av.container.InputContainer, stream: av.VideoStream, path: Path
) -> av.VideoFrame:
    for packet in container.demux(stream):
        if packet.has_sidedata("encryption_info"):  # noise, which a decoder may take for pictures
            raise MediaError(f"{path}: its video is encrypted; decrypt it with another tool first")
        try:
            pictures = packet.decode()
        except av.error.InvalidDataError:
            continue  # damaged; the reader counts these
        if pictures:
            return pictures[0]
    raise MediaError(
        f"{path}: not one picture of its video can be decoded (damaged, or above "
        f"{MAX_PIXELS // 1_000_000} megapixels)"
    )


def _stream_info(stream: av.stream.Stream) -> StreamInfo:
    codec = stream.codec_context.codec.canonical_name if stream.codec_context else None
    if codec is None and stream.type in {"data", "attachment"}:
        codec = stream.name or stream.metadata.get("mimetype")
    return StreamInfo(
        index=stream.index,
        kind=stream.type,
        codec=codec,
        language=stream.language,
        title=stream.metadata.get("title") or stream.metadata.get("name"),  # mp4's word for it
        cover=_is_cover(stream),
        disposition=int(stream.disposition),
    )


def _is_cover(stream: av.stream.Stream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _start_seconds(container: av.container.InputContainer) -> Fraction:
    """Where a file's clock begins. What lies before zero is a codec's lead-in."""
    rounded = Fraction(container.start_time or 0, av.time_base)
    starts = (s.start_time * s.time_base for s in container.streams if s.start_time and s.time_base)
    # FFmpeg's microseconds may lie past the very frame that a stream begins with.
    exact = next((start for start in starts if abs(start - rounded) * av.time_base < 1), rounded)
    return max(exact, Fraction(0))


def _seconds(container: av.container.InputContainer, start: Fraction) -> float:
    """How long a film is; where it ends is what NUT says, and Matroska as FFmpeg writes it."""
    said = Fraction(container.duration or 0, av.time_base)
    is_end = container.format.name in {"matroska,webm", "nut"} and said > start
    return float(said - start if is_end else said)


def _frame_rate(stream: av.VideoStream) -> Fraction:
    rate = stream.guessed_rate or stream.average_rate or Fraction(25)
    return rate if 0 < rate <= 1000 else Fraction(25)


def _display_matrix(picture: av.VideoFrame) -> tuple[int, ...] | None:
    side_data: Any = picture.side_data  # PyAV's stub calls it a dict; it iterates over the data
    for data in side_data:
        if data.type.name == "DISPLAYMATRIX":
            return struct.unpack("=9i", bytes(data))
    return None


def _resolve_color(
    picture: av.VideoFrame, stream: av.VideoStream, layout: PixelLayout, description: str
) -> ColorSpec:
    header = stream.codec_context
    matrix = _first_specified(picture.colorspace, header.colorspace)
    primaries = _first_specified(picture.color_primaries, header.color_primaries)
    transfer = _first_specified(picture.color_trc, header.color_trc)
    range_ = picture.color_range or header.color_range
    siting = _siting(description)
    missing = {
        "matrix": matrix is None or (matrix == Matrix.RGB and layout.model != "rgb"),
        "primaries": primaries is None,
        "transfer": transfer is None,
        "range": not range_,
        "siting": siting is None,
    }
    guess = guess_color(picture.width, picture.height, layout, codec=header.codec.canonical_name)
    full_by_name = picture.format.name.startswith("yuvj")
    return ColorSpec(
        matrix=guess.matrix if missing["matrix"] else _matrix(matrix),
        primaries=guess.primaries if primaries is None else primaries,
        transfer=guess.transfer if transfer is None else transfer,
        range=Range.FULL if full_by_name else Range(range_ or guess.range),
        siting=siting or (Siting.TOPLEFT if matrix in _BT2020 else guess.siting),
        guessed=frozenset(name for name, absent in missing.items() if absent),
    )


def guess_color(width: int, height: int, layout: PixelLayout, *, codec: str = "") -> ColorSpec:
    """What an untagged picture most likely is; see the Note above. BT.2020 is never guessed."""
    siting = Siting.CENTER if codec in {"mjpeg", "mpeg1video", "h263"} else Siting.LEFT
    if layout.model == "rgb":
        return ColorSpec(Matrix.RGB, Range.FULL, 1, 13, siting)  # sRGB
    limited = Range.LIMITED
    if width >= 1280 or height > 576:
        return ColorSpec(Matrix.BT709, limited, 1, 1, siting)
    if height == 576:
        return ColorSpec(Matrix.BT470BG, limited, 5, 6, siting)
    return ColorSpec(Matrix.SMPTE170M, limited, 6, 6, siting)


_BT2020 = {Matrix.BT2020_NCL, Matrix.BT2020_CL}


def _first_specified(*codes: int) -> int | None:
    """The first code that is neither reserved (0, but RGB's matrix) nor unspecified (2)."""
    return next((int(code) for code in codes if code not in {0, 2}), None)


def _matrix(code: int | None) -> Matrix:
    try:
        return Matrix(code or 0)
    except ValueError as exc:
        raise MediaError(f"matrix coefficients {code} (H.273) are not supported") from exc


_SITING_NAMES = {
    "left": Siting.LEFT,
    "center": Siting.CENTER,
    "topleft": Siting.TOPLEFT,
    "top": Siting.TOP,
    "bottomleft": Siting.BOTTOMLEFT,
    "bottom": Siting.BOTTOM,
}


def _siting(description: str) -> Siting | None:
    """The siting in `..., yuv420p(tv, bt709, progressive, left), 640x480, ...`."""
    start = description.find("(", description.find(" yuv"))
    words = description[start + 1 : description.find(")", start)].split(", ")
    return next((_SITING_NAMES[word] for word in words if word in _SITING_NAMES), None)


def _describe(container: Any, index: int) -> str:  # PyAV's stub lacks `dumps_format`
    """FFmpeg's verbose line about a stream: it names chroma siting and field order."""
    with _verbose_logging():
        lines = container.dumps_format().splitlines()
    marks = (f"Stream #0:{index}[", f"Stream #0:{index}(", f"Stream #0:{index}:")
    return next((line for line in lines if line.lstrip().startswith(marks)), "")


_LOGGING = threading.Lock()


@contextmanager
def _verbose_logging() -> Iterator[None]:
    """FFmpeg's log level is one per process; raise it for the one call that needs it."""
    with _LOGGING:
        level, libav_level = av.logging.get_level(), av.logging.WARNING
        av.logging.set_level(av.logging.VERBOSE)
        av.logging.set_libav_level(av.logging.VERBOSE)
        try:
            yield
        finally:
            av.logging.set_libav_level(libav_level)
            av.logging.set_level(level)
