"""Stages over a benchmark folder: every metric of every picture, beside bicubic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vidsr.errors import MediaError, RequestError
from vidsr.evaluation.metrics import (
    SMALLEST_SIDE,
    Picture,
    color_shift,
    crop_to_multiple,
    enlarge,
    line_steepness,
    psnr_y,
    shrink,
    ssim_y,
    to_picture,
    to_tensor,
)
from vidsr.evaluation.niqe import NaturalModel, niqe, shipped_model
from vidsr.evaluation.scores import mean_of, plain, to_json
from vidsr.evaluation.similarity import dss, haarpsi, ms_ssim_y
from vidsr.media import roundtrip
from vidsr.media.encoders import LARGEST_CRF

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
BICUBIC = "bicubic"  # the stage that is always measured
PARTS = {"train", "val", "test"}  # folders that only their parent gives a meaning

Enlarge = Callable[[Tensor], Tensor]  # (1,3,H,W) fp32 in [0,1] on the CPU -> scale times as large


@dataclass(frozen=True)
class Scores:
    """How near an enlargement comes to its original; NaN where the picture has nothing to measure.

    Each is defined where it is computed: `metrics`, `similarity`, `niqe`.
    """

    psnr_y: float  # dB; infinite if equal
    ssim_y: float
    ms_ssim_y: float  # NaN for pictures below 176 pixels
    dss: float
    haarpsi: float
    niqe: float  # needs no original; less is more natural; NaN for small and flat pictures
    line_steepness: float  # 1 is the original's; NaN without lines
    color_shift: float  # CIEDE2000; less is better


@dataclass(frozen=True)
class PictureScores:
    """One picture's scores by stage, bicubic first."""

    name: str  # path within the folder, with forward slashes
    stages: dict[str, Scores]


@dataclass(frozen=True)
class UpscaleReport:
    """The scores of a whole folder."""

    data: str  # the folder, as `set_name` calls it
    scale: int
    codec: str  # what the low-res pictures went through, such as "h264 crf 28"; "" for nothing
    pictures: tuple[PictureScores, ...]  # at least one, in the order of their names

    @property
    def name(self) -> str:
        """What was measured: the folder and the codec."""
        return f"{self.data}, {self.codec}" if self.codec else self.data

    @property
    def mean(self) -> dict[str, Scores]:
        """By stage, the means over those pictures where a score is finite."""
        names = self.pictures[0].stages
        return {name: mean_of(picture.stages[name] for picture in self.pictures) for name in names}

    def to_dict(self) -> dict[str, object]:
        """Plain values; what is not finite, which JSON cannot say, is None."""
        return {
            "data": self.data,
            "scale": self.scale,
            "codec": self.codec or None,
            "mean": _plain(self.mean),
            "pictures": [
                {"name": picture.name, **_plain(picture.stages)} for picture in self.pictures
            ],
        }

    def to_json(self) -> str:
        """Indented JSON of `to_dict`."""
        return to_json(self.to_dict())


@dataclass(frozen=True)
class CodecRequest:
    """What the low-res pictures go through before they are enlarged."""

    codec: roundtrip.Codec
    crf: float  # constant rate factor on the encoder's own scale

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= LARGEST_CRF:
            raise RequestError(f"--crf {self.crf:g}: {self.codec} takes 0 (best) to {LARGEST_CRF}")

    def __str__(self) -> str:
        return f"{self.codec} crf {self.crf:g}"

    @property
    def smallest_side(self) -> int:
        """In low-res pixels."""
        return roundtrip.SMALLEST_SIDE[self.codec]


@dataclass
class Comparison:
    """One picture as every stage made it, for eyes and metrics."""

    name: str
    low_res: Picture  # what the stages were given
    original: Picture  # cropped to a multiple of the scale
    outputs: dict[str, Picture]  # by stage, bicubic first; each of the original's size


def evaluate_upscale(
    stages: Mapping[str, Enlarge],
    scale: int,
    folder: Path,
    *,
    codec: CodecRequest | None = None,
    show: Callable[[Comparison], None] | None = None,
) -> Iterator[PictureScores | UpscaleReport]:
    """Measure the stages, and bicubic, on every picture of a folder.

    Args:
        stages: as in `compare_stages`.
        scale: of all stages; as many pixels are left out at each border.
        folder: pictures, at any depth; their number is `len(picture_paths(folder))`.
        codec: as in `compare_stages`.
        show: gets each picture as the stages made it.

    Returns:
        An iterator of the scores of each picture as it is measured; its last item is the report.

    Raises:
        RequestError: as in `compare_stages`.
        MediaError: as in `compare_stages`.
    """
    comparisons = compare_stages(stages, scale, folder, codec=codec)
    return _evaluate(
        comparisons, UpscaleReport(set_name(folder), scale, str(codec or ""), ()), show
    )


