"""A system ffmpeg as encoder: the same guarantees, and every way in which it may fail."""

from __future__ import annotations

import shutil
import subprocess
import threading
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from fake_ffmpeg import fake_ffmpeg
from identity import frames_of, moments_of, packets_of, pass_through

from vidsr.errors import MediaError, RequestError, VerificationError
from vidsr.media import ffmpeg
from vidsr.media.encoders import EncoderRequest, choose_format
from vidsr.media.ffmpeg import FfmpegEncoder, find, pixel_formats
from vidsr.media.probe import probe
from vidsr.media.reader import Trim
from vidsr.media.segments import FfmpegSegment
from vidsr.media.verify import compare

VARIABLE = {"pts": [0, 1001, 1500, 9009, 9010, 20000, 20480, 31111]}


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def program():
    """The ffmpeg in the search path."""
    found = shutil.which("ffmpeg")
    if found is None:
        pytest.skip("needs an ffmpeg (5.1 or later) in the search path")
    return found


@pytest.fixture
def behaving(tmp_path):
    """Maker of an `EncoderRequest` for a stand-in that behaves in a certain way."""

    def make(behavior):
        program = fake_ffmpeg(tmp_path, behavior)
        return EncoderRequest(preset="ultrafast", threads=1, ffmpeg=str(program))

    return make


def encoder_of(clip, path, request, **changes):
    info = probe(clip)
    video, _ = choose_format(info, (info.width, info.height), request)
    return FfmpegEncoder(
        path,
        video=replace(video, **changes),
        time_base=info.time_base,
        frame_rate=info.frame_rate,
    )


# The guarantees, first with a stand-in that is always there


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_every_moment_and_the_sound_are_kept(make_clip, out, behaving, name):
    clip = make_clip(audio=True, time_base=Fraction(1, 30000), **VARIABLE)
    passage = pass_through(clip, out / name, encoder=behaving("works"))
    assert passage.written.frames == 8
    assert len(moments_of(out / name)) == 8
    assert [data for _, data in packets_of(out / name, 1)] == [
        data for _, data in packets_of(clip, 1)
    ]
    assert [check for check in compare(clip, out / name) if not check.equal] == []
    assert list(out.iterdir()) == [out / name]


def test_more_words_than_a_pipe_takes_stop_nothing(make_clip, out, behaving):
    pass_through(make_clip(), out / "out.mp4", encoder=behaving("talks without end"))
    assert len(moments_of(out / "out.mp4")) == 8


def test_frames_before_zero_are_sent_later_by_a_known_delay(make_clip, out, behaving):
    clip = make_clip(time_base=Fraction(1, 30000), **VARIABLE)
    with encoder_of(clip, out / "a.nut", behaving("works")) as encoder:
        for frame in frames_of(clip):
            encoder.write(replace(frame, pts=frame.pts - 3003))
        path = encoder.finish()
    assert encoder.delay == 3003
    assert moments_of(path) == [Fraction(tick, 30000) for tick in VARIABLE["pts"]]


# And with a real one


@pytest.mark.parametrize(
    ("encoder", "name"),
    [
        ("libx264", "out.mp4"),
        ("libx265", "out.mkv"),
        ("libvpx-vp9", "out.webm"),
        ("ffv1", "out.mkv"),
        ("prores_ks", "out.mov"),
    ],
)
@pytest.mark.parametrize("first", [0, 5000])
def test_a_real_ffmpeg_keeps_every_moment(make_clip, out, program, encoder, name, first):
    ticks = [first + tick for tick in VARIABLE["pts"]]
    size = (96, 64)  # libx265 wants 64 a side
    clip = make_clip("clip.mov", pts=ticks, time_base=Fraction(1, 30000), size=size)
    pass_through(clip, out / name, encoder=EncoderRequest(encoder, ffmpeg=program))
    assert [check for check in compare(clip, out / name) if not check.equal] == []


@pytest.mark.parametrize(
    ("pix_fmt", "encoder"),
    [
        ("yuv420p", "ffv1"),
        ("yuv422p", "ffv1"),
        ("yuv444p", "ffv1"),
        ("yuv420p10le", "ffv1"),
        ("yuv444p12le", "ffv1"),
        ("gray", "ffv1"),
        ("gray10le", "ffv1"),
        ("gbrp10le", "ffv1"),
        ("bgr0", "ffv1"),
    ],
)
def test_every_sample_arrives_in_a_lossless_encoder(make_clip, out, program, pix_fmt, encoder):
    clip = make_clip("clip.mkv", codec="ffv1", pix_fmt=pix_fmt, options={"level": "3"}, frames=3)
    pass_through(clip, out / "out.mkv", encoder=EncoderRequest(encoder, ffmpeg=program))
    for ours, theirs in zip(frames_of(clip), frames_of(out / "out.mkv"), strict=True):
        assert ours.layout == theirs.layout
        for one, other in zip(ours.planes, theirs.planes, strict=True):
            assert np.array_equal(one, other)


