"""Is a written file what its source promised? Reads both from the start and compares.

The writer already checks what it wrote against what it was given; this checks against the source
file itself, by another path through the code, and so it also sees what the reader lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from vidsr.media.door import translated
from vidsr.media.probe import VideoInfo, probe


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


def compare(source: Path, written: Path, *, dropped: frozenset[int] = frozenset()) -> list[Check]:
    """Compare a finished output with its source, leaving out the `dropped` streams of the source.

    Raises:
        MediaError: one of the two cannot be read.
    """
    old = _contents(source, None)
    position = sum(index not in dropped for index in old.tracks if index < old.info.video)
    new = _contents(written, position)
    return [
        *_compare_time(old, new),
        *_compare_looks(old, new),
        *_compare_tracks(old, new, dropped),
    ]


def _compare_time(old: _Contents, new: _Contents) -> Iterator[Check]:
    count = (len(old.moments), len(new.moments))
    yield Check("frames", str(count[0]), str(count[1]), count[0] == count[1])
    worst = max((abs(a - b) for a, b in zip(old.moments, new.moments, strict=False)), default=0)
    exact = old.tick % new.tick == 0
    allowed = Fraction(0) if exact else new.tick / 2
    limit = "exact" if exact else f"within {float(new.tick / 2) * 1000:g} ms"
    yield Check("pts", limit, f"off by {float(worst) * 1000:g} ms", worst <= allowed)
    rate = max(1 / old.info.frame_rate, (old.end - old.moments[-1]) if old.moments else 0)
    close = abs(old.end - new.end) <= rate
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
    kept = [track for index, track in old.tracks.items() if index not in dropped]
    written = list(new.tracks.values())
    yield Check("other streams", *_pair(len(kept), len(written)))
    for number, (ours, theirs) in enumerate(zip(kept, written, strict=False), start=1):
        name = f"{ours.kind} {number} ({ours.codec})"
        yield Check(f"{name} tags", *_pair(ours.tags, theirs.tags))
        content = (_content(ours), _content(theirs))
        yield Check(f"{name} packets", *_pair(*content))


def _pair(old: object, new: object) -> tuple[str, str, bool]:
    return str(old), str(new), old == new


def _content(track: _Track) -> str:
    return f"{track.packets} packets, sha256 {track.digest.hexdigest()[:12]}"


def _contents(path: Path, video: int | None) -> _Contents:
    info = probe(path, video=video)
    with translated(path, "reading"), av.open(str(path)) as container:
        tracks = {
            stream.index: _Track(
                stream.type,
                stream.codec_context.codec.canonical_name if stream.codec_context else "",
                _tags(stream),
            )
            for stream in container.streams
            if stream.index != info.video
        }
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
