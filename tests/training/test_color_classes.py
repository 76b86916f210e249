import math

import pytest
import torch

from vidsr.models.pix2pix import NODES
from vidsr.training.color_classes import ColorClasses, class_prior, shared_out

COLORS = torch.cartesian_prod(torch.tensor(NODES), torch.tensor(NODES))


@pytest.fixture
def ab():
    torch.manual_seed(3)
    return torch.rand(2, 2, 5, 7) * 2 - 1


def test_the_mean_of_a_colors_classes_is_the_color(ab):
    places, shares = shared_out(ab, torch.tensor(NODES))
    assert shares.min() >= 0
    assert torch.allclose(shares.sum(-1), torch.ones(2, 5, 7))
    mean = (COLORS[places] * shares[..., None]).sum(-2)
    assert torch.allclose(mean.permute(0, 3, 1, 2), ab, atol=1e-6)


def test_the_ends_of_the_range_and_beyond_have_classes():
    ab = torch.tensor([[-1.0, 1.0, 0.0, 1.3], [1.0, -1.0, 0.0, -1.3]]).reshape(1, 2, 1, 4)
    places, shares = shared_out(ab, torch.tensor(NODES))
    mean = (COLORS[places] * shares[..., None]).sum(-2).permute(0, 3, 1, 2)
    assert torch.allclose(mean, ab.clamp(-1, 1), atol=1e-6)


def test_the_prior_counts_every_pixel_once(ab):
    prior = class_prior(ab)
    assert prior.shape == (169,)
    assert prior.sum() == pytest.approx(1, abs=1e-5)
    gray = class_prior(torch.zeros(1, 2, 4, 4))
    assert gray[84] == 1


def test_rare_colors_weigh_more_and_a_pixel_one_on_average():
    prior = torch.full((169,), 0.1 / 168)
    prior[84] = 0.9
    even, favoring = (ColorClasses(prior, rebalance).weights for rebalance in (0.0, 0.5))
    assert torch.allclose(even, torch.ones(169))
    assert favoring[0] > 3 * favoring[84]
    assert (favoring * prior).sum() == pytest.approx(1, abs=1e-5)


def test_losses_are_least_for_the_distribution_that_is_true():
    ab = torch.full((1, 2, 2, 2), 0.1)
    prior = torch.full((169,), 1 / 169)
    classes = ColorClasses(prior, 0.5)
    logits = torch.zeros(1, 2, 2, 169, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(150):
        entropy, error = classes.losses(logits, COLORS, ab)
        optimizer.zero_grad()
        (entropy + error).backward()
        optimizer.step()
    places, shares = shared_out(ab, classes.nodes)
    found = logits.detach().softmax(-1).gather(-1, places)
    assert torch.allclose(found, shares, atol=0.02)  # what so many steps reach
    assert error < 0.03


def test_every_picture_counts_by_the_logarithm_of_its_error():
    classes = ColorClasses(torch.full((169,), 1 / 169), 0.0)
    gray, ab = torch.zeros(2, 2, 2, 169), torch.zeros(2, 2, 2, 2)
    gray[..., 84] = 100.0  # the middle one of 169 colors
    ab[0, 0], ab[1, 0] = 0.1, 0.9
    _, error = classes.losses(gray, COLORS, ab)
    expected = sum(math.log1p(off**2 / 3e-3) for off in (0.1, 0.9)) / 2
    assert error.item() == pytest.approx(expected, rel=1e-3)
