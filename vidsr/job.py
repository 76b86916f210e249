"""THE MAIN PATH, start reading here: Job -> plan(job) -> Plan -> run(plan) -> events.

A `Job` is what was asked for. `plan` turns it into a `Plan`: everything that is decided before the
first frame, and the place where everything can fail cheaply. `run` does it and yields events.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch

from vidsr.coloring import WARM_UP_FRAMES, Tint, tint_of
from vidsr.errors import MediaError, RequestError, VerificationError
from vidsr.events import Event, Progress, Result
from vidsr.following import RUN
from vidsr.frame import ColorSpec, Frame, Packet, PixelLayout
from vidsr.media import images
from vidsr.media.color import ColorConverter
from vidsr.media.encoders import VideoFormat, choose_format
from vidsr.media.probe import VideoInfo, probe
from vidsr.media.reader import ReadReport, Trim, VideoReader
from vidsr.media.snapshot import frames_along
from vidsr.media.writer import TrackPlan, VideoWriter, WriteReport
from vidsr.networks import (
    ColorPlan,
    EnginePlan,
    fallbacks,
    open_colorizer,
    open_stages,
    plan_networks,
)
from vidsr.pipeline import Ahead, Chain, Worker, stream, workers_on
from vidsr.planning import (
    Shape,
    Target,
    check_destination,
    check_disk,
    choose_container,
    choose_target,
    judge_color,
    size_warnings,
    wanted_destination,
)
from vidsr.request import Job
from vidsr.stages import Stage
from vidsr.still import StillPlan, plan_still, run_still

REPORT_SECONDS = 0.5
QUEUED_FRAMES = 4  # of the output's size, before and after the network each
CUT_SHORT = 0.9  # of what the header promises; headers are often a little off
LOOKS = 5  # at frames of an input, to see whether it is in color
Item = Frame | Packet
_Format = tuple[PixelLayout, ColorSpec]  # how samples lie, and what they mean


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


def plan(job: Job, *, cache_dir: Path | None = None) -> Plan | StillPlan:
    """Decide everything; opens the source, the model's card and weights, and no output.

    Args:
        job: what was asked for.
        cache_dir: where the measured precision of this processor is remembered, if anywhere.

    Raises:
        VidsrError: whatever can be known to fail, with the exit code of its class.
    """
    if images.is_picture(job.source):
        return plan_still(job, cache_dir)
    info = probe(job.source)
    shape = Shape(
        info.width, info.height, info.sample_aspect or Fraction(1), bool(info.rotation % 180)
    )
    target = choose_target(job.size, shape)
    engine, color = plan_networks(job, target, (info.width, info.height), cache_dir)
    if info.color.is_hdr:
        engine = replace(engine, weights=replace(engine.weights, fidelity=1.0))
    video, changes = _choose_format(job, info, target)
    video = replace(video, sample_aspect=_sample_aspect(info, target))
    wanted = wanted_destination(job, target)
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
        yield run_still(plan, stages)
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
                frames = stream(items, workers, plan.engine.reuse)
                queue = queues.enter_context(_ahead(frames, limit, name))
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

        run = RUN if plan.engine.reuse == "motion" else 1
        streams["compute"] = workers_on(device, enlarging, plan.engine.workers, run=run)
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
    counted = fallbacks([stage for chain in each for stage in chain.stages])
    return Result(
        destination=plan.destination,
        width=plan.video.width,
        height=plan.video.height,
        frames_in=read.frames,
        frames_out=written.frames,
        seconds=clock.seconds,
        bytes=written.bytes,
        retiled=counted.retiled,
        recomputed=counted.recomputed,
        reused=max(0.0, 1 - counted.computed / read.frames) if counted.computed else 0.0,
        busy=clock.shares(),
        notes=tuple(notes),
    )


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
