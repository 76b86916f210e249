"""Picture metrics of color: how near to the original's, and how much of it there is.

PSNR and SSIM are over R, G and B of 8-bit pictures, nothing cropped. They reward gray, and so does
a mean color difference; colorfulness says what was given away for that. So all of them stand beside
the figures of the gray picture itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vidsr.errors import RequestError
from vidsr.evaluation.metrics import NEEDS_SCIKIT_IMAGE, Picture, gaussian_ssim, to_tensor
from vidsr.lab import rgb_to_lab

Lab = NDArray[np.float32]  # (H, W, 3): CIE L*a*b* under D65, L in [0,100]


@dataclass
class Rendition:
    """One picture and its Lab, which several metrics share."""

    rgb: Picture
    lab: Lab

    @classmethod
    def of(cls, rgb: Picture) -> Rendition:
        """A picture with its Lab."""
        return cls(rgb, to_lab(rgb))


def to_lab(picture: Picture) -> Lab:
    """(H,W,3) uint8 sRGB -> CIE L*a*b*."""
    with torch.inference_mode():
        lab = rgb_to_lab(to_tensor(picture))
    return np.ascontiguousarray(lab[0].permute(1, 2, 0).numpy())


def psnr_rgb(picture: Picture, original: Picture) -> float:
    """Peak signal-to-noise ratio over all three channels in dB; infinite for equal pictures."""
    error = np.mean((picture.astype(np.float32) - original.astype(np.float32)) ** 2, dtype=float)
    return math.inf if error == 0 else float(10 * np.log10(255.0**2 / error))


def ssim_rgb(picture: Picture, original: Picture) -> float:
    """Mean of the channels' structural similarities, see `metrics.gaussian_ssim`.

    Raises:
        RequestError: scikit-image is not installed.
    """
    return gaussian_ssim(picture, original)


def ciede2000(lab: Lab, original: Lab) -> NDArray[np.float64]:
    """Color difference of each pixel (Sharma, Wu and Dalal 2005), (H,W).

    Raises:
        RequestError: scikit-image is not installed.
    """
    try:
        from skimage.color import deltaE_ciede2000
    except ImportError as exc:
        raise RequestError(NEEDS_SCIKIT_IMAGE) from exc

    return np.asarray(deltaE_ciede2000(lab, original))  # type: ignore[no-untyped-call]


def colorfulness(picture: Picture) -> float:
    """Hasler and Suesstrunk 2003, equation for M3: zero for gray, 45 for a usual photograph.

    The means of both opponent channels keep their signs, as in the paper; means of magnitudes, as
    some code has them, are larger.
    """
    red, green, blue = np.moveaxis(picture.astype(np.float32), -1, 0)
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    deviation, mean = opponents.std(axis=(1, 2)), opponents.mean(axis=(1, 2))
    return float(np.hypot(*deviation) + 0.3 * np.hypot(*mean))
