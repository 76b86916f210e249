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
from family import ship_family, tiny_model, tiny_twins

from vidsr.errors import DeviceError, ModelError, RequestError
from vidsr.media.encoders import EncoderRequest, VideoFormat, choose_format
from vidsr.media.probe import StreamInfo, VideoInfo, probe
from vidsr.models.card import shipped_cards
from vidsr.models.load import load_mixed
from vidsr.planning import (
    EnginePlan,
    EngineRequest,
    Shape,
    SizeRequest,
    Target,
    check_destination,
    check_disk,
    choose_container,
    choose_destination,
    choose_model,
    choose_target,
    choose_weights,
    default_family,
    family_of,
    fit_tile,
    plan_engine,
    size_warnings,
)

ANAMORPHIC = Shape(720, 480, Fraction(32, 27))  # 16:9 NTSC, shown as 853x480


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return ship_family(monkeypatch, tmp_path / "weights", 2, 4)


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
    with pytest.raises(RequestError, match=f"--scale {scale}: 2, 3 and 4 work; use --height"):
        SizeRequest(scale=scale)


@pytest.mark.parametrize("request_", [{"height": 0}, {"height": -2}, {"size": (640, 8)}])
def test_a_size_below_sixteen_pixels_is_refused(request_: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="below 16 pixels"):
        SizeRequest(**request_)  # type: ignore[arg-type]


def test_a_picture_that_hardware_may_not_play_is_said_and_others_are_not() -> None:
    assert size_warnings(Target(4096, 2304, Fraction(4), square_pixels=False)) == []
    (said,) = size_warnings(Target(5120, 2880, Fraction(4), square_pixels=False))
    assert "--height 2160" in said


# ------------------------------------------------------------------ model


@pytest.mark.parametrize(
    ("factor", "member"),
    [
        (Fraction(1, 2), "fast-x2"),
        (Fraction(2), "fast-x2"),
        (Fraction(1706, 720), "fast-x4"),
        (Fraction(3), "fast-x4"),
        (Fraction(4), "fast-x4"),
    ],
)
def test_the_smallest_member_that_reaches_the_factor_is_taken(
    family: Path, factor: Fraction, member: str
) -> None:
    card, weights = choose_model("fast", factor)
    assert card.name == member
    assert weights == family / f"{member}.safetensors"


def test_a_named_member_is_taken_even_if_a_smaller_one_would_do(family: Path) -> None:
    assert choose_model("fast-x4", Fraction(2))[0].name == "fast-x4"


def test_a_factor_beyond_the_family_is_refused_with_the_largest(family: Path) -> None:
    with pytest.raises(RequestError, match=r"fast-x4 enlarges 4 times at most, 4\.5.*--scale 4"):
        choose_model("fast", Fraction(9, 2))


def test_a_factor_beyond_a_named_member_is_refused(family: Path) -> None:
    with pytest.raises(RequestError, match="fast-x2 enlarges 2 times at most"):
        choose_model("fast-x2", Fraction(3))


def test_a_checkpoint_is_described_by_its_card_or_by_its_tensors(tmp_path: Path) -> None:
    path = tiny_model(tmp_path, "mine", scale=2)
    with_card, _ = choose_model(str(path), Fraction(2))
    path.with_suffix(".json").unlink()
    without_card, weights = choose_model(str(path), Fraction(2))
    assert weights == path
    assert (without_card.name, without_card.scale, without_card.network) == ("mine", 2, "compact")
    assert replace(without_card, half=False) == with_card


def test_an_unknown_model_is_answered_with_near_names(family: Path) -> None:
    with pytest.raises(ModelError, match=r"'fsat-x4'; did you mean fast-x[24]"):
        choose_model("fsat-x4", Fraction(2))


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.pth: cannot read the weights"):
        choose_model(str(tmp_path / "gone.pth"), Fraction(2))


@pytest.fixture
def families(family: Path) -> Path:
    """Beside fast-x2 and fast-x4: anime-x4, and photo-x4 with a perceptual twin."""
    tiny_model(family, "anime-x4", scale=4)
    tiny_twins(family, "photo-x4", scale=4, fidelity=0.75)
    return family


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_without_a_model_a_gpu_takes_photo(families: Path, device: str) -> None:
    family, why = default_family(device, shipped_cards(), Fraction(4))
    assert family == "photo"
    assert why == (
        "the default on a GPU, --model anime for better drawings, --model fast for speed"
    )


