"""Pictures side by side, for eyes: a before/after sheet, labelled and contact sheets."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vidsr.errors import MediaError, RequestError
from vidsr.evaluation.metrics import Picture, enlarge, luma, to_picture, to_tensor
from vidsr.files import appearing

if TYPE_CHECKING:
    from vidsr.evaluation.evaluate import Comparison

Cell = tuple[str, Picture]  # a label and what stands below it

PANEL = (798, 800)  # largest (width, height) of one side of `before_after`
GAP = 4  # pixels between cells
LABEL_HEIGHT = 24
FONT_SIZE = 16
BACKGROUND = (24, 24, 24)
INK = (235, 235, 235)
CROP_SIDE = 168  # pixels of a contact sheet's cells; a multiple of every scale
CROPS = 4  # rows of a contact sheet
MOST_BYTES = 1_000_000  # of a contact sheet


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
    down, across = np.gradient(luma(before, border=0))
    left, top = _richest(np.abs(down) + np.abs(across), size)
    area = np.s_[top * scale : (top + size[1]) * scale, left * scale : (left + size[0]) * scale]
    bicubic = to_picture(enlarge(to_tensor(before), scale))
    sheet([[(f"bicubic x{scale}", bicubic[area]), (f"vidsr x{scale}", after[area])]], path)


def sheet(rows: Sequence[Sequence[Cell]], path: Path) -> None:
    """Write labelled pictures at 1:1; columns align, rows may differ in length.

    A PNG, or where the name ends so a JPEG, which is enough for colors.

    Raises:
        RequestError: no rows, or a row without pictures.
        MediaError: the file cannot be written.
    """
    if not rows or not all(rows):
        raise RequestError(f"{path}: a sheet needs at least one picture in each row")
    canvas = _draw(rows)
    _write(_jpeg(canvas) if path.suffix.lower() in {".jpg", ".jpeg"} else _png(canvas), path)


class ContactSheet:
    """The crops of a benchmark where the stages differ most: what the figures look like.

    A column each: the input with its pixels repeated, bicubic, every other stage, the original. Of
    each picture there is one crop at most.
    """

    def __init__(self, scale: int) -> None:
        self.scale = scale
        self._rows: list[tuple[float, list[Cell]]] = []  # difference and cells, the largest first

    def add(self, comparison: Comparison) -> None:
        """Take note of a picture; forgets it unless it is among the most telling so far."""
        difference, (left, top), (width, height) = self._most_telling(comparison)
        area = np.s_[top : top + height, left : left + width]
        repeated = comparison.low_res.repeat(self.scale, axis=0).repeat(self.scale, axis=1)
        columns = {comparison.name: repeated, **comparison.outputs, "original": comparison.original}
        cells = [(label, picture[area].copy()) for label, picture in columns.items()]
        self._rows.append((difference, cells))
        self._rows.sort(key=lambda row: row[0], reverse=True)
        del self._rows[CROPS:]

    def write(self, path: Path) -> None:
        """Write what was gathered as a PNG.

        Above `MOST_BYTES` the least telling rows give way, and if one row is too much, colors do.

        Raises:
            RequestError: nothing was added.
            MediaError: the file cannot be written.
        """
        rows = [cells for _, cells in self._rows]
        if not rows:
            raise RequestError(f"{path}: no pictures to show")
        content = _png(_draw(rows))
        while len(content) > MOST_BYTES and len(rows) > 1:
            rows.pop()
            content = _png(_draw(rows))
        if len(content) > MOST_BYTES:
            content = _png(_draw(rows).quantize(256, dither=Image.Dither.NONE))
        _write(content, path)

    def _most_telling(
        self, comparison: Comparison
    ) -> tuple[float, tuple[int, int], tuple[int, int]]:
        """The mean luma difference, (left, top) and (width, height) of the crop.

        Between the models, or between the only one and bicubic. Corners lie on low-res pixels'.
        """
        outputs = list(comparison.outputs.values())
        models = outputs[1:] if len(outputs) > 2 else outputs
        difference = np.ptp([luma(picture, border=0) for picture in models], axis=0)
        rows, columns = (side // self.scale for side in difference.shape)
        blocks = difference.reshape(rows, self.scale, columns, self.scale).mean((1, 3))
        most = CROP_SIDE // self.scale
        height, width = min(most, rows), min(most, columns)
        left, top = _richest(blocks, (width, height))
        area = blocks[top : top + height, left : left + width]
        corner, size = (
            (left * self.scale, top * self.scale),
            (width * self.scale, height * self.scale),
        )
        return float(area.mean()), corner, size


def _draw(rows: Sequence[Sequence[Cell]]) -> Image.Image:
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
            shown = _shortened(label, widths[column] - 8, font)
            draw.text((x + 4, y + LABEL_HEIGHT // 2), shown, INK, font, anchor="lm")
            canvas.paste(Image.fromarray(picture), (x, y + LABEL_HEIGHT))
    return canvas


def _shortened(label: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The label, or as much of its end as fits, for names differ at the end."""
    shown = label
    while len(shown) > 2 and font.getlength(shown) > width:
        shown = "…" + shown[2:]
    return shown


def _scale(before: Picture, after: Picture) -> int:
    (height, width), enlarged = before.shape[:2], after.shape[:2]
    scale = int(enlarged[0] // height)
    if scale < 1 or enlarged != (height * scale, width * scale):
        raise RequestError(
            f"{enlarged[1]}x{enlarged[0]} is not {width}x{height} enlarged by a whole number"
        )
    return scale


def _richest(amount: NDArray[np.float64], size: tuple[int, int]) -> tuple[int, int]:
    """Left and top of the area of that (width, height) with the largest sum of `amount`."""
    width, height = size
    integral = np.pad(amount, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    sums = (
        integral[height:, width:]
        - integral[:-height, width:]
        - integral[height:, :-width]
        + integral[:-height, :-width]
    )
    top, left = np.unravel_index(np.argmax(sums), sums.shape)
    return int(left), int(top)


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True)
    return content.getvalue()


def _jpeg(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=90, subsampling="4:4:4")
    return content.getvalue()


def _write(content: bytes, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with appearing(path) as part:
            part.write_bytes(content)
    except OSError as exc:
        raise MediaError(f"{path}: cannot be written ({exc.strerror or exc})") from exc
