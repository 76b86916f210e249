"""CIE L*a*b* under D65 and back, for tensors: differentiable, and nothing is clipped.

Sources: IEC 61966-2-1 for sRGB's transfer curve and primaries, CIE 15:2004, section 8.2.1, for
L*a*b*.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

AB_SCALE = 110.0  # networks see a and b divided by this: all of sRGB then lies within [-1,1]

# Linear R, G, B -> X, Y, Z. Each row is divided by its sum, the white point, before it is used.
_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_DELTA = 6 / 29  # where CIE's cube root turns into a straight line


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """R'G'B' (N,3,H,W) of sRGB, about [0,1] -> L (0 to 100), a and b (about ±110), (N,3,H,W).

    Values outside of [0,1] go through: below 0 the transfer curve is extended as an odd function.
    """
    xyz = torch.einsum("ij,njhw->nihw", _to_xyz(rgb.dtype, rgb.device), _to_linear(rgb))
    x, y, z = _root(xyz).unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of `rgb_to_lab`; colors that sRGB does not have leave [0,1]."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    xyz = _cube(torch.stack((y + a / 500, y, y - b / 200), dim=1))
    return _to_gamma(torch.einsum("ij,njhw->nihw", _from_xyz(lab.dtype, lab.device), xyz))


def gray_to_l(gray: Tensor) -> Tensor:
    """The lightness of R' = G' = B' = `gray`: (N,1,H,W), about [0,1] -> 0 to 100."""
    return 116 * _root(_to_linear(gray)) - 16


def _to_linear(gamma: Tensor) -> Tensor:
    size = gamma.abs()
    bent = ((size.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(size <= 0.04045, gamma / 12.92, bent.copysign(gamma))


def _to_gamma(linear: Tensor) -> Tensor:
    size = linear.abs()
    bent = 1.055 * size.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(size <= 0.0031308, linear * 12.92, bent.copysign(linear))


def _root(ratio: Tensor) -> Tensor:
    # Without the clamp the gradient of the power, though not chosen, would be NaN at 0.
    root = ratio.clamp(min=_DELTA**3) ** (1 / 3)
    return torch.where(ratio > _DELTA**3, root, ratio / (3 * _DELTA**2) + 4 / 29)


def _cube(root: Tensor) -> Tensor:
    return torch.where(root > _DELTA, root**3, 3 * _DELTA**2 * (root - 4 / 29))


# Kept for all callers, so never as tensors of inference mode, which no training could use.


@cache
@torch.inference_mode(mode=False)
def _to_xyz(dtype: torch.dtype, device: torch.device) -> Tensor:
    matrix = torch.tensor(_TO_XYZ, dtype=torch.float64)
    return (matrix / matrix.sum(1, keepdim=True)).to(device, dtype)


@cache
@torch.inference_mode(mode=False)
def _from_xyz(dtype: torch.dtype, device: torch.device) -> Tensor:
    matrix = torch.tensor(_TO_XYZ, dtype=torch.float64)
    inverse: Tensor = torch.linalg.inv(matrix / matrix.sum(1, keepdim=True))
    return inverse.to(device, dtype)
