"""Picture metrics, defined as the super-resolution literature defines them.

PSNR-Y and SSIM-Y follow BasicSR and the SRGAN paper (Ledig et al. 2017, section 3.1): BT.601 luma
in [16,235], 8-bit pictures, a border of `scale` pixels cropped. The low-res picture is the
antialiased bicubic reduction (MATLAB's imresize), rounded to 8 bits. Line steepness and color shift
are our own: they name what a blurred line and a GAN's cast do, which the others only hint at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vidsr.errors import RequestError

Picture = NDArray[np.uint8]  # (H, W, 3), RGB
SMALLEST_SIDE = 16  # of what all metrics but MS-SSIM and NIQE can measure
LINE_SHARE = 0.05  # of a picture's pixels, at most, are on its lines
LINE_FLOOR = 8.0  # luma codes a pixel; what is flatter is no line
CAST_BLOCK = 16  # side in pixels of the areas whose colors are compared
NEEDS_SCIKIT_IMAGE = "this metric needs scikit-image: pip install 'vidsr[train]'"


def psnr_y(picture: Picture, original: Picture, *, border: int) -> float:
    """Peak signal-to-noise ratio of the luma in dB; infinite for equal pictures."""
    error = np.mean((luma(picture, border=border) - luma(original, border=border)) ** 2)
    return math.inf if error == 0 else float(10 * np.log10(255.0**2 / error))


def mean_psnr(values: Sequence[float]) -> float:
    """Mean in dB over the finite values: one exactly equal picture must not hide all others."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.inf


def ssim_y(picture: Picture, original: Picture, *, border: int) -> float:
    """Structural similarity of the luma, see `gaussian_ssim`.

    Raises:
        RequestError: scikit-image is not installed.
    """
    return gaussian_ssim(luma(picture, border=border), luma(original, border=border))


def gaussian_ssim(picture: NDArray[Any], original: NDArray[Any]) -> float:
    """Structural similarity (Wang et al. 2004): 11x11 Gaussian window, sigma 1.5, values to 255.

    Args:
        picture: (H,W), or (H,W,C) for the mean over the channels.
        original: of the same shape.

    Raises:
        RequestError: scikit-image is not installed.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as exc:
        raise RequestError(NEEDS_SCIKIT_IMAGE) from exc

    similarity = structural_similarity(  # type: ignore[no-untyped-call]
        picture,
        original,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=2 if picture.ndim == 3 else None,
    )
    return float(similarity)


def line_steepness(picture: Picture, original: Picture, *, border: int) -> float:
    """How steep the lines are; 1 is the original's, less is blurred, more is oversharpened.

    Mean gradient magnitude of the luma on the original's line pixels, over the same mean of the
    original. Line pixels are the steepest `LINE_SHARE` of the original as far as they exceed
    `LINE_FLOOR`; NaN without any.
    """
    steepness = _steepness(luma(original, border=border))
    lines = steepness >= max(np.quantile(steepness, 1 - LINE_SHARE), LINE_FLOOR)
    if not lines.any():
        return math.nan
    return float(_steepness(luma(picture, border=border))[lines].mean() / steepness[lines].mean())


def color_shift(picture: Picture, original: Picture, *, border: int) -> float:
    """Mean CIEDE2000 between the averages of blocks of pixels: a cast shows, texture does not.

    Blocks are `CAST_BLOCK` pixels wide and high; what is left over right and below is not counted.

    Raises:
        RequestError: scikit-image is not installed.
    """
    try:
        from skimage.color import deltaE_ciede2000, rgb2lab
    except ImportError as exc:
        raise RequestError(NEEDS_SCIKIT_IMAGE) from exc

    first, second = (
        rgb2lab(_block_means(inner(rgb, border))) for rgb in (picture, original)
    )  # (H/16, W/16, 3)
    difference = deltaE_ciede2000(first, second)  # type: ignore[no-untyped-call]
    return float(difference.mean())


def luma(picture: Picture, *, border: int) -> NDArray[np.float64]:
    """BT.601 luma in [16,235], not rounded, with `border` pixels cut off on each side."""
    red, green, blue = np.moveaxis(inner(picture, border).astype(np.float64) / 255, -1, 0)
    return np.asarray(16 + 65.481 * red + 128.553 * green + 24.966 * blue)


def inner(picture: Picture, border: int) -> Picture:
    """The picture without `border` pixels on each side."""
    return picture[border : picture.shape[0] - border, border : picture.shape[1] - border]


def shrink(high_res: Tensor, scale: int) -> Tensor:
    """Antialiased bicubic reduction of (N,3,H,W) in [0,1] by `scale`, rounded to 8 bits."""
    size = (high_res.shape[-2] // scale, high_res.shape[-1] // scale)
    low_res = F.interpolate(
        high_res, size=size, mode="bicubic", antialias=True, align_corners=False
    )
    return (low_res.clamp(0, 1) * 255).round_().div_(255)


def enlarge(low_res: Tensor, scale: int) -> Tensor:
    """Bicubic enlargement of (N,3,H,W), a = -0.5: the baseline of every table."""
    size = (low_res.shape[-2] * scale, low_res.shape[-1] * scale)
    # torch's plain bicubic has a = -0.75; the antialiased one has MATLAB's a = -0.5, and when
    # enlarging its antialiasing does nothing.
    return F.interpolate(low_res, size=size, mode="bicubic", antialias=True, align_corners=False)


def to_tensor(picture: Picture) -> Tensor:
    """(H,W,3) uint8 -> (1,3,H,W) float32 in [0,1]."""
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float().div_(255)


def to_picture(rgb: Tensor) -> Picture:
    """(1,3,H,W) in [0,1] -> (H,W,3) uint8, clipped and rounded."""
    codes = (rgb[0].float().clamp(0, 1) * 255).round_().to(torch.uint8)
    return np.ascontiguousarray(codes.permute(1, 2, 0).cpu().numpy())


def crop_to_multiple(picture: Picture, scale: int) -> Picture:
    """Cut right and bottom so that both sides divide by `scale`."""
    height, width = picture.shape[:2]
    return picture[: height - height % scale, : width - width % scale]


def _steepness(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gradient magnitude by central differences, codes a pixel."""
    down, across = np.gradient(plane)
    return np.asarray(np.hypot(down, across))


def _block_means(picture: Picture) -> NDArray[np.float64]:
    """(H,W,3) uint8 -> (H/16,W/16,3) in [0,1]."""
    means = F.avg_pool2d(to_tensor(picture).double(), CAST_BLOCK)
    return np.asarray(means[0].permute(1, 2, 0).numpy())
