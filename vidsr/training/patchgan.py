"""The 70x70 PatchGAN: are these the colors of this picture? One answer for each patch.

Source: Isola et al. 2017 (arXiv:1611.07004, section 3.2 and appendix 6.1.2): C64-C128-C256-C512 of
4x4 convolutions, the first three of stride 2, LeakyReLU 0.2. Group norm stands for batch norm,
whose batches would hold either real colors or made ones. Color is judged at half of the picture's
size, so a patch is 140 pixels of the picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SMALLEST_SIDE = 32
_SLOPE = 0.2
_GROUPS = 8


class PatchDiscriminator(nn.Module):
    """L (N,1,h,w) and ab (N,2,h,w) -> logits (N,1,h/8-2,w/8-2), positive for real colors.

    The sides are at least `SMALLEST_SIDE`.

    Args:
        channels: of the first stage, a multiple of 8; the deepest has eight times as many.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        widths = [channels, 2 * channels, 4 * channels, 8 * channels]
        layers: list[nn.Module] = [_convolution(3, widths[0], 2), nn.LeakyReLU(_SLOPE)]
        for narrow, wide, stride in zip(widths[:3], widths[1:], (2, 2, 1), strict=True):
            layers += [
                _convolution(narrow, wide, stride),
                nn.GroupNorm(_GROUPS, wide),
                nn.LeakyReLU(_SLOPE),
            ]
        self.body = nn.Sequential(*layers, _convolution(widths[-1], 1, 1))

    def forward(self, lightness: Tensor, ab: Tensor) -> Tensor:
        """One logit a patch."""
        logits: Tensor = self.body(torch.cat((lightness, ab), dim=1))
        return logits


def _convolution(channels: int, wider: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, wider, 4, stride=stride, padding=1)
