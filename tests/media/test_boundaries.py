"""SegmentReader: the same frames from a border on, read up to it or begun there."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from conftest import ClipMaker

from vidsr.errors import MediaError
from vidsr.frame import Frame
from vidsr.media.boundaries import Boundary, SegmentReader
from vidsr.media.probe import probe
from vidsr.media.reader import Trim, VideoReader

SEGMENT = 7
CLOSED = {"x264-params": "keyint=5:min-keyint=5:bframes=2:scenecut=0"}


def reader_of(path: Path, begin: Boundary | None = None, **words: object) -> SegmentReader:
    return SegmentReader(probe(path), frames=SEGMENT, begin=begin, **words)  # type: ignore[arg-type]


def told(frames: list[Frame]) -> list[tuple[int, bool, bytes]]:
    return [(f.pts, f.lead, f.planes[0].tobytes()) for f in frames]


@pytest.mark.parametrize("lead", [0, 3, 10])
@pytest.mark.parametrize("trim", [Trim(), Trim(Fraction(4, 24), Fraction(20, 24))])
def test_what_comes_after_a_border_does_not_depend_on_where_one_started(
    make_clip: ClipMaker, lead: int, trim: Trim
) -> None:
    path = make_clip(frames=24, options=CLOSED)
    whole = reader_of(path, trim=trim, lead=lead)
    frames = list(whole)
    places = [n for n, frame in enumerate(frames) if frame.restart]
    assert len(places) == len(whole.boundaries) >= 2
    for place, border in zip(places, whole.boundaries.values(), strict=True):
        resumed = reader_of(path, border, trim=trim, lead=lead)
        assert told(list(resumed)) == told(frames[place:])
        assert resumed.report.frames == whole.report.frames


def test_frames_that_lead_in_come_again_at_each_border(make_clip: ClipMaker) -> None:
    frames = list(reader_of(make_clip(frames=16), lead=2))
    assert [(f.pts // 512, f.lead) for f in frames if f.lead] == [
        *((5, True), (6, True)),
        *((12, True), (13, True)),
    ]
    assert [f.pts // 512 for f in frames if f.restart] == [5, 12]
    assert len([f for f in frames if not f.lead]) == 16


def test_a_seek_skips_what_lies_well_before(make_clip: ClipMaker) -> None:
    path = make_clip(frames=60, options=CLOSED)
    reader = VideoReader(probe(path), copied=(), begin=Fraction(52, 24))
    first = next(frame for frame in reader if isinstance(frame, Frame))
    # Key frames are five apart; the one at 45 must have come, but need not be the last before.
    assert Fraction(20, 24) <= first.pts * first.time_base <= Fraction(45, 24)


def test_other_pictures_after_a_seek_are_not_taken(make_clip: ClipMaker) -> None:
    path = make_clip(frames=16)
    reader = reader_of(path)
    frames = list(reader)
    border = reader.boundaries[7]
    # As if the seek had given something else: only counting is left, and finds it.
    resumed = list(reader_of(path, replace(border, digest="0" * 64)))
    assert told(resumed) == told(frames[7:])
    with pytest.raises(MediaError, match="frame 7 is not where an earlier run met it"):
        list(reader_of(path, replace(border, pts=border.pts + 1)))


def test_a_damaged_file_gives_the_same_pictures_from_each_border_on(clips: Path) -> None:
    path = clips / "broken/bitflips.mkv"
    whole = reader_of(path)
    frames = [told([frame])[0] for frame in whole]  # not held: the decoder takes its memory again
    assert len(whole.boundaries) == 8
    for number, border in whole.boundaries.items():
        assert told(list(reader_of(path, border))) == frames[number:]
