"""A single picture: planned, enlarged or colored in memory, and written."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidsr.coloring import tint_of
from vidsr.errors import RequestError
from vidsr.events import Result
from vidsr.frame import Matrix
from vidsr.media import images
from vidsr.media.color import codes_of, rgb_of_codes
from vidsr.networks import (
    ColorPlan,
    EnginePlan,
    alone,
    fallbacks,
    open_colorizer,
    open_stages,
    plan_networks,
)
from vidsr.planning import (
    Shape,
    Target,
    check_destination,
    choose_target,
    judge_color,
    size_warnings,
    wanted_destination,
)
from vidsr.request import Job
from vidsr.stages import Stage


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
    """As `job.plan`, of a picture, which is read here."""
    if job.color is not None:  # nothing moves in a still, so OpenCV need not be there
        look = replace(job.color.look, stability=0)
        job = replace(job, color=replace(job.color, look=look))
    still = images.read(job.source)
    height, width = still.rgb.shape[:2]
    target = choose_target(job.size, Shape(width, height))
    destination = wanted_destination(job, target)
    if not images.is_picture(destination):
        raise RequestError(f"{destination}: a picture is written as {', '.join(images.SUFFIXES)}")
    check_destination(job.source, destination, overwrite=job.overwrite)
    images.check_kept(destination, still)
    engine, color = plan_networks(job, target, (width, height), cache_dir)
    engine = alone(engine)
    notes = [*engine.notes, *size_warnings(target)]
    if job.color is not None:
        notes += judge_color(job.source, [tint_of(rgb_of_codes(still.rgb))], force=job.color.force)
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


def run_still(plan: StillPlan, stages: list[Stage] | None) -> Result:
    """As `job.run`: the picture appears under its final name when it is whole."""
    began = time.perf_counter()
    stages = stages or _still_stages(plan)
    torch.set_num_threads(plan.engine.threads)
    still = plan.still
    rgb = _process(stages, rgb_of_codes(still.rgb).to(plan.engine.device), still.rgb.dtype)
    alpha = None
    if still.alpha is not None:
        mask = torch.from_numpy(still.alpha)[None, None].float()
        mask = F.interpolate(mask, size=rgb.shape[:2], mode="bicubic", antialias=True)[0, 0]
        alpha = codes_of(mask / float(np.iinfo(still.alpha.dtype).max), still.alpha.dtype)
    lost = images.write(plan.destination, replace(still, rgb=rgb, alpha=alpha))
    notes = (*plan.notes, *(f"{what} is lost in this format" for what in lost))
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
def _process(
    stages: list[Stage], rgb: Tensor, dtype: np.dtype[np.uint8 | np.uint16]
) -> images.Samples:
    """A picture through the stages: codes (H,W,3)."""
    for stage in stages:
        processed = stage(rgb)
        bad = stage.faulty is not None and bool(stage.faulty.any())
        rgb = stage.redo(rgb) if bad else processed
    return codes_of(rgb[0].permute(1, 2, 0), dtype)
