"""What computes networks beside torch: what each library offers, and how it is let in.

A library has a module of its own, whose functions are a `Library`, and is an extra of its own name.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

import torch

from vidsr.errors import DeviceError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from vidsr.engines.engine import Engine
    from vidsr.engines.precision import Precision

CONVERSION = "2"  # raised when a network is computed in other steps: part of what is kept's key
NEAR_ENOUGH = 1e-3  # of the display range: the largest difference
PROBE = (21, 24)  # (h, w) of a picture on which it is tried; odd, and x4 unshuffles


class Library(Protocol):
    """The functions of a library's module."""

    def installed(self) -> bool:
        """Whether it is there; loads nothing."""

    def version(self) -> str:
        """A word for keys and tables; loads nothing."""

    def precisions(self) -> tuple[Precision, ...]:
        """What it computes in here; raises DeviceError if it is not there or does not load."""

    def check_convertible(self, network: nn.Module, scale: int) -> None:
        """Raises ModelError if it does not give what the network gives."""


@contextlib.contextmanager
def loading(name: str, extra: str, *, installed: bool) -> Iterator[None]:
    """Import a library inside.

    Args:
        name: of the library.
        extra: of vidsr that brings it.
        installed: whether it is there.

    Raises:
        DeviceError: it is not there, or does not load; with the command that helps.
    """
    command = f"pip install 'vidsr[{extra}]'"
    if not installed:
        raise DeviceError(f"--engine {extra} needs {name}; add it with {command}")
    try:
        yield
    except (ImportError, OSError) as exc:
        raise DeviceError(
            f"{name} does not load ({exc}); choose --engine torch, or mend it with {command}"
        ) from exc


def check_faithful(
    name: str, open_engine: Callable[[tuple[int, int]], Engine], network: nn.Module
) -> None:
    """Prove it on a small picture.

    Args:
        name: of the library.
        open_engine: makes the network ready for tiles (h, w).
        network: fp32, on the processor, in eval mode.

    Raises:
        ModelError: it gives something else.
    """
    picture = torch.rand(1, 3, *PROBE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        difference = (open_engine(PROBE)(picture) - network(picture)).abs().max()
    if not difference < NEAR_ENOUGH:
        raise ModelError(
            f"{name} changes what {type(network).__name__} computes (by {difference:.2g})"
        )
