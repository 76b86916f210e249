import json

import numpy as np
import pytest
from PIL import Image

from vidsr.errors import MediaError
from vidsr.evaluation.chroma import Rendition
from vidsr.evaluation.color_report import (
    FIGURES,
    SHEET_CELL,
    SHEET_ROWS,
    Gallery,
    card_figures,
    count_ab,
    write_color_report,
)
from vidsr.evaluation.colorize import (
    GRAY,
    ColorComparison,
    ColorPicture,
    ColorReport,
    ColorScores,
)


def scores(ciede, color):
    return ColorScores(22.123, 0.98765, ciede, 2 * ciede, color, 40.0)


def report(count=3):
    stages = {GRAY: scores(11.5, 0.0), "weak": scores(11.2, 10.0), "strong": scores(12.0, 30.0)}
    return ColorReport("set", tuple(ColorPicture(f"{n}.png", stages) for n in range(count)))


def comparison(number=0, size=(30, 40)):
    shape = (*size, 3)
    gray, color = np.full(shape, 128, np.uint8), np.full(shape, 128, np.uint8)
    color[..., 0] = 190 + number
    return ColorComparison(
        f"{number}.png",
        Rendition.of(color),
        {GRAY: Rendition.of(gray), "weak": Rendition.of(gray), "strong": Rendition.of(color)},
    )


def filled(count=3):
    gallery = Gallery(count)
    for number in range(count):
        gallery.add(comparison(number))
    return gallery


def test_a_report_is_three_files(tmp_path):
    write_color_report(report(), filled(), tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content == report().to_dict()
    for name in ("plot.png", "sheet.jpg"):
        with Image.open(tmp_path / name) as image:
            assert image.width > 100


def test_the_sheet_shows_gray_outputs_and_the_original_of_evenly_chosen_pictures():
    count = 5 * SHEET_ROWS
    gallery = filled(count)
    assert len(gallery.rows) == SHEET_ROWS
    assert [label for label, _ in gallery.rows[0]] == [GRAY, "weak", "strong", "original"]
    reds = [int(row[-1][1][0, 0, 0]) for row in gallery.rows]
    assert reds == [190 + number for number in range(0, count, 5)]


def test_large_pictures_are_shown_whole_and_smaller():
    gallery = Gallery(1)
    gallery.add(comparison(size=(400, 960)))
    shown = gallery.rows[0][0][1]
    assert shown.shape == (100, SHEET_CELL[0], 3)


def test_colors_are_counted_by_place():
    lab = np.zeros((4, 5, 3), np.float32)
    lab[0, :, 1] = 50
    lab[1, :, 2] = -50
    counts = count_ab(lab)
    assert counts.sum() == 20
    assert counts[28, (112 + 50) // 4] == 5  # b* = 0 above, a* = 50 to the right
    assert counts[(112 - 50) // 4, 28] == 5


def test_colors_of_all_pictures_are_counted_but_for_gray():
    counts = filled(3).counts
    assert list(counts) == ["original", "weak", "strong"]
    assert all(count.sum() == 3 * 30 * 40 for count in counts.values())
    assert np.array_equal(counts["original"], counts["strong"])


def test_a_card_gets_each_stage_beside_gray():
    figures = card_figures(report())
    assert list(figures) == ["set, weak", "set, strong"]
    strong = figures["set, strong"]
    assert (strong["ciede2000"], strong["gray_ciede2000"]) == (12.0, 11.5)
    assert (strong["psnr_rgb"], strong["ssim_rgb"], strong["ratio"]) == (22.12, 0.9877, 0.75)


def test_every_figure_can_be_shown():
    assert [figure.show(scores(11.5, 30.0)) for figure in FIGURES] == [
        "22.12",
        "0.9877",
        "11.50",
        "23.00",
        "30.0",
        "0.75",
    ]


def test_an_unwritable_folder_is_named(tmp_path):
    with pytest.raises(MediaError, match="missing"):
        write_color_report(report(), filled(), tmp_path / "missing")
