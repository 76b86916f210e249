"""The seam between stages and devices: what every engine offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Engine(Protocol):
    """A network made ready for one device, one precision and one input shape."""

    device: torch.device  # where inputs are expected and outputs lie
    dtype: torch.dtype  # of the network's arithmetic; what is no float32 may overflow
    scale: int  # output pixels per input pixel, each way
    tile: tuple[int, int]  # (h, w) of the input
    batch: int  # tiles per call
    any_shape: bool  # `resized` costs nothing, and a pixel's arithmetic is the same in every shape
    block: int  # ... that begins at a multiple of so many pixels, if it is shown that much more

    def __call__(self, tiles: Tensor) -> Tensor:
        """Enlarge (batch,3,h,w) to (batch,3,h*scale,w*scale).

        The input is float32 RGB on `device`, display range [0,1]; values may leave it: the engine
        clamps a copy and leaves the input alone. The output is not clamped, is float32 or of the
        engine's dtype, has any memory format, and is the caller's to change.

        Raises:
            OutOfMemory: the device's memory is full.
            DeviceError: the device failed.
            ValueError: the shape is not the engine's.
        """

    def resized(self, tile: tuple[int, int], batch: int) -> Engine:
        """The same weights for another fixed shape."""

    def in_fp32(self) -> Engine:
        """The same network in float32, from the weights as they were given."""
