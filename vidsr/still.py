"""A single picture: planned, enlarged or colored in memory, and written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vidsr.coloring import tint_of
from vidsr.errors import RequestError
from vidsr.events import Result
from vidsr.frame import Matrix
from vidsr.media import image_writer, images
from vidsr.media.color import codes_of, resized_alpha, rgb_of_codes
from vidsr.media.encoders import unused
from vidsr.media.reader import Trim
from vidsr.memory import FLOAT_RGB, PROCESS_BYTES, check_memory, memory_limit
from vidsr.networks import (
    ColorPlan,
    EnginePlan,
    Room,
    alone,
    fallbacks,
    open_colorizer,
    open_stages,
    plan_networks,
)
from vidsr.planning import (
    Shape,
    Target,
    choose_target,
    judge_color,
    size_warnings,
    wanted_destination,
)
from vidsr.request import Job
from vidsr.resize import Resize
from vidsr.stages import Stage, Upscale

BAND_BYTES = 512 << 20  # that a row of tiles takes at the result's size; tiles are cut to fit
LEAST_TILE = 256  # pixels; below it too much is lost to halos


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


def plan_still(job: Job, cache_dir: Path | None) -> StillPlan:
    """As `draft`, of a picture, which is read here."""
    if job.color is not None:  # nothing moves in a still, so OpenCV need not be there
        look = replace(job.color.look, stability=0)
        job = replace(job, color=replace(job.color, look=look))
    if job.rate is not None:
        raise RequestError(f"--rate is for numbered pictures, and {job.source} is one picture")
    still = images.read(job.source)
    height, width = still.rgb.shape[:2]
    target = choose_target(job.size, Shape(width, height), job.engine.model)
    destination = wanted_destination(job, target)
    if not images.is_picture(destination):
        raise RequestError(f"{destination}: a picture is written as {', '.join(images.SUFFIXES)}")
    image_writer.check_kept(destination, still, (target.width, target.height))
    limit, others = memory_limit(job.max_memory), _still_bytes(still, target, destination)
    room = Room(limit - others, 0)
    engine, color = plan_networks(job, target, (width, height), cache_dir, room)
    engine = alone(engine)
    row = int(3 * FLOAT_RGB * target.width * target.factor)  # of a band, per row of a tile
    if job.engine.tile is None and row * min(engine.tile, height) > BAND_BYTES:
        tile = min(engine.tile, max(BAND_BYTES // row, LEAST_TILE))
        memory = engine.memory_bytes * tile // engine.tile
        engine = replace(engine, tile=tile, memory_bytes=memory)
    band = row * min(engine.tile, height)
    on_host = engine.memory_bytes if engine.device == "cpu" else 0
    check_memory({"process and picture": others, "a band": band, "network": on_host}, limit)
    notes = [*engine.notes, *size_warnings(target), *unused(job.encoder)]
    if job.trim != Trim():
        notes.append("--start, --end: for video, not used for a picture")
    if job.color is not None:
        notes += judge_color(job.source, [tint_of(rgb_of_codes(still.rgb))], force=job.color.force)
        still, changes = images.as_color(still)
        notes += changes
    return StillPlan(job, still, destination, target, engine, color, tuple(notes))


def _still_bytes(still: images.Still, target: Target, destination: Path) -> int:
    """Main memory of all but the network: the process, the picture, and what its file collects."""
    after = target.width * target.height
    source = int(still.rgb.nbytes) + FLOAT_RGB * still.rgb.size // 3
    alpha = 0 if still.alpha is None else 9 * after  # in float, and clamped, and as codes
    rows = {".png", ".tif", ".tiff"}
    collected = 0 if destination.suffix.lower() in rows else 7 * after  # codes, and Pillow's own
    return PROCESS_BYTES + source + alpha + collected


def _still_stages(plan: StillPlan) -> list[Stage]:
    stages: list[Stage] = []
    if plan.color is not None:
        stages.append(open_colorizer(plan.color, Matrix.RGB))
    if plan.job.size is not None:
        stages += open_stages(plan.engine, plan.target)
    return stages


def run_still(plan: StillPlan, stages: list[Stage] | None) -> Result:
    """As `job.run`: the picture appears under its final name when it is whole."""
    began = time.perf_counter()
    stages = stages or _still_stages(plan)
    torch.set_num_threads(plan.engine.threads)
    still = plan.still
    height, width = still.rgb.shape[:2]
    for stage in stages:
        height, width = stage.output_size(height, width)
    with image_writer.create(plan.destination, still, (width, height)) as picture:
        alpha, first = still.alpha, 0
        if alpha is not None:
            alpha = resized_alpha(alpha, (height, width), (still.depth, still.depth))
        for rgb in _codes(stages, still, plan.engine.device):
            end = first + len(rgb)
            picture.write(rgb, None if alpha is None else alpha[first:end])
            first = end
    notes = (*plan.notes, *(f"{what} is lost in this format" for what in picture.lost))
    counted = fallbacks(stages)
    return Result(
        destination=plan.destination,
        width=plan.target.width,
        height=plan.target.height,
        frames_in=1,
        frames_out=1,
        seconds=time.perf_counter() - began,
        bytes=plan.destination.stat().st_size,
        retiled=counted.retiled,
        recomputed=counted.recomputed,
        notes=notes,
    )


@torch.inference_mode()
def _codes(
    stages: list[Stage], still: images.Still, device: torch.device | str
) -> Iterator[images.Samples]:
    """A picture through the stages: codes (h,W,3) of its rows from the top."""
    for band in _bands(stages, rgb_of_codes(still.rgb).to(device)):
        yield codes_of(band[0].permute(1, 2, 0), still.rgb.dtype)


def _bands(stages: list[Stage], rgb: Tensor) -> Iterator[Tensor]:
    """A picture (1,3,H,W) through the stages, in bands from the top if an enlargement is last."""
    match stages:
        case [Upscale() as upscale]:
            yield from upscale.bands(rgb)
        case [Upscale() as upscale, Resize() as resize]:
            yield from resize.bands(upscale.bands(rgb), upscale.scale * rgb.shape[-2])
        case [stage, *rest]:
            yield from _bands(rest, _processed(stage, rgb))
        case _:
            yield rgb


def _processed(stage: Stage, rgb: Tensor) -> Tensor:
    processed = stage(rgb)
    bad = stage.faulty is not None and bool(stage.faulty.any())
    return stage.redo(rgb) if bad else processed
