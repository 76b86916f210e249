"""Which parts of a picture must be computed, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from vidsr.reuse import BLOCK, changed, cover, grown, meets
from vidsr.tiling import Rect

SIZE = (100, 150)  # no multiples of a block


def planes(subsampling=(2, 2), dtype=np.uint8):
    height, width = SIZE
    chroma = (-(-height // subsampling[1]), -(-width // subsampling[0]))
    return tuple(np.full(shape, 50, dtype) for shape in (SIZE, chroma, chroma))


def blocks_at(*places):
    blocks = np.zeros((-(-SIZE[0] // BLOCK), -(-SIZE[1] // BLOCK)), bool)
    for place in places:
        blocks[place] = True
    return blocks


def test_equal_planes_have_no_changed_block():
    assert not changed(planes(), planes()).any()


@pytest.mark.parametrize("place", [(0, 0), (7, 8), (99, 149), (57, 96)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_changed_sample_of_luma_is_in_its_block(place, dtype):
    after = planes(dtype=dtype)
    after[0][place] += 1
    expected = blocks_at((place[0] // BLOCK, place[1] // BLOCK))
    np.testing.assert_array_equal(changed(planes(dtype=dtype), after), expected)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2), (4, 1), (4, 4)])
@pytest.mark.parametrize("place", [(0, 0), (99, 149), (43, 71)])
def test_a_changed_sample_of_chroma_is_in_the_block_of_its_luma(subsampling, place):
    row, column = place[0] // subsampling[1], place[1] // subsampling[0]
    after = planes(subsampling)
    after[2][row, column] -= 1
    luma = row * subsampling[1], column * subsampling[0]
    expected = blocks_at((luma[0] // BLOCK, luma[1] // BLOCK))
    np.testing.assert_array_equal(changed(planes(subsampling), after), expected)


@pytest.mark.parametrize(("pixels", "by"), [(0, 0), (1, 1), (8, 1), (9, 2), (200, 30)])
def test_blocks_grow_by_whole_blocks_both_ways(pixels, by):
    expected = blocks_at((slice(max(5 - by, 0), 6 + by), slice(max(9 - by, 0), 10 + by)))
    np.testing.assert_array_equal(grown(blocks_at((5, 9)), pixels), expected)


def test_a_part_meets_a_block_that_it_shares_one_pixel_with():
    blocks = blocks_at((2, 3))
    assert meets(blocks, Rect(0, 0, 17, 25))
    assert not meets(blocks, Rect(0, 0, 16, 25))
    assert not meets(blocks, Rect(0, 0, 17, 24))
    assert meets(blocks, Rect(-9, -9, 100, 150))


def test_nothing_is_covered_by_nothing():
    assert cover(blocks_at(), SIZE, 8) == ()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("reach", [0, 4, 40])
def test_rectangles_hold_every_block_and_do_not_overlap(seed, reach):
    blocks = np.random.default_rng(seed).random(blocks_at().shape) < 0.05
    held = np.zeros(SIZE, int)
    for part in cover(blocks, SIZE, reach):
        assert part.bottom <= SIZE[0]
        assert part.right <= SIZE[1]
        part.of(held)[:] += 1
    assert held.max() <= 1
    needed = blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)[: SIZE[0], : SIZE[1]]
    assert held[needed].all()


def test_far_places_are_covered_apart_and_near_ones_together():
    size, far = (800, 800), np.zeros((100, 100), bool)
    far[3, 4] = far[90, 95] = True
    assert cover(far, size, 16) == (Rect(24, 32, 32, 40), Rect(720, 760, 728, 768))
    far[90, 95] = False
    far[6, 4] = True
    assert cover(far, size, 16) == (Rect(24, 32, 56, 40),)
