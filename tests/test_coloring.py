"""Colors are steady, follow the luma's edges and never touch the luma."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vidsr import coloring, motion
from vidsr.coloring import (
    AB_SCALE,
    BT709_LUMA,
    MULTIPLE,
    WARM_UP_FRAMES,
    Colorize,
    Look,
    Reference,
    color_differences,
    tint_of,
    upsample_guided,
    working_size,
)
from vidsr.errors import RequestError
from vidsr.lab import rgb_to_lab

UNSTEADY = Look(stability=0)
BT601_LUMA = (0.299, 0.587, 0.114)


class Painter:
    """A network whose ab is what it is told, the same everywhere."""

    def __init__(self, *colors: tuple[float, float]) -> None:
        self.colors = colors or ((20.0, 30.0),)
        self.seen: list[Tensor] = []

    def __call__(self, lightness: Tensor) -> Tensor:
        color = self.colors[len(self.seen) % len(self.colors)]
        self.seen.append(lightness)
        _, _, height, width = lightness.shape
        ab = torch.tensor(color)[None, :, None, None] / AB_SCALE
        return ab.expand(1, 2, height // 2, width // 2).clone()


@pytest.fixture
def scene() -> Tensor:
    """A grey picture of smooth blobs, (1,3,96,128) in [0.2,0.8]."""
    torch.manual_seed(0)
    blobs = F.interpolate(torch.rand(1, 1, 12, 16), size=(96, 128), mode="bicubic").clamp(0, 1)
    return (0.2 + 0.6 * blobs).expand(1, 3, -1, -1).contiguous()


def luma_of(rgb: Tensor, weights: tuple[float, float, float] = BT709_LUMA) -> Tensor:
    return (rgb * torch.tensor(weights)[None, :, None, None]).sum(1, keepdim=True)


def ab_of(rgb: Tensor) -> Tensor:
    return rgb_to_lab(rgb)[:, 1:]


def moving(scene: Tensor, frames: int) -> list[Tensor]:
    """The scene, two pixels further right in every frame."""
    return [scene.roll(2 * number, dims=3) for number in range(frames)]


# ------------------------------------------------------------------ one picture


@pytest.mark.parametrize("weights", [BT709_LUMA, BT601_LUMA])
def test_luma_stays_and_nothing_leaves_the_display_range(
    weights: tuple[float, float, float],
) -> None:
    torch.manual_seed(1)
    gray = torch.rand(1, 1, 70, 50).expand(1, 3, -1, -1)
    colored = Colorize(Painter((60, -70)), look=UNSTEADY, luma_weights=weights)(gray)
    torch.testing.assert_close(luma_of(colored, weights), gray[:, :1], rtol=0, atol=1e-6)
    assert colored.min() >= -1e-6
    assert colored.max() <= 1 + 1e-6
    assert (colored.amax(1) - colored.amin(1)).mean() > 0.1  # it is in color


def test_luma_outside_the_display_range_passes_through_without_color() -> None:
    gray = torch.full((1, 3, 32, 32), 1.08)
    gray[..., 16:] = -0.05
    colored = Colorize(Painter(), look=UNSTEADY)(gray)
    torch.testing.assert_close(colored, gray, rtol=0, atol=1e-6)


def test_the_color_is_the_predicted_one(scene: Tensor) -> None:
    colored = Colorize(Painter((12, -15)), look=UNSTEADY)(scene)
    expected = torch.tensor([12.0, -15.0])[None, :, None, None].expand(1, 2, 96, 128)
    torch.testing.assert_close(ab_of(colored), expected, rtol=0, atol=2.0)  # blobs are enlarged


def test_saturation_is_a_factor(scene: Tensor) -> None:
    colored = Colorize(Painter((12, -15)), look=Look(saturation=0.5, stability=0))(scene)
    assert ab_of(colored).mean(dim=(0, 2, 3)).tolist() == pytest.approx([6, -7.5], abs=0.2)


def test_strength_is_the_share_beside_the_sources_own_color(scene: Tensor) -> None:
    tinted = scene * torch.tensor([1.1, 1.0, 0.7])[None, :, None, None]
    none, half, all_ = (
        Colorize(Painter(), look=Look(strength=share, stability=0))(tinted)
        for share in (0.0, 0.5, 1.0)
    )
    torch.testing.assert_close(none, tinted, rtol=0, atol=1e-6)
    torch.testing.assert_close(half, (none + all_) / 2, rtol=0, atol=1e-6)


def test_a_tint_is_neutralised(scene: Tensor) -> None:
    tinted = scene * torch.tensor([1.1, 1.0, 0.7])[None, :, None, None]
    gray = luma_of(tinted).expand(1, 3, -1, -1)
    painted = [Colorize(Painter(), look=UNSTEADY)(rgb) for rgb in (tinted, gray)]
    torch.testing.assert_close(*painted, rtol=0, atol=1e-6)


def test_true_ab_over_its_own_luma_is_the_picture_itself() -> None:
    torch.manual_seed(2)
    rgb = torch.rand(1, 3, 40, 40) * 0.8 + 0.1
    luma = luma_of(rgb)
    again = luma + color_differences(luma, ab_of(rgb))
    assert (again - rgb).abs().mean() < 0.2 / 255  # far more saturated than any real picture
    assert luma_of(color_differences(luma, ab_of(rgb))).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (17, 16), (240, 31), (130, 600)])
def test_pictures_of_any_size_are_colored(size: tuple[int, int]) -> None:
    painter = Painter()
    colored = Colorize(painter, look=UNSTEADY)(torch.full((1, 3, *size), 0.5))
    assert tuple(colored.shape) == (1, 3, *size)
    (lightness,) = painter.seen
    assert all(side % MULTIPLE == 0 for side in lightness.shape[-2:])
    assert torch.all(lightness.abs() <= 1)


def test_the_working_size_keeps_the_aspect_within_reason() -> None:
    assert working_size(1080, 1920, 128) == (128, 224)
    assert working_size(1920, 1080, 192) == (336, 192)
    assert working_size(10, 1000, 128) == (128, 512)


def test_the_input_picture_is_left_alone(scene: Tensor) -> None:
    before = scene.clone()
    Colorize(Painter())(scene)
    assert torch.equal(scene, before)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"saturation": -0.1}, "--saturation -0.1 is not between 0 and 4"),
        ({"strength": 1.5}, "--strength 1.5 is not between 0 and 1"),
        ({"stability": 2.0}, "--stability 2 is not between 0 and 1"),
    ],
)
def test_a_look_out_of_range_is_refused(words: dict[str, float], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Look(**words)


# ------------------------------------------------------------------ enlarging along edges


def test_the_edge_of_a_color_follows_the_edge_of_the_luma() -> None:
    luma = torch.full((1, 1, 128, 128), 0.3)
    luma[..., 71:] = 0.8  # not where small pixels meet
    left = (luma < 0.5).expand(1, 3, -1, -1)
    colors = torch.where(left, torch.tensor([0.1, -0.05, 0.02])[None, :, None, None], 0.0)
    small, guide = (F.avg_pool2d(planes, 8) for planes in (colors, luma))

    def error(enlarged: Tensor) -> float:
        return float((enlarged - colors).abs().sum())

    guided = upsample_guided(small, guide, luma)
    plain = F.interpolate(small, size=(128, 128), mode="bilinear")
    assert error(guided) < 0.35 * error(plain)


def test_an_even_color_stays_even() -> None:
    torch.manual_seed(3)
    planes = torch.full((1, 3, 8, 8), 0.2)
    guided = upsample_guided(planes, torch.rand(1, 1, 8, 8), torch.rand(1, 1, 50, 50))
    torch.testing.assert_close(guided, torch.full_like(guided, 0.2), rtol=0, atol=1e-5)


def test_luma_detail_brings_the_true_colors_of_photographs_nearer(shared: Path) -> None:
    paths = sorted((shared / "data/color/val").glob("*.jpg"))[:6]
    guided, plain = 0.0, 0.0
    for path in paths:
        rgb = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
        rgb = rgb.permute(2, 0, 1)[None].float() / 255
        luma = luma_of(rgb)
        height, width = rgb.shape[-2] // 8, rgb.shape[-1] // 8
        small, guide = (
            F.interpolate(planes, size=(height, width), mode="bilinear", antialias=True)
            for planes in (rgb - luma, luma)
        )
        error = upsample_guided(small, guide, luma) - (rgb - luma)
        guided += float(error.square().mean())
        bilinear = F.interpolate(small, size=rgb.shape[-2:], mode="bilinear") - (rgb - luma)
        plain += float(bilinear.square().mean())
    assert guided < plain


# ------------------------------------------------------------------ steady color


def test_a_repeated_frame_has_the_same_color_to_the_bit(scene: Tensor) -> None:
    painter = Painter((20, 30), (-20, 10))
    stage = Colorize(painter)
    first = stage(scene)
    assert torch.equal(stage(scene.clone()), first)
    assert torch.equal(stage.redo(scene), first)
    assert len(painter.seen) == 1


def test_flicker_is_damped_and_color_neither_fades_nor_freezes(scene: Tensor) -> None:
    colors = [(20.0, 30.0), (26.0, 22.0)]
    frames = moving(scene, 16)
    single, steady = (
        list(map(ab_of, map(Colorize(Painter(*colors), look=look), frames)))
        for look in (UNSTEADY, Look())
    )

    def flicker(pictures: list[Tensor]) -> float:
        return float(np.mean([(b - a).abs().mean() for a, b in pairwise(pictures)]))

    def chroma(pictures: list[Tensor]) -> float:
        return float(np.mean([picture.norm(dim=1).mean() for picture in pictures]))

    assert flicker(steady) < 0.5 * flicker(single)
    assert chroma(steady[-6:]) == pytest.approx(chroma(single[-6:]), rel=0.05)


def test_a_new_color_arrives_within_the_warm_up(scene: Tensor) -> None:
    painter = Painter((20, 30), *[(-20, 10)] * (2 * WARM_UP_FRAMES))
    stage = Colorize(painter)
    *_, last = [ab_of(stage(frame)) for frame in moving(scene, WARM_UP_FRAMES + 1)]
    a, b = last.mean(dim=(0, 2, 3)).tolist()
    assert a == pytest.approx(-20, abs=0.1 * 40)
    assert b == pytest.approx(10, abs=0.1 * 20)


def test_after_a_cut_nothing_of_the_old_color_is_left(scene: Tensor) -> None:
    other = scene.sort(dim=3).values
    stage = Colorize(Painter((20, 30), (20, 30), (-20, 10)))
    stage(scene)
    stage(scene.roll(1, dims=3))
    fresh = Colorize(Painter((-20, 10)))(other)
    assert torch.equal(stage(other), fresh)


def test_after_a_reset_nothing_of_the_old_color_is_left(scene: Tensor) -> None:
    stage = Colorize(Painter((20, 30), (-20, 10)))
    stage(scene)
    stage.reset()
    assert torch.equal(stage(scene), Colorize(Painter((-20, 10)))(scene))


def test_color_moves_with_what_it_belongs_to(scene: Tensor) -> None:
    def left_is_red(lightness: Tensor) -> Tensor:
        ab = torch.zeros(1, 2, lightness.shape[2] // 2, lightness.shape[3] // 2)
        ab[:, 0, :, : ab.shape[3] // 2] = 0.4
        return ab

    def gray(lightness: Tensor) -> Tensor:
        return torch.zeros(1, 2, lightness.shape[2] // 2, lightness.shape[3] // 2)

    networks = iter([left_is_red, gray])

    def first_red(lightness: Tensor) -> Tensor:
        return next(networks)(lightness)

    stage = Colorize(first_red, look=Look(stability=1))
    stage(scene)
    redness = ab_of(stage(scene.roll(12, dims=3)))[0, 0, 20:-20].mean(dim=0)
    assert redness[62:68].mean() > 20  # the edge was at 64 and is at 76
    assert redness[90:120].mean() < 8


def test_a_picture_of_another_size_begins_anew(scene: Tensor) -> None:
    stage = Colorize(Painter((20, 30), (-20, 10)))
    stage(scene)
    taller = scene.transpose(2, 3).contiguous()
    assert torch.equal(stage(taller), Colorize(Painter((-20, 10)))(taller))


def test_without_stability_nothing_is_remembered_and_opencv_is_not_needed(
    scene: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coloring, "flow", motion.opencv.cache_clear)  # takes no arguments
    stage = Colorize(Painter((20, 30), (-20, 10)), look=UNSTEADY)
    stage(scene)
    second = stage(scene.roll(1, dims=3))
    assert torch.equal(second, Colorize(Painter((-20, 10)), look=UNSTEADY)(scene.roll(1, dims=3)))


# ------------------------------------------------------------------ a reference's colors


def test_colors_are_shifted_and_stretched_to_the_references(scene: Tensor) -> None:
    torch.manual_seed(4)
    lookalike = Colorize(Painter((-15, 25)), look=UNSTEADY)(scene)

    def noisy(lightness: Tensor) -> Tensor:
        size = (1, 2, lightness.shape[2] // 2, lightness.shape[3] // 2)
        return torch.randn(size) * 0.05 + 0.1

    stage = Colorize(noisy, look=UNSTEADY, reference=Reference(lookalike))
    ab = ab_of(stage(scene))
    assert ab.mean(dim=(0, 2, 3)).tolist() == pytest.approx([-15, 25], abs=2)
    assert ab.std() < 25


def test_dark_and_light_take_the_references_dark_and_light() -> None:
    ramp = torch.linspace(0.05, 0.95, 128).expand(1, 3, 128, 128)

    def blue_shadows(lightness: Tensor) -> Tensor:
        small = F.avg_pool2d(lightness, 2)
        return torch.cat((torch.zeros_like(small), 0.3 * small), dim=1)

    model = Colorize(blue_shadows, look=UNSTEADY)(ramp)
    ab = ab_of(Colorize(Painter((5, 5)), look=UNSTEADY, reference=Reference(model))(ramp))
    assert ab[0, 1, :, 20:40].mean() < -5
    assert ab[0, 1, :, 90:110].mean() > 5


def test_a_grey_reference_makes_grey(scene: Tensor) -> None:
    stage = Colorize(Painter(), look=UNSTEADY, reference=Reference(scene))
    torch.testing.assert_close(stage(scene), scene, rtol=0, atol=1e-3)


# ------------------------------------------------------------------ is it in color already?


def test_grey_tint_and_color_are_told_apart(scene: Tensor) -> None:
    sepia = torch.cat((scene[:, :1] ** 0.8, scene[:, :1], scene[:, :1] ** 1.4), dim=1)
    colors = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    colored = F.interpolate(colors, size=(96, 128), mode="bilinear")
    assert [tint_of(rgb) for rgb in (scene, sepia, colored)] == ["gray", "tint", "color"]


@pytest.mark.parametrize("level", [0.0, 0.001, 1.0])
def test_black_and_white_pictures_are_grey(level: float) -> None:
    assert tint_of(torch.full((1, 3, 20, 30), level)) == "gray"


@pytest.mark.parametrize(
    ("folder", "expected", "least"),
    [("data/bw", "gray", 1.0), ("data/color/val", "color", 0.93), ("data/anime/val", "color", 1.0)],
)
def test_real_pictures_are_told_apart(
    shared: Path, folder: str, expected: str, least: float
) -> None:
    paths = [path for path in sorted((shared / folder).rglob("*")) if path.is_file()][:40]
    found = [tint_of(_read(path)) for path in paths if path.suffix in {".jpg", ".png"}]
    assert found.count(expected) >= least * len(found) > 0


def test_real_pictures_made_sepia_are_tinted(shared: Path) -> None:
    for path in sorted((shared / "data/color/val").glob("*.jpg"))[:12]:
        luma = luma_of(_read(path))
        assert tint_of(torch.cat((luma * 1.07, luma * 0.95, luma * 0.74), dim=1)) == "tint"


def _read(path: Path) -> Tensor:
    rgb = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
    return rgb.permute(2, 0, 1)[None].float() / 255
