"""Coloring from file to file: luma to the bit, what is refused, and color with size in one pass."""

from __future__ import annotations

import json
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import ClipMaker, gradient
from family import ship_family, tiny_colorizer
from numpy.typing import NDArray
from PIL import Image, ImageCms
from typer.testing import CliRunner

import vidsr
from vidsr import cli, motion
from vidsr.coloring import Look
from vidsr.draft import Plan
from vidsr.errors import ModelError, RequestError
from vidsr.events import Event, Result
from vidsr.job import plan, run
from vidsr.media import images
from vidsr.media.encoders import EncoderRequest
from vidsr.media.probe import probe
from vidsr.media.reader import Trim
from vidsr.request import ColorRequest, EngineRequest, Job, SizeRequest

Planes = list[NDArray[np.integer[Any]]]
LOSSLESS = EncoderRequest(encoder="ffv1")


@pytest.fixture(autouse=True)
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fast-x2 and a colorizer ship."""
    folder = ship_family(monkeypatch, tmp_path / "weights", 2)
    tiny_colorizer(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def make_gray(tmp_path: Path) -> Any:
    """Write a grey clip of moving waves in ffv1: grey planes, or YUV with neutral chroma."""

    def make(pix_fmt: str = "gray", frames: int = 5, tint: tuple[int, int] = (0, 0)) -> Path:
        path = tmp_path / f"{pix_fmt}.mkv"
        full = pix_fmt.startswith("yuvj")
        deep = "10" in pix_fmt
        with av.open(str(path), "w") as file:
            video = file.add_stream("ffv1", rate=25)
            video.width, video.height = 48, 32
            video.pix_fmt = pix_fmt.replace("yuvj", "yuv")
            video.codec_context.color_range = 2 if full else 1
            for number in range(frames):
                frame = av.VideoFrame(48, 32, video.pix_fmt)
                fill(frame, number, deep=deep, full=full, tint=tint)
                frame.color_range = 2 if full else 1
                frame.pts, frame.time_base = number, Fraction(1, 25)
                file.mux(video.encode(frame))
            file.mux(video.encode(None))
        return path

    return make


def fill(
    frame: av.VideoFrame, number: int, *, deep: bool, full: bool, tint: tuple[int, int]
) -> None:
    """Every code of the range, and some beyond where it is limited; chroma is 128 + tint."""
    y, x = np.mgrid[0:32, 0:48]
    wave = (np.sin((x + 3 * number) / 7) + np.cos(y / 5)) / 4 + 0.5
    low, high = (0, 255) if full else (8, 245)
    luma = np.round(low + wave * (high - low))
    unit, dtype = (4, np.uint16) if deep else (1, np.uint8)
    small = zip(frame.planes[1:], tint, strict=False)
    chroma = [np.full((plane.height, plane.width), 128.0 + shift) for plane, shift in small]
    for plane, values in zip(frame.planes, [luma, *chroma], strict=True):
        stored = np.frombuffer(plane, dtype).reshape(plane.height, -1)
        stored[:, : plane.width] = (values * unit).astype(dtype)


def color_job(source: Path, destination: Path | None = None, **words: Any) -> Job:
    color = words.pop("color", ColorRequest())
    return Job(source, destination, words.pop("size", None), color=color, **words)


def colored(source: Path, destination: Path, **words: Any) -> Result:
    (*_, result) = run(plan(color_job(source, destination, **words)))
    assert isinstance(result, Result)
    return result


def pictures(path: Path) -> list[Planes]:
    with av.open(str(path)) as container:
        return [planes_of(frame) for frame in container.decode(video=0)]


def planes_of(frame: av.VideoFrame) -> Planes:
    wide = frame.format.components[0].bits > 8
    return [
        np.frombuffer(plane, np.uint16 if wide else np.uint8)
        .reshape(plane.height, -1)[:, : plane.width]
        .copy()
        for plane in frame.planes
    ]


def vidsr_command(*words: object) -> Any:
    result = CliRunner().invoke(cli.app, [str(word) for word in words], prog_name="vidsr")
    assert "Traceback" not in result.output + result.stderr
    return result


# ------------------------------------------------------------------ luma to the bit


@pytest.mark.parametrize(
    ("pix_fmt", "becomes"),
    [
        ("gray", "yuv420p"),
        ("gray10le", "yuv420p10le"),
        ("yuv420p", "yuv420p"),
        ("yuvj420p", "yuv420p"),
        ("yuv422p", "yuv422p"),
        ("yuv444p10le", "yuv444p10le"),
        ("yuvj422p10le", "yuv422p10le"),
    ],
)
def test_every_luma_sample_of_a_lossless_output_is_the_sources(
    make_gray: Any, out: Path, pix_fmt: str, becomes: str
) -> None:
    source = make_gray(pix_fmt)
    result = colored(source, out / "color.mkv", encoder=LOSSLESS)
    assert (result.frames_in, result.frames_out) == (5, 5)
    assert probe(out / "color.mkv").pix_fmt == becomes
    assert probe(out / "color.mkv").color.range == probe(source).color.range
    for before, after in zip(pictures(source), pictures(out / "color.mkv"), strict=True):
        np.testing.assert_array_equal(after[0], before[0])
        assert max(int(np.ptp(plane)) for plane in after[1:]) > 0  # it is in color


def test_ten_bits_stay_ten_bits_by_default(make_gray: Any, out: Path) -> None:
    source = make_gray("gray10le")
    planned = plan(color_job(source, out / "a.mkv", encoder=EncoderRequest(encoder="libx264")))
    assert isinstance(planned, Plan)
    assert planned.video.layout.depth == 10


def test_frames_that_repeat_have_equal_colors(make_gray: Any, out: Path, tmp_path: Path) -> None:
    source = make_gray("yuv420p", frames=3)
    twice = tmp_path / "twice.mkv"
    with av.open(str(source)) as file, av.open(str(twice), "w") as copy:
        video = copy.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        number = 0
        for frame in file.decode(video=0):
            for _ in range(2):
                frame.pts, frame.time_base = number, Fraction(1, 25)
                copy.mux(video.encode(frame))
                number += 1
        copy.mux(video.encode(None))
    colored(twice, out / "color.mkv", encoder=LOSSLESS)
    found = pictures(out / "color.mkv")
    for first, second in zip(found[::2], found[1::2], strict=True):
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_same_job_gives_the_same_bytes(make_gray: Any, out: Path) -> None:
    source = make_gray("yuv420p")
    for name in ("a.mkv", "b.mkv"):
        colored(source, out / name, encoder=LOSSLESS)
    first, second = (pictures(out / name) for name in ("a.mkv", "b.mkv"))
    assert all(
        np.array_equal(x, y)
        for a, b in zip(first, second, strict=True)
        for x, y in zip(a, b, strict=True)
    )


def test_a_tint_is_taken_off_and_said(make_gray: Any, out: Path) -> None:
    gray, tinted = make_gray("yuv444p"), make_gray("yuv422p", tint=(-14, 12))
    planned = plan(color_job(tinted, out / "x.mkv", encoder=LOSSLESS))
    assert any("tinted" in note for note in planned.notes)
    colored(tinted, out / "tinted.mkv", encoder=LOSSLESS)
    colored(gray, out / "gray.mkv", encoder=LOSSLESS)
    # The same greys have the same colors, whatever was over them: here, the mean of chroma.
    for a, b in zip(pictures(out / "tinted.mkv"), pictures(out / "gray.mkv"), strict=True):
        for one, other in zip(a[1:], b[1:], strict=True):
            assert abs(float(one.mean()) - float(other.mean())) < 1


# ------------------------------------------------------------------ what is refused


def test_what_is_in_color_is_refused_unless_forced(make_clip: ClipMaker, out: Path) -> None:
    clip = make_clip(frames=6)
    with pytest.raises(RequestError, match="is in color already; --force colors it anew"):
        plan(color_job(clip, out / "a.mp4"))
    forced = plan(color_job(clip, out / "a.mp4", color=ColorRequest(force=True)))
    assert any("in color, which is replaced" in note for note in forced.notes)


@pytest.mark.parametrize("name", ["hdr10_pq_bt2020.mp4", "hlg10-color-test.mp4"])
def test_hdr_is_refused(clips: Path, out: Path, name: str) -> None:
    with pytest.raises(RequestError, match="is HDR"):
        plan(color_job(clips / "awkward" / name, out / "a.mp4", color=ColorRequest(force=True)))


def test_a_pixel_format_without_color_is_refused(make_gray: Any, out: Path) -> None:
    request = EncoderRequest(encoder="ffv1", pix_fmt="gray")
    with pytest.raises(RequestError, match="gray holds no color"):
        plan(color_job(make_gray(), out / "a.mkv", encoder=request))


def test_a_model_of_another_task_is_refused_both_ways(make_gray: Any, out: Path) -> None:
    with pytest.raises(RequestError, match="fast-x2 enlarges and does not color; these do: color"):
        plan(color_job(make_gray(), out / "a.mkv", color=ColorRequest(model="fast-x2")))
    with pytest.raises(RequestError, match="model colorize colors and does not enlarge"):
        plan(Job(make_gray(), out / "a.mkv", engine=EngineRequest(model="colorize")))


def test_an_unknown_model_is_a_sentence(make_gray: Any) -> None:
    with pytest.raises(ModelError, match="unknown model 'colourise'; did you mean colorize"):
        plan(color_job(make_gray(), color=ColorRequest(model="colourise")))


def test_without_a_colorizer_one_sentence_says_so(make_gray: Any, family: Path) -> None:
    (family / "colorize.json").unlink()
    with pytest.raises(ModelError, match="no model that colors is installed yet"):
        plan(color_job(make_gray()))


def test_weights_that_are_not_the_cards_are_refused(make_gray: Any, family: Path) -> None:
    card = (family / "colorize.json").read_text()
    tiny_colorizer(family, seed=1)
    (family / "colorize.json").write_text(card)
    with pytest.raises(ModelError, match="not those of the card"):
        plan(color_job(make_gray()))


def test_without_opencv_a_video_needs_stability_zero(
    make_gray: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise RequestError("pip install 'vidsr[color]'")

    monkeypatch.setattr("vidsr.networks.opencv", missing)
    monkeypatch.setattr(motion, "opencv", missing)
    with pytest.raises(RequestError, match=r"vidsr\[color\]"):
        plan(color_job(make_gray(), out / "a.mkv"))
    still = ColorRequest(look=Look(stability=0))
    assert colored(make_gray(), out / "a.mkv", color=still).frames_out == 5


def test_a_missing_reference_is_refused(make_gray: Any, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such picture"):
        plan(color_job(make_gray(), color=ColorRequest(reference=tmp_path / "no.jpg")))


def test_a_job_for_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="nothing to do"):
        Job(tmp_path / "a.mp4", size=None)


def test_a_job_with_color_survives_pickle() -> None:
    job = color_job(Path("a.mp4"), color=ColorRequest(look=Look(saturation=1.2)))
    assert pickle.loads(pickle.dumps(job)) == job


# ------------------------------------------------------------------ names, trims, one pass


def test_the_name_says_what_was_done(make_gray: Any, tmp_path: Path) -> None:
    source = make_gray("yuv420p")
    assert plan(color_job(source)).destination == tmp_path / "yuv420p-color.mkv"
    both = plan(color_job(source, size=SizeRequest(scale=2)))
    assert both.destination == tmp_path / "yuv420p-x2-color.mkv"


def test_a_trim_is_colored_alone(make_gray: Any, out: Path) -> None:
    source = make_gray("yuv420p", frames=10)
    trim = Trim(Fraction(4, 25), Fraction(8, 25))
    assert colored(source, out / "a.mkv", encoder=LOSSLESS, trim=trim).frames_out == 4
    wanted = [picture[0] for picture in pictures(source)[4:8]]
    np.testing.assert_array_equal([picture[0] for picture in pictures(out / "a.mkv")], wanted)


def test_after_a_start_colors_are_as_if_the_film_had_run_all_along(
    make_gray: Any, out: Path
) -> None:
    source = make_gray("yuv420p", frames=30)
    trim = Trim(Fraction(20, 25), Fraction(21, 25))
    colored(source, out / "all.mkv", encoder=LOSSLESS)
    colored(source, out / "warm.mkv", encoder=LOSSLESS, trim=trim)
    unsteady = ColorRequest(look=Look(stability=0))
    colored(source, out / "cold.mkv", encoder=LOSSLESS, trim=trim, color=unsteady)
    wanted = pictures(out / "all.mkv")[20]
    (warm,), (cold,) = pictures(out / "warm.mkv"), pictures(out / "cold.mkv")

    def chroma_error(picture: Planes) -> float:
        pairs = zip(picture[1:], wanted[1:], strict=True)
        return float(np.mean([np.abs(a.astype(int) - b.astype(int)).mean() for a, b in pairs]))

    assert chroma_error(cold) > 0.5
    assert chroma_error(warm) < 0.2 * chroma_error(cold)
    np.testing.assert_array_equal(warm[0], wanted[0])


def test_color_and_size_in_one_pass(make_gray: Any, out: Path) -> None:
    source = make_gray("yuv420p")
    size = SizeRequest(scale=2)
    result = colored(source, out / "both.mkv", size=size, encoder=LOSSLESS)
    assert (result.width, result.height, result.frames_out) == (96, 64, 5)
    assert set(result.busy) == {"decode", "color", "compute", "encode"}
    # The same as one after the other, but for the rounding of chroma to its small planes between.
    colored(source, out / "color.mkv", encoder=LOSSLESS)
    (*_, _last) = run(plan(Job(out / "color.mkv", out / "then.mkv", size, encoder=LOSSLESS)))
    for a, b in zip(pictures(out / "both.mkv"), pictures(out / "then.mkv"), strict=True):
        for one, other in zip(a, b, strict=True):
            assert np.abs(one.astype(int) - other.astype(int)).mean() < 3


def test_rgb_sources_are_colored_and_enlarged(make_clip: ClipMaker, out: Path) -> None:
    clip = make_clip("rgb.mkv", codec="ffv1", pix_fmt="bgr0", frames=3, options={"level": "3"})
    force = ColorRequest(force=True)
    for number, size in enumerate((None, SizeRequest(scale=2))):
        result = colored(clip, out / f"{number}.mkv", size=size, color=force)
        assert result.frames_out == 3


def test_the_library_has_one_call_for_it(make_gray: Any, out: Path) -> None:
    events: list[Event] = []
    result = vidsr.colorize(make_gray(), out / "a.mkv", on_event=events.append)
    assert (result.width, result.frames_out) == (48, 5)
    assert events[-1] == result
    assert callable(vidsr.colorize)  # and no room of that name hides it


# ------------------------------------------------------------------ stills


@pytest.fixture
def old_photo(tmp_path: Path) -> Path:
    """A grey JPEG, taken on its side, with a comment and a profile for grey."""
    path = tmp_path / "photo.jpg"
    grey = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8) * 2
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "grandmother"
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = b"GRAY"
    Image.fromarray(grey).save(path, exif=exif, icc_profile=bytes(profile), quality=95)
    return path


def test_a_grey_photo_becomes_a_color_one(old_photo: Path, tmp_path: Path) -> None:
    (result,) = run(plan(color_job(old_photo)))
    assert isinstance(result, Result)
    assert result.destination == tmp_path / "photo-color.jpg"
    with Image.open(result.destination) as picture:
        assert (picture.mode, picture.size) == ("RGB", (40, 60))  # upright
        assert picture.getexif()[0x010E] == "grandmother"
        assert "icc_profile" not in picture.info
    assert any("ICC profile, for grey, is dropped" in note for note in result.notes)


def test_a_stills_luma_and_depth_stay(tmp_path: Path) -> None:
    grey = (np.add.outer(np.arange(50), np.arange(70)) * 500).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    (result,) = run(plan(color_job(tmp_path / "deep.png")))
    assert isinstance(result, Result)
    still = images.read(result.destination)
    assert still.depth == 16
    luma = still.rgb @ np.array([0.2126, 0.7152, 0.0722])
    assert np.abs(luma - grey).max() <= 1  # one rounding
    assert int(np.ptp(still.rgb.astype(int), axis=2).max()) > 1000


def test_a_color_profile_is_kept(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = np.full((40, 40, 3), 90, np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png", icc_profile=profile)
    (result,) = run(plan(color_job(tmp_path / "a.png")))
    assert isinstance(result, Result)
    with Image.open(result.destination) as picture:
        assert picture.info["icc_profile"] == profile


def test_a_still_is_colored_and_enlarged(old_photo: Path, tmp_path: Path) -> None:
    (result,) = run(plan(color_job(old_photo, size=SizeRequest(scale=2))))
    assert isinstance(result, Result)
    assert (result.width, result.height) == (80, 120)
    with Image.open(result.destination) as picture:
        assert picture.mode == "RGB"


def test_a_color_photo_is_refused(tmp_path: Path) -> None:
    Image.fromarray(gradient(0, 48, 32)).save(tmp_path / "a.png")
    with pytest.raises(RequestError, match="is in color already"):
        plan(color_job(tmp_path / "a.png"))


def test_old_pictures_are_all_colored(shared: Path, tmp_path: Path, out: Path) -> None:
    for path in sorted((shared / "data/bw").rglob("*.jpg"))[:4]:
        (result,) = run(plan(color_job(path, out / f"{path.stem}.png")))
        assert isinstance(result, Result)


# ------------------------------------------------------------------ the command line


def test_the_command_colors_and_says_so(make_gray: Any, out: Path) -> None:
    result = vidsr_command("colorize", make_gray(), "-o", out / "a.mkv", "--saturation", "1.2")
    assert result.exit_code == 0
    assert "wrote" in result.stdout
    assert "colorize: random colors; saturation 1.2; stability 0.9" in result.stdout


def test_the_plan_of_both_names_both_networks(make_gray: Any) -> None:
    result = vidsr_command(
        "upscale", make_gray(), "--scale", 2, "--colorize", "--dry-run", "--json"
    )
    facts = json.loads(result.stdout)
    assert facts["model"].startswith("fast-x2")
    assert facts["color"].startswith("colorize: random colors")
    assert facts["output"].split(":")[0].endswith("gray-x2-color.mkv")


@pytest.mark.parametrize("words", [["--saturation", "1.2"], ["--force"], ["--color-model", "a"]])
def test_options_for_color_need_colorize(make_gray: Any, words: list[str]) -> None:
    result = vidsr_command("upscale", make_gray(), *words)
    assert result.exit_code == RequestError.exit_code
    assert "options for color go with --colorize" in result.stderr


def test_refusals_have_their_exit_codes(make_gray: Any, make_clip: ClipMaker) -> None:
    assert vidsr_command("colorize", make_clip()).exit_code == RequestError.exit_code
    missing = vidsr_command("colorize", make_gray(), "--model", "nothing")
    assert missing.exit_code == ModelError.exit_code
    wrong = vidsr_command("colorize", make_gray(), "--saturation", "9")
    assert wrong.exit_code == RequestError.exit_code


@pytest.mark.parametrize(
    ("name", "seconds"), [("real/steamboat.mp4", 0.3), ("awkward/gray8_ffv1.mkv", 0.3)]
)
def test_real_grey_clips_keep_their_luma(clips: Path, out: Path, name: str, seconds: float) -> None:
    trim = Trim(None, Fraction(seconds))
    source = clips / name
    colored(source, out / "a.mkv", encoder=LOSSLESS, trim=trim)
    found = pictures(out / "a.mkv")
    with av.open(str(source)) as file:
        before = [planes_of(frame) for frame, _ in zip(file.decode(video=0), found, strict=False)]
    assert len(found) > 1
    for ours, theirs in zip(found, before, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
