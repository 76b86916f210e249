"""THE MAIN PATH, start reading here: Job -> plan(job) -> Plan -> run(plan) -> events.

A `Job` is what was asked for. `plan` turns it into a `Plan`: everything that is decided before the
first frame, and the place where everything can fail cheaply. `run` does it and yields events.

Note [Jobs are data]
~~~~~~~~~~~~~~~~~~~~
A Job holds nothing open, survives pickle and JSON, and says the same on another machine. So a
batch is a list of Jobs, a resumed run can compare Jobs, and a cluster can send them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidsr.coloring import WARM_UP_FRAMES, Colorize, Reference, Tint, tint_of
from vidsr.engines.torch_engine import TorchEngine, open_device
from vidsr.errors import MediaError, RequestError, VerificationError
from vidsr.frame import ColorSpec, Frame, Matrix, Packet, PixelLayout
from vidsr.media import images
from vidsr.media.color import ColorConverter, luma_weights
from vidsr.media.encoders import EncoderRequest, VideoFormat, choose_format
from vidsr.media.probe import VideoInfo, probe
from vidsr.media.reader import ReadReport, Trim, VideoReader
from vidsr.media.snapshot import frames_along
from vidsr.media.writer import TrackPlan, VideoWriter, WriteReport
from vidsr.models.load import Network, load, load_mixed
from vidsr.pipeline import Ahead, Chain, Worker, stream, workers_on
from vidsr.planning import (
    ColorPlan,
    ColorRequest,
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
    judge_color,
    plan_color,
    plan_engine,
    size_warnings,
)
from vidsr.stages import Counters, Resize, Stage, Upscale

REPORT_SECONDS = 0.5
QUEUED_FRAMES = 4  # of the output's size, before and after the network each
CUT_SHORT = 0.9  # of what the header promises; headers are often a little off
LOOKS = 5  # at frames of an input, to see whether it is in color
Item = Frame | Packet
_Format = tuple[PixelLayout, ColorSpec]  # how samples lie, and what they mean


@dataclass(frozen=True)
class Job:
    """What was asked for. Plain data."""

    source: Path
    destination: Path | None = None  # None: beside the source
    size: SizeRequest | None = field(default_factory=SizeRequest)  # None: as it is, only colored
    engine: EngineRequest = field(default_factory=EngineRequest)
    encoder: EncoderRequest = field(default_factory=EncoderRequest)
    trim: Trim = field(default_factory=Trim)
    overwrite: bool = False
    strict: bool = False  # damaged input is an error
    color: ColorRequest | None = None  # None: the source's own is kept

    def __post_init__(self) -> None:
        if self.size is None and self.color is None:
            raise RequestError("neither a size nor color is asked for: nothing to do")
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
    engine: EnginePlan  # of what enlarges; if nothing does, of what colors
    color: ColorPlan | None
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
    """Everything that is decided before a single picture is enlarged or colored."""

    job: Job
    still: images.Still
    destination: Path
    target: Target
    engine: EnginePlan  # as in `Plan`
    color: ColorPlan | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    frames: int
    frames_expected: int
    seconds: float
    busy: dict[str, float]  # share of the time that decode, color, compute, encode were at work

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
    engine, color = _networks(job, target, (info.width, info.height), cache_dir)
    if info.color.is_hdr:
        engine = replace(engine, weights=replace(engine.weights, fidelity=1.0))
    video, changes = _choose_format(job, info, target)
    video = replace(video, sample_aspect=_sample_aspect(info, target))
    wanted = _wanted_destination(job, target)
    explicit = job.destination is not None and not job.destination.is_dir()
    destination, tracks, moved = choose_container(info, wanted, explicit=explicit, video=video)
    check_destination(job.source, destination, overwrite=job.overwrite)
    dropped = [f"{track.stream} is dropped: {track.reason}" for track in tracks if track.reason]
    disk = _estimate_disk(info, video)
    check_disk(destination.parent, disk)
    tinted = _judge_video(job, info)
    return Plan(
        job=job,
        info=info,
        destination=destination,
        target=target,
        engine=engine,
        color=color,
        video=video,
        tracks=tracks,
        notes=(
            *tinted,
            *(*moved, *dropped, *changes),
            *(*_warnings(info, engine), *size_warnings(target)),
        ),
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
        yield _run_still(plan, stages or _still_stages(plan))
        return
    torch.set_num_threads(plan.engine.threads)
    streams = _streams(plan, stages)
    reader = VideoReader(
        plan.info, copied=_copied(plan), threads=0, trim=plan.job.trim, lead=_lead(plan)
    )
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
        with contextlib.ExitStack() as queues:
            items = clock.watch("decode", queues.enter_context(_ahead(reader, limit, "decode")))
            for name, workers in streams.items():
                queue = queues.enter_context(_ahead(stream(items, workers), limit, name))
                items = clock.watch(name, queue)
            for item in items:
                writer.write(item)
                if isinstance(item, Frame) and (progress := clock.progress(writer.report.frames)):
                    yield progress
        _check_read(plan, reader.report)
        report = writer.finish()
    chains = [worker.chain for workers in streams.values() for worker in workers]
    yield _result(plan, chains, reader.report, report, clock)


def _ahead(items: Iterable[Item], limit: int, name: str) -> Ahead[Item]:
    return Ahead(items, limit=limit, name=name)


def _lead(plan: Plan) -> int:
    """Frames before the start that steady color is warmed up on."""
    steady = plan.color is not None and plan.color.look.stability > 0
    return WARM_UP_FRAMES if steady else 0


def _copied(plan: Plan) -> tuple[int, ...]:
    """Streams with packets to copy; attachments are written with the header."""
    return tuple(
        track.stream.index
        for track in plan.tracks
        if track.action == "copy" and track.stream.kind != "attachment"
    )


def _streams(plan: Plan, stages: list[Stage] | None) -> dict[str, list[Worker]]:
    """The workers of each stream that frames pass through, in order; see Note [Two slots]."""
    device = torch.device(plan.engine.device)
    arriving, leaving = (plan.info.layout, plan.info.color), (plan.video.layout, plan.video.color)
    if stages:
        return {"compute": workers_on(device, lambda: _chain(plan, arriving, stages, leaving), 1)}
    streams = {}
    if plan.color is not None:
        color = plan.color
        between = leaving if plan.job.size is None else _in_between(plan.info)

        def coloring() -> Chain:
            return _chain(plan, arriving, [open_colorizer(color, plan.info.color.matrix)], between)

        streams["color"] = workers_on(device, coloring, 1)
        arriving = between
    if plan.job.size is not None:

        def enlarging() -> Chain:
            return _chain(plan, arriving, open_stages(plan.engine, plan.target), leaving)

        streams["compute"] = workers_on(device, enlarging, plan.engine.workers)
    return streams


def _in_between(info: VideoInfo) -> _Format:
    """How colored frames look that are still to be enlarged."""
    return PixelLayout("rgb" if info.layout.model == "rgb" else "yuv", 16), info.color


def _chain(plan: Plan, arriving: _Format, stages: list[Stage], leaving: _Format) -> Chain:
    device = torch.device(plan.engine.device)
    height, width = plan.info.height, plan.info.width
    for stage in stages:
        height, width = stage.output_size(height, width)
    return Chain(
        source=ColorConverter(replace(arriving[0], alpha=False), arriving[1], device=device),
        stages=stages,
        target=ColorConverter(*leaving, device=device),
        layout=leaving[0],
        color=leaving[1],
        width=width,
        height=height,
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


def open_colorizer(color: ColorPlan, matrix: Matrix) -> Colorize:
    """The colorizer of a plan, ready on its device, for pictures of a matrix."""
    device = open_device(color.engine.device)
    network = load(color.engine.card, color.engine.weights.path)
    ready = network.to(device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    reference = None
    if color.reference is not None:
        reference = Reference(_rgb(images.read(color.reference)).to(device))
    return Colorize(ready, look=color.look, reference=reference, luma_weights=luma_weights(matrix))


def estimate_seconds(plan: Plan) -> float:
    """Seconds the networks will need for the whole file, by timing one picture of its size."""
    seconds = 0.0
    if plan.color is not None:
        seconds += _seconds_of(plan, [open_colorizer(plan.color, plan.info.color.matrix)])
    if plan.job.size is not None:
        one = _seconds_of(plan, open_stages(plan.engine, plan.target))
        seconds = max(seconds, one / plan.engine.workers)  # they work side by side
    return seconds * plan.frames_expected


def _seconds_of(plan: Plan, stages: list[Stage]) -> float:
    """Seconds that stages take for a picture like the source's."""
    torch.set_num_threads(plan.engine.threads)
    pictures = torch.rand(2, 1, 3, plan.info.height, plan.info.width, device=plan.engine.device)
    seconds = []
    for picture in pictures:  # the first warms up
        began = time.perf_counter()
        rgb = picture
        with torch.inference_mode():
            for stage in stages:
                rgb = stage(rgb)
        rgb[..., 0, 0].cpu()  # waits for the device
        seconds.append(time.perf_counter() - began)
    return seconds[-1]


