"""Pictures side by side, for eyes: a before/after sheet and labelled contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vidsr.errors import MediaError, RequestError
from vidsr.evaluation.metrics import Picture, enlarge, luma, to_picture, to_tensor

Cell = tuple[str, Picture]  # a label and what stands below it

PANEL = (798, 800)  # largest (width, height) of one side of `before_after`
GAP = 4  # pixels between cells
LABEL_HEIGHT = 24
FONT_SIZE = 16
BACKGROUND = (24, 24, 24)
INK = (235, 235, 235)


def before_after(before: Picture, after: Picture, path: Path) -> None:
    """Write a PNG: left `before` enlarged bicubically, right `after`, each at 1:1 output pixels.

    Pictures larger than a panel are cropped to the panel-sized area that has the most detail.

    Raises:
        RequestError: `after` is not `before` enlarged by a whole number.
        MediaError: the file cannot be written.
    """
    scale = _scale(before, after)
    height, width = before.shape[:2]
    size = (min(width, PANEL[0] // scale), min(height, PANEL[1] // scale))
    left, top = _most_detailed(before, size)
    area = np.s_[top * scale : (top + size[1]) * scale, left * scale : (left + size[0]) * scale]
    bicubic = to_picture(enlarge(to_tensor(before), scale))
    sheet([[(f"bicubic x{scale}", bicubic[area]), (f"vidsr x{scale}", after[area])]], path)


def sheet(rows: Sequence[Sequence[Cell]], path: Path) -> None:
    """Write a PNG of labelled pictures at 1:1; columns align, rows may differ in length.

    Raises:
        RequestError: no rows, or a row without pictures.
        MediaError: the file cannot be written.
    """
    if not rows or not all(rows):
        raise RequestError(f"{path}: a sheet needs at least one picture in each row")
    widths = [
        max(row[column][1].shape[1] for row in rows if column < len(row))
        for column in range(max(len(row) for row in rows))
    ]
    heights = [LABEL_HEIGHT + max(picture.shape[0] for _, picture in row) for row in rows]
    size = (sum(widths) + GAP * (len(widths) - 1), sum(heights) + GAP * (len(heights) - 1))
    canvas = Image.new("RGB", size, BACKGROUND)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_SIZE)
    for number, row in enumerate(rows):
        y = sum(heights[:number]) + GAP * number
        for column, (label, picture) in enumerate(row):
            x = sum(widths[:column]) + GAP * column
            draw.text((x + 4, y + LABEL_HEIGHT // 2), label, INK, font, anchor="lm")
            canvas.paste(Image.fromarray(picture), (x, y + LABEL_HEIGHT))
    _write(canvas, path)


def _scale(before: Picture, after: Picture) -> int:
    (height, width), enlarged = before.shape[:2], after.shape[:2]
    scale = int(enlarged[0] // height)
    if scale < 1 or enlarged != (height * scale, width * scale):
        raise RequestError(
            f"{enlarged[1]}x{enlarged[0]} is not {width}x{height} enlarged by a whole number"
        )
    return scale


def _most_detailed(picture: Picture, size: tuple[int, int]) -> tuple[int, int]:
    """Left and top of the area of that (width, height) with the largest sum of gradients."""
    width, height = size
    down, across = np.gradient(luma(picture, border=0))
    detail: NDArray[np.float64] = np.abs(down) + np.abs(across)
    integral = np.pad(detail, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    sums = (
        integral[height:, width:]
        - integral[:-height, width:]
        - integral[height:, :-width]
        + integral[:-height, :-width]
    )
    top, left = np.unravel_index(np.argmax(sums), sums.shape)
    return int(left), int(top)


def _write(image: Image.Image, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(part, format="PNG", optimize=True)
        part.replace(path)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise MediaError(f"{path}: cannot be written ({exc.strerror or exc})") from exc
