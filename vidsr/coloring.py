"""Colorize: a stage that gives grey pictures color and leaves their luma alone.

Note [Color is coarse]
~~~~~~~~~~~~~~~~~~~~~~
The network sees the whole picture made small (`WORKING_SIDE` pixels on its short side) and answers
a and b of CIE L*a*b* at half of that. Everything that has to do with color happens at that small
size: steadiness, saturation, the reference's colors, and the step from ab to R'G'B'. The lightness
beside ab is not the grey's own but the one whose luma is that of the picture (a few fixed-point
steps): so a color clip's true ab over its own luma gives its own pixels back.

What is enlarged are the color differences R'-Y', G'-Y', B'-Y', guided by luma (He et al. 2010,
"Guided image filtering"; its coefficients at small size only, as in He and Sun 2015,
arXiv:1505.00996): the enlarged differences plus the detail of the full-size luma times the slope
with which the color follows luma there. The plain guided filter is smooth over its windows and was
worse than no guide at all; here what it would lose is kept. (True ab of pictures made 128 pixels
small, ab at 64, brought back to full size: bilinear 38.0 dB and guided filter of radius 2 36.1 dB
on 30 pictures; bilinear 38.3 dB and this 38.9 dB on every other one of them.)

At full size there is only linear arithmetic, and colors that do not exist at a pixel's luma are
made paler until they do, so that nothing is clipped and Y' stays. The pipeline copies the luma
plane anyway (`keeps_luma`).

Note [Steady color]
~~~~~~~~~~~~~~~~~~~
Colors predicted frame by frame flicker. So ab of the frame before is carried along the motion and
blended in, pixel by pixel, as far as the carried luma agrees with the new one: what agrees keeps
its color, what is newly seen gets a new one. At a cut all is forgotten. At most
`MOST_CARRIED` * `stability` of the past is kept, so after `WARM_UP_FRAMES` frames hardly anything
is left of what was before (0.855 ** 16 = 0.08 at the default): that many frames from before
`--start` are colored too, and not written.

Measured at the default with the network that ships: warp error of ab 0.29, 0.34, 0.34 times that of
frame by frame (Big Buck Bunny, book, Tears of Steel), at 0.98 to 1.00 of its chroma, and over the
last second 0.98 to 1.05.

Frames must therefore come in order, one after the other: the pipeline colors in a stream of its
own, with one worker, before the frames go to the workers that enlarge them (Note [Two slots]).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vidsr.engines.torch_engine import device_errors
from vidsr.errors import RequestError
from vidsr.lab import AB_SCALE, gray_to_l, lab_to_rgb, rgb_to_lab
from vidsr.motion import CutDetector, flow, warp

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vidsr.reuse import Blocks, Parts

    # L (1,1,h,w) in [-1,1], h and w multiples of `MULTIPLE` -> ab (1,2,h/2,w/2) in `AB_SCALE`.
    ColorNetwork = Callable[[Tensor], Tensor]

Tint = Literal["gray", "tint", "color"]

WORKING_SIDE = 128  # pixels on the short side of what the network sees
MULTIPLE = 16  # pixels; what the sides of a working size divide by
MOST_ELONGATED = 4  # long side by short side of a working size at most
BT709_LUMA = (0.2126, 0.7152, 0.0722)
LUMA_STEPS = 3  # fixed-point steps; luma is then right to a tenth of an 8-bit code
GUIDE_REGULARITY = 0.004  # added to luma's variance: where luma is flatter, color ignores it
MOST_CARRIED = 0.95  # share of the past at --stability 1: even then colors do not freeze
DISAGREEMENT = 0.1  # difference of luma, of 1, at which trust falls to 1/e
WARM_UP_FRAMES = 16  # see Note [Steady color]
REFERENCE_SIDE = 256  # pixels that a reference picture is made small to
BANDS = 5  # of lightness, in which colors are compared with a reference's
BAND_PRIOR = 0.02  # share of the picture that the whole counts as in each band
LARGEST_STRETCH = 3.0  # of colors towards a reference's spread


@dataclass(frozen=True)
class Look:
    """How the colors should be."""

    saturation: float = 1.0  # factor on a and b
    strength: float = 1.0  # [0,1]; below 1 the rest is the color, or grey, of the source
    stability: float = 0.9  # [0,1]; 0 colors every frame for itself

    def __post_init__(self) -> None:
        for name, most in (("saturation", 4), ("strength", 1), ("stability", 1)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise RequestError(f"--{name} {value:g} is not between 0 and {most}")


class Colorize:
    """Colors one picture after the other, in their order; see `Stage`.

    The source's own colors, if it has any, are not looked at: a tint is neutralised by that.
    """

    keeps_luma = True
    faulty: Tensor | None = None

    def __init__(
        self,
        network: ColorNetwork,
        *,
        look: Look | None = None,
        reference: Reference | None = None,
        luma_weights: tuple[float, float, float] = BT709_LUMA,
        working_side: int = WORKING_SIDE,
    ) -> None:
        """Make ready.

        Args:
            network: predicts ab; it and the pictures are on one device.
            look: how the colors should be.
            reference: the picture whose colors are to be matched, if any.
            luma_weights: of R', G' and B' in Y', by the matrix of the video; they sum to one.
            working_side: short side in pixels of what the network sees.
        """
        self.look = look or Look()
        self._network = network
        self._reference = reference
        self._weights = luma_weights
        self._side = working_side
        self._steady = SteadyColor(self.look.stability) if self.look.stability else None

    @property
    def holds(self) -> bool:
        """See `Stage`; steady color goes on nearing what the network says of a picture."""
        return self._steady is None

    def reach(self, height: int, width: int) -> int:
        """See `Stage`."""
        return max(height, width)

    def affected(self, changed: Blocks, size: tuple[int, int], beside: int) -> Parts | None:
        """See `Stage`."""
        return None

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Stage`."""
        return height, width

    @torch.inference_mode()
    def __call__(self, rgb: Tensor, parts: Parts | None = None) -> Tensor:
        """See `Stage`; waits for the device where color is kept steady."""
        with device_errors(rgb.device):
            luma = _luma(rgb, self._weights)
            chroma = self._color(luma)
            if self.look.strength < 1:
                chroma = torch.lerp(rgb - luma, chroma, self.look.strength)
            return chroma.add_(luma)

    def redo(self, rgb: Tensor, parts: Parts | None = None) -> Tensor:
        """See `Stage`."""
        return self(rgb)

    def reset(self) -> None:
        """See `Stage`."""
        if self._steady:
            self._steady.reset()

    def _color(self, luma: Tensor) -> Tensor:
        """Color differences (1,3,H,W) of a luma (1,1,H,W)."""
        seen = _shrunk(luma.clamp(0, 1), self._side)
        ab = self._steady(seen, self._predict) if self._steady else self._predict(seen)
        guide = F.avg_pool2d(seen, 2)
        differences = color_differences(guide, ab * self.look.saturation, self._weights)
        return _within_gamut(luma, upsample_guided(differences, guide, luma))

    def _predict(self, luma: Tensor) -> Tensor:
        """A and b (1,2,h/2,w/2) in CIE's units for a luma (1,1,h,w)."""
        lightness = gray_to_l(luma)
        ab = self._network(lightness / 50 - 1).float() * AB_SCALE
        return self._reference.match(F.avg_pool2d(lightness, 2), ab) if self._reference else ab


