"""The SRGAN generator (Ledig et al. 2017, arXiv:1609.04802, figure 4), without batch norm.

Note [Which SRResNet]
~~~~~~~~~~~~~~~~~~~~~
Three networks go by this name. The published one has 9x9 ends, batch norm and PReLU; we keep its
shape and drop only batch norm, which makes blotches on inputs unlike its training batches (ESRGAN,
Wang et al. 2018, section 3.1). BasicSR's "MSRResNet" has 3x3 ends, LeakyReLU, one more convolution
in the tail and a bilinear base; public checkpoints of that name load as `MSRResNet` below.

Note [The last convolution]
~~~~~~~~~~~~~~~~~~~~~~~~~~~
Processors compute 16 or more features side by side, and 9x9 to three colors leaves most of that
idle: it took 30 % of the network's time for 11 % of its multiplications. The same sum is nine 3x3
convolutions, each shifted by multiples of three pixels: one convolution to 27 features, and another
that adds nine of them, each at its place. That is 3.3 times as fast in fp32 and bf16, in torch and
in OpenVINO. Training takes the convolution whole: in bf16 that is faster there, and torch 2.13
crashes (segmentation fault) in the gradient of a bf16 convolution with dilation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidsr.errors import ModelError


@dataclass(frozen=True)
class SRGANOptions:
    """Sizes of an SRGAN generator, as they stand in a model card."""

    scale: int = 4  # 2, 3 or 4
    channels: int = 64
    blocks: int = 16  # residual blocks

    def __post_init__(self) -> None:
        if self.scale not in {2, 3, 4}:
            raise ModelError(f"scale {self.scale} does not exist for SRResNets; 2, 3 and 4 do")


class ResidualBlock(nn.Module):
    """Convolution, PReLU, convolution, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,H,W)."""
        detail: Tensor = self.conv2(self.act(self.conv1(features)))
        return features + detail


class SRGANGenerator(nn.Module):
    """RGB (N,3,H,W) in [0,1] -> (N,3,H*scale,W*scale), about [0,1], not clamped."""

    def __init__(self, options: SRGANOptions) -> None:
        super().__init__()
        self.options = options
        channels = options.channels
        self.head = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), nn.PReLU(channels))
        self.trunk = nn.Sequential(*(ResidualBlock(channels) for _ in range(options.blocks)))
        self.fuse = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(channels, channels * factor * factor, 3, padding=1),
                    nn.PixelShuffle(factor),
                    nn.PReLU(channels),
                )
                for factor in upsampling_factors(options.scale)
            )
        )
        self.tail = nn.Conv2d(channels, 3, 9, padding=4)

    @property
    def reach(self) -> int:
        """How far, in input pixels, one output pixel looks: the halo that tiling needs."""
        low_res = 4 + 2 * self.options.blocks + 1
        factors = upsampling_factors(self.options.scale)
        high_res = sum(1 / math.prod(factors[:step]) for step in range(len(factors)))
        return low_res + math.ceil(high_res + 4 / self.options.scale)

    def forward(self, low_res: Tensor) -> Tensor:
        """Run head, trunk with its long skip, upsampling and tail."""
        shallow = self.head(low_res)
        deep = shallow + self.fuse(self.trunk(shallow))
        features = self.upsample(deep)
        if self.training:
            whole: Tensor = self.tail(features)
            return whole
        return convolve_in_parts(features, self.tail.weight, self.tail.bias)


def convolve_in_parts(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 9x9 convolution that keeps the size, as in Note [The last convolution].

    Args:
        features: (N,I,H,W).
        weight: (O,I,9,9), of few outputs O.
        bias: (O,) or None.

    Returns:
        (N,O,H,W), equal to `F.conv2d(features, weight, bias, padding=4)` but for rounding.
    """
    wide, narrow, _, _ = weight.shape
    parts = weight.reshape(wide, narrow, 3, 3, 3, 3).permute(0, 2, 4, 1, 3, 5)
    places = torch.eye(9, device=weight.device, dtype=weight.dtype).reshape(1, 9, 3, 3)
    partial = F.conv2d(features, parts.reshape(wide * 9, narrow, 3, 3), padding=4)
    return F.conv2d(partial, places.repeat(wide, 1, 1, 1), bias, dilation=3, groups=wide)


class MSRResNet(nn.Module):
    """BasicSR's SRResNet, for public checkpoints. Same contract as `SRGANGenerator`."""

    def __init__(self, options: SRGANOptions) -> None:
        super().__init__()
        self.options = options
        channels = options.channels
        factors = upsampling_factors(options.scale)
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Sequential(*(_MSRBlock(channels) for _ in range(options.blocks)))
        for number, factor in enumerate(factors, start=1):
            setattr(
                self, f"upconv{number}", nn.Conv2d(channels, channels * factor**2, 3, padding=1)
            )
        self.conv_hr = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)

    @property
    def reach(self) -> int:
        """How far, in input pixels, one output pixel looks."""
        return 1 + 2 * self.options.blocks + 2  # the tail's steps add up to 2, or 5/3 for x3

    def forward(self, low_res: Tensor) -> Tensor:
        """Add the learned detail to the bilinear enlargement."""
        features = self.body(F.leaky_relu(self.conv_first(low_res), 0.1))
        for number, factor in enumerate(upsampling_factors(self.options.scale), start=1):
            upconv = getattr(self, f"upconv{number}")
            features = F.leaky_relu(F.pixel_shuffle(upconv(features), factor), 0.1)
        detail: Tensor = self.conv_last(F.leaky_relu(self.conv_hr(features), 0.1))
        scale = self.options.scale
        base = F.interpolate(low_res, scale_factor=scale, mode="bilinear", align_corners=False)
        return detail + base


class _MSRBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        detail: Tensor = self.conv2(F.relu(self.conv1(features)))
        return features + detail


def upsampling_factors(scale: int) -> tuple[int, ...]:
    """PixelShuffle steps that make up a scale: 4 is two doublings, 2 and 3 are one step."""
    return (2, 2) if scale == 4 else (scale,)
