"""Films that lie in pictures, as frames, in and out: numbered files; animated GIF, WebP and PNG.

Note [Numbered pictures]
~~~~~~~~~~~~~~~~~~~~~~~~
A name with one `%06d` in it (or `%d`, `%04d`) is printf's: six digits and, past 999,999, as many as
it takes; `%%` is a percent sign. The lowest number there is comes first; a gap is an error, since a
film that jumps is never what was meant. All heads are read before the first frame, so that a
picture of another size is known before hours of work; a picture that is grey or without alpha among
others that are not (black frames are often stored so) is given what it lacks.

Pictures that are written appear one by one, each whole. A run that stops leaves those it has
finished, and says how many.
"""

from __future__ import annotations

import logging
import re
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import numpy as np

from vidsr.errors import Interrupted, MediaError
from vidsr.frame import ColorSpec, Frame, Matrix, Packet, PixelLayout, Range, Siting
from vidsr.media import image_writer, images
from vidsr.media.door import Plane, planar_name
from vidsr.media.encoders import VideoFormat
from vidsr.media.images import Head, Still
from vidsr.media.probe import StreamInfo, VideoInfo
from vidsr.media.reader import ReadReport, Trim, VideoReader
from vidsr.media.writer import WriteReport

log = logging.getLogger("vidsr.media")

DEFAULT_RATE = Fraction(25)  # of numbered pictures, which have no time; FFmpeg's too
MILLISECOND = Fraction(1, 1000)
_NUMBER = re.compile(r"%(?:0(\d+))?d")


@dataclass(frozen=True)
class Numbered:
    """A name with a number in it, such as `frames/%06d.png`."""

    pattern: Path

    def path(self, number: int) -> Path:
        """The file of a number."""
        head, width, tail = self._parts()
        return self.pattern.with_name(f"{head}{number:0{width}d}{tail}")

    def present(self) -> list[int]:
        """The numbers of the files that are there, ascending."""
        head, width, tail = self._parts()
        named = re.compile(f"{re.escape(head)}([0-9]+){re.escape(tail)}")
        if not self.pattern.parent.is_dir():
            return []
        found = (named.fullmatch(path.name) for path in self.pattern.parent.iterdir())
        digits = (match[1] for match in found if match)
        return sorted(int(text) for text in digits if text == f"{int(text):0{width}d}")

    def _parts(self) -> tuple[str, int, str]:
        name = self.pattern.name.replace("%%", "\0")
        match = _NUMBER.search(name)
        assert match is not None
        head, tail = (
            part.replace("\0", "%") for part in (name[: match.start()], name[match.end() :])
        )
        return head, int(match[1] or 1), tail


@dataclass(frozen=True)
class PicturesInfo(VideoInfo):
    """A film that lies in pictures; `path` is the first of them, or the animation."""

    numbered: Numbered | None = None  # None: an animation
    first: int = 0  # number of the first picture


def is_numbered(path: Path) -> bool:
    """Whether a name stands for numbered pictures; a file of that very name is just a file."""
    name = path.name.replace("%%", "")
    return len(_NUMBER.findall(name)) == 1 and images.is_picture(path) and not path.is_file()


def is_animation(path: Path) -> bool:
    """Whether a file is a picture that moves; a GIF always counts as one."""
    if path.suffix.lower() not in images.ANIMATION_SUFFIXES or is_numbered(path):
        return False
    try:
        return path.suffix.lower() in {".gif", ".apng"} or images.read_head(path).frames > 1
    except MediaError:
        return False  # whoever reads it next says why


def writes_pictures(path: Path, source: VideoInfo) -> bool:
    """Whether an output of this name is made of pictures; .png only where the source is moving."""
    suffix = path.suffix.lower()
    moving = isinstance(source, PicturesInfo) and source.numbered is None
    return is_numbered(path) or (
        suffix in images.ANIMATION_SUFFIXES and (suffix != ".png" or moving)
    )


def probe_pictures(path: Path, rate: Fraction | None) -> PicturesInfo:
    """Look into numbered pictures, all heads of them, or into an animation.

    Args:
        path: a name with a number in it, or an animation.
        rate: pictures a second, of numbered ones; None takes DEFAULT_RATE.

    Raises:
        MediaError: no such pictures, a gap in the numbers, unlike sizes, or an unreadable one.
    """
    if not is_numbered(path):
        return _probe_animation(path)
    numbered = Numbered(path)
    numbers = numbered.present()
    if not numbers:
        raise MediaError(f"{path}: there is no such picture; check the folder and the digits")
    for number, expected in zip(numbers, range(numbers[0], numbers[-1] + 1), strict=False):
        if number != expected:
            raise MediaError(
                f"{path}: number {expected} is missing between {numbers[0]} and {numbers[-1]}; "
                "put it there, or number the others without a gap"
            )
    heads = _like_the_first([numbered.path(number) for number in numbers])
    layout = PixelLayout(
        "gray" if all(head.gray for head in heads) else "rgb",
        max(head.depth for head in heads),
        alpha=any(head.alpha for head in heads),
    )
    rate = rate or DEFAULT_RATE
    return _info(
        numbered.path(numbers[0]),
        (heads[0].width, heads[0].height),
        layout,
        pictures=len(numbers),
        seconds=len(numbers) / rate,
        tick=1 / rate,
        numbered=numbered,
        first=numbers[0],
    )


