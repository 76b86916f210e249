"""Image folders -> batches of low-res and high-res crops."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import InitVar, dataclass, field
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vidsr.errors import MediaError, RequestError, VidsrError
from vidsr.evaluation.evaluate import picture_paths, read_picture
from vidsr.evaluation.metrics import shrink
from vidsr.training.degradation import DAMAGES, Dice, degrade, reduce, rounded, sharpened

log = logging.getLogger("vidsr.training")

Degradation = Literal["clean", "mixed", "video"]
VARIANTS = 4  # damaged versions of each picture; more are not seen to help, and each is kept
MOST_PROCESSES = 61  # of a pool on Windows
QUEUED = 16  # pictures for each process that damages them; all of them at once fill the memory


@dataclass
class Crops:
    """Random crops of decoded pictures; the same generator state gives the same batches.

    "clean": the low-res crop is the antialiased bicubic reduction, as in the benchmarks. "mixed"
    and "video": a share of each batch is cut from low-res pictures with that damage (`degrade`),
    which are made when first drawn and then kept; the rest is clean but reduced by a random kernel.
    """

    pictures: InitVar[Sequence[Tensor]]  # (3,H,W) uint8 on one device; H, W divide by 2 * scale
    scale: int
    patch: int  # side of the low-res patch in pixels
    batch: int
    degradation: Degradation = "clean"
    seed: int = 0  # of the damage
    damaged_share: float = 0.5  # of a batch that is not clean
    sharpness: float = 0.0  # of the unsharp mask that the originals of clean crops get
    _originals: Album = field(init=False, repr=False)
    _damaged: Album = field(init=False, repr=False)  # `VARIANTS` of each original
    _made: set[int] = field(default_factory=set, repr=False)  # numbers of those that are there

    def __post_init__(self, pictures: Sequence[Tensor]) -> None:
        self._originals = Album.of(pictures)
        if self.degradation != "clean":
            sizes = self._originals.sizes // self.scale
            self._damaged = Album.empty(
                sizes.repeat_interleave(VARIANTS, 0), self._originals.codes.device
            )

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Low-res (N,3,p,p) and high-res (N,3,p*scale,p*scale), fp32 in [0,1].

        Each crop is flipped and transposed at random, so a picture counts eight times.
        """
        side = self.patch * self.scale
        if self.degradation == "clean":
            high_res = self._originals.cut(self._originals.squares(generator, self.batch, side))
            return shrink(high_res, self.scale), self._wanted(high_res)
        damaged = min(self.batch - 1, int(self.batch * self.damaged_share))
        squares = self._originals.squares(generator, self.batch - damaged, side)
        clean = self._originals.cut(squares)
        kernel = Dice(generator).kernel()
        reduced = rounded(reduce(clean, (self.patch, self.patch), kernel))
        squares = self._damaged.squares(generator, damaged, self.patch)
        for number in squares.numbers.tolist():
            self._make(number)
        enlarged = squares.enlarged(self.scale, of=squares.numbers // VARIANTS)
        return (
            torch.cat([reduced, self._damaged.cut(squares)]),
            torch.cat([self._wanted(clean), self._originals.cut(enlarged)]),
        )

    def prepare(self, processes: int) -> None:
        """Make every damaged picture now, in so many processes, instead of when first drawn.

        In threads it went hardly twice as fast on 16 processors: most of the work is Python's.

        Raises:
            VidsrError: a process died.
        """
        if self.degradation == "clean":
            return
        processes = min(processes, MOST_PROCESSES)
        numbers = [number for number in range(len(self._damaged.sizes)) if number not in self._made]
        make = partial(_damaged_version, self.scale, self.seed, self.degradation)
        try:
            with ProcessPoolExecutor(processes, get_context("spawn"), _begin_process) as pool:
                for first in range(0, len(numbers), QUEUED * processes):
                    some = numbers[first : first + QUEUED * processes]
                    pictures = (self._original_of(number) for number in some)
                    for number, damaged in zip(some, pool.map(make, pictures, some), strict=True):
                        self._keep(number, damaged)
        except BrokenProcessPool as exc:
            raise VidsrError(
                "a process that damages pictures died; memory may be short, or a script of yours "
                'trains outside of `if __name__ == "__main__":`, which such processes need'
            ) from exc

    def _wanted(self, clean: Tensor) -> Tensor:
        return sharpened(clean, self.sharpness) if self.sharpness else clean

    def _make(self, number: int) -> None:
        """See that the damaged picture of that number is there."""
        if number not in self._made:
            picture = self._original_of(number)
            made = _damaged_version(self.scale, self.seed, self.degradation, picture, number)
            self._keep(number, made)

    def _original_of(self, number: int) -> NDArray[np.uint8]:
        # Not a tensor: between processes those go through /dev/shm, small in containers, and whole:
        # with one picture, all of the album.
        return self._originals.picture(number // VARIANTS).cpu().numpy()

    def _keep(self, number: int, damaged: NDArray[np.uint8]) -> None:
        self._damaged.picture(number).copy_(torch.from_numpy(damaged))
        self._made.add(number)


def _begin_process() -> None:
    """In a process of `Crops.prepare`: a Ctrl-C is for its parent, other cores for the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _damaged_version(
    scale: int, seed: int, degradation: Degradation, picture: NDArray[np.uint8], number: int
) -> NDArray[np.uint8]:
    """One of the damaged low-res pictures of an original, told from others by its number."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    return degrade(torch.from_numpy(picture), scale, generator, DAMAGES[degradation]).numpy()


@dataclass(frozen=True)
class Squares:
    """Where squares are cut from which pictures of an `Album`, and how they turn; each (N,)."""

    side: int  # pixels
    numbers: Tensor  # of the pictures
    tops: Tensor
    lefts: Tensor
    turns: Tensor  # 1 mirrors the rows, 2 the columns, 4 then swaps both

    def enlarged(self, scale: int, *, of: Tensor) -> Squares:
        """The same places of pictures that are `scale` times as large."""
        return Squares(self.side * scale, of, self.tops * scale, self.lefts * scale, self.turns)


@dataclass(frozen=True)
class Album:
    """Pictures of any sizes in one row of numbers, so that a batch is cut in one step.

    On a GPU that is one launch in place of some hundreds, which took longer than the training step.
    """

    codes: Tensor  # uint8, the pictures (3,H,W) one after the other
    sizes: Tensor  # (K,2) H and W of each, on the CPU

    @classmethod
    def of(cls, pictures: Sequence[Tensor]) -> Album:
        """Copies of the pictures, (3,H,W) uint8 on one device."""
        sizes = torch.tensor([picture.shape[-2:] for picture in pictures])
        return cls(torch.cat([picture.flatten() for picture in pictures]), sizes)

    @classmethod
    def empty(cls, sizes: Tensor, device: torch.device) -> Album:
        """Room for pictures of those sizes."""
        return cls(torch.empty(int(_lengths(sizes).sum()), dtype=torch.uint8, device=device), sizes)

    @cached_property
    def starts(self) -> Tensor:
        """(K,) where each picture begins."""
        lengths = _lengths(self.sizes)
        return lengths.cumsum(0) - lengths

    def picture(self, number: int) -> Tensor:
        """One of them, (3,H,W), to be read or written."""
        height, width = self.sizes[number].tolist()
        start = int(self.starts[number])
        return self.codes[start : start + 3 * height * width].view(3, height, width)

    def squares(self, generator: torch.Generator, count: int, side: int) -> Squares:
        """So many places, each picture as likely as another."""
        number, top, left, turn = torch.rand((4, count), generator=generator, dtype=torch.float64)
        numbers = (number * len(self.sizes)).long()
        room = self.sizes[numbers] - side + 1
        tops, lefts = ((part * most).long() for part, most in zip((top, left), room.T, strict=True))
        return Squares(side, numbers, tops, lefts, (turn * 8).long())

    def cut(self, squares: Squares) -> Tensor:
        """(N,3,S,S) in [0,1], fp32."""
        heights, widths = self.sizes[squares.numbers].T
        last, turns = squares.side - 1, squares.turns
        down = torch.where(turns & 1 > 0, -widths, widths)
        across = 1 - (turns & 2)
        first = self.starts[squares.numbers] + squares.tops * widths + squares.lefts
        first += torch.where(turns & 1 > 0, last * widths, 0) + torch.where(turns & 2 > 0, last, 0)
        swapped = turns & 4 > 0
        by_row, by_column = torch.where(swapped, across, down), torch.where(swapped, down, across)
        table = torch.stack([first, heights * widths, by_row, by_column])
        first, plane, by_row, by_column = _sent(table, self.codes.device).view(4, -1, 1, 1, 1)
        places = torch.arange(squares.side, device=self.codes.device)
        colors = torch.arange(3, device=self.codes.device).view(3, 1, 1)
        index = first + plane * colors + by_row * places[:, None] + by_column * places
        return self.codes[index].float().div_(255)


def _lengths(sizes: Tensor) -> Tensor:
    return 3 * sizes.prod(1)


def _sent(table: Tensor, device: torch.device) -> Tensor:
    """A small tensor on the device, without waiting for what is under way there."""
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


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
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        loaded = list(pool.map(lambda path: _load(path, min_side, multiple), paths))
    wanted = f"picture of at least {min_side}x{min_side} pixels"
    return [picture.to(device) for picture in usable(loaded, wanted, folders)]


def gradients(count: int, side: int, generator: torch.Generator) -> list[Tensor]:
    """Pictures (3,side,side) uint8 of nothing but smooth changes of color, in any color.

    No collection has them all, and where a network has never been it strays: on the teal sky of a
    held-out drawing one drew a weave, 2 codes strong, that no other picture showed. After 1,100
    steps with 12 % of these the worst but one of 160 others came out 0.55 codes off, not 0.76.
    """
    color = torch.rand((count, 3, 1, 1), generator=generator)
    change = torch.rand((count, 3, 4, 4), generator=generator) - 0.5
    strength = torch.rand((count, 1, 1, 1), generator=generator) * 0.6
    # One by one: as floats they are four times as large, and there may be thousands.
    fields = (
        F.interpolate(small[None], size=side, mode="bicubic")[0]
        for small in color + strength * change
    )
    return [(field.clamp(0, 1) * 255).round().to(torch.uint8) for field in fields]


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
