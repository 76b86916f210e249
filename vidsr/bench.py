"""How fast this machine is: every model with every engine at the usual sizes, and what to choose.

It is the network's time alone, all workers at once as in a run: on a processor decoding, colour and
encoding take some tenths more for the smallest networks and nothing that counts for the large ones.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from vidsr.engines.choice import LIBRARIES, EngineName, measured_side
from vidsr.errors import RequestError
from vidsr.models.card import ModelCard, shipped_cards
from vidsr.models.families import family_of, members_of
from vidsr.models.load import Network, load_mixed
from vidsr.networks import EnginePlan, open_stages, plan_engine
from vidsr.planning import Target
from vidsr.request import EngineRequest
from vidsr.stages import Stage
from vidsr.tiling import Grid

SIZES = {"480p": (854, 480), "720p": (1280, 720), "1080p": (1920, 1080)}  # (width, height)
VIDEO_RATE = 24  # frames in a second of the hour of video that times are told for
EQUAL = 1.03  # times the fastest: a difference within noise
MOST_RUNS = 5  # of one measurement
OVERNIGHT = 12 * 3600.0  # seconds that an hour of video may take and still be advised
CAREFUL = ("photo", "anime", "fast")  # families, the best pictures first


@dataclass(frozen=True)
class Timing:
    """One model with one engine at one input size."""

    model: str
    scale: int
    engine: EngineName
    precision: str
    device: str
    size: str  # a key of SIZES
    seconds_per_frame: float  # of the whole machine: frames that are computed at once share it
    scaled: bool  # a smaller piece was measured, and scaled by the pixels that are computed

    @property
    def frames_per_second(self) -> float:
        """Of the network alone."""
        return 1 / self.seconds_per_frame

    @property
    def hour_seconds(self) -> float:
        """What an hour of video at `VIDEO_RATE` takes."""
        return 3600 * VIDEO_RATE * self.seconds_per_frame


@dataclass(frozen=True)
class BenchRequest:
    """What is to be measured."""

    model: str | None = None  # a family, a member or a checkpoint; None: all that ship
    device: str = "auto"
    seconds: float = 2.0  # that one figure may take; about twice that with its first run
    cache_dir: Path | None = None


def benched(request: BenchRequest) -> list[tuple[str, EngineName]]:
    """Models and engines that are measured, `len(SIZES)` timings each.

    Raises:
        ModelError: no such model.
        RequestError: nothing is there that enlarges.
    """
    if request.model is None:
        cards = [card for card in shipped_cards() if not card.is_twin]
    else:
        cards = members_of(request.model)
    names = {card.name: card for card in cards if card.task == "upscale"}
    if not names:
        raise RequestError(f"{request.model or 'what ships'}: no model that enlarges")
    engines: list[EngineName] = ["torch"]
    if request.device in {"auto", "cpu"}:
        engines += [engine for engine, library in LIBRARIES.items() if library.installed()]
    return [(_word(request, card), engine) for card in names.values() for engine in engines]


def _word(request: BenchRequest, card: ModelCard) -> str:
    """What names one card: a checkpoint's own path, else the card's name."""
    shipped = request.model is None or family_of(request.model)
    return card.name if shipped or request.model is None else request.model


def run_bench(request: BenchRequest) -> Iterator[Timing]:
    """Measure everything, one timing after the other.

    Raises:
        VidsrError: as `benched`, or the device failed.
    """
    threads = torch.get_num_threads()
    try:
        for model, engine in benched(request):
            yield from _timings(model, engine, request)
    finally:
        torch.set_num_threads(threads)


def _timings(model: str, engine: EngineName, request: BenchRequest) -> Iterator[Timing]:
    asked = EngineRequest(model=model, device=request.device, engine=engine)
    plans = {
        name: plan_engine(asked, Fraction(1), size, cache_dir=request.cache_dir)
        for name, size in SIZES.items()
    }
    largest = plans[max(SIZES, key=lambda name: math.prod(SIZES[name]))]
    network = load_mixed(largest.weights)
    second_pixels = _pixels_in_a_second(largest, network, request.seconds)
    for name, planned in plans.items():
        size = SIZES[name]
        seconds = _computed_pixels(planned, size) / second_pixels
        whole = seconds * planned.workers < request.seconds
        if whole:
            seconds = _frame_seconds(planned, network, size, request.seconds)
        yield Timing(
            model=planned.card.name,
            scale=planned.card.scale,
            engine=planned.kind,
            precision=planned.precision,
            device=planned.device,
            size=name,
            seconds_per_frame=seconds,
            scaled=not whole,
        )


def _pixels_in_a_second(planned: EnginePlan, network: Network, seconds: float) -> float:
    """Input pixels that all workers compute together, on the largest piece that time allows."""
    side = min(planned.tile, measured_side(network))
    rate = side**2 / _frame_seconds(planned, network, (side, side), seconds / 2)
    larger = min(planned.tile, math.isqrt(int(rate * seconds / planned.workers)))
    if larger <= side:
        return rate
    return larger**2 / _frame_seconds(planned, network, (larger, larger), seconds)


def _computed_pixels(planned: EnginePlan, size: tuple[int, int]) -> int:
    """Input pixels of all tiles of a frame, halos included."""
    grid = Grid(size[1], size[0], planned.tile, planned.card.halo, planned.overlap)
    return len(grid) * math.prod(grid.shape)


def _frame_seconds(
    planned: EnginePlan, network: Network, size: tuple[int, int], seconds: float
) -> float:
    """Seconds of the machine for a frame of `size` (width, height): the median of some runs."""
    width, height = size
    scale = planned.card.scale
    target = Target(width * scale, height * scale, Fraction(scale), square_pixels=False)
    picture = torch.rand(1, 3, height, width, device=planned.device)
    torch.set_num_threads(planned.threads)
    workers = [open_stages(planned, target, network) for _ in range(planned.workers)]
    with ThreadPoolExecutor(len(workers)) as pool:

        def all_at_once() -> float:
            began = time.perf_counter()
            list(pool.map(lambda stages: _enlarge(stages, picture), workers))
            return (time.perf_counter() - began) / len(workers)

        all_at_once()  # compiles, and fetches memory
        taken = [all_at_once()]
        while len(taken) < MOST_RUNS and sum(taken) * len(workers) < seconds:
            taken.append(all_at_once())
    return statistics.median(taken)


@torch.inference_mode()
def _enlarge(stages: list[Stage], picture: torch.Tensor) -> None:
    for stage in stages:
        picture = stage(picture)
    picture[..., 0, 0].cpu()  # waits for the device


def advice(timings: Sequence[Timing]) -> list[str]:
    """What to choose, in sentences: an engine for each model, and a model for each size."""
    sentences = []
    for model in dict.fromkeys(timing.model for timing in timings):
        sentences += _engine_advice([timing for timing in timings if timing.model == model])
    for size in dict.fromkeys(timing.size for timing in timings):
        sentences.append(_size_advice([timing for timing in timings if timing.size == size]))
    return sentences


def _engine_advice(timings: Sequence[Timing]) -> list[str]:
    """Which engine is the fastest for one model, if there are several."""
    totals = {
        engine: sum(timing.seconds_per_frame for timing in timings if timing.engine == engine)
        for engine in dict.fromkeys(timing.engine for timing in timings)
    }
    if len(totals) < 2:
        return []
    best, *others = sorted(totals, key=lambda engine: totals[engine])
    gains = {engine: totals[engine] / totals[best] for engine in others}
    equal = [best, *(engine for engine in others if gains[engine] < EQUAL)]
    slower = [engine for engine in others if engine not in equal]
    names, verb = " and ".join(equal), "is" if len(equal) == 1 else "are"
    words = [f"{gains[engine]:.2f} times as fast as {engine}" for engine in slower]
    return [f"{timings[0].model}: {names} {verb} {', '.join(words) or 'equally fast'}"]


def _size_advice(timings: Sequence[Timing]) -> str:
    """The model with the best pictures that still gets an hour of video done overnight."""
    affordable = [timing for timing in timings if timing.hour_seconds <= OVERNIGHT]
    if affordable:
        best = min(affordable, key=lambda timing: (_carefulness(timing), timing.hour_seconds))
        return f"{best.size}: --model {best.model}, an hour of video takes {hours(best)}"
    best = min(timings, key=lambda timing: timing.hour_seconds)
    return (
        f"{best.size}: nothing does an hour of video overnight here; the fastest, --model "
        f"{best.model}, takes {hours(best)}"
    )


def _carefulness(timing: Timing) -> int:
    family = timing.model.rpartition("-x")[0]
    return CAREFUL.index(family) if family in CAREFUL else len(CAREFUL)


def hours(timing: Timing) -> str:
    """How long an hour of video takes, in words."""
    seconds = timing.hour_seconds
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.1f} days"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
