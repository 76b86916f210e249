"""Colour conversion: nothing is lost, nothing moves, and the numbers are the standards'."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from vidsr.errors import MediaError
from vidsr.frame import ColorSpec, Matrix, PixelLayout, Range, Siting
from vidsr.media.color import ColorConverter

MATRICES = [
    Matrix.BT709,
    Matrix.FCC,
    Matrix.BT470BG,
    Matrix.SMPTE170M,
    Matrix.SMPTE240M,
    Matrix.YCGCO,
    Matrix.BT2020_NCL,
]
RANGES = [Range.LIMITED, Range.FULL]
SITINGS = [siting for siting in Siting if siting is not Siting.UNSPECIFIED]
DEPTHS = [8, 10, 12, 16]
SUBSAMPLINGS = {
    "444": (0, 0),
    "422": (1, 0),
    "420": (1, 1),
    "440": (0, 1),
    "411": (2, 0),
    "410": (2, 2),
}
# In luma samples, the position of the first chroma sample within a step of two: (x, y).
OFFSETS = {
    Siting.LEFT: (0.0, 0.5),
    Siting.CENTER: (0.5, 0.5),
    Siting.TOPLEFT: (0.0, 0.0),
    Siting.TOP: (0.5, 0.0),
    Siting.BOTTOMLEFT: (0.0, 1.0),
    Siting.BOTTOM: (0.5, 1.0),
}
# 75 % bars: white, yellow, cyan, green, magenta, red, blue, black.
BARS_RGB = [
    (0.75, 0.75, 0.75),
    (0.75, 0.75, 0),
    (0, 0.75, 0.75),
    (0, 0.75, 0),
    (0.75, 0, 0.75),
    (0.75, 0, 0),
    (0, 0, 0.75),
    (0, 0, 0),
]
BARS_601 = [
    (180, 128, 128),
    (162, 44, 142),
    (131, 156, 44),
    (112, 72, 58),
    (84, 184, 198),
    (65, 100, 212),
    (35, 212, 114),
    (16, 128, 128),
]
BARS_709 = [
    (180, 128, 128),
    (168, 44, 136),
    (145, 147, 44),
    (133, 63, 52),
    (63, 193, 204),
    (51, 109, 212),
    (28, 212, 120),
    (16, 128, 128),
]


def spec(matrix=Matrix.BT709, color_range=Range.LIMITED, siting=Siting.LEFT):
    return ColorSpec(matrix, color_range, primaries=1, transfer=1, siting=siting)


def random_planes(layout, width, height, seed=0):
    """Every code of the depth, in every plane: no picture has worse chroma than noise."""
    random = np.random.default_rng(seed)
    dtype = np.uint8 if layout.depth == 8 else np.uint16
    return [
        torch.from_numpy(random.integers(0, 2**layout.depth, shape).astype(dtype))
        for shape in layout.plane_shapes(width, height)
    ]


def assert_same_planes(actual, expected, hint=None):
    for got, wanted in zip(actual, expected, strict=True):
        assert got.dtype == wanted.dtype, hint
        assert torch.equal(got, wanted), hint


@pytest.mark.parametrize("matrix", MATRICES, ids=lambda matrix: matrix.name)
@pytest.mark.parametrize("color_range", RANGES, ids=lambda color_range: color_range.name)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_yuv_noise_comes_back_code_by_code_at_every_siting_and_size(
    matrix, color_range, depth, subsampling
):
    layout = PixelLayout("yuv", depth, SUBSAMPLINGS[subsampling])
    for siting, size in itertools.product(SITINGS, [(20, 12), (19, 11)]):
        planes = random_planes(layout, *size)
        converter = ColorConverter(layout, spec(matrix, color_range, siting))
        assert_same_planes(converter.from_rgb(converter.to_rgb(planes)), planes, (siting, size))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("siting", SITINGS, ids=lambda siting: siting.name)
def test_pictures_of_a_few_pixels_come_back_too(subsampling, siting):
    layout = PixelLayout("yuv", 8, SUBSAMPLINGS[subsampling])
    converter = ColorConverter(layout, spec(siting=siting))
    for size in itertools.product(range(1, 6), repeat=2):
        planes = random_planes(layout, *size)
        assert_same_planes(converter.from_rgb(converter.to_rgb(planes)), planes, size)


@pytest.mark.parametrize("model", ["gray", "rgb"])
@pytest.mark.parametrize("color_range", RANGES, ids=lambda color_range: color_range.name)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("matrix", [*MATRICES, Matrix.RGB], ids=lambda matrix: matrix.name)
def test_gray_and_rgb_come_back_code_by_code(model, color_range, depth, matrix):
    layout = PixelLayout(model, depth)
    planes = random_planes(layout, 31, 17)
    converter = ColorConverter(layout, spec(matrix, color_range))
    rgb = converter.to_rgb(planes)
    assert rgb.shape == (1, 3, 17, 31)
    assert_same_planes(converter.from_rgb(rgb), planes)


def test_sixteen_bit_codes_at_both_ends_survive():
    layout = PixelLayout("yuv", 16, (1, 1))
    ends = torch.tensor([[0, 1, 32767, 32768], [32769, 65534, 65535, 256]], dtype=torch.int32)
    planes = [plane.to(torch.uint16) for plane in (ends, ends[:1, :2], ends[1:, 1:3])]
    converter = ColorConverter(layout, spec(color_range=Range.FULL))
    assert_same_planes(converter.from_rgb(converter.to_rgb(planes)), planes)


def test_superwhite_and_colors_outside_the_gamut_are_not_clipped():
    layout = PixelLayout("yuv", 8)
    codes = [(254, 128, 128), (1, 128, 128), (235, 240, 240), (16, 16, 16)]
    planes = [torch.tensor([column], dtype=torch.uint8) for column in zip(*codes, strict=True)]
    converter = ColorConverter(layout, spec())
    rgb = converter.to_rgb(planes)
    assert rgb.max() > 1.5
    assert rgb.min() < -0.5
    assert_same_planes(converter.from_rgb(rgb), planes)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("color_range", RANGES, ids=lambda color_range: color_range.name)
@pytest.mark.parametrize("model", ["gray", "rgb", "yuv"])
def test_values_beyond_the_codes_stop_at_the_first_and_the_last(depth, color_range, model):
    layout = PixelLayout(model, depth)
    converter = ColorConverter(layout, spec(color_range=color_range))
    luma_low = converter.from_rgb(torch.full((1, 3, 2, 2), -9.0))[0]
    luma_high = converter.from_rgb(torch.full((1, 3, 2, 2), 9.0))[0]
    assert set(luma_low.to(torch.int32).flatten().tolist()) == {0}
    assert set(luma_high.to(torch.int32).flatten().tolist()) == {2**depth - 1}


@pytest.mark.parametrize(
    ("matrix", "bars"),
    [(Matrix.SMPTE170M, BARS_601), (Matrix.BT470BG, BARS_601), (Matrix.BT709, BARS_709)],
)
def test_color_bars_have_the_codes_of_the_standards(matrix, bars):
    rgb = torch.tensor(BARS_RGB, dtype=torch.float32).T.reshape(1, 3, 1, 8)
    for depth in DEPTHS:
        planes = ColorConverter(PixelLayout("yuv", depth), spec(matrix)).from_rgb(rgb)
        codes = torch.stack([plane.to(torch.float64).flatten() for plane in planes], dim=1)
        expected = torch.tensor(bars, dtype=torch.float64)
        # The published codes are rounded to 8 bits themselves.
        assert (codes / 2 ** (depth - 8) - expected).abs().max() <= 1


def test_nominal_black_and_white_have_the_codes_of_h273():
    rgb = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)
    for depth, color_range, black, white in [
        (8, Range.LIMITED, 16, 235),
        (10, Range.LIMITED, 64, 940),
        (16, Range.LIMITED, 4096, 60160),
        (8, Range.FULL, 0, 255),
        (10, Range.FULL, 0, 1023),
        (16, Range.FULL, 0, 65535),
    ]:
        for model in ("gray", "rgb", "yuv"):
            converter = ColorConverter(PixelLayout(model, depth), spec(color_range=color_range))
            luma, *chroma = converter.from_rgb(rgb)
            assert luma.flatten().tolist() == [black, white]
            if model == "yuv":
                assert {code for c in chroma for code in c.flatten().tolist()} == {1 << (depth - 1)}


@pytest.mark.parametrize("matrix", MATRICES, ids=lambda matrix: matrix.name)
@pytest.mark.parametrize("color_range", RANGES, ids=lambda color_range: color_range.name)
@pytest.mark.parametrize("depth", DEPTHS)
def test_neutral_chroma_gives_equal_red_green_and_blue(matrix, color_range, depth):
    layout = PixelLayout("yuv", depth, (1, 1))
    neutral = torch.full((4, 4), 1 << (depth - 1), dtype=torch.int32)
    planes = [neutral, neutral[:2, :2], neutral[:2, :2]]
    dtype = torch.uint8 if depth == 8 else torch.uint16
    rgb = ColorConverter(layout, spec(matrix, color_range)).to_rgb([p.to(dtype) for p in planes])
    # Float32 rounding only: 1e-6 is a fifteenth of a 16-bit code.
    assert (rgb - rgb[:, :1]).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("matrix", "kr", "kb"),
    [
        (Matrix.BT709, 0.2126, 0.0722),
        (Matrix.FCC, 0.30, 0.11),
        (Matrix.BT470BG, 0.299, 0.114),
        (Matrix.SMPTE170M, 0.299, 0.114),
        (Matrix.SMPTE240M, 0.212, 0.087),
        (Matrix.BT2020_NCL, 0.2627, 0.0593),
    ],
)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("color_range", RANGES, ids=lambda color_range: color_range.name)
def test_rgb_equals_the_textbook_formula(matrix, kr, kb, depth, color_range):
    layout = PixelLayout("yuv", depth)
    planes = random_planes(layout, 19, 11)
    y, u, v = (plane.numpy().astype(np.float64) for plane in planes)
    if color_range is Range.LIMITED:
        unit = 2 ** (depth - 8)
        y, u, v = (y / unit - 16) / 219, (u / unit - 128) / 224, (v / unit - 128) / 224
    else:
        top, middle = 2**depth - 1, 2 ** (depth - 1)
        y, u, v = y / top, (u - middle) / top, (v - middle) / top
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    rgb = ColorConverter(layout, spec(matrix, color_range)).to_rgb(planes)
    # Float32 against float64: a few units in the last place of values up to about 2.
    np.testing.assert_allclose(rgb[0].numpy(), np.stack((red, green, blue)), atol=2e-6, rtol=0)


def test_ycgco_in_limited_range_scales_chroma_by_219():
    rgb = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 1.0]]).T.reshape(1, 3, 1, 3)
    planes = ColorConverter(PixelLayout("yuv", 10), spec(Matrix.YCGCO)).from_rgb(rgb)
    # Green, red, magenta: Y = 64 + 876 * (1/2, 1/4, 1/2), Cg = 512 + 876 * (1/2, -1/4, -1/2), ...
    assert [plane.flatten().tolist() for plane in planes] == [
        [502, 283, 502],
        [950, 293, 74],
        [512, 950, 512],
    ]


def chroma_ramp(layout, siting, width, height):
    """20000 + 64 x + 16 y in 16-bit codes, taken where the siting puts the chroma samples."""
    axes = []
    for step, offset, size in zip(
        layout.subsampling, OFFSETS[siting], (width, height), strict=True
    ):
        count = -(-size >> step)
        axes.append((np.arange(count) * 2**step) + offset * (2**step - 1))
    x, y = axes
    return torch.from_numpy((20000 + 64 * x[None, :] + 16 * y[:, None]).astype(np.uint16))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("siting", SITINGS, ids=lambda siting: siting.name)
def test_chroma_lands_where_the_siting_says(subsampling, siting):
    width, height = 32, 24
    layout = PixelLayout("yuv", 16, SUBSAMPLINGS[subsampling])
    color = spec(color_range=Range.FULL, siting=siting)
    ramp = chroma_ramp(layout, siting, width, height)
    luma = torch.full((height, width), 30000, dtype=torch.int32).to(torch.uint16)
    rgb = ColorConverter(layout, color).to_rgb([luma, ramp, ramp])
    # At full resolution, read the chroma back without any resampling.
    _, u, v = ColorConverter(PixelLayout("yuv", 16), color).from_rgb(rgb)
    expected = chroma_ramp(PixelLayout("yuv", 16), siting, width, height)
    inside = (slice(4, -4), slice(4, -4))  # at the border the ramp levels out
    assert torch.equal(u.to(torch.int32)[inside], expected.to(torch.int32)[inside])
    assert torch.equal(v.to(torch.int32)[inside], expected.to(torch.int32)[inside])


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("siting", SITINGS, ids=lambda siting: siting.name)
def test_chroma_is_taken_where_the_siting_says(subsampling, siting):
    width, height = 32, 24
    color = spec(color_range=Range.FULL, siting=siting)
    full = PixelLayout("yuv", 16)
    ramp = chroma_ramp(full, siting, width, height)
    luma = torch.full((height, width), 30000, dtype=torch.int32).to(torch.uint16)
    rgb = ColorConverter(full, color).to_rgb([luma, ramp, ramp])
    layout = PixelLayout("yuv", 16, SUBSAMPLINGS[subsampling])
    _, u, _ = ColorConverter(layout, color).from_rgb(rgb)
    expected = chroma_ramp(layout, siting, width, height)
    inside = (slice(2, -2), slice(2, -2))
    assert torch.equal(u.to(torch.int32)[inside], expected.to(torch.int32)[inside])


def test_left_and_center_differ_by_half_a_luma_sample():
    layout = PixelLayout("yuv", 8, (1, 0))
    luma, flat = torch.full((1, 16), 128), torch.full((1, 8), 128)
    ramp = torch.arange(8)[None] * 16 + 64  # 8 codes a luma sample
    planes = [plane.to(torch.uint8) for plane in (luma, flat, ramp)]
    red = {
        siting: ColorConverter(layout, spec(siting=siting)).to_rgb(planes)[0, 0, 0, 4:-4]
        for siting in (Siting.LEFT, Siting.CENTER)
    }
    a_code_of_cr = 2 * (1 - 0.2126) / 224
    shift = (red[Siting.LEFT] - red[Siting.CENTER]) / a_code_of_cr
    assert torch.allclose(shift, torch.tensor(4.0), atol=1e-3)  # float32 rounding only


@pytest.mark.parametrize("model", ["gray", "rgb", "yuv"])
@pytest.mark.parametrize("depth", [8, 10])
def test_out_is_filled_even_when_it_is_a_strided_view(model, depth):
    layout = PixelLayout(model, depth, (1, 1) if model == "yuv" else (0, 0))
    converter = ColorConverter(layout, spec())
    rgb = torch.rand((1, 3, 10, 14), generator=torch.Generator().manual_seed(1))
    expected = converter.from_rgb(rgb)
    buffers = [torch.zeros((h, w + 6), dtype=p.dtype) for p in expected for h, w in [p.shape]]
    views = [buffer[:, :-6] for buffer in buffers]
    returned = converter.from_rgb(rgb, out=views)
    assert_same_planes(views, expected)
    assert [plane.data_ptr() for plane in returned] == [view.data_ptr() for view in views]
    assert all(buffer[:, -6:].to(torch.int32).sum() == 0 for buffer in buffers)


@pytest.mark.parametrize("depth", [8, 10])
def test_strided_and_reversed_input_planes_give_the_same_picture(depth):
    layout = PixelLayout("yuv", depth, (1, 1))
    converter = ColorConverter(layout, spec())
    planes = random_planes(layout, 14, 10)
    wide = [torch.from_numpy(np.pad(plane.numpy(), ((0, 0), (0, 18)))) for plane in planes]
    views = [buffer[:, :-18] for buffer in wide]
    interleaved = torch.from_numpy(np.stack([plane.numpy() for plane in planes[1:]], axis=-1))
    nv12_like = [planes[0], interleaved[..., 0], interleaved[..., 1]]
    expected = converter.to_rgb(planes)
    assert torch.equal(converter.to_rgb(views), expected)
    assert torch.equal(converter.to_rgb(nv12_like), expected)


def test_input_planes_are_left_as_they_were():
    layout = PixelLayout("yuv", 8, (1, 1))
    planes = random_planes(layout, 14, 10)
    before = [plane.clone() for plane in planes]
    converter = ColorConverter(layout, spec())
    rgb = converter.to_rgb(planes)
    picture = rgb.clone()
    converter.from_rgb(rgb)
    assert_same_planes(planes, before)
    assert torch.equal(rgb, picture)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pictures_of_any_float_type_and_memory_order_are_accepted(dtype):
    converter = ColorConverter(PixelLayout("yuv", 8, (1, 1)), spec())
    rgb = torch.rand((1, 3, 10, 14), generator=torch.Generator().manual_seed(2)).to(dtype)
    expected = converter.from_rgb(rgb.float())
    channels_last = rgb.to(memory_format=torch.channels_last)
    assert_same_planes(converter.from_rgb(channels_last), expected)


def test_a_picture_changes_layout_when_the_output_has_another():
    source = PixelLayout("yuv", 8, (1, 1))
    target = PixelLayout("yuv", 10, (0, 0))
    planes = random_planes(source, 16, 12)
    y, u, v = ColorConverter(target, spec()).from_rgb(ColorConverter(source, spec()).to_rgb(planes))
    assert torch.equal(y.to(torch.int32), planes[0].to(torch.int32) * 4)
    assert u.shape == v.shape == (12, 16)


def test_gray_from_a_colored_picture_is_its_luma():
    red = torch.zeros(1, 3, 2, 2)
    red[:, 0] = 1.0
    for matrix, expected in [(Matrix.BT709, 54), (Matrix.SMPTE170M, 76), (Matrix.RGB, 54)]:
        converter = ColorConverter(PixelLayout("gray", 8), spec(matrix, Range.FULL))
        (plane,) = converter.from_rgb(red)
        assert set(plane.flatten().tolist()) == {expected}


def test_a_network_s_precision_switches_do_not_touch_colors():
    layout = PixelLayout("yuv", 16, (1, 1))
    planes = random_planes(layout, 64, 48)
    converter = ColorConverter(layout, spec())
    expected = converter.to_rgb(planes)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        rgb = converter.to_rgb(planes)
        back = converter.from_rgb(rgb)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(rgb, expected)
    assert_same_planes(back, planes)


def test_runs_under_inference_mode():
    layout = PixelLayout("yuv", 10, (1, 1))
    planes = random_planes(layout, 16, 12)
    converter = ColorConverter(layout, spec())
    with torch.inference_mode():
        assert_same_planes(converter.from_rgb(converter.to_rgb(planes)), planes)


@pytest.mark.parametrize("matrix", [Matrix.BT2020_CL, Matrix.UNSPECIFIED, Matrix.RGB])
def test_a_matrix_that_is_not_supported_is_named_with_its_code(matrix):
    with pytest.raises(MediaError, match=rf"{matrix.name} \(code {int(matrix)}\)"):
        ColorConverter(PixelLayout("yuv", 8, (1, 1)), spec(matrix))


@pytest.mark.parametrize(
    ("layout", "color", "word"),
    [
        (PixelLayout("yuv", 8), spec(color_range=Range.UNSPECIFIED), "range"),
        (PixelLayout("yuv", 8, (1, 1)), spec(siting=Siting.UNSPECIFIED), "siting"),
        (PixelLayout("yuv", 7), spec(), "7 bits"),
        (PixelLayout("yuv", 32), spec(), "32 bits"),
        (PixelLayout("yuv", 8, (3, 0)), spec(), "subsampled"),
        (PixelLayout("rgb", 8, (1, 1)), spec(), "subsampled"),
    ],
)
def test_what_cannot_be_converted_is_refused_at_once(layout, color, word):
    with pytest.raises(MediaError, match=word):
        ColorConverter(layout, color)


def test_the_siting_of_chroma_at_full_size_may_stay_unspecified():
    layout = PixelLayout("yuv", 8)
    planes = random_planes(layout, 8, 6)
    converter = ColorConverter(layout, spec(siting=Siting.UNSPECIFIED))
    assert_same_planes(converter.from_rgb(converter.to_rgb(planes)), planes)
