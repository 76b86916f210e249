"""Image folders -> batches of lightness and the colors that belong to it.

Note [What the colorizer sees]
~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~
A picture is made small once (`side` pixels on its short side) and kept as 8-bit sRGB. Each time it
is drawn, another part of it, of another size and aspect, is resized to the square patch and may be
mirrored, but never turned: the sky is above. Then it becomes L*a*b* (D65). The input is L*/50 - 1,
in [-1,1]; the target a*/110 and b*/110, averaged over 2x2 pixels. A network of some millions of
weights knows a few thousand pictures by heart after 25 passes, so the input alone is changed as
cameras, film and compression change it: channels mixed as by another emulsion, gamma, contrast,
blur, grain and JPEG. The colors stay. And two pictures may be shown at once (`mixed`): with that a
training had not got worse after 70 passes.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from vidsr.errors import MediaError
from vidsr.evaluation.chroma import colorfulness
from vidsr.evaluation.evaluate import picture_paths
from vidsr.evaluation.metrics import Picture
from vidsr.lab import AB_SCALE, gray_to_l, rgb_to_lab
from vidsr.training.data import usable
from vidsr.training.degradation import Dice

log = logging.getLogger("vidsr.training")

GRAY = 5.0  # colorfulness below which a picture has nothing to teach; a faint tint has that much
_AREA = (0.35, 1.0)  # share of the picture that a patch shows
_ASPECT = 1.3  # how far a patch may be stretched, either way
_MULTIPLE = 16  # sides of whole pictures, as the generator wants them
_LUMA = (0.299, 0.587, 0.114)  # BT.601


@dataclass(frozen=True)
class ColorCrops:
    """Random parts of pictures; the same generator state gives the same batches."""

    pictures: list[Tensor]  # each (3,H,W) uint8, small; on the CPU
    patch: int  # side of the input in pixels; even
    batch: int
    aged: float = 1.0  # share whose lightness went through camera, film and file; see the Note
    mixed: float = 0.0  # share that is joined with another

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """L (N,1,p,p) in [-1,1] and ab (N,2,p/2,p/2) in units of AB_SCALE, fp32."""
        dice = Dice(generator)
        rgb = torch.cat([self._crop(dice) for _ in range(self.batch)]).float().div_(255)
        rgb = self._mixed(rgb, dice)
        lab = rgb_to_lab(rgb)
        lightness = torch.cat(
            [self._seen(rgb[n : n + 1], lab[n : n + 1, :1], dice) for n in range(self.batch)]
        )
        return network_input(lightness * 100), network_target(lab)

    def _mixed(self, rgb: Tensor, dice: Dice) -> Tensor:
        """(N,3,p,p) in [0,1], some of which show the one before them too.

        Through them (mixup, Zhang et al. 2018, arXiv:1710.09412) or in a rectangle (CutMix, Yun et
        al. 2019, arXiv:1905.04899).
        """
        mixed = rgb.clone()
        for number in range(len(rgb)):
            if dice.happens(self.mixed):
                mine, other = mixed[number], rgb[number - 1]
                if dice.happens(0.5):
                    mine.lerp_(other, dice.uniform(0, 0.5))
                else:
                    rows, columns = (_stretch(self.patch, dice) for _ in range(2))
                    mine[:, rows, columns] = other[:, rows, columns]
        return mixed

    def _seen(self, rgb: Tensor, own: Tensor, dice: Dice) -> Tensor:
        """The lightness (1,1,p,p) in [0,1] that stands for one part."""
        if dice.happens(self.aged):
            return _aged(_exposed(rgb, own, dice), dice)
        return _brightened(own / 100, dice)

    def _crop(self, dice: Dice) -> Tensor:
        """(1,3,p,p) uint8."""
        picture = self.pictures[dice.below(len(self.pictures))]
        height, width = picture.shape[-2:]
        aspect = math.exp(dice.uniform(-1, 1) * math.log(_ASPECT))
        side = math.sqrt(height * width * dice.uniform(*_AREA))
        rows, columns = (
            max(1, min(height, round(side / math.sqrt(aspect)))),
            max(1, min(width, round(side * math.sqrt(aspect)))),
        )
        top, left = dice.below(height - rows + 1), dice.below(width - columns + 1)
        part = picture[None, :, top : top + rows, left : left + columns]
        part = part.flip(-1) if dice.happens(0.5) else part
        return F.interpolate(
            part, size=(self.patch,) * 2, mode="bilinear", antialias=True, align_corners=False
        )


def _stretch(length: int, dice: Dice) -> slice:
    """A quarter to three quarters of a side, somewhere."""
    extent = round(length * dice.uniform(0.25, 0.75))
    start = dice.below(length - extent + 1)
    return slice(start, start + extent)


def network_input(lightness: Tensor) -> Tensor:
    """L*, 0 to 100 -> [-1,1]."""
    return lightness / 50 - 1


def network_target(lab: Tensor) -> Tensor:
    """L*a*b* (N,3,h,w) of even sides -> ab (N,2,h/2,w/2) in units of AB_SCALE."""
    return F.avg_pool2d(lab[:, 1:], 2) / AB_SCALE


def load_small(
    folders: Sequence[Path], *, side: int, least_colorfulness: float = GRAY
) -> list[Tensor]:
    """Every colored picture below the folders as (3,H,W) uint8, its short side `side` pixels.

    Gray, broken and smaller pictures are left out, counted and, where they are broken, named in the
    log.

    Raises:
        RequestError: a folder is missing, or nothing usable is in them.
    """
    paths = [path for folder in folders for path in picture_paths(folder)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        loaded = list(pool.map(lambda path: _load(path, side, least_colorfulness), paths))
    return usable(loaded, f"picture in color of at least {side}x{side} pixels", folders)


def read_small(path: Path, side: int) -> Picture | None:
    """An upright picture with a short side of `side` pixels; None if it is smaller.

    Raises:
        MediaError: not a readable picture.
    """
    try:
        with Image.open(path) as image:
            if image.mode == "F" or image.mode.startswith("I"):
                raise MediaError(f"{path}: only pictures of 8 bits can be used (mode {image.mode})")
            image.draft("RGB", (side, side))  # a JPEG is then decoded at a fraction of its size
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise MediaError(f"{path}: not a readable picture ({exc})") from exc
    scale = side / min(upright.size)
    if scale > 1:
        return None
    size = (max(side, round(upright.width * scale)), max(side, round(upright.height * scale)))
    small = upright.resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.LANCZOS)
    return np.array(small)


def whole_pair(picture: Tensor) -> tuple[Tensor, Tensor]:
    """A whole picture (3,H,W) uint8 -> its clean L (1,1,h,w) and its L*a*b* (1,3,h/2,w/2).

    Its sides are stretched to the nearest multiples of 16.
    """
    height, width = (max(1, round(side / _MULTIPLE)) * _MULTIPLE for side in picture.shape[-2:])
    resized = F.interpolate(
        picture[None], size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )
    lab = rgb_to_lab(resized.float().div_(255))
    return network_input(lab[:, :1]), F.avg_pool2d(lab, 2)


def _load(path: Path, side: int, least_colorfulness: float) -> Tensor | None:
    try:
        picture = read_small(path, side)
    except MediaError as exc:
        log.warning("skipped %s", exc)
        return None
    if picture is None or colorfulness(picture) < least_colorfulness:
        return None
    return torch.from_numpy(picture).permute(2, 0, 1).contiguous()


def _exposed(rgb: Tensor, own: Tensor, dice: Dice) -> Tensor:
    """The picture's own L*, or L* of a gray that an emulsion of other sensitivities gave; [0,1]."""
    if not dice.happens(0.3):
        return own / 100
    weights = torch.tensor([weight + dice.uniform(0, 0.4) for weight in _LUMA])
    gray = (rgb * (weights / weights.sum())[:, None, None]).sum(1, keepdim=True)
    return gray_to_l(gray) / 100


