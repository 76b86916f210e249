"""Peak memory and time of one 8K picture enlarged twice, in each format that can hold it.

    python benchmarks/large_picture.py [--limit-gib 3] [suffix ...]

Each run is a process of its own: `vidsr upscale` with the shipped x2 network. The peak is the
operating system's figure for that process (ru_maxrss); above the limit the script fails.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vidsr.media.image_writer import write
from vidsr.media.images import Still

WIDTH, HEIGHT = 7680, 4320
SUFFIXES = (".png", ".tiff", ".jpg", ".webp", ".bmp")


def main() -> None:
    """Print a line a format; exit with 1 if one takes too much memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suffixes", nargs="*", default=SUFFIXES)
    parser.add_argument("--limit-gib", type=float, default=3.0)
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "8k.png"
        write(source, Still(_picture()))
        for suffix in options.suffixes:
            out = Path(folder) / f"out{suffix}"
            seconds, peak = _run(source, out)
            failed |= peak > options.limit_gib * 2**30
            size = out.stat().st_size / 1e6
            print(f"{suffix:6} peak {peak / 2**20:6.0f} MiB  {seconds:5.0f} s  {size:6.1f} MB")
            out.unlink()
    sys.exit(failed)


def _picture() -> np.ndarray:
    """Smooth colors with fine grain, RGB (H,W,3) uint8."""
    x, y = np.arange(WIDTH)[None, :], np.arange(HEIGHT)[:, None]
    planes = [(x // 37 + y // 11) % 256, (y // 5) % 256 + 0 * x, (x // 29) % 256 + 0 * y]
    picture = np.stack(planes, axis=-1).astype(np.uint8)
    grain = np.random.default_rng(0).integers(0, 8, picture.shape, np.uint8)
    return picture ^ grain


def _run(source: Path, out: Path) -> tuple[float, int]:
    """(seconds, peak bytes) of one command."""
    words = ["upscale", str(source), "-o", str(out), "--scale", "2", "--model", "fast-x2", "-q"]
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "vidsr", *words])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"vidsr failed with status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - began, _bytes(usage)


def _bytes(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
