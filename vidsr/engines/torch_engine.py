"""Networks on CUDA, MPS and the CPU through PyTorch."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from vidsr.engines.precision import DTYPES, Precision
from vidsr.errors import DeviceError, OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

Layout = Literal["channels_last", "planar"]
LAYOUTS: dict[Layout, torch.memory_format] = {
    "channels_last": torch.channels_last,
    "planar": torch.contiguous_format,
}
# How allocators other than CUDA's, which has its own exception, say that memory is full.
MEMORY_IS_FULL = (
    "can't allocate memory",  # CPU on Linux and macOS
    "not enough memory",  # CPU on Windows
    "out of memory",  # MPS, and CUDA errors that were raised late
    "alloc_failed",  # cuDNN and cuBLAS
    "bad_alloc",  # OpenVINO
)


class TorchEngine:
    """An `Engine` that runs the network as it is: eager, inference mode.

    Without cuDNN's autotuner, whose choice, and so the last bits of a picture, changes from run
    to run.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        scale: int,
        device: torch.device,
        precision: Precision,
        tile: tuple[int, int],
        batch: int = 1,
        layout: Layout = "channels_last",
    ) -> None:
        self.scale = scale
        self.device = device
        self.dtype = DTYPES[precision]
        self.tile = tile
        self.batch = batch
        self.layout: Layout = layout  # of feature maps
        self.block = 1
        self.any_shape = device.type == "cpu"  # a GPU's algorithms are chosen by the shape
        self._given = network  # as given, so that in_fp32() has the weights before rounding
        with device_errors(device):
            ready = copy.deepcopy(network).eval().to(device=device, dtype=self.dtype)
            self._network = ready.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, tiles: Tensor) -> Tensor:
        """See `Engine`."""
        expected = (self.batch, 3, *self.tile)
        if tiles.shape != expected:
            raise ValueError(f"tiles of shape {tuple(tiles.shape)}; this engine takes {expected}")
        with device_errors(self.device):
            clamped = tiles.clamp(0, 1).to(self.dtype, memory_format=LAYOUTS[self.layout])
            output: Tensor = self._network(clamped)
            return output

    def resized(self, tile: tuple[int, int], batch: int) -> TorchEngine:
        """See `Engine`; the weights are shared, not copied."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # blocks cut for the old shape would only fragment the new
        other = copy.copy(self)
        other.tile, other.batch = tile, batch
        return other

    def in_fp32(self) -> TorchEngine:
        """See `Engine`."""
        return TorchEngine(
            self._given,
            scale=self.scale,
            device=self.device,
            precision="fp32",
            tile=self.tile,
            batch=self.batch,
            layout=self.layout,
        )


@contextlib.contextmanager
def device_errors(device: torch.device) -> Iterator[None]:
    """Translate what PyTorch raises on a device.

    Raises:
        OutOfMemory: in place of the allocators' errors.
        DeviceError: in place of any other RuntimeError.
    """
    try:
        yield
    except (torch.cuda.OutOfMemoryError, MemoryError) as exc:
        raise OutOfMemory(f"{device}: out of memory") from exc
    except RuntimeError as exc:
        if any(words in str(exc).lower() for words in MEMORY_IS_FULL):
            raise OutOfMemory(f"{device}: out of memory") from exc
        raise DeviceError(f"{device} failed: {exc}") from exc


def open_device(name: str) -> torch.device:
    """The device for "auto", "cpu", "cuda", "cuda:N" or "mps"; auto is the fastest there is.

    Raises:
        DeviceError: no such device here; the message names those that there are.
    """
    available = available_devices()
    if name == "auto":
        return torch.device(available[0])
    if name == "cuda" and "cuda:0" in available:
        return torch.device("cuda:0")
    if name not in available:
        raise DeviceError(f"no device {name!r} here; choose --device auto or {_or(available)}")
    return torch.device(name)


def available_devices() -> list[str]:
    """Names of the devices that PyTorch finds, the fastest first, "cpu" last."""
    names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def _or(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
