"""Is a perceptual model's gain more than sharpening or noise would give, and is it steady in video?

    python benchmarks/perceptual.py --model photo-x4 --data FOLDER... [--clip CLIP...]
        [--json perceptual.json]

The model's fidelity weights, its default, and its perceptual weights are compared. Per picture, the
fidelity weights' output gets an unsharp mask, or noise, until its PSNR-Y is that of the perceptual
weights' output (a picture that lies below it already stays as it is). What those give is more than
that where they beat both controls. Means over the pictures.

A clip is shrunk and enlarged again, and each frame is held against the one before, carried along
the original's motion, where that is sure: the mean difference of luma, as a share of the original's
own.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import av
import numpy as np
from numpy.typing import NDArray

from vidsr.api import Upscaler
from vidsr.evaluation.controls import noise_at, unsharp_at
from vidsr.evaluation.evaluate import BICUBIC, Comparison, compare_stages, set_name
from vidsr.evaluation.metrics import (
    Picture,
    crop_to_multiple,
    luma,
    mean_psnr,
    psnr_y,
    shrink,
    to_picture,
    to_tensor,
)
from vidsr.evaluation.niqe import niqe, shipped_model
from vidsr.evaluation.similarity import dss, haarpsi
from vidsr.motion import flow, warp_pixels

FIDELITY, DEFAULT, PERCEPTUAL = "fidelity 1", "default", "fidelity 0"
FIRST, FRAMES = 40, 9  # of a clip
SURE = 1.0  # pixels by which motion there and back may differ


@dataclass(frozen=True)
class Figures:
    """Of one picture, or means."""

    dss: float
    haarpsi: float
    niqe: float
    psnr_y: float  # dB


def main() -> None:
    """Measure every folder and clip, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", required=True, help="a model with perceptual weights")
    parser.add_argument("--data", default=[], type=Path, nargs="+", help="folders of originals")
    parser.add_argument("--clip", default=[], type=Path, nargs="+", help="videos")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, default=Path("perceptual.json"))
    options = parser.parse_args()
    shares = {FIDELITY: 1.0, DEFAULT: None, PERCEPTUAL: 0.0}
    stages = {
        name: Upscaler(options.model, device=options.device, fidelity=share)
        for name, share in shares.items()
    }
    results: dict[str, dict[str, object]] = {}
    for folder in options.data:
        means = measure(stages, folder)
        results[set_name(folder)] = {name: vars(figures) for name, figures in means.items()}
        print_table(set_name(folder), means)
    for clip in options.clip:
        unsteady = unsteadiness(stages, clip)
        results[clip.stem] = {"unsteadiness": unsteady}
        print(clip.stem, ", ".join(f"{name}: {ratio:.2f}" for name, ratio in unsteady.items()))
    options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def unsteadiness(stages: Mapping[str, Upscaler], clip: Path) -> dict[str, float]:
    """By stage, how much frames change beside their motion, 1 being as the original's."""
    scale = stages[FIDELITY].scale
    with av.open(str(clip)) as container:
        frames = itertools.islice(container.decode(video=0), FIRST, FIRST + FRAMES)
        originals = [crop_to_multiple(frame.to_ndarray(format="rgb24"), scale) for frame in frames]
    lumas = [_gray(original) for original in originals]
    motions = [_sure_motion(before, after) for before, after in itertools.pairwise(lumas)]
    low_res = [to_picture(shrink(to_tensor(original), scale)) for original in originals]
    own = _change(lumas, motions)
    return {
        name: _change([_gray(stage(picture)) for picture in low_res], motions) / own
        for name, stage in stages.items()
    }


def _gray(picture: Picture) -> NDArray[np.uint8]:
    return luma(picture, border=0).round().astype(np.uint8)


def _sure_motion(
    before: NDArray[np.uint8], after: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The flow, and where the way back agrees with it."""
    there, back = flow(before, after), flow(after, before)
    apart = np.abs(there + warp_pixels(back, there)).sum(-1)
    return there, apart < SURE


def _change(
    lumas: list[NDArray[np.uint8]],
    motions: list[tuple[NDArray[np.float32], NDArray[np.bool_]]],
) -> float:
    """The mean difference between a luma and the one before, carried along."""
    pairs = zip(itertools.pairwise(lumas), motions, strict=True)
    return fmean(
        float(np.abs(warp_pixels(before.astype(np.float32), there) - after)[sure].mean())
        for (before, after), (there, sure) in pairs
    )


def measure(stages: Mapping[str, Upscaler], folder: Path) -> dict[str, Figures]:
    """Means by candidate over a folder."""
    scale = stages[FIDELITY].scale
    rows = [figures(comparison, scale) for comparison in compare_stages(stages, scale, folder)]
    return {
        name: Figures(
            dss=fmean(row[name].dss for row in rows),
            haarpsi=fmean(row[name].haarpsi for row in rows),
            niqe=fmean(row[name].niqe for row in rows),
            psnr_y=mean_psnr([row[name].psnr_y for row in rows]),
        )
        for name in rows[0]
    }


def figures(comparison: Comparison, border: int) -> dict[str, Figures]:
    """By candidate, for one picture."""
    original, model = comparison.original, shipped_model()

    def of(picture: Picture) -> Figures:
        return Figures(
            dss=dss(picture, original, border=border),
            haarpsi=haarpsi(picture, original, border=border),
            niqe=niqe(picture, model, border=border),
            psnr_y=psnr_y(picture, original, border=border),
        )

    fidelity = comparison.outputs[FIDELITY]
    target = psnr_y(comparison.outputs[PERCEPTUAL], original, border=border)
    return {
        **{name: of(comparison.outputs[name]) for name in (BICUBIC, FIDELITY, DEFAULT, PERCEPTUAL)},
        f"{FIDELITY} + unsharp": of(unsharp_at(fidelity, original, target, border=border)),
        f"{FIDELITY} + noise": of(noise_at(fidelity, original, target, border=border)),
    }


def print_table(title: str, means: Mapping[str, Figures]) -> None:
    """One row a candidate."""
    print(f"{title:20}    DSS  HaarPSI   NIQE  PSNR-Y")
    for name, row in means.items():
        print(f"{name:20} {row.dss:6.4f}  {row.haarpsi:7.4f}  {row.niqe:5.2f}  {row.psnr_y:6.2f}")


if __name__ == "__main__":
    main()
