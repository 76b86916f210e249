"""The nouns: sizes follow the layout, and nothing else is assumed."""

from fractions import Fraction

import numpy as np
import pytest

from vidsr.frame import ColorSpec, Frame, Matrix, PixelLayout, Range, Siting

SPEC = ColorSpec(Matrix.BT709, Range.LIMITED, 1, 1, Siting.LEFT)


@pytest.mark.parametrize(
    ("steps", "chroma"),
    [
        ((0, 0), (359, 641)),
        ((1, 0), (359, 321)),
        ((1, 1), (180, 321)),
        ((0, 1), (180, 641)),
        ((2, 0), (359, 161)),
        ((2, 2), (90, 161)),
    ],
)
def test_chroma_sizes_are_rounded_up_for_odd_sizes(steps, chroma):
    shapes = PixelLayout("yuv", 8, steps).plane_shapes(641, 359)
    assert shapes == ((359, 641), chroma, chroma)


@pytest.mark.parametrize("steps", [(0, 0), (1, 0), (1, 1), (2, 2)])
def test_chroma_of_a_single_pixel_is_a_single_pixel(steps):
    assert PixelLayout("yuv", 8, steps).plane_shapes(1, 1) == ((1, 1),) * 3


@pytest.mark.parametrize(("model", "count"), [("gray", 1), ("yuv", 3), ("rgb", 3)])
def test_alpha_is_one_more_plane_of_full_size_and_comes_last(model, count):
    steps = (1, 1) if model == "yuv" else (0, 0)
    without = PixelLayout(model, 10, steps).plane_shapes(7, 5)
    assert len(without) == count
    assert PixelLayout(model, 10, steps, alpha=True).plane_shapes(7, 5) == (*without, (5, 7))


def test_a_frame_says_its_size_in_pixels_and_in_bytes():
    layout = PixelLayout("yuv", 10, (1, 1))
    planes = tuple(np.zeros(shape, np.uint16) for shape in layout.plane_shapes(6, 4))
    frame = Frame(planes, layout, SPEC, pts=0, duration=1, time_base=Fraction(1, 24))
    assert (frame.width, frame.height) == (6, 4)
    assert frame.size == 2 * (24 + 6 + 6)


@pytest.mark.parametrize(("transfer", "hdr"), [(1, False), (13, False), (16, True), (18, True)])
def test_pq_and_hlg_are_hdr(transfer, hdr):
    assert ColorSpec(Matrix.BT2020_NCL, Range.LIMITED, 9, transfer, Siting.LEFT).is_hdr is hdr