def test_without_a_model_a_processor_takes_fast_and_names_the_better_ones(families: Path) -> None:
    family, why = default_family("cpu", shipped_cards(), Fraction(2))
    assert family == "fast"
    assert why == (
        "the default on a processor, --model photo for better film and photographs, "
        "--model anime for better drawings"
    )


def test_only_families_that_ship_and_reach_the_factor_are_taken_or_named(family: Path) -> None:
    assert default_family("cuda", shipped_cards(), Fraction(4)) == ("fast", "the default on a GPU")
    tiny_model(family, "photo-x2", scale=2)
    assert default_family("cuda", shipped_cards(), Fraction(2))[0] == "photo"
    assert default_family("cuda", shipped_cards(), Fraction(3)) == ("fast", "the default on a GPU")


def test_a_family_is_its_members_by_scale_and_has_no_twin_in_it(families: Path) -> None:
    tiny_model(families, "photo-x2", scale=2)
    assert [card.name for card in family_of("photo")] == ["photo-x2", "photo-x4"]
    assert family_of("photo-x4") == family_of("photo-x4-perceptual") == family_of("") == []


def test_a_twin_is_never_the_member_of_its_family(families: Path) -> None:
    assert choose_model("photo", Fraction(3))[0].name == "photo-x4"
    with pytest.raises(RequestError, match="photo-x4 enlarges 4 times at most"):
        choose_model("photo", Fraction(5))


# ------------------------------------------------------------------ fidelity


def test_the_fidelity_is_the_card_s_unless_asked(families: Path) -> None:
    by_default = choose_weights("photo", Fraction(4), None)
    assert (by_default.card.name, by_default.fidelity) == ("photo-x4", 0.75)
    assert by_default.twin is not None
    assert by_default.twin.path == families / "photo-x4-perceptual.safetensors"
    assert choose_weights("photo-x4", Fraction(4), 0.0).fidelity == 0
    assert choose_weights("photo", Fraction(2), 1.0).fidelity == 1


def test_a_model_without_perceptual_weights_is_whole(families: Path) -> None:
    weights = choose_weights("fast", Fraction(2), None)
    assert (weights.twin, weights.fidelity) == (None, 1.0)


@pytest.mark.parametrize("model", ["fast", "fast-x4", "photo-x4-perceptual"])
@pytest.mark.parametrize("fidelity", [0.0, 0.5, 1.0])
def test_a_fidelity_for_a_model_without_perceptual_weights_is_refused(
    families: Path, model: str, fidelity: float
) -> None:
    with pytest.raises(RequestError, match=r"--fidelity .*has no perceptual weights to mix with"):
        choose_weights(model, Fraction(2), fidelity)


def test_a_twin_works_by_its_own_name(families: Path) -> None:
    weights = choose_weights("photo-x4-perceptual", Fraction(4), None)
    assert (weights.card.name, weights.twin, weights.fidelity) == ("photo-x4-perceptual", None, 1)


def test_a_twin_that_the_card_needs_and_that_is_missing_is_said(families: Path) -> None:
    (families / "photo-x4-perceptual.safetensors").unlink()
    with pytest.raises(ModelError, match=r"photo-x4\.safetensors: .*perceptual.*are missing"):
        choose_weights("photo", Fraction(4), None)


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
        ("out.gif", r"vidsr writes \.mp4, .*, not \.gif"),
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


# ------------------------------------------------------------------ engine


def engine(size: tuple[int, int] = (48, 32), **words: object) -> EnginePlan:
    request = EngineRequest(device="cpu", **words)  # type: ignore[arg-type]
    return plan_engine(request, Fraction(2), size, cache_dir=None)


def test_an_engine_is_planned_for_a_small_picture_in_one_tile(family: Path) -> None:
    planned = engine()
    assert (planned.card.name, planned.precision, planned.device) == ("fast-x2", "fp32", "cpu")
    assert (planned.tile, planned.batch) == (48, 1)
    assert planned.threads >= 1
    assert planned.memory_bytes > 0


