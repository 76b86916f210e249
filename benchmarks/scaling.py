"""Does a frame cost the same in a long film, and a pixel the same in a large frame?

    python benchmarks/scaling.py [--model fast] [--scale 2] [--runs 3] [--json FILE]

Length: drawn films of 10, 100 and 1,000 frames of 192x108 are enlarged as the command does it, in
turns; a frame's cost is that of the frames that one film has more than the shorter one, so that
loading does not count. Size: frames of 240p to 1080p with the stages alone, a worker on every core;
a pixel's cost is that of the network and the colour, tiles included. The bar is 10 % either way.
Prints a table and writes JSON. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from vidsr.cli.machine import cache_dir
from vidsr.draft import Plan
from vidsr.engines.memory import keep_freed_memory
from vidsr.engines.remembered import processor
from vidsr.job import plan, run
from vidsr.media.encoders import EncoderRequest
from vidsr.networks import open_stages, plan_engine
from vidsr.planning import Target
from vidsr.request import EngineRequest, Job, SizeRequest

LENGTHS = (10, 100, 1000)
SIZES = {"240p": (426, 240), "480p": (854, 480), "720p": (1280, 720), "1080p": (1920, 1080)}
FRAME = (192, 108)
BAR = 1.1


def main() -> None:
    """Measure both, print, write."""
    options = _arguments()
    keep_freed_memory()  # as the command does
    report = {
        "processor": processor(),
        "model": options.model,
        "scale": options.scale,
        "ms_a_frame": lengths(options),
        "us_a_pixel": sizes(options),
    }
    print(f"\n{processor()}, {options.model} x{options.scale}, medians of {options.runs} runs\n")
    for name in ("ms_a_frame", "us_a_pixel"):
        costs = report[name]
        spread = max(costs.values()) / min(costs.values())
        words = ", ".join(f"{what} {cost:.4g}" for what, cost in costs.items())
        print(f"{name}: {words}; {spread:.3f} times (bar {BAR})")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def lengths(options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of a frame, by the films between which it is measured."""
    with tempfile.TemporaryDirectory() as folder:
        films = {count: draw(Path(folder) / f"{count}.mkv", count) for count in (1, *LENGTHS)}
        seconds: dict[int, list[float]] = {count: [] for count in films}
        enlarge(films[1], options)  # measures what is not known yet
        for _ in range(options.runs):
            for count, film in films.items():
                seconds[count].append(enlarge(film, options))
    median = {count: statistics.median(times) for count, times in seconds.items()}
    counts = list(films)
    return {
        f"{few} to {many} frames": (median[many] - median[few]) / (many - few) * 1e3
        for few, many in itertools.pairwise(counts)
        if few > 1  # the first film's pipeline is never full
    }


def enlarge(film: Path, options: argparse.Namespace) -> float:
    """Seconds of the whole run, planning apart."""
    job = Job(
        source=film,
        destination=film.with_name("out.mkv"),
        size=SizeRequest(scale=options.scale),
        engine=EngineRequest(model=options.model),
        encoder=EncoderRequest(preset="ultrafast"),
        overwrite=True,
    )
    planned = plan(job, cache_dir=cache_dir())
    assert isinstance(planned, Plan)
    began = time.perf_counter()
    for _ in run(planned):
        pass
    return time.perf_counter() - began


def sizes(options: argparse.Namespace) -> dict[str, float]:
    """Microseconds of a pixel, by the size of its frame, in turns."""
    works = {name: _work(size, options) for name, size in SIZES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in SIZES}
    for _ in range(options.runs):
        for name, work in works.items():
            seconds[name].append(work())
    return {
        name: statistics.median(seconds[name]) / (width * height) * 1e6
        for name, (width, height) in SIZES.items()
    }


def _work(size: tuple[int, int], options: argparse.Namespace):  # type: ignore[no-untyped-def]
    """Seconds of a frame, when every core is at one; the first is not counted."""
    factor = Fraction(options.scale)
    engine = plan_engine(EngineRequest(model=options.model), factor, size, cache_dir=cache_dir())
    width, height = size
    target = Target(width * options.scale, height * options.scale, factor, square_pixels=False)
    picture = torch.rand(1, 3, height, width)
    workers = [open_stages(engine, target) for _ in range(engine.workers)]

    pool = ThreadPoolExecutor(len(workers))  # threads last as they do in a run
    frames = math.ceil(1920 * 1080 / (width * height))  # of each worker: as many pixels at any size

    @torch.inference_mode()
    def enlarge_some(stages: list) -> None:  # type: ignore[type-arg]
        torch.set_num_threads(engine.threads)
        for _ in range(frames):
            rgb = picture
            for stage in stages:
                rgb = stage(rgb)

    def work() -> float:
        began = time.perf_counter()
        list(pool.map(enlarge_some, workers))
        return (time.perf_counter() - began) / len(workers) / frames

    print(f"{width}x{height}: {engine.kind}, tile {engine.tile}, {engine.workers} workers")
    work()
    return work


def draw(path: Path, frames: int) -> Path:
    """A film of noise that moves, so that nothing of it can be reused."""
    width, height = FRAME
    noise = np.random.default_rng(0).integers(0, 255, (height, 2 * width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "20"}
        for number in range(frames):
            left = number * 7 % width
            picture = np.ascontiguousarray(noise[:, left : left + width])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    return path


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="fast")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
