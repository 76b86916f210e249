"""What a colorizer in training is worth: a few figures on small validation pictures, and a sheet.

The figures are for choosing among checkpoints; those that are published come from `vidsr evaluate
colorize`, at full size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidsr.evaluation.chroma import Rendition, ciede2000, colorfulness, psnr_rgb
from vidsr.evaluation.compare import Cell, sheet
from vidsr.evaluation.metrics import mean_psnr, to_picture
from vidsr.lab import AB_SCALE, lab_to_rgb
from vidsr.training.color_data import load_small, whole_pair

SATURATIONS = (0.3, 0.5, 0.75, 1.0, 1.3)  # factors on ab
_MOST = 200  # pictures; with 40 of color/val the best checkpoint was another than with all 117
_SHOWN = 8  # pictures of a sheet


@dataclass(frozen=True)
class Point:
    """Means over all pictures, at one factor on ab; the original's lightness is kept."""

    saturation: float
    psnr: float  # dB, of R'G'B'
    ciede2000: float
    colorfulness: float  # as a share of the originals'

    def columns(self) -> dict[str, float]:
        """For the log of a run."""
        suffix = f"@{self.saturation:g}"
        return {
            f"psnr{suffix}": round(self.psnr, 3),
            f"ciede2000{suffix}": round(self.ciede2000, 3),
            f"colorfulness{suffix}": round(self.colorfulness, 3),
        }


@dataclass(frozen=True)
class ColorExam:
    """Validation pictures made small."""

    pairs: list[tuple[Tensor, Tensor]]  # L (1,1,h,w) in [-1,1] and L*a*b* (1,3,h/2,w/2)
    device: torch.device

    @classmethod
    def of(cls, folders: Sequence[Path], side: int, device: torch.device) -> ColorExam:
        """The pictures of folders, with a short side of `side` pixels.

        Raises:
            RequestError: no usable picture.
        """
        pictures = load_small(folders, side=side, least_colorfulness=0.0)
        every = math.ceil(len(pictures) / _MOST)
        return cls([whole_pair(picture) for picture in pictures[::every]], device)

    def curve(self, network: nn.Module, saturations: Sequence[float] = SATURATIONS) -> list[Point]:
        """Quality over saturation, of a network from L to ab."""
        answers = self._answers(network)
        return [self._point(answers, saturation) for saturation in saturations]

    def measured(self, network: nn.Module) -> dict[str, float]:
        """For the card: at saturation 1, beside gray."""
        gray, own = self.curve(network, (0.0, 1.0))
        return {
            "psnr_rgb": round(own.psnr, 2),
            "ciede2000": round(own.ciede2000, 2),
            "colorfulness_ratio": round(own.colorfulness, 2),
            "gray_psnr_rgb": round(gray.psnr, 2),
            "gray_ciede2000": round(gray.ciede2000, 2),
        }

    def draw(self, network: nn.Module, path: Path) -> None:
        """Write a sheet of gray input, the network's colors, and the original.

        Raises:
            MediaError: the file cannot be written.
        """
        every = max(1, len(self.pairs) // _SHOWN)
        shown = ColorExam(self.pairs[::every][:_SHOWN], self.device)
        answers = shown._answers(network)
        columns = [
            [
                ("gray", _rgb(lab, torch.zeros_like(ab))),
                ("colorized", _rgb(lab, ab)),
                ("original", lab_to_rgb(lab)),
            ]
            for (_, lab), ab in zip(shown.pairs, answers, strict=True)
        ]
        rows: list[list[Cell]] = [
            [(name, to_picture(_larger(rgb))) for name, rgb in row] for row in columns
        ]
        sheet([rows[i] + rows[i + 1] for i in range(0, len(rows) - 1, 2)] or rows, path)

    def _answers(self, network: nn.Module) -> list[Tensor]:
        with torch.inference_mode():
            return [
                network(lightness.to(self.device)).cpu() * AB_SCALE for lightness, _ in self.pairs
            ]

    def _point(self, answers: list[Tensor], saturation: float) -> Point:
        errors, differences, own, theirs = [], [], 0.0, 0.0
        for (_, lab), ab in zip(self.pairs, answers, strict=True):
            made = Rendition.of(to_picture(_rgb(lab, ab * saturation)))
            original = Rendition.of(to_picture(lab_to_rgb(lab)))
            errors.append(psnr_rgb(made.rgb, original.rgb))
            differences.append(float(ciede2000(made.lab, original.lab).mean()))
            own += colorfulness(made.rgb)
            theirs += colorfulness(original.rgb)
        mean_difference = sum(differences) / len(differences)
        return Point(saturation, mean_psnr(errors), mean_difference, own / theirs if theirs else 0)


def _rgb(lab: Tensor, ab: Tensor) -> Tensor:
    return lab_to_rgb(torch.cat((lab[:, :1], ab), dim=1))


def _larger(rgb: Tensor) -> Tensor:
    return F.interpolate(rgb, scale_factor=2, mode="bilinear", align_corners=False)
