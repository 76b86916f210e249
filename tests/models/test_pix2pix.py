import pytest
import torch

from vidsr.errors import ModelError
from vidsr.models.pix2pix import NODES, Pix2PixGenerator, Pix2PixLite, Pix2PixOptions, sharpen


@pytest.fixture(params=[Pix2PixGenerator, Pix2PixLite])
def network(request):
    torch.manual_seed(2)
    return request.param(Pix2PixOptions(channels=8, blocks=1)).eval()


def test_colors_come_at_half_the_size_and_within_their_range(network):
    for height, width in [(16, 16), (32, 48)]:
        with torch.inference_mode():
            ab = network(torch.rand(2, 1, height, width) * 2 - 1)
        assert ab.shape == (2, 2, height // 2, width // 2)
        assert ab.abs().max() <= 1


@pytest.mark.parametrize("size", [(17, 16), (16, 24)])
def test_other_sizes_are_refused_in_a_sentence(network, size):
    with pytest.raises(ModelError, match="multiples of 16, not"):
        network(torch.zeros(1, 1, *size))


def test_a_picture_is_colored_alike_in_every_batch(network):
    lightness = torch.rand(3, 1, 32, 32) * 2 - 1
    with torch.inference_mode():
        together = network(lightness)
        alone = network(lightness[1:2])
    assert torch.allclose(together[1:2], alone, atol=1e-5)  # sums in another order


def test_certain_of_a_color_it_answers_that_color(network):
    a, b = 9, 2
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.zero_()[a * len(NODES) + b] = 50
        ab = network(torch.zeros(1, 1, 16, 16))
    assert torch.allclose(ab[:, 0], torch.tensor(NODES[a]))
    assert torch.allclose(ab[:, 1], torch.tensor(NODES[b]))


def test_sharpening_goes_from_the_mean_to_the_likeliest_color(network):
    lightness = torch.rand(1, 1, 32, 32) * 2 - 1
    with torch.inference_mode():
        likeliest = network.colors[network.logits(lightness).argmax(-1)].permute(0, 3, 1, 2)
        distances = []
        for temperature in (1, 0.5, 0.1, 0.001):
            sharpen(network, temperature)
            distances.append(float((network(lightness) - likeliest).abs().mean()))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.01


def test_favored_colors_are_as_much_likelier(network):
    lightness = torch.rand(1, 1, 16, 16) * 2 - 1
    favor = torch.rand(169) + 0.5
    with torch.inference_mode():
        before = network.logits(lightness).softmax(-1) * favor
        sharpen(network, 1, favor)
        after = network.logits(lightness).softmax(-1)
    assert torch.allclose(after, before / before.sum(-1, keepdim=True), atol=1e-6)


def test_the_shipped_sizes_are_within_what_sixteen_megabytes_hold():
    with torch.device("meta"):
        network = Pix2PixGenerator(Pix2PixOptions())
    parameters = sum(weight.numel() for weight in network.parameters())
    assert 3e6 < parameters < 8e6  # two bytes each


def test_the_gain_strengthens_what_is_answered(network):
    stronger = type(network)(Pix2PixOptions(channels=8, blocks=1, gain=250)).eval()
    stronger.load_state_dict(network.state_dict())
    lightness = torch.rand(1, 1, 16, 16) * 2 - 1
    with torch.inference_mode():
        assert torch.allclose(stronger(lightness), 2.5 * network(lightness))


def test_channels_that_make_no_groups_are_refused():
    with pytest.raises(ModelError, match="12 channels"):
        Pix2PixOptions(channels=12)
