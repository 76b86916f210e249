"""THE MAIN PATH, start reading here: Job -> plan(job) -> Plan -> run(plan) -> events.

A `Job` is what was asked for. `plan` turns it into a `Plan`: everything that is decided before the
first frame, and the place where everything can fail cheaply. `run` does it and yields events.

Note [Jobs are data]
~~~~~~~~~~~~~~~~~~~~
A Job holds nothing open, survives pickle and JSON, and says the same on another machine. So a
batch is a list of Jobs, a resumed run can compare Jobs, and a cluster can send them.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidsr.engines.torch_engine import TorchEngine, open_device
from vidsr.errors import MediaError, RequestError, VerificationError
from vidsr.frame import Frame, Packet
from vidsr.media import images
from vidsr.media.color import ColorConverter
from vidsr.media.encoders import EncoderRequest, VideoFormat, choose_format
from vidsr.media.probe import VideoInfo, probe
from vidsr.media.reader import ReadReport, Trim, VideoReader
from vidsr.media.writer import TrackPlan, VideoWriter, WriteReport
from vidsr.models.load import Network, load_mixed
from vidsr.pipeline import Ahead, Chain, Worker, stream, workers_on
from vidsr.planning import (
    EnginePlan,
    EngineRequest,
    Shape,
    SizeRequest,
    Target,
    check_destination,
    check_disk,
    choose_container,
    choose_destination,
    choose_target,
    plan_engine,
    size_warnings,
)
from vidsr.stages import Counters, Resize, Stage, Upscale

REPORT_SECONDS = 0.5
QUEUED_FRAMES = 4  # of the output's size, before and after the network each
CUT_SHORT = 0.9  # of what the header promises; headers are often a little off
Item = Frame | Packet


@dataclass(frozen=True)
class Job:
    """What was asked for. Plain data."""

    source: Path
    destination: Path | None = None  # None: beside the source
    size: SizeRequest = field(default_factory=SizeRequest)
    engine: EngineRequest = field(default_factory=EngineRequest)
    encoder: EncoderRequest = field(default_factory=EncoderRequest)
    trim: Trim = field(default_factory=Trim)
    overwrite: bool = False
    strict: bool = False  # damaged input is an error

    def __post_init__(self) -> None:
        start, end = self.trim.start, self.trim.end
        if end is not None and end <= (start or 0):
            raise RequestError(f"--end {float(end):g} is not after --start {float(start or 0):g}")


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the first frame of a video."""

    job: Job
    info: VideoInfo
    destination: Path
    target: Target
    engine: EnginePlan
    video: VideoFormat
    tracks: tuple[TrackPlan, ...]
    notes: tuple[str, ...]  # what will change or be lost, and why
    disk_bytes: int  # estimate

    @property
    def frames_expected(self) -> int:
        """An estimate for progress, from the header or from duration and rate."""
        if self.job.trim.end is None and self.job.trim.start is None:
            counted = self.info.frames_from_header
        else:
            counted = 0
        end = min(float(self.job.trim.end or 1e12), self.info.seconds_from_header)
        seconds = max(0.0, end - float(self.job.trim.start or 0))
        return counted or round(seconds * self.info.frame_rate)


@dataclass(frozen=True)
class StillPlan:
    """Everything that is decided before a single picture is enlarged."""

    job: Job
    still: images.Still
    destination: Path
    target: Target
    engine: EnginePlan
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    frames: int
    frames_expected: int
    seconds: float
    busy: dict[str, float]  # share of the time that decode, compute and encode were at work

    @property
    def frames_per_second(self) -> float:
        """Mean rate since the start."""
        return self.frames / self.seconds if self.seconds else 0.0

    @property
    def bottleneck(self) -> str:
        """The part that the others wait for."""
        return max(self.busy, key=lambda part: self.busy[part])


@dataclass(frozen=True)
class Result:
    """What a finished run did."""

    destination: Path
    width: int
    height: int
    frames_in: int
    frames_out: int
    seconds: float
    bytes: int
    retiled: int = 0  # pictures computed again with smaller tiles, memory having run out
    recomputed: int = 0  # tiles computed again in fp32, half precision not being finite
    busy: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what was dropped or changed, and why


Event = Progress | Result


