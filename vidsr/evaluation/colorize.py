"""Colorization over a folder of color pictures: every metric of every picture, beside gray.

How the gray picture is made: the L* of the original, with a* = b* = 0, back to R'G'B' of 8 bits.
What is measured is the original's L* with the a* and b* of what the stage made of that, so that
colors are compared and nothing else; gray is the same with a* = b* = 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vidsr.coloring import Colorize, Look
from vidsr.errors import RequestError
from vidsr.evaluation.chroma import Rendition, ciede2000, colorfulness, psnr_rgb, ssim_rgb
from vidsr.evaluation.evaluate import picture_paths, read_picture, set_name
from vidsr.evaluation.metrics import Picture, to_picture, to_tensor
from vidsr.evaluation.scores import mean_of, plain, to_json
from vidsr.lab import lab_to_rgb, rgb_to_lab

if TYPE_CHECKING:
    from vidsr.coloring import ColorNetwork

GRAY = "gray"  # the stage that is always measured
SMALLEST_SIDE = 11  # pixels, of SSIM's window
ALL = "all"
# How this project's color sets name their files: a letter for the kind, then a hash.
_NAMED_BY_KIND = re.compile(r"([demptu])[0-9a-f]{8}(-v\d+)?")
_KINDS = {True: "photographs", False: "paintings and drawings"}

Recolor = Callable[[Tensor], Tensor]  # gray RGB (1,3,H,W) fp32 in [0,1] on the CPU -> RGB, as large


@dataclass(frozen=True)
class ColorScores:
    """How near colors come to the original's, and how strong they are."""

    psnr_rgb: float  # dB; infinite if equal
    ssim_rgb: float
    ciede2000: float  # mean over the pixels
    ciede2000_p95: float  # 95th percentile over the pixels
    colorfulness: float
    original_colorfulness: float

    @property
    def ratio(self) -> float:
        """Colorfulness to the original's; of means, the ratio of the means; NaN for gray ones."""
        original = self.original_colorfulness
        return self.colorfulness / original if original else math.nan

    def to_dict(self) -> dict[str, float | None]:
        """Plain values with the ratio."""
        return plain({**asdict(self), "ratio": self.ratio})


@dataclass(frozen=True)
class ColorPicture:
    """One picture's scores by stage, gray first."""

    name: str  # path within the folder, with forward slashes
    stages: dict[str, ColorScores]

    @property
    def kind(self) -> str | None:
        """What sort of picture it is if its name says so."""
        named = _NAMED_BY_KIND.fullmatch(Path(self.name).stem)
        return _KINDS[named[1] in "pte"] if named else None


@dataclass(frozen=True)
class ColorReport:
    """The scores of a whole folder."""

    data: str  # the folder, as `set_name` calls it
    pictures: tuple[ColorPicture, ...]  # at least one, in the order of their names

    @property
    def groups(self) -> dict[str, tuple[ColorPicture, ...]]:
        """All pictures; and apart, where all names tell, photographs and what hands made."""
        kinds = {picture.kind for picture in self.pictures}
        if None in kinds or len(kinds) == 1:
            return {ALL: self.pictures}
        apart = {
            kind: tuple(picture for picture in self.pictures if picture.kind == kind)
            for kind in _KINDS.values()
        }
        return {ALL: self.pictures, **apart}

    @property
    def means(self) -> dict[str, dict[str, ColorScores]]:
        """By group and stage, the means over those pictures where a score is finite."""
        return {
            group: {
                stage: mean_of(picture.stages[stage] for picture in pictures)
                for stage in pictures[0].stages
            }
            for group, pictures in self.groups.items()
        }

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return {
            "data": self.data,
            "mean": {group: _plain(stages) for group, stages in self.means.items()},
            "pictures": [
                {"name": picture.name, **_plain(picture.stages)} for picture in self.pictures
            ],
        }

    def to_json(self) -> str:
        """Indented JSON of `to_dict`."""
        return to_json(self.to_dict())


@dataclass
class ColorComparison:
    """One picture as every stage made it, for eyes and metrics."""

    name: str
    original: Rendition
    outputs: dict[str, Rendition]  # by stage, gray first; each of the original's size


def evaluate_colorize(
    stages: Mapping[str, Recolor],
    folder: Path,
    *,
    show: Callable[[ColorComparison], None] | None = None,
) -> Iterator[ColorPicture | ColorReport]:
    """Turn every picture of a folder gray, color it by each stage, and measure that, and gray.

    Args:
        stages: by name, each gray RGB (1,3,H,W) fp32 in [0,1] on the CPU -> RGB of that size on any
            device. Pictures have nothing to do with each other: a stage that remembers forgets.
        folder: color pictures, at any depth; their number is `len(picture_paths(folder))`.
        show: gets each picture as the stages made it.

    Returns:
        An iterator of the scores of each picture as it is measured; its last item is the report.
        The folder is looked at right away.

    Raises:
        RequestError: no pictures, pictures too small, or scikit-image is not installed.
        MediaError: a picture cannot be read (a benchmark that lacks one is another benchmark).
    """
    paths = picture_paths(folder)
    if not paths:
        raise RequestError(f"{folder}: no pictures in this folder or below it")
    comparisons = (compare(stages, path, path.relative_to(folder).as_posix()) for path in paths)
    return _evaluate(comparisons, ColorReport(set_name(folder), ()), show)


