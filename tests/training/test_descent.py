import pytest
import torch

from vidsr.training.descent import LARGEST, early_decay, follow


@pytest.mark.parametrize(("size", "step"), [(1.0, 1.0), (1000.0, LARGEST)])
def test_a_gradient_is_clipped_and_the_average_follows(size, step):
    network, average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.zero_()
        average.weight.zero_()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    follow(-size * network.weight.sum(), network, average, optimizer, 0.9)
    assert network.weight.item() == pytest.approx(step, rel=1e-4)
    assert average.weight.item() == pytest.approx(0.1 * step, rel=1e-4)


def test_an_average_follows_closely_at_the_start():
    assert [early_decay(0.5, number) for number in (0, 10, 1000)] == [0.0, 0.5, 0.5]
