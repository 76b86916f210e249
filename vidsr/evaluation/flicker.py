"""Flicker: how much the colors of a video change along the motion from frame to frame.

Steady colors are easily had by fading or freezing them, so two figures stand beside the flicker:
how strong the colors are, and how far from an original's, over the whole clip and over its end.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vidsr.coloring import BT709_LUMA, Colorize, Look
from vidsr.errors import RequestError
from vidsr.evaluation.chroma import ciede2000
from vidsr.evaluation.colorize import AskedOnce, Recolor, on_device
from vidsr.evaluation.scores import mean_of, plain, to_json
from vidsr.lab import rgb_to_lab
from vidsr.motion import CutDetector, flow, warp

if TYPE_CHECKING:
    from vidsr.coloring import ColorNetwork

OUTPUT = "output"
FRAME_BY_FRAME = "frame by frame"  # the output without stabilization
ORIGINAL = "original"
MEASURED_SIDE = 360  # pixels; a shorter side above is shrunk to it before anything is measured
FOLLOWED = 10.0  # L*; where the carried lightness is further off, the flow has lost the place

Planes = NDArray[np.float32]  # (3, H, W): L*, a*, b*
Shown = tuple[Fraction, Tensor]  # seconds, and RGB (1,3,H,W) about [0,1]


@dataclass(frozen=True)
class ColorSteadiness:
    """The colors of one frame, or their mean over several."""

    warp_error: float  # see `warp_error`; NaN for the first frame of a shot
    chroma: float  # mean of hypot(a*, b*)
    ciede2000: float  # mean difference from the original; NaN without one

    def to_dict(self) -> dict[str, float | None]:
        """Plain values."""
        return plain(asdict(self))


@dataclass
class ColorFrame:
    """One moment of a video in several versions of the same size."""

    seconds: Fraction
    versions: dict[str, Tensor]  # RGB (1,3,H,W), about [0,1]; the motion is that of the first


@dataclass(frozen=True)
class FrameSteadiness:
    """One frame's colors by version."""

    seconds: float
    begins_shot: bool
    versions: dict[str, ColorSteadiness]


@dataclass(frozen=True)
class FlickerReport:
    """The colors of a whole clip."""

    clip: str
    frames: tuple[FrameSteadiness, ...]  # at least one, in their order

    @property
    def shots(self) -> int:
        """Frames that begin one; no flicker is measured across a cut."""
        return sum(frame.begins_shot for frame in self.frames)

    @property
    def whole(self) -> dict[str, ColorSteadiness]:
        """By version, the means over all frames."""
        return _means(self.frames)

    @property
    def last_second(self) -> dict[str, ColorSteadiness]:
        """By version, the means over the frames of the last second."""
        end = self.frames[-1].seconds
        return _means([frame for frame in self.frames if frame.seconds > end - 1])

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return {
            "clip": self.clip,
            "frames": len(self.frames),
            "shots": self.shots,
            "whole": {name: mean.to_dict() for name, mean in self.whole.items()},
            "last_second": {name: mean.to_dict() for name, mean in self.last_second.items()},
        }

    def to_json(self) -> str:
        """Indented JSON of `to_dict`."""
        return to_json(self.to_dict())


def steadied(
    network: ColorNetwork,
    stability: float,
    *,
    device: torch.device | str = "cpu",
    luma_weights: tuple[float, float, float] = BT709_LUMA,
) -> dict[str, Recolor]:
    """The stage that ships, with stabilization and without.

    Args:
        network: predicts a and b, on the device; it is asked once a frame.
        stability: from 0 to 1.
        device: of the network.
        luma_weights: of R', G' and B' in the video's luma.

    Raises:
        RequestError: a stability that the stage does not take.
    """
    asked = AskedOnce(network)
    looks = {OUTPUT: Look(stability=stability), FRAME_BY_FRAME: Look(stability=0)}
    stages = {
        name: Colorize(asked, look=look, luma_weights=luma_weights) for name, look in looks.items()
    }
    return {name: on_device(stage, device) for name, stage in stages.items()}


def colored(
    clip: Iterable[Shown], stages: Mapping[str, Recolor], original: Iterable[Shown] | None = None
) -> Iterator[ColorFrame]:
    """Each picture of a clip as every stage makes it, and the original's beside them.

    Raises:
        RequestError: the original has more frames than the clip, fewer, or frames of another size.
    """
    beside = itertools.repeat(None) if original is None else itertools.chain(original, [None])
    for (seconds, rgb), shown in zip(clip, beside, strict=False):
        versions = {name: stage(rgb) for name, stage in stages.items()}
        if original is not None:
            versions[ORIGINAL] = _same_picture(shown, rgb)
        yield ColorFrame(seconds, versions)
    if original is not None and next(beside) is not None:
        raise RequestError("the original has more frames than the clip")


