import json
import math
import pickle

import numpy as np
import pytest
import torch
from evaluation.scenes import scene
from PIL import Image

from vidsr.errors import MediaError, RequestError
from vidsr.evaluation.chroma import Rendition, to_lab
from vidsr.evaluation.colorize import (
    ALL,
    GRAY,
    ColorPicture,
    ColorReport,
    ColorScores,
    compare,
    evaluate_colorize,
    operating_points,
    score,
)
from vidsr.evaluation.metrics import to_tensor
from vidsr.lab import lab_to_rgb, rgb_to_lab


def identity(rgb):
    return rgb


def tinted(rgb):
    """The same a* and b* everywhere."""
    lab = rgb_to_lab(rgb)
    lab[:, 1], lab[:, 2] = 10.0, 20.0
    return lab_to_rgb(lab)


def scores(ciede, color=10.0, original=40.0):
    return ColorScores(22.0, 0.9, ciede, 2 * ciede, color, original)


@pytest.fixture
def folder(tmp_path):
    """Two pictures, one of them below."""
    (tmp_path / "more").mkdir()
    Image.fromarray(scene(40, 51)).save(tmp_path / "a.png")
    Image.fromarray(scene(33, 32)).save(tmp_path / "more" / "b.png")
    return tmp_path


def test_a_stage_that_does_nothing_scores_what_gray_scores(folder):
    *pictures, report = evaluate_colorize({"nothing": identity}, folder)
    assert [picture.name for picture in pictures] == ["a.png", "more/b.png"]
    assert report.pictures == tuple(pictures)
    for picture in pictures:
        assert list(picture.stages) == [GRAY, "nothing"]
        gray, nothing = picture.stages.values()
        assert gray.colorfulness == 0
        assert nothing.ciede2000 == pytest.approx(gray.ciede2000, abs=0.01)
        assert nothing.psnr_rgb == pytest.approx(gray.psnr_rgb, abs=0.01)


def test_a_stage_that_knows_the_colors_scores_them_as_right(tmp_path):
    picture = scene(40, 50)
    Image.fromarray(picture).save(tmp_path / "a.png")

    def oracle(gray):
        assert torch.equal(gray[:, 0], gray[:, 1])
        assert torch.equal(gray[:, 0], gray[:, 2])
        return to_tensor(picture)

    *_, report = evaluate_colorize({"oracle": oracle}, tmp_path)
    oracle_scores = report.means[ALL]["oracle"]
    assert oracle_scores.psnr_rgb > 60
    assert oracle_scores.ciede2000 < 0.01
    assert oracle_scores.ratio == pytest.approx(1, abs=1e-3)


def test_lightness_is_the_originals_whatever_the_stage_makes_of_it(folder):
    def dark(rgb):
        return tinted(rgb) * 0.5

    comparison = compare({"dark": dark}, folder / "a.png", "a.png")
    ours, theirs = comparison.outputs["dark"].lab, comparison.original.lab
    inside = np.all((comparison.outputs["dark"].rgb % 255) > 0, axis=2)  # not clipped
    assert np.abs(ours - theirs)[inside, 0].max() < 0.5  # rounding to 8 bits


def test_predicted_colors_are_those_that_are_measured(folder):
    comparison = compare({"tinted": tinted}, folder / "a.png", "a.png")
    output = comparison.outputs["tinted"]
    middle = (comparison.original.lab[..., 0] > 30) & (comparison.original.lab[..., 0] < 80)
    assert output.lab[middle, 1].mean() == pytest.approx(10, abs=0.3)
    assert output.lab[middle, 2].mean() == pytest.approx(20, abs=0.3)
    assert np.array_equal(output.lab, to_lab(output.rgb))


def test_the_percentile_is_that_of_the_pixels():
    original = np.full((20, 20, 3), 128, np.uint8)
    output = original.copy()
    output[:2] = (255, 0, 0)  # a tenth
    result = score(Rendition.of(output), Rendition.of(original))
    assert result.ciede2000_p95 > 30
    assert result.ciede2000 == pytest.approx(result.ciede2000_p95 / 10)


def test_scores_come_as_they_are_measured(folder):
    seen = []

    def stage(rgb):
        seen.append(tuple(rgb.shape))
        return rgb

    next(evaluate_colorize({"seen": stage}, folder))
    assert seen == [(1, 3, 40, 51)]


def test_every_picture_is_shown(folder):
    shown = []
    list(evaluate_colorize({"tinted": tinted}, folder, show=shown.append))
    assert [comparison.name for comparison in shown] == ["a.png", "more/b.png"]
    assert list(shown[0].outputs) == [GRAY, "tinted"]


