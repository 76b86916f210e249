"""Controls for perceptual gains: what sharpening or noise alone would score at the same PSNR.

A network trained for looks trades fidelity for detail. If an unsharp mask or plain noise on the
fidelity output, with as much PSNR given away, scores as well, then the gain is none.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from vidsr.errors import RequestError
from vidsr.evaluation.metrics import Picture, psnr_y, to_tensor

UNSHARP_SIGMA = 1.2  # pixels
STRONGEST = 1024.0  # by then clipping has set a floor to the PSNR
BISECTIONS = 16  # leave the PSNR 0.001 dB from the target, or nearer


def unsharp_at(picture: Picture, original: Picture, target_psnr: float, *, border: int) -> Picture:
    """The picture plus so much of an unsharp mask that PSNR-Y falls to the target.

    The mask is the picture less its Gaussian blur of `UNSHARP_SIGMA`. Mild sharpening may raise the
    PSNR at first; the strength beyond that counts. A picture at or below the target stays as it is.

    Raises:
        RequestError: no strength reaches the target.
    """
    return _brought_to(target_psnr, picture, picture - _blurred(picture), original, border)


def noise_at(
    picture: Picture, original: Picture, target_psnr: float, *, border: int, seed: int = 0
) -> Picture:
    """The picture plus so much Gaussian noise that PSNR-Y falls to the target.

    The noise is gray, the same in all three channels, so colors stay; the same seed draws the same.
    A picture at or below the target stays as it is.

    Raises:
        RequestError: no strength reaches the target.
    """
    noise = np.random.default_rng(seed).normal(size=(*picture.shape[:2], 1))
    return _brought_to(target_psnr, picture, noise, original, border)


def _brought_to(
    target: float, picture: Picture, direction: NDArray[np.float64], original: Picture, border: int
) -> Picture:
    """The picture moved along a direction, by bisection, until its PSNR-Y is the target."""

    def moved(strength: float) -> Picture:
        return (picture + strength * direction).clip(0, 255).round().astype(np.uint8)

    def above(strength: float) -> bool:
        return psnr_y(moved(strength), original, border=border) > target

    if not above(0):
        return picture
    low, high = 0.0, 0.125
    while above(high):
        low, high = high, 2 * high
        if high > STRONGEST:
            raise RequestError(f"no strength brings the picture to a PSNR-Y of {target:.2f} dB")
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) else (low, middle)
    return moved(high)


def _blurred(picture: Picture) -> NDArray[np.float64]:
    """(H,W,3) codes under a Gaussian of `UNSHARP_SIGMA`; edges are repeated outward."""
    reach = math.ceil(3 * UNSHARP_SIGMA)
    places = torch.arange(-reach, reach + 1, dtype=torch.float64)
    row = torch.exp(-(places**2) / (2 * UNSHARP_SIGMA**2))
    row /= row.sum()
    planes = to_tensor(picture).double().mul(255).transpose(0, 1)  # (3,1,H,W)
    padded = F.pad(planes, (reach,) * 4, mode="replicate")
    smooth = F.conv2d(F.conv2d(padded, row.view(1, 1, -1, 1)), row.view(1, 1, 1, -1))
    return np.asarray(smooth[:, 0].permute(1, 2, 0).numpy())
