"""Picture metrics, defined as the super-resolution literature defines them.

PSNR-Y and SSIM-Y follow BasicSR and the SRGAN paper (Ledig et al. 2017, section 3.1): BT.601 luma
in [16,235], 8-bit pictures, a border of `scale` pixels cropped. The low-res picture is the
antialiased bicubic reduction (MATLAB's imresize), rounded to 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vidsr.errors import RequestError

Picture = NDArray[np.uint8]  # (H, W, 3), RGB
SSIM_WINDOW = 11  # side of the smallest picture that has a similarity


def psnr_y(picture: Picture, original: Picture, *, border: int) -> float:
    """Peak signal-to-noise ratio of the luma in dB; infinite for equal pictures."""
    error = np.mean((luma(picture, border=border) - luma(original, border=border)) ** 2)
    return math.inf if error == 0 else float(10 * np.log10(255.0**2 / error))


def mean_psnr(values: Sequence[float]) -> float:
    """Mean in dB over the finite values: one exactly equal picture must not hide all others."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.inf


def ssim_y(picture: Picture, original: Picture, *, border: int) -> float:
    """Structural similarity of the luma (Wang et al. 2004): 11x11 Gaussian window, sigma 1.5.

    Raises:
        RequestError: scikit-image is not installed.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as exc:
        raise RequestError("SSIM needs scikit-image: pip install 'vidsr[train]'") from exc

    similarity = structural_similarity(  # type: ignore[no-untyped-call]
        luma(picture, border=border),
        luma(original, border=border),
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(similarity)


def luma(picture: Picture, *, border: int) -> NDArray[np.float64]:
    """BT.601 luma in [16,235], not rounded, with `border` pixels cut off on each side."""
    inner = picture[border : picture.shape[0] - border, border : picture.shape[1] - border]
    red, green, blue = np.moveaxis(inner.astype(np.float64) / 255, -1, 0)
    return np.asarray(16 + 65.481 * red + 128.553 * green + 24.966 * blue)


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
