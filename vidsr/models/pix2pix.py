"""The Pix2Pix generator for color (Isola et al. 2017, arXiv:1611.07004): a U-Net, lightness to ab.

Batch norm is replaced by group norm, so that a frame's colors do not depend on what else is in the
batch. The last layer does not say a and b but how likely each of 169 colors is, after "Colorful
Image Colorization" (Zhang et al. 2016, arXiv:1603.08511): where several are likely a network that
answers a and b can only say their mean, which is gray. The answer here is the mean too, but of a
distribution that `sharpen` can push towards its likeliest color.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidsr.errors import ModelError
from vidsr.models.trunk import WIDTHS, LiteTrunk

MULTIPLE = 16  # height and width of what the generator takes divide by this
# The colors' a and b, as a share of 110: finer near gray, where most of the world is.
NODES = tuple(sign * step / 110 for sign, step in (
    (-1, 110), (-1, 82), (-1, 57), (-1, 37), (-1, 21), (-1, 9), (1, 0),
    (1, 9), (1, 21), (1, 37), (1, 57), (1, 82), (1, 110),
))  # fmt: skip
_GROUPS = 8  # of group norm


@dataclass(frozen=True)
class ColorOptions:
    """Sizes of a generator, as they stand in a model card."""

    channels: int = 32  # at half of the input's size; more at each further halving
    gain: int = 100  # percent by which the answer is strengthened, see `sharpen`

    def __post_init__(self) -> None:
        if self.channels < _GROUPS or self.channels % _GROUPS:
            raise ModelError(
                f"{self.channels} channels do not make groups of {_GROUPS}; choose a multiple"
            )


@dataclass(frozen=True)
class Pix2PixOptions(ColorOptions):
    """Sizes of a U-Net that learns from nothing."""

    blocks: int = 3  # residual blocks at the bottom, at a sixteenth of the size


class ColorGenerator(nn.Module):
    """L (N,1,H,W), L*/50 - 1, in [-1,1] -> ab (N,2,H/2,W/2), a*/110 and b*/110, about [-1,1].

    H and W are multiples of 16. It is to see the whole picture at once, not a tile: group norm and
    the pooled context look everywhere.
    """

    colors: Tensor  # (169,2): what the last layer's channels stand for
    up: nn.ModuleList  # joins the deepest features with those above, from below upward

    def __init__(self, options: ColorOptions) -> None:
        super().__init__()
        self.options = options
        self.head = nn.Conv2d(options.channels, len(NODES) ** 2, 1)
        nodes = torch.tensor(NODES)
        self.register_buffer("colors", torch.cartesian_prod(nodes, nodes), persistent=False)

    @property
    def reach(self) -> int:
        """How far, in input pixels, one output pixel looks: further than any picture goes."""
        return 1 << 20

    def descend(self, lightness: Tensor) -> list[Tensor]:
        """(N,1,H,W) -> features, each at half the size of those before, the first at H/2 x W/2."""
        raise NotImplementedError

    def logits(self, lightness: Tensor) -> Tensor:
        """(N,1,H,W) -> (N,H/2,W/2,169): unnormalized log probabilities of `colors`.

        Raises:
            ModelError: H or W is no multiple of 16.
        """
        height, width = lightness.shape[-2:]
        if height % MULTIPLE or width % MULTIPLE:
            raise ModelError(
                f"the colorizer takes sides that are multiples of {MULTIPLE}, not {width}x{height}"
            )
        *skips, features = self.descend(lightness)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            features = up(features, skip)
        logits: Tensor = self.head(features)
        return logits.permute(0, 2, 3, 1)

    def forward(self, lightness: Tensor) -> Tensor:
        """The mean color of each place's distribution, strengthened by the gain."""
        return self.answer(self.logits(lightness))

    def answer(self, logits: Tensor) -> Tensor:
        """What `forward` makes of its `logits`."""
        mean = logits.softmax(-1) @ self.colors
        return mean.permute(0, 3, 1, 2) * (self.options.gain / 100)


