import json
import math
import pickle

import numpy as np
import pytest
from PIL import Image

from vidsr.errors import MediaError, RequestError
from vidsr.evaluation.evaluate import (
    PictureScore,
    UpscaleReport,
    evaluate_upscale,
    picture_paths,
    read_picture,
)
from vidsr.evaluation.metrics import enlarge


def bicubic(low_res):
    return enlarge(low_res, 2)


@pytest.fixture
def folder(tmp_path):
    """Three textured pictures, of odd sizes, one of them gray and one in a subfolder."""
    rng = np.random.default_rng(1)
    (tmp_path / "more").mkdir()
    for name, shape in [("b.png", (41, 37, 3)), ("a.png", (40, 51)), ("more/c.png", (33, 32, 3))]:
        texture = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(texture).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def test_bicubic_as_the_stage_scores_what_bicubic_scores(folder):
    *scores, report = evaluate_upscale(bicubic, 2, folder)
    assert [score.name for score in scores] == ["a.png", "b.png", "more/c.png"]
    assert report == UpscaleReport(2, tuple(scores))
    for score in (*scores, report.mean):
        assert score.psnr_y == score.bicubic_psnr_y < 40
        assert score.ssim_y == score.bicubic_ssim_y < 1


def test_scores_come_as_they_are_measured(folder):
    seen = []

    def stage(low_res):
        seen.append(tuple(low_res.shape))
        return enlarge(low_res, 2)

    next(evaluate_upscale(stage, 2, folder))
    assert seen == [(1, 3, 20, 25)]


def test_the_mean_is_the_mean():
    report = UpscaleReport(
        4, (PictureScore("a", 30.0, 0.8, 28.0, 0.7), PictureScore("b", 32.0, 0.9, 29.0, 0.6))
    )
    mean = report.mean
    assert (mean.psnr_y, mean.bicubic_psnr_y) == (31.0, 28.5)
    assert (mean.ssim_y, mean.bicubic_ssim_y) == pytest.approx((0.85, 0.65))


def test_json_is_valid_even_with_an_infinite_psnr():
    report = UpscaleReport(4, (PictureScore("black", math.inf, 1.0, math.inf, 1.0),))

    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(report.to_json(), parse_constant=refuse)
    assert content["pictures"][0]["psnr_y"] is None
    assert content["mean"]["ssim_y"] == 1.0


def test_a_folder_without_pictures_is_refused_before_any_work(tmp_path):
    with pytest.raises(RequestError, match="no pictures"):
        evaluate_upscale(bicubic, 2, tmp_path)
    with pytest.raises(RequestError, match="no such folder"):
        evaluate_upscale(bicubic, 2, tmp_path / "missing")


def test_a_stage_of_another_scale_is_refused(folder):
    with pytest.raises(RequestError, match="its own scale"):
        list(evaluate_upscale(bicubic, 4, folder))


def test_a_picture_too_small_for_the_window_is_refused(tmp_path):
    Image.new("RGB", (14, 14)).save(tmp_path / "tiny.png")
    with pytest.raises(RequestError, match=r"tiny\.png.*too small"):
        list(evaluate_upscale(bicubic, 2, tmp_path))


def test_broken_and_deep_pictures_are_named(tmp_path):
    broken, deep = tmp_path / "broken.png", tmp_path / "deep.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(deep)
    with pytest.raises(MediaError, match=r"broken\.png"):
        read_picture(broken)
    with pytest.raises(MediaError, match="8 bits"):
        read_picture(deep)


def test_gray_becomes_three_equal_channels(tmp_path):
    Image.new("L", (5, 4), 77).save(tmp_path / "gray.png")
    picture = read_picture(tmp_path / "gray.png")
    assert picture.shape == (4, 5, 3)
    assert np.unique(picture) == 77


def test_only_files_are_listed(tmp_path):
    (tmp_path / "folder.png").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "UPPER.PNG")
    assert picture_paths(tmp_path) == [tmp_path / "UPPER.PNG"]


def test_reports_survive_pickling():
    report = UpscaleReport(4, (PictureScore("a", 30.0, 0.8, 28.0, 0.7),))
    assert pickle.loads(pickle.dumps(report)) == report
