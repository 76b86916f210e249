"""vidsr bench: what is measured, how a piece stands for a frame, and what is advised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from family import ship_family, tiny_colorizer, tiny_model, tiny_twins, without_libraries

from vidsr import bench
from vidsr.bench import SIZES, BenchRequest, Timing, advice, benched, hours, run_bench
from vidsr.engines import ncnn_engine, openvino_engine
from vidsr.errors import ModelError, RequestError


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """fast-x2 and what must not be measured: a twin and a colorizer; small frames; no OpenVINO."""
    folder = ship_family(monkeypatch, tmp_path / "weights", 2)
    tiny_colorizer(folder)
    monkeypatch.setattr(bench, "SIZES", {"small": (40, 24), "large": (96, 64)})
    without_libraries(monkeypatch)
    return folder


def timing(model: str, engine: str = "torch", size: str = "480p", fps: float = 24) -> Timing:
    return Timing(model, 2, engine, "fp32", "cpu", size, 1 / fps, scaled=False)  # type: ignore[arg-type]


def test_what_ships_and_enlarges_is_measured_but_twins(weights: Path) -> None:
    tiny_twins(weights, "photo-x4", scale=4)
    assert benched(BenchRequest()) == [("fast-x2", "torch"), ("photo-x4", "torch")]


def test_each_engine_that_is_there_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_engine, "installed", lambda: True)
    assert benched(BenchRequest()) == [("fast-x2", "torch"), ("fast-x2", "openvino")]
    monkeypatch.setattr(ncnn_engine, "installed", lambda: True)
    assert benched(BenchRequest())[-1] == ("fast-x2", "ncnn")
    assert benched(BenchRequest(device="cuda")) == [("fast-x2", "torch")]


def test_a_family_a_member_or_a_checkpoint_may_be_named(weights: Path, tmp_path: Path) -> None:
    tiny_model(weights, "anime-x4", scale=4)
    mine = str(tiny_model(tmp_path / "mine", "mine", scale=3))
    for name, found in {"anime": "anime-x4", "fast-x2": "fast-x2", mine: mine}.items():
        assert benched(BenchRequest(name)) == [(found, "torch")]


def test_what_cannot_be_measured_is_refused(weights: Path) -> None:
    with pytest.raises(ModelError, match="unknown model 'fsat'"):
        benched(BenchRequest("fsat"))
    with pytest.raises(RequestError, match="colorize: no model that enlarges"):
        benched(BenchRequest("colorize"))


def test_small_frames_are_measured_whole_and_threads_are_left_alone() -> None:
    threads = torch.get_num_threads()
    timings = list(run_bench(BenchRequest(device="cpu", seconds=0.05)))
    assert [(one.model, one.size, one.engine) for one in timings] == [
        ("fast-x2", "small", "torch"),
        ("fast-x2", "large", "torch"),
    ]
    assert all(one.seconds_per_frame > 0 and not one.scaled for one in timings)
    assert torch.get_num_threads() == threads


def test_a_frame_that_takes_too_long_is_scaled_from_a_piece() -> None:
    small, large = run_bench(BenchRequest(device="cpu", seconds=0.0))
    assert small.scaled
    assert large.scaled
    # Both fit in one tile, so their times stand as their pixels do.
    ratio = large.seconds_per_frame / small.seconds_per_frame
    assert ratio == pytest.approx(96 * 64 / (40 * 24))


def test_openvino_is_measured_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(openvino_engine, "installed", lambda: True)
    timings = bench._timings("fast-x2", "openvino", BenchRequest(device="cpu", seconds=0.0))
    assert next(timings).engine == "openvino"


def test_the_faster_engine_is_named_unless_both_are_equal() -> None:
    sentences = advice([timing("fast-x2", fps=10), timing("fast-x2", "openvino", fps=13)])
    assert sentences[0] == "fast-x2: openvino is 1.30 times as fast as torch"
    sentences = advice([timing("fast-x2", fps=10), timing("fast-x2", "openvino", fps=10.1)])
    assert sentences[0] == "fast-x2: openvino and torch are equally fast"


def test_of_three_engines_all_are_compared_with_the_fastest() -> None:
    fps = {"torch": 10.0, "openvino": 12.5, "ncnn": 25.0}
    sentences = advice([timing("fast-x2", name, fps=value) for name, value in fps.items()])
    wanted = "ncnn is 2.00 times as fast as openvino, 2.50 times as fast as torch"
    assert sentences[0] == f"fast-x2: {wanted}"
    fps["ncnn"] = 12.6
    sentences = advice([timing("fast-x2", name, fps=value) for name, value in fps.items()])
    assert sentences[0] == "fast-x2: ncnn and openvino are 1.26 times as fast as torch"


def test_the_best_pictures_that_are_done_overnight_are_advised() -> None:
    timings = [timing("fast-x2", fps=30), timing("photo-x4", fps=3), timing("anime-x4", fps=4)]
    assert advice(timings) == ["480p: --model photo-x4, an hour of video takes 8.0 h"]
    timings[1] = timing("photo-x4", fps=1)
    assert advice(timings) == ["480p: --model anime-x4, an hour of video takes 6.0 h"]
    slow = [timing("fast-x2", size="1080p", fps=0.1)]
    assert advice(slow) == [
        "1080p: nothing does an hour of video overnight here; the fastest, --model fast-x2, takes "
        "10.0 days"
    ]


@pytest.mark.parametrize(
    ("fps", "words"), [(48, "30 min"), (24, "1.0 h"), (1, "24.0 h"), (0.25, "4.0 days")]
)
def test_an_hour_of_video_is_told_in_fitting_units(fps: float, words: str) -> None:
    assert hours(timing("fast-x2", fps=fps)) == words


def test_the_usual_sizes_are_measured() -> None:
    assert SIZES == {"480p": (854, 480), "720p": (1280, 720), "1080p": (1920, 1080)}