def _aged(lightness: Tensor, dice: Dice) -> Tensor:
    """What camera, film and file did to a lightness (1,1,H,W) in [0,1]."""
    lightness = _brightened(lightness, dice)
    if dice.happens(0.5):
        lightness = (lightness - 0.5) * dice.uniform(0.75, 1.25) + 0.5 + dice.uniform(-0.08, 0.08)
    if dice.happens(0.2):
        lightness = _blurred(lightness, dice.uniform(0.4, 1.2))
    if dice.happens(0.3):
        grain = torch.randn(lightness.shape, generator=dice.generator) * dice.uniform(0.01, 0.06)
        lightness = lightness + (_blurred(grain, 0.6) if dice.happens(0.5) else grain)
    lightness = lightness.clamp(0, 1)
    return _through_jpeg(lightness, 30 + dice.below(61)) if dice.happens(0.2) else lightness


def _brightened(lightness: Tensor, dice: Dice) -> Tensor:
    return lightness.clamp(0, 1) ** math.exp(dice.uniform(math.log(0.6), math.log(1.6)))


def _blurred(plane: Tensor, sigma: float) -> Tensor:
    """A Gaussian of 5x5 pixels."""
    taps = torch.exp(-((torch.arange(5.0) - 2) ** 2) / (2 * sigma**2))
    kernel = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    return F.conv2d(F.pad(plane, (2,) * 4, mode="reflect"), kernel)


def _through_jpeg(plane: Tensor, quality: int) -> Tensor:
    pixels = (plane[0, 0] * 255).round().to(torch.uint8).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).float().div_(255)[None, None]
