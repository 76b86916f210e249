"""VideoReader: every frame once, with the time that the file gave it."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from conftest import gradient
from identity import frames_of, moments_of, packets_of

from vidsr.errors import MediaError
from vidsr.frame import Frame
from vidsr.media.probe import probe
from vidsr.media.reader import Trim, VideoReader

REORDERED = {"crf": "20", "bf": "3", "x264-params": "b-pyramid=normal:b-adapt=0:keyint=250"}
UNEVEN = [0, 3, 4, 10, 11, 40, 41, 43, 90, 91, 95, 170]


def read(path, *, copied=(), trim=None, threads=1):
    reader = VideoReader(probe(path), copied=copied, threads=threads, trim=trim)
    items = list(reader)
    frames = [item for item in items if isinstance(item, Frame)]
    return frames, [item for item in items if not isinstance(item, Frame)], reader.report


def flip_packets(path, numbers, change):
    """Change the data of some packets of the first stream in place."""
    packets = [data for _, data in packets_of(path, 0)]
    whole = path.read_bytes()
    for number in numbers:
        changed = bytes(change(bytearray(packets[number])))
        assert whole.count(packets[number]) == 1
        whole = whole.replace(packets[number], changed)
    path.write_bytes(whole)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv"])
def test_variable_frame_rate_keeps_every_pts(make_clip, name):
    clip = make_clip(name, frames=12, time_base=Fraction(1, 1000), pts=UNEVEN)
    assert moments_of(clip) == [Fraction(tick, 1000) for tick in UNEVEN]


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_reordered_frames_are_drained_at_the_end(make_clip, name, threads):
    clip = make_clip(name, frames=13, options=REORDERED)
    frames, _, report = read(clip, threads=threads)
    assert report.packets == report.frames == len(frames) == 13
    pts = [frame.pts for frame in frames]
    assert pts == sorted(set(pts))


def test_the_first_key_frame_of_matroska_without_dts_is_not_lost(make_clip):
    clip = make_clip("clip.mkv", frames=13, options=REORDERED)
    with av.open(str(clip)) as file:
        first = next(file.demux(0))
        assert first.is_keyframe
        assert first.dts is None  # else this clip no longer shows the trap
    assert len(frames_of(clip)) == 13


def test_frames_before_an_edit_list_begins_are_not_presented(clips):
    frames, _, report = read(clips / "awkward/edit_list_start.mp4")
    assert (report.packets, report.frames) == (60, 42)
    assert frames[0].pts == 0


def test_missing_timestamps_follow_one_another(make_clip):
    clip = make_clip("raw.h264", frames=9, options={"crf": "20", "bf": "0"})
    frames = frames_of(clip)
    assert len(frames) == 9
    steps = {b.pts - a.pts for a, b in pairwise(frames)}
    assert steps == {frames[0].duration}


def test_a_frame_stays_valid_after_the_reader_has_moved_on(make_clip):
    clip = make_clip(frames=12, options={"crf": "1", "preset": "ultrafast"})
    at_once = [
        [plane.copy() for plane in item.planes] for item in VideoReader(probe(clip), copied=())
    ]
    kept = frames_of(clip)
    for copies, frame in zip(at_once, kept, strict=True):
        for copy, plane in zip(copies, frame.planes, strict=True):
            np.testing.assert_array_equal(copy, plane)


def test_a_frame_carries_the_colour_layout_and_size_that_the_probe_found(make_clip):
    clip = make_clip(pix_fmt="yuv422p10le")
    info = probe(clip)
    for frame in frames_of(clip):
        assert (frame.color, frame.layout) == (info.color, info.layout)
        assert (frame.width, frame.height) == (48, 32)
        assert frame.planes[0].dtype == np.uint16
        assert frame.duration > 0


def test_copied_packets_are_passed_on_as_they_are(make_clip):
    clip = make_clip(frames=24, audio=True)
    _, packets, report = read(clip, copied=(1,))
    passed = [(packet.pts * packet.time_base, bytes(packet)) for packet in packets]
    assert passed == packets_of(clip, 1)
    assert report.copied == {1: len(packets)}


def test_a_stream_that_is_not_copied_is_left_out(make_clip):
    _, packets, report = read(make_clip(audio=True))
    assert packets == []
    assert report.copied == {}


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
@pytest.mark.parametrize(
    ("start", "end", "kept"),
    [
        (Fraction(5), Fraction(10), range(5, 10)),  # start belongs to it, end does not
        (Fraction(9, 2), Fraction(19, 2), range(5, 10)),
        (None, Fraction(3), range(3)),
        (Fraction(40), None, range(40, 48)),
        (Fraction(0), Fraction(48), range(48)),
        (Fraction(47), Fraction(100), range(47, 48)),
    ],
)
def test_a_trim_keeps_exactly_the_frames_of_its_half_open_interval(
    make_clip, name, start, end, kept
):
    # 25 frames a second: every pts is exact in Matroska's milliseconds too.
    options = {**REORDERED, "x264-params": "keyint=12:b-pyramid=normal:b-adapt=0"}
    clip = make_clip(name, frames=48, rate=25, options=options)
    whole = frames_of(clip)
    first = whole[0].pts * whole[0].time_base  # a transport stream does not begin at zero
    trim = Trim(
        None if start is None else first + start / 25, None if end is None else first + end / 25
    )
    frames, _, report = read(clip, trim=trim)
    shift = trim.shift(whole[0].time_base)
    assert [frame.pts for frame in frames] == [whole[number].pts - shift for number in kept]
    for frame, number in zip(frames, kept, strict=True):
        np.testing.assert_array_equal(frame.planes[0], whole[number].planes[0])
    assert report.frames == len(kept)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_a_trim_cuts_and_shifts_copied_packets_too(make_clip, name):
    clip = make_clip(name, frames=48, audio=True, options={"crf": "20", "g": "8"})
    start, end = Fraction(1, 2), Fraction(3, 2)
    _, packets, report = read(clip, copied=(1,), trim=Trim(start, end))
    expected = [(pts, data) for pts, data in packets_of(clip, 1) if start <= pts < end]
    tick = packets[0].time_base
    shift = Trim(start).shift(tick) * tick
    passed = [(packet.pts * tick, bytes(packet)) for packet in packets]
    assert passed == [(pts - shift, data) for pts, data in expected]
    assert report.copied == {1: len(expected)}


def test_an_end_keeps_the_sound_that_lies_behind_the_picture_in_the_file(tmp_path, make_clip):
    clip = make_clip(frames=48, audio=True)
    late = tmp_path / "late.mp4"
    with (
        av.open(str(clip)) as source,
        av.open(str(late), "w", options={"max_interleave_delta": "1"}) as file,
    ):
        streams = [file.add_stream_from_template(stream) for stream in source.streams]
        packets = [packet for packet in source.demux() if packet.size]
        for index in (0, 1):  # all of the picture, then all of the sound
            for packet in (p for p in packets if p.stream_index == index):
                packet.stream = streams[index]
                file.mux_one(packet)
    with av.open(str(late)) as file:
        order = [packet.stream_index for packet in file.demux() if packet.size]
    assert order.index(1) > 20  # else this file no longer shows the trap
    end = Fraction(3, 4)
    _, packets, report = read(late, copied=(1,), trim=Trim(None, end))
    assert report.frames == 18
    assert len(packets) == sum(pts < end for pts, _ in packets_of(clip, 1))


def test_a_copied_video_begins_with_a_key_frame_after_a_start(tmp_path, make_clip):
    options = {"crf": "20", "bf": "0", "x264-params": "keyint=8:scenecut=0"}
    clip, both = make_clip(frames=24, options=options), tmp_path / "both.mp4"
    with av.open(str(clip)) as source, av.open(str(both), "w") as file:
        streams = [file.add_stream_from_template(source.streams[0]) for _ in range(2)]
        for packet in source.demux(0):
            if packet.size:
                data, pts, dts, key = bytes(packet), packet.pts, packet.dts, packet.is_keyframe
                for stream in streams:
                    twin = av.Packet(data)
                    twin.pts, twin.dts, twin.is_keyframe = pts, dts, key
                    twin.time_base, twin.stream = packet.time_base, stream
                    file.mux(twin)
    info = probe(both)
    other = 1 - info.video
    reader = VideoReader(info, copied=(other,), trim=Trim(Fraction(5, 24)))
    copied = [item for item in reader if not isinstance(item, Frame)]
    assert copied[0].is_keyframe
    assert [packet.pts * packet.time_base for packet in copied] == [
        Fraction(number - 5, 24) for number in range(8, 24)
    ]


def test_a_file_without_seeking_is_trimmed_by_reading_it_from_its_beginning(make_clip):
    clip = make_clip("raw.h264", rate=25, frames=9, options={"crf": "20", "bf": "0"})
    whole = frames_of(clip)
    start = whole[4].pts * whole[4].time_base
    kept = frames_of(clip, trim=Trim(start))
    assert len(kept) == 5
    np.testing.assert_array_equal(kept[0].planes[0], whole[4].planes[0])


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts", "clip.h264"])
def test_a_trim_past_the_end_gives_nothing(make_clip, name):
    frames, _, report = read(make_clip(name), trim=Trim(Fraction(100)))
    assert frames == []
    assert report.frames == 0


def test_frames_with_concealed_errors_are_counted(make_clip):
    options = {"crf": "5", "bf": "0", "x264-params": "keyint=250:slices=4"}
    clip = make_clip(frames=24, size=(160, 128), options=options)

    def flip(data):
        middle = len(data) // 2
        data[middle : middle + 40] = bytes(byte ^ 0xA5 for byte in data[middle : middle + 40])
        return data

    flip_packets(clip, [8, 12], flip)
    frames, _, report = read(clip)
    assert report.packets == 24
    assert report.frames == len(frames) == 24 - report.undecodable
    assert report.damaged == sum(frame.damaged for frame in frames)
    assert report.damaged > 0


@pytest.mark.parametrize("held", [0, 1, 5])
def test_damage_is_decoded_alike_whatever_memory_is_at_hand(clips, held):
    info = probe(clips / "broken/bitflips.mkv")
    reads = []
    for holding in (0, held):
        frames, recent = [], deque(maxlen=holding)
        for item in VideoReader(info, copied=(), threads=2):
            recent.append(item)  # so that the decoder takes other memory
            frames.append([plane.tobytes() for plane in item.planes])
            del item
        reads.append(frames)
    assert len(reads[0]) > 0
    assert reads[0] == reads[1]


def test_packets_that_the_decoder_refuses_are_counted(make_clip):
    clip = make_clip("clip.mkv", frames=8, options={"crf": "5", "bf": "0"})
    flip_packets(clip, [3], lambda data: bytes(len(data)))
    frames, _, report = read(clip)
    assert report.packets == 8
    assert report.frames == len(frames)
    assert (report.frames, report.undecodable) == (7, 1)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_matroska_is_read_to_its_end(make_clip, share):
    clip = make_clip("clip.mkv", frames=48, audio=True, options={"crf": "5", "g": "12"})
    data = clip.read_bytes()
    clip.write_bytes(data[: int(len(data) * share)])
    frames, packets, report = read(clip, copied=(1,))
    assert 0 < len(frames) < 48
    assert report.copied[1] == len(packets)


def test_an_mp4_whose_data_is_cut_off_is_read_as_far_as_it_goes(tmp_path, make_clip):
    clip, front = make_clip(frames=48, options={"crf": "5"}), tmp_path / "front.mp4"
    with (
        av.open(str(clip)) as source,
        av.open(str(front), "w", options={"movflags": "+faststart"}) as file,
    ):
        stream = file.add_stream_from_template(source.streams[0])
        for packet in source.demux(0):
            if packet.size:
                packet.stream = stream
                file.mux(packet)
    data = front.read_bytes()
    front.write_bytes(data[: len(data) * 2 // 3])
    frames, _, report = read(front)
    assert 0 < len(frames) < 48
    assert report.frames == len(frames)


def test_a_picture_that_changes_size_midway_is_an_error(tmp_path, make_clip):
    parts = [make_clip("a.ts"), make_clip("b.ts", size=(64, 48))]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(MediaError, match="changes midway from 48x32 yuv420p to 64x48 yuv420p"):
        frames_of(joined)


def test_a_picture_that_changes_depth_midway_is_an_error(tmp_path, make_clip):
    parts = [make_clip("a.ts"), make_clip("b.ts", pix_fmt="yuv420p10le")]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(MediaError, match="changes midway"):
        frames_of(joined)


def test_a_file_that_went_away_is_our_error(make_clip):
    clip = make_clip()
    info = probe(clip)
    clip.unlink()
    with pytest.raises(MediaError, match="reading failed"):
        list(VideoReader(info, copied=()))


def test_the_pictures_are_those_that_were_encoded(make_clip):
    clip = make_clip("clip.mkv", codec="ffv1", pix_fmt="bgr0", frames=3, options={"level": "3"})
    for number, frame in enumerate(frames_of(clip)):
        expected = gradient(number, 48, 32)
        for channel in range(3):
            np.testing.assert_array_equal(frame.planes[channel], expected[:, :, channel])


def test_frames_that_lead_in_come_before_a_start_and_are_not_counted(make_clip):
    clip = make_clip(frames=40, options={"g": "10", "crf": "10"})
    trim = Trim(Fraction(25, 24), Fraction(28, 24))
    reader = VideoReader(probe(clip), copied=(), threads=1, trim=trim, lead=7)
    frames = [item for item in reader if isinstance(item, Frame)]
    assert [frame.lead for frame in frames] == [True] * 7 + [False] * 3
    moments = [frame.pts * frame.time_base for frame in frames]
    assert moments == [Fraction(number, 24) for number in range(-7, 3)]
    assert reader.report.frames == 3


def test_without_a_start_no_frame_leads_in(make_clip):
    reader = VideoReader(probe(make_clip()), copied=(), threads=1, lead=5)
    assert not any(item.lead for item in reader if isinstance(item, Frame))


def test_near_the_beginning_as_many_frames_lead_in_as_there_are(make_clip):
    trim = Trim(Fraction(2, 24))
    reader = VideoReader(probe(make_clip()), copied=(), threads=1, trim=trim, lead=5)
    frames = [item for item in reader if isinstance(item, Frame)]
    assert [frame.lead for frame in frames] == [True] * 2 + [False] * 6
