"""The trunk of EfficientNet-Lite0: a network that has learnt what things are, for lightness alone.

Source: Tan and Le 2019 (arXiv:1905.11946), in the variant for small machines that its authors gave
out under Apache-2.0: no squeeze and excitation, ReLU6, stem and widths of B0. Trained on ImageNet
by them. Its batch norms are fixed numbers after training; here they are folded into the
convolutions before them, so nothing depends on what else is in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

STEM = 32  # channels
WIDTHS = (16, 24, 40, 112, 320)  # of what it gives, at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size


@dataclass(frozen=True)
class Row:
    """Like blocks, one after the other; the first halves the size where the stride is 2."""

    kernel: int
    stride: int
    expansion: int
    narrow: int
    wide: int
    blocks: int
    given: bool  # whether a decoder wants what comes out


LAYOUT = (
    Row(3, 1, 1, STEM, 16, 1, given=True),
    Row(3, 2, 6, 16, 24, 2, given=True),
    Row(5, 2, 6, 24, 40, 2, given=True),
    Row(3, 2, 6, 40, 80, 3, given=False),
    Row(5, 1, 6, 80, 112, 3, given=True),
    Row(5, 2, 6, 112, 192, 4, given=False),
    Row(3, 1, 6, 192, 320, 1, given=True),
)


class LiteTrunk(nn.Module):
    """Lightness (N,1,H,W), about [-1,1] -> features at a half to a thirty-second of the size.

    Five tensors (N, `WIDTHS`[i], ceil(H / 2**(i+1)), ceil(W / 2**(i+1))).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(1, STEM, 3, stride=2)
        self.rows = nn.ModuleList(nn.Sequential(*_blocks(row)) for row in LAYOUT)

    def forward(self, lightness: Tensor) -> list[Tensor]:
        """See the class."""
        features = F.relu6(self.stem(lightness))
        given = []
        for row, layout in zip(self.rows, LAYOUT, strict=True):
            features = row(features)
            if layout.given:
                given.append(features)
        return given


def _blocks(row: Row) -> list[nn.Module]:
    first = InvertedResidual(row.narrow, row.wide, row.kernel, row.stride, row.expansion)
    rest = (
        InvertedResidual(row.wide, row.wide, row.kernel, 1, row.expansion)
        for _ in range(row.blocks - 1)
    )
    return [first, *rest]


class InvertedResidual(nn.Module):
    """Widen, look around channel by channel, narrow (Sandler et al. 2018, arXiv:1801.04381)."""

    def __init__(self, narrow: int, wide: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = narrow * expansion
        self.expand = SameConv(narrow, inner, 1) if expansion > 1 else None
        self.around = SameConv(inner, inner, kernel, stride=stride, groups=inner)
        self.project = SameConv(inner, wide, 1)
        self.stays = stride == 1 and narrow == wide

    def forward(self, features: Tensor) -> Tensor:
        """(N,narrow,H,W) -> (N,wide,ceil(H/stride),ceil(W/stride))."""
        inner = features if self.expand is None else F.relu6(self.expand(features))
        made: Tensor = self.project(F.relu6(self.around(inner)))
        return features + made if self.stays else made


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow pads: what is left over goes to the right and below."""

    def __init__(
        self, narrow: int, wide: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        # Of odd sides at stride 1 both ways agree, and the faster one is taken.
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(narrow, wide, kernel, stride=stride, padding=padding, groups=groups)

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C',ceil(H/stride),ceil(W/stride))."""
        stride, kernel = self.stride[0], self.kernel_size[0]
        if stride > 1:
            height, width = (
                max((-(-side // stride) - 1) * stride + kernel - side, 0)
                for side in features.shape[-2:]
            )
            features = F.pad(
                features, (width // 2, width - width // 2, height // 2, height - height // 2)
            )
        return super().forward(features)
