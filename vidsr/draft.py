"""Job -> Plan: everything that is decided before the first frame of a video."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from vidsr.coloring import Tint, tint_of
from vidsr.engines.choice import LIBRARIES, NAMES
from vidsr.errors import RequestError
from vidsr.following import RUN
from vidsr.media import images
from vidsr.media.deinterlace import decide_deinterlacing
from vidsr.media.encoders import (
    VideoFormat,
    choose_format,
    encoder_bytes,
    fit_encoder,
    unused,
)
from vidsr.media.probe import VideoInfo, probe
from vidsr.media.reader import Trim
from vidsr.media.sequence import (
    choose_pictures,
    is_animation,
    is_numbered,
    probe_pictures,
    writes_pictures,
)
from vidsr.media.snapshot import frames_along
from vidsr.media.writer import TrackPlan
from vidsr.memory import (
    LEAST_NETWORK,
    PROCESS_BYTES,
    check_memory,
    memory_limit,
    picture_bytes,
)
from vidsr.networks import (
    ColorPlan,
    EnginePlan,
    Room,
    plan_networks,
)
from vidsr.planning import (
    Shape,
    Target,
    choose_container,
    choose_target,
    fit_alpha,
    judge_color,
    siting_warnings,
    size_warnings,
    wanted_destination,
)
from vidsr.request import Job
from vidsr.resume import segment_frames
from vidsr.reuse import Reuse
from vidsr.still import StillPlan, plan_still

LOOKS = 5  # at frames of an input, to see whether it is in color
QUEUED_FRAMES = 4  # of the output's size, before and after the network each


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
    memory_bytes: int  # estimate of the whole run's main memory
    segment_frames: int = 0  # of each segment that a run works in; 0 writes in one go

    @property
    def frames_expected(self) -> int:
        """An estimate for progress."""
        return frames_expected(self.info, self.job.trim)

    @property
    def trim(self) -> Trim:
        """What is kept, on the file's own clock."""
        return self.job.trim.on_clock(self.info.start_seconds)


def draft(job: Job, *, cache_dir: Path | None = None) -> Plan | StillPlan:
    """As `plan`, without a look at where the output would go: to be shown, not run."""
    if images.is_picture(job.source) and not is_film(job.source):
        return plan_still(job, cache_dir)
    info, fields = _look(job)
    shape = Shape(
        info.width, info.height, info.sample_aspect or Fraction(1), bool(info.rotation % 180)
    )
    target = choose_target(job.size, shape, job.engine.model)
    wanted = wanted_destination(job, target)
    video, changes = _choose_format(job, info, target, wanted)
    video = replace(video, sample_aspect=_sample_aspect(info, target))
    limit = memory_limit(job.max_memory)
    others = _other_bytes(job, info, video, wanted)
    video, shortened, room = _make_room(limit - others, info, video, job.engine.reuse)
    asked = replace(job, engine=replace(job.engine, engine="torch")) if info.color.is_hdr else job
    engine, color = plan_networks(asked, target, (info.width, info.height), cache_dir, room)
    if info.color.is_hdr:
        engine = replace(engine, weights=replace(engine.weights, fidelity=1.0))
    memory = check_memory({"process and queues": others, **_parts(video, room, engine)}, limit)
    explicit = job.destination is not None and not job.destination.is_dir()
    destination, tracks, moved = choose_container(
        info, wanted, explicit=explicit, video=video, format_asked=bool(job.formats)
    )
    video, opaque = fit_alpha(video, destination)
    dropped = [f"{track.stream} is dropped: {track.reason}" for track in tracks if track.reason]
    tinted = _judge_video(job, info)
    planned = Plan(
        job=job,
        info=info,
        destination=destination,
        target=target,
        engine=engine,
        color=color,
        video=video,
        tracks=tracks,
        notes=(
            *(*tinted, *fields),
            *(*moved, *dropped, *changes, *shortened),
            *(*opaque, *siting_warnings(video, destination)),
            *(*engine.notes, *_warnings(job, info, engine), *size_warnings(target)),
        ),
        disk_bytes=_estimate_disk(info, video, job.trim),
        memory_bytes=memory,
    )
    return _in_segments(planned)


def frames_expected(info: VideoInfo, trim: Trim) -> int:
    """An estimate of a job's frames, from the header or from duration and rate; 0 if unknown."""
    if trim == Trim() and info.frames_from_header:
        return info.frames_from_header
    ends = [float(end) for end in (trim.end, info.seconds_from_header) if end]
    seconds = max(0.0, min(ends, default=0.0) - float(trim.start or 0))
    return round(seconds * info.frame_rate)


