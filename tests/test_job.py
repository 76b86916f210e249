"""The main path from file to file: what is planned, what comes out, and what a failure leaves."""

from __future__ import annotations

import dataclasses
import json
import pickle
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from conftest import ClipMaker, gradient
from family import ship_family, tiny_twins
from identity import frames_of
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vidsr import job as job_room
from vidsr.draft import Plan
from vidsr.engines import choice
from vidsr.engines.torch_engine import TorchEngine
from vidsr.errors import DeviceError, MediaError, OutOfMemory, RequestError
from vidsr.events import Event, Progress, Result
from vidsr.job import plan, run
from vidsr.media import image_writer, images
from vidsr.media.deinterlace import Deinterlace
from vidsr.media.encoders import EncoderRequest
from vidsr.media.probe import probe
from vidsr.media.reader import Trim
from vidsr.media.verify import compare
from vidsr.motion import opencv
from vidsr.request import EngineRequest, Job, SizeRequest
from vidsr.stages import Repeat
from vidsr.still import StillPlan

Planes = list[NDArray[np.integer[Any]]]
LOSSLESS = EncoderRequest(encoder="ffv1")


@pytest.fixture(autouse=True)
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return ship_family(monkeypatch, tmp_path / "weights", 2, 4)


@pytest.fixture
def make_mkv(make_clip: ClipMaker) -> ClipMaker:
    """`make_clip` in Matroska, in its own milliseconds, with ffv1 unless told otherwise."""

    def make(*, frames: int = 4, **words: Any) -> Path:
        clock = {"pts": [round(n * 1000 / 24) for n in range(frames)], "rate": 24}
        clock["time_base"] = Fraction(1, 1000)
        return make_clip("clip.mkv", frames=frames, **{"codec": "ffv1", **clock, **words})

    return make


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder for outputs, in which nothing may be left behind."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def enlarge(source: Path, destination: Path, scale: int = 2, **words: Any) -> Result:
    """Run a job with `Repeat(scale)` in place of a network."""
    size = words.pop("size", None) or SizeRequest(scale=scale)
    events = list(run(plan(Job(source, destination, size, **words)), stages=[Repeat(scale)]))
    assert isinstance(events[-1], Result)
    return events[-1]


def repeat_once(source: Path, destination: Path, **words: Any) -> Result:
    """Run a job that changes nothing: the source's own height, `Repeat(1)`."""
    size = SizeRequest(height=probe(source).height)
    return enlarge(source, destination, 1, size=size, **words)


def pictures(path: Path) -> list[Planes]:
    """The planes of every frame as decoded, in FFmpeg's order."""
    with av.open(str(path)) as container:
        return [planes_of(frame) for frame in container.decode(video=0)]


def planes_of(frame: av.VideoFrame) -> Planes:
    wide = frame.format.components[0].bits > 8
    return [
        np.frombuffer(plane, np.uint16 if wide else np.uint8)
        .reshape(plane.height, -1)[:, : plane.width]
        .copy()
        for plane in frame.planes
    ]