def plan(job: Job, *, cache_dir: Path | None = None) -> Plan | StillPlan:
    """Decide everything; opens the source, the model's card and weights, and no output.

    Args:
        job: what was asked for.
        cache_dir: where the measured precision of this processor is remembered, if anywhere.

    Raises:
        VidsrError: whatever can be known to fail, with the exit code of its class.
    """
    if images.is_picture(job.source):
        return _plan_still(job, cache_dir)
    info = probe(job.source)
    shape = Shape(
        info.width, info.height, info.sample_aspect or Fraction(1), bool(info.rotation % 180)
    )
    target = choose_target(job.size, shape)
    size = (info.width, info.height)
    engine = plan_engine(job.engine, target.factor, size, cache_dir=cache_dir)
    if info.color.is_hdr:
        engine = replace(engine, weights=replace(engine.weights, fidelity=1.0))
    video, changes = choose_format(info, (target.width, target.height), job.encoder)
    video = replace(video, sample_aspect=_sample_aspect(info, target))
    wanted = choose_destination(job.source, job.destination, target.factor)
    explicit = job.destination is not None and not job.destination.is_dir()
    destination, tracks, moved = choose_container(info, wanted, explicit=explicit, video=video)
    check_destination(job.source, destination, overwrite=job.overwrite)
    dropped = [f"{track.stream} is dropped: {track.reason}" for track in tracks if track.reason]
    disk = _estimate_disk(info, video)
    check_disk(destination.parent, disk)
    return Plan(
        job=job,
        info=info,
        destination=destination,
        target=target,
        engine=engine,
        video=video,
        tracks=tracks,
        notes=(*moved, *dropped, *changes, *_warnings(info, engine), *size_warnings(target)),
        disk_bytes=disk,
    )


def run(
    plan: Plan | StillPlan, *, stages: list[Stage] | None = None
) -> Generator[Event, None, None]:
    """Do it: yields `Progress` now and then and one `Result` at the end.

    The output appears under its final name only when it is whole and verified. Closing the
    iterator, or an exception thrown into it, stops everything and leaves nothing behind.

    Args:
        plan: from `plan`.
        stages: what is done to each picture, instead of the plan's network (for tests).

    Raises:
        VidsrError: what went wrong, with the exit code of its class.
    """
    if isinstance(plan, StillPlan):
        yield _run_still(plan, stages or open_stages(plan.engine, plan.target))
        return
    torch.set_num_threads(plan.engine.threads)
    workers = _workers(plan, stages)
    reader = VideoReader(plan.info, copied=_copied(plan), threads=0, trim=plan.job.trim)
    with VideoWriter(
        plan.destination,
        source=plan.info,
        video=plan.video,
        tracks=plan.tracks,
        start=plan.job.trim.start,
        end=plan.job.trim.end,
    ) as writer:
        clock = _Clock(plan.frames_expected)
        limit = QUEUED_FRAMES * plan.video.frame_bytes
        with (
            Ahead(reader, limit=limit, name="decode") as decoded,
            Ahead(stream(decoded, workers), limit=limit, name="compute") as done,
        ):
            clock.watch(decoded, done)
            for item in done:
                writer.write(item)
                if isinstance(item, Frame) and (progress := clock.progress(writer.report.frames)):
                    yield progress
        _check_read(plan, reader.report)
        report = writer.finish()
    yield _result(plan, workers, reader.report, report, clock)


def _copied(plan: Plan) -> tuple[int, ...]:
    """Streams with packets to copy; attachments are written with the header."""
    return tuple(
        track.stream.index
        for track in plan.tracks
        if track.action == "copy" and track.stream.kind != "attachment"
    )


def _workers(plan: Plan, stages: list[Stage] | None) -> list[Worker]:
    device = torch.device(plan.engine.device)
    if stages:
        return workers_on(device, lambda: _chain(plan, stages), 1)
    return workers_on(
        device, lambda: _chain(plan, open_stages(plan.engine, plan.target)), plan.engine.workers
    )


def _chain(plan: Plan, stages: list[Stage]) -> Chain:
    device = torch.device(plan.engine.device)
    return Chain(
        source=ColorConverter(
            replace(plan.info.layout, alpha=False), plan.info.color, device=device
        ),
        stages=stages,
        target=ColorConverter(plan.video.layout, plan.video.color, device=device),
        layout=plan.video.layout,
        color=plan.video.color,
        width=plan.video.width,
        height=plan.video.height,
    )


