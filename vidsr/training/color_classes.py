"""How far a distribution over colors is from the color that was there.

Source: "Colorful Image Colorization" (Zhang et al. 2016, arXiv:1603.08511, section 2.2), with two
changes. A color is shared out among the four nodes around it, by nearness, so that the mean of its
classes is the color itself; and rare colors are favored by a root of what the paper favors them by,
for which a few thousand pictures are too few.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidsr.models.pix2pix import NODES

_MIXED = 0.5  # share of the uniform distribution that evens out the prior (lambda in the paper)
_SIDE = len(NODES)
_SMALL = 3e-3  # mean squared error of a picture (6 of CIE's units) below which less hardly counts


class ColorClasses(nn.Module):
    """The classes' weights, found in the training pictures; they go into the checkpoint.

    Args:
        prior: (169,) how often each class is; sums to 1.
        rebalance: 0 counts all pixels alike, 1 is the paper's.
    """

    weights: Tensor  # (169,), 1 on average over all pixels
    nodes: Tensor  # (13,)

    def __init__(self, prior: Tensor, rebalance: float) -> None:
        super().__init__()
        weights = ((1 - _MIXED) * prior + _MIXED / len(prior)) ** -rebalance
        self.register_buffer("weights", weights / (weights * prior).sum())
        self.register_buffer("nodes", torch.tensor(NODES), persistent=False)

    def losses(self, logits: Tensor, colors: Tensor, ab: Tensor) -> tuple[Tensor, Tensor]:
        """Rebalanced cross entropy, and the error of the mean color under the same weights.

        The second is a logarithm of each picture's mean squared error, as PSNR is: in a plain mean
        a few pictures of strong colors count for all others, which are then tinted alike.

        Args:
            logits: (N,h,w,169).
            colors: (169,2), the generator's.
            ab: (N,2,h,w) in units of AB_SCALE.
        """
        places, shares = shared_out(ab, self.nodes)
        weights = (self.weights[places] * shares).sum(-1)
        log_probabilities = logits.log_softmax(-1)
        entropy = -(log_probabilities.gather(-1, places) * shares).sum(-1)
        squares = (log_probabilities.exp() @ colors - ab.permute(0, 2, 3, 1)).square().sum(-1)
        errors = (weights * squares).mean(dim=(1, 2))
        return (weights * entropy).mean(), (errors / _SMALL).log1p().mean()


def class_prior(colors: Tensor) -> Tensor:
    """How often each class is among colors (N,2,h,w): (169,), which sums to 1."""
    places, shares = shared_out(colors, torch.tensor(NODES))
    counts = torch.zeros(_SIDE**2).index_add_(0, places.flatten(), shares.flatten())
    return counts / counts.sum()


def shared_out(ab: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Colors (N,2,h,w) -> the four classes around each color and their shares, both (N,h,w,4).

    The shares are bilinear: they are positive, sum to 1, and the classes' mean under them is ab.
    """
    ab = ab.clamp(float(NODES[0]), float(NODES[-1]))
    below = (torch.bucketize(ab, nodes, right=True) - 1).clamp(0, _SIDE - 2)
    part = (ab - nodes[below]) / (nodes[below + 1] - nodes[below])
    (a, b), (u, v) = below.unbind(1), part.unbind(1)
    first = a * _SIDE + b
    places = torch.stack((first, first + 1, first + _SIDE, first + _SIDE + 1), dim=-1)
    shares = torch.stack(((1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v), dim=-1)
    return places, shares
