"""A race: turns, and no more of them than are needed."""

import itertools

from vidsr.engines import race as room
from vidsr.engines.race import processor_seconds, race


def runs_of(seconds):
    """Runs that report these seconds, one after the other, and the names as they were run."""
    tried = []

    def run_of(name, values):
        left = iter(values)

        def run():
            tried.append(name)
            return next(left)

        return run

    return {name: run_of(name, values) for name, values in seconds.items()}, tried


def test_ways_take_turns_and_their_shortest_run_counts():
    runs, tried = runs_of({"a": [9, 3, 2, 3], "b": [9, 2.5, 2.4, 1.5]})
    assert race(runs) == {"a": 2, "b": 1.5}
    assert tried == ["a", "b"] * 4  # then a was clearly slower


def test_a_first_run_is_only_a_warm_up():
    runs, _ = runs_of({"a": [1, *[3] * room.ROUNDS], "b": [5, *[3] * room.ROUNDS]})
    assert race(runs) == {"a": 3, "b": 3}


def test_what_is_hopeless_at_first_is_not_run_again():
    runs, tried = runs_of({"fp32": [1, 1, 1], "bf16": [20]})
    assert race(runs) == {"fp32": 1, "bf16": 20}
    assert tried == ["fp32", "bf16", "fp32"]


def test_equals_run_all_rounds_unless_time_is_up():
    runs, tried = runs_of({"a": itertools.repeat(1), "b": itertools.repeat(1)})
    race(runs)
    assert len(tried) == 2 * (room.ROUNDS + 1)
    tried.clear()
    race(runs, within=0)
    assert tried == ["a", "b", "a", "b"]


def test_processor_seconds_are_of_the_run(monkeypatch):
    clock = iter([5.0, 7.5])
    monkeypatch.setattr(room.time, "process_time", lambda: next(clock))
    assert processor_seconds(lambda: None) == 2.5
