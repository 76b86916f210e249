"""Films that lie in pictures, through the whole main path: numbered files and animations."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ClipMaker, gradient
from family import ship_family
from identity import frames_of
from PIL import Image, ImageCms

from vidsr.draft import Plan
from vidsr.errors import Interrupted, MediaError, RequestError, VerificationError
from vidsr.events import Result
from vidsr.job import plan, run
from vidsr.media import image_writer, images, sequence
from vidsr.media.images import Still
from vidsr.media.reader import Trim
from vidsr.request import Job, SizeRequest
from vidsr.stages import Repeat


@pytest.fixture(autouse=True)
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ship_family(monkeypatch, tmp_path / "weights", 2, 4)


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    (tmp_path / "shots").mkdir()
    return tmp_path / "shots"


def repeated(source: Path, destination: Path, **asked: Any) -> Result:
    """Every pixel twice, both ways."""
    *_, result = run(plan(Job(source, destination, **asked)), stages=[Repeat(2)])
    assert isinstance(result, Result)
    return result


def picture(number: int, **more: Any) -> Still:
    return Still(gradient(number, 24, 16), **more)


def put(folder: Path, numbers: range, suffix: str = ".png", **more: Any) -> Path:
    """Numbered pictures, and the name that stands for them."""
    pattern = folder / f"%06d{suffix}"
    for number in numbers:
        image_writer.write(sequence.Numbered(pattern).path(number), picture(number, **more))
    return pattern


def twice(samples: np.ndarray) -> np.ndarray:
    return samples.repeat(2, axis=0).repeat(2, axis=1)


# Numbered pictures


def test_numbers_past_the_digits_grow_as_printf_grows_them(shots: Path) -> None:
    source = put(shots, range(999_998, 1_000_002))
    result = repeated(source, shots.parent / "out" / "%06d.png")
    assert result.frames_out == 4
    names = sorted(path.name for path in (shots.parent / "out").iterdir())
    assert names == ["1000000.png", "1000001.png", "999998.png", "999999.png"]
    after = images.read(shots.parent / "out" / "1000001.png")
    np.testing.assert_array_equal(after.rgb, twice(picture(1_000_001).rgb))


def test_more_than_a_hundred_thousand_names_are_found_in_order(
    shots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [shots / f"{number:05d}.png" for number in range(100_010)]
    monkeypatch.setattr(Path, "iterdir", lambda _: reversed(names))
    assert sequence.Numbered(shots / "%05d.png").present() == list(range(100_010))


def test_a_percent_sign_and_a_name_around_the_number_are_kept(shots: Path) -> None:
    numbered = sequence.Numbered(shots / "100%% shot[%d].final.png")
    assert numbered.path(7).name == "100% shot[7].final.png"
    image_writer.write(numbered.path(7), picture(7))
    (shots / "100% shot[07].final.png").write_bytes(b"")  # no number that %d would print
    assert numbered.present() == [7]


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_depth_alpha_and_profile_are_kept(shots: Path, suffix: str, dtype: Any) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    full = np.iinfo(dtype).max
    rgb = (gradient(0, 24, 16).astype(np.uint32) * full // 255).astype(dtype)
    alpha = np.full((16, 24), full // 3, dtype)
    image_writer.write(shots / f"1{suffix}", Still(rgb, alpha, icc_profile=profile))
    repeated(shots / f"%d{suffix}", shots.parent / "out" / f"%d{suffix}")
    after = images.read(shots.parent / "out" / f"1{suffix}")
    np.testing.assert_array_equal(after.rgb, twice(rgb))
    assert after.alpha is not None
    assert (after.alpha == full // 3).all()
    assert after.icc_profile == profile


def test_gray_pictures_stay_gray_and_mixed_ones_become_what_all_are(shots: Path) -> None:
    gray = Still(gradient(0, 24, 16)[..., :1].repeat(3, axis=2), gray=True)
    for number in (1, 2):
        image_writer.write(shots / f"{number}.png", gray)
    repeated(shots / "%d.png", shots.parent / "gray" / "%d.png")
    assert images.read(shots.parent / "gray" / "2.png").gray
    image_writer.write(shots / "3.png", picture(3, alpha=np.full((16, 24), 255, np.uint8)))
    repeated(shots / "%d.png", shots.parent / "mixed" / "%d.png")
    first = images.read(shots.parent / "mixed" / "1.png")
    assert not first.gray
    assert first.alpha is not None
    assert (first.alpha == 255).all()
    np.testing.assert_array_equal(first.rgb, twice(gray.rgb))


def test_pictures_become_a_video_of_the_rate_that_was_asked_for(shots: Path) -> None:
    source, film = put(shots, range(100, 105)), shots.parent / "film.mp4"
    result = repeated(source, film, rate=Fraction(24000, 1001))
    assert result.frames_in == result.frames_out == 5
    moments = [frame.pts * frame.time_base for frame in frames_of(film)]
    assert moments == [number * Fraction(1001, 24000) for number in range(5)]


def test_a_part_of_the_pictures_is_cut_by_time(shots: Path) -> None:
    source = put(shots, range(1, 11))
    trim = Trim(Fraction(2, 10), Fraction(5, 10))
    result = repeated(source, shots.parent / "out" / "%d.png", rate=Fraction(10), trim=trim)
    assert result.frames_out == 3
    after = images.read(shots.parent / "out" / "1.png")
    np.testing.assert_array_equal(after.rgb, twice(picture(3).rgb))


def test_a_video_becomes_pictures_and_the_sound_is_named(make_clip: ClipMaker, shots: Path) -> None:
    clip = make_clip(
        "clip.mkv", frames=3, codec="ffv1", pix_fmt="bgr0", audio=True, options={"level": "3"}
    )
    result = repeated(clip, shots / "%04d.png")
    assert sorted(path.name for path in shots.iterdir()) == ["0001.png", "0002.png", "0003.png"]
    np.testing.assert_array_equal(images.read(shots / "0002.png").rgb, twice(gradient(1, 48, 32)))
    assert any("audio" in note and "no other stream" in note for note in result.notes)


def test_a_rate_that_varies_is_named_when_a_video_becomes_pictures(
    make_clip: ClipMaker, shots: Path
) -> None:
    ticks = [0, 1000, 2000, 3000, 6000, 9000]  # 30 a second, then 10
    clip = make_clip(frames=6, pts=ticks, time_base=Fraction(1, 30000))
    (note,) = (
        note for note in repeated(clip, shots / "%d.png").notes if "frame rate varies" in note
    )
    assert "(33.33 to 100 ms a frame)" in note
    assert "at --rate 16.6667 they last as long" in note


@pytest.mark.parametrize(
    "asked",
    [
        {"name": "a.mp4"},
        {"name": "a.mkv"},  # which rounds 1/24 s to 41 and 42 ms
        {"name": "a.mp4", "time_base": Fraction(1, 1000), "pts": [0, 41, 83, 125, 166, 208]},
        {"name": "a.mp4", "frames": 1},
    ],
    ids=lambda asked: " ".join(map(str, asked.values())),
)
def test_nothing_is_said_of_a_steady_rate(
    make_clip: ClipMaker, shots: Path, asked: dict[str, Any]
) -> None:
    clip = make_clip(**{"frames": 6, **asked})
    assert not any("rate varies" in note for note in repeated(clip, shots / "%d.png").notes)


def test_deep_video_becomes_pictures_of_sixteen_bits(make_clip: ClipMaker, shots: Path) -> None:
    clip = make_clip(
        "clip.mkv", frames=1, codec="ffv1", pix_fmt="yuv444p10le", options={"level": "3"}
    )
    repeated(clip, shots / "%d.png")
    assert images.read(shots / "1.png").depth == 16
    result = repeated(clip, shots / "%d.jpg")
    assert any("10 bits become 8" in note for note in result.notes)


def test_a_gap_is_an_error_that_names_the_first_missing_number(shots: Path) -> None:
    source = put(shots, range(3, 9))
    (shots / "000005.png").unlink()
    (shots / "000007.png").unlink()
    with pytest.raises(MediaError, match="number 5 is missing between 3 and 8"):
        plan(Job(source))


def test_a_picture_of_another_size_is_named_before_the_run(shots: Path) -> None:
    source = put(shots, range(3))
    image_writer.write(shots / "000002.png", Still(gradient(0, 26, 16)))
    with pytest.raises(MediaError, match=r"000002\.png: 26x16, but 000000\.png is 24x16"):
        plan(Job(source))


def test_no_picture_at_all_is_one_sentence(shots: Path) -> None:
    with pytest.raises(MediaError, match="no such picture"):
        plan(Job(shots / "%06d.png"))
    with pytest.raises(MediaError, match="no such picture"):
        plan(Job(shots / "nowhere" / "%06d.png"))


def test_pictures_that_are_there_are_replaced_only_when_asked(shots: Path) -> None:
    source = put(shots, range(2))
    out = shots.parent / "out" / "%06d.png"
    repeated(source, out)
    with pytest.raises(RequestError, match="2 such pictures are there; --overwrite"):
        plan(Job(source, out))
    assert repeated(source, out, overwrite=True).frames_out == 2
    with pytest.raises(RequestError, match="is the input itself"):
        plan(Job(source, source, overwrite=True))
    with pytest.raises(RequestError, match="is the input itself"):
        plan(Job(source, shots / ".." / shots.name / source.name, overwrite=True))


def test_pictures_of_a_longer_film_that_was_there_are_named(shots: Path) -> None:
    out = shots.parent / "out" / "%06d.png"
    source = put(shots, range(1, 5))
    repeated(source, out)
    sequence.Numbered(source).path(4).unlink()
    result = repeated(source, out, overwrite=True)
    assert sequence.Numbered(out).present() == [1, 2, 3, 4]
    assert "1 pictures of the same name were there and are not of this film: 000004.png" in str(
        result.notes
    )


def test_a_rate_is_for_numbered_pictures_alone(make_clip: ClipMaker, shots: Path) -> None:
    image_writer.write(shots / "one.png", picture(0))
    for source in (make_clip(), shots / "one.png"):
        with pytest.raises(RequestError, match="--rate"):
            plan(Job(source, rate=Fraction(24)))
    with pytest.raises(RequestError, match="--rate 0"):
        Job(shots / "%d.png", rate=Fraction(0))


def test_a_damaged_picture_in_the_middle_leaves_whole_ones_and_says_how_many(
    shots: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = put(shots, range(6))
    data = (shots / "000004.png").read_bytes()
    (shots / "000004.png").write_bytes(data[:-40])
    with pytest.raises(MediaError, match=r"000004\.png"):
        repeated(source, shots.parent / "out" / "%06d.png")
    written = sorted((shots.parent / "out").iterdir())
    for path in written:
        assert images.read(path).rgb.shape == (32, 48, 3)
    assert not written or f"{len(written)} pictures are whole" in caplog.text


def test_an_interrupted_run_says_how_far_it_got(shots: Path) -> None:
    source = sequence.probe_pictures(put(shots, range(2)), None)
    reader = sequence.open_reader(source, copied=())

    def interrupted() -> None:
        with sequence.SequenceWriter(shots.parent / "out" / "%06d.png", source=source) as writer:
            writer.write(next(iter(reader)))
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"1 pictures are whole and stay, the last is .*000000"):
        interrupted()


# Animations


def animate(path: Path, *, alpha: bool = False, **more: Any) -> list[np.ndarray]:
    """Three flat pictures with a moving square: few colors, so that GIF keeps them all."""
    shapes = []
    for number in range(3):
        samples = np.zeros((16, 24, 4), np.uint8)
        samples[..., :3], samples[..., 3] = (200, 30, 90), 255
        samples[4:10, 3 + 4 * number : 9 + 4 * number] = (20, 220, 60, 0 if alpha else 255)
        shapes.append(samples)
    first, *others = (Image.fromarray(shape) for shape in shapes)
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=[40, 100, 70],
        disposal=2 if alpha and path.suffix == ".gif" else 0,
        **more,
    )
    return shapes


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("a.gif", {}),
        ("a.webp", {"lossless": True, "exact": True}),
        ("a.png", {}),
        ("a.apng", {"format": "PNG"}),
    ],
)
def test_an_animation_keeps_pictures_durations_and_alpha(
    tmp_path: Path, name: str, more: dict[str, Any], alpha: bool
) -> None:
    before = animate(tmp_path / name, alpha=alpha, loop=3, **more)
    out = tmp_path / f"out{Path(name).suffix}"
    result = repeated(tmp_path / name, out)
    assert (result.frames_in, result.frames_out) == (3, 3)
    after = list(images.read_animation(out))
    assert [seconds * 1000 for _, seconds in after] == [40, 100, 70]
    assert images.plays_of(out) == images.plays_of(tmp_path / name)
    lossy = 12 if name.endswith(".webp") else 0  # the output is not lossless
    for (still, _), expected in zip(after, before, strict=True):
        assert still.alpha is not None
        inside = 14, 2 * int(np.flatnonzero(expected[7, :, 1] == 220)[2])  # of the square
        assert still.alpha[inside] == (0 if alpha else 255)
        assert still.alpha[0, 0] == 255
        seen = still.alpha == 255
        difference = np.abs(still.rgb.astype(int) - twice(expected[..., :3]))[seen]
        assert np.median(difference) <= lossy


@pytest.mark.parametrize("loop", [None, 0, 1, 4])
def test_a_gif_is_played_as_often_as_before(tmp_path: Path, loop: int | None) -> None:
    animate(tmp_path / "a.gif", **({} if loop is None else {"loop": loop}))
    repeated(tmp_path / "a.gif", tmp_path / "b.gif")
    with Image.open(tmp_path / "b.gif") as image:
        assert image.info.get("loop") == loop


def test_an_animation_becomes_a_video_with_its_own_timing(tmp_path: Path) -> None:
    animate(tmp_path / "a.gif", alpha=True)
    result = repeated(tmp_path / "a.gif", tmp_path / "a.mp4")
    frames = frames_of(tmp_path / "a.mp4")
    assert [frame.pts * frame.time_base * 1000 for frame in frames] == [0, 40, 140]
    assert frames[-1].duration * frames[-1].time_base * 1000 == 70
    assert any("alpha channel is dropped" in note for note in result.notes)


def test_a_video_becomes_an_animation_that_lasts_as_long(
    make_clip: ClipMaker, tmp_path: Path
) -> None:
    clip = make_clip(frames=6, rate=24)
    for suffix in (".gif", ".webp", ".apng"):
        out = tmp_path / f"out{suffix}"
        assert repeated(clip, out).frames_out == 6
        lasted = sum(seconds for _, seconds in images.read_animation(out))
        assert abs(lasted - Fraction(6, 24)) <= Fraction(1, 200)


def test_pictures_too_short_for_a_gif_are_left_out_and_named(
    make_clip: ClipMaker, tmp_path: Path
) -> None:
    result = repeated(make_clip(frames=24, rate=120), tmp_path / "a.gif")
    shown = [seconds for _, seconds in images.read_animation(tmp_path / "a.gif")]
    assert sum(shown) == Fraction(24, 120)
    assert min(shown) == Fraction(1, 100)
    told = f"{24 - len(shown)} pictures are shorter than this format's clock can tell"
    assert len(shown) < 24
    assert any(told in note for note in result.notes)


def test_an_animation_that_came_out_wrong_leaves_the_older_file(
    make_clip: ClipMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.gif").write_bytes(b"older")
    monkeypatch.setattr(
        image_writer, "read_animation", lambda _: [(picture(0), Fraction(1, 10))] * 6
    )
    with pytest.raises(VerificationError, match=r"a\.gif: 0\.250 s went in, 0\.600 came out"):
        repeated(make_clip(frames=6, rate=24), tmp_path / "a.gif", overwrite=True)
    assert (tmp_path / "a.gif").read_bytes() == b"older"
    assert not list(tmp_path.glob(".a.*"))


def test_an_animation_goes_beside_its_source_in_its_own_kind(tmp_path: Path) -> None:
    animate(tmp_path / "a.gif")
    assert plan(Job(tmp_path / "a.gif")).destination == tmp_path / "a-x4.gif"


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng"])
def test_pictures_of_an_animation_all_count_as_decoded(tmp_path: Path, suffix: str) -> None:
    animate(tmp_path / f"a{suffix}")
    result = repeated(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}", strict=True)
    assert not any("gave no picture" in note for note in result.notes)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_memory_for_a_gif_is_that_of_the_part_that_is_kept(
    make_clip: ClipMaker, tmp_path: Path, name: str
) -> None:
    clip, memory = make_clip(name, frames=24), []
    for trim in (Trim(), Trim(Fraction(1, 4), Fraction(1, 2))):
        planned = plan(Job(clip, tmp_path / "a.gif", SizeRequest(scale=2), trim=trim))
        assert isinstance(planned, Plan)
        memory.append(planned.memory_bytes)
    left_out = 24 - 6
    assert memory[0] - memory[1] == 2 * left_out * planned.video.frame_bytes


def test_a_gif_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"GIF89a nothing of the kind")
    with pytest.raises(MediaError, match=r"a\.gif"):
        plan(Job(tmp_path / "a.gif"))


def test_options_for_video_are_said_to_do_nothing_for_pictures(shots: Path) -> None:
    from vidsr.media.encoders import EncoderRequest

    image_writer.write(shots / "one.png", picture(0))
    job = Job(
        shots / "one.png", encoder=EncoderRequest(crf=20, preset="slow"), trim=Trim(Fraction(1))
    )
    notes = plan(job).notes
    assert any(note.startswith("--crf, --preset: for video") for note in notes)
    assert any(note.startswith("--start, --end: for video") for note in notes)
