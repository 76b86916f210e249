import pytest
import torch

from vidsr.errors import ModelError
from vidsr.models.compact import Compact, CompactOptions
from vidsr.models.rrdb import RRDBNet, RRDBOptions
from vidsr.models.srgan import (
    MSRResNet,
    SRGANGenerator,
    SRGANOptions,
    convolve_and_shuffle,
    convolve_by_rows,
    convolve_in_parts,
)

SMALL = [
    *(Compact(CompactOptions(scale=s, channels=4, blocks=2)) for s in (2, 3, 4)),
    *(SRGANGenerator(SRGANOptions(scale=s, channels=4, blocks=1)) for s in (2, 3, 4)),
    *(MSRResNet(SRGANOptions(scale=s, channels=8, blocks=1)) for s in (2, 3, 4)),
    *(RRDBNet(RRDBOptions(scale=s, channels=4, blocks=1, growth=2)) for s in (1, 2, 4)),
]


def name_of(network):
    return f"{type(network).__name__}-x{network.options.scale}"


def parameters_of(network):
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize("network", SMALL, ids=name_of)
def test_every_size_is_enlarged_by_the_scale(network):
    scale = network.options.scale
    for height, width in [(16, 16), (7, 13), (1, 1)]:
        with torch.inference_mode():
            output = network(torch.rand(2, 3, height, width))
        assert output.shape == (2, 3, height * scale, width * scale)


@pytest.mark.parametrize("size", [(16, 24), (5, 3), (1, 1)])
def test_a_convolution_in_parts_is_the_whole_one_up_to_the_border(size):
    torch.manual_seed(0)
    whole = torch.nn.Conv2d(6, 3, 9, padding=4, dtype=torch.float64)
    features = torch.rand(2, 6, *size, dtype=torch.float64)
    assert torch.allclose(
        convolve_in_parts(features, whole.weight, whole.bias), whole(features), atol=1e-12
    )
    assert torch.allclose(
        convolve_by_rows(features, whole.weight, whole.bias), whole(features), atol=1e-12
    )


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_shuffling_by_channels_is_a_pixel_shuffle(factor, layout):
    conv = torch.nn.Conv2d(6, 4 * factor**2, 3, padding=1, dtype=torch.float64)
    features = torch.rand(2, 6, 5, 7, dtype=torch.float64).contiguous(memory_format=layout)
    ours = convolve_and_shuffle(features, conv.weight, conv.bias, factor)
    assert torch.allclose(ours, torch.pixel_shuffle(conv(features), factor), atol=1e-12)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_training_takes_the_last_convolution_whole():
    # torch crashes in the gradient of the parts: see Note [The last convolution]
    torch.manual_seed(0)
    network = SRGANGenerator(SRGANOptions(channels=8, blocks=1)).to(
        memory_format=torch.channels_last
    )
    pictures = torch.rand(2, 3, 24, 24).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network(pictures).float().mean().backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in network.parameters())
    with torch.inference_mode():
        assert torch.allclose(network(pictures), network.eval()(pictures), atol=1e-5)


@pytest.mark.parametrize("network", SMALL, ids=name_of)
def test_an_output_pixel_looks_exactly_as_far_as_reach(network):
    # The gradient of one input pixel's worth of output, in fp64: exactly zero beyond the reach,
    # which tiling relies on, and not zero at it, or tiles would be larger than they need be.
    torch.manual_seed(1)
    scale, reach = network.options.scale, network.reach
    center = (reach + 7) // 4 * 4  # where a folded network's grid begins
    picture = torch.rand(1, 3, 2 * center + 8, 2 * center + 8, dtype=torch.float64)
    picture.requires_grad_()
    block = slice(center * scale, (center + 1) * scale)
    output = network.double().eval()(picture)[:, :, block, block]
    (output * torch.rand_like(output)).sum().backward()
    network.float()
    rows, columns = torch.nonzero(picture.grad.abs().sum(dim=(0, 1)), as_tuple=True)
    distance = torch.maximum((rows - center).abs(), (columns - center).abs()).max()
    assert int(distance) == reach


def test_the_published_generator_has_its_size():
    # 1.55 M (Ledig et al. 2017, with batch norm): ends 15,680 and 15,555, sixteen blocks of
    # 73,920, the long skip's convolution 36,928, two doublings of 147,776.
    assert parameters_of(SRGANGenerator(SRGANOptions(scale=4))) == 1_546_435
    assert SRGANGenerator(SRGANOptions(scale=4)).reach == 40


def test_the_compact_generator_has_the_public_size():
    # SRVGGNetCompact 64x16 x4, realesr-animevideov3: 621,424 parameters.
    assert parameters_of(Compact(CompactOptions())) == 621_424


def test_scales_that_do_not_exist_are_refused():
    with pytest.raises(ModelError, match="scale 5"):
        SRGANOptions(scale=5)
    with pytest.raises(ModelError, match="scale 3"):
        RRDBOptions(scale=3)
