"""THE MAIN PATH, start reading here: Job -> plan(job) -> Plan -> run(plan) -> events.

A `Job` is what was asked for. `plan` turns it into a `Plan`: everything that is decided before the
first frame, and the place where everything can fail cheaply. `run` does it and yields events.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import torch

from vidsr.coloring import WARM_UP_FRAMES
from vidsr.draft import QUEUED_FRAMES, Plan, draft
from vidsr.errors import MediaError, VerificationError
from vidsr.events import Event, Progress, Result
from vidsr.following import RUN
from vidsr.frame import ColorSpec, Frame, Packet, PixelLayout
from vidsr.media.boundaries import SegmentReader
from vidsr.media.color import ColorConverter
from vidsr.media.reader import ReadReport, Trim, VideoReader
from vidsr.media.segments import (
    FfmpegSegment,
    LibavSegment,
    SegmentEncoder,
    headers_of,
    joined,
    write_joined,
)
from vidsr.media.sequence import (
    AnimationWriter,
    SequenceWriter,
    is_numbered,
    open_reader,
    writes_pictures,
)
from vidsr.media.writer import VideoWriter, WriteReport
from vidsr.networks import (
    fallbacks,
    open_colorizer,
    open_stages,
)
from vidsr.pipeline import Ahead, Chain, Worker, stream, workers_on
from vidsr.planning import (
    check_destination,
    check_disk,
)
from vidsr.request import Job
from vidsr.resume import (
    Manifest,
    SegmentWriter,
    Workplace,
    bytes_kept,
    encoder_of,
    engine_of,
    hash_of,
    identity_of,
)
from vidsr.stages import Counters, Stage
from vidsr.still import StillPlan, run_still

REPORT_SECONDS = 0.5
CUT_SHORT = 0.9  # of what the header promises; headers are often a little off
Item = Frame | Packet
_Format = tuple[PixelLayout, ColorSpec]  # how samples lie, and what they mean


def plan(job: Job, *, cache_dir: Path | None = None) -> Plan | StillPlan:
    """Decide everything; opens the source, the model's card and weights, and no output.

    Args:
        job: what was asked for.
        cache_dir: where this processor's measured figures and compiled models are kept, if
            anywhere; without it nothing is measured, see Note [Engines are measured].

    Raises:
        VidsrError: whatever can be known to fail, with the exit code of its class.
    """
    drafted = draft(job, cache_dir=cache_dir)
    check_destination(job.source, drafted.destination, overwrite=job.overwrite)
    if isinstance(drafted, Plan):
        destination = drafted.destination
        needed = drafted.disk_bytes - bytes_kept(destination)
        check_disk(_existing(destination.parent), needed)
    return drafted


def run(
    plan: Plan | StillPlan, *, stages: list[Stage] | None = None
) -> Generator[Event, None, None]:
    """Do it: yields `Progress` now and then and one `Result` at the end.

    The output appears under its final name only when it is whole and verified. Closing the
    iterator, or an exception thrown into it, stops everything and leaves nothing behind but whole
    segments, from which the same job goes on.

    Args:
        plan: from `plan`.
        stages: what is done to each picture, instead of the plan's network (for tests).

    Raises:
        VidsrError: what went wrong, with the exit code of its class.
    """
    if isinstance(plan, StillPlan):
        yield run_still(plan, stages)
        return
    if writes_pictures(plan.destination, plan.info):
        yield (yield from _run_in_one_go(plan, stages))
        return
    with Workplace(plan.destination) as place:
        # Whoever held the place a moment ago may have finished this very output.
        check_destination(plan.job.source, plan.destination, overwrite=plan.job.overwrite)
        if plan.segment_frames:
            result = yield from _run_in_segments(plan, place, stages)
        else:
            result = yield from _run_in_one_go(plan, stages)
        place.clear()
    yield result


def _run_in_one_go(plan: Plan, stages: list[Stage] | None) -> Generator[Event, None, Result]:
    torch.set_num_threads(plan.engine.threads)
    streams = _streams(plan, stages)
    reader = open_reader(
        plan.info, copied=_copied(plan), threads=0, trim=plan.trim, lead=_lead(plan)
    )
    clock = _Clock(plan.frames_expected)
    with _open_writer(plan) as writer:
        with _processed(plan, reader, streams, clock) as items:
            for item in items:
                writer.write(item)
                if isinstance(item, Frame) and (progress := clock.progress(writer.report.frames)):
                    yield progress
        _check_read(plan, reader.report)
        report = writer.finish()
    return _result(plan, _counted(streams), reader.report, report, clock)


def _run_in_segments(
    plan: Plan, place: Workplace, stages: list[Stage] | None
) -> Generator[Event, None, Result]:
    """Encode what no earlier run has, segment by segment, then join all; see Note [Resume]."""
    asked = (plan.job, plan.engine, plan.color, plan.video, plan.segment_frames)
    resolved = engine_of(plan.engine), encoder_of(plan.video)
    manifest, changes = place.begin(identity_of(*asked), *resolved)
    # Fewer workers give the same pictures, and memory may be tighter than it was.
    workers = min(plan.engine.workers, manifest.engine["workers"])
    engine = replace(plan.engine, **{**manifest.engine, "workers": workers})
    video = replace(plan.video, **manifest.encoder)
    plan = replace(plan, engine=engine, video=video, notes=(*plan.notes, *changes))
    clock = _Clock(plan.frames_expected, resumed=manifest.frames)
    yield clock.now(manifest.frames)
    if manifest.end is None:
        yield from _encode_segments(plan, place, manifest, stages, clock)
    if not manifest.segments:
        _check_read(plan, ReadReport())
    read, written = _join(plan, place, manifest)
    last = manifest.segments[-1]
    return _result(
        plan, Counters(last.retiled, last.recomputed, last.computed), read, written, clock
    )


def _encode_segments(
    plan: Plan, place: Workplace, manifest: Manifest, stages: list[Stage] | None, clock: _Clock
) -> Generator[Event, None, None]:
    torch.set_num_threads(plan.engine.threads)
    streams = _streams(plan, stages)
    reader = SegmentReader(
        plan.info,
        frames=plan.segment_frames,
        trim=plan.trim,
        lead=_lead(plan),
        begin=manifest.segments[-1].next if manifest.segments else None,
    )

    kind = LibavSegment if plan.video.ffmpeg is None else FfmpegSegment

    def encoder(path: Path) -> SegmentEncoder:
        return kind(path, destination=plan.destination, source=plan.info, video=plan.video)

    with SegmentWriter(
        place,
        manifest,
        reader,
        frames=plan.segment_frames,
        encoder=encoder,
        counters=lambda: _counted(streams),
    ) as writer:
        with _processed(plan, reader, streams, clock) as items:
            for item in items:
                if isinstance(item, Frame):
                    writer.write(item)
                    if progress := clock.progress(writer.frames):
                        yield progress
        writer.finish(reader.report)


def _join(plan: Plan, place: Workplace, manifest: Manifest) -> tuple[ReadReport, WriteReport]:
    """Write the output from its segments and one more pass over the other streams."""
    reader = VideoReader(plan.info, copied=_copied(plan), trim=plan.trim)
    encoded = None if plan.video.ffmpeg is None else headers_of(place.folder)
    with _open_output(plan, encoded) as writer:
        if encoded is None and hash_of(writer.extradata) != manifest.segments[0].headers:
            raise VerificationError(
                f"{plan.destination}: the segments have other headers than the file; --no-resume "
                "writes in one go"
            )
        video = joined(place.paths(manifest), plan.info.time_base)
        write_joined(writer, video, reader.copies())
        assert manifest.end is not None
        read = _added(manifest.end, reader.report)
        _check_read(plan, read)
        return read, writer.finish()


def _added(decoded: ReadReport, copied: ReadReport) -> ReadReport:
    """What was met by decoding, perhaps in several runs, and by the pass over the packets."""
    return replace(
        copied,
        decoded=decoded.decoded,
        frames=decoded.frames,
        trimmed=decoded.trimmed,
        damaged=decoded.damaged,
        undecodable=decoded.undecodable,
        broken_off=decoded.broken_off or copied.broken_off,
    )


def _open_output(plan: Plan, encoded: Path | None = None) -> VideoWriter:
    return VideoWriter(
        plan.destination,
        source=plan.info,
        video=plan.video,
        tracks=plan.tracks,
        start=plan.trim.start,
        end=plan.trim.end,
        encoded=encoded,
    )


@contextlib.contextmanager
def _processed(
    plan: Plan, reader: Iterable[Item], streams: dict[str, list[Worker]], clock: _Clock
) -> Iterator[Iterable[Item]]:
    """What is read, after all streams, everything at work beside whoever iterates."""
    limit = QUEUED_FRAMES * plan.video.frame_bytes
    with contextlib.ExitStack() as queues:
        items = clock.watch("decode", queues.enter_context(_ahead(reader, limit, "decode")))
        for name, workers in streams.items():
            frames = stream(items, workers, plan.engine.reuse)
            queue = queues.enter_context(_ahead(frames, limit, name))
            items = clock.watch(name, queue)
        yield items


def _counted(streams: dict[str, list[Worker]]) -> Counters:
    """The fallbacks of all stages."""
    chains = [worker.chain for workers in streams.values() for worker in workers]
    each = {id(chain): chain for chain in chains}.values()  # on a device, slots share one
    return fallbacks([stage for chain in each for stage in chain.stages])


def _open_writer(plan: Plan) -> VideoWriter | SequenceWriter | AnimationWriter:
    if is_numbered(plan.destination):
        return SequenceWriter(plan.destination, source=plan.info)
    if writes_pictures(plan.destination, plan.info):
        return AnimationWriter(plan.destination, source=plan.info)
    return _open_output(plan)


def _existing(folder: Path) -> Path:
    """The folder, or its parent if it will only be made."""
    return folder if folder.is_dir() else folder.parent


def _ahead(items: Iterable[Item], limit: int, name: str) -> Ahead[Item]:
    return Ahead(items, limit=limit, name=name)


def _lead(plan: Plan) -> int:
    """Frames before the start that steady color is warmed up on."""
    steady = plan.color is not None and plan.color.look.stability > 0
    return WARM_UP_FRAMES if steady else 0


def _copied(plan: Plan) -> tuple[int, ...]:
    """Streams with packets to copy or convert; attachments are written with the header."""
    return tuple(
        track.stream.index
        for track in plan.tracks
        if track.action in {"copy", "convert"} and track.stream.kind != "attachment"
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
        between = leaving if plan.job.size is None else _in_between(plan)

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


def _in_between(plan: Plan) -> _Format:
    """How colored frames look that are still to be enlarged."""
    model: Literal["rgb", "yuv"] = "rgb" if plan.info.layout.model == "rgb" else "yuv"
    return PixelLayout(model, 16, alpha=plan.video.layout.alpha), plan.info.color


def _chain(plan: Plan, arriving: _Format, stages: list[Stage], leaving: _Format) -> Chain:
    device = torch.device(plan.engine.device)
    height, width = plan.info.height, plan.info.width
    for stage in stages:
        height, width = stage.output_size(height, width)
    return Chain(
        source=ColorConverter(replace(arriving[0], alpha=False), arriving[1], device=device),
        stages=stages,
        target=ColorConverter(replace(leaving[0], alpha=False), leaving[1], device=device),
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

    def __init__(self, expected: int, resumed: int = 0) -> None:
        self.expected = expected
        self.resumed = resumed  # frames of earlier runs
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
        return self.now(frames)

    def now(self, frames: int) -> Progress:
        """A report."""
        return Progress(frames, self.expected, self.seconds, self.shares(), self.resumed)

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
    begun = min(report.first or Fraction(0), plan.info.start_seconds)
    promised, found = plan.info.seconds_from_header, float(report.last - begun)
    if plan.job.trim == Trim() and found < CUT_SHORT * promised:
        notes.append(f"the input is cut short: {found:.2f} s of the {promised:.2f} s it promises")
    return notes


def _result(
    plan: Plan, counted: Counters, read: ReadReport, written: WriteReport, clock: _Clock
) -> Result:
    if read.frames != written.frames:
        raise VerificationError(
            f"{plan.destination}: {read.frames} frames went in, {written.frames} came out"
        )
    silent = read.packets - read.decoded - read.undecodable
    notes = [*plan.notes, *_damage(plan, read)]
    if silent > 0 and plan.job.trim == Trim():
        notes.append(f"{silent} packets gave no picture (outside an edit list, or empty)")
    if written.lost_tags:
        notes.append(f"the container cannot hold the tags {', '.join(written.lost_tags)}")
    notes += written.not_kept
    for index, count in (+written.wordless).items():
        notes.append(f"{count} subtitles of stream {index} hold no text and were left out")
    if written.empty:
        notes.append(f"empty streams of the input were left out: {written.empty}")
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
