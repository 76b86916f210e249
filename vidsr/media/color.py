"""ColorConverter: planes as a decoder stores them <-> an RGB tensor that a network can take.

The arithmetic is H.273's (ITU-T H.273, clause 8.3): matrix coefficients, limited or full range,
any depth from 8 to 16 bits; chroma is resampled to and from its own positions. All of it is done
in float with one rounding, at the very end, and no clipping before that: legal YUV lies partly
outside [0,1] in RGB, and must come back unharmed.

Note [Chroma filters invert each other]
    Most converters pair linear interpolation upwards with a mean of two downwards. Each is fine;
    together they blur: a film that goes through unchanged loses chroma detail. Here the two are a
    biorthogonal pair, so that down(up(x)) == x for every x, smooth or not. One number names the
    pair: the phase, the offset of a chroma sample from the first of its two luma samples.

        phase   siting          up: (even, odd) luma       down: taps / 8 at 2n-2 ... 2n+3
        0       cosited         copied, mean of two        -1  2  6  2 -1  0   (LeGall 5/3)
        1/2     centred         [1 3]/4, [3 1]/4            0 -2  6  6 -2  0   (CDF 3/1)
        1       on the second   mean of two, copied         0 -1  2  6  2 -1   (5/3, mirrored)

    Up is plain linear interpolation between the true positions, so colour does not shift; all the
    cleverness is in down. (Le Gall, Tabatabai 1988; Cohen, Daubechies, Feauveau 1992.)

    At the borders both sides repeat the edge sample. An odd size leaves the last chroma sample
    `phase` beyond the last luma sample; there down continues the picture by a straight line of
    that length, which is again exactly what up has cut off.

    A step of four (4:1:1, 4:1:0) is the step of two, twice: phases 0, 1/2 and 1 then mean the
    first sample, the centre and the last of the four, as they should.

Note [Sums, not matrix products]
    A 3x3 matrix product over all pixels is one call to matmul, and a strided filter one to conv2d.
    But both obey switches that an engine may set for its network (TF32 on CUDA, where it is the
    default for convolutions; bfloat16 on the CPU), and several digits of a colour are then gone.
    Weighted sums of planes are exact under every switch, and no slower: for 640x360 on one thread
    the strided conv2d alone took 1.3 ms, and so does the whole of `from_rgb`, since the chroma
    matrix is applied where chroma is small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from vidsr.errors import MediaError
from vidsr.frame import ColorSpec, Matrix, PixelLayout, Range, Siting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    Codes = NDArray[np.uint8 | np.uint16]

# (KR, KB) of H.273 table 4; KG is what is missing to one.
_LUMA_WEIGHTS = {
    Matrix.BT709: (0.2126, 0.0722),
    Matrix.FCC: (0.30, 0.11),
    Matrix.BT470BG: (0.299, 0.114),
    Matrix.SMPTE170M: (0.299, 0.114),
    Matrix.SMPTE240M: (0.212, 0.087),
    Matrix.BT2020_NCL: (0.2627, 0.0593),
}

# (horizontal, vertical) offset of a chroma sample from the first of its two luma samples.
_PHASES = {
    Siting.LEFT: (0.0, 0.5),
    Siting.CENTER: (0.5, 0.5),
    Siting.TOPLEFT: (0.0, 0.0),
    Siting.TOP: (0.5, 0.0),
    Siting.BOTTOMLEFT: (0.0, 1.0),
    Siting.BOTTOM: (0.5, 1.0),
}

# By phase: weights of the luma samples 2n-2 ... 2n+3 in the chroma sample n.
_DOWN_TAPS = {
    0.0: (-0.125, 0.25, 0.75, 0.25, -0.125, 0.0),
    0.5: (0.0, -0.25, 0.75, 0.75, -0.25, 0.0),
    1.0: (0.0, -0.125, 0.25, 0.75, 0.25, -0.125),
}


class ColorConverter:
    """Converts between the planes of one layout and RGB.

    It holds constants only, so that one converter may serve several threads and streams. Input and
    output of a job have one each: their subsampling and depth may differ.

    Attributes:
        layout: how samples lie in planes; alpha is none of this class's business.
        color: what the samples mean.
        device: where the constants live; planes and pictures must be there too.
        dtype: what is computed in, and the dtype of `to_rgb`; float32 is exact to 16 bits.
    """

    def __init__(
        self,
        layout: PixelLayout,
        color: ColorSpec,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        _check(layout, color)
        self.layout = layout
        self.color = color
        self.device = torch.device(device)
        self.dtype = dtype
        self._phases = _PHASES.get(color.siting, (0.0, 0.0))
        self._max_code = 2**layout.depth - 1
        encode, offset = _code_matrix(layout, color)
        decode = _inverse(encode)
        self._encode: list[list[float]] = encode.tolist()
        self._decode: list[list[float]] = decode.tolist()
        # The half makes the final truncation a rounding; codes are never negative there.
        self._encode_start = (offset + 0.5).to(self.device, dtype).unbind()
        self._decode_start = (-decode @ offset).to(self.device, dtype).unbind()

    @property
    def reach(self) -> int:
        """How far beside its own place, in pixels, a sample of chroma matters, both ways."""
        return int(2 * (2 ** max(self.layout.subsampling) - 1))

    def to_rgb(self, planes: Sequence[Tensor]) -> Tensor:
        """Planes -> RGB (1,3,H,W), display range [0,1] but not clipped.

        Args:
            planes: Y | Y,U,V | R,G,B at their own sizes, without alpha: uint8, or uint16 holding
                `depth` bits. Views with any strides will do.
        """
        samples = [plane.to(self.dtype) for plane in planes]
        if self.layout.model != "yuv":
            return self._mix(samples, self._decode).unsqueeze(0)
        # Chroma becomes RGB while it is small; luma, whose weight is the same in R, G and B, is
        # added at full size.
        luma, *chroma = samples
        rgb = self._mix(chroma, [row[1:] for row in self._decode])
        rgb = self._upsample(rgb, luma.shape)
        return rgb.add_(luma, alpha=self._decode[0][0]).unsqueeze(0)

    def from_rgb(self, rgb: Tensor, out: Sequence[Tensor] | None = None) -> tuple[Tensor, ...]:
        """RGB (1,3,H,W), any float dtype -> planes, rounded once, clamped to the code range.

        Args:
            rgb: display range [0,1]; values outside become codes outside the nominal range as
                long as there are such codes.
            out: planes to fill, of the layout's shapes and dtype (strides are free); new ones if
                not given.
        """
        picture = rgb[0].to(self.dtype)
        planes = self._new_planes(picture) if out is None else tuple(out)
        chroma = self._downsample(picture)
        sources = (picture, chroma, chroma)[: len(self._encode)]
        terms = zip(planes, self._encode_start, sources, self._encode, strict=True)
        for plane, start, source, weights in terms:
            codes = _weighted_sum(start, source.unbind(), weights)
            plane.copy_(codes.clamp_(0, self._max_code))
        return planes

    def _mix(self, samples: Sequence[Tensor], weights: Sequence[Sequence[float]]) -> Tensor:
        """(3,h,w): each of R, G, B as its own weighted sum of planes, offset removed."""
        rgb = samples[0].new_empty((3, *samples[0].shape))
        for channel, start, row in zip(rgb, self._decode_start, weights, strict=True):
            _weighted_sum(start, samples, row, out=channel)
        return rgb

    def _new_planes(self, picture: Tensor) -> tuple[Tensor, ...]:
        height, width = picture.shape[-2:]
        shapes = self.layout.plane_shapes(width, height)[: len(self._encode)]
        dtype = torch.uint8 if self.layout.depth == 8 else torch.uint16
        return tuple(torch.empty(shape, dtype=dtype, device=picture.device) for shape in shapes)

    def _upsample(self, chroma: Tensor, luma_shape: Sequence[int]) -> Tensor:
        """(C,h,w) at chroma positions -> (C,H,W) at luma positions; columns, then rows.

        The order matters for speed alone: columns are the slow direction, so they go first, while
        there are few rows.
        """
        for dim, axis in ((2, 0), (1, 1)):
            for step in reversed(range(self.layout.subsampling[axis])):
                size = -(-luma_shape[dim - 1] >> step)
                chroma = _up(chroma, dim, size=size, phase=self._phases[axis])
        return chroma

    def _downsample(self, picture: Tensor) -> Tensor:
        """(C,H,W) at luma positions -> (C,h,w) at chroma positions; rows, then columns."""
        for dim, axis in ((1, 1), (2, 0)):
            for _ in range(self.layout.subsampling[axis]):
                picture = _down(picture, dim, phase=self._phases[axis])
        return picture


def luma_weights(matrix: Matrix) -> tuple[float, float, float]:
    """Weights of R', G', B' in Y'; BT.709's for a matrix that has no luma (RGB)."""
    red, green, blue = _ycbcr_matrix(matrix)[0].tolist()
    return red, green, blue