def test_colour_tags_shape_and_siting_are_written(make_clip, out, program):
    clip = make_clip(frames=2)
    color = replace(probe(clip).color, matrix=9, primaries=9, transfer=14, range=2, siting=3)
    encoder = encoder_of(
        clip,
        out / "a.nut",
        EncoderRequest(ffmpeg=program),
        color=color,
        sample_aspect=Fraction(4, 3),
    )
    with encoder:
        for frame in frames_of(clip):
            encoder.write(frame)
        written = probe(encoder.finish())
    kept = (*(int(getattr(written.color, name)) for name in ("matrix", "primaries", "transfer")),)
    assert kept == (9, 9, 14)
    assert (written.color.range, written.color.siting) == (2, 3)
    assert written.sample_aspect == Fraction(4, 3)


def test_a_part_of_a_file_is_joined_with_that_part_of_its_sound(make_clip, out, program):
    clip = make_clip(frames=48, audio=True)
    trim = Trim(Fraction(1, 2), Fraction(3, 2))
    pass_through(clip, out / "a.mp4", encoder=EncoderRequest(ffmpeg=program), trim=trim)
    pass_through(clip, out / "b.mp4", trim=trim)
    assert moments_of(out / "a.mp4") == moments_of(out / "b.mp4")
    assert packets_of(out / "a.mp4", 1) == packets_of(out / "b.mp4", 1)


def test_its_filters_and_options_are_the_users_own(make_clip, out, program):
    options = {"vf": "negate", "g": "2", "bf": "0"}
    pass_through(
        make_clip(), out / "a.mkv", encoder=EncoderRequest(options=options, ffmpeg=program)
    )
    with av.open(str(out / "a.mkv")) as file:
        keys = [packet.is_keyframe for packet in file.demux(0) if packet.size]
    assert keys == [True, False] * 4
    pass_through(make_clip(), out / "b.mkv")
    negated, plain = frames_of(out / "a.mkv")[0], frames_of(out / "b.mkv")[0]
    corner = slice(0, 4)
    assert abs(255 - int(negated.planes[0][corner].mean()) - plain.planes[0][corner].mean()) < 12


def test_real_clips_pass_whole(clips, out, program):
    for name in ("edit_list_start.mp4", "two_audio_two_subs_attachment.mkv"):
        clip = clips / "awkward" / name
        request = EncoderRequest(preset="ultrafast", ffmpeg=program)
        pass_through(clip, out / f"out{clip.suffix}", encoder=request)
        differ = [check for check in compare(clip, out / f"out{clip.suffix}") if not check.equal]
        assert differ == []


# What is known in the plan


def refused(request, make_clip, match):
    info = probe(make_clip())
    with pytest.raises(RequestError, match=match):
        choose_format(info, (48, 32), request)


def test_a_program_that_is_not_there_is_named(make_clip, tmp_path):
    refused(EncoderRequest(ffmpeg="ffmpeg-of-nobody"), make_clip, "--ffmpeg ffmpeg-of-nobody: no")
    plain = tmp_path / "notes.txt"
    plain.write_text("not a program")
    refused(EncoderRequest(ffmpeg=str(plain)), make_clip, r"notes.txt: no such program")


def test_a_program_that_cannot_run_is_named(make_clip, tmp_path):
    broken = tmp_path / "ffmpeg"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(0o755)
    refused(EncoderRequest(ffmpeg=str(broken)), make_clip, "cannot be asked for encoders")


def test_a_program_that_does_not_answer_is_not_waited_for(make_clip, tmp_path, monkeypatch):
    slow = tmp_path / "ffmpeg"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(ffmpeg, "SECONDS_TO_ANSWER", 0.2)
    refused(EncoderRequest(ffmpeg=str(slow)), make_clip, "no answer in 0.2 s")


def test_a_program_that_is_no_ffmpeg_is_refused(make_clip):
    program = shutil.which("true")
    refused(EncoderRequest(ffmpeg=program), make_clip, "has no encoder 'libx264'")


def test_an_encoder_that_it_lacks_is_refused(make_clip, behaving):
    request = replace(behaving("works"), encoder="libx265", preset=None)
    refused(request, make_clip, r"no encoder 'libx265' \(Codec is not recognized by FFmpeg.\)")