def flicker(frames: Iterable[ColorFrame], clip: str) -> Iterator[FrameSteadiness | FlickerReport]:
    """Measure every version of a video.

    Args:
        frames: in the order in which they are shown.
        clip: what the report calls it.

    Returns:
        An iterator of each frame's figures as they are measured; its last item is the report.

    Raises:
        RequestError: no frames; OpenCV or scikit-image is not installed.
    """
    meter, measured = _Meter(), []
    for frame in frames:
        measured.append(meter.measure(frame))
        yield measured[-1]
    if not measured:
        raise RequestError(f"{clip}: no frames to measure")
    yield FlickerReport(clip, tuple(measured))


def warp_error(
    before: Planes, now: Planes, motion: NDArray[np.float32], followed: NDArray[np.bool_]
) -> float:
    """Mean distance between a*, b* and those of the frame before, carried along the motion.

    After Lai et al. 2018 (arXiv:1808.00449), section 5.2, on colors alone and without the square,
    in the units of CIE L*a*b*.

    Args:
        before: the frame before.
        now: the frame.
        motion: from each pixel of `now` to its place in `before`, see `vidsr.motion.flow`.
        followed: (H,W), what counts; NaN where nothing does.
    """
    if not followed.any():
        return math.nan
    a, b = now[1:] - warp(before[1:], motion)
    return float(np.hypot(a, b)[followed].mean())


def relative(means: Mapping[str, ColorSteadiness], name: str, to: str) -> float:
    """A version's flicker as a share of another's; NaN where either was not measured."""
    if name not in means or to not in means:
        return math.nan
    other = means[to].warp_error
    return means[name].warp_error / other if other else math.nan


class _Meter:
    """Remembers the frame before."""

    def __init__(self) -> None:
        self._cuts = CutDetector()
        self._luma: NDArray[np.uint8] = np.zeros((0, 0), np.uint8)
        self._before: dict[str, Planes] = {}

    def measure(self, frame: ColorFrame) -> FrameSteadiness:
        labs = {name: _to_planes(rgb) for name, rgb in frame.versions.items()}
        first = next(iter(labs.values()))
        luma = (first[0] * 2.55).clip(0, 255).round().astype(np.uint8)
        begins_shot = self._cuts.is_cut(luma)
        errors = {} if begins_shot else self._warp_errors(luma, labs)
        self._luma, self._before = luma, labs
        original = labs.get(ORIGINAL)
        versions = {
            name: ColorSteadiness(errors.get(name, math.nan), *_strength(lab, original))
            for name, lab in labs.items()
        }
        return FrameSteadiness(float(frame.seconds), begins_shot, versions)

    def _warp_errors(self, luma: NDArray[np.uint8], labs: dict[str, Planes]) -> dict[str, float]:
        motion = flow(self._luma, luma)
        first = next(iter(labs))
        carried = warp(self._before[first][:1], motion)[0]
        followed = np.abs(carried - labs[first][0]) < FOLLOWED
        return {
            name: warp_error(self._before[name], lab, motion, followed)
            for name, lab in labs.items()
        }


def _same_picture(shown: Shown | None, rgb: Tensor) -> Tensor:
    """The original's picture, which is to be as large as `rgb`."""
    if shown is None:
        raise RequestError("the original has fewer frames than the clip")
    other = shown[1]
    if other.shape != rgb.shape:
        raise RequestError(
            f"the original has {other.shape[3]}x{other.shape[2]} pixels and the clip "
            f"{rgb.shape[3]}x{rgb.shape[2]}"
        )
    return other


def _to_planes(rgb: Tensor) -> Planes:
    """What a screen shows of RGB (1,3,H,W), shrunk to `MEASURED_SIDE`, as Lab."""
    with torch.inference_mode():
        shown = rgb.float().cpu().clamp(0, 1)
        factor = MEASURED_SIDE / min(shown.shape[-2:])
        if factor < 1:
            size = [round(side * factor) for side in shown.shape[-2:]]
            shown = F.interpolate(shown, size=size, mode="bilinear", antialias=True)
        return np.asarray(rgb_to_lab(shown)[0].numpy())


def _strength(lab: Planes, original: Planes | None) -> tuple[float, float]:
    """Mean chroma, and mean difference from the original; NaN without one."""
    chroma = float(np.hypot(lab[1], lab[2]).mean())
    if original is None:
        return chroma, math.nan
    difference = ciede2000(np.moveaxis(lab, 0, -1), np.moveaxis(original, 0, -1))
    return chroma, float(difference.mean())


def _means(frames: Sequence[FrameSteadiness]) -> dict[str, ColorSteadiness]:
    names = frames[0].versions
    return {name: mean_of(frame.versions[name] for frame in frames) for name in names}