def _in_segments(plan: Plan) -> Plan:
    """The same plan for a run in segments, if it is long enough; see Note [Resume]."""
    frames = segment_frames(plan.engine, plan.color, (plan.info.width, plan.info.height))
    short = 0 < plan.frames_expected <= frames  # 0: the header does not say
    whole = short or not plan.job.resume
    if writes_pictures(plan.destination, plan.info):
        return plan
    if plan.video.ffmpeg is not None:  # what a program encodes comes in files in any case
        frames = sys.maxsize if whole else frames
    elif whole or is_film(plan.job.source):
        return plan
    return replace(plan, segment_frames=frames, disk_bytes=2 * plan.disk_bytes)


def is_film(source: Path) -> bool:
    """Whether a source is a film that lies in pictures: numbered ones, or an animation."""
    return is_numbered(source) or is_animation(source)


def _look(job: Job) -> tuple[VideoInfo, list[str]]:
    """What is in the source, wherever a film may lie, and what is to be said of its fields."""
    if job.rate is not None and not is_numbered(job.source):
        raise RequestError(
            f"--rate is for numbered pictures, such as frames/%06d.png; {job.source} has its own"
        )
    if is_film(job.source):
        if job.encoder.ffmpeg is not None:
            raise RequestError(
                f"--ffmpeg takes no pictures such as {job.source}; make a video of them first"
            )
        return probe_pictures(job.source, job.rate), []
    return decide_deinterlacing(probe(job.source), job.deinterlace)


def _choose_format(
    job: Job, info: VideoInfo, target: Target, destination: Path
) -> tuple[VideoFormat, list[str]]:
    """As `choose_format`; color needs chroma, 4:2:0 where the source has none."""
    size = target.width, target.height
    if job.color is not None and info.layout.model == "gray":
        info = replace(info, layout=replace(info.layout, model="yuv", subsampling=(1, 1)))
    if writes_pictures(destination, info):
        video, notes = choose_pictures(info, size, destination)
        return video, [*notes, *unused(job.encoder)]
    if job.color is None:
        return choose_format(info, size, job.encoder)
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


def _make_room(
    limit: int, info: VideoInfo, video: VideoFormat, reuse: Reuse
) -> tuple[VideoFormat, list[str], Room]:
    """The format with a lookahead that leaves room for a network, what to say, and the room."""
    run = RUN if reuse == "motion" else 1
    picture = picture_bytes((info.width, info.height), (video.width, video.height), run)
    video, notes = fit_encoder(video, limit - picture - LEAST_NETWORK)
    return video, notes, Room(limit - encoder_bytes(video), picture)


def _parts(video: VideoFormat, room: Room, engine: EnginePlan) -> dict[str, int]:
    """Bytes of main memory that encoding and computing take."""
    return {
        "encoder": encoder_bytes(video),
        "pictures": room.picture * engine.workers,
        "network": engine.memory_bytes if engine.device == "cpu" else 0,
    }


def _other_bytes(job: Job, info: VideoInfo, video: VideoFormat, destination: Path) -> int:
    """Main memory of all but encoder and networks: process, queues, and a collected animation."""
    queues = 2 + (job.color is not None and job.size is not None)
    collected = 0
    if writes_pictures(destination, info) and not is_numbered(destination):
        collected = 2 * frames_expected(info, job.trim) * video.frame_bytes
    return PROCESS_BYTES + queues * QUEUED_FRAMES * video.frame_bytes + collected


def _sample_aspect(info: VideoInfo, target: Target) -> Fraction | None:
    """Unchanged for a plain scale; square where an exact displayed size was asked for."""
    return Fraction(1) if target.square_pixels and info.sample_aspect else info.sample_aspect


def _warnings(job: Job, info: VideoInfo, engine: EnginePlan) -> list[str]:
    notes = []
    if info.unread_alpha:
        notes.append(
            "the alpha channel is dropped: FFmpeg's decoder does not read it beside VP8/VP9"
        )
    if info.color.is_hdr:
        notes.append("HDR: the code values are enlarged as they are, nothing is tone-mapped")
        if engine.weights.twin is not None:
            notes.append("HDR: the fidelity weights alone, perceptual ones are for SDR")
        if job.engine.engine in LIBRARIES:
            notes.append(f"HDR: torch computes it, {NAMES[job.engine.engine]} is for SDR")
    return notes


def _estimate_disk(info: VideoInfo, video: VideoFormat, trim: Trim) -> int:
    """A tenth of a bit per pixel, or 1.5 bytes if lossless: the right order of magnitude."""
    frames, whole = frames_expected(info, trim), frames_expected(info, Trim())
    others = info.path.stat().st_size // 4 * (frames / whole if whole else 1)
    bits = 12 if video.encoder in {"ffv1", "prores_ks", "png", "tif", "tiff", "bmp"} else 0.1
    return int(frames * video.width * video.height * bits / 8 + others)
