import dataclasses
import json
import math
import sys

import numpy as np
import pytest
from evaluation.scenes import scene
from family import tiny_model
from PIL import Image

from vidsr.errors import MediaError, ModelError, RequestError
from vidsr.evaluation.compare import ContactSheet
from vidsr.evaluation.evaluate import Comparison, PictureScores, Scores, UpscaleReport
from vidsr.evaluation.report import (
    METRICS,
    Metric,
    add_to_card,
    draw_plot,
    open_folder,
    writable_card,
    write_report,
)
from vidsr.models.card import ModelCard

BICUBIC = Scores(28.4251, 0.81131, 0.96181, 0.78881, 0.77721, 7.304, 0.3871, 0.1701)
OURS = Scores(31.0349, 0.87671, 0.98091, 0.90811, 0.87371, 5.949, 0.7121, 0.1449)


def report(codec="", **stages):
    picture = PictureScores("a.png", {"bicubic": BICUBIC, "ours": OURS, **stages})
    return UpscaleReport("Set5", 4, codec, (picture,))


def test_every_score_has_a_way_to_be_shown():
    shown = [metric.field for metric in METRICS]
    assert shown == [field.name for field in dataclasses.fields(Scores)]


def test_the_best_is_the_most_the_least_or_the_nearest_to_one():
    means = report(
        other=dataclasses.replace(OURS, psnr_y=30, niqe=4, line_steepness=1.4, dss=math.nan)
    ).mean
    best = {metric.field: metric.winner(means) for metric in METRICS}
    assert (best["psnr_y"], best["niqe"], best["dss"]) == ("ours", "other", "ours")
    assert best["line_steepness"] == "ours"  # 0.29 below is nearer than 0.4 above
    nothing = dataclasses.replace(OURS, dss=math.nan)
    assert Metric("dss", "DSS", 4, "most").winner({"ours": nothing}) == ""


def test_figures_are_rounded_and_what_is_missing_is_a_dash():
    metric = Metric("dss", "DSS", 4, "most")
    assert (metric.show(0.78881), metric.show(math.nan), metric.show(math.inf)) == (
        "0.7888",
        "-",
        "inf",
    )


def test_a_report_is_json_a_plot_and_a_sheet(tmp_path):
    original = scene(64, 64)
    crops = ContactSheet(4)
    outputs = {"bicubic": original, "ours": original}
    crops.add(Comparison("a.png", original[::4, ::4], original, outputs))
    open_folder(tmp_path / "deep" / "report")
    write_report(report(), crops, tmp_path / "deep" / "report")
    written = {path.name: path for path in (tmp_path / "deep" / "report").iterdir()}
    assert sorted(written) == ["plot.png", "report.json", "sheet.png"]
    content = json.loads(written["report.json"].read_text())
    assert content["mean"]["ours"]["psnr_y"] == 31.0349


def test_a_plot_has_colors_for_the_bars_and_takes_missing_figures(tmp_path):
    missing = dataclasses.replace(OURS, ms_ssim_y=math.nan, psnr_y=math.inf)
    for number, extra in enumerate(({}, {"odd": missing})):
        draw_plot(report(**extra), tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as image:
            assert image.size == (1200, 600)
            assert len(np.unique(np.array(image.convert("L")))) > 20


def test_plotting_leaves_no_global_state(tmp_path):
    draw_plot(report(), tmp_path / "plot.png")
    assert "matplotlib.pyplot" not in sys.modules


def test_without_matplotlib_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RequestError, match=r"vidsr\[train\]"):
        open_folder(tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "report").write_text("")
    with pytest.raises(MediaError, match="report"):
        open_folder(tmp_path / "report")


def test_a_card_gets_the_means_of_the_model_and_of_bicubic(tmp_path):
    card = writable_card(tiny_model(tmp_path, "mine", scale=4))
    before = ModelCard.read(card)
    add_to_card(card, report(), "ours")
    add_to_card(card, report("h264 crf 28"), "ours")
    after = ModelCard.read(card)
    assert dataclasses.replace(after, measured=before.measured) == before
    assert list(after.measured) == ["Set5", "Set5, h264 crf 28"]
    assert after.measured["Set5"] == {
        "psnr_y": 31.03,
        "ssim_y": 0.8767,
        "ms_ssim_y": 0.9809,
        "dss": 0.9081,
        "haarpsi": 0.8737,
        "niqe": 5.95,
        "line_steepness": 0.712,
        "color_shift": 0.14,
        "bicubic_psnr_y": 28.43,
        "bicubic_ssim_y": 0.8113,
        "bicubic_ms_ssim_y": 0.9618,
        "bicubic_dss": 0.7888,
        "bicubic_haarpsi": 0.7772,
        "bicubic_niqe": 7.3,
        "bicubic_line_steepness": 0.387,
        "bicubic_color_shift": 0.17,
    }
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_what_could_not_be_measured_is_left_out_of_a_card(tmp_path):
    card = writable_card(tiny_model(tmp_path, "mine", scale=4))
    small = dataclasses.replace(OURS, ms_ssim_y=math.nan)
    add_to_card(card, report(small=small), "small")
    assert "ms_ssim_y" not in ModelCard.read(card).measured["Set5"]


def test_weights_without_a_card_are_refused(tmp_path):
    with pytest.raises(RequestError, match=r"mine\.json.*--card"):
        writable_card(tmp_path / "mine.pth")
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(ModelError, match="not a model card"):
        add_to_card(tmp_path / "mine.json", report(), "ours")
