"""Flow follows what moves, a warp carries it along, and cuts are found and nothing else."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from vidsr import motion
from vidsr.errors import RequestError
from vidsr.motion import CutDetector, flow, warp

# First frames of shots, found by eye.
TEARS_CUTS = [52, 122, 158, 221, 309, 715, 788, 872, 901, 987, 1127, 1157, 1203, 1234, 1246, 1284]
TEARS_CUTS += [1345, 1378, 1430, 1472, 1525, 1571, 1618, 1650, 1689]


@pytest.fixture
def texture() -> NDArray[np.uint8]:
    """Smooth blobs of all sizes, (96,128)."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[0:96, 0:128]
    waves = sum(
        np.cos(0.35 * a * x + 0.35 * b * y + c) for a, b, c in draw.uniform(-1, 1, (12, 3)) * 3.1
    )
    return np.asarray((waves - waves.min()) / np.ptp(waves) * 255, np.uint8)


def lumas(path: Path, frames: int = 10**6) -> list[NDArray[np.uint8]]:
    """Small grey pictures of a clip, about 192 pixels high."""
    found: list[NDArray[np.uint8]] = []
    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            width = round(frame.width * 192 / frame.height / 16) * 16
            found.append(frame.reformat(width=width, height=192, format="gray").to_ndarray())
            if len(found) == frames:
                break
    return found


def cuts_of(pictures: list[NDArray[np.uint8]]) -> list[int]:
    detector = CutDetector()
    return [number for number, luma in enumerate(pictures) if detector.is_cut(luma)]


# ------------------------------------------------------------------ flow and warp


def test_flow_points_to_where_a_pixel_was(texture: NDArray[np.uint8]) -> None:
    moved = np.roll(texture, (2, 5), axis=(0, 1))
    inside = flow(texture, moved)[16:-16, 16:-16]
    np.testing.assert_allclose(inside[..., 0], -5, atol=0.5)
    np.testing.assert_allclose(inside[..., 1], -2, atol=0.5)


def test_what_is_carried_along_the_flow_is_the_new_picture(texture: NDArray[np.uint8]) -> None:
    moved = np.roll(texture, (2, 5), axis=(0, 1))
    planes = np.stack([texture, 255 - texture]).astype(np.float32)
    carried = warp(planes, flow(texture, moved))
    assert carried.shape == planes.shape
    assert carried.dtype == np.float32
    inside = np.s_[16:-16, 16:-16]
    for plane, wanted in zip(carried, (moved, 255 - moved), strict=True):
        assert np.abs(plane[inside] - wanted[inside]).mean() < 4  # flow is exact to half a pixel


def test_no_flow_carries_nothing(texture: NDArray[np.uint8]) -> None:
    planes = texture[None].astype(np.float32)
    np.testing.assert_array_equal(warp(planes, np.zeros((96, 128, 2), np.float32)), planes)


def test_outside_the_picture_its_edge_repeats() -> None:
    planes = np.arange(20, dtype=np.float32)[None, :, None].repeat(20, axis=2)
    up = np.zeros((20, 20, 2), np.float32)
    up[..., 1] = -3
    assert warp(planes, up)[0, :5, 0].tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("shape", [(1, 1), (2, 40), (16, 16), (17, 33)])
def test_pictures_of_any_size_have_a_flow(shape: tuple[int, int]) -> None:
    luma = np.full(shape, 90, np.uint8)
    found = flow(luma, luma)
    assert (found.shape, found.dtype) == ((*shape, 2), np.float32)
    assert not found.any()


def test_the_same_pictures_have_the_same_flow(texture: NDArray[np.uint8]) -> None:
    moved = np.roll(texture, 3, axis=1)
    np.testing.assert_array_equal(flow(texture, moved), flow(texture, moved))


def test_without_opencv_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **words: Any) -> Any:
        if name == "cv2":
            raise ImportError(name)
        return real(name, *rest, **words)

    monkeypatch.setattr(builtins, "__import__", without)
    motion.opencv.cache_clear()
    with pytest.raises(RequestError, match=r"pip install 'vidsr\[color\]'"):
        warp(np.zeros((1, 4, 4), np.float32), np.zeros((4, 4, 2), np.float32))


# ------------------------------------------------------------------ cuts


def test_the_first_picture_begins_a_shot_and_so_does_the_one_after_a_reset() -> None:
    luma = np.full((32, 32), 90, np.uint8)
    detector = CutDetector()
    assert [detector.is_cut(luma) for _ in range(3)] == [True, False, False]
    detector.reset()
    assert detector.is_cut(luma)


def test_a_change_of_light_alone_is_no_cut(texture: NDArray[np.uint8]) -> None:
    lights = [1.0, 0.7, 1.0, 0.4, 0.9, 0.1]
    assert cuts_of([(texture * light).astype(np.uint8) for light in lights]) == [0]


def test_the_same_greys_elsewhere_are_a_cut(texture: NDArray[np.uint8]) -> None:
    scene = np.sort(texture, axis=1)
    assert cuts_of([scene, scene, scene[:, ::-1].copy(), scene[:, ::-1].copy()]) == [0, 2]


def test_a_flat_or_tiny_picture_is_no_trouble() -> None:
    assert cuts_of([np.full((2, 3), grey, np.uint8) for grey in (0, 255, 7)]) == [0]


@pytest.mark.parametrize(
    ("name", "frames", "cuts"),
    [
        ("bbb_800x640_768kbps_30fps_avc_pyramid_3b.mp4", 120, [6]),
        ("steamboat.mp4", 200, []),
        ("tears-of-steel-battle-clip-medium.webm", 330, TEARS_CUTS[:5]),
    ],
)
def test_every_cut_of_a_real_clip_is_found_and_nothing_else(
    clips: Path, name: str, frames: int, cuts: list[int]
) -> None:
    assert cuts_of(lumas(clips / "real" / name, frames)) == [0, *cuts]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cuts"),
    [
        ("tears-of-steel-battle-clip-medium.webm", TEARS_CUTS),
        ("steamboat.mp4", []),
        ("nasa_13013.mp4", [202]),
    ],
)
def test_every_cut_of_a_whole_clip_is_found_and_nothing_else(
    clips: Path, name: str, cuts: list[int]
) -> None:
    assert cuts_of(lumas(clips / "real" / name)) == [0, *cuts]
