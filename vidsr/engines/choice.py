"""Which engine, precision and layout a network is fastest in: measured once, then remembered.

Note [Engines are measured]
~~~~~~~~~~~~~~~~~~~~~~~~~~~
No rule says which is fastest: OpenVINO against torch goes from 0.95 to 2 times by network and
processor, ncnn against OpenVINO from 0.6 to 1.5, bf16 from 0.01 to 2 times, and channels_last wins
for most networks and loses for some. So `auto` runs the very network in every way that is there, in
turns, as a plan does: a worker on every core, each with a tile and one thread (Note [Two slots]). A
tile is large enough that its features fit in no cache, since that is what a picture is; on small
ones, or alone, Winograd's transforms look twice as fast as they are. The figures are kept in the
user's cache under processor, weights and versions, so that the same input gives the same output
again; without a cache nothing is measured, and the first way is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from vidsr.engines import ncnn_engine, openvino_engine
from vidsr.engines.engine import Engine
from vidsr.engines.library import CONVERSION, Library
from vidsr.engines.ncnn_engine import NcnnEngine
from vidsr.engines.openvino_engine import OpenVINOEngine, Store
from vidsr.engines.precision import Precision, fastest_precision
from vidsr.engines.race import processor_seconds, race
from vidsr.engines.remembered import Remembered, can_keep, processor, usable_cores
from vidsr.engines.torch_engine import Layout, TorchEngine
from vidsr.errors import DeviceError, ModelError

EngineName = Literal["torch", "openvino", "ncnn"]
CPU = torch.device("cpu")
WORK = 1.5e10  # multiplications of a tile that is measured, or more by its least side
SIDES = (64, 320)  # pixels, of such a tile
MOST_AT_ONCE = 8  # workers
WORTH_IT = 0.98  # of the first way's time: less than that is noise
IN_BLOCKS = 1.03  # what ncnn's time counts: parts of a picture cost more there (Note [What did not
# change]), and this much is within what two measurements differ by
Figures = dict[str, float | None]  # processor seconds of a tile by `Way.words`; None: cannot run


LIBRARIES: dict[EngineName, Library] = {"openvino": openvino_engine, "ncnn": ncnn_engine}
NAMES: dict[EngineName, str] = {"torch": "torch", "openvino": "OpenVINO", "ncnn": "ncnn"}


@dataclass(frozen=True)
class Wish:
    """What was asked for."""

    engine: EngineName | Literal["auto"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    half: bool = False  # whether half precision keeps this network's pictures


@dataclass(frozen=True)
class Way:
    """How a network is computed."""

    engine: EngineName = "torch"
    precision: Precision = "fp32"
    layout: Layout = "channels_last"  # of torch's feature maps; OpenVINO chooses for itself

    @property
    def words(self) -> str:
        """For the plan, and as a key."""
        layout = " planar" if self.layout == "planar" else ""
        return f"{self.engine} {self.precision}{layout}"


@dataclass(frozen=True)
class Choice:
    """The way that is taken, and what is to be said of it."""

    way: Way
    measured: str = ""  # all figures in words; "" if there was nothing to compare
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subject:
    """A network as far as a choice needs it."""

    load: Callable[[], nn.Module]  # fp32, on the processor; called only if it must run
    scale: int
    weights: str  # what the weights are


def choose(wish: Wish, subject: Subject, cache_dir: Path | None) -> Choice:
    """How a network is computed on the processor.

    Raises:
        DeviceError: a library is asked for and is not installed, or lacks the precision here.
    """
    notes = []
    if cache_dir is not None and not can_keep(cache_dir):
        notes.append(
            f"the cache folder {cache_dir} cannot be written: nothing is measured or kept, and "
            "unless --engine says otherwise torch computes; XDG_CACHE_HOME names another"
        )
        cache_dir = None
    ways = ways_for(wish, cache_dir)
    instead = _torch_ways(wish, cache_dir)[0]
    if cache_dir is None:
        return _unmeasured(ways[0], instead, subject, notes)
    if len(ways) == 1 and ways[0].engine == "torch":
        return Choice(ways[0], notes=tuple(notes))
    figures = _figures(ways, subject, Remembered(cache_dir / "engines.json"))
    best = _fastest(ways, figures) or instead
    unable = [way.engine for way in ways if figures[way.words] is None]
    notes += [_unable(engine, best) for engine in dict.fromkeys(unable)]
    return Choice(best, _words(figures), tuple(notes))


def ways_for(wish: Wish, cache_dir: Path | None) -> list[Way]:
    """All ways that fit a wish on this processor, the one to take unmeasured first.

    Raises:
        DeviceError: as `choose`.
    """
    ways = _torch_ways(wish, cache_dir) if wish.engine in {"auto", "torch"} else []
    for engine, library in LIBRARIES.items():
        if wish.engine == engine or (wish.engine == "auto" and library.installed()):
            ways += [Way(engine, precision) for precision in _precisions(engine, wish)]
    return ways


def _precisions(engine: EngineName, wish: Wish) -> tuple[Precision, ...]:
    """Those of a library that fit a wish; none that fits is an error if the library is asked for.

    Raises:
        DeviceError: see there.
    """
    listed: tuple[Precision, ...] = LIBRARIES[engine].precisions()
    if wish.precision == "auto":
        return listed if wish.half else ("fp32",)
    wanted = tuple(name for name in listed if name == wish.precision)
    if wish.engine == engine and not wanted:
        raise DeviceError(
            f"{NAMES[engine]} has no {wish.precision} on this processor; choose --precision auto, "
            f"or {' or '.join(listed)}"
        )
    return wanted


def _torch_ways(wish: Wish, cache_dir: Path | None) -> list[Way]:
    if wish.precision == "auto":
        half = fastest_precision(CPU, cache_dir=cache_dir) if wish.half else "fp32"
        precisions = list(dict.fromkeys([half, "fp32"]))
    else:
        precisions = [wish.precision]
    ways = [Way(precision=precision) for precision in precisions]
    return [*ways, Way(layout="planar")] if "fp32" in precisions else ways


def _unmeasured(way: Way, instead: Way, subject: Subject, notes: list[str]) -> Choice:
    """The first way, or `instead` of it if that cannot be."""
    if way.engine in LIBRARIES and not _can(way.engine, subject.load(), subject.scale):
        return Choice(instead, notes=(*notes, _unable(way.engine, instead)))
    return Choice(way, notes=tuple(notes))


def _can(engine: EngineName, network: nn.Module, scale: int) -> bool:
    """Whether a library gives what the network gives."""
    try:
        LIBRARIES[engine].check_convertible(network, scale)
    except ModelError:
        return False
    return True


def _unable(engine: EngineName, instead: Way) -> str:
    return (
        f"{NAMES[engine]} cannot convert this network faithfully: {NAMES[instead.engine]} "
        "computes it"
    )


def _figures(ways: list[Way], subject: Subject, remembered: Remembered) -> Figures:
    """What is remembered of all `ways`, or else measured now, all of them together."""
    key = machine_key(subject.weights)
    known = remembered.read(key)
    wanted = [way.words for way in ways]
    if not (isinstance(known, dict) and all(_is_figure(known.get(name, "")) for name in wanted)):
        known = measure(ways, subject)
        remembered.write(key, known)
    return {name: known[name] for name in wanted}


def machine_key(weights: str) -> str:
    """What a figure of some weights holds for: this processor and these versions."""
    others = " / ".join(library.version() for library in LIBRARIES.values())
    versions = f"torch {torch.__version__} / {others} / {CONVERSION}"
    return f"{processor()} / {versions} / {weights}"


def _is_figure(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isfinite(value) and value > 0)


def measure(ways: list[Way], subject: Subject) -> Figures:
    """Processor seconds of a tile by one of many; None for what a library cannot convert."""
    network = subject.load()
    side, workers = measured_side(network), min(usable_cores(), MOST_AT_ONCE)
    with _one_thread(), ThreadPoolExecutor(workers) as pool:
        entrants = _entrants(ways, network, subject.scale, side, workers)
        tile = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        timed = race(
            {name: partial(_seconds, engines, tile, pool) for name, engines in entrants.items()}
        )
    return {way.words: timed.get(way.words) for way in ways}


def _entrants(
    ways: list[Way], network: nn.Module, scale: int, side: int, workers: int
) -> dict[str, list[Engine]]:
    """An engine for each worker, of each way that this network can go, by the ways' words."""
    names = dict.fromkeys(way.engine for way in ways)
    able = [name for name in names if name == "torch" or _can(name, network, scale)]
    return {
        way.words: [open_engine(way, network, scale, (side, side)) for _ in range(workers)]
        for way in ways
        if way.engine in able
    }