def open_stages(engine: EnginePlan, target: Target, network: Network | None = None) -> list[Stage]:
    """The network of a plan, ready on its device, and the reduction to an exact size if needed.

    Args:
        engine: how the network is run.
        target: the size that comes out.
        network: of `engine.weights`, by whoever has loaded it before; it is copied.
    """
    upscale = Upscale(
        TorchEngine(
            network or load_mixed(engine.weights),
            scale=engine.card.scale,
            device=open_device(engine.device),
            precision=engine.precision,
            tile=(engine.tile, engine.tile),
            batch=engine.batch,
        ),
        halo=engine.card.halo,
        overlap=engine.overlap,
        tile=engine.tile,
        batch=engine.batch,
    )
    exact = target.factor == engine.card.scale and not target.square_pixels
    return [upscale] if exact else [upscale, Resize(target.height, target.width)]


def estimate_seconds(plan: Plan) -> float:
    """Seconds the engine will need for the whole file, by timing one picture of its size."""
    stages = open_stages(plan.engine, plan.target)
    torch.set_num_threads(plan.engine.threads)
    picture = torch.rand(1, 3, plan.info.height, plan.info.width, device=plan.engine.device)
    seconds = []
    for _ in range(2):  # the first warms up
        began = time.perf_counter()
        rgb = picture
        with torch.inference_mode():
            for stage in stages:
                rgb = stage(rgb)
        rgb[..., 0, 0].cpu()  # waits for the device
        seconds.append(time.perf_counter() - began)
    return seconds[-1] * plan.frames_expected / plan.engine.workers


