"""The whole plan of trainings, in order of value; cut it anywhere and call it again."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from vidsr.errors import RequestError
from vidsr.training.recipe import UpscaleRecipe, below, origin_of, read_recipes, recipe_from
from vidsr.training.run import TrainProgress
from vidsr.training.srgan import train

SHORTEST_SESSION = 0.1  # minutes; loading the pictures for less is not worth it
GPU_CROPS = 8  # times those of a recipe, whose batches are a processor's, in a step on a GPU


def plan_all(root: Path, run_dir: Path, *, minutes: float) -> list[UpscaleRecipe]:
    """The shipped recipes with their folders below `root` and their shares of the budget.

    A recipe that starts from a member of the plan takes it from `run_dir` once it is trained. On a
    GPU a step takes `GPU_CROPS` times as many crops.

    Raises:
        RequestError: no minutes.
    """
    if minutes <= 0:
        raise RequestError(f"--minutes {minutes:g}: the plan needs some time")
    recipes = [recipe_from(below(root, table)) for table in read_recipes("all").values()]
    total = sum(recipe.minutes or 0 for recipe in recipes)
    crops = GPU_CROPS if torch.cuda.is_available() else 1
    return [
        replace(
            recipe,
            minutes=minutes * (recipe.minutes or 0) / total,
            batch=recipe.batch * crops,
            init=origin_of(recipe.name, recipe.init, run_dir),
        )
        for recipe in recipes
    ]


def train_all(
    root: Path, run_dir: Path, *, minutes: float, session_minutes: float | None = None
) -> Iterator[tuple[str, TrainProgress]]:
    """Run what is left of the plan: (name, report) as it goes, in order of value.

    Args:
        root: the recipes' folders of pictures are below it.
        run_dir: one folder for each training; finished ones are skipped, others go on.
        minutes: for the whole plan.
        session_minutes: stop after so many, resumable.

    Raises:
        VidsrError: see `train`.
    """
    opened = time.monotonic()
    for number in range(len(plan_all(root, run_dir, minutes=minutes))):
        # Anew each time, since an origin may have been trained meanwhile.
        recipe = plan_all(root, run_dir, minutes=minutes)[number]
        folder = run_dir / recipe.name
        if (folder / f"{recipe.name}.json").exists():
            continue
        left = None
        if session_minutes is not None:
            left = session_minutes - (time.monotonic() - opened) / 60
            if left < SHORTEST_SESSION:
                return
        resume = (folder / "checkpoint.safetensors").exists()
        for report in train(recipe, folder, resume=resume, session_minutes=left):
            yield recipe.name, report
        gc.collect()  # a trainee and its recorded steps hold each other, and a GPU's memory
