"""A run's memory is estimated, made to fit, or refused with figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ClipMaker
from family import ship_family

from vidsr import still
from vidsr.draft import Plan
from vidsr.errors import RequestError
from vidsr.frame import ColorSpec, Matrix, PixelLayout, Range, Siting
from vidsr.job import plan
from vidsr.media import image_writer, images
from vidsr.media.encoders import EncoderRequest, VideoFormat, encoder_bytes, fit_encoder
from vidsr.memory import free_memory, memory_limit, picture_bytes
from vidsr.request import EngineRequest, Job, SizeRequest
from vidsr.still import StillPlan

MIB = 1 << 20
COLOR = ColorSpec(Matrix.BT709, Range.LIMITED, 1, 1, Siting.LEFT)


@pytest.fixture(autouse=True)
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ship_family(monkeypatch, tmp_path / "weights", 2, 4)


def uhd(encoder: str, **options: str) -> VideoFormat:
    return VideoFormat(3840, 2160, PixelLayout("yuv", 8, (1, 1)), COLOR, encoder, options)


def planned(source: Path, **asked: object) -> Plan:
    result = plan(Job(source, **asked))  # type: ignore[arg-type]
    assert isinstance(result, Plan)
    return result


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
def test_the_lookahead_shrinks_to_what_fits_and_is_said(encoder: str) -> None:
    video = uhd(encoder, preset="medium")
    limit = encoder_bytes(video) * 7 // 8
    shorter, (note,) = fit_encoder(video, limit)
    assert 0.9 * limit < encoder_bytes(shorter) <= limit
    assert "frames ahead instead of" in note
    assert fit_encoder(video, encoder_bytes(video)) == (video, [])
    least, _ = fit_encoder(video, 0)
    assert "rc-lookahead=0" in least.options[f"{encoder.removeprefix('lib')}-params"]


@pytest.mark.parametrize(
    "options", [{"rc-lookahead": "7"}, {"x264-params": "ref=2:rc-lookahead=9:rc-lookahead=7"}]
)
def test_a_lookahead_that_was_asked_for_is_counted(options: dict[str, str]) -> None:
    seven = encoder_bytes(uhd("libx264", **options))
    assert seven < encoder_bytes(uhd("libx264"))
    assert seven == encoder_bytes(uhd("libx264", **{"x264-params": "rc-lookahead=7"}))


def test_a_shortened_lookahead_encodes(make_clip: ClipMaker, tmp_path: Path) -> None:
    clip = make_clip(size=(320, 240), frames=2)
    whole = planned(clip, size=SizeRequest(scale=4))
    tight = planned(
        clip,
        size=SizeRequest(scale=4),
        max_memory=whole.memory_bytes - whole.engine.memory_bytes - 40 * MIB,
        engine=EngineRequest(threads=1),
    )
    assert any("libx264 looks" in note for note in tight.notes)
    from vidsr.job import run
    from vidsr.stages import Repeat

    *_, result = run(tight, stages=[Repeat(4)])
    assert result.frames_out == 2  # type: ignore[union-attr]


def test_a_limit_costs_workers_before_it_is_refused(
    make_clip: ClipMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidsr.networks.usable_cores", lambda: 8)
    clip = make_clip(size=(320, 240))
    encoder = EncoderRequest(preset="ultrafast")
    most = planned(clip, max_memory=64 << 30, encoder=encoder)
    fewer = planned(clip, max_memory=600 * MIB, encoder=encoder)
    assert most.engine.workers == 8
    assert 1 <= fewer.engine.workers < 8
    assert fewer.memory_bytes <= 600 * MIB


def test_what_cannot_fit_is_refused_with_figures(make_clip: ClipMaker, tmp_path: Path) -> None:
    clip = make_clip()
    with pytest.raises(RequestError, match=r"MiB of memory are needed \(.*encoder.* and 100 may"):
        plan(Job(clip, max_memory=100 * MIB))
    image_writer.write(tmp_path / "a.png", images.Still(np.zeros((64, 64, 3), np.uint8)))
    with pytest.raises(RequestError, match=r"MiB of memory are needed .* and 100 may"):
        plan(Job(tmp_path / "a.png", max_memory=100 * MIB))


def test_a_large_pictures_tiles_are_as_high_as_a_band_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tile(width: int, height: int, asked: int | None = None) -> int:
        image_writer.write(tmp_path / "a.png", images.Still(np.zeros((height, width, 3), np.uint8)))
        engine = EngineRequest(tile=asked, device="cpu")
        result = plan(Job(tmp_path / "a.png", size=SizeRequest(scale=2), engine=engine))
        assert isinstance(result, StillPlan)
        return result.engine.tile

    assert tile(400, 300) == 400
    # Three times a row of the result in float R, G, B, for each of the 2 rows that a row becomes.
    monkeypatch.setattr(still, "BAND_BYTES", 100 * 3 * 12 * 800 * 2)
    assert tile(400, 300) == still.LEAST_TILE
    monkeypatch.setattr(still, "LEAST_TILE", 64)
    assert tile(400, 300) == 100
    assert tile(400, 300, asked=200) == 200
    assert tile(400, 100) == 400  # not high enough to matter


def test_pictures_that_wait_in_runs_are_counted() -> None:
    alone, in_runs = (picture_bytes((320, 180), (1280, 720), run) for run in (1, 8))
    assert in_runs - alone == 14 * 3 * 1280 * 720  # two runs of 8 instead of two pictures


def test_a_long_video_as_a_gif_is_refused_before_it_is_collected(
    make_clip: ClipMaker, tmp_path: Path
) -> None:
    clip = make_clip(size=(320, 240), frames=100)
    with pytest.raises(RequestError, match="memory are needed"):
        plan(Job(clip, tmp_path / "a.gif", max_memory=800 * MIB))


def test_what_pytorch_keeps_on_cuda_for_later_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 800)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 50)
    assert free_memory(torch.device("cuda:0")) == 850


def test_without_a_limit_most_of_the_free_memory_may_be_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vidsr.memory.free_memory", lambda _: 1000)
    assert memory_limit(None) == 800
    assert memory_limit(123) == 123
    assert memory_limit(0) == 0


def test_what_a_container_may_take_is_all_that_is_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("vidsr.memory.CGROUPS", tmp_path)
    machine = free_memory(torch.device("cpu"))
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{200 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {20 * MIB}\n")
    assert free_memory(torch.device("cpu")) == pytest.approx(machine, rel=0.5)
    (tmp_path / "memory.max").write_text(f"{300 * MIB}\n")
    assert free_memory(torch.device("cpu")) == 120 * MIB
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text(f"{100 * MIB}\n")
    (tmp_path / "memory/memory.usage_in_bytes").write_text(f"{90 * MIB}\n")
    (tmp_path / "memory/memory.stat").write_text("total_inactive_file 0\n")
    assert free_memory(torch.device("cpu")) == 10 * MIB