def _check(layout: PixelLayout, color: ColorSpec) -> None:
    """Raise MediaError for what cannot be converted, or was left open by the reader."""
    if not 8 <= layout.depth <= 16:
        raise MediaError(f"samples of {layout.depth} bits are not supported, only 8 to 16")
    if color.range is Range.UNSPECIFIED:
        raise MediaError("the color range is unspecified: limited or full must be chosen")
    if layout.model == "yuv" and color.matrix not in {*_LUMA_WEIGHTS, Matrix.YCGCO}:
        raise MediaError(
            f"YUV with matrix {color.matrix.name} (code {int(color.matrix)}) is not supported;"
            " convert it to BT.709 first"
        )
    if max(layout.subsampling) > 2 or (layout.model != "yuv" and any(layout.subsampling)):
        raise MediaError(f"{layout.model} subsampled by 2 ** {layout.subsampling} is not supported")
    if any(layout.subsampling) and color.siting not in _PHASES:
        raise MediaError("the chroma siting is unspecified, and the chroma is subsampled")


def _code_matrix(layout: PixelLayout, color: ColorSpec) -> tuple[Tensor, Tensor]:
    """What maps RGB to codes: weights (P,3) and offsets (P,), one row a plane, float64.

    YCgCo is defined on R, G, B that are already codes, so in limited range its chroma spans
    219 steps, not 224 (H.273 clause 8.3, MatrixCoefficients 8).
    """
    unit = 1 << (layout.depth - 8)
    limited = color.range is Range.LIMITED
    full_scale = float(2**layout.depth - 1)
    luma_scale, luma_offset = (219.0 * unit, 16.0 * unit) if limited else (full_scale, 0.0)
    if layout.model == "rgb":
        return luma_scale * torch.eye(3, dtype=torch.float64), _column(luma_offset, luma_offset)
    if layout.model == "gray":
        luma_row = _ycbcr_matrix(color.matrix)[:1]
        return luma_scale * luma_row, _column(luma_offset)[:1]
    chroma_scale = 224.0 * unit if limited and color.matrix is not Matrix.YCGCO else luma_scale
    scales = _column(luma_scale, chroma_scale)
    return scales[:, None] * _ycbcr_matrix(color.matrix), _column(luma_offset, 128.0 * unit)