def test_what_a_trial_finds_is_known_before_the_first_frame(make_clip, behaving):
    refused(behaving("refuses"), make_clip, r"in a trial my ffmpeg .*Error setting option shine")


def test_a_real_ffmpeg_says_what_it_does_not_know(make_clip, program):
    refused(EncoderRequest("libx266", ffmpeg=program), make_clip, "no encoder 'libx266'")
    refused(EncoderRequest(options={"shine": "1"}, ffmpeg=program), make_clip, "trial.*shine")
    refused(EncoderRequest(preset="yesterday", ffmpeg=program), make_clip, "in a trial ffmpeg")
    refused(EncoderRequest("aac", ffmpeg=program), make_clip, "in a trial ffmpeg")


def test_the_plan_asks_what_an_encoder_takes(program, tmp_path):
    names = pixel_formats(program, "libx264")
    assert "yuv420p" in names
    assert "yuv444p10le" in names
    assert find("ffmpeg") == program
    assert "yuv420p" in pixel_formats(str(fake_ffmpeg(tmp_path, "works")), "libx264")


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        (["nv12", "p010le", "qsv"], {"yuv420p", "yuv420p10le"}),
        (["vaapi"], {"yuv420p", "yuv420p10le"}),
        (["yuv420p", "yuv440p10le"], {"yuv420p"}),
    ],
)
def test_what_hardware_takes_is_named_by_what_it_is_made_of(said, taken):
    assert {name for name in ffmpeg._planar(said) if name.startswith("yuv")} == taken


# What fails on the way


@pytest.mark.parametrize(
    ("behavior", "error", "said"),
    [
        (
            "dies midway",
            MediaError,
            r"code 187: .*first words; .*device is gone; Conversion failed",
        ),
        ("is killed midway", MediaError, "was ended by signal 9: it said nothing"),
        ("fails at the end", MediaError, "ended early with code 1: muxing failed"),
        ("hangs up and stays", MediaError, "takes no more frames: it said nothing"),
        ("writes nothing", MediaError, "No such file"),
        ("loses a frame", VerificationError, "was given 24 frames and wrote 23"),
        ("doubles a frame", VerificationError, "was given 24 frames and wrote 25"),
        ("moves a frame", VerificationError, "moved the frame at 0.125000 s to 0.12"),
        ("makes it smaller", VerificationError, "wrote 160x240 instead of 320x240"),
    ],
)
def test_a_failing_ffmpeg_is_one_sentence_and_leaves_nothing(
    make_clip, out, behaving, monkeypatch, behavior, error, said
):
    monkeypatch.setattr(ffmpeg, "SECONDS_TO_DIE", 1)
    # 24 frames of 115 kB: far more than pipes hold, so that it fails while we write
    clip = make_clip(
        frames=24,
        size=(320, 240),
        audio=True,
        time_base=Fraction(1, 24000),
        pts=[1000 * number for number in range(24)],
    )
    with pytest.raises(error, match=said) as caught:
        pass_through(clip, out / "out.mkv", encoder=behaving(behavior))
    assert "\n" not in str(caught.value)
    assert list(out.iterdir()) == []


def test_leaving_midway_ends_the_process_and_leaves_nothing(make_clip, out, behaving):
    clip = make_clip(frames=20)
    info = probe(clip)
    video, _ = choose_format(info, (48, 32), behaving("works"))
    threads = threading.active_count()
    segment = FfmpegSegment(out / "0.packets", destination=out / "a.mp4", source=info, video=video)
    process = segment._encoder._process
    for frame in frames_of(clip)[:5]:
        segment.write(frame)
    assert process.poll() is None
    segment.abandon()
    assert process.poll() is not None
    assert list(out.iterdir()) == []
    assert threading.active_count() == threads


def test_no_shell_sees_a_word(make_clip, tmp_path, behaving, monkeypatch):
    seen = []
    start = subprocess.Popen

    def watched(words, **options):
        seen.append((words, options.get("shell", False)))
        return start(words, **options)

    monkeypatch.setattr(ffmpeg.subprocess, "Popen", watched)
    folder = tmp_path / "$(touch owned); 'a' \n %d"
    folder.mkdir()
    path = folder / "-y `touch owned`.mkv"
    pass_through(make_clip(frames=2), path, encoder=behaving("works"))
    assert [entry.name for entry in folder.iterdir()] == [path.name]
    assert {(isinstance(words, list), shell) for words, shell in seen} == {(True, False)}
