import pytest
import torch

from vidsr.training.descent import LARGEST, adam, approach, descend, early_decay
from vidsr.training.run import _set_learning_rate


@pytest.mark.parametrize(("size", "step"), [(1.0, 1.0), (1000.0, LARGEST)])
def test_a_gradient_is_clipped_and_the_average_follows(size, step):
    network, average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.zero_()
        average.weight.zero_()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    descend(-size * network.weight.sum(), network, optimizer)
    approach(average, network, 0.9)
    assert network.weight.item() == pytest.approx(step, rel=1e-4)
    assert average.weight.item() == pytest.approx(0.1 * step, rel=1e-4)


def test_an_average_follows_closely_at_the_start():
    assert [early_decay(0.5, number) for number in (0, 10, 1000)] == [0.0, 0.5, 0.5]


def test_a_learning_rate_on_a_device_is_changed_where_it_is():
    weight = torch.nn.Parameter(torch.zeros(1))
    rate = torch.tensor(1.0)
    optimizer = torch.optim.Adam([weight], lr=rate, fused=True)
    held = optimizer.param_groups[0]["lr"]
    _set_learning_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] is held
    assert held.item() == 0.25
    plain = adam([weight], torch.device("cpu"), lr=1e-3)
    _set_learning_rate(plain, 0.5)
    assert plain.param_groups[0]["lr"] == 0.5
