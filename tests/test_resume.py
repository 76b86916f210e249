"""A run that is cut off anywhere goes on, and its output is that of one that was not."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import ClipMaker
from family import ship_family, tiny_colorizer, tiny_model
from typer.testing import CliRunner

from vidsr import cli, resume
from vidsr.coloring import Look
from vidsr.draft import Plan
from vidsr.errors import MediaError, RequestError, VerificationError
from vidsr.events import Event, Progress, Result
from vidsr.frame import Frame
from vidsr.job import plan, run
from vidsr.media import boundaries, segments
from vidsr.media.boundaries import SegmentReader
from vidsr.media.encoders import EncoderRequest
from vidsr.media.reader import Trim, VideoReader
from vidsr.media.segments import LibavSegment, PacketFile
from vidsr.media.verify import compare
from vidsr.request import ColorRequest, EngineRequest, Job, SizeRequest
from vidsr.resume import Manifest, SegmentWriter, Workplace, folder_of, frames_kept
from vidsr.stages import Repeat

SEGMENT = 6  # frames
FRAMES = 27  # of most clips: four whole segments and half a one
CODED = EncoderRequest(preset="veryfast", threads=1)  # reorders frames; the same bytes each time


@pytest.fixture(autouse=True)
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return ship_family(monkeypatch, tmp_path / "weights", 2)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def clip(make_clip: ClipMaker) -> Path:
    return make_clip(frames=FRAMES, audio=True)


def planned(source: Path, destination: Path, **words: Any) -> Plan:
    job = Job(source, destination, SizeRequest(scale=2), **{"encoder": CODED, **words})
    made = plan(job)
    assert isinstance(made, Plan)
    return replace(made, segment_frames=SEGMENT)


def events_of(plan: Plan) -> list[Event]:
    return list(run(plan, stages=None if plan.color else [Repeat(2)]))


def finished(source: Path, destination: Path, **words: Any) -> Result:
    result = events_of(planned(source, destination, **words))[-1]
    assert isinstance(result, Result)
    return result


class Cut(Exception):  # noqa: N818
    """What ends a run in these tests; no error that vidsr knows."""


@pytest.fixture
def cut_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Let the next runs end before they write a frame of that number; None lets them go on."""
    write, at = SegmentWriter.write, dict[str, int | None](frame=None)

    def written(self: SegmentWriter, frame: Frame) -> None:
        if self.frames == at["frame"]:
            raise Cut
        write(self, frame)

    monkeypatch.setattr(SegmentWriter, "write", written)
    return lambda frame: at.update(frame=frame)


@dataclass(frozen=True)
class Contents:
    pictures: list[list[bytes]]
    moments: list[Fraction]
    packets: dict[int, list[tuple[Any, ...]]]  # of all other streams


def contents(path: Path) -> Contents:
    pictures, moments, packets = [], [], {}
    with av.open(str(path)) as file:
        video = file.streams.video[0].index
        for stream in file.streams:
            packets[stream.index] = []
        for packet in file.demux():
            if packet.stream.index != video and packet.size:
                facts = (packet.pts, packet.dts, packet.duration, bytes(packet))
                packets[packet.stream.index].append(facts)
            elif packet.stream.index == video:
                for picture in packet.decode():
                    pictures.append([np.asarray(plane).tobytes() for plane in picture.planes])
                    assert picture.time_base is not None
                    moments.append((picture.pts or 0) * picture.time_base)
    return Contents(pictures, moments, packets)


def same_result(one: Result, other: Result) -> bool:
    def told(result: Result) -> Result:
        return replace(result, seconds=0, busy={}, destination=Path())

    return told(one) == told(other)