def test_the_ratio_of_means_is_not_spoilt_by_a_picture_with_hardly_any_color():
    pictures = (
        ColorPicture("a", {GRAY: scores(11.0, 0.0, 0.1), "x": scores(12.0, 20.0, 0.1)}),
        ColorPicture("b", {GRAY: scores(11.0, 0.0, 80.0), "x": scores(13.0, 30.0, 80.0)}),
    )
    mean = ColorReport("set", pictures).means[ALL]["x"]
    assert (mean.ciede2000, mean.ratio) == (12.5, pytest.approx(50 / 80.1))
    assert math.isnan(scores(1.0, 0.0, 0.0).ratio)


def test_photographs_stand_apart_where_all_names_tell():
    names = ("d003c5915.jpg", "more/p0d704b0a-v1.jpg", "e02f083bb.jpg", "t03e76a07.jpg")
    pictures = tuple(ColorPicture(name, {GRAY: scores(float(n))}) for n, name in enumerate(names))
    means = ColorReport("set", pictures).means
    assert {group: stages[GRAY].ciede2000 for group, stages in means.items()} == {
        ALL: 1.5,
        "photographs": 2.0,
        "paintings and drawings": 0.0,
    }
    assert list(ColorReport("set", pictures[1:]).groups) == [ALL]
    assert list(ColorReport("set", (*pictures, ColorPicture("tree.jpg", {}))).groups) == [ALL]


def test_operating_points_are_the_shipping_stage_and_ask_the_network_once_a_picture(folder):
    asked = []

    def network(lightness):
        asked.append(lightness.shape)
        small = lightness[..., ::2, ::2]
        return torch.cat([torch.full_like(small, 0.1), torch.full_like(small, 0.2)], dim=1)

    stages = operating_points(network, (0, 0.5, 1))
    *_, report = evaluate_colorize(stages, folder)
    assert len(asked) == len(report.pictures)
    gray, none, half, full = report.means[ALL].values()
    assert list(stages) == ["saturation 0", "saturation 0.5", "saturation 1"]
    assert none.ciede2000 == pytest.approx(gray.ciede2000, abs=0.05)
    assert none.ratio < 0.01 < half.ratio < full.ratio


def test_pictures_do_not_color_each_other():
    def network(lightness):
        return lightness[..., ::2, ::2].expand(-1, 2, -1, -1) * 0.3

    stage = operating_points(network, [1.0])["saturation 1"]
    first, second = torch.full((1, 3, 32, 32), 0.2), torch.full((1, 3, 32, 32), 0.3)
    alone = stage(second)
    stage(first)
    assert torch.equal(stage(second), alone)


def test_a_saturation_that_cannot_be_is_refused_before_any_work():
    with pytest.raises(RequestError, match="saturation"):
        operating_points(lambda lightness: lightness, [-1.0])


def test_json_is_valid_even_with_an_infinite_psnr():
    perfect = ColorScores(math.inf, 1.0, 0.0, 0.0, 0.0, 0.0)
    report = ColorReport("set", (ColorPicture("black", {GRAY: perfect}),))

    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(report.to_json(), parse_constant=refuse)
    assert content["data"] == "set"
    assert content["pictures"][0][GRAY]["psnr_rgb"] is None
    assert content["mean"][ALL][GRAY]["ratio"] is None
    assert content["mean"][ALL][GRAY]["ssim_rgb"] == 1.0


def test_a_folder_without_pictures_is_refused_before_any_work(tmp_path):
    with pytest.raises(RequestError, match="no pictures"):
        evaluate_colorize({}, tmp_path)
    with pytest.raises(RequestError, match="no such folder"):
        evaluate_colorize({}, tmp_path / "missing")


def test_pictures_that_cannot_be_measured_are_named(tmp_path):
    Image.new("RGB", (10, 30)).save(tmp_path / "tiny.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    with pytest.raises(RequestError, match=r"tiny\.png.*too small"):
        compare({}, tmp_path / "tiny.png", "tiny.png")
    with pytest.raises(MediaError, match=r"broken\.png"):
        compare({}, tmp_path / "broken.png", "broken.png")


def test_a_stage_that_changes_the_size_is_refused(folder):
    with pytest.raises(RequestError, match=r"half made 20x25 pixels of a\.png"):
        list(evaluate_colorize({"half": lambda rgb: rgb[..., :25, :20]}, folder))


def test_reports_survive_pickling():
    report = ColorReport("set", (ColorPicture("a", {GRAY: scores(1.0)}),))
    assert pickle.loads(pickle.dumps(report)) == report


@pytest.mark.slow
def test_gray_gives_the_known_figures_on_the_validation_set(shared):
    *_, report = evaluate_colorize({}, shared / "data" / "color" / "val")
    gray = report.means[ALL][GRAY]
    assert gray.psnr_rgb == pytest.approx(22.14, abs=0.005)
    assert gray.ciede2000 == pytest.approx(11.54, abs=0.005)
    assert gray.original_colorfulness == pytest.approx(44.4, abs=0.05)
    assert len(report.groups["photographs"]) == 98
