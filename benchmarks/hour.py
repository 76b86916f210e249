"""Memory over a long clip: does it grow with length?

    python benchmarks/hour.py [--minutes 60] [--json FILE]

A drawn clip of 64x48 pixels and ten frames a second is looped to the length asked for and enlarged
twice by the shipped network, in segments as any long run. The resident memory of the process is
noted with every report (Linux); the medians of its second and of its last tenth are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vidsr.events import Progress, Result
from vidsr.job import plan, run
from vidsr.media.encoders import EncoderRequest
from vidsr.request import EngineRequest, Job, SizeRequest

WIDTH, HEIGHT, RATE, LOOP = 64, 48, 10, 50  # pixels, frames a second, frames of the loop


def main() -> None:
    """Print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        draw(clip, round(options.minutes * 60 * RATE))
        began = time.perf_counter()
        samples, frames = watched(clip, Path(folder) / "larger.mp4")
    tenth = max(1, len(samples) // 10)
    early, late = statistics.median(samples[tenth : 2 * tenth]), statistics.median(samples[-tenth:])
    facts = {
        "frames": frames,
        "seconds": round(time.perf_counter() - began, 1),
        "early_mib": round(early / 2**20, 1),
        "late_mib": round(late / 2**20, 1),
        "ratio": round(late / early, 4),
    }
    print(*(f"{name} {value}" for name, value in facts.items()), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def draw(path: Path, frames: int) -> None:
    """A bright spot that goes round."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            turn = 2 * np.pi * (number % LOOP) / LOOP
            spot = np.hypot(x - 32 - 20 * np.cos(turn), y - 24 - 12 * np.sin(turn)) < 6
            gray = np.where(spot, 220, 40 + x).astype(np.uint8)
            picture = av.VideoFrame.from_ndarray(np.stack([gray] * 3, axis=-1), format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, RATE)
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))


def watched(clip: Path, larger: Path) -> tuple[list[int], int]:
    """(resident bytes at each report, frames out) of one run."""
    engine, encoder = EngineRequest(model="fast-x2"), EncoderRequest(preset="ultrafast")
    job = Job(clip, larger, SizeRequest(scale=2), engine, encoder)
    samples, frames = [], 0
    for event in run(plan(job)):
        if isinstance(event, Progress):
            samples.append(resident_bytes())
        elif isinstance(event, Result):
            frames = event.frames_out
    return samples, frames


def resident_bytes() -> int:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
