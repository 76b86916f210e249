import pytest
import torch

from vidsr.training import precision
from vidsr.training.precision import training_precision

CPU = torch.device("cpu")


class Slow:
    """A trainee whose step takes a time of its own."""

    first_typical_step = 7

    def __init__(self, format_name):
        self.format_name = format_name

    def step(self, inputs, targets, number):
        assert number == self.first_typical_step


@pytest.mark.parametrize("slower", ["fp32", "bf16"])
def test_bf16_must_win_in_whole_steps_too(monkeypatch, slower):
    def step_seconds(trainee, inputs, targets):
        trainee.step(inputs, targets, 7)
        return 2 if trainee.format_name == slower else 1

    monkeypatch.setattr(precision, "fastest_precision", lambda _device: "bf16")
    monkeypatch.setattr(precision, "_step_seconds", step_seconds)
    assert training_precision("auto", CPU, Slow, torch.rand(1), torch.rand(1)) != slower


def test_steps_are_timed_only_where_bf16_may_win(monkeypatch):
    monkeypatch.setattr(precision, "fastest_precision", lambda _device: "fp32")
    assert training_precision("auto", CPU, pytest.fail, torch.rand(1), torch.rand(1)) == "fp32"
    assert training_precision("bf16", CPU, pytest.fail, torch.rand(1), torch.rand(1)) == "bf16"


def test_the_shortest_of_some_steps_counts_and_they_take_turns(monkeypatch):
    calls = []
    busy = iter([1, 9, 2, 1])  # seconds of fp32, bf16, fp32, ...; the first ones warm up

    def step_seconds(trainee, *_):
        calls.append(trainee.format_name)
        return next(busy)

    monkeypatch.setattr(precision, "fastest_precision", lambda _device: "bf16")
    monkeypatch.setattr(precision, "_step_seconds", step_seconds)
    assert training_precision("auto", CPU, Slow, torch.rand(1), torch.rand(1)) == "bf16"
    assert calls == ["fp32", "bf16"] * 2


def test_a_step_is_timed():
    assert 0 <= precision._step_seconds(Slow("fp32"), torch.rand(1), torch.rand(1)) < 1