def _column(luma: float, chroma: float = 0.0) -> Tensor:
    return torch.tensor([luma, chroma, chroma], dtype=torch.float64)


def _ycbcr_matrix(matrix: Matrix) -> Tensor:
    """(3,3): R, G, B in [0,1] -> Y in [0,1], Cb and Cr (or Cg and Co) in [-1/2,1/2]; float64.

    Grey pictures are often tagged with a matrix that has no luma (RGB, in PNG); they get BT.709's,
    which does not matter as long as the picture stays grey.
    """
    if matrix is Matrix.YCGCO:
        rows = [[0.25, 0.5, 0.25], [-0.25, 0.5, -0.25], [0.5, 0.0, -0.5]]
        return torch.tensor(rows, dtype=torch.float64)
    red, blue = _LUMA_WEIGHTS.get(matrix, _LUMA_WEIGHTS[Matrix.BT709])
    luma = torch.tensor([red, 1.0 - red - blue, blue], dtype=torch.float64)
    unit_red, _, unit_blue = torch.eye(3, dtype=torch.float64)
    cb = (unit_blue - luma) / (2.0 * (1.0 - blue))
    cr = (unit_red - luma) / (2.0 * (1.0 - red))
    return torch.stack((luma, cb, cr))


def _inverse(encode: Tensor) -> Tensor:
    """What maps codes, offset removed, to RGB: (3,P) of float64."""
    if len(encode) == 1:  # gray: the same value thrice, not the shortest vector of that luma
        return (1.0 / encode.sum()).expand(3, 1)
    inverse: Tensor = torch.linalg.inv(encode)
    return inverse


