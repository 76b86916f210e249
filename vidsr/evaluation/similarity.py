"""Similarities that follow the eye more closely than PSNR and SSIM do.

MS-SSIM (Wang, Simoncelli and Bovik 2003), DSS (Balanov et al. 2015) and HaarPSI (Reisenhofer et al.
2018), each with its paper's constants: 1 for equal pictures, less for others. On pictures by GANs
too, the ranks of DSS and HaarPSI agree with people's (0.63 and 0.59 on PIPAL, Gu et al. 2020), as
well as those of metrics that need a trained network do, and better than those of PSNR (0.41).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vidsr.evaluation.metrics import Picture, inner, luma

# Wang et al. 2003, section 3.2: one weight a scale, the finest first.
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_SMALLEST = 11 << (len(MS_SSIM_WEIGHTS) - 1)  # side that leaves the coarsest scale a window

DCT_SIDE = 8
DSS_SIGMA = 1.55  # of the weights over the subbands, in subbands
DSS_WORST = 0.05  # share of a subband's places that is pooled

HAAR_SIDES = (2, 4, 8)  # the last one weighs, the others are compared
HAARPSI_C = 30.0
HAARPSI_ALPHA = 4.2
# NTSC, as HaarPSI's authors round it.
YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def ms_ssim_y(picture: Picture, original: Picture, *, border: int) -> float:
    """SSIM of the luma over five scales: contrast and structure at each, luminance at the last.

    The window is SSIM's (11x11 Gaussian, sigma 1.5); from scale to scale 2x2 pixels are averaged.
    NaN where a side is below `MS_SSIM_SMALLEST`, for with fewer scales it is another metric.
    """
    ours, theirs = (_plane(luma(rgb, border=border)) for rgb in (picture, original))
    if min(ours.shape[-2:]) < MS_SSIM_SMALLEST:
        return math.nan
    product = 1.0
    for number, weight in enumerate(MS_SSIM_WEIGHTS, start=1):
        similarity, structure = _ssim(ours, theirs)
        factor = similarity if number == len(MS_SSIM_WEIGHTS) else structure
        product *= max(factor, 0.0) ** weight
        ours, theirs = F.avg_pool2d(ours, 2), F.avg_pool2d(theirs, 2)
    return product


def dss(picture: Picture, original: Picture, *, border: int) -> float:
    """DCT subband similarity of the luma (Balanov et al. 2015), in [0,255] as its constants need.

    Each subband of an 8x8 DCT is compared by its local variances, the lowest by its correlation
    too; the worst places count; low subbands weigh more.
    """
    ours, theirs = (
        _subbands(_plane((luma(rgb, border=border) - 16) * (255 / 219)))
        for rgb in (picture, original)
    )  # (64, 1, H/8, W/8)
    constant = torch.full((len(ours), 1, 1, 1), 300.0, dtype=ours.dtype)
    constant[0] = 1000.0
    window = gaussian(3, 1.5)
    variance, their_variance, covariance = _moments(ours, theirs, window, padding=1)[2:]
    variance, their_variance = variance.clamp(min=0), their_variance.clamp(min=0)
    geometric = (variance * their_variance).sqrt()
    scores = _worst((2 * geometric + constant) / (variance + their_variance + constant))
    scores[0] *= _worst((covariance + constant) / (geometric + constant))[0]
    weights = _subband_weights()
    return float((scores * weights).sum() / weights.sum())


def haarpsi(picture: Picture, original: Picture, *, border: int) -> float:
    """Haar wavelet perceptual similarity with color (Reisenhofer et al. 2018, equations 10 to 13).

    Luma is compared by its Haar responses at two fine scales and weighed by those at a coarse one;
    I and Q by their 2x2 means. All at half size, which stands for the viewer's distance.
    """
    ours, theirs = (_half_yiq(inner(rgb, border)) for rgb in (picture, original))  # (1,3,H/2,W/2)
    detail, coarse = haar_likeness(ours[:, :1], theirs[:, :1])
    color = _alike(_mean_2x2(ours[:, 1:]), _mean_2x2(theirs[:, 1:])).mean(1, keepdim=True)
    weights = coarse + 1e-12  # a picture without any detail counts evenly
    weights = torch.cat([weights, weights.mean(1, keepdim=True)], dim=1)
    mapped = torch.sigmoid(HAARPSI_ALPHA * torch.cat([detail, color], dim=1))
    score = (mapped * weights).sum() / weights.sum()
    return min(float((torch.logit(score) / HAARPSI_ALPHA) ** 2), 1.0)


def _plane(samples: object) -> Tensor:
    """(H,W) array -> (1,1,H,W) float64."""
    return torch.as_tensor(samples, dtype=torch.float64)[None, None]


def gaussian(side: int, sigma: float) -> Tensor:
    """A row (side,) that sums to one."""
    places = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    row = torch.exp(-(places**2) / (2 * sigma**2))
    return row / row.sum()


def _moments(ours: Tensor, theirs: Tensor, window: Tensor, *, padding: int = 0) -> list[Tensor]:
    """Both means, both variances and the covariance of (N,1,H,W) under a separable window."""
    products = [ours, theirs, ours * ours, theirs * theirs, ours * theirs]
    smooth = F.conv2d(torch.cat(products), window.view(1, 1, -1, 1), padding=(padding, 0))
    smooth = F.conv2d(smooth, window.view(1, 1, 1, -1), padding=(0, padding))
    mean, their_mean, square, their_square, product = smooth.chunk(5)
    return [
        mean,
        their_mean,
        square - mean**2,
        their_square - their_mean**2,
        product - mean * their_mean,
    ]


def _ssim(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Mean of SSIM and of its contrast and structure alone (Wang et al. 2004, equation 13)."""
    mean, their_mean, variance, their_variance, covariance = _moments(
        ours, theirs, gaussian(11, 1.5)
    )
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    structure = (2 * covariance + c2) / (variance + their_variance + c2)
    luminance = (2 * mean * their_mean + c1) / (mean**2 + their_mean**2 + c1)
    return float((luminance * structure).mean()), float(structure.mean())


