"""A stage over a benchmark folder: PSNR-Y and SSIM-Y of every picture, beside bicubic."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vidsr.errors import MediaError, RequestError
from vidsr.evaluation.metrics import (
    SSIM_WINDOW,
    Picture,
    crop_to_multiple,
    enlarge,
    mean_psnr,
    psnr_y,
    shrink,
    ssim_y,
    to_picture,
    to_tensor,
)

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class PictureScore:
    """How near one picture's enlargement comes to its original."""

    name: str  # path within the folder, with forward slashes
    psnr_y: float  # dB; infinite if equal
    ssim_y: float
    bicubic_psnr_y: float
    bicubic_ssim_y: float


@dataclass(frozen=True)
class UpscaleReport:
    """The scores of a whole folder."""

    scale: int
    scores: tuple[PictureScore, ...]  # at least one, in the order of their names

    @property
    def mean(self) -> PictureScore:
        """The mean over all pictures, under the name "mean"."""
        count = len(self.scores)
        return PictureScore(
            "mean",
            mean_psnr([score.psnr_y for score in self.scores]),
            sum(score.ssim_y for score in self.scores) / count,
            mean_psnr([score.bicubic_psnr_y for score in self.scores]),
            sum(score.bicubic_ssim_y for score in self.scores) / count,
        )

    def to_json(self) -> str:
        """Indented JSON; an infinite PSNR, which JSON cannot say, is null."""
        content = {
            "scale": self.scale,
            "mean": _finite(self.mean),
            "pictures": [_finite(score) for score in self.scores],
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)


def evaluate_upscale(
    stage: Callable[[Tensor], Tensor], scale: int, folder: Path
) -> Iterator[PictureScore | UpscaleReport]:
    """Shrink every picture of a folder, enlarge it by `stage`, and measure against the original.

    Args:
        stage: (1,3,H,W) fp32 in [0,1] on the CPU -> (1,3,H*scale,W*scale) on any device.
        scale: of the stage.
        folder: pictures, at any depth; their number is `len(picture_paths(folder))`.

    Returns:
        An iterator of one score per picture as it is measured; its last item is the report.

    Raises:
        RequestError: no pictures, pictures too small, or a stage of another scale.
        MediaError: a picture cannot be read; a benchmark that lacks one is another benchmark.
    """
    paths = picture_paths(folder)
    if not paths:
        raise RequestError(f"{folder}: no pictures in this folder or below it")
    return _evaluate(stage, scale, folder, paths)


def picture_paths(folder: Path) -> list[Path]:
    """The picture files below a folder, sorted.

    Raises:
        RequestError: no such folder.
    """
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such folder of pictures")
    files = (path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    return sorted(path for path in files if path.is_file())


def read_picture(path: Path) -> Picture:
    """An 8-bit picture as RGB, as stored: no rotation, no color profile, alpha dropped.

    Gray becomes three equal channels, as in BasicSR. Then Y spans [16,235] like everyone's, while
    MATLAB code takes the gray itself in [0,255]: such a picture scores 1.3 dB lower there.

    Raises:
        MediaError: not a readable picture, or more than 8 bits a sample.
    """
    try:
        with Image.open(path) as image:
            # Pillow's way from these to RGB clips instead of scaling.
            if image.mode == "F" or image.mode.startswith("I"):
                raise MediaError(f"{path}: only pictures of 8 bits can be used (mode {image.mode})")
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise MediaError(f"{path}: not a readable picture ({exc})") from exc


def _evaluate(
    stage: Callable[[Tensor], Tensor], scale: int, folder: Path, paths: list[Path]
) -> Iterator[PictureScore | UpscaleReport]:
    scores = []
    for path in paths:
        original = crop_to_multiple(read_picture(path), scale)
        if min(original.shape[:2]) < SSIM_WINDOW + 2 * scale:
            raise RequestError(f"{path}: too small a picture to be measured at scale {scale}")
        scores.append(_score(path.relative_to(folder).as_posix(), original, stage, scale))
        yield scores[-1]
    yield UpscaleReport(scale, tuple(scores))


def _score(
    name: str, original: Picture, stage: Callable[[Tensor], Tensor], scale: int
) -> PictureScore:
    with torch.inference_mode():
        low_res = shrink(to_tensor(original), scale)
        output = to_picture(stage(low_res))
        bicubic = to_picture(enlarge(low_res, scale))
    if output.shape != original.shape:
        raise RequestError(
            f"the model made {output.shape[1]}x{output.shape[0]} pixels of {name} where scale "
            f"{scale} needs {original.shape[1]}x{original.shape[0]}; evaluate it at its own scale"
        )
    return PictureScore(
        name,
        psnr_y(output, original, border=scale),
        ssim_y(output, original, border=scale),
        psnr_y(bicubic, original, border=scale),
        ssim_y(bicubic, original, border=scale),
    )


def _finite(score: PictureScore) -> dict[str, object]:
    facts = asdict(score).items()
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in facts}
