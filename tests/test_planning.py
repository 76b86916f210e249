"""The decisions of a plan, each from plain facts."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from conftest import ClipMaker
from family import ship_family

from vidsr.errors import RequestError
from vidsr.frame import Siting
from vidsr.media.encoders import EncoderRequest, VideoFormat, choose_format
from vidsr.media.probe import StreamInfo, VideoInfo, probe
from vidsr.planning import (
    Shape,
    Target,
    check_destination,
    check_disk,
    choose_container,
    choose_destination,
    choose_target,
    siting_warnings,
    size_warnings,
    wanted_destination,
)
from vidsr.request import EngineRequest, Job, SizeRequest

ANAMORPHIC = Shape(720, 480, Fraction(32, 27))  # 16:9 NTSC, shown as 853x480


# ------------------------------------------------------------------ size


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_scale_multiplies_the_stored_size_and_keeps_the_pixel_shape(scale: int) -> None:
    target = choose_target(SizeRequest(scale=scale), ANAMORPHIC)
    assert target == Target(720 * scale, 480 * scale, Fraction(scale), square_pixels=False)


def test_three_times_an_odd_size_stays_odd() -> None:
    target = choose_target(SizeRequest(scale=3), Shape(321, 181))
    assert (target.width, target.height) == (963, 543)


def test_without_a_request_a_small_picture_is_enlarged_four_times() -> None:
    assert choose_target(SizeRequest(), Shape(960, 540)).factor == 4


def test_without_a_request_a_large_picture_is_enlarged_twice() -> None:
    assert choose_target(SizeRequest(), Shape(961, 540)).factor == 2


def test_a_height_keeps_the_displayed_aspect_and_makes_pixels_square() -> None:
    target = choose_target(SizeRequest(height=960), ANAMORPHIC)
    # 480 * 720/480 * 32/27 * 2 = 1706 and two thirds, to the nearest even number
    assert (target.width, target.height, target.square_pixels) == (1706, 960, True)
    assert target.factor == Fraction(1706, 720)


def test_a_height_is_that_of_the_turned_picture() -> None:
    target = choose_target(SizeRequest(height=1280), Shape(640, 360, turned=True))
    assert (target.width, target.height) == (1280, 720)  # stored; shown as 720x1280


def test_a_height_is_that_of_the_turned_picture_with_long_pixels() -> None:
    target = choose_target(SizeRequest(height=1706), replace(ANAMORPHIC, turned=True))
    assert (target.width, target.height) == (1706, 960)


def test_a_size_is_the_displayed_one() -> None:
    assert choose_target(SizeRequest(size=(1706, 960)), ANAMORPHIC).width == 1706
    turned = choose_target(SizeRequest(size=(720, 1280)), Shape(640, 360, turned=True))
    assert (turned.width, turned.height) == (1280, 720)


def test_a_size_off_by_the_rounding_of_the_aspect_is_taken_as_asked() -> None:
    target = choose_target(SizeRequest(size=(1707, 960)), ANAMORPHIC)
    assert (target.width, target.height) == (1707, 960)


def test_a_size_of_another_aspect_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(RequestError, match=r"--size 1706x960 or --height 960"):
        choose_target(SizeRequest(size=(1920, 960)), ANAMORPHIC)


def test_a_height_below_the_source_is_a_factor_below_one() -> None:
    assert choose_target(SizeRequest(height=180), Shape(640, 360)).factor == Fraction(1, 2)


def test_size_requests_exclude_each_other() -> None:
    with pytest.raises(RequestError, match="exclude each other"):
        SizeRequest(scale=2, height=720)


@pytest.mark.parametrize("scale", [-1, 0, 1, 5, 8])
def test_other_scales_are_refused_with_the_way_out(scale: int) -> None:
    with pytest.raises(RequestError, match=f"--scale {scale}: 2, 3 and 4 work; "):
        SizeRequest(scale=scale)


@pytest.mark.parametrize("request_", [{"height": 0}, {"height": -2}, {"size": (640, 8)}])
def test_a_size_below_sixteen_pixels_is_refused(request_: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="below 16 pixels"):
        SizeRequest(**request_)  # type: ignore[arg-type]


def test_a_picture_that_hardware_may_not_play_is_said_and_others_are_not() -> None:
    assert size_warnings(Target(4096, 2304, Fraction(4), square_pixels=False)) == []
    (said,) = size_warnings(Target(5120, 2880, Fraction(4), square_pixels=False))
    assert "--height 2160" in said


@pytest.mark.parametrize("fidelity", [-0.1, 1.01, float("nan"), float("inf")])
def test_a_fidelity_outside_zero_to_one_is_refused(fidelity: float) -> None:
    with pytest.raises(RequestError, match=r"--fidelity .* is not between 0"):
        EngineRequest(fidelity=fidelity)


# ------------------------------------------------------------------ destination


def test_the_default_name_holds_the_factor(tmp_path: Path) -> None:
    clip = tmp_path / "a.film.mp4"
    assert choose_destination(clip, None, Fraction(4)).name == "a.film-x4.mp4"
    assert choose_destination(clip, None, Fraction(1706, 720)).name == "a.film-x2.37.mp4"


def test_a_folder_as_destination_keeps_the_name(tmp_path: Path) -> None:
    assert choose_destination(Path("in/a.mp4"), tmp_path, Fraction(4)) == tmp_path / "a.mp4"


@pytest.mark.parametrize(
    ("source", "formats", "name"),
    [
        ("a.mp4", (".png", ".mkv"), "a-x2.mkv"),
        ("a", (".mkv",), "a-x2.mkv"),
        ("b.jpg", (".mkv", ".png"), "b-x2.png"),
        ("b.jpg", (".mkv",), "b-x2.jpg"),
        ("c.mp4", (".webp",), "c-x2.mp4"),  # a film among pictures stays a film
        ("d.gif", (".webp", ".mkv"), "d-x2.webp"),
        ("d.gif", (".jpg", ".mkv"), "d-x2.mkv"),
        ("d.gif", (".jpg",), "d-x2.gif"),
    ],
)
def test_a_format_is_for_the_outputs_of_its_kind(
    source: str, formats: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    twice = Target(96, 64, Fraction(2), square_pixels=False)
    job = Job(tmp_path / source, formats=formats)
    assert wanted_destination(job, twice) == tmp_path / name


def test_a_format_does_not_go_with_a_name(tmp_path: Path) -> None:
    twice = Target(96, 64, Fraction(2), square_pixels=False)
    named = Job(tmp_path / "a.mp4", tmp_path / "b.mp4", formats=(".mkv",))
    with pytest.raises(RequestError, match=r"-o .*b\.mp4 is one"):
        wanted_destination(named, twice)
    with pytest.raises(RequestError, match="numbered pictures; name the output"):
        wanted_destination(Job(tmp_path / "%06d.png", formats=(".jpg",)), twice)
    with pytest.raises(RequestError, match=r"--format avi is none of mp4, .*, png, .*, gif"):
        Job(tmp_path / "a.mp4", formats=(".avi",))


@pytest.mark.parametrize("link", ["itself", "symlink", "hard link", "other spelling"])
def test_the_input_is_never_the_output(tmp_path: Path, link: str) -> None:
    source = tmp_path / "clip.mp4"
    source.write_bytes(b"film")
    destination = {"itself": source, "other spelling": tmp_path / "x" / ".." / "clip.mp4"}.get(
        link, tmp_path / "other.mp4"
    )
    (tmp_path / "x").mkdir()
    if link == "symlink":
        destination.symlink_to(source)
    elif link == "hard link":
        destination.hardlink_to(source)
    with pytest.raises(RequestError, match="is the input itself"):
        check_destination(source, destination, overwrite=True)


def test_an_existing_output_is_kept_unless_overwriting(tmp_path: Path) -> None:
    source, destination = tmp_path / "a.mp4", tmp_path / "b.mp4"
    source.write_bytes(b"a")
    destination.write_bytes(b"b")
    with pytest.raises(RequestError, match=r"b\.mp4 exists; --overwrite"):
        check_destination(source, destination, overwrite=False)
    check_destination(source, destination, overwrite=True)
    assert destination.read_bytes() == b"b"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="missing: no such folder"):
        check_destination(tmp_path / "a.mp4", tmp_path / "missing" / "b.mp4", overwrite=False)


def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # root may write anywhere: answer as for another user
        monkeypatch.setattr(os, "access", lambda path, _: path != folder)
    with pytest.raises(RequestError, match="locked cannot be written; name another output"):
        check_destination(tmp_path / "a.mp4", folder / "b.mp4", overwrite=False)


def test_a_full_disk_is_refused_with_both_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(8 << 30, 8 << 30, 5 << 20))
    check_disk(tmp_path, 5 << 20)
    with pytest.raises(RequestError, match="about 6 MiB are needed, 5 MiB are free"):
        check_disk(tmp_path, 6 << 20)


# ------------------------------------------------------------------ container


def contained(
    info: VideoInfo, name: str, *, explicit: bool = False, encoder: str | None = None
) -> tuple[Path, dict[str, str], list[str]]:
    """Name, stream kind -> action, and the sentences, of what `choose_container` says."""
    video, _ = choose_format(info, (info.width * 2, info.height * 2), EncoderRequest(encoder))
    path, tracks, said = choose_container(info, Path(name), explicit=explicit, video=video)
    return path, {f"{t.stream.index} {t.stream.kind}": t.action for t in tracks}, said


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts", ".m4v", ".flv"])
def test_the_input_s_container_is_kept_where_it_holds_everything(
    make_clip: ClipMaker, suffix: str
) -> None:
    info = probe(make_clip("clip.mp4", audio=True))
    path, actions, said = contained(info, f"out{suffix}")
    assert path == Path(f"out{suffix}")
    assert actions == {"0 video": "process", "1 audio": "copy"}
    assert said == []


def test_the_suffix_is_kept_as_the_user_wrote_it(make_clip: ClipMaker) -> None:
    path, _, _ = contained(probe(make_clip()), "Holiday.MKV", explicit=True)
    assert path == Path("Holiday.MKV")


@pytest.mark.parametrize(
    ("suffix", "sentence"),
    [
        (".avi", ".mkv instead of .avi, which cannot keep timestamps"),
        (".webm", ".mkv instead of .webm: .webm cannot hold libx264 video"),
        (".wmv", ".mkv instead of .wmv"),
        ("", ".mkv instead of a name without suffix"),
    ],
)
def test_a_container_that_will_not_do_becomes_matroska_with_one_sentence(
    make_clip: ClipMaker, suffix: str, sentence: str
) -> None:
    path, _, said = contained(probe(make_clip()), f"out{suffix}")
    assert path == Path("out.mkv")
    assert said == [sentence]


def test_a_named_container_that_cannot_hold_the_video_is_refused_with_the_way_out(
    make_clip: ClipMaker,
) -> None:
    with pytest.raises(RequestError, match=r"webm cannot hold libx264 video; -o out\.mkv can"):
        contained(probe(make_clip()), "out.webm", explicit=True)


def test_a_named_container_that_cannot_hold_a_stream_is_refused_with_the_way_out(
    make_clip: ClipMaker,
) -> None:
    info = probe(make_clip(audio=True))
    with pytest.raises(RequestError, match=r"cannot hold stream 1 \(audio, aac.*out\.mkv can"):
        contained(info, "out.webm", explicit=True, encoder="libvpx-vp9")


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("out.avi", "AVI cannot keep timestamps; name an .mkv or .mp4 file"),
        ("out.ogv", r"vidsr writes \.mp4, .*, not \.ogv"),
        ("out", "not a name without suffix"),
    ],
)
def test_a_named_container_that_vidsr_does_not_write_is_refused(
    make_clip: ClipMaker, name: str, way_out: str
) -> None:
    with pytest.raises(RequestError, match=way_out):
        contained(probe(make_clip()), name, explicit=True)


def test_a_stream_that_nothing_holds_is_dropped_and_named(
    make_clip: ClipMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = probe(make_clip())
    stray = StreamInfo(9, "data", None, None, None, cover=False)
    monkeypatch.setattr("vidsr.planning.can_hold", lambda _, __, stream, ___: stream is not stray)
    info = replace(found, streams=(*found.streams, stray))
    video, _ = choose_format(info, (96, 64), EncoderRequest())
    for explicit in (False, True):
        path, tracks, said = choose_container(info, Path("o.mp4"), explicit=explicit, video=video)
        assert (path, said) == (Path("o.mp4"), [])
        assert [track.action for track in tracks] == ["process", "drop"]
        assert tracks[1].reason == "FFmpeg does not know its codec"


def test_a_format_that_cannot_hold_the_video_is_refused_and_one_for_other_streams_is_not(
    make_clip: ClipMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = probe(make_clip("clip.mp4", audio=True))
    video, _ = choose_format(info, (96, 64), EncoderRequest())
    wanted = {"explicit": False, "video": video, "format_asked": True}
    with pytest.raises(RequestError, match="webm cannot hold libx264 video; --format mkv can, or"):
        choose_container(info, Path("o.webm"), **wanted)  # type: ignore[arg-type]
    pgs = StreamInfo(2, "subtitle", "hdmv_pgs_subtitle", None, None, cover=False)
    info = replace(info, streams=(*info.streams, pgs))
    monkeypatch.setattr(
        "vidsr.planning.can_hold", lambda suffix, _, stream, __: suffix == ".mkv" or stream != pgs
    )
    path, _, said = choose_container(info, Path("o.mp4"), **wanted)  # type: ignore[arg-type]
    assert (path, said[0][:24]) == (Path("o.mkv"), ".mkv instead of .mp4: .m")


def test_real_data_tracks_are_dropped_and_real_subtitles_kept(clips: Path) -> None:
    info = probe(clips / "awkward" / "h265_with_metadata_track.mp4")
    _, actions, _ = contained(info, "out.mp4")
    assert "drop" in actions.values()
    info = probe(clips / "awkward" / "two_audio_two_subs_attachment.mkv")
    path, actions, said = contained(info, "out.mkv")
    assert (path.suffix, said) == (".mkv", [])
    assert set(actions.values()) == {"process", "copy"}


def test_subtitles_that_mp4_cannot_hold_are_never_dropped_in_silence(clips: Path) -> None:
    info = probe(clips / "awkward" / "sample_with_pgs_subtitles.mkv")
    with pytest.raises(RequestError, match=r"cannot hold stream.*subtitle.*out\.mkv can"):
        contained(info, "out.mp4", explicit=True)


def test_text_subtitles_are_converted_and_so_keep_the_container(clips: Path) -> None:
    info = probe(clips / "awkward" / "sample_with_ass_subtitles.mkv")
    path, actions, said = contained(info, "out.mp4", explicit=True)
    assert path == Path("out.mp4")
    assert "convert" in actions.values()
    assert any("becomes mov_text: text, bold" in sentence for sentence in said)


def test_a_transport_stream_holds_no_video_that_nobody_would_know_again(
    make_clip: ClipMaker,
) -> None:
    with pytest.raises(RequestError, match=r"\.ts cannot hold ffv1 video; -o out\.mkv can"):
        contained(probe(make_clip()), "out.ts", explicit=True, encoder="ffv1")


def test_a_siting_that_nothing_states_is_named(make_clip: ClipMaker) -> None:
    found = probe(make_clip())
    info = replace(found, color=replace(found.color, siting=Siting.CENTER))
    video, _ = choose_format(info, (96, 64), EncoderRequest(encoder="ffv1"))
    (note,) = siting_warnings(video, Path("a.mp4"))
    assert note.startswith("the chroma siting (center) is not stated: ffv1 in .mp4")
    assert siting_warnings(video, Path("a.mkv")) == []


@pytest.mark.parametrize("words", [{"overlap": -1}, {"threads": 0}, {"threads": -2}])
def test_numbers_that_make_no_sense_are_refused(words: dict[str, int]) -> None:
    with pytest.raises(RequestError, match="--"):
        EngineRequest(**words)  # type: ignore[arg-type]


def test_a_video_format_names_no_network(make_clip: ClipMaker) -> None:
    video, _ = choose_format(probe(make_clip()), (96, 64), EncoderRequest())
    assert isinstance(video, VideoFormat)
    assert not any(isinstance(value, torch.Tensor) for value in vars(video).values())


@pytest.mark.parametrize(("model", "scale"), [("fast-x2", 2), ("fast-x4", 4), ("fast", 4)])
def test_a_named_model_that_reaches_less_is_not_asked_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, scale: int
) -> None:
    ship_family(monkeypatch, tmp_path / "weights", 2, 4)
    assert choose_target(SizeRequest(), Shape(96, 54), model).factor == scale
    assert choose_target(SizeRequest(), Shape(3000, 2000), model).factor == 2
