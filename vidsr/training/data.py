"""Image folders -> batches of low-res and high-res crops."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vidsr.errors import MediaError, RequestError
from vidsr.evaluation.evaluate import picture_paths, read_picture
from vidsr.evaluation.metrics import shrink

log = logging.getLogger("vidsr.training")


@dataclass(frozen=True)
class Crops:
    """Random crops of decoded pictures; the same generator state gives the same batches."""

    pictures: list[Tensor]  # each (3, H, W) uint8
    scale: int
    patch: int  # side of the low-res patch in pixels
    batch: int

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Low-res (N,3,p,p) and high-res (N,3,p*scale,p*scale), fp32 in [0,1].

        Each crop is flipped and transposed at random, so a picture counts eight times.
        """
        crops = [self._crop(generator) for _ in range(self.batch)]
        high_res = torch.stack(crops).float().div_(255)
        return shrink(high_res, self.scale), high_res

    def _crop(self, generator: torch.Generator) -> Tensor:
        side = self.patch * self.scale
        picture = self.pictures[_below(len(self.pictures), generator)]
        top = _below(picture.shape[1] - side + 1, generator)
        left = _below(picture.shape[2] - side + 1, generator)
        crop = picture[:, top : top + side, left : left + side]
        turn = _below(8, generator)
        if turn & 1:
            crop = crop.flip(1)
        if turn & 2:
            crop = crop.flip(2)
        return crop.transpose(1, 2) if turn & 4 else crop


def load_pictures(folders: Sequence[Path], *, min_side: int) -> list[Tensor]:
    """Every picture below the folders as (3,H,W) uint8, in the order of their paths.

    Pictures that are broken or smaller than `min_side` are left out and named in the log.

    Raises:
        RequestError: a folder is missing, or nothing usable is in them.
    """
    paths = [path for folder in folders for path in picture_paths(folder)]
    pictures = [picture for path in paths if (picture := _load(path, min_side)) is not None]
    if not pictures:
        raise RequestError(
            f"no picture of at least {min_side}x{min_side} pixels among {len(paths)} files in "
            f"{', '.join(str(folder) for folder in folders)}"
        )
    return pictures


def _load(path: Path, min_side: int) -> Tensor | None:
    try:
        pixels = read_picture(path)
    except MediaError as exc:
        log.warning("skipped %s", exc)
        return None
    if min(pixels.shape[:2]) < min_side:
        log.warning("skipped %s: smaller than the %d-pixel crop", path, min_side)
        return None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (1,), generator=generator).item())