def test_the_model_of_the_device_is_planned_unless_another_is_named(
    families: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (engine().card.name, engine(model="photo").why) == ("fast-x2", "")
    assert engine().why.startswith("the default on a processor, --model photo")
    monkeypatch.setattr("vidsr.planning.open_device", lambda _: torch.device("cuda:0"))
    monkeypatch.setattr("vidsr.planning.free_memory", lambda _: 8 << 30)
    assert engine().card.name == "photo-x4"
    assert engine().why.startswith("the default on a GPU, --model anime")
    assert engine(model="fast").card.name == "fast-x2"


def test_an_engine_plan_says_what_is_mixed(families: Path) -> None:
    planned = engine(model="photo", fidelity=0.5)
    assert planned.weights.fidelity == 0.5
    ours, theirs = (load_mixed(replace(planned.weights, fidelity=share)) for share in (1.0, 0.0))
    for key, value in load_mixed(planned.weights).state_dict().items():
        torch.testing.assert_close(value, (ours.state_dict()[key] + theirs.state_dict()[key]) / 2)


@pytest.mark.parametrize("model", ["photo", "photo-x4"])
def test_a_twin_of_another_network_is_refused_in_the_plan(families: Path, model: str) -> None:
    tiny_model(families, "photo-x4-perceptual", scale=4, channels=6)
    with pytest.raises(ModelError, match=r"body\.0\.bias is \(6,\) here and \(4,\) there"):
        engine(model=model)
    assert engine(model=model, fidelity=1.0).card.name == "photo-x4"


def test_a_twin_that_is_not_that_of_its_card_is_refused_in_the_plan(families: Path) -> None:
    with (families / "photo-x4-perceptual.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match=r"perceptual\.safetensors: the weights are not those of"):
        engine(model="photo")


@pytest.mark.parametrize("size", [(1, 1), (48, 32), (1920, 1080), (4000, 16)])
def test_an_engine_fitted_to_another_size_is_the_one_planned_for_it(
    family: Path, size: tuple[int, int]
) -> None:
    fitted, planned = fit_tile(engine((48, 32)), size), engine(size)
    assert (fitted.tile, fitted.batch) == (planned.tile, planned.batch)
    assert fitted.memory_bytes * planned.workers == planned.memory_bytes
    assert fitted.weights == planned.weights


def test_a_tile_below_halo_and_overlap_is_refused_with_the_least(family: Path) -> None:
    # halo 3 a side, overlap 16, and 16 pixels that are kept
    with pytest.raises(RequestError, match=r"--tile 32 is too small.*38 is the least"):
        engine((640, 360), tile=32)
    assert engine((640, 360), tile=38).tile == 38


def test_a_tile_as_large_as_a_tiny_picture_is_always_enough(family: Path) -> None:
    assert engine((20, 18), tile=20).tile == 20


def test_weights_that_are_not_those_of_the_card_are_refused(family: Path) -> None:
    with (family / "fast-x2.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match="the weights are not those of the card"):
        engine()


def test_an_unknown_device_is_answered_with_those_there_are(family: Path) -> None:
    with pytest.raises(DeviceError, match=r"'tpu' here; choose --device auto or .*cpu"):
        plan_engine(EngineRequest(device="tpu"), Fraction(2), (48, 32), cache_dir=None)


@pytest.mark.parametrize("words", [{"overlap": -1}, {"threads": 0}, {"threads": -2}])
def test_numbers_that_make_no_sense_are_refused(words: dict[str, int]) -> None:
    with pytest.raises(RequestError, match="--"):
        EngineRequest(**words)  # type: ignore[arg-type]


def test_the_tile_shrinks_to_the_free_memory(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = engine((1920, 1080))
    monkeypatch.setattr("vidsr.planning.free_memory", lambda _: 8 << 20)
    assert engine((1920, 1080)).tile < roomy.tile
    assert engine((1920, 1080)).memory_bytes <= 8 << 20


def test_a_video_format_names_no_network(make_clip: ClipMaker) -> None:
    video, _ = choose_format(probe(make_clip()), (96, 64), EncoderRequest())
    assert isinstance(video, VideoFormat)
    assert not any(isinstance(value, torch.Tensor) for value in vars(video).values())
