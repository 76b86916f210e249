"""Stages keep sizes, values and promises: memory, precision, range."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from vidsr.engines.torch_engine import TorchEngine
from vidsr.errors import ModelError, OutOfMemory
from vidsr.models.compact import Compact, CompactOptions
from vidsr.resize import Resize
from vidsr.reuse import BLOCK
from vidsr.stages import Repeat, Upscale, bytes_per_pixel, choose_tile
from vidsr.tiling import Rect

CPU = torch.device("cpu")
ORDER = 1e-5  # convolutions of another shape add up in another order


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Compact(CompactOptions(scale=2, channels=8, blocks=2)).eval()


def upscale_of(network, tile=24, batch=3):
    engine = TorchEngine(network, scale=2, device=CPU, precision="fp32", tile=(tile, tile))
    return Upscale(engine, halo=network.reach, overlap=4, tile=tile, batch=batch)


@dataclasses.dataclass
class FakeEngine:
    """Nearest-neighbour enlargement with a memory limit and, in half precision, NaN at white."""

    scale: int = 2
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    tile: tuple[int, int] = (8, 8)
    batch: int = 1
    most_pixels: int = 1 << 30
    broken: bool = False
    any_shape: bool = True
    block: int = 1
    shapes: list = dataclasses.field(default_factory=list)  # of all calls, shared when resized

    def __call__(self, tiles):
        assert tiles.shape == (self.batch, 3, *self.tile)
        self.shapes.append(tuple(tiles.shape))
        if tiles[:, 0].numel() > self.most_pixels:
            raise OutOfMemory("fake: out of memory")
        output = F.interpolate(tiles.clamp(0, 1), scale_factor=self.scale, mode="nearest")
        if self.dtype != torch.float32 or self.broken:
            output = output.masked_fill(output == 1, torch.nan)
        return output.to(self.dtype)

    def resized(self, tile, batch):
        return dataclasses.replace(self, tile=tile, batch=batch)

    def in_fp32(self):
        return dataclasses.replace(self, dtype=torch.float32)


def fake_upscale(tile=16, batch=2, **options):
    return Upscale(FakeEngine(**options), halo=2, overlap=4, tile=tile, batch=batch)


# Upscale


@pytest.mark.parametrize("size", [(45, 61), (24, 25), (7, 90), (5, 3)])
@pytest.mark.parametrize("batch", [1, 3])
def test_tiles_in_batches_equal_the_whole_picture(network, size, batch):
    picture = torch.rand(1, 3, *size)
    stage = upscale_of(network, batch=batch)
    output = stage(picture)
    assert tuple(output.shape[-2:]) == stage.output_size(*size)
    assert not bool(stage.faulty)
    torch.testing.assert_close(output, network(picture), rtol=0, atol=ORDER)


def test_pictures_of_changing_size_all_fit(network):
    stage = upscale_of(network)
    for size in [(30, 40), (10, 12), (30, 40), (64, 20)]:
        picture = torch.rand(1, 3, *size)
        torch.testing.assert_close(stage(picture), network(picture), rtol=0, atol=ORDER)


def test_the_same_picture_gives_the_same_bits(network):
    picture = torch.rand(1, 3, 45, 61)
    stage = upscale_of(network)
    assert torch.equal(stage(picture), stage(picture))


def test_batches_have_one_shape_and_little_padding():
    stage = fake_upscale(tile=16, batch=4)
    stage(torch.rand(1, 3, 16, 48))  # five tiles: 3 + 3 rather than 4 + 4
    assert stage._engine.shapes == [(3, 3, 16, 16)] * 2


def test_values_outside_the_display_range_survive(network):
    picture = torch.rand(1, 3, 30, 40)
    picture[:, :, 10:20, 10:20] = 1.2
    picture[:, :, 22:28, 10:20] = -0.1
    clamped = picture.clamp(0, 1)
    for tile in (24, 64):
        output = upscale_of(network, tile=tile)(picture)
        detail = output - upscale_of(network, tile=tile)(clamped)
        excess = F.interpolate(picture - clamped, scale_factor=2.0, mode="bilinear")
        torch.testing.assert_close(detail, excess, rtol=0, atol=1e-6)  # one rounding of fp32
        assert detail[0, 0, 30, 30] == pytest.approx(0.2, abs=1e-6)


def test_the_input_picture_is_left_alone(network):
    picture = torch.rand(1, 3, 30, 40) * 2 - 0.5
    before = picture.clone()
    upscale_of(network)(picture)
    assert torch.equal(picture, before)


# Out of memory


def test_out_of_memory_is_the_same_picture_with_smaller_tiles():
    picture = torch.rand(1, 3, 64, 90)
    stage = fake_upscale(tile=60, batch=2, most_pixels=40 * 40)
    expected = fake_upscale(tile=1000, batch=1)(picture)
    # The seams mix two equal values: one rounding of fp32.
    torch.testing.assert_close(stage(picture), expected, rtol=0, atol=1e-6)
    assert (stage.tile, stage.batch) == (30, 1)
    assert stage.counters.retiled == 1


def test_the_smaller_tile_is_kept():
    picture = torch.rand(1, 3, 64, 90)
    stage = fake_upscale(tile=1000, batch=1, most_pixels=30 * 30)
    first = stage(picture)
    assert stage.tile == 24  # 90 -> 45 -> the floor: 2 * 2 + 4 + 16
    assert stage.counters.retiled == 2
    assert torch.equal(stage(picture), first)
    assert stage.counters.retiled == 2


def test_out_of_memory_with_a_real_network_changes_nothing(network):
    class Small(TorchEngine):
        def __call__(self, tiles):
            if tiles.shape[-1] > 40:
                raise OutOfMemory("small")
            return super().__call__(tiles)

    picture = torch.rand(1, 3, 61, 75)
    engine = Small(network, scale=2, device=CPU, precision="fp32", tile=(75, 75))
    stage = Upscale(engine, halo=network.reach, overlap=4, tile=256, batch=1)
    torch.testing.assert_close(stage(picture), network(picture), rtol=0, atol=ORDER)
    assert stage.counters.retiled == 1


@pytest.mark.parametrize("size", [(64, 90), (6, 5)])
def test_out_of_memory_at_the_smallest_tile_goes_up_with_the_way_out(size):
    stage = fake_upscale(tile=64, batch=4, most_pixels=4)
    with pytest.raises(OutOfMemory, match=r"tiles of \d+ pixels.*--tile"):
        stage(torch.rand(1, 3, *size))


def test_after_a_small_picture_that_did_not_fit_a_large_one_still_can():
    stage = fake_upscale(tile=64, batch=2, most_pixels=24 * 24)
    engine = stage._engine
    stage._engine = dataclasses.replace(engine, most_pixels=4)
    with pytest.raises(OutOfMemory):
        stage(torch.rand(1, 3, 6, 5))
    stage._engine, stage._fit = engine, None
    assert stage(torch.rand(1, 3, 64, 90)).shape == (1, 3, 128, 180)


# Half precision


def white_spot():
    picture = torch.rand(1, 3, 40, 60) * 0.9
    picture[0, 0, 3, 50] = 1.0
    return picture


def test_a_non_finite_tile_is_flagged_and_computed_again_in_fp32():
    picture = white_spot()
    stage = fake_upscale(tile=24, dtype=torch.float16)
    stage(picture)
    assert stage.faulty is not None
    assert bool(stage.faulty)
    mended = stage.redo(picture)
    assert stage.faulty is None
    assert stage.counters.recomputed == 1
    expected = F.interpolate(picture, scale_factor=2.0, mode="nearest")
    # fp16 has 11 bits of mantissa: half a unit in the last place below 1 is 2^-12.
    torch.testing.assert_close(mended, expected, rtol=0, atol=2**-12 + 1e-6)
    assert torch.equal(mended[0, :, 2:10, 96:104], expected[0, :, 2:10, 96:104])  # fp32 there


def test_a_finite_half_precision_picture_is_not_flagged():
    stage = fake_upscale(dtype=torch.float16)
    stage(torch.rand(1, 3, 40, 60) * 0.9)
    assert stage.faulty is not None
    assert not bool(stage.faulty)


def test_fp32_is_not_trusted_to_be_finite():
    stage = fake_upscale(dtype=torch.float32)
    picture = torch.rand(1, 3, 40, 60)
    picture[..., 5, 50] = torch.nan
    stage(picture)
    assert bool(stage.faulty)
    with pytest.raises(ModelError, match="not finite even in fp32"):
        stage.redo(picture)


def test_redo_of_a_finite_picture_gives_the_same_bits():
    picture = torch.rand(1, 3, 40, 60) * 0.9
    stage = fake_upscale(dtype=torch.float16)
    assert torch.equal(stage(picture), stage.redo(picture))
    assert stage.counters.recomputed == 0


def test_redo_falls_back_to_smaller_tiles_too():
    picture = white_spot()
    stage = fake_upscale(tile=60, batch=1, dtype=torch.float16, most_pixels=24 * 24)
    assert stage.redo(picture).isfinite().all()
    assert stage.counters.retiled == 2


def test_weights_that_are_broken_in_fp32_too_are_a_model_error():
    stage = fake_upscale(dtype=torch.float16, broken=True)
    with pytest.raises(ModelError, match="not finite even in fp32"):
        stage.redo(white_spot())


# Repeat


def test_repeat_keeps_every_value():
    picture = torch.randn(1, 3, 5, 7)
    enlarged = Repeat(3)(picture)
    assert tuple(enlarged.shape[-2:]) == Repeat(3).output_size(5, 7) == (15, 21)
    assert all(torch.equal(enlarged[..., y::3, x::3], picture) for y in range(3) for x in range(3))
    assert Repeat()(picture) is picture


# Bands


@pytest.mark.parametrize("size", [(45, 61), (7, 90), (5, 3)])
@pytest.mark.parametrize("batch", [1, 3])
def test_bands_are_the_whole_picture_to_the_bit(network, size, batch):
    picture = torch.rand(1, 3, *size) * 1.2 - 0.1  # some of it outside [0, 1]
    stage = upscale_of(network, batch=batch)
    assert torch.equal(torch.cat(list(stage.bands(picture)), dim=2), stage(picture))


def test_a_band_holds_a_row_of_tiles_and_not_the_picture(network):
    stage = upscale_of(network)
    heights = [band.shape[-2] for band in stage.bands(torch.rand(1, 3, 200, 30))]
    assert sum(heights) == 400
    assert max(heights) <= 2 * stage.tile


def test_memory_that_runs_out_between_bands_gives_no_row_twice():
    picture = torch.rand(1, 3, 90, 40)
    stage = fake_upscale(tile=32)
    bands = stage.bands(picture)
    first = next(bands)
    stage._fit.engine.most_pixels = 24 * 24  # from now on, only the least tile fits
    whole = torch.cat([first, *bands], dim=2)
    assert stage.counters.retiled
    expected = F.interpolate(picture, scale_factor=2.0, mode="nearest")
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-6)  # a seam's weights, in fp32


def test_tiles_of_a_band_that_are_not_finite_are_computed_again_and_counted():
    picture = torch.zeros(1, 3, 40, 40)
    picture[..., 3, 3] = 1.0
    stage = fake_upscale(dtype=torch.float16)
    whole = torch.cat(list(stage.bands(picture)), dim=2)
    assert torch.equal(whole, F.interpolate(picture, scale_factor=2.0, mode="nearest"))
    assert stage.counters.recomputed == 1


@pytest.mark.parametrize("size", [(90, 61), (33, 40), (150, 200), (64, 48)])
def test_a_reduction_of_bands_is_that_of_the_whole(size):
    picture = torch.rand(1, 3, *size)
    stage = Resize(64, 48)
    bands = list(stage.bands(picture.split(7, dim=2), size[0]))
    # A matrix product of fewer rows may add up in another order.
    torch.testing.assert_close(torch.cat(bands, dim=2), stage(picture), rtol=0, atol=1e-6)


# Parts of a picture


def changed_at(size, *places):
    blocks = np.zeros([-(-side // BLOCK) for side in size], bool)
    for place in places:
        blocks[place] = True
    return blocks


@pytest.mark.parametrize("tile", [24, 64, 200])
@pytest.mark.parametrize("shift", [0.0, 0.3])  # 0.3: parts of the picture leave the display range
def test_parts_are_to_the_bit_what_the_whole_has_there(network, tile, shift):
    picture = torch.rand(1, 3, 100, 150) + shift
    stage, other = upscale_of(network, tile=tile), upscale_of(network, tile=tile)
    parts = [Rect(0, 0, 16, 24), Rect(40, 56, 71, 150)]
    whole, some = stage(picture), other(picture, parts)
    for part in parts:
        assert torch.equal(part.of(some, 2), part.of(whole, 2))


def test_only_what_depends_on_a_changed_block_is_computed(network):
    stage = upscale_of(network, tile=200)
    parts = stage.affected(changed_at((160, 160), (10, 10)), (160, 160), 2)
    assert parts == (Rect(72, 72, 96, 96),)
    stage(torch.rand(1, 3, 160, 160), parts)
    assert stage.counters.computed == pytest.approx(96**2 / 160**2)  # less would not be exact


def test_where_nearly_all_changed_the_whole_is_computed(network):
    stage = upscale_of(network, tile=200)
    assert stage.affected(changed_at((160, 160), slice(1, 19)), (160, 160), 2) is None


def test_an_engine_of_fixed_shapes_computes_whole_tiles():
    stage = fake_upscale(tile=40, batch=2, any_shape=False)
    picture = torch.rand(1, 3, 160, 160)
    parts = stage.affected(changed_at((160, 160), (0, 0)), (160, 160), 2)
    assert parts is not None
    whole = fake_upscale(tile=40, batch=2)(picture)
    some = stage(picture, parts)
    for part in parts:
        inside = part.shared_with(Rect(0, 0, 160, 160))
        assert torch.equal(inside.of(some, 2), inside.of(whole, 2))
    assert 0 < stage.counters.computed < 0.5


def test_a_halo_that_is_too_short_is_noticed(network):
    engine = TorchEngine(network, scale=2, device=CPU, precision="fp32", tile=(200, 200))
    stage = Upscale(engine, halo=network.reach - 1, overlap=0, tile=200, batch=1)
    assert stage.affected(changed_at((160, 160), (1, 1)), (160, 160), 0) is None


def test_parts_that_are_not_finite_are_computed_again_in_fp32():
    stage = fake_upscale(tile=200, batch=1, dtype=torch.float16)
    picture = torch.rand(1, 3, 64, 64)
    picture[..., 10, 10] = 1
    parts = [Rect(0, 0, 16, 16)]
    stage(picture, parts)
    assert stage.faulty is not None
    assert bool(stage.faulty)
    mended = stage.redo(picture, parts)
    nearest = fake_upscale(tile=200)(picture)
    torch.testing.assert_close(parts[0].of(mended, 2), parts[0].of(nearest, 2), rtol=0, atol=1e-3)
    assert stage.counters.recomputed == 1


# Resize


@pytest.mark.parametrize(
    "size", [(40, 60), (200, 100), (67, 131), (1, 1), (90, 300), (33, 121), (3, 500)]
)
def test_resize_is_pillows_lanczos(size):
    picture = torch.rand(1, 3, 90, 121) * 1.4 - 0.2  # some of it out of range: nothing is clipped
    stage = Resize(*size)
    output = stage(picture)
    assert tuple(output.shape[-2:]) == stage.output_size(90, 121) == size
    for plane, ours in zip(picture[0].numpy(), output[0].numpy(), strict=True):
        image = Image.fromarray(plane).resize(size[::-1], Image.Resampling.LANCZOS)
        # Pillow rounds its float weights elsewhere: a few units in the last place.
        np.testing.assert_allclose(ours, np.asarray(image), rtol=0, atol=1e-5)


def test_resize_follows_pictures_of_changing_size():
    stage = Resize(20, 30)
    for size in [(40, 60), (41, 60), (40, 60)]:
        flat = stage(torch.full((1, 3, *size), 0.5))
        # Weights sum to one: flat stays flat but for the rounding of some twenty products.
        torch.testing.assert_close(flat, torch.full((1, 3, 20, 30), 0.5), rtol=0, atol=1e-6)


def test_resize_to_the_same_size_does_nothing():
    picture = torch.rand(1, 3, 20, 30)
    assert Resize(20, 30)(picture) is picture


# All stages


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_stage_keeps_its_contract(network, memory_format):
    picture = torch.rand(1, 3, 21, 34).contiguous(memory_format=memory_format)
    for stage in (upscale_of(network), Repeat(2), Resize(50, 40)):
        output = stage(picture)
        assert output.shape == (1, 3, *stage.output_size(21, 34))
        assert output.dtype == torch.float32
        assert stage.keeps_luma is False
        assert not bool(stage.faulty)
        stage.reset()
        assert torch.equal(stage.redo(picture), output)


# Choosing a tile


def chosen(height, width, memory=1 << 34, device_type="cuda", pixel_bytes=1000):
    return choose_tile(
        height,
        width,
        margin=36,
        pixel_bytes=pixel_bytes,
        memory_bytes=memory,
        device_type=device_type,
    )


@pytest.mark.parametrize("device_type", ["cpu", "cuda", "mps"])
def test_a_small_picture_is_one_tile(device_type):
    assert chosen(180, 320, device_type=device_type) == (320, 1)


@pytest.mark.parametrize("device_type", ["cpu", "cuda", "mps"])
def test_less_memory_means_smaller_tiles_down_to_a_floor(device_type):
    choices = [chosen(1080, 1920, memory, device_type) for memory in (1 << 34, 1 << 26, 1 << 24, 0)]
    sides = [side for side, _ in choices]
    assert sides == sorted(sides, reverse=True)
    assert sides[-1] == 36 + 16
    assert all(side**2 * batch * 1000 <= 1 << 26 for side, batch in choices[1:3])


def test_a_narrow_picture_fills_its_batches():
    side, batch = chosen(128, 100_000)
    assert batch == 1024 * 1024 // (side * 128)


def test_on_the_cpu_a_tile_takes_so_much_memory_and_loses_little_to_its_halo():
    wide = bytes_per_pixel(64, 4, 4)
    assert chosen(480, 640, device_type="cpu", pixel_bytes=wide) == (640, 1)  # whole
    side, _ = chosen(2160, 3840, device_type="cpu", pixel_bytes=wide)
    assert side**2 * wide <= 768 << 20
    assert (side - 36) ** 2 > 0.9 * side**2


def test_bytes_grow_with_channels_scale_and_precision():
    small = bytes_per_pixel(32, 2, 2)
    assert small == 2 * (3 * 32 + 4 * 12)
    assert bytes_per_pixel(64, 2, 2) > small
    assert bytes_per_pixel(32, 4, 2) > small
    assert bytes_per_pixel(32, 2, 4) == 2 * small
    assert bytes_per_pixel(32, 2, 2, output_channels=32) > small