def _weighted_sum(
    start: Tensor,
    samples: Sequence[Tensor],
    weights: Sequence[float],
    *,
    out: Tensor | None = None,
) -> Tensor:
    """`start` (0-dimensional) + the sum of weight * sample.

    See Note [Sums, not matrix products].
    """
    terms = [(s, w) for s, w in zip(samples, weights, strict=True) if w != 0.0]
    (sample, weight), *rest = terms
    total = torch.add(start, sample, alpha=weight, out=out)
    for sample, weight in rest:
        total.add_(sample, alpha=weight)
    return total


def _up(chroma: Tensor, dim: int, *, size: int, phase: float) -> Tensor:
    """Double one dimension of n samples to `size`, which is 2n or 2n - 1.

    See Note [Chroma filters invert each other].
    """
    shape = list(chroma.shape)
    shape[dim] = size
    result = chroma.new_empty(shape)
    x, luma = chroma.movedim(dim, 0), result.movedim(dim, 0)
    even, odd = luma[0::2], luma[1::2]
    even[:1] = x[:1]
    torch.lerp(x[1:], x[:-1], phase / 2, out=even[1:])
    torch.lerp(x[:-1], x[1:], (1 - phase) / 2, out=odd[: len(x) - 1])
    odd[len(x) - 1 :] = x[-1:]  # nothing if the size is odd
    return result


def _down(picture: Tensor, dim: int, *, phase: float) -> Tensor:
    """Halve one dimension, an odd size upwards.

    See Note [Chroma filters invert each other].
    """
    x = picture.movedim(dim, 0)
    if len(x) % 2:  # the line through the last two samples; a single one is repeated
        x = torch.cat((x, torch.lerp(x[-2:][:1], x[-1:], 1 + phase)))
    even, odd = x[0::2], x[1::2]
    far_left, left, first, second, right, far_right = _DOWN_TAPS[phase]
    low = torch.mul(even, first).add_(odd, alpha=second)
    _add(low[1:], even[:-1], far_left)
    _add(low[1:], odd[:-1], left)
    _add(low[:-1], even[1:], right)
    _add(low[:-1], odd[1:], far_right)
    low[:1].add_(x[:1], alpha=far_left + left)
    low[-1:].add_(x[-1:], alpha=right + far_right)
    return low.movedim(0, dim)


def _add(total: Tensor, sample: Tensor, weight: float) -> None:
    if weight != 0.0:
        total.add_(sample, alpha=weight)


def rgb_of_codes(codes: Codes) -> Tensor:
    """Codes (H,W,3) of a still -> (1,3,H,W) in [0,1]."""
    full = float(np.iinfo(codes.dtype).max)
    return torch.from_numpy(codes).permute(2, 0, 1)[None].float().div_(full)


def resized_alpha(
    alpha: Codes, size: tuple[int, int], depths: tuple[int, int]
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Alpha (H,W) at another size (height, width), bicubic: no network knows transparency.

    Args:
        alpha: codes.
        size: of the result.
        depths: bits of the codes before and after.
    """
    before, after = (float(2**depth - 1) for depth in depths)
    mask = torch.from_numpy(alpha)[None, None].float()
    mask = F.interpolate(mask, size=size, mode="bicubic", antialias=True)[0, 0]
    codes = mask.mul_(after / before).round_().clamp_(0, after).numpy()
    return codes.astype(np.uint8) if depths[1] == 8 else codes.astype(np.uint16)


def codes_of(values: Tensor, dtype: np.dtype[np.uint8 | np.uint16]) -> Codes:
    """Values in [0,1] of any shape -> codes: clipped, then rounded once."""
    full = float(np.iinfo(dtype).max)
    codes = values.float().clamp(0, 1).mul_(full).round_().cpu().numpy()
    return np.ascontiguousarray(codes.astype(dtype))