def _subbands(plane: Tensor) -> Tensor:
    """(1,1,H,W) -> (64,1,H/8,W/8): the orthonormal DCT of each 8x8 block, sorted by frequency."""
    blocks = plane[0, 0].unfold(0, DCT_SIDE, DCT_SIDE).unfold(1, DCT_SIDE, DCT_SIDE)
    frequency = torch.arange(DCT_SIDE, dtype=plane.dtype)[:, None]
    place = torch.arange(DCT_SIDE, dtype=plane.dtype)[None, :]
    basis = torch.cos(math.pi / DCT_SIDE * (place + 0.5) * frequency) * math.sqrt(2 / DCT_SIDE)
    basis[0] = math.sqrt(1 / DCT_SIDE)
    coefficients = basis @ blocks @ basis.T  # (H/8, W/8, 8, 8)
    return coefficients.permute(2, 3, 0, 1).flatten(0, 1)[:, None]


def _subband_weights() -> Tensor:
    """(64,), a Gaussian over the frequencies; hardly weighing subbands are left out."""
    places = (torch.arange(DCT_SIDE, dtype=torch.float64) + 0.5) ** 2
    weights = torch.exp(-(places[:, None] + places[None, :]) / (2 * DSS_SIGMA**2)).flatten()
    return torch.where(weights < 0.01, 0.0, weights)


def _worst(similarity: Tensor) -> Tensor:
    """(64,1,H,W) -> (64,): the mean over each subband's worst places."""
    places = similarity.flatten(1)
    count = max(1, round(DSS_WORST * places.shape[1]))
    return places.topk(count, dim=1, largest=False).values.mean(1)


def _half_yiq(picture: Picture) -> Tensor:
    """(H,W,3) RGB -> (1,3,H/2,W/2) of Y, I, Q in [0,255]; an odd last row or column is left out."""
    rgb = torch.from_numpy(picture.astype("float64")).permute(2, 0, 1)
    yiq = torch.einsum("kc,chw->khw", torch.tensor(YIQ, dtype=torch.float64), rgb)
    return F.avg_pool2d(yiq[None], 2)


def haar_likeness(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """How alike the fine Haar responses of two planes are, and how strong the coarse ones.

    Source: Reisenhofer et al. 2018, equations 6 to 9.

    Args:
        ours: (N,1,H,W) in [0,255].
        theirs: the same.

    Returns:
        Likeness in (0,1] and the weight of each place, (N,2,H,W) both: across and down.
    """
    *fine, coarse = ((_haar(ours, side), _haar(theirs, side)) for side in HAAR_SIDES)
    return torch.stack([_alike(*responses) for responses in fine]).mean(0), torch.maximum(*coarse)


def _haar(plane: Tensor, side: int) -> Tensor:
    """Magnitudes of both Haar responses of one scale, (N,1,H,W) -> (N,2,H,W)."""
    edge = torch.full((side, side), 1 / side, dtype=plane.dtype, device=plane.device)
    edge[side // 2 :] *= -1
    before, after = side // 2 - 1, side // 2
    padded = F.pad(plane, (before, after, before, after))
    return F.conv2d(padded, torch.stack([edge, edge.T])[:, None]).abs()


def _mean_2x2(planes: Tensor) -> Tensor:
    """Magnitudes of the mean of each pixel with its right, lower and lower right neighbor."""
    return F.avg_pool2d(F.pad(planes, (0, 1, 0, 1)), 2, stride=1).abs()


def _alike(ours: Tensor, theirs: Tensor) -> Tensor:
    return (2 * ours * theirs + HAARPSI_C) / (ours**2 + theirs**2 + HAARPSI_C)
