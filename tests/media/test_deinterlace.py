"""Fields become whole pictures, each with the time of what it was made of."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from identity import FAST, frames_of, pass_through

from vidsr.frame import Frame
from vidsr.media.deinterlace import decide_deinterlacing, look_at_fields
from vidsr.media.door import Filter
from vidsr.media.probe import probe
from vidsr.media.reader import Trim, VideoReader
from vidsr.media.verify import compare

SIZE = (96, 480)  # a height that broadcasters interlace
FIELDS = {"flags": "+ildct+ilme", "x264-params": "tff=1", "crf": "10", "preset": "ultrafast"}
PLAIN = {"crf": "10", "preset": "ultrafast"}


def moving_bar(moment, width, height):
    """Gray (H,W) uint8: a bright bar on a texture, four pixels to the right each moment."""
    y, x = np.mgrid[:height, :width]
    texture = 90 + 20 * np.sin(x / 5) + 15 * np.sin(y / 7)
    return np.where((x - 4 * moment) % width < 24, 220, texture).astype(np.uint8)


def woven(number, width, height):
    """Lines 0, 2, ... at moment 2 * number, the others one later: the top field comes first."""
    picture = moving_bar(2 * number, width, height)
    picture[1::2] = moving_bar(2 * number + 1, width, height)[1::2]
    return picture


def whole(number, width, height):
    return moving_bar(2 * number, width, height)


@pytest.fixture
def make_film(tmp_path):
    def make(draw, options, *, name="film.mp4", frames=10, pts=None, size=SIZE):
        path = tmp_path / name
        with av.open(str(path), "w") as file:
            video = file.add_stream("libx264", rate=25, options=options)
            video.width, video.height, video.pix_fmt = *size, "yuv420p"
            video.time_base = video.codec_context.time_base = Fraction(1, 1000)
            for number in range(frames):
                picture = av.VideoFrame(*size, "yuv420p")
                for plane, value in zip(picture.planes, (0, 128, 128), strict=True):
                    plane.update(np.full(plane.buffer_size, value, np.uint8).tobytes())
                rows = np.frombuffer(memoryview(picture.planes[0]), np.uint8)
                rows = rows.reshape(-1, picture.planes[0].line_size)
                rows[:, : size[0]] = draw(number, *size)
                picture.pts = pts[number] if pts else 40 * number
                picture.time_base = Fraction(1, 1000)
                file.mux(video.encode(picture))
            file.mux(video.encode(None))
        return path

    return make


def presented(path, wanted, *, trim=None, lead=0):
    info, _ = decide_deinterlacing(probe(path), wanted)
    reader = VideoReader(info, copied=(), threads=1, trim=trim, lead=lead)
    return [item for item in reader if isinstance(item, Frame)], reader.report


def times(frames):
    return [(f.pts * f.time_base, (f.pts + f.duration) * f.time_base) for f in frames]


def combing(frame):
    """How much lines differ from the lines beside them, against those two lines away."""
    luma = frame.planes[0].astype(int)
    return np.abs(luma[1:-1] - luma[2:]).mean() / np.abs(luma[:-2] - luma[2:]).mean()


def test_idet_sees_what_is_combed(make_film):
    assert look_at_fields(probe(make_film(woven, FIELDS)))["tff"] >= 8
    assert look_at_fields(probe(make_film(whole, PLAIN, name="p.mp4")))["progressive"] >= 8


def test_one_picture_a_frame_at_the_frame_s_own_time(make_film):
    uneven = [0, 40, 80, 125, 160, 200, 290, 320, 360, 400]
    film = make_film(woven, FIELDS, pts=uneven)
    info, notes = decide_deinterlacing(probe(film), "frame")
    frames, report = presented(film, "frame")
    before = frames_of(film)
    assert (info.interlaced, info.deinterlace) == (False, "frame")
    assert "deinterlaced with bwdif" in notes[0]
    assert times(frames) == times(before)
    assert report.decoded == report.frames == len(uneven)
    assert not any(frame.interlaced for frame in frames)
    assert all(combing(new) < 0.8 * combing(old) for new, old in zip(frames, before, strict=True))


def test_the_field_of_a_picture_that_counts_is_kept_as_it_is(make_film):
    film = make_film(woven, FIELDS)
    for new, old in zip(presented(film, "frame")[0], frames_of(film), strict=True):
        np.testing.assert_array_equal(new.planes[0][::2], old.planes[0][::2])


def test_double_rate_puts_the_second_field_in_the_middle(make_film):
    film = make_film(woven, FIELDS, pts=[0, 40, 80, 125, 160, 200], frames=6)
    film_frames = frames_of(film)
    frames, report = presented(film, "field")
    assert (report.decoded, report.frames) == (6, 12)
    firsts, seconds = times(frames[::2]), times(frames[1::2])
    assert [first for first, _ in firsts] == [f.pts * f.time_base for f in film_frames]
    for (first, middle), (second, end), old in zip(firsts, seconds, film_frames, strict=True):
        assert middle == second == (first + end) / 2
        assert end == (old.pts + old.duration) * old.time_base
    for field, (first, second) in enumerate(zip(frames[::2], frames[1::2], strict=True)):
        np.testing.assert_array_equal(first.planes[0][::2], film_frames[field].planes[0][::2])
        np.testing.assert_array_equal(second.planes[0][1::2], film_frames[field].planes[0][1::2])


@pytest.mark.parametrize("wanted", ["frame", "field"])
def test_a_part_is_the_same_as_in_a_run_over_everything(make_film, wanted):
    film = make_film(woven, FIELDS | {"bf": "2", "g": "6"}, frames=16)
    trim = Trim(Fraction(8, 25), Fraction(12, 25))
    everything, _ = presented(film, wanted)
    part, report = presented(film, wanted, trim=trim)
    expected = [frame for frame in everything if trim.holds(frame.pts * frame.time_base)]
    assert report.frames == len(part) == len(expected) == 4 * (2 if wanted == "field" else 1)
    for ours, theirs in zip(part, expected, strict=True):
        assert (ours.pts + trim.shift(ours.time_base), ours.duration) == (
            theirs.pts,
            theirs.duration,
        )
        for mine, other in zip(ours.planes, theirs.planes, strict=True):
            np.testing.assert_array_equal(mine, other)


def test_frames_that_lead_in_are_whole_pictures_too(make_film):
    film = make_film(woven, FIELDS, frames=12)
    everything, _ = presented(film, "frame")
    part, _ = presented(film, "frame", trim=Trim(Fraction(6, 25)), lead=2)
    assert [frame.lead for frame in part] == [True, True, *[False] * 6]
    for ours, theirs in zip(part, everything[4:], strict=True):
        np.testing.assert_array_equal(ours.planes[0], theirs.planes[0])


def test_fields_without_a_flag_are_found_by_their_content(make_film):
    film = make_film(woven, PLAIN)
    info, notes = decide_deinterlacing(probe(film), "frame")
    assert "flagged progressive, but interlaced by its content" in notes[0]
    assert info.deinterlace == "frame"
    frames, _ = presented(film, "frame")
    assert max(map(combing, frames)) < 0.8 * min(map(combing, frames_of(film)))


def test_a_flag_without_fields_is_not_obeyed(make_film):
    film = make_film(whole, FIELDS)
    assert probe(film).interlaced
    info, notes = decide_deinterlacing(probe(film), "frame")
    assert (info.interlaced, info.deinterlace) == (False, None)
    assert "no picture looked at is combed" in notes[0]


@pytest.mark.parametrize("wanted", ["frame", "field", "off"])
def test_progressive_pictures_are_left_alone_without_a_word(make_film, wanted):
    info = probe(make_film(whole, PLAIN))
    assert decide_deinterlacing(info, wanted) == (info, [])


def test_off_leaves_fields_and_flags_and_warns(make_film):
    info = probe(make_film(woven, FIELDS))
    same, notes = decide_deinterlacing(info, "off")
    assert same == info
    assert notes == [
        "interlaced: processed as it is, combed edges may show (--deinterlace off)",
    ]


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("wanted", ["frame", "field"])
def test_few_pictures_are_all_there(make_film, frames, wanted):
    got, _ = presented(make_film(woven, FIELDS, frames=frames), wanted)
    assert len(got) == frames * (2 if wanted == "field" else 1)
    assert all(a.pts < b.pts for a, b in pairwise(got))


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
@pytest.mark.parametrize("wanted", ["frame", "field"])
def test_what_is_written_is_progressive_and_agrees_with_its_source(
    make_film, tmp_path, name, wanted
):
    film = make_film(woven, FIELDS)
    info, _ = decide_deinterlacing(probe(film), wanted)
    passage = pass_through(film, tmp_path / name, encoder=replace(FAST, crf=20), info=info)
    assert passage.read.frames == passage.written.frames == 10 * (2 if wanted == "field" else 1)
    assert not probe(tmp_path / name).interlaced
    checks = compare(film, tmp_path / name, deinterlace=wanted)
    assert [check for check in checks if not check.equal] == []


@pytest.mark.parametrize("order", ["tff", "bff"])
def test_left_as_they_are_pictures_state_the_field_order_one_by_one(make_film, tmp_path, order):
    film = make_film(woven, FIELDS)
    info = replace(probe(film), top_field_first=order == "tff")
    pass_through(film, tmp_path / "out.mp4", info=info)
    kept_lines = 0 if order == "tff" else 1
    by_flag = Filter("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
    with av.open(str(tmp_path / "out.mp4")) as file:
        pictures = list(file.decode(video=0))
    made = [frame for picture in [*pictures, None] for frame in by_flag.push(picture)]
    for old, new in zip(pictures, made, strict=True):
        luma = [picture.to_ndarray()[: SIZE[1]] for picture in (old, new)]
        changed = (luma[0] != luma[1]).any(axis=1)
        assert not changed[kept_lines::2].any()
        assert changed[1 - kept_lines :: 2].any()