def compare(stages: Mapping[str, Recolor], path: Path, name: str) -> ColorComparison:
    """One picture, as gray and as each stage colors it.

    Raises:
        RequestError: it is too small to be measured, or a stage made another size of it.
        MediaError: it cannot be read.
    """
    picture = read_picture(path)
    if min(picture.shape[:2]) < SMALLEST_SIDE:
        raise RequestError(
            f"{path}: too small a picture to be measured; {SMALLEST_SIDE} pixels a side are the "
            "least"
        )
    with torch.inference_mode():
        lab = rgb_to_lab(to_tensor(picture))
        gray = to_gray(lab)
        given = to_tensor(gray)
        outputs = {GRAY: gray}
        for stage, recolor in stages.items():
            output = recolor(given).float().cpu()
            if output.shape != lab.shape:
                raise RequestError(
                    f"{stage} made {output.shape[3]}x{output.shape[2]} pixels of {name}, which has "
                    f"{lab.shape[3]}x{lab.shape[2]}"
                )
            outputs[stage] = joined(lab, rgb_to_lab(output)[:, 1:])
    renditions = {stage: Rendition.of(output) for stage, output in outputs.items()}
    return ColorComparison(name, Rendition.of(picture), renditions)


def operating_points(
    network: ColorNetwork, saturations: Sequence[float], device: torch.device | str = "cpu"
) -> dict[str, Recolor]:
    """The stage that ships, once for each saturation, for pictures that have nothing in common.

    Args:
        network: predicts a and b, on the device; it is asked once a picture.
        saturations: factors on a and b.
        device: of the network.

    Raises:
        RequestError: a saturation that the stage does not take.
    """
    asked = AskedOnce(network)
    looks = {
        f"saturation {saturation:g}": Look(saturation=saturation, stability=0)
        for saturation in saturations
    }
    return {name: on_device(Colorize(asked, look=look), device) for name, look in looks.items()}


class AskedOnce:
    """A network that several stages ask for the same picture."""

    def __init__(self, network: ColorNetwork) -> None:
        self._network = network
        self._last: tuple[Tensor, Tensor] | None = None  # what was asked, and the answer

    def __call__(self, lightness: Tensor) -> Tensor:
        """As the network."""
        if self._last is None or not torch.equal(self._last[0], lightness):
            self._last = lightness, self._network(lightness)
        return self._last[1]


def on_device(stage: Recolor, device: torch.device | str) -> Recolor:
    """A stage that takes what lies elsewhere too."""
    return lambda rgb: stage(rgb.to(device))


def to_gray(lab: Tensor) -> Picture:
    """The L* of (1,3,H,W) alone: three channels that are equal in every pixel."""
    gray = joined(lab, torch.zeros_like(lab[:, 1:]))
    return np.repeat(gray[..., 1:2], 3, axis=2)  # rounding may have split them by a code


def joined(lab: Tensor, ab: Tensor) -> Picture:
    """The L* of (1,3,H,W) with the a* and b* (1,2,H,W), as a picture of 8 bits."""
    return to_picture(lab_to_rgb(torch.cat([lab[:, :1], ab], dim=1)))


def score(output: Rendition, original: Rendition) -> ColorScores:
    """Every metric of one picture."""
    difference = ciede2000(output.lab, original.lab)
    return ColorScores(
        psnr_rgb=psnr_rgb(output.rgb, original.rgb),
        ssim_rgb=ssim_rgb(output.rgb, original.rgb),
        ciede2000=float(difference.mean()),
        ciede2000_p95=float(np.quantile(difference, 0.95)),
        colorfulness=colorfulness(output.rgb),
        original_colorfulness=colorfulness(original.rgb),
    )


def _evaluate(
    comparisons: Iterator[ColorComparison],
    empty: ColorReport,
    show: Callable[[ColorComparison], None] | None,
) -> Iterator[ColorPicture | ColorReport]:
    pictures = []
    for comparison in comparisons:
        if show:
            show(comparison)
        scores = {
            stage: score(output, comparison.original)
            for stage, output in comparison.outputs.items()
        }
        pictures.append(ColorPicture(comparison.name, scores))
        yield pictures[-1]
    yield replace(empty, pictures=tuple(pictures))


def _plain(stages: dict[str, ColorScores]) -> dict[str, dict[str, float | None]]:
    return {stage: scores.to_dict() for stage, scores in stages.items()}