def _like_the_first(paths: list[Path]) -> list[Head]:
    heads: list[Head] = []
    for path in paths:
        head = images.read_head(path)
        size, first = (head.width, head.height), heads[0] if heads else head
        if size != (first.width, first.height):
            raise MediaError(
                f"{path}: {size[0]}x{size[1]}, but {paths[0].name} is {first.width}x"
                f"{first.height}; all pictures of a sequence have one size"
            )
        heads.append(head)
    return heads


def _probe_animation(path: Path) -> PicturesInfo:
    """All pictures are decoded once, for their durations and to see whether any is transparent."""
    count, seconds, alpha, size = 0, Fraction(0), False, (0, 0)
    for still, duration in images.read_animation(path):
        assert still.alpha is not None
        count, seconds = count + 1, seconds + duration
        alpha = alpha or bool((still.alpha < 255).any())
        size = still.rgb.shape[1], still.rgb.shape[0]
    layout = PixelLayout("rgb", 8, alpha=alpha)
    return _info(
        path,
        size,
        layout,
        pictures=count,
        seconds=seconds,
        tick=MILLISECOND,
        numbered=None,
        first=1,
    )


def _info(
    path: Path,
    size: tuple[int, int],
    layout: PixelLayout,
    *,
    pictures: int,
    seconds: Fraction,
    tick: Fraction,
    numbered: Numbered | None,
    first: int,
) -> PicturesInfo:
    codec = path.suffix.lower().removeprefix(".")
    return PicturesInfo(
        path=path,
        container="animation" if numbered is None else "numbered pictures",
        streams=(StreamInfo(0, "video", codec, None, None, cover=False),),
        video=0,
        width=size[0],
        height=size[1],
        pix_fmt=planar_name(layout),
        layout=layout,
        color=_srgb(layout),
        sample_aspect=None,
        display_matrix=None,
        rotation=0,
        time_base=tick,
        frame_rate=pictures / seconds,
        frames_from_header=pictures,
        seconds_from_header=float(seconds),
        interlaced=False,
        top_field_first=True,
        chapters=0,
        common_clock=tick.denominator,
        numbered=numbered,
        first=first,
    )


def _srgb(layout: PixelLayout) -> ColorSpec:
    """Full range; grey gets a matrix too, since it may become YUV."""
    matrix = Matrix.BT709 if layout.model == "gray" else Matrix.RGB
    return ColorSpec(matrix, Range.FULL, 1, 13, Siting.LEFT)


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Shot:
    """One picture of a film before it is decoded."""

    pts: int
    duration: int
    still: Callable[[], Still]


class PictureReader:
    """As `VideoReader`, of numbered pictures or an animation: yields `Frame`s alone."""

    def __init__(self, info: PicturesInfo, *, trim: Trim | None = None, lead: int = 0) -> None:
        self.info = info
        self.trim = trim or Trim()
        self.lead = lead if self.trim.start else 0
        self.report = ReadReport(first=Fraction(0))

    def __iter__(self) -> Iterator[Frame]:
        """Read the pictures once.

        Raises:
            MediaError: a picture that cannot be read, or that changed its size since the plan.
        """
        tick, report = self.info.time_base, self.report
        leading: deque[_Shot] = deque(maxlen=self.lead)
        for shot in self._shots():
            moment = shot.pts * tick
            if self.trim.end is not None and moment >= self.trim.end:
                break
            report.packets += 1
            report.decoded += 1
            report.last = (shot.pts + shot.duration) * tick
            if not self.trim.holds(moment):
                report.trimmed += 1
                leading.append(shot)
                continue
            while leading:
                yield replace(self._frame(leading.popleft()), lead=True)
            report.frames += 1
            yield self._frame(shot)

    def _shots(self) -> Iterator[_Shot]:
        numbered, first = self.info.numbered, self.info.first
        if numbered is not None:
            for pts in range(self.info.frames_from_header):
                yield _Shot(pts, 1, partial(images.read, numbered.path(first + pts)))
            return
        start = Fraction(0)
        for still, seconds in images.read_animation(self.info.path):
            pts, end = (round(moment / MILLISECOND) for moment in (start, start + seconds))
            yield _Shot(pts, end - pts, partial(_itself, still))
            start += seconds

    def _frame(self, shot: _Shot) -> Frame:
        still, info = shot.still(), self.info
        height, width = still.rgb.shape[:2]
        if (width, height) != (info.width, info.height):
            raise MediaError(
                f"{info.path}: a picture is {width}x{height} now, and was {info.width}x"
                f"{info.height} when the run was planned"
            )
        return Frame(
            planes=_planes(still, info.layout),
            layout=info.layout,
            color=info.color,
            pts=shot.pts - self.trim.shift(info.time_base),
            duration=shot.duration,
            time_base=info.time_base,
            icc_profile=still.icc_profile,
        )


