"""Whether what another library made of a network gives what the network gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vidsr.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from vidsr.engines.engine import Engine

NEAR_ENOUGH = 1e-3  # of the display range: the largest difference
PROBE = (21, 24)  # (h, w) of a picture on which it is tried; odd, and x4 unshuffles


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