def compare_stages(
    stages: Mapping[str, Enlarge], scale: int, folder: Path, *, codec: CodecRequest | None = None
) -> Iterator[Comparison]:
    """Shrink every picture of a folder and enlarge it by each stage and by bicubic.

    With a codec, the low-res picture goes through its encoder and decoder (4:2:0, one key frame)
    before any stage, bicubic too, gets it. Sides must then be even, so the original is cropped to a
    multiple of twice the scale.

    Args:
        stages: by name, each (1,3,H,W) fp32 in [0,1] on the CPU -> (1,3,H*scale,W*scale) on any
            device.
        scale: of all stages.
        folder: pictures, at any depth.
        codec: see above; None leaves the low-res picture clean.

    Returns:
        An iterator in the order of the pictures' names; the folder is looked at right away.

    Raises:
        RequestError: no pictures, pictures too small, or a stage of another scale.
        MediaError: a picture cannot be read (a benchmark that lacks one is another benchmark), or
            the codec failed.
    """
    paths = picture_paths(folder)
    if not paths:
        raise RequestError(f"{folder}: no pictures in this folder or below it")
    named = {BICUBIC: lambda low_res: enlarge(low_res, scale), **stages}
    return (
        _compare(named, scale, codec, path, path.relative_to(folder).as_posix()) for path in paths
    )


def score(output: Picture, original: Picture, model: NaturalModel, *, border: int) -> Scores:
    """Every metric of one picture, without `border` pixels on each side."""
    return Scores(
        psnr_y=psnr_y(output, original, border=border),
        ssim_y=ssim_y(output, original, border=border),
        ms_ssim_y=ms_ssim_y(output, original, border=border),
        dss=dss(output, original, border=border),
        haarpsi=haarpsi(output, original, border=border),
        niqe=niqe(output, model, border=border),
        line_steepness=line_steepness(output, original, border=border),
        color_shift=color_shift(output, original, border=border),
    )


def set_name(folder: Path) -> str:
    """What a benchmark folder is called: Set5, but photo/val."""
    folder = folder.resolve()
    return f"{folder.parent.name}/{folder.name}" if folder.name in PARTS else folder.name


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
    comparisons: Iterator[Comparison],
    empty: UpscaleReport,
    show: Callable[[Comparison], None] | None,
) -> Iterator[PictureScores | UpscaleReport]:
    model, pictures = shipped_model(), []
    for comparison in comparisons:
        if show:
            show(comparison)
        scores = {
            stage: score(output, comparison.original, model, border=empty.scale)
            for stage, output in comparison.outputs.items()
        }
        pictures.append(PictureScores(comparison.name, scores))
        yield pictures[-1]
    yield replace(empty, pictures=tuple(pictures))


def _compare(
    stages: Mapping[str, Enlarge],
    scale: int,
    codec: CodecRequest | None,
    path: Path,
    name: str,
) -> Comparison:
    original = crop_to_multiple(read_picture(path), 2 * scale if codec else scale)
    least = max(SMALLEST_SIDE + 2 * scale, codec.smallest_side * scale if codec else 0)
    if min(original.shape[:2]) < least:
        raise RequestError(
            f"{path}: too small a picture to be measured at scale {scale}"
            f"{f' through {codec.codec}' if codec else ''}; {least} pixels a side are the least"
        )
    with torch.inference_mode():
        low_res = to_picture(shrink(to_tensor(original), scale))
        if codec:
            low_res = roundtrip.round_trip([low_res], codec=codec.codec, crf=codec.crf)[0]
        given = to_tensor(low_res)
        outputs = {stage: to_picture(run(given)) for stage, run in stages.items()}
    for stage, output in outputs.items():
        if output.shape != original.shape:
            raise RequestError(
                f"{stage} made {output.shape[1]}x{output.shape[0]} pixels of {name} where scale "
                f"{scale} needs {original.shape[1]}x{original.shape[0]}; evaluate it at its own "
                "scale"
            )
    return Comparison(name, low_res, original, outputs)


def _plain(stages: dict[str, Scores]) -> dict[str, dict[str, float | None]]:
    return {stage: plain(asdict(scores)) for stage, scores in stages.items()}
