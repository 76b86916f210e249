import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from evaluation.scenes import scene
from PIL import Image

from vidsr.errors import MediaError, RequestError
from vidsr.evaluation.evaluate import (
    CodecRequest,
    PictureScores,
    Scores,
    UpscaleReport,
    compare_stages,
    evaluate_upscale,
    picture_paths,
    read_picture,
    set_name,
)
from vidsr.evaluation.metrics import enlarge, to_picture, to_tensor
from vidsr.media.roundtrip import round_trip


def bicubic(low_res):
    return enlarge(low_res, 2)


def brighter(low_res):
    return enlarge(low_res, 2) + 0.1


def scores(psnr_y, **others):
    blank = dict.fromkeys(Scores.__dataclass_fields__, 0.5)
    return Scores(**{**blank, "psnr_y": psnr_y, **others})


def report(*pictures):
    return UpscaleReport("Set5", 4, "", pictures)


@pytest.fixture
def folder(tmp_path):
    """Three textured pictures, of odd sizes, one of them gray and one in a subfolder."""
    (tmp_path / "more").mkdir()
    Image.fromarray(scene(41, 37)).save(tmp_path / "b.png")
    Image.fromarray(scene(40, 51)[..., 0]).save(tmp_path / "a.png")
    Image.fromarray(scene(33, 32)).save(tmp_path / "more/c.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def test_bicubic_is_always_measured_and_scores_what_bicubic_scores(folder):
    *pictures, report = evaluate_upscale({"mine": bicubic}, 2, folder)
    assert [picture.name for picture in pictures] == ["a.png", "b.png", "more/c.png"]
    assert report == UpscaleReport(set_name(folder), 2, "", tuple(pictures))
    for stages in (*(picture.stages for picture in pictures), report.mean):
        assert list(stages) == ["bicubic", "mine"]
        assert str(stages["mine"]) == str(stages["bicubic"])  # NaN equals NaN only in words
        assert stages["mine"].psnr_y < 40
        assert stages["mine"].line_steepness < 1


def test_each_stage_has_its_own_scores(folder):
    *_, report = evaluate_upscale({"mine": bicubic, "pale": brighter}, 2, folder)
    mean = report.mean
    assert list(mean) == ["bicubic", "mine", "pale"]
    assert mean["pale"].psnr_y < mean["mine"].psnr_y
    assert mean["pale"].color_shift > 5 > mean["mine"].color_shift


def test_scores_come_as_they_are_measured(folder):
    seen = []

    def stage(low_res):
        seen.append(tuple(low_res.shape))
        return enlarge(low_res, 2)

    next(evaluate_upscale({"mine": stage}, 2, folder))
    assert seen == [(1, 3, 20, 25)]


def test_pictures_are_shown_as_the_stages_made_them(folder):
    shown = []
    list(evaluate_upscale({"pale": brighter}, 2, folder, show=shown.append))
    assert [comparison.name for comparison in shown] == ["a.png", "b.png", "more/c.png"]
    second = shown[1]
    assert second.low_res.shape == (20, 18, 3)
    assert np.array_equal(second.original, scene(41, 37)[:40, :36])
    assert np.array_equal(second.outputs["pale"], to_picture(brighter(to_tensor(second.low_res))))


def test_a_codec_stands_before_every_stage(folder):
    _, clean, _ = compare_stages({}, 2, folder)
    _, coded, _ = compare_stages({"pale": brighter}, 2, folder, codec=CodecRequest("h264", 28))
    assert np.array_equal(coded.original, clean.original)
    assert np.array_equal(coded.low_res, round_trip([clean.low_res], codec="h264", crf=28)[0])
    given = to_tensor(coded.low_res)
    assert np.array_equal(coded.outputs["bicubic"], to_picture(bicubic(given)))
    assert np.array_equal(coded.outputs["pale"], to_picture(brighter(given)))


def test_with_a_codec_low_res_sides_are_even(folder):
    first, *_ = compare_stages({}, 2, folder, codec=CodecRequest("h264", 28))
    assert first.original.shape == (40, 48, 3)  # of 40x51
    assert first.low_res.shape == (20, 24, 3)


def test_more_compression_scores_less(folder):
    reports = [
        list(evaluate_upscale({}, 2, folder, codec=CodecRequest("h264", crf)))[-1]
        for crf in (10, 40)
    ]
    first, second = (report.mean["bicubic"] for report in reports)
    assert first.psnr_y > second.psnr_y
    assert first.dss > second.dss
    assert reports[0].codec == "h264 crf 10"
    assert reports[0].name == f"{set_name(folder)}, h264 crf 10"


def test_the_mean_is_the_mean_of_what_is_finite():
    both = report(
        PictureScores("a", {"mine": scores(30.0, dss=0.8, niqe=math.nan, ms_ssim_y=math.nan)}),
        PictureScores("b", {"mine": scores(math.inf, dss=0.9, niqe=4.0, ms_ssim_y=math.nan)}),
    )
    mean = both.mean["mine"]
    assert (mean.psnr_y, mean.dss, mean.niqe) == (30.0, pytest.approx(0.85), 4.0)
    assert math.isnan(mean.ms_ssim_y)


def test_json_is_valid_even_with_an_infinite_psnr():
    black = report(PictureScores("black", {"mine": scores(math.inf, niqe=math.nan)}))

    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(black.to_json(), parse_constant=refuse)
    assert content["pictures"][0]["mine"]["psnr_y"] is None
    assert content["mean"]["mine"]["niqe"] is None
    assert content["mean"]["mine"]["ssim_y"] == 0.5
    assert (content["data"], content["scale"], content["codec"]) == ("Set5", 4, None)


def test_a_folder_without_pictures_is_refused_before_any_work(tmp_path):
    with pytest.raises(RequestError, match="no pictures"):
        evaluate_upscale({}, 2, tmp_path)
    with pytest.raises(RequestError, match="no such folder"):
        evaluate_upscale({}, 2, tmp_path / "missing")


def test_a_stage_of_another_scale_is_refused(folder):
    with pytest.raises(RequestError, match=r"mine made 24x20 .* its own scale"):
        list(evaluate_upscale({"mine": bicubic}, 4, folder))


@pytest.mark.parametrize(
    ("side", "codec"), [(19, None), (28, CodecRequest("h264", 28)), (124, CodecRequest("hevc", 28))]
)
def test_a_picture_too_small_to_be_measured_is_named(tmp_path, side, codec):
    Image.new("RGB", (side, side)).save(tmp_path / "tiny.png")
    with pytest.raises(RequestError, match=r"tiny\.png.*too small"):
        list(evaluate_upscale({}, 2, tmp_path, codec=codec))


def test_the_smallest_picture_that_may_be_measured_can_be(tmp_path):
    Image.fromarray(scene(20, 20)).save(tmp_path / "tiny.png")
    *_, report = evaluate_upscale({}, 2, tmp_path)
    assert math.isfinite(report.mean["bicubic"].haarpsi)


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


def test_a_set_is_called_by_its_folder_and_a_part_by_its_parent_too(tmp_path, monkeypatch):
    (tmp_path / "photo" / "val").mkdir(parents=True)
    assert set_name(tmp_path / "photo" / "val") == "photo/val"
    assert set_name(tmp_path / "photo") == "photo"
    monkeypatch.chdir(tmp_path / "photo" / "val")
    assert set_name(Path()) == "photo/val"


def test_reports_survive_pickling():
    whole = report(PictureScores("a", {"mine": scores(30.0)}))
    assert pickle.loads(pickle.dumps(whole)) == whole
