"""What a benchmark came to: JSON, a bar plot, a contact sheet, and figures for a model's card."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vidsr.errors import MediaError, RequestError
from vidsr.evaluation.compare import ContactSheet
from vidsr.evaluation.evaluate import BICUBIC, Scores, UpscaleReport
from vidsr.evaluation.scores import shown
from vidsr.files import appearing
from vidsr.models.card import ModelCard

PLOT_SIZE = (12.0, 6.0)  # inches
PLOT_DPI = 100


@dataclass(frozen=True)
class Metric:
    """How one of the `Scores` is shown."""

    field: str
    title: str
    digits: int  # after the point
    best: Literal["most", "least", "one"]  # "one": the nearest to 1

    def show(self, value: float) -> str:
        """The figure in words; a dash for what could not be measured."""
        return shown(value, self.digits)

    def winner(self, means: Mapping[str, Scores]) -> str:
        """The stage with the best figure; "" if none has any."""
        distances = {}
        for stage, scores in means.items():
            value = getattr(scores, self.field)
            distance = {"most": -value, "least": value, "one": abs(value - 1)}[self.best]
            if not math.isnan(distance):
                distances[stage] = distance
        return min(distances, key=lambda stage: distances[stage], default="")


METRICS = (
    Metric("psnr_y", "PSNR-Y", 2, "most"),
    Metric("ssim_y", "SSIM-Y", 4, "most"),
    Metric("ms_ssim_y", "MS-SSIM", 4, "most"),
    Metric("dss", "DSS", 4, "most"),
    Metric("haarpsi", "HaarPSI", 4, "most"),
    Metric("niqe", "NIQE", 2, "least"),
    Metric("line_steepness", "lines", 3, "one"),
    Metric("color_shift", "dE00", 2, "least"),
)


def open_folder(folder: Path) -> None:
    """Make the folder for reports, before anything is measured.

    Raises:
        RequestError: matplotlib is not installed.
        MediaError: the folder cannot be made or written.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as exc:
        raise RequestError("a plot needs matplotlib: pip install 'vidsr[train]'") from exc
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise MediaError(f"{folder}: cannot be made ({exc.strerror})") from exc
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MediaError(f"{folder}: this folder cannot be written")


def write_report(report: UpscaleReport, crops: ContactSheet, folder: Path) -> None:
    """Write report.json, plot.png and sheet.png.

    Raises:
        MediaError: a file cannot be written.
    """
    try:
        (folder / "report.json").write_text(report.to_json() + "\n", encoding="utf-8")
        draw_plot(report, folder / "plot.png")
    except OSError as exc:
        raise MediaError(f"{folder}: cannot be written ({exc.strerror or exc})") from exc
    crops.write(folder / "sheet.png")


def draw_plot(report: UpscaleReport, path: Path) -> None:
    """Write a PNG with one small bar plot a metric, one bar a stage, the best one dark.

    Similarities differ in the third digit, so axes do not begin at zero; each bar has its figure.
    """
    from matplotlib.figure import Figure

    means = report.mean
    figure = Figure(figsize=PLOT_SIZE, dpi=PLOT_DPI, layout="constrained")
    count = len(report.pictures)
    figure.suptitle(f"{report.name}, x{report.scale}, mean of {count} (axes are cut)")
    for axes, metric in zip(figure.subplots(2, 4).flat, METRICS, strict=True):
        values = [getattr(scores, metric.field) for scores in means.values()]
        heights = [value if math.isfinite(value) else 0.0 for value in values]
        best = metric.winner(means)
        colors = ["#1b5e8a" if stage == best else "#a9c4d6" for stage in means]
        bars = axes.bar(range(len(heights)), heights, color=colors)
        axes.bar_label(bars, labels=[metric.show(value) for value in values], fontsize=8)
        axes.set_xticks(range(len(heights)), list(means), rotation=20, ha="right", fontsize=8)
        axes.set_ylim(*_limits([value for value in values if math.isfinite(value)]))
        axes.set_title(f"{metric.title} ({_words(metric)})", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png")


def _limits(values: list[float]) -> tuple[float, float]:
    """An axis on which the lowest bar can be seen and the highest has room for its figure."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    span = max(high - low, 0.02 * abs(high), 1e-6)
    return max(0.0, low - span), high + 0.4 * span


def _words(metric: Metric) -> str:
    words = {"most": "higher is better", "least": "lower is better", "one": "steepness, 1 is best"}
    return words[metric.best]


def writable_card(weights: Path) -> Path:
    """The card file beside a weights file.

    Raises:
        RequestError: there is none, or it cannot be written.
    """
    path = weights.with_suffix(".json")
    if not path.is_file() or not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        raise RequestError(f"{path}: no card that could be written here; leave --card out")
    return path


def add_to_card(path: Path, report: UpscaleReport, stage: str) -> None:
    """Write the means of a stage and of bicubic into a card, under the report's name.

    Raises:
        ModelError: the file is no card.
        MediaError: it cannot be written.
    """
    add_measured(path, {report.name: _figures(report, stage)})


def add_measured(path: Path, measured: Mapping[str, Mapping[str, float]]) -> None:
    """Write figures by the name of what they were measured on into a card.

    Raises:
        ModelError: the file is no card.
        MediaError: it cannot be written.
    """
    card = ModelCard.read(path)
    try:
        with appearing(path) as part:
            dataclasses.replace(card, measured={**card.measured, **measured}).write(part)
    except OSError as exc:
        raise MediaError(f"{path}: cannot be written ({exc.strerror})") from exc


def _figures(report: UpscaleReport, stage: str) -> dict[str, float]:
    """Rounded means, those of bicubic with its name before; what is not finite is left out."""
    figures = {}
    for name, prefix in ((stage, ""), (BICUBIC, "bicubic_")):
        for metric in METRICS:
            value = getattr(report.mean[name], metric.field)
            if math.isfinite(value):
                figures[prefix + metric.field] = round(value, metric.digits)
    return figures
