"""Is a perceptual model's gain more than sharpening or noise would give? Two controls say so.

    python benchmarks/perceptual.py --fidelity photo-x4 --perceptual photo-x4-perceptual
        --data FOLDER... [--json perceptual.json]

Per picture, the fidelity model's output gets an unsharp mask, or noise, until its PSNR-Y is that of
the perceptual model's output (a picture that lies below it already stays as it is). What the
perceptual model gives is more than that where it beats both controls. Means over the pictures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from vidsr.api import Upscaler
from vidsr.evaluation.controls import noise_at, unsharp_at
from vidsr.evaluation.evaluate import BICUBIC, Comparison, compare_stages, set_name
from vidsr.evaluation.metrics import Picture, mean_psnr, psnr_y
from vidsr.evaluation.niqe import niqe, shipped_model
from vidsr.evaluation.similarity import dss, haarpsi

FIDELITY, PERCEPTUAL = "fidelity", "perceptual"


@dataclass(frozen=True)
class Figures:
    """Of one picture, or means."""

    dss: float
    haarpsi: float
    niqe: float
    psnr_y: float  # dB


def main() -> None:
    """Measure every folder, print a table each, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--fidelity", required=True, help="a model")
    parser.add_argument("--perceptual", required=True, help="a model of the same scale")
    parser.add_argument("--data", required=True, type=Path, nargs="+", help="folders of originals")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, default=Path("perceptual.json"))
    options = parser.parse_args()
    stages = {
        FIDELITY: Upscaler(options.fidelity, device=options.device),
        PERCEPTUAL: Upscaler(options.perceptual, device=options.device),
    }
    results = {}
    for folder in options.data:
        means = measure(stages, folder)
        results[set_name(folder)] = {name: vars(figures) for name, figures in means.items()}
        print_table(set_name(folder), means)
    options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


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
        **{name: of(comparison.outputs[name]) for name in (BICUBIC, FIDELITY, PERCEPTUAL)},
        "fidelity + unsharp": of(unsharp_at(fidelity, original, target, border=border)),
        "fidelity + noise": of(noise_at(fidelity, original, target, border=border)),
    }


def print_table(title: str, means: Mapping[str, Figures]) -> None:
    """One row a candidate."""
    print(f"{title:20}    DSS  HaarPSI   NIQE  PSNR-Y")
    for name, row in means.items():
        print(f"{name:20} {row.dss:6.4f}  {row.haarpsi:7.4f}  {row.niqe:5.2f}  {row.psnr_y:6.2f}")


if __name__ == "__main__":
    main()
