"""NIQE: how unlike natural photographs a picture is, without its original.

Mittal, Soundararajan and Bovik, "Making a completely blind image quality analyzer", 2013. The
features of 96x96 blocks of luma are described by a Gaussian, which is compared with that of good
pictures.

The Gaussian that ships (`niqe.npz`) is our own, fitted on our own photographs, so the figures are
not those of the published parameters, and drawings lie far from it. `vidsr evaluate fit-niqe`
fits another.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vidsr.errors import MediaError, ModelError, RequestError
from vidsr.evaluation.metrics import Picture, luma
from vidsr.files import appearing

BLOCK = 96  # pixels
SHARP = 0.75  # of a picture's sharpest block: blurred background is no example (section II.D)
FEATURES = 36  # 18 at each of two scales
FEWEST_BLOCKS = 10 * FEATURES  # that say something of a covariance


@dataclass(frozen=True, eq=False)
class NaturalModel:
    """The Gaussian of good pictures."""

    mean: NDArray[np.float64]  # (36,)
    covariance: NDArray[np.float64]  # (36, 36)
    about: str  # what it was fitted on

    @classmethod
    def read(cls, path: Path) -> NaturalModel:
        """Read a fitted model, executing nothing.

        Raises:
            ModelError: missing, or not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                model = cls(arrays["mean"], arrays["covariance"], str(arrays["about"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as exc:
            raise ModelError(f"{path} is not a fitted NIQE model ({exc})") from exc
        if model.mean.shape != (FEATURES,) or model.covariance.shape != (FEATURES, FEATURES):
            raise ModelError(f"{path} is not a NIQE model of {FEATURES} features")
        return model

    def write(self, path: Path) -> None:
        """Write it as a plain npz.

        Raises:
            MediaError: the file cannot be written.
        """
        try:
            with appearing(path) as part, part.open("wb") as file:
                np.savez(file, mean=self.mean, covariance=self.covariance, about=self.about)
        except OSError as exc:
            raise MediaError(f"{path}: cannot be written ({exc.strerror or exc})") from exc


def shipped_model() -> NaturalModel:
    """The model that ships with vidsr."""
    with resources.as_file(resources.files("vidsr.evaluation") / "niqe.npz") as path:
        return NaturalModel.read(path)


def niqe(picture: Picture, model: NaturalModel, *, border: int) -> float:
    """Distance to the model (equation 10): about 2 to 4 for good photographs, more for worse.

    NaN where fewer than two blocks have a texture to measure.
    """
    features, _ = _block_features(luma(picture, border=border).round())
    if len(features) < 2:
        return math.nan
    gap = model.mean - features.mean(0).numpy()
    covariance = (model.covariance + torch.cov(features.T).numpy()) / 2
    return float(np.sqrt(gap @ np.linalg.pinv(covariance, hermitian=True) @ gap))


def fit(pictures: Iterable[Picture], about: str) -> NaturalModel:
    """The model of good pictures: mean and covariance over their sharp blocks.

    Raises:
        RequestError: too few blocks for a covariance.
    """
    kept = [torch.empty(0, FEATURES, dtype=torch.float64)]
    for picture in pictures:
        features, sharpness = _block_features(luma(picture, border=0).round())
        if len(features):
            kept.append(features[sharpness > SHARP * sharpness.max()])
    blocks = torch.cat(kept)
    if len(blocks) < FEWEST_BLOCKS:
        raise RequestError(
            f"only {len(blocks)} sharp blocks of {BLOCK}x{BLOCK} pixels in these pictures; NIQE "
            f"needs {FEWEST_BLOCKS} to be fitted"
        )
    mean, covariance = blocks.mean(0).numpy(), torch.cov(blocks.T).numpy()
    return NaturalModel(mean, covariance, f"{len(blocks)} sharp blocks of {about}")


def _block_features(plane: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Luma (H,W) -> features (N,36) and sharpness (N,) of its blocks that are not flat."""
    height, width = (side - side % BLOCK for side in plane.shape)
    if not height or not width:
        return torch.empty(0, FEATURES, dtype=torch.float64), torch.empty(0, dtype=torch.float64)
    full = torch.from_numpy(plane[:height, :width].copy())[None, None]
    half = F.interpolate(
        full, size=(height // 2, width // 2), mode="bicubic", antialias=True, align_corners=False
    )
    normal, deviation = _normalize(full)
    half_normal, _ = _normalize(half)
    features = torch.cat(
        [_features(_blocks(normal, BLOCK)), _features(_blocks(half_normal, BLOCK // 2))], dim=1
    )
    textured = features.isfinite().all(dim=1)
    return features[textured], _blocks(deviation, BLOCK).mean((1, 2))[textured]


def _normalize(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Luma less its local mean over its local deviation (equation 1), and that deviation."""
    places = torch.arange(-3, 4, dtype=plane.dtype)
    row = torch.exp(-(places**2) / (2 * (7 / 6) ** 2))
    row /= row.sum()
    padded = F.pad(torch.cat([plane, plane**2]), (3, 3, 3, 3), mode="replicate")
    mean, square = F.conv2d(F.conv2d(padded, row.view(1, 1, 7, 1)), row.view(1, 1, 1, 7))
    deviation = (square - mean**2).abs().sqrt()
    return ((plane[0] - mean) / (deviation + 1))[0], deviation[0]


def _blocks(plane: Tensor, side: int) -> Tensor:
    """(H,W) -> (N,side,side)."""
    return plane.unfold(0, side, side).unfold(1, side, side).reshape(-1, side, side)


def _features(blocks: Tensor) -> Tensor:
    """(N,side,side) of normalized luma -> (N,18): its distribution, and its neighbors' products."""
    shape, left, right = _fit_asymmetric(blocks)
    features = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = _fit_asymmetric(blocks * blocks.roll(shift, dims=(1, 2)))
        mean = (right - left) * torch.exp(torch.lgamma(2 / shape) - torch.lgamma(1 / shape))
        features += [shape, mean, left, right]
    return torch.stack(features, dim=1)


def _fit_asymmetric(samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape, left and right scale of an asymmetric generalized Gaussian (equation 7), each (N,).

    By moments (Lasmar, Stitou and Berthoumieu 2009). Not finite where a block is flat.
    """
    flat = samples.flatten(1)
    square = flat**2
    below, above = flat < 0, flat > 0
    left = ((square * below).sum(1) / below.sum(1)).sqrt()
    right = ((square * above).sum(1) / above.sum(1)).sqrt()
    skew = left / right
    ratio = flat.abs().mean(1) ** 2 / square.mean(1)
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = _shape_of(ratio)
    spread = torch.exp((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2)
    return shape, left * spread, right * spread


def _shape_of(ratio: Tensor) -> Tensor:
    """The shape of a generalized Gaussian by the ratio of its moments, by a table: (N,) -> (N,)."""
    shapes = torch.arange(0.2, 10.0005, 0.001, dtype=ratio.dtype)
    ratios = torch.exp(
        2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes)
    )
    return shapes[torch.searchsorted(ratios, ratio).clamp(max=len(shapes) - 1)]
