"""The library: what a program that imports vidsr may rely on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ClipMaker, gradient
from family import ship_family, tiny_model, tiny_twins
from PIL import Image

import vidsr
from vidsr.errors import MediaError, ModelError, RequestError
from vidsr.events import Event, Progress, Result
from vidsr.job import plan, run
from vidsr.request import Job, SizeRequest


@pytest.fixture(autouse=True)
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return ship_family(monkeypatch, tmp_path / "weights", 2, 4)


@pytest.fixture
def upscaler() -> vidsr.Upscaler:
    return vidsr.Upscaler("fast-x2", device="cpu")


# ------------------------------------------------------------------ one call


def test_upscale_returns_the_result_and_tells_of_every_event(
    make_clip: ClipMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidsr.job.REPORT_SECONDS", 0)
    events: list[Event] = []
    larger = tmp_path / "larger.mp4"
    result = vidsr.upscale(make_clip(), larger, scale=2, on_event=events.append)
    assert isinstance(result, Result)
    assert (result.destination, result.width, result.frames_out) == (larger, 96, 8)
    assert events[-1] == result
    assert len(events) == 9
    assert all(isinstance(event, Progress) for event in events[:-1])


def test_upscale_takes_strings_and_finds_a_name(make_clip: ClipMaker) -> None:
    clip = make_clip(frames=2)
    result = vidsr.upscale(str(clip), model="fast-x2", scale=2)
    assert result.destination == clip.with_name("clip-x2.mp4")
    assert result.destination.is_file()


def test_upscale_takes_a_fidelity(tmp_path: Path) -> None:
    model = tiny_twins(tmp_path / "mine", "mine-x2", scale=2)
    picture = gradient(0, 24, 16)
    Image.fromarray(picture).save(tmp_path / "a.png")
    words: dict[str, Any] = {"model": str(model), "scale": 2, "overwrite": True}
    found = []
    for fidelity in (1.0, 0.5, 0.0):
        vidsr.upscale(tmp_path / "a.png", tmp_path / "b.png", fidelity=fidelity, **words)
        with Image.open(tmp_path / "b.png") as written:
            found.append(np.array(written))
        assert np.array_equal(found[-1], vidsr.Upscaler(str(model), fidelity=fidelity)(picture))
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[1], found[2])
    with pytest.raises(RequestError, match="no perceptual weights"):
        vidsr.upscale(tmp_path / "a.png", fidelity=0.5, model="fast", scale=2)


def test_upscale_refuses_to_replace_unless_asked(make_clip: ClipMaker, tmp_path: Path) -> None:
    clip, larger = make_clip(frames=2), tmp_path / "larger.mp4"
    vidsr.upscale(clip, larger, scale=2)
    with pytest.raises(RequestError, match="exists"):
        vidsr.upscale(clip, larger, scale=2)
    vidsr.upscale(clip, larger, scale=2, overwrite=True)


def test_upscale_raises_what_the_command_would_say(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"gone\.mp4: no such file"):
        vidsr.upscale(tmp_path / "gone.mp4")
    with pytest.raises(MediaError, match=r"gone\.png: no such file"):
        vidsr.upscale(tmp_path / "gone.png")


def test_an_error_in_the_callback_stops_the_run_and_leaves_nothing(
    make_clip: ClipMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidsr.job.REPORT_SECONDS", 0)
    out = tmp_path / "out"
    out.mkdir()

    def stop(_: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vidsr.upscale(make_clip(), out / "a.mp4", scale=2, on_event=stop)
    assert list(out.iterdir()) == []


# ------------------------------------------------------------------ Upscaler


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_an_array_keeps_its_type_and_range(upscaler: vidsr.Upscaler, dtype: type) -> None:
    full = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1.0)
    picture = (gradient(0, 24, 16) / 255 * full).astype(dtype)
    larger = upscaler(picture)
    assert (larger.shape, larger.dtype) == ((32, 48, 3), dtype)
    assert larger.min() >= 0
    assert larger.max() <= full
    # The network's own detail is small random noise on a repeated picture.
    assert abs(larger.mean() - picture.mean()) < 0.3 * full


def test_all_array_types_hold_the_same_picture(upscaler: vidsr.Upscaler) -> None:
    codes = gradient(0, 24, 16)
    exact = upscaler((codes / 255).astype(np.float32))
    eight, sixteen = upscaler(codes), upscaler(codes.astype(np.uint16) * 257)
    # Each is the same numbers, rounded once to its own codes.
    assert np.abs(eight / 255 - exact).max() <= 0.5 / 255 + 1e-6
    assert np.abs(sixteen / 65535 - exact).max() <= 0.5 / 65535 + 1e-6


@pytest.mark.parametrize("shape", [(3, 16, 24), (1, 3, 16, 24), (2, 3, 16, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_tensor_keeps_its_layout_and_type(
    upscaler: vidsr.Upscaler, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    larger = upscaler(torch.rand(shape).to(dtype))
    assert larger.shape == (*shape[:-2], 32, 48)
    assert larger.dtype == dtype
    assert not larger.requires_grad


def test_a_batch_is_its_pictures_one_by_one(upscaler: vidsr.Upscaler) -> None:
    batch = torch.rand(3, 3, 16, 24)
    for one, larger in zip(batch, upscaler(batch), strict=True):
        assert torch.equal(upscaler(one), larger)


def test_a_tensor_and_an_array_give_the_same(upscaler: vidsr.Upscaler) -> None:
    array = (gradient(0, 24, 16) / 255).astype(np.float32)
    larger = upscaler(torch.from_numpy(array).permute(2, 0, 1)).clamp(0, 1)
    assert np.array_equal(larger.permute(1, 2, 0).numpy(), upscaler(array))


def test_one_upscaler_serves_pictures_of_many_sizes(upscaler: vidsr.Upscaler) -> None:
    for width, height in ((24, 16), (33, 17), (24, 16), (1, 1)):
        assert upscaler(gradient(0, width, height)).shape == (height * 2, width * 2, 3)


def test_the_input_is_left_as_it_was(upscaler: vidsr.Upscaler) -> None:
    tensor, array = torch.rand(3, 16, 24), gradient(0, 24, 16)
    before = tensor.clone(), array.copy()
    upscaler(tensor)
    upscaler(array)
    assert torch.equal(tensor, before[0])
    assert np.array_equal(array, before[1])


def test_views_and_read_only_arrays_are_taken(upscaler: vidsr.Upscaler) -> None:
    read_only = np.asarray(Image.fromarray(gradient(0, 24, 16)))
    assert not read_only.flags.writeable
    assert np.array_equal(upscaler(read_only), upscaler(gradient(0, 24, 16)))
    mirrored = read_only[:, ::-1]
    assert np.array_equal(upscaler(mirrored), upscaler(mirrored.copy()))


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((16, 24), np.uint8),
        np.zeros((16, 24, 1), np.uint8),
        np.zeros((16, 24, 4), np.uint8),
        np.zeros((3, 16, 24), np.uint8),
        np.zeros((2, 16, 24, 3), np.uint8),
        np.zeros((0, 24, 3), np.uint8),
        np.zeros((16, 24, 3), np.int32),
        np.zeros((16, 24, 3), bool),
        torch.zeros(16, 24),
        torch.zeros(1, 16, 24),
        torch.zeros(4, 16, 24),
        torch.zeros(16, 24, 3),
        torch.zeros(0, 3, 16, 24),
        torch.zeros(3, 16, 24, dtype=torch.uint8),
    ],
    ids=lambda picture: f"{picture.dtype}{tuple(picture.shape)}",
)
def test_other_shapes_and_types_are_refused_by_name(upscaler: vidsr.Upscaler, picture: Any) -> None:
    with pytest.raises(RequestError, match=r"\(.*\)"):
        upscaler(picture)


def test_a_file_s_name_is_no_picture(upscaler: vidsr.Upscaler) -> None:
    with pytest.raises(RequestError, match=r"not str; vidsr\.upscale takes files"):
        upscaler("photo.png")  # type: ignore[type-var]


def test_an_upscaler_equals_the_command_on_a_png(tmp_path: Path) -> None:
    picture = gradient(0, 48, 32)
    Image.fromarray(picture).save(tmp_path / "a.png")
    list(run(plan(Job(tmp_path / "a.png", tmp_path / "b.png", SizeRequest(scale=4)))))
    with Image.open(tmp_path / "b.png") as written:
        assert np.array_equal(np.asarray(written), vidsr.Upscaler("fast-x4")(picture))


def test_an_upscaler_knows_its_scale_and_card(tmp_path: Path) -> None:
    assert vidsr.Upscaler("fast-x4").scale == 4
    mine = vidsr.Upscaler(str(tiny_model(tmp_path / "mine", "mine", scale=3)))
    assert (mine.scale, mine.card.name) == (3, "mine")
    assert mine(gradient(0, 24, 16)).shape == (48, 72, 3)


def test_a_family_is_taken_at_four_times_or_else_at_its_largest(family: Path) -> None:
    assert vidsr.Upscaler("fast").card.name == "fast-x4"
    for scale in (2, 3):
        tiny_model(family, f"photo-x{scale}", scale=scale)
    assert vidsr.Upscaler("photo").card.name == "photo-x3"


@pytest.mark.parametrize(("scale", "member"), [(2, "fast-x2"), (3, "fast-x4"), (4, "fast-x4")])
def test_a_family_takes_the_member_for_the_scale(scale: int, member: str) -> None:
    upscaler = vidsr.Upscaler("fast", scale=scale)
    assert (upscaler.card.name, upscaler.scale) == (member, scale)
    assert upscaler(gradient(0, 24, 16)).shape == (16 * scale, 24 * scale, 3)


def test_three_times_is_what_the_command_makes_of_it(tmp_path: Path) -> None:
    picture = gradient(0, 47, 31)
    Image.fromarray(picture).save(tmp_path / "a.png")
    list(run(plan(Job(tmp_path / "a.png", tmp_path / "b.png", SizeRequest(scale=3)))))
    with Image.open(tmp_path / "b.png") as written:
        assert np.array_equal(np.asarray(written), vidsr.Upscaler("fast", scale=3)(picture))


@pytest.mark.parametrize(("model", "scale"), [("fast-x2", 4), ("fast", 5), ("fast-x4", 1)])
def test_a_scale_that_cannot_be_is_refused_at_once(model: str, scale: int) -> None:
    with pytest.raises(RequestError):
        vidsr.Upscaler(model, scale=scale)


def test_a_fidelity_for_a_model_without_perceptual_weights_is_refused_at_once() -> None:
    with pytest.raises(RequestError, match="fast-x2 has no perceptual weights"):
        vidsr.Upscaler("fast-x2", fidelity=0.5)


def test_an_upscaler_mixes_by_the_card_unless_told(family: Path) -> None:
    tiny_twins(family, "photo-x2", scale=2, fidelity=0.75)
    picture = gradient(0, 24, 16)
    by_default = vidsr.Upscaler("photo")(picture)
    assert np.array_equal(by_default, vidsr.Upscaler("photo", fidelity=0.75)(picture))
    assert not np.array_equal(by_default, vidsr.Upscaler("photo", fidelity=1.0)(picture))
    perceptual = vidsr.Upscaler("photo-x2-perceptual")(picture)
    assert np.array_equal(perceptual, vidsr.Upscaler("photo", fidelity=0.0)(picture))


def test_the_weights_are_read_once_for_pictures_of_many_sizes(
    family: Path, upscaler: vidsr.Upscaler
) -> None:
    before = upscaler(gradient(0, 24, 16))
    for path in family.iterdir():
        path.unlink()
    assert upscaler(gradient(0, 33, 17)).shape == (34, 66, 3)
    assert np.array_equal(upscaler(gradient(0, 24, 16)), before)


def test_an_unknown_model_is_refused_at_once() -> None:
    with pytest.raises(ModelError, match="did you mean"):
        vidsr.Upscaler("fast-x5")


def test_an_upscaler_may_be_openvino_s(upscaler: vidsr.Upscaler, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    other = vidsr.Upscaler("fast-x2", engine="openvino", cache_dir=tmp_path / "cache")
    for size in ((1, 3, 16, 24), (1, 3, 9, 7)):
        picture = torch.rand(size)
        # Another order of addition.
        torch.testing.assert_close(other(picture), upscaler(picture), rtol=0, atol=1e-5)
    assert len(list((tmp_path / "cache" / "openvino").iterdir())) == 1  # for all sizes
