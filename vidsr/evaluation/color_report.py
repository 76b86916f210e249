"""What colorization came to: JSON, a plot of its colors, a contact sheet, figures for a card."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional as F

from vidsr.errors import MediaError
from vidsr.evaluation.colorize import (
    ALL,
    GRAY,
    ColorComparison,
    ColorPicture,
    ColorReport,
    ColorScores,
)
from vidsr.evaluation.compare import Cell, sheet
from vidsr.evaluation.metrics import Picture, to_picture, to_tensor
from vidsr.evaluation.scores import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ORIGINAL = "original"
SHEET_ROWS = 12
SHEET_CELL = (240, 180)  # largest (width, height) of a picture on the sheet
AB_REACH = 112  # a* and b* of the histograms end there
AB_STEP = 4
PLOT_DPI = 100
RATIO_BINS = np.arange(0, 2.05, 0.1)

Counts = NDArray[np.int64]  # (56, 56): pixels by b* and a*


class Figure(NamedTuple):
    """How one of the `ColorScores` is shown."""

    field: str
    title: str
    digits: int  # after the point

    def show(self, scores: ColorScores) -> str:
        """The figure in words."""
        return shown(getattr(scores, self.field), self.digits)


FIGURES = (
    Figure("psnr_rgb", "PSNR-RGB", 2),
    Figure("ssim_rgb", "SSIM", 4),
    Figure("ciede2000", "dE00", 2),
    Figure("ciede2000_p95", "p95", 2),
    Figure("colorfulness", "colorfulness", 1),
    Figure("ratio", "ratio", 2),
)


class Gallery:
    """What of the pictures themselves goes into a report.

    Rows of a contact sheet, each n-th picture so that none is picked for its looks, and how often
    each color occurs.
    """

    def __init__(self, pictures: int) -> None:
        """For so many pictures."""
        self._step = math.ceil(pictures / SHEET_ROWS)
        self._seen = 0
        self.rows: list[list[Cell]] = []
        self.counts: dict[str, Counts] = {}  # by stage without gray, the original's first

    def add(self, comparison: ColorComparison) -> None:
        """Take note of the next picture."""
        original = {ORIGINAL: comparison.original}
        outputs = comparison.outputs
        if self._seen % self._step == 0:
            self.rows.append(
                [(label, _fitted(seen.rgb)) for label, seen in {**outputs, **original}.items()]
            )
        self._seen += 1
        for name, seen in {**original, **outputs}.items():
            if name != GRAY:
                self.counts[name] = self.counts.get(name, 0) + count_ab(seen.lab)


def count_ab(lab: NDArray[np.float32]) -> Counts:
    """How many pixels of (H,W,3) fall into each square of a* and b*."""
    side = 2 * AB_REACH // AB_STEP
    places = ((lab[..., 1:] + AB_REACH) // AB_STEP).astype(np.int64).clip(0, side - 1)
    flat = places[..., 1] * side + places[..., 0]
    return np.bincount(flat.ravel(), minlength=side * side).reshape(side, side)


def write_color_report(report: ColorReport, gallery: Gallery, folder: Path) -> None:
    """Write report.json, plot.png and sheet.jpg.

    Raises:
        MediaError: a file cannot be written.
    """
    try:
        (folder / "report.json").write_text(report.to_json() + "\n", encoding="utf-8")
        draw_color_plot(report, gallery.counts, folder / "plot.png")
    except OSError as exc:
        raise MediaError(f"{folder}: cannot be written ({exc.strerror or exc})") from exc
    sheet(gallery.rows, folder / "sheet.jpg")


def draw_color_plot(report: ColorReport, counts: dict[str, Counts], path: Path) -> None:
    """Write a PNG: what strength of color costs, how it varies, and which colors there are."""
    from matplotlib.figure import Figure as Canvas

    columns = max(4, len(counts))
    canvas = Canvas(figsize=(3.2 * columns, 8.0), dpi=PLOT_DPI, layout="constrained")
    canvas.suptitle(f"{report.data}, {len(report.pictures)} pictures")
    grid = canvas.add_gridspec(2, columns, height_ratios=[1.2, 1])
    _draw_curve(report, canvas.add_subplot(grid[0, : columns // 2]))
    _draw_ratios(report, canvas.add_subplot(grid[0, columns // 2 :]))
    for column, (name, count) in enumerate(counts.items()):
        _draw_colors(count, canvas.add_subplot(grid[1, column]), name)
    canvas.savefig(path, format="png")


def card_figures(report: ColorReport) -> dict[str, dict[str, float]]:
    """Rounded means over all pictures by "<set>, <stage>", those of gray beside each."""
    means = report.means[ALL]
    gray = {f"gray_{name}": value for name, value in _rounded(means[GRAY]).items()}
    return {
        f"{report.data}, {stage}": {**_rounded(scores), **gray}
        for stage, scores in means.items()
        if stage != GRAY
    }


def _rounded(scores: ColorScores) -> dict[str, float]:
    """What is not finite is left out."""
    values = {figure: getattr(scores, figure.field) for figure in FIGURES}
    return {
        figure.field: round(value, figure.digits)
        for figure, value in values.items()
        if math.isfinite(value)
    }


def _fitted(picture: Picture) -> Picture:
    """Shrunk into a cell, colors and all; smaller ones stay."""
    height, width = picture.shape[:2]
    factor = min(1.0, SHEET_CELL[0] / width, SHEET_CELL[1] / height)
    size = [max(1, round(height * factor)), max(1, round(width * factor))]
    return to_picture(F.interpolate(to_tensor(picture), size=size, mode="bilinear", antialias=True))


def _draw_curve(report: ColorReport, axes: Axes) -> None:
    """The color difference over the ratio, one line a group; gray, at zero, is dashed."""
    for group, means in report.means.items():
        stages = {name: scores for name, scores in means.items() if name != GRAY}
        points = sorted((scores.ratio, scores.ciede2000, name) for name, scores in stages.items())
        (line,) = axes.plot(
            [ratio for ratio, _, _ in points],
            [difference for _, difference, _ in points],
            marker="o",
            label=f"{group} ({len(report.groups[group])})",
        )
        axes.axhline(means[GRAY].ciede2000, color=line.get_color(), linestyle="--", linewidth=1)
        for ratio, difference, name in points if group == ALL else ():
            axes.annotate(name, (ratio, difference), (0, 6), textcoords="offset points", fontsize=7)
    axes.margins(x=0.12)
    axes.set_xlabel("colorfulness ratio")
    axes.set_ylabel("mean CIEDE2000")
    axes.set_title("color difference (dashed: gray)", fontsize=10)
    axes.legend(fontsize=8)


def _draw_ratios(report: ColorReport, axes: Axes) -> None:
    for name in _stages(report.pictures):
        ratios = np.array([picture.stages[name].ratio for picture in report.pictures])
        inside = ratios[np.isfinite(ratios)].clip(RATIO_BINS[0], RATIO_BINS[-1])
        axes.hist(inside, bins=RATIO_BINS.tolist(), histtype="step", label=name)
    axes.axvline(1.0, color="#888888", linestyle="--", linewidth=1)
    axes.set_xlabel(f"colorfulness ratio (the last bin: {RATIO_BINS[-2]:g} and more)")
    axes.set_ylabel("pictures")
    axes.set_title("how it varies", fontsize=10)
    axes.legend(fontsize=8)


def _draw_colors(count: Counts, axes: Axes, name: str) -> None:
    origin: Literal["lower"] = "lower"
    with np.errstate(divide="ignore"):
        share = np.log10(count / count.sum())  # of the pixels; -inf is left blank
    reach = (-AB_REACH, AB_REACH, -AB_REACH, AB_REACH)
    axes.imshow(share, origin=origin, extent=reach, vmin=-6, vmax=-1)
    axes.set_title(name, fontsize=10)
    axes.set_xlabel("a*")
    axes.set_ylabel("b*")


def _stages(pictures: tuple[ColorPicture, ...]) -> list[str]:
    return [name for name in pictures[0].stages if name != GRAY]
