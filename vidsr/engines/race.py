"""Which of several ways to do one thing takes the least time, on a machine that does others too.

The ways take turns, so that what else happens meets all of them, and processor seconds count: other
programs do not, and waiting for memory does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

ROUNDS = 9  # runs of each way at most, after a first one that is not counted
SECONDS = 2.0  # of measuring at most, but for a round that has begun
CLEARLY_SLOWER = 1.25  # times the fastest: such a way need not be run again
HOPELESS = 10.0  # times the fastest in the first run, which compiles and fetches memory

Way = TypeVar("Way")


def race(runs: Mapping[Way, Callable[[], float]], *, within: float = SECONDS) -> dict[Way, float]:
    """The least seconds of each way, as its runs report them, over several rounds.

    Args:
        runs: runs a way once and tells the seconds that count.
        within: wall seconds after which no round begins.
    """
    first = {way: run() for way, run in runs.items()}
    running = {way for way in first if first[way] < HOPELESS * min(first.values())}
    least = {way: math.inf if way in running else first[way] for way in runs}
    began = time.perf_counter()
    for _ in range(ROUNDS):
        for way in (way for way in runs if way in running):
            least[way] = min(least[way], runs[way]())
        running = {way for way in running if least[way] < CLEARLY_SLOWER * min(least.values())}
        if len(running) < 2 or time.perf_counter() - began > (
            SECONDS if within is None else within
        ):
            break
    return least


def processor_seconds(run: Callable[[], object]) -> float:
    """Of one run, all threads of this process together."""
    began = time.process_time()
    run()
    return time.process_time() - began