def working_size(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) that a picture is made small, or large, to: multiples of `MULTIPLE`."""

    def fitted(length: int) -> int:
        wanted = min(side * length / min(height, width), side * MOST_ELONGATED)
        return max(1, round(wanted / MULTIPLE)) * MULTIPLE

    return fitted(height), fitted(width)


def color_differences(
    luma: Tensor, ab: Tensor, weights: tuple[float, float, float] = BT709_LUMA
) -> Tensor:
    """(1,3,h,w) R'-Y', G'-Y', B'-Y' of the color ab (1,2,h,w) whose luma is `luma` (1,1,h,w)."""
    wanted = lightness = gray_to_l(luma)
    for _ in range(LUMA_STEPS):
        reached = _luma(lab_to_rgb(torch.cat((lightness, ab), dim=1)), weights)
        lightness = lightness + wanted - gray_to_l(reached)
    rgb = lab_to_rgb(torch.cat((lightness, ab), dim=1))
    return rgb - _luma(rgb, weights)


def upsample_guided(planes: Tensor, guide: Tensor, luma: Tensor) -> Tensor:
    """Enlarge planes (1,C,h,w) to the size of `luma` (1,1,H,W), along its edges.

    Args:
        planes: what is enlarged.
        guide: luma (1,1,h,w) at their size.
        luma: at full size, about [0,1].
    """
    mean, plane_mean = _box(guide), _box(planes)
    covariance = _box(guide * planes) - mean * plane_mean
    variance = _box(guide * guide) - mean * mean
    slope = _box(covariance / (variance + GUIDE_REGULARITY))
    size = (int(luma.shape[-2]), int(luma.shape[-1]))
    rest = _resized(planes - slope * guide, size)
    return torch.addcmul(rest, _resized(slope, size), luma)


class SteadyColor:
    """Carries ab from picture to picture; see Note [Steady color]."""

    def __init__(self, stability: float) -> None:
        self._most = MOST_CARRIED * stability
        self._cuts = CutDetector()
        self._before: _Remembered | None = None

    def __call__(self, luma: Tensor, predict: Callable[[Tensor], Tensor]) -> Tensor:
        """A and b (1,2,h/2,w/2) of the next picture: `predict(luma)`, kept steady.

        A picture like the one before, to the bit, has its colors, to the bit.

        Args:
            luma: (1,1,h,w) in [0,1].
            predict: called where the picture has changed.
        """
        before = self._before
        if before is not None and torch.equal(before.luma, luma):
            return before.ab
        if before is not None and before.luma.shape != luma.shape:
            self.reset()
        ab = predict(luma)
        codes: NDArray[np.uint8] = luma[0, 0].mul(255).round_().to(torch.uint8).cpu().numpy()
        if not self._cuts.is_cut(codes) and before is not None:
            carried, trust = before.carry(codes, luma)
            ab = torch.lerp(ab, carried, trust * self._most)
        self._before = _Remembered(luma, codes, ab)
        return ab

    def reset(self) -> None:
        """Forget the picture before."""
        self._cuts.reset()
        self._before = None


@dataclass(frozen=True)
class _Remembered:
    """The picture before."""

    luma: Tensor  # (1,1,h,w)
    codes: NDArray[np.uint8]  # (h,w)
    ab: Tensor  # (1,2,h/2,w/2)

    def carry(self, codes: NDArray[np.uint8], luma: Tensor) -> tuple[Tensor, Tensor]:
        """Its ab along the motion to the next picture, and how far to trust it, (1,1,h/2,w/2)."""
        moved = flow(self.codes, codes)
        coarse = F.avg_pool2d(torch.from_numpy(moved).permute(2, 0, 1)[None], 2)[0] / 2
        ab = warp(self.ab[0].cpu().numpy(), coarse.permute(1, 2, 0).numpy())
        seen = warp(self.luma[0].cpu().numpy(), moved)
        difference = (torch.from_numpy(seen)[None].to(luma.device) - luma).abs()
        doubt = _box(F.avg_pool2d(difference, 2)) / DISAGREEMENT
        return torch.from_numpy(ab)[None].to(luma.device), torch.exp(-doubt.square())


class Reference:
    """The colors of a picture: mean and spread of a and b, in bands of lightness.

    Predicted colors are shifted and stretched, band by band, to the same mean and spread (Reinhard
    et al. 2001, "Color transfer between images", in bands). It knows nothing of what is where: a
    reference of the same kind of scene helps, another one tints.
    """

    def __init__(self, rgb: Tensor) -> None:
        """Measure a picture (1,3,H,W), R'G'B' in [0,1]."""
        lab = rgb_to_lab(_shrunk(rgb, REFERENCE_SIDE))
        self._mean, self._spread = _band_statistics(lab[:, 1:], _bands(lab[:, :1]))

    def match(self, lightness: Tensor, ab: Tensor) -> Tensor:
        """A and b (1,2,h,w) with the reference's statistics; `lightness` (1,1,h,w), 0 to 100."""
        bands = _bands(lightness)
        mean, spread = _band_statistics(ab, bands)
        stretch = (self._spread.to(ab) / spread.clamp(min=1e-3)).clamp(max=LARGEST_STRETCH)
        # What each band would do to a pixel, mixed by how much the pixel belongs to each.
        factor = torch.einsum("kc,nkhw->nchw", stretch, bands)
        offset = torch.einsum("kc,nkhw->nchw", self._mean.to(ab) - mean * stretch, bands)
        return ab * factor + offset