class _Clock:
    """Turns what the threads did into progress."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.began = self.reported = time.perf_counter()
        self.busy: dict[str, float] = {}

    def watch(self, decoded: Ahead[Item], done: Ahead[Item]) -> None:
        self.decoded, self.done = decoded, done

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def progress(self, frames: int) -> Progress | None:
        """A report, unless the last one was just now."""
        now = time.perf_counter()
        if now - self.reported < REPORT_SECONDS:
            return None
        self.reported = now
        return Progress(frames, self.expected, self.seconds, self.shares())

    def shares(self) -> dict[str, float]:
        """How much of the time each part was at work and not waiting for another."""
        seconds = max(self.seconds, 1e-9)
        return {
            "decode": self.decoded.busy_seconds / seconds,
            "compute": (self.done.busy_seconds - self.decoded.starved_seconds) / seconds,
            "encode": 1 - self.done.starved_seconds / seconds,
        }


def _check_read(plan: Plan, report: ReadReport) -> None:
    source = plan.info.path
    if report.frames == 0:
        raise MediaError(f"{source}: no picture between --start and --end, or none decodable")
    damage = _damage(plan, report)
    if damage and plan.job.strict:
        raise MediaError(f"{source}: {'; '.join(damage)}; without --strict the rest is kept")


def _damage(plan: Plan, report: ReadReport) -> list[str]:
    notes = []
    if report.damaged:
        notes.append(f"{report.damaged} of {report.frames} frames are damaged in the input")
    if report.undecodable:
        notes.append(f"{report.undecodable} packets of the input could not be decoded")
    if report.broken_off:
        notes.append(f"reading the input broke off early ({report.broken_off})")
    promised, found = plan.info.seconds_from_header, float(report.last - (report.first or 0))
    if plan.job.trim == Trim() and found < CUT_SHORT * promised:
        notes.append(f"the input is cut short: {found:.2f} s of the {promised:.2f} s it promises")
    return notes


def _result(
    plan: Plan, workers: list[Worker], read: ReadReport, written: WriteReport, clock: _Clock
) -> Result:
    if read.frames != written.frames:
        raise VerificationError(
            f"{plan.destination}: {read.frames} frames went in, {written.frames} came out"
        )
    silent = read.packets - read.frames - read.trimmed - read.undecodable
    notes = [*plan.notes, *_damage(plan, read)]
    if silent > 0 and plan.job.trim == Trim():
        notes.append(f"{silent} packets gave no picture (outside an edit list, or empty)")
    if written.lost_tags:
        notes.append(f"the container cannot hold the tags {', '.join(written.lost_tags)}")
    if written.empty:
        notes.append(f"empty streams of the input were left out: {written.empty}")
    chains = {id(worker.chain): worker.chain for worker in workers}.values()
    fallbacks = _fallbacks([stage for chain in chains for stage in chain.stages])
    return Result(
        destination=plan.destination,
        width=plan.video.width,
        height=plan.video.height,
        frames_in=read.frames,
        frames_out=written.frames,
        seconds=clock.seconds,
        bytes=written.bytes,
        retiled=fallbacks.retiled,
        recomputed=fallbacks.recomputed,
        busy=clock.shares(),
        notes=tuple(notes),
    )


def _fallbacks(stages: list[Stage]) -> Counters:
    """What the stages counted, together."""
    counters = [stage.counters for stage in stages if isinstance(stage, Upscale)]
    return Counters(sum(one.retiled for one in counters), sum(one.recomputed for one in counters))


def _sample_aspect(info: VideoInfo, target: Target) -> Fraction | None:
    """Unchanged for a plain scale; square where an exact displayed size was asked for."""
    return Fraction(1) if target.square_pixels and info.sample_aspect else info.sample_aspect


def _warnings(info: VideoInfo, engine: EnginePlan) -> list[str]:
    notes = []
    if info.interlaced:
        notes.append("interlaced input is processed as it is: combed edges may show")
    if info.color.is_hdr:
        notes.append("HDR: the code values are enlarged as they are, nothing is tone-mapped")
        if engine.weights.twin is not None:
            notes.append("HDR: the fidelity weights alone, perceptual ones are for SDR")
    return notes


def _estimate_disk(info: VideoInfo, video: VideoFormat) -> int:
    """A tenth of a bit per pixel, or 1.5 bytes if lossless: the right order of magnitude."""
    frames = info.frames_from_header or info.seconds_from_header * float(info.frame_rate)
    bits = 12 if video.encoder in {"ffv1", "prores_ks"} else 0.1
    return int(frames * video.width * video.height * bits / 8) + info.path.stat().st_size // 4


def _plan_still(job: Job, cache_dir: Path | None) -> StillPlan:
    still = images.read(job.source)
    height, width = still.rgb.shape[:2]
    target = choose_target(job.size, Shape(width, height))
    destination = choose_destination(job.source, job.destination, target.factor)
    if not images.is_picture(destination):
        raise RequestError(f"{destination}: a picture is written as {', '.join(images.SUFFIXES)}")
    check_destination(job.source, destination, overwrite=job.overwrite)
    images.check_kept(destination, still)
    engine = plan_engine(job.engine, target.factor, (width, height), cache_dir=cache_dir)
    return StillPlan(job, still, destination, target, engine, tuple(size_warnings(target)))


def _run_still(plan: StillPlan, stages: list[Stage]) -> Result:
    began = time.perf_counter()
    torch.set_num_threads(plan.engine.threads * plan.engine.workers)
    still, device = plan.still, plan.engine.device
    rgb = _enlarge(stages, still.rgb, device)
    alpha = None
    if still.alpha is not None:
        mask = torch.from_numpy(still.alpha)[None, None].float()
        mask = F.interpolate(mask, size=rgb.shape[:2], mode="bicubic", antialias=True)[0, 0]
        alpha = _codes(mask / float(np.iinfo(still.alpha.dtype).max), still.alpha.dtype)
    lost = images.write(plan.destination, replace(still, rgb=rgb, alpha=alpha))
    notes = (*plan.notes, *(f"{what} is lost in this format" for what in lost))
    fallbacks = _fallbacks(stages)
    return Result(
        destination=plan.destination,
        width=plan.target.width,
        height=plan.target.height,
        frames_in=1,
        frames_out=1,
        seconds=time.perf_counter() - began,
        bytes=plan.destination.stat().st_size,
        retiled=fallbacks.retiled,
        recomputed=fallbacks.recomputed,
        notes=notes,
    )


@torch.inference_mode()
def _enlarge(stages: list[Stage], picture: images.Samples, device: str) -> images.Samples:
    """(H,W,3) codes -> larger (H,W,3) codes of the same depth."""
    full = float(np.iinfo(picture.dtype).max)
    rgb = torch.from_numpy(picture).to(device).permute(2, 0, 1)[None].float().div_(full)
    for stage in stages:
        enlarged = stage(rgb)
        bad = stage.faulty is not None and bool(stage.faulty.any())
        rgb = stage.redo(rgb) if bad else enlarged
    return _codes(rgb[0].permute(1, 2, 0), picture.dtype)


def _codes(values: Tensor, dtype: np.dtype[np.uint8 | np.uint16]) -> images.Samples:
    """[0,1] -> codes: clipped, then rounded once."""
    full = float(np.iinfo(dtype).max)
    codes = values.float().clamp(0, 1).mul(full).round_().cpu().numpy()
    return np.ascontiguousarray(codes.astype(dtype))
