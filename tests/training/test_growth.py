import pytest
import torch

from vidsr.errors import ModelError
from vidsr.models.compact import Compact, CompactOptions
from vidsr.models.srgan import SRGANGenerator, SRGANOptions
from vidsr.training.growth import grow


@pytest.mark.parametrize(("channels", "blocks"), [(4, 2), (6, 2), (4, 5), (7, 4)])
def test_a_grown_compact_computes_what_the_small_one_did(channels, blocks):
    small = Compact(CompactOptions(scale=3, channels=4, blocks=2))
    for slope in (part.weight for part in small.body if isinstance(part, torch.nn.PReLU)):
        torch.nn.init.uniform_(slope)
    larger = grow(small, Compact(CompactOptions(scale=3, channels=channels, blocks=blocks)))
    picture = torch.rand(1, 3, 9, 11)
    # Sums of another order: a few units in the last place.
    torch.testing.assert_close(larger(picture), small(picture), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1, 2])
def test_a_compact_of_a_smaller_scale_begins_as_the_mean_of_its_pixels(scale):
    large = Compact(CompactOptions(scale=4, channels=4, blocks=2))
    small = grow(large, Compact(CompactOptions(scale=scale, channels=6, blocks=3)))
    picture = torch.rand(1, 3, 9, 11)
    mean = torch.nn.functional.avg_pool2d(large(picture), 4 // scale)
    torch.testing.assert_close(small(picture), mean, atol=1e-5, rtol=0)


def test_new_channels_and_layers_of_a_compact_learn():
    small = Compact(CompactOptions(scale=2, channels=4, blocks=1))
    larger = grow(small, Compact(CompactOptions(scale=2, channels=8, blocks=3)))
    larger(torch.rand(1, 3, 8, 8)).square().mean().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in larger.parameters() if weight.ndim == 4)


def test_a_deeper_srgan_computes_what_the_shallow_one_did():
    small = SRGANGenerator(SRGANOptions(scale=2, channels=4, blocks=1))
    larger = grow(small, SRGANGenerator(SRGANOptions(scale=2, channels=4, blocks=3)))
    picture = torch.rand(1, 3, 9, 11)
    torch.testing.assert_close(larger(picture), small(picture), atol=1e-6, rtol=0)


def test_an_srgan_generator_for_x2_keeps_what_x4_knows_up_to_the_first_doubling():
    large = SRGANGenerator(SRGANOptions(scale=4, channels=4, blocks=2))
    small = SRGANGenerator(SRGANOptions(scale=2, channels=4, blocks=3))
    fresh_tail = small.tail.weight.clone()
    picture = torch.rand(1, 3, 6, 5)

    grown = grow(large, small)

    shallow, kept = large.head(picture), grown.head(picture)
    before = large.upsample[0](shallow + large.fuse(large.trunk(shallow)))
    after = grown.upsample[0](kept + grown.fuse(grown.trunk(kept)))
    assert torch.equal(before, after)
    assert torch.equal(grown.tail.weight, fresh_tail)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_an_srgan_generator_can_begin_as_a_compact(scale):
    small = Compact(CompactOptions(scale=scale, channels=8, blocks=3))
    for slope in (part.weight for part in small.body if isinstance(part, torch.nn.PReLU)):
        torch.nn.init.uniform_(slope)
    larger = grow(small, SRGANGenerator(SRGANOptions(scale=scale, channels=20, blocks=5)))
    picture = torch.rand(1, 3, 9, 11)
    # Sums of another order: a few units in the last place.
    torch.testing.assert_close(larger(picture), small(picture), atol=1e-5, rtol=0)


def test_what_a_compact_leaves_unused_in_an_srgan_generator_learns():
    small = Compact(CompactOptions(scale=4, channels=4, blocks=1))
    larger = grow(small, SRGANGenerator(SRGANOptions(scale=4, channels=16, blocks=3)))
    optimizer = torch.optim.SGD(larger.parameters(), lr=0.1)
    for _ in range(6):  # each step wakes the layer before the one that it reached last
        optimizer.zero_grad()
        larger(torch.rand(2, 3, 8, 8)).sub(0.5).square().mean().backward()
        optimizer.step()
    assert all(weight.grad.abs().sum() > 0 for weight in larger.parameters() if weight.ndim == 4)


@pytest.mark.parametrize(
    "larger",
    [
        SRGANGenerator(SRGANOptions(scale=3, channels=7, blocks=4)),
        Compact(CompactOptions(scale=2, channels=4, blocks=2)),
        Compact(CompactOptions(scale=3, channels=3, blocks=2)),
        Compact(CompactOptions(scale=3, channels=4, blocks=1)),
        SRGANGenerator(SRGANOptions(scale=3, channels=4, blocks=2)),
    ],
)
def test_what_does_not_fit_is_refused_with_both_sizes(larger):
    small = Compact(CompactOptions(scale=3, channels=4, blocks=2))
    with pytest.raises(ModelError, match=r"cannot start from a Compact 4x2, x3"):
        grow(small, larger)