class _Clock:
    """Turns what the threads did into progress."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.began = self.reported = time.perf_counter()
        self.queues: dict[str, Ahead[Item]] = {}  # in the order in which frames pass them

    def watch(self, name: str, queue: Ahead[Item]) -> Ahead[Item]:
        self.queues[name] = queue
        return queue

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
        seconds, waited, shares = max(self.seconds, 1e-9), 0.0, {}
        for name, queue in self.queues.items():
            shares[name] = (queue.busy_seconds - waited) / seconds
            waited = queue.starved_seconds
        return {**shares, "encode": 1 - waited / seconds}


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
    plan: Plan, chains: list[Chain], read: ReadReport, written: WriteReport, clock: _Clock
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
    each = {id(chain): chain for chain in chains}.values()  # on a device, slots share one
    fallbacks = _fallbacks([stage for chain in each for stage in chain.stages])
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


def _networks(
    job: Job, target: Target, size: tuple[int, int], cache_dir: Path | None
) -> tuple[EnginePlan, ColorPlan | None]:
    """What enlarges (else what colors) pictures of `size` (width, height), and what colors."""
    color = None if job.color is None else plan_color(job.color, job.engine)
    if job.size is None and color is not None:
        return color.engine, color
    return plan_engine(job.engine, target.factor, size, cache_dir=cache_dir), color


def _wanted_destination(job: Job, target: Target) -> Path:
    colored = job.color is not None
    return choose_destination(job.source, job.destination, target.factor, colored=colored)


def _choose_format(job: Job, info: VideoInfo, target: Target) -> tuple[VideoFormat, list[str]]:
    """As `choose_format`; color needs chroma, 4:2:0 where the source has none."""
    size = target.width, target.height
    if job.color is None:
        return choose_format(info, size, job.encoder)
    if info.layout.model == "gray":
        info = replace(info, layout=PixelLayout("yuv", info.layout.depth, (1, 1)))
    video, notes = choose_format(info, size, job.encoder)
    if video.layout.model == "gray":
        raise RequestError(
            f"{job.encoder.pix_fmt or video.encoder} holds no color; leave --pix-fmt out"
        )
    return video, notes


def _judge_video(job: Job, info: VideoInfo) -> list[str]:
    """What is to be said of the source's own color, if it is to be colored."""
    if job.color is None:
        return []
    if info.color.is_hdr:
        raise RequestError(
            f"{job.source} is HDR (PQ or HLG), which is not colored; convert it to SDR first"
        )
    if info.layout.model == "gray":
        return []
    tints: list[Tint] = [tint_of(rgb) for rgb in frames_along(info, job.trim, LOOKS)]
    return judge_color(job.source, tints, force=job.color.force)


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
    if job.color is not None:  # nothing moves in a still, so OpenCV need not be there
        look = replace(job.color.look, stability=0)
        job = replace(job, color=replace(job.color, look=look))
    still = images.read(job.source)
    height, width = still.rgb.shape[:2]
    target = choose_target(job.size, Shape(width, height))
    destination = _wanted_destination(job, target)
    if not images.is_picture(destination):
        raise RequestError(f"{destination}: a picture is written as {', '.join(images.SUFFIXES)}")
    check_destination(job.source, destination, overwrite=job.overwrite)
    images.check_kept(destination, still)
    engine, color = _networks(job, target, (width, height), cache_dir)
    notes = size_warnings(target)
    if job.color is not None:
        notes += judge_color(job.source, [tint_of(_rgb(still))], force=job.color.force)
        still, changes = images.as_color(still)
        notes += changes
    return StillPlan(job, still, destination, target, engine, color, tuple(notes))