def _bands(lightness: Tensor) -> Tensor:
    """(1,1,h,w) -> (1,BANDS,h,w): how much each pixel belongs to each band; they sum to one."""
    centers = torch.linspace(10, 90, BANDS, device=lightness.device)[None, :, None, None]
    step = 80 / (BANDS - 1)
    return (1 - (lightness.clamp(10, 90) - centers).abs() / step).clamp(min=0)


def _band_statistics(ab: Tensor, bands: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (BANDS,2) each; the whole picture counts a little in each."""
    weights = bands + BAND_PRIOR * torch.ones_like(bands)
    total = weights.sum(dim=(2, 3))[0, :, None]
    mean = torch.einsum("nchw,nkhw->kc", ab, weights) / total
    square = torch.einsum("nchw,nkhw->kc", ab * ab, weights) / total
    return mean, (square - mean * mean).clamp(min=0).sqrt()


# ---------------------------------------------------------------- is it in color already?

TINT_SIDE = 64  # pixels that a picture is looked at with
GRAY_CHROMA = 3.0  # mean of hypot(a, b) below which a picture is grey; codecs alone make 1 or 2
TINT_SPREAD = 0.1  # of its mean chroma: how far a tint's colors lie from their curve at most
TINT_NOISE = 2.0  # what noise and codecs add to that
TINT_DEGREE = 3  # of that curve, over lightness
TELLING = (8.0, 96.0)  # lightness of pixels that count: nothing darker or lighter has much color


def tint_of(rgb: Tensor) -> Tint:
    """Whether a picture (1,3,H,W), R'G'B' in [0,1], is grey, tinted (sepia) or in color.

    A tint's color is a smooth function of lightness, and a color picture's is not. A picture of
    nothing but sand or leaves can pass for a tint.
    """
    pixels = rgb_to_lab(_shrunk(rgb, TINT_SIDE)).flatten(2)[0].T
    lightness, ab = pixels[:, :1], pixels[:, 1:]
    telling = ((lightness > TELLING[0]) & (lightness < TELLING[1]))[:, 0]
    lightness, ab = lightness[telling], ab[telling]
    if len(ab) == 0 or (chroma := float(ab.norm(dim=1).mean())) < GRAY_CHROMA:
        return "gray"
    powers = (lightness / 100) ** torch.arange(TINT_DEGREE + 1, device=ab.device)
    curve = powers @ torch.linalg.lstsq(powers, ab).solution
    spread = float((ab - curve).square().sum(dim=1).mean().sqrt())
    return "tint" if spread < math.hypot(TINT_SPREAD * chroma, TINT_NOISE) else "color"


# ---------------------------------------------------------------- small things


def _luma(rgb: Tensor, weights: tuple[float, float, float]) -> Tensor:
    """(1,3,H,W) -> (1,1,H,W)."""
    red, green, blue = weights
    luma = rgb[:, :1] * red
    return luma.add_(rgb[:, 1:2], alpha=green).add_(rgb[:, 2:], alpha=blue)


def _within_gamut(luma: Tensor, differences: Tensor) -> Tensor:
    """Color differences made smaller, all three alike, until R', G' and B' are within [0,1]."""
    gray = luma.clamp(0, 1)
    highest, lowest = differences.amax(1, keepdim=True), differences.amin(1, keepdim=True)
    above = (1 - gray) / highest.clamp(min=1e-6)
    below = gray / (-lowest).clamp(min=1e-6)
    return differences * torch.minimum(above, below).clamp_(max=1)


def _shrunk(planes: Tensor, side: int) -> Tensor:
    """At the `working_size` for `side`."""
    height, width = planes.shape[-2:]
    return _resized(planes, working_size(height, width, side))


def _resized(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, antialiased where it shrinks; where it grows that kernel is five times as fast."""
    return F.interpolate(planes, size=size, mode="bilinear", antialias=True, align_corners=False)


def _box(planes: Tensor) -> Tensor:
    """Mean of 3x3; edges repeat."""
    return F.avg_pool2d(F.pad(planes, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