def _itself(still: Still) -> Still:
    return still


def _planes(still: Still, layout: PixelLayout) -> tuple[Plane, ...]:
    """The planes of a still as the film stores them: its grey, depth and alpha may be others'."""
    depth, full = still.depth, 2**layout.depth - 1
    channels = [still.rgb[..., index] for index in range(1 if layout.model == "gray" else 3)]
    if layout.alpha:
        opaque = np.full(still.rgb.shape[:2], 2**depth - 1, still.rgb.dtype)
        channels.append(opaque if still.alpha is None else still.alpha)
    if depth < layout.depth:
        factor = full // (2**depth - 1)  # 257: exact
        channels = [channel.astype(np.uint16) * np.uint16(factor) for channel in channels]
    return cast("tuple[Plane, ...]", tuple(channels))  # all of one type


def open_reader(
    info: VideoInfo,
    *,
    copied: tuple[int, ...],
    threads: int = 0,
    trim: Trim | None = None,
    lead: int = 0,
) -> VideoReader | PictureReader:
    """The reader of a film, wherever it lies; arguments as of `VideoReader`."""
    if isinstance(info, PicturesInfo):
        return PictureReader(info, trim=trim, lead=lead)
    return VideoReader(info, copied=copied, threads=threads, trim=trim, lead=lead)


# ---------------------------------------------------------------- writing


def choose_pictures(
    source: VideoInfo, size: tuple[int, int], path: Path
) -> tuple[VideoFormat, list[str]]:
    """As `choose_format`, for an output that is made of pictures."""
    animated = not is_numbered(path)
    keeps = frozenset({"alpha"}) if animated else image_writer.kept_by(path)
    layout = PixelLayout(
        "gray" if source.layout.model == "gray" and "greyscale" in keeps else "rgb",
        16 if source.layout.depth > 8 and "16 bits" in keeps else 8,
        alpha=source.layout.alpha and "alpha" in keeps,
    )
    color = replace(_srgb(layout), primaries=source.color.primaries, transfer=source.color.transfer)
    lost = {
        f"{source.layout.depth} bits become 8": source.layout.depth > layout.depth,
        "the alpha channel is dropped": source.layout.alpha and not layout.alpha,
        "HDR: pictures of this kind carry no tag for it": source.color.is_hdr,
        "pixels that are not square: pictures cannot say so (--height makes them square)": (
            source.sample_aspect not in {None, Fraction(1)}
        ),
        "GIF keeps 255 colors of a picture": path.suffix.lower() == ".gif",
        "EXIF, XMP and text of the pictures are not carried over": _has_more(source),
    }
    encoder = path.suffix.lower().removeprefix(".")
    video = VideoFormat(*size, layout=layout, color=color, encoder=encoder, options={})
    return video, [what for what, true in lost.items() if true]


def _has_more(source: VideoInfo) -> bool:
    if not isinstance(source, PicturesInfo) or source.numbered is None:
        return False
    still = images.read(source.path)
    return bool(still.exif or still.text or still.xmp or still.comment or still.iptc)