def _still_stages(plan: StillPlan) -> list[Stage]:
    stages: list[Stage] = []
    if plan.color is not None:
        stages.append(open_colorizer(plan.color, Matrix.RGB))
    if plan.job.size is not None:
        stages += open_stages(plan.engine, plan.target)
    return stages


def _run_still(plan: StillPlan, stages: list[Stage]) -> Result:
    began = time.perf_counter()
    torch.set_num_threads(plan.engine.threads * plan.engine.workers)
    still = plan.still
    rgb = _process(stages, _rgb(still).to(plan.engine.device), still.rgb.dtype)
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


def _rgb(still: images.Still) -> Tensor:
    """(1,3,H,W) in [0,1]."""
    full = float(np.iinfo(still.rgb.dtype).max)
    return torch.from_numpy(still.rgb).permute(2, 0, 1)[None].float().div_(full)


@torch.inference_mode()
def _process(
    stages: list[Stage], rgb: Tensor, dtype: np.dtype[np.uint8 | np.uint16]
) -> images.Samples:
    """A picture through the stages: codes (H,W,3)."""
    for stage in stages:
        processed = stage(rgb)
        bad = stage.faulty is not None and bool(stage.faulty.any())
        rgb = stage.redo(rgb) if bad else processed
    return _codes(rgb[0].permute(1, 2, 0), dtype)


def _codes(values: Tensor, dtype: np.dtype[np.uint8 | np.uint16]) -> images.Samples:
    """[0,1] -> codes: clipped, then rounded once."""
    full = float(np.iinfo(dtype).max)
    codes = values.float().clamp(0, 1).mul(full).round_().cpu().numpy()
    return np.ascontiguousarray(codes.astype(dtype))
