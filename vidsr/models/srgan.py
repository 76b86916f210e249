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

On CUDA those nine, in groups, take as long as the whole (on an H200, fp16, 3416x1920 pixels: 7.5 ms
and 8.5). There it is nine rows of 1x9 and then their sum, each a convolution of a width that matrix
units take: 2.0 ms, and with gradients 1.6 in place of 4.9 (bf16, 32 crops of 192x192).

Note [Shuffled by channels]
~~~~~~~~~~~~~~~~~~~~~~~~~~~
`nn.PixelShuffle` answers in planes, whatever it is given, so in channels_last each one costs two
copies: on an H200, 6 of the 19 ms of a frame. With the convolution's features in another order, the
doubling is one copy of whole runs of channels.
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


class Enlargement(nn.Sequential):
    """Convolution, pixel shuffle, PReLU: (N,C,H,W) -> (N,C,H*factor,W*factor)."""

    def __init__(self, channels: int, factor: int) -> None:
        conv = nn.Conv2d(channels, channels * factor * factor, 3, padding=1)
        super().__init__(conv, nn.PixelShuffle(factor), nn.PReLU(channels))
        self.factor = factor

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        conv, shuffle, act = self
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        if features.is_cuda:
            features = convolve_and_shuffle(features, conv.weight, conv.bias, self.factor)
        else:
            features = shuffle(conv(features))
        enlarged: Tensor = act(features)
        return enlarged


def convolve_and_shuffle(features: Tensor, weight: Tensor, bias: Tensor, factor: int) -> Tensor:
    """A 3x3 convolution and then its pixel shuffle, as in Note [Shuffled by channels].

    Args:
        features: (N,I,H,W), channels_last.
        weight: (C*factor*factor,I,3,3).
        bias: (C*factor*factor,).
        factor: of the shuffle.

    Returns:
        (N,C,H*factor,W*factor), channels_last.
    """
    places = factor * factor
    weight, bias = (
        given.reshape(-1, places, *given.shape[1:]).transpose(0, 1).flatten(0, 1)
        for given in (weight, bias)
    )
    made = F.conv2d(features, weight, bias, padding=1)
    rows, columns = made.shape[-2:]
    # (N,factor,factor,C,H,W), the place first, -> (N,H,factor,W,factor,C), as it lies in memory.
    placed = made.view(len(made), factor, factor, -1, rows, columns).permute(0, 4, 1, 5, 2, 3)
    return placed.reshape(len(made), rows * factor, columns * factor, -1).permute(0, 3, 1, 2)


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
            *(Enlargement(channels, factor) for factor in upsampling_factors(options.scale))
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
        if features.is_cuda:
            return convolve_by_rows(features, self.tail.weight, self.tail.bias)
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


def convolve_by_rows(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same as `convolve_in_parts`, for CUDA: first each row of the kernel, then their sum."""
    wide, narrow, high, _ = weight.shape
    count = wide * high
    rows = weight.transpose(1, 2).reshape(count, narrow, 1, 9)
    idle = -count % 8  # a multiple of 8 is what its matrix units take
    partial = F.conv2d(features, F.pad(rows, (0, 0, 0, 0, 0, 0, 0, idle)), padding=4)
    places = torch.eye(count, count + idle, device=weight.device, dtype=weight.dtype)
    # places[o * 9 + y, o * 9 + y] = 1 -> kernel[o, o * 9 + y, y]: row y of color o is y rows below.
    kernel = places.view(wide, high, -1).transpose(1, 2)[..., None]
    return F.conv2d(partial, kernel, bias)


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
