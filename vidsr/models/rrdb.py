"""ESRGAN's generator (Wang et al. 2018, arXiv:1809.00219), so that public checkpoints load.

Names of parameters are those of BasicSR's RRDBNet. For scales 2 and 1 the input is first folded
by `pixel_unshuffle`, as in Real-ESRGAN: there a tile must begin at a multiple of `fold` pixels to
give what the whole picture gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidsr.errors import ModelError


@dataclass(frozen=True)
class RRDBOptions:
    """Sizes of an RRDB generator, read from a checkpoint's tensors."""

    scale: int = 4  # 1, 2 or 4
    channels: int = 64
    blocks: int = 23
    growth: int = 32  # channels that each dense layer adds

    def __post_init__(self) -> None:
        if self.scale not in {1, 2, 4}:
            raise ModelError(f"scale {self.scale} does not exist for RRDBNet; 1, 2 and 4 do")


class _DenseBlock(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        for number in range(1, 5):
            conv = nn.Conv2d(channels + (number - 1) * growth, growth, 3, padding=1)
            setattr(self, f"conv{number}", conv)
        self.conv5 = nn.Conv2d(channels + 4 * growth, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        stack = features
        for number in range(1, 5):
            grown = F.leaky_relu(getattr(self, f"conv{number}")(stack), 0.2)
            stack = torch.cat((stack, grown), dim=1)
        detail: Tensor = self.conv5(stack)
        return features + 0.2 * detail


class _RRDB(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = _DenseBlock(channels, growth)
        self.rdb2 = _DenseBlock(channels, growth)
        self.rdb3 = _DenseBlock(channels, growth)

    def forward(self, features: Tensor) -> Tensor:
        detail: Tensor = self.rdb3(self.rdb2(self.rdb1(features)))
        return features + 0.2 * detail


class RRDBNet(nn.Module):
    """RGB (N,3,H,W) in [0,1] -> (N,3,H*scale,W*scale), about [0,1], not clamped."""

    def __init__(self, options: RRDBOptions) -> None:
        super().__init__()
        self.options = options
        self.fold = 4 // options.scale
        channels = options.channels
        self.conv_first = nn.Conv2d(3 * self.fold**2, channels, 3, padding=1)
        self.body = nn.Sequential(*(_RRDB(channels, options.growth) for _ in range(options.blocks)))
        self.conv_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_up1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_up2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_hr = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)

    @property
    def reach(self) -> int:
        """How far, in input pixels, one output pixel looks (far more than it uses)."""
        return self.fold * (2 + 15 * self.options.blocks + 2)  # 2: five quarters in the tail

    def forward(self, low_res: Tensor) -> Tensor:
        """Fold, run the dense trunk, enlarge twice by nearest neighbour and convolution."""
        height, width = low_res.shape[-2:]
        padded = F.pad(low_res, (0, -width % self.fold, 0, -height % self.fold), mode="replicate")
        shallow = self.conv_first(F.pixel_unshuffle(padded, self.fold))
        features = shallow + self.conv_body(self.body(shallow))
        for conv in (self.conv_up1, self.conv_up2):
            enlarged = F.interpolate(features, scale_factor=2, mode="nearest")
            features = F.leaky_relu(conv(enlarged), 0.2)
        output: Tensor = self.conv_last(F.leaky_relu(self.conv_hr(features), 0.2))
        scale = self.options.scale
        return output[..., : height * scale, : width * scale]
