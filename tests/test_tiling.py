"""Cutting and blending change nothing that the network would not have changed."""

import itertools

import pytest
import torch

from vidsr.errors import RequestError
from vidsr.models.compact import Compact, CompactOptions
from vidsr.models.srgan import SRGANGenerator, SRGANOptions
from vidsr.tiling import Axis, Blend, Grid

CPU = torch.device("cpu")
LAYOUTS = [  # height, width, tile, halo, overlap
    (37, 53, 24, 4, 3),
    (64, 48, 32, 6, 0),
    (33, 200, 31, 5, 8),
    (25, 26, 25, 4, 2),  # one row, two columns one pixel apart
    (90, 41, 19, 2, 14),  # steps of one pixel: many seams lie over each other
]


def whole_and_tiled(network, grid, scale):
    picture = torch.rand(1, 3, grid.height, grid.width)
    with torch.inference_mode():
        batches = (network(tiles) for tiles in grid.batches(picture, 3))
        return network(picture), Blend(grid, scale, CPU).merge(batches)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blend_weights_sum_to_exactly_one(layout):
    grid = Grid(*layout)
    ones = (torch.ones(2, 1, 2 * n, 2 * m) for n, m in [grid.shape] for _ in range(len(grid)))
    blended = Blend(grid, 2, CPU).merge(ones)
    assert torch.equal(blended, torch.ones(1, 1, 2 * grid.height, 2 * grid.width))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tile_lies_inside_the_picture_and_keeps_no_halo(layout):
    size, _, tile, halo, overlap = layout
    axis = Axis.fit(size, tile, halo, overlap)
    for number, start in enumerate(axis.starts):
        first, end = axis.kept(number)
        assert start >= 0
        assert start + axis.side <= size
        assert first >= start + (halo if start > 0 else 0)
        assert end <= start + axis.side - (halo if start + axis.side < size else 0)


def test_tiles_are_as_small_as_their_number_allows():
    grid = Grid(720, 1280, 512, 10, 8)
    assert (len(grid.rows.starts), len(grid.columns.starts)) == (2, 3)
    assert grid.shape == (374, 446)


def test_tiles_lie_in_equal_steps():
    axis = Axis.fit(1000, 256, 10, 8)
    starts = axis.starts
    steps = {after - before for before, after in itertools.pairwise(starts)}
    assert starts[0] == 0
    assert starts[-1] == 1000 - axis.side
    assert max(steps) - min(steps) <= 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiled_equals_whole_for_the_compact_network(layout):
    torch.manual_seed(1)
    network = Compact(CompactOptions(scale=2, channels=8, blocks=0)).eval()
    assert network.reach <= layout[3]
    whole, tiled = whole_and_tiled(network, Grid(*layout), 2)
    # Convolutions of another shape may add up in another order: some units in the last place.
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_tiled_equals_whole_for_the_srgan_generator(scale):
    torch.manual_seed(2)
    network = SRGANGenerator(SRGANOptions(scale=scale, channels=8, blocks=2)).eval()
    grid = Grid(45, 61, 2 * network.reach + 13, network.reach, 5)
    assert len(grid) > 4
    whole, tiled = whole_and_tiled(network, grid, scale)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)  # order of addition, as above


def test_a_halo_that_is_too_short_shows():
    """So that the tests above would fail if halos were ignored."""
    torch.manual_seed(1)
    network = Compact(CompactOptions(scale=2, channels=8, blocks=2)).eval()
    whole, tiled = whole_and_tiled(network, Grid(40, 40, 24, 0, 0), 2)
    assert (whole - tiled).abs().max() > 1e-4


def test_one_tile_is_neither_copied_nor_blended():
    grid = Grid(20, 30, 64, 4, 8)
    picture = torch.rand(1, 3, 20, 30)
    tiles = next(grid.batches(picture, 1))
    assert grid.shape == (20, 30)
    assert tiles.data_ptr() == picture.data_ptr()
    assert Blend(grid, 1, CPU).merge([tiles]).data_ptr() == picture.data_ptr()


def test_the_last_batch_repeats_its_last_tile():
    grid = Grid(10, 36, 16, 2, 2)
    picture = torch.rand(1, 3, 10, 36)
    batches = list(grid.batches(picture, 2))
    assert len(grid) == 3
    assert [batch.shape for batch in batches] == [(2, 3, 10, 16)] * 2
    assert torch.equal(batches[1][0], batches[1][1])


def test_half_precision_tiles_are_blended_in_fp32():
    grid = Grid(16, 40, 24, 2, 4)
    picture = torch.rand(1, 3, 16, 40).half()
    blended = Blend(grid, 1, CPU).merge(grid.batches(picture, 1))
    assert blended.dtype == torch.float32
    # Two equal values with weights that sum to one: one rounding of fp32.
    torch.testing.assert_close(blended, picture.float(), rtol=0, atol=1e-6)


def test_a_tile_that_is_all_halo_is_refused_with_the_way_out():
    with pytest.raises(RequestError, match=r"tile of 24 pixels.*--tile 25"):
        Grid(100, 100, 24, 10, 4)
    assert len(Grid(24, 24, 24, 10, 4)) == 1  # a picture of one tile needs no halo


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 4])
def test_bands_put_together_are_the_merged_picture_to_the_bit(layout, batch):
    grid = Grid(*layout)
    picture = torch.rand(1, 3, grid.height, grid.width)
    enlarged = [
        tiles.repeat_interleave(2, 2).repeat_interleave(2, 3) * torch.rand(batch, 1, 1, 1)
        for tiles in grid.batches(picture, batch)
    ]
    bands = list(Blend(grid, 2, CPU).bands(iter(enlarged)))
    assert all(band.shape[2] for band in bands)
    assert torch.equal(torch.cat(bands, dim=2), Blend(grid, 2, CPU).merge(iter(enlarged)))
