"""Is a written file what its source promised?

`compare` (of pictures `compare_stills`) reads both from the start, by another path through the code
than reader and writer, and so it also sees what these lost. `check_written` is the part that costs
next to nothing: the writer calls it on every file, before the rename, with what its own demux pass
met.

Note [The ledger]
~~~~~~~~~~~~~~~~~
Each thing compared is a `Check`. One that differs is a failure, unless it has a `reason`: the
container or the codec has no place for it, or the plan left it out. These are the ledger of what
was not carried over; whatever is in neither list is as it was. What each container keeps is the
table `_KEEPS`, found by writing all of it into each of them with FFmpeg 8 and reading it back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import av.error

from vidsr.errors import VerificationError
from vidsr.media import image_writer, images
from vidsr.media.deinterlace import decide_deinterlacing
from vidsr.media.door import open_input, translated
from vidsr.media.encoders import VideoFormat
from vidsr.media.probe import StreamInfo, VideoInfo, probe

# These know no time before zero, where the first decoding time of reordered frames lies: FFmpeg
# delays all their streams by the same few frames.
DELAYED = frozenset({"mpegts", "flv"})

_ROUNDED = Fraction(2, 1000)  # of a stream's start: containers count it in ms, twice rounded
_KEEPS = {
    "matroska,webm": {"language", "title", "disposition", "chapters", "rotation", "aspect"},
    "mov,mp4,m4a,3gp,3g2,mj2": {"language", "title", "chapters", "rotation", "aspect"},
    "mpegts": {"language"},
}
_MARKS = av.stream.Disposition  # of them, Matroska has flags for these
_MATROSKA_MARKS = int(
    _MARKS.default | _MARKS.forced | _MARKS.hearing_impaired | _MARKS.visual_impaired
)
_SELF_TAGGED = {"h264", "hevc", "av1", "vp9", "ffv1"}  # their bitstreams say matrix, range, ...


@dataclass(frozen=True)
class Check:
    """One thing that was compared."""

    what: str
    source: str
    written: str
    equal: bool
    reason: str = ""  # why it may differ, if there is such a reason

    @property
    def failed(self) -> bool:
        """Whether it differs for no known reason."""
        return not (self.equal or self.reason)

    def __str__(self) -> str:
        """`audio 1 (aac) title: Comments, written as None (this container has no place for it)`."""
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.what}: {self.source}, written as {self.written}{reason}"


def ledger(checks: Iterable[Check]) -> list[str]:
    """Sentences about what was not carried over, and why."""
    return [str(check) for check in checks if not check.equal and check.reason]


@dataclass
class Span:
    """From where to where the packets of a stream reach, in seconds."""

    start: Fraction | None = None
    end: Fraction = Fraction(0)
    longest: Fraction = Fraction(0)  # packet

    def add(self, packet: av.Packet[Any]) -> None:
        """One more packet; those without time say nothing."""
        if packet.pts is not None:
            clock = packet.time_base
            self.reach(packet.pts * clock, (packet.pts + (packet.duration or 0)) * clock)

    def __str__(self) -> str:
        """`0.000 to 2.500 s`."""
        return f"{float(self.start or 0):.3f} to {float(self.end):.3f} s"

    def reach(self, start: Fraction, end: Fraction) -> None:
        """The span holds [start, end) too."""
        self.start = start if self.start is None else min(self.start, start)
        self.end, self.longest = max(self.end, end), max(self.longest, end - start)


@dataclass(frozen=True)
class Promise:
    """What a file that was just written must hold beside its frames and numbers of packets."""

    path: Path  # its final name
    source: VideoInfo
    video: VideoFormat
    chapters: int
    streams: Mapping[int, int]  # stream of the file -> of the source
    expected: frozenset[int]  # streams of the source that are in it
    given: Mapping[int, Span]  # stream of the source -> what the writer was given
    found: Mapping[int, Span]  # stream of the source -> what the file has


def check_written(file: Path, promise: Promise) -> list[str]:
    """Check a file before it gets its final name: its header, its first picture, its spans.

    Returns:
        The ledger: what its container or codec has no place for.

    Raises:
        VerificationError: it differs in anything else.
    """
    source, video = promise.source, promise.video
    index = next(new for new, old in promise.streams.items() if old == source.video)
    written = probe(file, video=index)
    expected = replace(
        source,
        layout=video.layout,
        color=video.color,
        sample_aspect=video.sample_aspect,
        chapters=promise.chapters,
    )
    checks = [
        _check_size((video.width, video.height), (written.width, written.height)),
        *_compare_color(expected, written),
        *_compare_shape(expected, written),
        Check("chapters", *_pair(promise.chapters, written.chapters), _why(written, "chapters")),
        *_compare_streams(promise, written),
        *_compare_spans(promise),
    ]
    failures = [check for check in checks if check.failed]
    if failures:
        raise VerificationError(f"{promise.path}: {'; '.join(map(str, failures))}")
    return ledger(checks)


def _compare_streams(promise: Promise, written: VideoInfo) -> Iterator[Check]:
    old = {stream.index: stream for stream in promise.source.streams}
    there = {stream.index: stream for stream in written.streams}
    for index in sorted(promise.expected - set(promise.streams.values())):
        yield Check(str(old[index]), "there", "missing", equal=False)
    for new, index in promise.streams.items():
        if old[index].kind != "attachment" and not old[index].cover:
            yield _compare_tags(old[index], there[new], written, str(old[index]))
        if index != promise.source.video and old[index].kind in {"audio", "video"}:
            yield Check(f"{old[index]} codec", *_pair(old[index].codec, there[new].codec))


def _compare_tags(old: StreamInfo, new: StreamInfo, written: VideoInfo, name: str) -> Check:
    """What makes a stream findable: language, title, and marks such as default and forced."""
    keeps = _KEEPS.get(written.container, set())
    marks = new.disposition
    if "disposition" not in keeps:
        marks &= old.disposition  # mp4 makes some up
    pairs = {
        "language": (_language(old), _language(new)),
        "title": (old.title, new.title),
        "disposition": (_marks(old.disposition), _marks(marks)),
    }
    differing = {tag: pair for tag, pair in pairs.items() if pair[0] != pair[1]}
    shown = [
        ", ".join(f"{tag} {pair[side] or 'none'}" for tag, pair in differing.items())
        for side in (0, 1)
    ]
    excused = all(tag not in keeps or _has_no_code(tag, old, new, written) for tag in differing)
    why = "this container has no place for it" if excused else ""
    return Check(f"{name} tags", shown[0] or "the same", shown[1] or "the same", not differing, why)


def _has_no_code(tag: str, old: StreamInfo, new: StreamInfo, written: VideoInfo) -> bool:
    """Whether a container that keeps such tags cannot write this one."""
    if tag == "disposition":
        return not (old.disposition ^ new.disposition) & _MATROSKA_MARKS
    if tag != "language" or written.container == "matroska,webm":
        return False
    # mp4 has three letters, MPEG-TS has languages for sound and subtitles only.
    video_in_ts = written.container == "mpegts" and old.kind == "video"
    return video_in_ts or len(old.language or "") != 3


def _compare_spans(promise: Promise) -> Iterator[Check]:
    """Each stream begins and ends where it did beside the picture; so sound stays in time."""
    names = {stream.index: stream for stream in promise.source.streams}
    video = promise.source.video
    delay = _shift(promise.given[video], promise.found[video])
    for index, given in promise.given.items():
        stream = names[index]
        if stream.kind in {"audio", "video"} and not stream.cover and index in promise.found:
            yield _compare_span(str(stream), given, promise.found[index], delay)


def _compare_span(name: str, given: Span, found: Span, delay: Fraction) -> Check:
    starts = abs(_shift(given, found) - delay) <= _ROUNDED
    ends = abs(given.end + delay - found.end) <= given.longest + found.longest + _ROUNDED
    return Check(f"{name} from and to", str(given), str(found), starts and ends)


def _shift(given: Span, found: Span) -> Fraction:
    return (found.start or Fraction(0)) - (given.start or Fraction(0))


def compare_stills(source: Path, written: Path, *, scale: int | None = None) -> list[Check]:
    """Compare a finished picture with its source; both are turned upright first.

    Args:
        source: a picture.
        written: what was made of it.
        scale: as in `compare`.

    Raises:
        MediaError: one of the two cannot be read.
    """
    old, new = images.read(source), images.read(written)
    lost: tuple[str, ...] = ()
    if images.is_picture(written):
        height, width = new.rgb.shape[:2]
        lost = image_writer.check_kept(written, replace(old, alpha=None), (width, height))
    colored = "it was colored" if old.gray and not new.gray else ""

    def why(name: str) -> str:
        return "this format has no place for it" if name in lost else ""

    return [
        _compare_sides(old.rgb.shape, new.rgb.shape, scale),
        Check("bits", *_pair(old.depth, new.depth), why("16 bits")),
        Check("greyscale", *_pair(old.gray, new.gray), why("greyscale") or colored),
        Check("alpha", *_pair(old.alpha is not None, new.alpha is not None)),
        Check(
            "ICC profile", *_same(old.icc_profile, new.icc_profile), why("ICC profile") or colored
        ),
        Check("EXIF", *_same(old.exif, new.exif), why("EXIF")),
        Check("resolution", *_pair(_rounded(old.dpi), _rounded(new.dpi)), why("resolution")),
        Check("XMP", *_same(old.xmp, new.xmp), why("XMP")),
        Check("text", *_pair(sorted(old.text.items()), sorted(new.text.items())), why("text")),
    ]


def _compare_sides(old: tuple[int, ...], new: tuple[int, ...], scale: int | None) -> Check:
    """Of arrays (H,W,3)."""
    if scale is not None:
        return _check_size((scale * old[1], scale * old[0]), (new[1], new[0]))
    same = abs(Fraction(old[1], old[0]) - Fraction(new[1], new[0])) * new[0] <= 2
    return Check("shape", f"{old[1]}x{old[0]}", f"{new[1]}x{new[0]}", same)


def _same(old: bytes | None, new: bytes | None) -> tuple[str, str, bool]:
    words = [f"{len(data)} bytes" if data else "none" for data in (old, new)]
    return words[0], words[1], old == new


def _rounded(dpi: tuple[float, float] | None) -> list[int] | None:
    """PNG counts pixels per meter."""
    return None if dpi is None else [round(side) for side in dpi]


@dataclass
class _Track:
    """One copied stream: what names it, where it reaches, and a hash of all its packets."""

    info: StreamInfo
    packets: int = 0
    span: Span = field(default_factory=Span)
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)


@dataclass
class _Contents:
    info: VideoInfo
    moments: list[Fraction]  # seconds, of every presented frame of the processed stream
    end: Fraction
    tick: Fraction
    tracks: dict[int, _Track]
    chapters: list[tuple[Fraction, Fraction, str]]


def compare(
    source: Path,
    written: Path,
    *,
    dropped: Mapping[int, str] | frozenset[int] = frozenset(),
    scale: int | None = None,
    deinterlace: Literal["frame", "field"] | None = None,
) -> list[Check]:
    """Compare a finished output with its source.

    Args:
        source: a video.
        written: what was made of it.
        dropped: streams of the source that were left out, with or without the reasons.
        scale: by which it was enlarged; None is any size of the same shape.
        deinterlace: what became of the source's fields, if they became pictures.

    Raises:
        MediaError: one of the two cannot be read.
    """
    old = _contents(source, None)
    # Same order among the videos; a container may move covers elsewhere.
    videos = [s for s in old.info.streams if s.kind == "video" and not s.cover]
    position = sum(s.index not in dropped for s in videos if s.index < old.info.video)
    new = _contents(written, position)
    if deinterlace is not None:
        old = _deinterlaced(old, deinterlace)
    reasons = dropped if isinstance(dropped, Mapping) else {}
    left_out = [
        Check(str(stream), "there", "left out", equal=False, reason=reasons[stream.index])
        for stream in old.info.streams
        if stream.index in reasons
    ]
    return [
        *_compare_time(old, new),
        _compare_size(old.info, new.info, scale),
        *_compare_color(old.info, new.info),
        *_compare_shape(old.info, new.info),
        Check("interlaced", *_pair(old.info.interlaced, new.info.interlaced)),
        _compare_chapters(old, new),
        *_compare_tracks(old, new, frozenset(dropped)),
        *left_out,
    ]


def deinterlaced_as(source: VideoInfo, written: VideoInfo) -> Literal["frame", "field"] | None:
    """What became of a source's fields, by the looks of what was written: for `compare`.

    Raises:
        MediaError: the source cannot be read.
    """
    expected, _ = decide_deinterlacing(source, "frame")
    woven = expected.deinterlace is not None or source.interlaced
    if written.interlaced or not woven or expected.interlaced:
        return None
    return "field" if written.frame_rate > source.frame_rate * 3 / 2 else "frame"


def _deinterlaced(old: _Contents, deinterlace: Literal["frame", "field"]) -> _Contents:
    """What to expect of a source whose fields became pictures."""
    old = replace(old, info=replace(old.info, interlaced=False))
    if deinterlace == "frame" or not old.moments:
        return old
    ends = [*old.moments[1:], old.end]
    middles = [(first + end) / 2 for first, end in zip(old.moments, ends, strict=True)]
    info = replace(old.info, frame_rate=2 * old.info.frame_rate)
    moments = sorted([*old.moments, *middles])
    return replace(old, info=info, moments=moments, tick=old.tick / 2)


def _compare_time(old: _Contents, new: _Contents) -> Iterator[Check]:
    count = (len(old.moments), len(new.moments))
    yield Check("frames", str(count[0]), str(count[1]), count[0] == count[1])
    pairs = list(zip(old.moments, new.moments, strict=False))
    delay, allowed = _delay(old, new), Fraction(0) if old.tick % new.tick == 0 else new.tick / 2
    if pairs and new.info.container in DELAYED:
        allowed = new.tick  # rounded twice
    worst = max((abs(a + delay - b) for a, b in pairs), default=0)
    limit = f"within {float(allowed) * 1000:g} ms" if allowed else "exact"
    yield Check("pts", limit, f"off by {float(worst) * 1000:g} ms", worst <= allowed)
    rate = max(1 / old.info.frame_rate, (old.end - old.moments[-1]) if old.moments else 0)
    close = abs(old.end + delay - new.end) <= rate + new.tick
    yield Check("end", f"{float(old.end):.3f} s", f"{float(new.end):.3f} s", close)


def _compare_chapters(old: _Contents, new: _Contents) -> Check:
    names = [
        "; ".join(f"{float(start):g}-{float(end):g} s {title}" for start, end, title in chapters)
        for chapters in (old.chapters, new.chapters)
    ]
    equal = old.chapters == new.chapters
    return Check(
        "chapters", names[0] or "none", names[1] or "none", equal, _why(new.info, "chapters")
    )


def _delay(old: _Contents, new: _Contents) -> Fraction:
    """By how much a container without negative times moves all streams."""
    if new.info.container in DELAYED and old.moments and new.moments:
        return new.moments[0] - old.moments[0]
    return Fraction(0)


def _compare_size(old: VideoInfo, new: VideoInfo, scale: int | None) -> Check:
    if scale is not None:
        return _check_size((scale * old.width, scale * old.height), (new.width, new.height))
    ours, theirs = (Fraction(i.width, i.height) * (i.sample_aspect or 1) for i in (old, new))
    same = abs(ours - theirs) * new.height <= 2  # rounded to even sizes
    return Check("shape", f"{float(ours):.4g}", f"{float(theirs):.4g}", same)


def _check_size(wanted: tuple[int, int], found: tuple[int, int]) -> Check:
    return Check("size", "{}x{}".format(*wanted), "{}x{}".format(*found), wanted == found)


_TAGS = ("matrix", "range", "primaries", "transfer")
_BT601 = {5, 6}  # two numbers of one matrix, and VP8 knows the first alone


def _compare_color(old: VideoInfo, new: VideoInfo) -> Iterator[Check]:
    """Colour tags: they must be stated, since a player that guesses may guess otherwise."""
    source, written = old.color, new.color
    models = (old.layout.model, new.layout.model)
    codec = new.video_stream.codec
    why = "" if codec in _SELF_TAGGED else f"{codec} in this container has no place for it"
    for name in _TAGS:
        ours, theirs = int(getattr(source, name)), int(getattr(written, name))
        # Grey pictures have no use for a matrix, and RGB that became YUV has new tags.
        same = ours == theirs or models == ("rgb", "yuv") or (name == "matrix" and "gray" in models)
        same = same or (name == "matrix" and {ours, theirs} == _BT601)
        stated = name not in written.guessed or "gray" in models or models == ("rgb", "rgb")
        yield Check(name, str(ours), str(theirs) if stated else "untagged", same and stated, why)
    why = "" if codec in {"h264", "hevc"} else why or f"{codec} has no place for it"
    yield Check("siting", *_pair(source.siting.name, written.siting.name), why)


def _compare_shape(old: VideoInfo, new: VideoInfo) -> Iterator[Check]:
    """How the picture is shown: turned, and with pixels of which shape."""
    yield Check("rotation", *_pair(old.rotation, new.rotation), _why(new, "rotation"))
    ours, theirs = old.sample_aspect or Fraction(1), new.sample_aspect or Fraction(1)
    same = abs(ours - theirs) * new.width <= 1  # Matroska stores the width that is shown
    why = "" if new.video_stream.codec in {"h264", "hevc"} else _why(new, "aspect")
    yield Check("sample aspect", str(ours), str(theirs), same, why)


def _why(written: VideoInfo, what: str) -> str:
    """Why a file has no such thing; "" if it could have it."""
    kept = what in _KEEPS.get(written.container, ())
    return "" if kept else "this container has no place for it"


def _compare_tracks(old: _Contents, new: _Contents, dropped: frozenset[int]) -> Iterator[Check]:
    kept = _in_order(track for index, track in old.tracks.items() if index not in dropped)
    written = _in_order(new.tracks.values())
    empty = [track for track in kept if not track.packets and track.info.kind != "attachment"]
    if empty and len(written) == len(kept) - len(empty):
        kept = [track for track in kept if track not in empty]
        for track in empty:
            yield Check(
                str(track.info), "empty", "left out", equal=False, reason="it has no packet"
            )
    yield Check("other streams", *_pair(len(kept), len(written)))
    delay = _delay(old, new)
    for number, (ours, theirs) in enumerate(zip(kept, written, strict=False), start=1):
        codec = "" if ours.info.kind in {"attachment", "data"} else ours.info.codec
        name = f"{ours.info.kind} {number} ({codec})"
        yield _compare_tags(ours.info, theirs.info, new.info, name)
        framed = ours.packets == theirs.packets and _framed_otherwise(ours, old.info, new.info)
        why = "MPEG-TS frames the same pictures otherwise" if framed else ""
        yield Check(f"{name} packets", *_pair(_content(ours), _content(theirs)), why)
        if ours.info.kind in {"audio", "video"} and not ours.info.cover:
            yield _compare_span(name, ours.span, theirs.span, delay)


def _framed_otherwise(track: _Track, old: VideoInfo, new: VideoInfo) -> bool:
    """Whether a copied video goes from start codes to lengths or back (ISO 14496-15)."""
    kinds = {old.container == "mpegts", new.container == "mpegts"}
    return track.info.codec in {"h264", "hevc"} and len(kinds) == 2


def _in_order(tracks: Iterable[_Track]) -> list[_Track]:
    """By kind, covers last: containers keep the order only among tracks of one kind.

    Without empty data tracks: in mp4 these are the chapters, which are compared by themselves.
    """
    full = [track for track in tracks if track.info.kind != "data" or track.packets]
    return sorted(full, key=lambda track: (track.info.kind, track.info.cover))


def _pair(old: object, new: object) -> tuple[str, str, bool]:
    return str(old), str(new), old == new


def _content(track: _Track) -> str:
    return f"{track.packets} packets, sha256 {track.digest.hexdigest()[:12]}"


def _contents(path: Path, position: int | None) -> _Contents:
    """What is in a file whose processed stream is the best, or the video at `position`."""
    info = probe(path)
    videos = [s.index for s in info.streams if s.kind == "video" and not s.cover]
    if position is not None and videos.index(info.video) != position < len(videos):
        info = probe(path, video=videos[position])
    with translated(path, "reading"), open_input(path) as container:
        tracks = {s.index: _Track(s) for s in info.streams if s.index != info.video}
        for stream in container.streams:
            if isinstance(stream, av.stream.AttachmentStream):
                tracks[stream.index].digest.update(stream.data or b"")
        moments: list[Fraction] = []
        end = Fraction(0)
        for packet in container.demux():
            # A flush packet's own stream_index is always 0; its stream is right.
            track = tracks.get(packet.stream.index)
            if track is None:
                for moment, duration in _presented(packet):
                    moments.append(moment)
                    end = max(end, moment + duration)
            elif packet.size:
                track.packets += 1
                track.span.add(packet)
                track.digest.update(_payload(packet, track.info.codec))
        chapters = [
            (c["start"] * clock, c["end"] * clock, c["metadata"].get("title", ""))
            for c in container.chapters()
            if (clock := c["time_base"])
        ]
    return _Contents(info, sorted(moments), end, info.time_base, tracks, chapters)


def _payload(packet: av.Packet[Any], codec: str | None) -> bytes:
    """A packet's bytes without what only MPEG-TS puts before AAC (ISO 14496-3, table 1.A.5)."""
    data = bytes(packet)
    if codec == "aac" and len(data) > 9 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:
        return data[7 if data[1] & 1 else 9 :]
    return data


def _presented(packet: av.Packet[Any]) -> Iterator[tuple[Fraction, Fraction]]:
    """(moment, duration) in seconds of every picture that a packet, or the final flush, gives."""
    try:
        pictures = packet.decode()
    except (av.error.InvalidDataError, av.error.EOFError):
        return
    for picture in pictures:
        tick = picture.time_base
        if picture.pts is not None and tick is not None:
            yield picture.pts * tick, (picture.duration or 0) * tick


def _language(stream: StreamInfo) -> str | None:
    return None if stream.language == "und" else stream.language


def _marks(disposition: int) -> str:
    """FFmpeg's names of the flags of a stream, in words."""
    return " ".join(mark.name or str(mark) for mark in _MARKS(disposition))