class SequenceWriter:
    """Writes each frame as a numbered picture, upright; used as `VideoWriter` is."""

    def __init__(self, path: Path, *, source: VideoInfo) -> None:
        """Make the folder, unless it is there.

        The first number is the source's, where that has numbers, and else 1.

        Raises:
            MediaError: the folder cannot be made.
        """
        self.path = path
        self.report = WriteReport()
        self._numbered = Numbered(path)
        self._first = source.first if isinstance(source, PicturesInfo) else 1
        self._turns = source.rotation // 90 % 4
        self._time_base = source.time_base
        self._pts = array("q")
        self._finished = False
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as exc:
            raise MediaError(f"{path.parent}: the folder cannot be made ({exc.strerror})") from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say how far it got, if it did not get to the end."""
        if self._finished or not self.report.frames:
            return
        last = self._numbered.path(self._first + self.report.frames - 1)
        far = f"{self.report.frames} pictures are whole and stay, the last is {last}"
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"interrupted; {far}") from error
        log.warning("stopped; %s", far)

    def write(self, item: Frame | Packet) -> None:
        """Write a frame under the next number.

        Raises:
            MediaError: the picture cannot be written.
        """
        assert isinstance(item, Frame)  # no other stream is planned
        path = self._numbered.path(self._first + self.report.frames)
        image_writer.write(path, _still(item, self._turns))
        self.report.frames += 1
        self.report.bytes += path.stat().st_size
        self._pts.append(item.pts)

    def finish(self) -> WriteReport:
        """All frames are there; what an earlier run left beside them is said, not removed.

        A frame rate that varies is said too: numbers alone tell no time.
        """
        self._finished = True
        end = self._first + self.report.frames
        present = self._numbered.present()
        if older := [number for number in present if not self._first <= number < end]:
            self.report.not_kept.append(
                f"{len(older)} pictures of the same name were there and are not of this film: "
                f"{self._numbered.path(older[0]).name} to {self._numbered.path(older[-1]).name}"
            )
        if varies := _varying_rate(self._pts, self._time_base):
            self.report.not_kept.append(varies)
        return self.report


def _varying_rate(ticks: Sequence[int], time_base: Fraction) -> str:
    """A sentence on what numbered pictures lose of these timestamps; none of a steady rate.

    Steady is what lies on an even grid from the first to the last, but for the rounding of a clock.
    """
    pts = sorted(ticks)  # damaged input may step back
    steps, span = len(pts) - 1, pts[-1] - pts[0]
    slack = max(Fraction(1), MILLISECOND / time_base)  # ticks
    if all(
        abs((at - pts[0]) * steps - number * span) <= slack * steps for number, at in enumerate(pts)
    ):
        return ""
    lasting = [float((after - at) * time_base / MILLISECOND) for at, after in pairwise(pts)]
    rate = float(steps / (span * time_base))
    return (
        f"the frame rate varies ({min(lasting):.4g} to {max(lasting):.4g} ms a frame), which "
        f"numbered pictures cannot say; at --rate {rate:.6g} they last as long"
    )


class AnimationWriter:
    """Collects all frames and writes them at the end; used as `VideoWriter` is.

    Pillow joins equal pictures into one that lasts as long, so the file may hold fewer.
    """

    def __init__(self, path: Path, *, source: VideoInfo) -> None:
        self.path = path
        self.report = WriteReport()
        moving = isinstance(source, PicturesInfo) and source.numbered is None
        self._plays = images.plays_of(source.path) if moving else 0
        self._turns = source.rotation // 90 % 4
        self._pictures: list[images.Samples] = []
        self._starts: list[Fraction] = []
        self._end = Fraction(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was written before `finish`."""

    def write(self, item: Frame | Packet) -> None:
        """Keep a frame."""
        assert isinstance(item, Frame)
        still = _still(item, self._turns)
        alpha = [] if still.alpha is None else [still.alpha]
        self._pictures.append(np.dstack([still.rgb, *alpha]))
        self._starts.append(item.pts * item.time_base)
        self._end = (item.pts + item.duration) * item.time_base
        self.report.frames += 1

    def finish(self) -> WriteReport:
        """Write the file and look whether it lasts as long as it should.

        Raises:
            MediaError: the file cannot be written.
            VerificationError: it does not hold what was given; nothing is left behind.
        """
        ends = [*self._starts[1:], self._end]
        seconds = [end - start for start, end in zip(self._starts, ends, strict=True)]
        left_out = image_writer.write_animation(
            self.path, self._pictures, seconds, plays=self._plays
        )
        if left_out:
            self.report.not_kept.append(
                f"{left_out} pictures are shorter than this format's clock can tell, and left out"
            )
        self.report.bytes = self.path.stat().st_size
        return self.report


def _still(frame: Frame, turns: int) -> Still:
    """A frame of R,G,B or grey planes as a picture, turned by `turns` times 90 degrees."""
    gray = frame.layout.model == "gray"
    rgb: images.Samples = np.dstack([frame.planes[0]] * 3 if gray else frame.planes[:3])
    alpha = frame.planes[-1] if frame.layout.alpha else None
    profile = frame.icc_profile
    fits = profile is not None and profile[16:20] == (b"GRAY" if gray else b"RGB ")
    return Still(
        rgb=np.ascontiguousarray(np.rot90(rgb, turns)),
        alpha=None if alpha is None else np.ascontiguousarray(np.rot90(alpha, turns)),
        gray=gray,
        icc_profile=profile if fits else None,
    )