def moments(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [f.pts * f.time_base for f in container.decode(video=0) if f.time_base]


def audio_packets(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        packets = container.demux(audio=0)
        return [(p.pts * p.time_base, bytes(p)) for p in packets if p.size and p.pts is not None]


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vidsr")]


# ------------------------------------------------------------------ from end to end


def test_a_clip_with_sound_comes_out_whole(make_clip: ClipMaker, out: Path) -> None:
    clip, larger = make_clip(audio=True), out / "larger.mp4"
    result = enlarge(clip, larger)
    assert (result.frames_in, result.frames_out) == (8, 8)
    assert (result.width, result.height) == (96, 64)
    assert result.destination == larger
    assert result.bytes == larger.stat().st_size
    assert result.seconds > 0
    assert set(result.busy) == {"decode", "compute", "encode"}
    assert (result.retiled, result.recomputed, result.notes) == (0, 0, ())
    assert moments(larger) == moments(clip)
    assert audio_packets(larger) == audio_packets(clip)
    assert all(check.equal for check in compare(clip, larger))
    assert list(out.iterdir()) == [larger]


def test_the_network_of_the_plan_is_used_without_stages(make_clip: ClipMaker, out: Path) -> None:
    clip = make_clip(frames=3)
    (*_, result) = run(plan(Job(clip, out / "x4.mp4", SizeRequest(scale=4))))
    assert isinstance(result, Result)
    assert (result.frames_out, result.width, result.height) == (3, 192, 128)


def test_three_times_is_the_larger_member_reduced(make_clip: ClipMaker, out: Path) -> None:
    planned = plan(Job(make_clip(frames=2), out / "x3.mp4", SizeRequest(scale=3)))
    assert planned.engine.card.name == "fast-x4"
    (*_, result) = run(planned)
    assert isinstance(result, Result)
    assert (result.width, result.height) == (144, 96)
    assert [picture[0].shape for picture in pictures(out / "x3.mp4")] == [(96, 144)] * 2


def test_a_height_is_exact(make_clip: ClipMaker, out: Path) -> None:
    (*_, result) = run(plan(Job(make_clip(frames=2), out / "h.mp4", SizeRequest(height=100))))
    assert isinstance(result, Result)
    assert (result.width, result.height) == (150, 100)


def test_events_are_progress_and_then_one_result(
    make_clip: ClipMaker, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_room, "REPORT_SECONDS", 0)
    planned = plan(Job(make_clip(), out / "a.mp4", SizeRequest(scale=2)))
    *progress, last = run(planned, stages=[Repeat(2)])
    assert isinstance(last, Result)
    assert [event.frames for event in progress if isinstance(event, Progress)] == [*range(1, 9)]
    first = progress[0]
    assert isinstance(first, Progress)
    assert first.frames_expected == 8
    assert first.frames_per_second > 0
    assert first.bottleneck in {"decode", "compute", "encode"}


def test_every_pts_of_a_variable_rate_is_kept(make_clip: ClipMaker, out: Path) -> None:
    ticks = [0, 1001, 1500, 9009, 9010, 20000, 20480, 31111]
    clip = make_clip(pts=ticks, time_base=Fraction(1, 30000))
    enlarge(clip, out / "a.mp4")
    assert moments(out / "a.mp4") == [Fraction(tick, 30000) for tick in ticks]
    enlarge(clip, out / "a.mkv")
    # Matroska counts milliseconds: half of one is as near as it gets.
    for tick, moment in zip(ticks, moments(out / "a.mkv"), strict=True):
        assert abs(Fraction(tick, 30000) - moment) <= Fraction(1, 2000)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_the_same_input_gives_the_same_bytes(make_clip: ClipMaker, out: Path, suffix: str) -> None:
    clip = make_clip(audio=True)
    for name in ("a", "b"):
        planned = plan(Job(clip, out / f"{name}{suffix}", SizeRequest(scale=2)))
        list(run(planned))
    assert (out / f"a{suffix}").read_bytes() == (out / f"b{suffix}").read_bytes()


def test_an_existing_output_is_replaced_only_when_asked(make_clip: ClipMaker, out: Path) -> None:
    clip, larger = make_clip(), out / "a.mp4"
    larger.write_bytes(b"precious")
    with pytest.raises(RequestError, match="--overwrite"):
        plan(Job(clip, larger))
    assert larger.read_bytes() == b"precious"
    assert enlarge(clip, larger, overwrite=True).bytes == larger.stat().st_size


def test_a_source_is_never_its_own_output(make_clip: ClipMaker) -> None:
    clip = make_clip()
    before = clip.read_bytes()
    with pytest.raises(RequestError, match="is the input itself"):
        plan(Job(clip, clip.parent / "." / clip.name, overwrite=True))
    with pytest.raises(RequestError, match="is the input itself"):
        plan(Job(clip, clip.parent, overwrite=True))
    assert clip.read_bytes() == before


def test_the_default_output_lies_beside_the_input(make_clip: ClipMaker) -> None:
    clip = make_clip()
    assert plan(Job(clip)).destination == clip.with_name("clip-x4.mp4")


def test_planning_writes_nothing(make_clip: ClipMaker, out: Path) -> None:
    clip = make_clip(audio=True)
    before = sorted(clip.parent.rglob("*"))
    plan(Job(clip, out / "a.mp4"))
    plan(Job(clip))
    assert sorted(clip.parent.rglob("*")) == before


# ------------------------------------------------------------------ jobs are data


JOB = Job(
    Path("in.mkv"),
    Path("out.mkv"),
    SizeRequest(height=1080),
    EngineRequest("fast", "cuda:1", "fp16", 256, 8, 4, 0.5),
    EncoderRequest("libx265", 20.0, "slow", {"tune": "animation"}, "yuv420p10le"),
    Trim(Fraction(1, 3), Fraction(7)),
    overwrite=True,
    strict=True,
)


def test_a_job_pickles_and_is_equal() -> None:
    assert pickle.loads(pickle.dumps(JOB)) == JOB


def test_a_job_is_json_and_loses_nothing() -> None:
    told = json.loads(json.dumps(dataclasses.asdict(JOB), default=str))
    assert told["source"] == "in.mkv"
    assert Fraction(told["trim"]["start"]) == Fraction(1, 3)
    assert told["engine"]["device"] == "cuda:1"
    assert told["engine"]["fidelity"] == 0.5
    assert told["encoder"]["options"] == {"tune": "animation"}


def test_a_plan_pickles_for_another_process(make_clip: ClipMaker, out: Path) -> None:
    planned = plan(Job(make_clip(), out / "a.mp4"))
    assert pickle.loads(pickle.dumps(planned)) == planned


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(RequestError, match="--end 2 is not after --start 3"):
        Job(Path("a.mp4"), trim=Trim(Fraction(3), Fraction(2)))


# ------------------------------------------------------------------ fidelity


@pytest.fixture
def photo(family: Path) -> EngineRequest:
    """Asks for a family whose only member is mixed with a perceptual twin."""
    tiny_twins(family, "photo-x2", scale=2, fidelity=0.75)
    return EngineRequest("photo")


def test_a_plan_with_a_twin_pickles_for_another_process(
    make_clip: ClipMaker, out: Path, photo: EngineRequest
) -> None:
    planned = plan(Job(make_clip(), out / "a.mp4", SizeRequest(scale=2), photo))
    assert planned.engine.weights.twin is not None
    assert pickle.loads(pickle.dumps(planned)) == planned


def test_the_fidelity_of_the_plan_is_that_of_the_pictures(
    make_clip: ClipMaker, out: Path, photo: EngineRequest
) -> None:
    clip, size = make_clip(frames=1), SizeRequest(scale=2)
    luma = {}
    for share in (None, 0.75, 1.0):
        request = dataclasses.replace(photo, fidelity=share)
        last_of(plan(Job(clip, out / f"{share}.mkv", size, request, LOSSLESS)))
        luma[share] = pictures(out / f"{share}.mkv")[0][0]
    assert np.array_equal(luma[None], luma[0.75])
    assert not np.array_equal(luma[None], luma[1.0])


@pytest.fixture
def hdr_clip(tmp_path: Path) -> Path:
    """Two frames of grey, tagged BT.2020 and PQ."""
    path = tmp_path / "hdr.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = 16, 9, 9
        for number in range(2):
            grey = np.full((32, 48, 3), 128, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format="yuv420p10le")
            frame.pts, frame.time_base = number, Fraction(1, 24)
            frame.color_trc, frame.color_primaries, frame.colorspace = 16, 9, 9
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("asked", [None, 0.5])
def test_hdr_takes_fidelity_weights_only_and_says_so(
    hdr_clip: Path, out: Path, photo: EngineRequest, asked: float | None
) -> None:
    request = dataclasses.replace(photo, fidelity=asked)
    planned = plan(Job(hdr_clip, out / "a.mkv", SizeRequest(scale=2), request))
    assert planned.engine.weights.fidelity == 1
    assert "HDR: the fidelity weights alone, perceptual ones are for SDR" in planned.notes


def test_hdr_says_nothing_of_fidelity_where_nothing_is_mixed(hdr_clip: Path, out: Path) -> None:
    planned = plan(Job(hdr_clip, out / "a.mkv", SizeRequest(scale=2)))
    assert not any("fidelity" in note for note in planned.notes)


# ------------------------------------------------------------------ failing and stopping


class Failing(Repeat):
    """Fails at the fifth picture."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(2)
        self.error = error
        self.seen = 0

    def __call__(self, rgb: Tensor) -> Tensor:
        self.seen += 1
        if self.seen == 5:
            raise self.error
        return super().__call__(rgb)


@pytest.mark.parametrize("error", [DeviceError("cuda:0 failed"), ZeroDivisionError("a bug")])
def test_a_failing_stage_leaves_nothing(make_clip: ClipMaker, out: Path, error: Exception) -> None:
    planned = plan(Job(make_clip(audio=True), out / "a.mp4", SizeRequest(scale=2)))
    with pytest.raises(type(error), match=str(error)):
        list(run(planned, stages=[Failing(error)]))
    assert list(out.iterdir()) == []
    assert our_threads() == []


def test_a_failure_keeps_the_file_that_would_have_been_replaced(
    make_clip: ClipMaker, out: Path
) -> None:
    (out / "a.mp4").write_bytes(b"the last good one")
    planned = plan(Job(make_clip(), out / "a.mp4", SizeRequest(scale=2), overwrite=True))
    with pytest.raises(DeviceError):
        list(run(planned, stages=[Failing(DeviceError("gone"))]))
    assert [path.name for path in out.iterdir()] == ["a.mp4"]
    assert (out / "a.mp4").read_bytes() == b"the last good one"


def midway(make_mkv: ClipMaker, out: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The events of a run that stands at its first picture of many."""
    monkeypatch.setattr(job_room, "REPORT_SECONDS", 0)
    planned = plan(Job(make_mkv(frames=60, codec="libx264"), out / "a.mp4", SizeRequest(scale=2)))
    events = run(planned, stages=[Repeat(2)])
    assert isinstance(next(events), Progress)
    assert len(our_threads()) >= 2  # decode, compute, and those of the network
    assert len(list(out.iterdir())) == 2  # the temporary file and the folder that holds the lock
    return events


def test_closing_the_iterator_midway_stops_all_threads_and_leaves_nothing(
    make_mkv: ClipMaker, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    midway(make_mkv, out, monkeypatch).close()
    assert list(out.iterdir()) == []
    assert our_threads() == []


def test_an_interrupt_midway_stops_all_threads_and_leaves_nothing(
    make_mkv: ClipMaker, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = midway(make_mkv, out, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt())
    assert list(out.iterdir()) == []
    assert our_threads() == []


def test_a_run_that_is_never_started_opens_nothing(make_clip: ClipMaker, out: Path) -> None:
    run(plan(Job(make_clip(), out / "a.mp4", SizeRequest(scale=2)))).close()
    assert list(out.iterdir()) == []


def test_a_folder_that_vanishes_before_the_run_is_one_sentence(
    make_clip: ClipMaker, out: Path
) -> None:
    planned = plan(Job(make_clip(), out / "a.mp4", SizeRequest(scale=2)))
    out.rmdir()
    with pytest.raises(MediaError, match="opening the output failed"):
        list(run(planned, stages=[Repeat(2)]))


# ------------------------------------------------------------------ fallbacks


class SmallMemory(TorchEngine):
    """Has no room for tiles that are wider than 40 pixels."""

    def __call__(self, tiles: Tensor) -> Tensor:
        if tiles.shape[-1] > 40:
            raise OutOfMemory("fake: out of memory")
        return super().__call__(tiles)


class Overflowing(TorchEngine):
    """Is never finite in half precision."""

    def __call__(self, tiles: Tensor) -> Tensor:
        output = super().__call__(tiles)
        return output if self.dtype == torch.float32 else output.fill_(torch.inf)


def last_of(planned: Plan | StillPlan) -> Result:
    (*_, result) = run(planned)
    assert isinstance(result, Result)
    return result


def test_memory_that_runs_out_is_counted_and_loses_no_frame(
    make_clip: ClipMaker, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_clip()
    whole = last_of(plan(Job(clip, out / "whole.mkv", SizeRequest(scale=2), encoder=LOSSLESS)))
    monkeypatch.setattr(choice, "TorchEngine", SmallMemory)
    planned = plan(Job(clip, out / "tiled.mkv", SizeRequest(scale=2), encoder=LOSSLESS))
    tiled = last_of(planned)
    assert whole.retiled == 0
    assert 1 <= tiled.retiled <= planned.engine.workers  # each finds out for itself, once
    assert (tiled.frames_in, tiled.frames_out) == (8, 8)
    for one, other in zip(pictures(out / "whole.mkv"), pictures(out / "tiled.mkv"), strict=True):
        for ours, theirs in zip(one, other, strict=True):
            # Another tile shape is another order of additions: a rounding may fall otherwise.
            assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_memory_that_runs_out_on_a_still_is_counted(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(gradient(0, 48, 32)).save(tmp_path / "a.png")
    monkeypatch.setattr(choice, "TorchEngine", SmallMemory)
    assert last_of(plan(Job(tmp_path / "a.png", out / "a.png"))).retiled == 1


def test_tiles_that_are_not_finite_are_counted_and_computed_again(
    make_clip: ClipMaker, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, size = make_clip(frames=3), SizeRequest(scale=2)
    exact = Job(clip, out / "exact.mkv", size, EngineRequest(precision="fp32"), LOSSLESS)
    assert last_of(plan(exact)).recomputed == 0
    monkeypatch.setattr(choice, "TorchEngine", Overflowing)
    half = Job(clip, out / "half.mkv", size, EngineRequest(precision="bf16"), LOSSLESS)
    assert last_of(plan(half)).recomputed == 3
    assert str(pictures(out / "half.mkv")) == str(pictures(out / "exact.mkv"))


def test_tiles_that_are_not_finite_on_a_still_are_counted(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(gradient(0, 48, 32)).save(tmp_path / "a.png")
    monkeypatch.setattr(choice, "TorchEngine", Overflowing)
    job = Job(tmp_path / "a.png", out / "a.png", engine=EngineRequest(precision="bf16"))
    assert last_of(plan(job)).recomputed == 1


# ------------------------------------------------------------------ trimming


def test_start_and_end_keep_the_half_open_interval(make_clip: ClipMaker, out: Path) -> None:
    clip = make_clip(frames=24, audio=True)
    trim = Trim(Fraction(8, 24), Fraction(16, 24))
    result = enlarge(clip, out / "a.mp4", trim=trim)
    assert (result.frames_in, result.frames_out) == (8, 8)
    assert moments(out / "a.mp4") == [Fraction(number, 24) for number in range(8)]
    kept = [data for pts, data in audio_packets(clip) if trim.holds(pts)]
    assert [data for _, data in audio_packets(out / "a.mp4")] == kept


def test_trimmed_pictures_are_those_of_the_interval(make_mkv: ClipMaker, out: Path) -> None:
    clip = make_mkv(frames=12)
    repeat_once(clip, out / "a.mkv", encoder=LOSSLESS, trim=Trim(Fraction(1, 4)))
    for ours, theirs in zip(pictures(out / "a.mkv"), pictures(clip)[6:], strict=True):
        assert np.array_equal(ours[0], theirs[0])


def late_clip(make_clip: ClipMaker, name: str, seconds: int = 3600, frames: int = 12) -> Path:
    """A clip whose clock does not begin at zero; every fourth picture is a key frame."""
    first, options = 24 * seconds, {"crf": "10", "bf": "0", "g": "4"}
    return make_clip(name, frames=frames, pts=[*range(first, first + frames)], options=options)


@pytest.mark.parametrize("name", ["late.ts", "late.mkv", "late.mp4"])
@pytest.mark.parametrize(("start", "end", "kept"), [(6, 9, 3), (6, None, 6), (None, 6, 6)])
def test_start_and_end_count_from_the_beginning_of_a_file_whose_clock_is_late(
    make_clip: ClipMaker, out: Path, name: str, start: int | None, end: int | None, kept: int
) -> None:
    clip = late_clip(make_clip, name)
    trim = Trim(*(None if number is None else Fraction(number, 24) for number in (start, end)))
    planned = plan(Job(clip, out / "a.mkv", SizeRequest(scale=2), encoder=LOSSLESS, trim=trim))
    assert isinstance(planned, Plan)
    assert planned.frames_expected == kept
    *_, result = run(planned, stages=[Repeat(2)])
    assert isinstance(result, Result)
    assert result.frames_out == kept
    begun = 3600 if start is None else 0
    assert float(moments(out / "a.mkv")[0]) == pytest.approx(begun, abs=0.001)  # Matroska's tick
    first = pictures(clip)[start or 0][0]
    assert np.array_equal(pictures(out / "a.mkv")[0][0], first.repeat(2, 0).repeat(2, 1))


def test_a_run_of_a_part_of_a_late_file_goes_on_where_it_was_cut(
    make_clip: ClipMaker, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_room, "REPORT_SECONDS", 0)
    clip, trim = late_clip(make_clip, "late.ts", frames=24), Trim(Fraction(6, 24), Fraction(20, 24))
    words: dict[str, Any] = {"trim": trim, "encoder": LOSSLESS}
    planned = plan(Job(clip, out / "a.mkv", SizeRequest(scale=2), **words))
    assert isinstance(planned, Plan)
    planned = dataclasses.replace(planned, segment_frames=4)
    events = run(planned, stages=[Repeat(2)])
    assert any(isinstance(event, Progress) and event.frames == 10 for event in events)
    events.close()
    first, *_, result = run(planned, stages=[Repeat(2)])
    assert isinstance(first, Progress)
    assert isinstance(result, Result)
    assert (first.resumed, result.frames_out) == (8, 14)
    enlarge(clip, out / "whole.mkv", resume=False, **words)
    assert moments(out / "a.mkv") == moments(out / "whole.mkv")
    for ours, theirs in zip(pictures(out / "a.mkv"), pictures(out / "whole.mkv"), strict=True):
        assert np.array_equal(ours[0], theirs[0])


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_the_disk_for_a_part_is_that_part_of_the_whole(
    make_clip: ClipMaker, out: Path, name: str
) -> None:
    clip, needed = make_clip(name, frames=24), []
    for trim in (Trim(), Trim(Fraction(1, 4), Fraction(1, 2))):
        planned = plan(Job(clip, out / "a.mkv", encoder=LOSSLESS, trim=trim, resume=False))
        assert isinstance(planned, Plan)
        needed.append(planned.disk_bytes)
    assert needed[1] == pytest.approx(needed[0] / 4, abs=2)  # whole bytes


def test_a_trim_with_no_picture_in_it_is_refused(make_clip: ClipMaker, out: Path) -> None:
    with pytest.raises(MediaError, match="no picture between --start and --end"):
        enlarge(make_clip(), out / "a.mp4", trim=Trim(Fraction(5), Fraction(6)))
    assert list(out.iterdir()) == []


# ------------------------------------------------------------------ damaged input


@pytest.fixture
def damaged(make_clip: ClipMaker) -> Path:
    """A clip whose fifth packet has noise in its second half."""
    clip = make_clip(frames=12, options={"crf": "10", "bf": "0"})
    with av.open(str(clip)) as container:
        packet = [packet for packet in container.demux() if packet.size][4]
        assert packet.pos is not None
        begin, end = packet.pos + packet.size // 2, packet.pos + packet.size
    content = bytearray(clip.read_bytes())
    content[begin:end] = np.random.default_rng(0).bytes(end - begin)
    clip.write_bytes(content)
    return clip


def test_damaged_frames_are_kept_and_counted(damaged: Path, out: Path) -> None:
    result = enlarge(damaged, out / "a.mp4")
    assert result.frames_in == result.frames_out
    assert any("damaged in the input" in note or "not be decoded" in note for note in result.notes)


def test_strict_refuses_damaged_input_and_leaves_nothing(damaged: Path, out: Path) -> None:
    with pytest.raises(MediaError, match="without --strict the rest is kept"):
        enlarge(damaged, out / "a.mp4", strict=True)
    assert list(out.iterdir()) == []


def test_strict_is_content_with_a_sound_file(make_clip: ClipMaker, out: Path) -> None:
    assert enlarge(make_clip(audio=True), out / "a.mp4", strict=True).notes == ()


def test_a_truncated_file_is_enlarged_as_far_as_it_goes(make_mkv: ClipMaker, out: Path) -> None:
    clip = make_mkv(frames=24, codec="libx264")
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    result = enlarge(clip, out / "a.mkv")
    assert 0 < result.frames_out < 24


@pytest.mark.parametrize("name", ["late.mkv", "late.mp4", "late.ts", "late.nut", "late.avi"])
def test_a_file_that_begins_late_is_not_taken_for_cut_short(
    make_clip: ClipMaker, out: Path, name: str
) -> None:
    clip = late_clip(make_clip, name, seconds=10, frames=48)
    assert enlarge(clip, out / "a.mkv", strict=True).notes == ()


@pytest.mark.parametrize("seconds", [0, 10])
def test_a_file_that_is_cut_short_is_said_to_be(
    make_clip: ClipMaker, out: Path, seconds: int
) -> None:
    clip = late_clip(make_clip, "late.mkv", seconds=seconds, frames=48)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    notes = enlarge(clip, out / "a.mkv").notes
    assert any("cut short" in note and "of the 2.00 s" in note for note in notes)


# ------------------------------------------------------------------ pixel formats


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "encoder", "written"),
    [
        ("yuv420p", "libx264", "h264", "yuv420p"),
        ("yuv422p", "libx264", "h264", "yuv422p"),
        ("yuv444p", "libx264", "h264", "yuv444p"),
        ("gray", "ffv1", "h264", "yuv420p"),  # written as 4:0:0; the decoder adds neutral chroma
        ("yuv420p10le", "ffv1", "hevc", "yuv420p10le"),
        ("yuv422p10le", "ffv1", "hevc", "yuv422p10le"),
        ("gray10le", "ffv1", "hevc", "gray10le"),
        ("bgr0", "ffv1", "h264", "yuv420p"),
        ("yuva420p", "ffv1", "h264", "yuv420p"),
    ],
)
def test_every_layout_keeps_depth_and_subsampling(
    make_mkv: ClipMaker, out: Path, pix_fmt: str, codec: str, encoder: str, written: str
) -> None:
    clip = make_mkv(pix_fmt=pix_fmt, codec=codec)
    result = enlarge(clip, out / "a.mkv")
    assert result.frames_out == 4
    with av.open(str(out / "a.mkv")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == (encoder, written)


@pytest.mark.parametrize("pix_fmt", ["bgr0", "gbrp10le"])
def test_rgb_stays_rgb_and_exact_for_a_lossless_encoder(
    make_mkv: ClipMaker, out: Path, pix_fmt: str
) -> None:
    clip = make_mkv(frames=3, pix_fmt=pix_fmt)
    result = enlarge(clip, out / "a.mkv", encoder=LOSSLESS)
    assert result.notes == ()
    with av.open(str(clip)) as before, av.open(str(out / "a.mkv")) as after:
        frames = zip(before.decode(video=0), after.decode(video=0), strict=True)
        for ours, theirs in frames:
            small, large = ours.to_ndarray(format="rgb48le"), theirs.to_ndarray(format="rgb48le")
            assert np.array_equal(large, small.repeat(2, axis=0).repeat(2, axis=1))


def test_rgb_that_becomes_yuv_is_said(make_mkv: ClipMaker, out: Path) -> None:
    clip = make_mkv(frames=2, pix_fmt="bgr0")
    assert any("RGB becomes YUV" in note for note in enlarge(clip, out / "a.mkv").notes)


def test_alpha_that_is_dropped_is_said(make_mkv: ClipMaker, out: Path) -> None:
    clip = make_mkv(frames=2, pix_fmt="yuva420p")
    assert any("alpha" in note for note in enlarge(clip, out / "a.mkv").notes)


def alpha_of(path: Path, decoder: str | None = None) -> Planes:
    """The alpha plane of every frame, the codes as stored."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        context = av.CodecContext.create(decoder, "r") if decoder else stream.codec_context
        packets = [packet for packet in file.demux(stream) if packet.size]
        frames = [f for packet in packets for f in context.decode(packet)] + context.decode(None)
        return [planes_of(frame)[-1] for frame in frames]


@pytest.fixture
def veil(tmp_path: Path) -> Path:
    """Three frames whose alpha is a smooth ramp from 0 to 255 across the picture."""
    path = tmp_path / "veil.mkv"
    with av.open(str(path), "w") as file:
        video = file.add_stream("ffv1", rate=24)
        video.width, video.height, video.pix_fmt = 64, 64, "yuva420p"
        for number in range(3):
            picture = av.VideoFrame(64, 64, "yuva420p")
            for plane in picture.planes[:3]:
                plane.update(bytes([100]) * plane.buffer_size)
            ramp = np.zeros((64, picture.planes[3].line_size), np.uint8)
            ramp[:, :64] = np.linspace(0, 255, 64)
            picture.planes[3].update(ramp.tobytes())
            picture.pts = number
            file.mux(video.encode(picture))
        file.mux(video.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "encoder", "decoder", "allowed"),
    [
        ("a.mkv", "ffv1", None, 1),  # bicubic on a ramp, and one rounding
        ("a.mov", "prores_ks", None, 6),  # lossy; FFmpeg decodes 4444 to 12 bits
        ("a.webm", "libvpx-vp9", "libvpx-vp9", 6),
        ("a.mkv", "libvpx-vp9", "libvpx-vp9", 6),
    ],
)
def test_alpha_is_enlarged_and_kept(
    veil: Path, out: Path, name: str, encoder: str, decoder: str | None, allowed: int
) -> None:
    quick = EncoderRequest(encoder=encoder, threads=1)
    result = enlarge(veil, out / name, encoder=quick)
    assert not any("alpha" in note for note in result.notes)
    planes = alpha_of(out / name, decoder)
    assert len(planes) == 3
    for plane in planes:
        ramp = plane.astype(float) * 255 / (4095 if encoder == "prores_ks" else 255)
        inside = ramp[8:-8, 8:-8]
        expected = ((np.arange(128) + 0.5) / 2 - 0.5) * 255 / 63
        assert np.abs(inside - expected[8:-8]).max() <= allowed


def test_alpha_that_is_left_alone_is_kept_to_the_bit(veil: Path, out: Path) -> None:
    repeat_once(veil, out / "a.mkv", encoder=LOSSLESS)
    for before, after in zip(alpha_of(veil), alpha_of(out / "a.mkv"), strict=True):
        np.testing.assert_array_equal(before, after)


def test_alpha_that_no_decoder_reads_is_named_and_not_claimed(veil: Path, out: Path) -> None:
    enlarge(veil, out / "a.webm", encoder=EncoderRequest(encoder="libvpx-vp9", threads=1))
    result = enlarge(out / "a.webm", out / "b.mkv")
    assert any("alpha channel is dropped: FFmpeg's decoder" in note for note in result.notes)
    with av.open(str(out / "b.mkv")) as file:
        assert "alpha_mode" not in file.streams.video[0].metadata


def test_alpha_beside_vp9_is_dropped_by_mp4_and_said(veil: Path, out: Path) -> None:
    result = enlarge(veil, out / "a.mp4", encoder=EncoderRequest(encoder="libvpx-vp9", threads=1))
    assert any("alpha channel is dropped: .mp4" in note for note in result.notes)


def test_an_odd_size_three_times_becomes_444_and_says_so(make_mkv: ClipMaker, out: Path) -> None:
    clip = make_mkv(frames=2, size=(47, 31))
    result = enlarge(clip, out / "a.mkv", 3)
    assert (result.width, result.height) == (141, 93)
    assert any("141x93 is odd" in note for note in result.notes)
    assert pictures(out / "a.mkv")[0][1].shape == (93, 141)


# ------------------------------------------------------------------ identity


def write_exact(path: Path, planes: list[Planes], pix_fmt: str, matrix: int, range_: int) -> Path:
    """Write planes losslessly, as they are, with these colour tags."""
    height, width = planes[0][0].shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        context = stream.codec_context
        context.colorspace, context.color_range = matrix, range_
        for number, picture in enumerate(planes):
            frame = av.VideoFrame(width, height, pix_fmt)
            for plane, values in zip(frame.planes, picture, strict=True):
                rows = np.frombuffer(plane, values.dtype).reshape(plane.height, -1)
                rows[:, : plane.width] = values
            frame.pts, frame.time_base = number, Fraction(1, 24)
            frame.colorspace, frame.color_range = matrix, range_
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def noise_on_smooth_chroma(depth: int, steps: tuple[int, int]) -> Planes:
    """Luma of every code, and chroma that is smooth at its own grid."""
    dtype, full = (np.uint8, 255) if depth == 8 else (np.uint16, 1023)
    luma = np.random.default_rng(0).integers(0, full + 1, (32, 48)).astype(dtype)
    height, width = 32 >> steps[1], 48 >> steps[0]
    y, x = np.mgrid[:height, :width]
    waves = (
        np.cos(np.pi * (x + 0.5) / width) * np.cos(np.pi * (y + 0.5) / height),
        np.cos(np.pi * (y + 0.5) / height),
    )
    middle, swing = (full + 1) // 2, full // 16
    return [luma, *((middle + swing * wave).round().astype(dtype) for wave in waves)]


STEPS = {"420": (1, 1), "422": (1, 0), "444": (0, 0)}


@pytest.mark.parametrize("matrix", [6, 1, 9], ids=["601", "709", "2020"])
@pytest.mark.parametrize("range_", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("subsampling", STEPS)
def test_an_identity_keeps_luma_exactly_and_chroma_within_a_code(
    tmp_path: Path, out: Path, subsampling: str, depth: int, range_: int, matrix: int
) -> None:
    pix_fmt = f"yuv{subsampling}p{'' if depth == 8 else '10le'}"
    source = noise_on_smooth_chroma(depth, STEPS[subsampling])
    clip = write_exact(tmp_path / "source.mkv", [source, source], pix_fmt, matrix, range_)
    result = repeat_once(clip, out / "a.mkv", encoder=LOSSLESS)
    assert (result.frames_out, result.notes) == (2, ())
    written = probe(out / "a.mkv")
    assert (written.pix_fmt, written.color.matrix, written.color.range) == (pix_fmt, matrix, range_)
    for luma, *chroma in pictures(out / "a.mkv"):
        # Y depends on R, G and B alone, of which nothing was rounded or clipped on the way.
        assert np.array_equal(luma, source[0])
        for ours, theirs in zip(chroma, source[1:], strict=True):
            # Subsampled chroma is interpolated and filtered again, which is exact for straight
            # slopes only; 4:4:4 is the same three numbers there and back.
            error = np.abs(ours.astype(int) - theirs).max()
            assert error <= (0 if subsampling == "444" else 1)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_an_identity_through_lossless_h264_in_mp4_is_the_same(
    tmp_path: Path, out: Path, pix_fmt: str
) -> None:
    source = noise_on_smooth_chroma(8, STEPS[pix_fmt[3:6]])
    clip = write_exact(tmp_path / "source.mkv", [source] * 3, pix_fmt, 1, 1)
    encoder = EncoderRequest(encoder="libx264", options={"crf": "0", "qp": "0"})
    repeat_once(clip, out / "a.mp4", encoder=encoder)
    for luma, *chroma in pictures(out / "a.mp4"):
        assert np.array_equal(luma, source[0])
        for ours, theirs in zip(chroma, source[1:], strict=True):
            assert np.abs(ours.astype(int) - theirs).max() <= 1  # as above


def test_repeating_pixels_repeats_the_luma_exactly(tmp_path: Path, out: Path) -> None:
    source = noise_on_smooth_chroma(8, (1, 1))
    clip = write_exact(tmp_path / "source.mkv", [source] * 2, "yuv420p", 1, 1)
    enlarge(clip, out / "a.mkv", encoder=LOSSLESS)
    for luma, *_ in pictures(out / "a.mkv"):
        rows = luma.reshape(32, 2, 48, 2).astype(int)
        # The chroma under the four copies of a pixel is the same, so their luma is too.
        assert np.array_equal(rows[:, 0, :, 0], source[0])
        assert np.array_equal(rows[:, 1, :, 1], source[0])


# ------------------------------------------------------------------ shown size


def test_sample_aspect_is_kept_by_a_scale_and_made_square_by_a_height(
    clips: Path, out: Path
) -> None:
    clip = clips / "awkward" / "interlaced_480i_sar32-27.mp4"
    kept = plan(Job(clip, out / "a.mp4", SizeRequest(scale=2)))
    square = plan(Job(clip, out / "a.mp4", SizeRequest(height=960)))
    assert isinstance(kept, Plan)
    assert isinstance(square, Plan)
    assert kept.video.sample_aspect == Fraction(32, 27)
    assert square.video.sample_aspect == 1
    assert (square.video.width, square.video.height) == (1706, 960)


def test_a_turned_clip_is_asked_by_its_shown_height(clips: Path, out: Path) -> None:
    clip = clips / "awkward" / "rotate90_tag.mp4"
    info = probe(clip)
    shown = info.displayed_size
    planned = plan(Job(clip, out / "a.mp4", SizeRequest(height=shown[1] * 2)))
    assert isinstance(planned, Plan)
    assert (planned.video.width, planned.video.height) == (info.width * 2, info.height * 2)


# ------------------------------------------------------------------ fields


@pytest.mark.parametrize(("wanted", "factor"), [("frame", 1), ("field", 2), ("off", 1)])
def test_interlaced_pictures_are_deinterlaced_as_asked_and_it_is_said(
    clips: Path, out: Path, wanted: Deinterlace, factor: int
) -> None:
    clip = clips / "awkward" / "interlaced_480i_sar32-27.mp4"
    trim = Trim(Fraction(1, 5), Fraction(2, 5))  # six frames
    fast = EncoderRequest(preset="ultrafast")
    result = repeat_once(clip, out / "a.mp4", trim=trim, encoder=fast, deinterlace=wanted)
    expected = [moment - trim.start for moment in moments(clip) if trim.holds(moment)]
    halves = [moment + Fraction(1, 60) for moment in expected]
    assert moments(out / "a.mp4") == sorted([*expected, *(halves if factor == 2 else [])])
    assert result.frames_in == result.frames_out == 6 * factor
    assert probe(out / "a.mp4").interlaced is (wanted == "off")
    said = {"frame": "one picture for each (", "field": "the frame rate is doubled", "off": "as it"}
    assert any("interlaced" in note and said[wanted] in note for note in result.notes)


# ------------------------------------------------------------------ stills


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """Write a picture of 48x32 with Pillow in a mode, and what is saved beside the pixels."""

    def make(name: str, mode: str = "RGB", **words: Any) -> Path:
        path = tmp_path / name
        image = Image.fromarray(gradient(0, 48, 32)).convert(mode)
        if mode.endswith("A"):
            image.putalpha(Image.fromarray(gradient(5, 48, 32)[..., 0].copy()))
        image.save(path, **words)
        return path

    return make


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_a_png_of_any_mode_keeps_colour_grey_and_alpha(
    picture: Callable[..., Path], out: Path, mode: str
) -> None:
    source = picture("a.png", mode)
    result = enlarge(source, out / "a.png")
    before, after = images.read(source), images.read(out / "a.png")
    assert (after.gray, after.alpha is None) == (before.gray, before.alpha is None)
    assert np.array_equal(after.rgb, before.rgb.repeat(2, axis=0).repeat(2, axis=1))
    assert (result.frames_in, result.frames_out, result.notes) == (1, 1, ())
    assert (result.width, result.height) == (96, 64)


def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path, out: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 65536, (32, 48, 3)).astype(np.uint16)
    image_writer.write(tmp_path / "a.png", images.Still(rgb))
    enlarge(tmp_path / "a.png", out / "a.png")
    after = images.read(out / "a.png")
    assert after.depth == 16
    assert np.array_equal(after.rgb, rgb.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_turned_picture_comes_out_upright_with_its_exif_and_profile(
    picture: Callable[..., Path], out: Path, suffix: str
) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "A camera"
    source = picture(f"a{suffix}", exif=exif, icc_profile=profile)
    result = enlarge(source, out / f"a{suffix}")
    assert (result.width, result.height) == (64, 96)
    with Image.open(out / f"a{suffix}") as after:
        assert after.size == (64, 96)
        assert after.getexif().get(0x0112, 1) == 1
        assert after.getexif()[0x010F] == "A camera"
        assert after.info["icc_profile"] == profile


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp", ".tiff"])
def test_other_formats_come_out_in_their_own(
    picture: Callable[..., Path], out: Path, suffix: str
) -> None:
    source = picture(f"a{suffix}")
    enlarge(source, out / f"a{suffix}")
    assert images.read(out / f"a{suffix}").format == images.read(source).format


def test_what_a_format_loses_is_said(picture: Callable[..., Path], out: Path) -> None:
    source = picture("a.png", dpi=(300, 300))
    assert "resolution is lost in this format" in enlarge(source, out / "a.webp").notes


def test_transparency_is_never_lost_in_silence(picture: Callable[..., Path], out: Path) -> None:
    with pytest.raises(RequestError, match="no transparency"):
        enlarge(picture("a.png", "RGBA"), out / "a.jpg")
    assert list(out.iterdir()) == []


def test_alpha_is_enlarged_beside_the_colour(picture: Callable[..., Path], out: Path) -> None:
    source = picture("a.png", "RGBA")
    enlarge(source, out / "a.png")
    before, after = images.read(source).alpha, images.read(out / "a.png").alpha
    assert before is not None
    assert after is not None
    assert after.shape == (64, 96)
    assert abs(float(after.mean()) - float(before.mean())) < 1  # a filter whose weights sum to one


def test_a_picture_is_not_written_as_a_video_nor_a_video_as_a_picture(
    picture: Callable[..., Path], make_clip: ClipMaker, out: Path
) -> None:
    with pytest.raises(RequestError, match=r"a picture is written as \.png"):
        plan(Job(picture("a.png"), out / "a.mp4"))
    with pytest.raises(RequestError, match=r"not \.png"):
        plan(Job(make_clip(), out / "a.png"))


def test_a_picture_s_exact_height_and_its_network(picture: Callable[..., Path], out: Path) -> None:
    result = last_of(plan(Job(picture("a.png"), out / "a.png", SizeRequest(height=100))))
    assert (result.width, result.height) == (150, 100)
    assert images.read(out / "a.png").rgb.shape == (100, 150, 3)


def test_events_of_a_still_are_one_result(picture: Callable[..., Path], out: Path) -> None:
    events: list[Event] = list(run(plan(Job(picture("a.png"), out / "a.png"))))
    assert [type(event) for event in events] == [Result]


# Reuse


def held_clip(path: Path, frames: int = 9) -> Path:
    """A drawing on threes: lossless, a square that moves on every third frame."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("ffv1", rate=24)
        video.width, video.height, video.pix_fmt = 160, 128, "yuv420p"
        for number in range(frames):
            drawing = gradient(0, 160, 128)
            drawing[8 : 8 + 6, 4 * (number // 3) : 4 * (number // 3) + 6] = 255
            picture = av.VideoFrame.from_ndarray(drawing, format="rgb24").reformat(format="yuv420p")
            file.mux(video.encode(picture))
        file.mux(video.encode(None))
    return path


def finish(source: Path, destination: Path, **words: Any) -> Result:
    """Run a job with its own network."""
    engine = EngineRequest(device="cpu", threads=2, **words)
    job = Job(source, destination, SizeRequest(scale=2), engine, LOSSLESS)
    *_, result = run(plan(job))
    assert isinstance(result, Result)
    return result


def test_reuse_gives_the_same_pictures_and_says_how_much_was_reused(
    tmp_path: Path, out: Path
) -> None:
    clip = held_clip(tmp_path / "held.mkv")
    exact = finish(clip, out / "exact.mkv")
    off = finish(clip, out / "off.mkv", reuse="off")
    assert off.reused == 0
    assert exact.reused >= 6 / 9
    assert exact.frames_out == off.frames_out == 9
    ours, theirs = frames_of(exact.destination), frames_of(off.destination)
    for one, two in zip(ours, theirs, strict=True):
        assert one.pts == two.pts
        assert all(np.array_equal(a, b) for a, b in zip(one.planes, two.planes, strict=True))


def test_a_run_in_segments_says_how_much_was_reused(tmp_path: Path, out: Path) -> None:
    clip = held_clip(tmp_path / "held.mkv")
    engine = EngineRequest(device="cpu", threads=2)
    job = Job(clip, out / "a.mkv", SizeRequest(scale=2), engine, LOSSLESS)
    planned = plan(job)
    assert isinstance(planned, Plan)
    *_, result = run(dataclasses.replace(planned, segment_frames=5))
    assert isinstance(result, Result)
    assert result.reused >= 5 / 9  # of three drawings, one begins a segment once more


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_reuse_along_the_motion_keeps_every_frame(tmp_path: Path, out: Path, engine: str) -> None:
    pytest.importorskip("cv2")
    if engine != "torch":
        pytest.importorskip(engine)
    clip = held_clip(tmp_path / "held.mkv")
    result = finish(clip, out / "motion.mkv", reuse="motion", engine=engine)
    assert result.frames_out == 9
    assert result.reused >= 6 / 9


def test_reuse_by_openvino_gives_the_same_pictures(tmp_path: Path, out: Path) -> None:
    pytest.importorskip("openvino")
    clip = held_clip(tmp_path / "held.mkv")
    words: dict[str, Any] = {"engine": "openvino", "precision": "fp32", "tile": 72}
    exact = finish(clip, out / "exact.mkv", **words)
    off = finish(clip, out / "off.mkv", reuse="off", **words)
    assert exact.reused > 6 / 9  # and whole tiles of the rest
    ours, theirs = frames_of(exact.destination), frames_of(off.destination)
    for one, two in zip(ours, theirs, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one.planes, two.planes, strict=True))


def test_a_picture_has_nothing_before_it_to_reuse(picture: Callable[..., Path], out: Path) -> None:
    pytest.importorskip("cv2")
    planned = plan(Job(picture("a.png"), out / "a.png", engine=EngineRequest(reuse="motion")))
    assert planned.engine.reuse == "off"  # so it is written in bands as ever


def test_the_error_of_motion_is_refused_without_it() -> None:
    with pytest.raises(RequestError, match="--reuse motion"):
        EngineRequest(reuse_error=4)
    with pytest.raises(RequestError, match="negative"):
        EngineRequest(reuse="motion", reuse_error=-1)


def test_motion_without_opencv_names_the_way_out(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    opencv.cache_clear()
    with pytest.raises(RequestError, match=r"vidsr\[color\]"):
        finish(held_clip(tmp_path / "held.mkv"), out / "motion.mkv", reuse="motion")
    assert list(out.iterdir()) == []