class Pix2PixGenerator(ColorGenerator):
    """The U-Net that learns from nothing.

    Args:
        options: its sizes.
        dropout: share of the bottom's channels that are left out while training.
    """

    def __init__(self, options: Pix2PixOptions, *, dropout: float = 0.0) -> None:
        super().__init__(options)
        widths = [options.channels * factor for factor in (1, 2, 4, 8)]
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 5, stride=2, padding=2), _norm(widths[0]), nn.SiLU()
        )
        self.down = nn.ModuleList(
            nn.Sequential(_halving(narrow, wide), _Residual(wide))
            for narrow, wide in pairwise(widths[:3])
        )
        self.bottom = nn.Sequential(
            _halving(widths[2], widths[3]),
            *(_Residual(widths[3]) for _ in range(options.blocks)),
            _Context(widths[3]),
            nn.Dropout2d(dropout),
        )
        self.up = nn.ModuleList(
            _Joining(wide, narrow, narrow) for wide, narrow in pairwise(reversed(widths))
        )

    def descend(self, lightness: Tensor) -> list[Tensor]:
        """See `ColorGenerator`."""
        features = [self.stem(lightness)]
        for down in (*self.down, self.bottom):
            features.append(down(features[-1]))
        return features


class Pix2PixLite(ColorGenerator):
    """The U-Net whose way down is a trunk that knows what things are, see `LiteTrunk`.

    Args:
        options: its sizes.
        dropout: share of the trunk's channels that are left out while training.
    """

    def __init__(self, options: ColorOptions, *, dropout: float = 0.0) -> None:
        super().__init__(options)
        self.trunk = LiteTrunk()
        widths = [options.channels * factor for factor in (1, 2, 4, 4, 8)]
        self.norms = nn.ModuleList(_norm(width) for width in WIDTHS)
        self.bottom = nn.Sequential(
            nn.Conv2d(WIDTHS[-1], widths[-1], 1), nn.SiLU(), _Context(widths[-1])
        )
        self.dropout = nn.Dropout2d(dropout)
        self.up = nn.ModuleList(
            _Joining(wide, narrow, given)
            for (wide, narrow), given in zip(
                pairwise(reversed(widths)), reversed(WIDTHS[:-1]), strict=True
            )
        )

    def descend(self, lightness: Tensor) -> list[Tensor]:
        """See `ColorGenerator`."""
        given = zip(self.norms, self.trunk(lightness), strict=True)
        *skips, deepest = (self.dropout(norm(features)) for norm, features in given)
        return [*skips, self.bottom(deepest)]


@torch.no_grad()
def sharpen(network: ColorGenerator, temperature: float, favor: Tensor | None = None) -> None:
    """Make the network's answers more decided, for good.

    A decided network says gray where it is not sure, so that what it is sure of can be strengthened
    (`ColorOptions.gain`) without making the doubtful places wrong.

    Args:
        network: its last layer is changed.
        temperature: divides the log probabilities. At 1 the answer is the mean color, which is
            closest in squared error but pale; towards 0 it is the likeliest one ("annealed mean",
            Zhang et al. 2016, equation 5).
        favor: (169,) factors on the probabilities before that; none by default.
    """
    weight, bias = network.head.parameters()
    if favor is not None:
        bias.add_(favor.log())
    weight.div_(temperature)
    bias.div_(temperature)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, channels)


def _halving(channels: int, wider: int) -> nn.Sequential:
    """A 4x4 convolution of stride 2, as published."""
    return nn.Sequential(
        nn.Conv2d(channels, wider, 4, stride=2, padding=1), _norm(wider), nn.SiLU()
    )


class _Residual(nn.Module):
    """Twice norm, SiLU and convolution, plus the input; the second starts as nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(channels), _norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, features: Tensor) -> Tensor:
        detail: Tensor = self.conv1(F.silu(self.norm1(features)))
        detail = self.conv2(F.silu(self.norm2(detail)))
        return features + detail


class _Context(nn.Module):
    """Tells every place what the picture as a whole is (Iizuka et al. 2016, section 3.1.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, channels // 2, 1)
        self.outer = nn.Conv2d(channels // 2, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        pooled = features.mean(dim=(2, 3), keepdim=True)
        context: Tensor = self.outer(F.silu(self.inner(pooled)))
        return features + context


class _Joining(nn.Module):
    """Enlarge twice and join with what the way down kept of that size."""

    def __init__(self, wide: int, narrow: int, given: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(wide, narrow, 1)
        self.fuse = nn.Conv2d(narrow + given, narrow, 3, padding=1)
        self.norm = _norm(narrow)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        # The 1x1 convolution goes first, where there are a quarter as many places.
        enlarged = F.interpolate(
            self.reduce(features), size=skip.shape[-2:], mode="bilinear", align_corners=False
        )
        return F.silu(self.norm(self.fuse(torch.cat((enlarged, skip), dim=1))))
