"""Image folders -> batches of low-res and high-res crops."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from vidsr.errors import MediaError, RequestError
from vidsr.evaluation.evaluate import picture_paths, read_picture
from vidsr.evaluation.metrics import shrink
from vidsr.training.degradation import DAMAGES, Dice, degrade, reduce, rounded, sharpened

log = logging.getLogger("vidsr.training")

Degradation = Literal["clean", "mixed", "video"]
VARIANTS = 4  # damaged versions of each picture; more are not seen to help, and each is kept


@dataclass(frozen=True)
class Crops:
    """Random crops of decoded pictures; the same generator state gives the same batches.

    "clean": the low-res crop is the antialiased bicubic reduction, as in the benchmarks. "mixed"
    and "video": a share of each batch is cut from low-res pictures with that damage (`degrade`),
    which are made when first drawn and then kept; the rest is clean but reduced by a random kernel.
    """

    pictures: list[Tensor]  # each (3,H,W) uint8 on one device; H, W divide by 2 * scale
    scale: int
    patch: int  # side of the low-res patch in pixels
    batch: int
    degradation: Degradation = "clean"
    seed: int = 0  # of the damage
    damaged_share: float = 0.5  # of a batch that is not clean
    sharpness: float = 0.0  # of the unsharp mask that the originals of clean crops get
    _damaged: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Low-res (N,3,p,p) and high-res (N,3,p*scale,p*scale), fp32 in [0,1].

        Each crop is flipped and transposed at random, so a picture counts eight times.
        """
        dice = Dice(generator)
        if self.degradation == "clean":
            high_res = self._stack([self._crop(dice) for _ in range(self.batch)])
            return shrink(high_res, self.scale), self._wanted(high_res)
        damaged = min(self.batch - 1, int(self.batch * self.damaged_share))
        clean = self._stack([self._crop(dice) for _ in range(self.batch - damaged)])
        reduced = rounded(reduce(clean, (self.patch, self.patch), dice.kernel()))
        pairs = [self._damaged_pair(dice) for _ in range(damaged)]
        low_res = torch.cat([reduced, *(self._stack([low]) for low, _ in pairs)])
        wanted = self._wanted(clean)
        return low_res, torch.cat([wanted, *(self._stack([high]) for _, high in pairs)])

    def prepare(self, threads: int) -> None:
        """Make every damaged picture now, on so many threads, instead of when first drawn."""
        if self.degradation != "clean":
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(self._variant, range(len(self.pictures) * VARIANTS)))

    def _wanted(self, clean: Tensor) -> Tensor:
        return sharpened(clean, self.sharpness) if self.sharpness else clean

    def _stack(self, crops: list[Tensor]) -> Tensor:
        return torch.stack(crops).float().div_(255)

    def _crop(self, dice: Dice) -> Tensor:
        side = self.patch * self.scale
        picture = self.pictures[dice.below(len(self.pictures))]
        top = dice.below(picture.shape[1] - side + 1)
        left = dice.below(picture.shape[2] - side + 1)
        return _turned(picture[:, top : top + side, left : left + side], dice.below(8))

    def _damaged_pair(self, dice: Dice) -> tuple[Tensor, Tensor]:
        number = dice.below(len(self.pictures) * VARIANTS)
        low_res, high_res = self._variant(number), self.pictures[number // VARIANTS]
        top = dice.below(low_res.shape[1] - self.patch + 1)
        left = dice.below(low_res.shape[2] - self.patch + 1)
        turn = dice.below(8)
        return (
            _turned(_square(low_res, top, left, self.patch), turn),
            _turned(
                _square(high_res, top * self.scale, left * self.scale, self.patch * self.scale),
                turn,
            ),
        )

    def _variant(self, number: int) -> Tensor:
        if number not in self._damaged:
            picture = self.pictures[number // VARIANTS]
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            damaged = degrade(picture.cpu(), self.scale, generator, DAMAGES[self.degradation])
            self._damaged[number] = damaged.to(picture.device)
        return self._damaged[number]


def load_pictures(
    folders: Sequence[Path], *, min_side: int, multiple: int = 1, device: str = "cpu"
) -> list[Tensor]:
    """Every picture below the folders as (3,H,W) uint8, in the order of their paths.

    Sides are cut to a multiple of `multiple`. Pictures that are broken or smaller than `min_side`
    are left out, counted and named in the log.

    Raises:
        RequestError: a folder is missing, or nothing usable is in them.
    """
    paths = [path for folder in folders for path in picture_paths(folder)]
    loaded = [_load(path, min_side, multiple) for path in paths]
    wanted = f"picture of at least {min_side}x{min_side} pixels"
    return [picture.to(device) for picture in usable(loaded, wanted, folders)]


def usable(loaded: Sequence[Tensor | None], wanted: str, folders: Sequence[Path]) -> list[Tensor]:
    """What could be loaded; how many files were skipped is logged.

    Raises:
        RequestError: nothing could.
    """
    pictures = [picture for picture in loaded if picture is not None]
    if not pictures:
        where = ", ".join(str(folder) for folder in folders)
        raise RequestError(f"no {wanted} among {len(loaded)} files in {where}")
    if len(pictures) < len(loaded):
        log.warning("%d of %d files were skipped", len(loaded) - len(pictures), len(loaded))
    return pictures


def _load(path: Path, min_side: int, multiple: int) -> Tensor | None:
    try:
        pixels = read_picture(path)
    except MediaError as exc:
        log.warning("skipped %s", exc)
        return None
    height, width = (side - side % multiple for side in pixels.shape[:2])
    if min(height, width) < min_side:
        log.warning("skipped %s: smaller than the %d-pixel crop", path, min_side)
        return None
    return torch.from_numpy(pixels[:height, :width]).permute(2, 0, 1).contiguous()


def _square(picture: Tensor, top: int, left: int, side: int) -> Tensor:
    return picture[:, top : top + side, left : left + side]


def _turned(crop: Tensor, turn: int) -> Tensor:
    """One of the eight mirrored and turned versions of a square (3,S,S)."""
    if turn & 1:
        crop = crop.flip(1)
    if turn & 2:
        crop = crop.flip(2)
    return crop.transpose(1, 2) if turn & 4 else crop
