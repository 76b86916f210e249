"""What does coloring and enlarging in one pass cost beside its parts?

    python benchmarks/colorize.py CLIP [--model fast] [--scale 2] [--colorizer colorize] [--pairs 3]

Decode, the coloring stage with its optical flow, the enlarging stage and encode run alone, then the
whole command's path. Before any timing, the frames of the whole are held against the parts'. The
bar: the whole takes at most 1.1 times the parts' sum. Prints medians and writes JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from pipeline import (
    converters,
    decode,
    decoded_frames,
    encode,
    engine,
    enlarged_frames,
    once,
    processor,
    verify,
    whole_run,
)

from vidsr.cli.machine import cache_dir
from vidsr.draft import Plan
from vidsr.engines.remembered import usable_cores
from vidsr.frame import Frame
from vidsr.job import plan
from vidsr.networks import open_colorizer
from vidsr.request import ColorRequest, EngineRequest, Job, SizeRequest

LIMIT = 1.1
IN_BETWEEN = 2  # codes: the whole rounds colored frames to 16 bits, and bf16 enlarges what differs


def main() -> None:
    """Measure one clip."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--colorizer", default=None, help="a model that colors, or its file")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("colorize.json"))
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        job = Job(
            source=options.clip,
            destination=Path(folder) / "out.mkv",
            size=SizeRequest(scale=options.scale),
            engine=EngineRequest(options.model, "cpu"),
            color=ColorRequest(model=options.colorizer, force=True),
            overwrite=True,
        )
        planned = plan(job, cache_dir=cache_dir())
        assert isinstance(planned, Plan)
        result = measure(planned, options.pairs)
    print(json.dumps(result, indent=2))
    options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def measure(planned: Plan, pairs: int) -> dict[str, object]:
    """Seconds of the parts and of the whole, in turns."""
    frames, cores = decoded_frames(planned), usable_cores()
    enlarged = enlarged_frames(planned, frames)
    verify(planned, enlarged, IN_BETWEEN)
    parts = {
        "decode": lambda: decode(planned, cores, len(frames)),
        "color": lambda: color(planned, frames, cores),
        "enlarge": lambda: engine(planned, frames, cores),
        "encode": lambda: encode(planned, enlarged, cores),
        "whole": lambda: whole_run(planned),
    }
    turns = [{name: once(work)[0] for name, work in parts.items()} for _ in range(pairs)]
    seconds = {name: median(turn[name] for turn in turns) for name in parts}
    apart = sum(seconds.values()) - seconds["whole"]
    return {
        "clip": planned.info.path.name,
        "frames": len(frames),
        "processor": processor(),
        "cores": cores,
        "seconds": seconds,
        "whole / parts": seconds["whole"] / apart,
        "bar": LIMIT,
    }


@torch.inference_mode()
def color(planned: Plan, frames: list[Frame], threads: int) -> None:
    """The coloring stage alone, on RGB pictures of the clip."""
    assert planned.color is not None
    torch.set_num_threads(threads)
    source, _ = converters(planned)
    stage = open_colorizer(planned.color, planned.info.color.matrix)
    for frame in frames:
        stage(source.to_rgb([torch.from_numpy(plane) for plane in frame.planes]))


if __name__ == "__main__":
    main()
