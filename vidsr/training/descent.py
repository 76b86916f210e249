"""One step of a generator, as every training here makes it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

LARGEST = 5.0  # norm of a gradient; usual ones have 1 to 5, and without norms in the network one
# that was a thousand times as large ended a training after 3,800 good steps


def adam(
    weights: Iterable[Tensor],
    device: torch.device,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Adam:
    """Adam (Kingma and Ba 2015); on CUDA in one launch, whose learning rate is read there."""
    if device.type != "cuda":
        return torch.optim.Adam(weights, lr=lr, betas=betas)
    rate = torch.tensor(lr, device=device)
    optimizer = torch.optim.Adam(weights, lr=rate, betas=betas, fused=True, capturable=True)
    optimizer.defaults["lr"] = lr  # the peak; it was the very tensor that is changed each step
    return optimizer


def descend(loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Go down the gradient of a loss without dimensions, which is clipped."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(list(network.parameters()), LARGEST)
    optimizer.step()


def approach(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Let the average, of which `decay` stays, follow the same network's weights."""
    averages: list[Tensor] = list(average.parameters())
    weights: list[Tensor] = list(network.parameters())
    with torch.no_grad():
        torch._foreach_lerp_(averages, weights, 1 - decay)


def early_decay(decay: float, step: int) -> float:
    """The decay of an average that follows closely at the start."""
    return min(decay, step / (step + 10))


def between(
    average: dict[str, Tensor], origin: dict[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Weights of which `share` is where a training began and the rest where it came to.

    Between weights before and after a training that went on from them lies one valley, and a point
    between keeps most of both skills (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903).
    """
    return {
        key: torch.lerp(value, origin[key].to(value.device), share)
        for key, value in average.items()
    }