def open_engine(
    way: Way,
    network: nn.Module,
    scale: int,
    tile: tuple[int, int],
    *,
    batch: int = 1,
    threads: int = 1,
    device: torch.device = CPU,
    store: Store | None = None,
) -> Engine:
    """A network made ready to be computed in one way.

    Args:
        way: how.
        network: fp32, on the processor, in eval mode; it is not changed.
        scale: output pixels per input pixel, each way.
        tile: (h, w) of the input.
        batch: tiles per call.
        threads: that one call may use; torch's are those of the thread that calls.
        device: where torch computes.
        store: where OpenVINO keeps compiled models; None compiles anew.
    """
    if way.engine == "openvino":
        return OpenVINOEngine(
            network,
            scale=scale,
            precision=way.precision,
            tile=tile,
            batch=batch,
            threads=threads,
            store=store,
        )
    if way.engine == "ncnn":
        return NcnnEngine(network, scale=scale, tile=tile, batch=batch, threads=threads)
    return TorchEngine(
        network,
        scale=scale,
        device=device,
        precision=way.precision,
        tile=tile,
        batch=batch,
        layout=way.layout,
    )


def measured_side(network: nn.Module) -> int:
    """Pixels of the tile that a network is measured on: smaller, the larger the network."""
    parameters = sum(weight.numel() for weight in network.parameters())
    return min(max(math.isqrt(int(WORK / parameters)), SIDES[0]), SIDES[1])


def _seconds(engines: list[Engine], tile: torch.Tensor, pool: ThreadPoolExecutor) -> float:
    """Processor seconds of one engine, all running at once."""

    def run(engine: Engine) -> None:
        torch.set_num_threads(1)  # holds for the thread
        engine(tile)

    return processor_seconds(lambda: list(pool.map(run, engines))) / len(engines)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fastest(ways: list[Way], figures: Figures) -> Way | None:
    """The fastest way, or the first one if the gain is within noise; None if none can run."""
    running = {way: seconds for way in ways if (seconds := figures[way.words]) is not None}
    if not running:
        return None
    first = next(iter(running))
    best = min(running, key=lambda way: running[way] * (IN_BLOCKS if way.engine == "ncnn" else 1))
    return best if running[best] < WORTH_IT * running[first] else first


def _words(figures: Figures) -> str:
    """All figures, the fastest first."""
    running = [(seconds, name) for name, seconds in figures.items() if seconds is not None]
    return ", ".join(f"{name} {seconds * 1e3:.3g} ms" for seconds, name in sorted(running))