def without_work(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


# ------------------------------------------------------------------ cut off and gone on with


@pytest.mark.parametrize("frames", [[7], [12], [24], [26], [8, 8, 13, 20]], ids=str)
def test_a_run_that_is_cut_off_anywhere_ends_like_one_that_is_not(
    clip: Path, out: Path, cut_at: Callable[..., None], frames: list[int]
) -> None:
    whole = finished(clip, out / "whole.mp4")
    for frame in frames:
        cut_at(frame)
        with pytest.raises(Cut):
            finished(clip, out / "cut.mp4")
        assert frame - SEGMENT <= frames_kept(out / "cut.mp4") <= frame
    cut_at(None)
    kept = frames_kept(out / "cut.mp4")
    first, *_, resumed = events_of(planned(clip, out / "cut.mp4"))
    assert isinstance(first, Progress)
    assert (first.frames, first.resumed) == (kept, kept)
    assert isinstance(resumed, Result)
    assert same_result(resumed, whole)
    assert contents(out / "cut.mp4") == contents(out / "whole.mp4")
    assert without_work(out) == ["cut.mp4", "whole.mp4"]


def test_a_run_in_segments_keeps_what_a_run_in_one_go_keeps(clip: Path, out: Path) -> None:
    finished(clip, out / "pieces.mp4")
    one_go = replace(planned(clip, out / "one.mp4"), segment_frames=0)
    events_of(one_go)
    pieces, one = contents(out / "pieces.mp4"), contents(out / "one.mp4")
    assert pieces.moments == one.moments
    assert pieces.packets == one.packets
    assert all(check.equal for check in compare(clip, out / "pieces.mp4"))


def test_only_what_no_earlier_run_did_is_done(
    clip: Path, out: Path, cut_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at(20)
    with pytest.raises(Cut):
        finished(clip, out / "a.mp4")
    cut_at(None)
    encoded = []
    write = LibavSegment.write
    monkeypatch.setattr(
        LibavSegment, "write", lambda self, frame: (encoded.append(frame.pts), write(self, frame))
    )
    finished(clip, out / "a.mp4")
    assert len(encoded) == FRAMES - 18


def test_borders_are_the_same_however_a_run_is_cut(
    clip: Path, out: Path, cut_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, list[Any]] = {}
    write = Manifest.write

    def noted(self: Manifest, folder: Path) -> None:
        found[folder.name] = [(segment.frames, segment.next) for segment in self.segments]
        write(self, folder)

    monkeypatch.setattr(Manifest, "write", noted)
    finished(clip, out / "whole.mp4")
    for frame in (9, 10, 21):
        cut_at(frame)
        with pytest.raises(Cut):
            finished(clip, out / "cut.mp4")
    cut_at(None)
    finished(clip, out / "cut.mp4")
    assert found[".cut.mp4.vidsr"] == found[".whole.mp4.vidsr"]
    assert [frames for frames, _ in found[".cut.mp4.vidsr"]] == [6, 6, 6, 6, 3]


def test_a_run_that_ends_while_it_joins_has_nothing_left_to_encode(
    clip: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr("vidsr.job.write_joined", failing)
        with pytest.raises(Cut):
            finished(clip, out / "a.mp4")
    assert frames_kept(out / "a.mp4") == FRAMES
    with monkeypatch.context() as patch:
        patch.setattr(LibavSegment, "__init__", failing)
        again = finished(clip, out / "a.mp4")
    assert same_result(again, finished(clip, out / "whole.mp4"))
    assert contents(out / "a.mp4") == contents(out / "whole.mp4")


def test_a_count_that_divides_leaves_no_empty_segment(make_clip: ClipMaker, out: Path) -> None:
    result = finished(make_clip(frames=2 * SEGMENT), out / "a.mp4")
    assert result.frames_out == 2 * SEGMENT


# ------------------------------------------------------------------ a process that is killed

CHILD = """
import os, resource, signal, sys
from vidsr import cli, resume
from vidsr.resume import SegmentWriter

resume.SEGMENT_FRAMES = resume.FEWEST_FRAMES = {segment}
write = SegmentWriter.write

def run(words, frame, largest_file):
    def dying(self, item):
        if self.frames == frame:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, item)
    SegmentWriter.write = dying
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    sys.argv = ["vidsr", *words]
    cli.main()
"""


@pytest.fixture
def words(clip: Path, family: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Of a command that needs only an output; segments are as short here as in `child`."""
    monkeypatch.setattr(resume, "SEGMENT_FRAMES", SEGMENT)
    monkeypatch.setattr(resume, "FEWEST_FRAMES", SEGMENT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    model = str(family / "fast-x2.safetensors")
    fast = ["--preset", "veryfast", "--threads", "1"]
    return ["upscale", str(clip), "--scale", "2", "--model", model, *fast]


def child(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CHILD.replace("{segment}", str(SEGMENT)) + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def gone_on(words: list[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    result = CliRunner().invoke(cli.app, words, prog_name="vidsr")
    signal.signal(signal.SIGTERM, before)
    assert result.exit_code == 0, result.output + result.stderr
    assert "afresh" not in result.output


def test_after_kill_9_at_10_50_and_99_percent_the_same_command_goes_on(
    words: list[str], out: Path
) -> None:
    frames = (3, 14, 26)
    # One interpreter that forks before it has threads: what it imports takes seconds.
    died = child(f"""
for frame in {frames}:
    if not (number := os.fork()):
        run([*{words}, "-o", f"{out}/{{frame}}.mp4"], frame, 0)
    print(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]))
""")
    assert died.stdout.split() == [str(-signal.SIGKILL)] * 3, died.stderr
    gone_on([*words, "-o", str(out / "whole.mp4")])
    for frame in frames:
        assert frames_kept(out / f"{frame}.mp4") == frame // SEGMENT * SEGMENT
        gone_on([*words, "-o", str(out / f"{frame}.mp4")])
        assert contents(out / f"{frame}.mp4") == contents(out / "whole.mp4")
    assert without_work(out) == ["14.mp4", "26.mp4", "3.mp4", "whole.mp4"]


def interrupted(
    words: list[str], monkeypatch: pytest.MonkeyPatch, kind: signal.Signals, frame: int
) -> str:
    """The last words of a command that gets a signal before it writes a frame."""
    write, before = SegmentWriter.write, signal.getsignal(signal.SIGTERM)

    def signalled(self: SegmentWriter, item: Frame) -> None:
        if self.frames == frame:
            os.kill(os.getpid(), kind)
        write(self, item)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentWriter, "write", signalled)
        result = CliRunner().invoke(cli.app, words, prog_name="vidsr")
    signal.signal(signal.SIGTERM, before)
    assert result.exit_code == 130
    assert result.stdout == ""
    return result.stderr.splitlines()[-1]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interruption_says_how_to_go_on(
    words: list[str], out: Path, monkeypatch: pytest.MonkeyPatch, kind: signal.Signals
) -> None:
    words += ["-o", str(out / "a.mp4")]
    assert interrupted(words, monkeypatch, kind, 14) == (
        "error: interrupted; 12 frames are kept: run the same command to go on from there"
    )
    assert without_work(out) == [".a.mp4.vidsr"]
    gone_on(words)
    assert without_work(out) == ["a.mp4"]


def test_an_interruption_before_the_first_whole_segment_leaves_nothing_and_says_so(
    words: list[str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words += ["-o", str(out / "a.mp4")]
    said = interrupted(words, monkeypatch, signal.SIGINT, 3)
    assert said == "error: interrupted; nothing was written"
    assert without_work(out) == []


def test_a_disk_that_is_full_at_the_join_loses_nothing(words: list[str], out: Path) -> None:
    words += ["-o", str(out / "a.mp4")]
    gone_on([*words[:-1], str(out / "whole.mp4")])
    largest = (out / "whole.mp4").stat().st_size * 2 // 3  # more than a segment
    process = child(f"run({words}, -1, {largest})")
    assert process.returncode == 3
    (sentence,) = process.stderr.splitlines()
    assert sentence.startswith("error: ")
    assert f"{FRAMES} frames are kept: run the same command" in sentence
    assert without_work(out) == [".a.mp4.vidsr", "whole.mp4"]
    gone_on(words)
    assert contents(out / "a.mp4") == contents(out / "whole.mp4")


def ended(words: list[str]) -> str:
    """The last words of a command that fails on its input."""
    before = signal.getsignal(signal.SIGTERM)
    result = CliRunner().invoke(cli.app, words, prog_name="vidsr")
    signal.signal(signal.SIGTERM, before)
    assert result.exit_code == MediaError.exit_code
    return result.stderr.splitlines()[-1]


def test_damage_that_a_second_run_would_meet_again_is_not_to_be_tried_again(
    words: list[str], clip: Path, out: Path
) -> None:
    data = bytearray(clip.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    clip.write_bytes(data)
    words += ["-o", str(out / "a.mp4")]
    said = ended([*words, "--strict"])
    assert re.search(r"without --strict the rest is kept; \d+ frames are kept$", said)
    gone_on(words)


def test_a_picture_that_changes_midway_is_not_to_be_tried_again(
    words: list[str], make_clip: ClipMaker, out: Path
) -> None:
    both = [make_clip(f"{w}.ts", frames=20, size=(w, 64)).read_bytes() for w in (96, 128)]
    changing = out / "both.ts"
    changing.write_bytes(b"".join(both))
    said = ended([*words[:1], str(changing), *words[2:], "-o", str(out / "a.mkv")])
    assert "the picture changes midway" in said
    assert said.endswith(" frames are kept")


# ------------------------------------------------------------------ failures


def test_a_disk_that_is_full_in_a_segment_costs_that_segment(
    clip: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, taken = PacketFile.add, []

    def filling(self: PacketFile, coded: segments.Coded) -> None:
        taken.append(coded)
        if len(taken) > 15:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(self, coded)

    with monkeypatch.context() as patch:
        patch.setattr(PacketFile, "add", filling)
        with pytest.raises(MediaError, match=r"a\.mp4: .*No space left on device"):
            finished(clip, out / "a.mp4")
    assert sorted(path.name for path in folder_of(out / "a.mp4").iterdir()) == [
        "000000.packets",
        "000001.packets",
        "lock",
        "manifest.json",
    ]
    finished(clip, out / "a.mp4")
    finished(clip, out / "whole.mp4")
    assert contents(out / "a.mp4") == contents(out / "whole.mp4")


def test_an_encoder_that_fails_costs_one_segment(
    clip: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: LibavSegment, frame: Frame) -> None:
        if frame.pts * frame.time_base >= Fraction(20, 24):
            raise MediaError("the encoder gave up")
        write(self, frame)

    write = LibavSegment.write
    with monkeypatch.context() as patch:
        patch.setattr(LibavSegment, "write", failing)
        with pytest.raises(MediaError, match="gave up"):
            finished(clip, out / "a.mp4")
    assert frames_kept(out / "a.mp4") == 18
    finished(clip, out / "a.mp4")
    finished(clip, out / "whole.mp4")
    assert contents(out / "a.mp4") == contents(out / "whole.mp4")


def test_encoders_with_other_headers_are_an_error_that_leaves_nothing(
    clip: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = LibavSegment.finish
    made: list[bytes] = []

    def differing(self: LibavSegment) -> bytes:
        made.append(finish(self) + bytes(len(made)))
        return made[-1]

    monkeypatch.setattr(LibavSegment, "finish", differing)
    with pytest.raises(VerificationError, match="other headers"):
        finished(clip, out / "a.mp4")
    assert without_work(out) == []


def test_a_lost_frame_is_an_error(clip: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = PacketFile.add
    monkeypatch.setattr(
        PacketFile, "add", lambda self, coded: None if coded.pts == 1024 else add(self, coded)
    )
    with pytest.raises(VerificationError, match="frames went into an encoder"):
        finished(clip, out / "a.mp4")


# ------------------------------------------------------------------ time and open groups


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sixty.mp4", {"rate": 60, "options": {"crf": "20", "bf": "3"}}),
        (
            "variable.mp4",
            {
                "time_base": Fraction(1, 90000),
                "pts": [n * 3000 if n < 15 else 45000 + (n - 15) * 9001 for n in range(FRAMES)],
            },
        ),
        ("late.mp4", {"pts": [100 + n for n in range(FRAMES)]}),
        (
            "open.mkv",
            {"options": {"x264-params": "open-gop=1:keyint=5:min-keyint=5:bframes=2:scenecut=0"}},
        ),
        ("single.mkv", {"options": {"g": "1000"}}),
        ("stream.ts", {"options": {"g": "5"}}),
        ("intra.mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p", "options": {}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_any_time_and_any_group_of_pictures_can_be_cut(
    make_clip: ClipMaker, out: Path, cut_at: Callable[..., None], name: str, words: dict[str, Any]
) -> None:
    source = make_clip(name, frames=FRAMES, audio=True, **words)
    whole = finished(source, out / f"whole-{name}")
    for frame in (8, 20):
        cut_at(frame)
        with pytest.raises(Cut):
            finished(source, out / name)
    cut_at(None)
    assert same_result(finished(source, out / name), whole)
    assert contents(out / name) == contents(out / f"whole-{name}")
    assert all(check.equal for check in compare(source, out / name))


def test_an_open_group_is_found_again_by_a_seek(
    make_clip: ClipMaker, out: Path, cut_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"x264-params": "open-gop=1:keyint=5:min-keyint=5:bframes=2:scenecut=0"}
    source = make_clip("open.mkv", frames=FRAMES, options=options)
    cut_at(20)
    with pytest.raises(Cut):
        finished(source, out / "a.mkv")
    cut_at(None)

    def counting(*_: Any) -> list[Frame]:
        pytest.fail("it was read from the beginning")

    monkeypatch.setattr(SegmentReader, "_by_number", counting)
    finished(source, out / "a.mkv")


def test_a_raw_stream_is_read_from_the_beginning(
    make_clip: ClipMaker, out: Path, cut_at: Callable[..., None]
) -> None:
    source = make_clip("raw.h264", frames=FRAMES, options={"bf": "0"})
    cut_at(20)
    with pytest.raises(Cut):
        finished(source, out / "a.mkv")
    cut_at(None)
    finished(source, out / "a.mkv")
    finished(source, out / "whole.mkv")
    assert contents(out / "a.mkv") == contents(out / "whole.mkv")


def test_a_part_of_a_clip_can_be_cut(clip: Path, out: Path, cut_at: Callable[..., None]) -> None:
    trim = Trim(Fraction(5, 24), Fraction(1))
    cut_at(14)
    with pytest.raises(Cut):
        finished(clip, out / "a.mp4", trim=trim)
    cut_at(None)
    resumed = finished(clip, out / "a.mp4", trim=trim)
    assert same_result(resumed, finished(clip, out / "whole.mp4", trim=trim))
    assert resumed.frames_out == 19
    assert contents(out / "a.mp4") == contents(out / "whole.mp4")


@pytest.mark.parametrize("encoder", ["libx265", "ffv1", "libsvtav1"])
def test_other_encoders_can_be_cut(
    make_clip: ClipMaker, out: Path, cut_at: Callable[..., None], encoder: str
) -> None:
    source = make_clip(frames=FRAMES, size=(64, 64))
    preset = {"libx265": "ultrafast", "libsvtav1": "12"}.get(encoder)
    request = EncoderRequest(encoder=encoder, preset=preset)
    cut_at(20)
    with pytest.raises(Cut):
        finished(source, out / "a.mkv", encoder=request)
    cut_at(None)
    finished(source, out / "a.mkv", encoder=request)
    finished(source, out / "whole.mkv", encoder=request)
    assert contents(out / "a.mkv") == contents(out / "whole.mkv")


def test_damage_is_counted_once(
    make_clip: ClipMaker,
    out: Path,
    cut_at: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # FFmpeg's frame threads conceal the same errors differently from one run to the next.
    monkeypatch.setattr(boundaries, "VideoReader", functools.partial(VideoReader, threads=1))
    source = make_clip("a.mkv", frames=FRAMES, options={"g": "5", "crf": "5"})
    data = bytearray(source.read_bytes())
    for place in range(len(data) // 3, len(data) - 200, len(data) // 7):
        data[place : place + 6] = b"\x5a\xa5\x5a\xa5\x5a\xa5"
    source.write_bytes(data)
    whole = finished(source, out / "whole.mkv")
    assert "damaged" in " ".join(whole.notes)
    for frame in (8, 15, 20):
        cut_at(frame)
        with pytest.raises(Cut):
            finished(source, out / "a.mkv")
    cut_at(None)
    assert same_result(finished(source, out / "a.mkv"), whole)
    assert contents(out / "a.mkv") == contents(out / "whole.mkv")


# ------------------------------------------------------------------ color that remembers


@pytest.mark.parametrize("size", [None, SizeRequest(scale=2)], ids=["color", "color and size"])
@pytest.mark.parametrize("trim", [Trim(), Trim(start=Fraction(4, 24))], ids=["all", "part"])
def test_steady_color_does_not_tell_where_a_run_was_cut(
    make_clip: ClipMaker,
    out: Path,
    family: Path,
    cut_at: Callable[..., None],
    size: SizeRequest | None,
    trim: Trim,
) -> None:
    pytest.importorskip("cv2", reason="steady color needs OpenCV")
    tiny_colorizer(family)
    source = make_clip("gray.mkv", frames=24, codec="ffv1", pix_fmt="gray")
    color = {"size": size, "color": ColorRequest(look=Look(stability=1)), "trim": trim}
    color["encoder"] = EncoderRequest(encoder="ffv1", pix_fmt="yuv420p", threads=1)

    def made(name: str) -> None:
        planned = plan(Job(source, out / name, **color))
        assert isinstance(planned, Plan)
        list(run(replace(planned, segment_frames=SEGMENT)))

    made("whole.mkv")
    for frame in (8, 15):
        cut_at(frame)
        with pytest.raises(Cut):
            made("cut.mkv")
    cut_at(None)
    made("cut.mkv")
    assert contents(out / "cut.mkv") == contents(out / "whole.mkv")


# ------------------------------------------------------------------ what is another run


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"encoder": replace(CODED, crf=30)}, "asked.encoder.crf was None, is 30"),
        ({"engine": EngineRequest(overlap=8)}, "asked.engine.overlap was 16, is 8"),
        ({"trim": Trim(end=Fraction(1))}, "asked.trim.end was None, is 1"),
    ],
    ids=["encoder", "engine", "trim"],
)
def test_a_changed_setting_starts_afresh_and_says_so(
    clip: Path, out: Path, cut_at: Callable[..., None], change: dict[str, Any], why: str
) -> None:
    cut_at(14)
    with pytest.raises(Cut):
        finished(clip, out / "a.mp4")
    cut_at(None)
    result = finished(clip, out / "a.mp4", **change)
    (note,) = result.notes
    assert note.startswith("started afresh, 12 frames of an earlier run not used: ")
    assert why in note
    finished(clip, out / "whole.mp4", **change)
    assert contents(out / "a.mp4") == contents(out / "whole.mp4")


def test_a_changed_input_starts_afresh_and_says_so(
    make_clip: ClipMaker, clip: Path, out: Path, cut_at: Callable[..., None]
) -> None:
    cut_at(14)
    with pytest.raises(Cut):
        finished(clip, out / "a.mp4")
    cut_at(None)
    make_clip(frames=FRAMES, audio=True, options={"crf": "20"})
    (note,) = finished(clip, out / "a.mp4").notes
    assert note.endswith("not used: the input has changed")


def test_changed_weights_start_afresh(
    clip: Path, out: Path, family: Path, cut_at: Callable[..., None]
) -> None:
    cut_at(14)
    with pytest.raises(Cut):
        finished(clip, out / "a.mp4")
    cut_at(None)
    tiny_model(family, "fast-x2", scale=2, seed=7)
    (note,) = finished(clip, out / "a.mp4").notes
    assert "model.sha256 was" in note


def test_another_version_starts_afresh(
    clip: Path, out: Path, cut_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at(14)
    with pytest.raises(Cut):
        finished(clip, out / "a.mp4")
    cut_at(None)
    monkeypatch.setattr(resume, "__version__", "9.9")
    (note,) = finished(clip, out / "a.mp4").notes
    assert "versions.vidsr was" in note


def test_another_name_of_the_input_and_another_care_go_on(
    clip: Path, out: Path, cut_at: Callable[..., None]
) -> None:
    cut_at(14)
    with pytest.raises(Cut):
        finished(clip, out / "a.mp4")
    cut_at(None)
    moved = clip.rename(clip.with_name("moved.mp4"))
    first, *_, last = events_of(planned(moved, out / "a.mp4", strict=True, overwrite=True))
    assert isinstance(first, Progress)
    assert first.resumed == 12
    assert isinstance(last, Result)
    assert last.notes == ()


def test_what_was_resolved_then_is_used_now(
    clip: Path, out: Path, cut_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at(14)
    made = planned(clip, out / "a.mp4")
    with pytest.raises(Cut):
        events_of(replace(made, engine=replace(made.engine, tile=33, precision="bf16")))
    cut_at(None)
    used: list[Plan] = []
    streams = "vidsr.job._streams"
    original = sys.modules["vidsr.job"]._streams  # type: ignore[attr-defined]
    monkeypatch.setattr(streams, lambda p, stages: (used.append(p), original(p, stages))[1])
    events_of(made)
    assert (used[0].engine.tile, used[0].engine.precision) == (33, "bf16")


def with_lookahead(made: Plan, frames: int, **engine: Any) -> Plan:
    """As if memory had decided so."""
    options = {**made.video.options, "x264-params": f"rc-lookahead={frames}"}
    video = replace(made.video, options=options)
    return replace(made, video=video, engine=replace(made.engine, **engine))


def test_what_memory_decided_then_is_used_now(
    clip: Path, out: Path, cut_at: Callable[..., None]
) -> None:
    events_of(with_lookahead(planned(clip, out / "whole.mp4"), 5))
    cut_at(14)
    with pytest.raises(Cut):
        events_of(with_lookahead(planned(clip, out / "a.mp4"), 5))
    cut_at(None)
    later = planned(
        clip,
        out / "a.mp4",
        max_memory=8 << 30,
        engine=EngineRequest(threads=3),
        encoder=replace(CODED, threads=2),
    )
    first, *_, last = events_of(with_lookahead(later, 2))
    assert isinstance(first, Progress)
    assert first.resumed == 12
    assert isinstance(last, Result)
    (note,) = last.notes
    assert note.startswith("the encoder goes on as it began, with ")
    assert "x264-params=rc-lookahead=5" in note
    assert contents(out / "a.mp4") == contents(out / "whole.mp4")


@pytest.mark.parametrize(("now", "used"), [(1, 1), (4, 2)])
def test_tighter_memory_costs_workers_and_not_what_was_done(
    clip: Path,
    out: Path,
    cut_at: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    now: int,
    used: int,
) -> None:
    cut_at(14)
    made = planned(clip, out / "a.mp4")
    with pytest.raises(Cut):
        events_of(with_lookahead(made, 5, workers=2, threads=3))
    cut_at(None)
    plans: list[Plan] = []
    original = sys.modules["vidsr.job"]._streams  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "vidsr.job._streams", lambda p, stages: (plans.append(p), original(p, stages))[1]
    )
    events_of(with_lookahead(made, 5, workers=now, threads=1))
    assert (plans[0].engine.workers, plans[0].engine.threads) == (used, 3)


# ------------------------------------------------------------------ two at once, and power


def test_a_second_run_on_the_same_output_is_refused_and_harms_nothing(
    clip: Path, out: Path
) -> None:
    first = run(planned(clip, out / "a.mp4"), stages=[Repeat(2)])
    next(first)
    with pytest.raises(RequestError, match=r"a\.mp4 is being written by another run"):
        finished(clip, out / "a.mp4")
    one_go = replace(planned(clip, out / "a.mp4"), segment_frames=0)
    with pytest.raises(RequestError, match="another run"):
        events_of(one_go)
    assert isinstance(list(first)[-1], Result)
    assert without_work(out) == ["a.mp4"]


def test_an_output_that_another_run_has_finished_meanwhile_is_not_replaced(
    clip: Path, out: Path
) -> None:
    late = planned(clip, out / "a.mp4")
    finished(clip, out / "a.mp4")
    before = (out / "a.mp4").stat().st_mtime_ns
    with pytest.raises(RequestError, match="exists"):
        events_of(late)
    assert (out / "a.mp4").stat().st_mtime_ns == before
    assert without_work(out) == ["a.mp4"]


def test_a_lock_that_nobody_holds_is_no_obstacle(clip: Path, out: Path) -> None:
    folder = folder_of(out / "a.mp4")
    folder.mkdir()
    (folder / "lock").write_text("")
    finished(clip, out / "a.mp4")
    assert without_work(out) == ["a.mp4"]


def test_what_a_user_put_into_the_folder_stays(clip: Path, out: Path) -> None:
    folder = folder_of(out / "a.mp4")
    folder.mkdir()
    (folder / "mine.txt").write_text("keep")
    finished(clip, out / "a.mp4")
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def newest_cut_short(folder: Path) -> None:
    newest = max(folder.glob("*.packets"))
    newest.write_bytes(newest.read_bytes()[:-30])


def newest_altered(folder: Path) -> None:
    newest = max(folder.glob("*.packets"))
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)


def newest_gone(folder: Path) -> None:
    max(folder.glob("*.packets")).unlink()


def half_a_manifest_beside_it(folder: Path) -> None:
    (folder / "manifest.json.part").write_text('{"format": 1, "iden')
    (folder / "000007.packets.part").write_bytes(b"vidsr segment 1\n12")
    (folder / "000003.packets").write_bytes(b"a segment that no manifest names")


@pytest.mark.parametrize(
    ("harm", "kept"),
    [
        (newest_cut_short, 12),
        (newest_altered, 12),
        (newest_gone, 12),
        (half_a_manifest_beside_it, 18),
    ],
)
def test_what_a_loss_of_power_leaves_half_is_made_again(
    clip: Path,
    out: Path,
    cut_at: Callable[..., None],
    harm: Callable[[Path], None],
    kept: int,
) -> None:
    cut_at(20)
    with pytest.raises(Cut):
        finished(clip, out / "a.mp4")
    cut_at(None)
    harm(folder_of(out / "a.mp4"))
    first, *_, last = events_of(planned(clip, out / "a.mp4"))
    assert isinstance(first, Progress)
    assert first.resumed == kept
    assert isinstance(last, Result)
    assert last.notes == ()
    finished(clip, out / "whole.mp4")
    assert contents(out / "a.mp4") == contents(out / "whole.mp4")
    assert without_work(out) == ["a.mp4", "whole.mp4"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 2, "engine": []}'])
def test_a_manifest_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    assert Manifest.read(tmp_path) is None


def test_a_manifest_is_readable_json(clip: Path, out: Path, cut_at: Callable[..., None]) -> None:
    cut_at(14)
    with pytest.raises(Cut):
        finished(clip, out / "a.mp4")
    manifest = json.loads((folder_of(out / "a.mp4") / "manifest.json").read_text())
    assert manifest["identity"]["input"]["bytes"] == clip.stat().st_size
    assert manifest["engine"]["precision"] == "fp32"
    assert [segment["frames"] for segment in manifest["segments"]] == [6, 6]
    assert [segment["next"]["frame"] for segment in manifest["segments"]] == [6, 12]


# ------------------------------------------------------------------ how long a segment is


def test_short_runs_and_no_resume_write_in_one_go(
    make_clip: ClipMaker, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_clip(frames=12)
    job = Job(source, out / "a.mp4", SizeRequest(scale=2))
    one_go = plan(job)
    assert isinstance(one_go, Plan)
    assert one_go.segment_frames == 0
    monkeypatch.setattr(resume, "SEGMENT_FRAMES", 4)
    monkeypatch.setattr(resume, "FEWEST_FRAMES", 4)
    in_segments, refusing = plan(job), plan(replace(job, resume=False))
    assert isinstance(in_segments, Plan)
    assert isinstance(refusing, Plan)
    assert (in_segments.segment_frames, refusing.segment_frames) == (4, 0)
    assert in_segments.disk_bytes == 2 * one_go.disk_bytes


def test_slow_networks_and_large_pictures_have_shorter_segments(clip: Path, out: Path) -> None:
    engine = planned(clip, out / "a.mp4").engine
    large = (1 << 20, 1 << 12)
    assert resume.segment_frames(engine, None, (640, 360)) == resume.SEGMENT_FRAMES
    assert resume.segment_frames(engine, None, large) == resume.FEWEST_FRAMES
    assert resume.segment_frames(replace(engine, device="cuda:0"), None, large) > 25


def test_a_workplace_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(MediaError, match="opening the output failed"),
        Workplace(tmp_path / "gone" / "a.mp4"),
    ):
        pass


def test_a_plan_survives_being_sent(clip: Path, out: Path) -> None:
    made = planned(clip, out / "a.mp4")
    assert dataclasses.asdict(made)["segment_frames"] == SEGMENT
