"""Is a written file what its source promised? Reads both from the start and compares.

The writer already checks what it wrote against what it was given; this checks against the source
file itself, by another path through the code, and so it also sees what the reader lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import av.error

from vidsr.media.door import open_input, translated
from vidsr.media.probe import VideoInfo, probe
from vidsr.media.writer import DELAYED


@dataclass(frozen=True)
class Check:
    """One thing that was compared."""

    what: str
    source: str
    written: str
    equal: bool


@dataclass
class _Track:
    """One copied stream: what names it, and a hash of all its packets."""

    kind: str
    codec: str
    tags: tuple[str | None, str | None, int]  # language, title, disposition
    packets: int = 0
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
    dropped: frozenset[int] = frozenset(),
    deinterlace: Literal["frame", "field"] | None = None,
) -> list[Check]:
    """Compare a finished output with its source.

    Args:
        source: the file that was read.
        written: the file that was made of it.
        dropped: streams of the source that are left out.
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
    return [
        *_compare_time(old, new),
        *_compare_looks(old, new),
        *_compare_tracks(old, new, dropped),
    ]


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
    delay, allowed = Fraction(0), Fraction(0) if old.tick % new.tick == 0 else new.tick / 2
    if pairs and new.info.container in DELAYED:
        delay, allowed = pairs[0][1] - pairs[0][0], new.tick  # rounded twice
    worst = max((abs(a + delay - b) for a, b in pairs), default=0)
    limit = f"within {float(allowed) * 1000:g} ms" if allowed else "exact"
    yield Check("pts", limit, f"off by {float(worst) * 1000:g} ms", worst <= allowed)
    rate = max(1 / old.info.frame_rate, (old.end - old.moments[-1]) if old.moments else 0)
    close = abs(old.end + delay - new.end) <= rate + new.tick
    yield Check("end", f"{float(old.end):.3f} s", f"{float(new.end):.3f} s", close)


_TAGS = ("matrix", "range", "primaries", "transfer")


def _compare_looks(old: _Contents, new: _Contents) -> Iterator[Check]:
    """Colour tags, where the source has them, and how the picture is shown."""
    source, written = old.info.color, new.info.color
    models = (old.info.layout.model, new.info.layout.model)
    for name in _TAGS:
        ours, theirs = int(getattr(source, name)), int(getattr(written, name))
        # Grey pictures have no use for a matrix, and RGB that became YUV has new tags.
        same = ours == theirs or models == ("rgb", "yuv") or (name == "matrix" and "gray" in models)
        stated = name not in written.guessed or "gray" in models
        yield Check(name, str(ours), str(theirs) if stated else "untagged", same and stated)
    yield Check("siting", source.siting.name, written.siting.name, source.siting == written.siting)
    yield Check("rotation", *_pair(old.info.rotation, new.info.rotation))
    yield Check("interlaced", *_pair(old.info.interlaced, new.info.interlaced))
    yield Check("chapters", *_pair(old.chapters, new.chapters))


def _compare_tracks(old: _Contents, new: _Contents, dropped: frozenset[int]) -> Iterator[Check]:
    kept = _in_order(track for index, track in old.tracks.items() if index not in dropped)
    written = _in_order(new.tracks.values())
    yield Check("other streams", *_pair(len(kept), len(written)))
    for number, (ours, theirs) in enumerate(zip(kept, written, strict=False), start=1):
        name = f"{ours.kind} {number} ({ours.codec})"
        yield Check(f"{name} tags", *_pair(ours.tags, theirs.tags))
        content = (_content(ours), _content(theirs))
        yield Check(f"{name} packets", *_pair(*content))


def _in_order(tracks: Iterable[_Track]) -> list[_Track]:
    """By kind, covers last: containers keep the order only among tracks of one kind.

    Without empty data tracks: in mp4 these are the chapters, which are compared by themselves.
    """
    full = [track for track in tracks if track.kind != "data" or track.packets]
    return sorted(full, key=lambda track: (track.kind, bool(track.tags[2] & _COVER)))


_COVER = int(av.stream.Disposition.attached_pic)


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
        tracks = {
            stream.index: _Track(
                stream.type,
                stream.codec_context.codec.canonical_name if stream.codec_context else "",
                _tags(stream),
            )
            for stream in container.streams
            if stream.index != info.video
        }
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
                track.digest.update(bytes(packet))
        chapters = [
            (c["start"] * clock, c["end"] * clock, c["metadata"].get("title", ""))
            for c in container.chapters()
            if (clock := c["time_base"])
        ]
    return _Contents(info, sorted(moments), end, info.time_base, tracks, chapters)


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


def _tags(stream: av.stream.Stream) -> tuple[str | None, str | None, int]:
    language = None if stream.language == "und" else stream.language
    return language, stream.metadata.get("title"), int(stream.disposition)
