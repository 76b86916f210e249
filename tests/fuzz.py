"""Mutated files through every reader: our own errors only, no hang, no crash, no file left.

    python tests/fuzz.py --mutants 2000          # make fuzz
    python tests/fuzz.py --seed 1234             # one mutant again, with its traceback

Mutant number n is the same on every machine with the same libraries: its seed is n. The mutants run
in processes of their own, a few at a time; one that dies or says nothing for a while is a finding,
and another process goes on behind it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import queue
import resource
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 60  # that one mutant may take, on a busy machine
MEMORY = 12 << 30  # address space of a worker; torch alone maps 4 GiB
Mutation = Callable[[bytearray, np.random.Generator], None]


@dataclass(frozen=True)
class Finding:
    """A mutant that was not taken as it should be."""

    seed: int
    what: str

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.what}"


# ------------------------------------------------------------------ mutations


def flip_bits(content: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, len(content), rng.integers(1, 20)):
        content[place] ^= 1 << rng.integers(0, 8)


def overwrite(content: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(content)))
    length = int(rng.integers(1, 64))
    content[start : start + length] = rng.bytes(min(length, len(content) - start))


def truncate(content: bytearray, rng: np.random.Generator) -> None:
    del content[int(rng.integers(0, len(content))) :]


def cut_out(content: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(content)))
    del content[start : start + int(rng.integers(1, 300))]


def swap_chunks(content: bytearray, rng: np.random.Generator) -> None:
    size = int(rng.integers(1, max(2, len(content) // 4)))
    first, second = sorted(int(n) for n in rng.integers(0, max(1, len(content) - size), 2))
    if second >= first + size:
        one = content[first : first + size]
        content[first : first + size] = content[second : second + size]
        content[second : second + size] = one


def repeat_chunk(content: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(content)))
    chunk = content[start : start + int(rng.integers(1, 300))]
    content[start:start] = chunk * int(rng.integers(1, 8))


EXTREMES = (0, 1, 7, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 0xFFFFFFF0)


def edit_length(content: bytearray, rng: np.random.Generator) -> None:
    """A field of 2, 4 or 8 bytes, of either order, at any place: mostly in the headers."""
    size = int(rng.choice([2, 4, 4, 8]))
    reach = len(content) if rng.random() < 0.5 else min(len(content), 400)
    start = int(rng.integers(0, max(1, reach - size)))
    order: Any = "big" if rng.random() < 0.5 else "little"
    number = EXTREMES[rng.integers(len(EXTREMES))] % (1 << (8 * size))
    content[start : start + size] = number.to_bytes(size, order)


MUTATIONS: tuple[Mutation, ...] = (
    *(flip_bits, overwrite, truncate, cut_out, swap_chunks, repeat_chunk, edit_length, edit_length),
)


def mutant(seeds: dict[str, bytes], number: int) -> tuple[str, bytes]:
    """(name, content) of the mutant of that number."""
    rng = np.random.default_rng(number)
    name = sorted(seeds)[number % len(seeds)]
    content = bytearray(seeds[name])
    for _ in range(rng.integers(1, 4)):
        if content:
            MUTATIONS[rng.integers(len(MUTATIONS))](content, rng)
    return name, bytes(content)


# ------------------------------------------------------------------ what is mutated


def make_seeds(folder: Path) -> None:
    """Small whole files of every kind that vidsr reads."""
    for name, codec in {
        "h264.mp4": "libx264",
        "h264.mkv": "libx264",
        "h264.ts": "libx264",
        "hevc.mp4": "libx265",
        "ffv1.mkv": "ffv1",
        "mpeg4.avi": "mpeg4",
        "vp9.webm": "libvpx-vp9",
        "prores.mov": "prores_ks",
    }.items():
        _make_video(folder / name, codec)
    _make_pictures(folder)
    _make_checkpoints(folder)


def _make_video(path: Path, codec: str) -> None:
    import av

    pix_fmt = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
    with av.open(str(path), "w") as file:
        file.metadata["title"] = "fuzz"
        video = file.add_stream(codec, rate=24)
        video.width, video.height, video.pix_fmt = 64, 64, pix_fmt
        sound = None if path.suffix == ".webm" else file.add_stream("aac", rate=48000)
        for number in range(6):
            picture = av.VideoFrame.from_ndarray(_picture(number), format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 24)
            file.mux(video.encode(picture))
        file.mux(video.encode(None))
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(
                np.zeros((2, 12000), np.float32), format="fltp", layout="stereo"
            )
            silence.sample_rate = 48000
            file.mux([*sound.encode(silence), *sound.encode(None)])


def _picture(number: int) -> np.ndarray:
    x, y = np.arange(64)[None, :] + 3 * number, np.arange(64)[:, None]
    planes = np.broadcast_arrays((x * 5 + y) % 256, (y * 7 + x) % 256, (x * 2 + y * 3) % 256)
    return np.stack(planes, axis=-1).astype(np.uint8)


def _make_pictures(folder: Path) -> None:
    from PIL import Image

    from vidsr.media.image_writer import write
    from vidsr.media.images import Still

    rgb = _picture(0)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    image = Image.fromarray(rgb)
    image.save(folder / "turned.jpg", exif=exif, dpi=(72, 72))
    image.save(folder / "exif.webp", exif=exif)
    image.convert("P").save(folder / "palette.png")
    image.convert("CMYK").save(folder / "inks.tiff")
    image.save(folder / "packed.tif", compression="tiff_lzw")
    image.save(folder / "plain.bmp")
    deep = Still(rgb=rgb.astype(np.uint16) * 257, alpha=rgb[..., 0].astype(np.uint16) * 257)
    write(folder / "deep.png", deep)
    write(folder / "deep.tiff", deep)


def _make_checkpoints(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from vidsr.models.compact import Compact, CompactOptions

    state = Compact(CompactOptions(scale=2, channels=4, blocks=1)).state_dict()
    save_file(state, folder / "weights.safetensors")
    torch.save({"params": state}, folder / "weights.pth")
    legacy = folder / "legacy.pt"
    torch.save(state, legacy, _use_new_zipfile_serialization=False)


# ------------------------------------------------------------------ how a mutant is taken


def take(path: Path) -> None:
    """What vidsr does first with such a file, by its name."""
    if path.suffix in {".safetensors", ".pth", ".pt"}:
        from vidsr.models.load import describe, load

        load(describe(path), path)
    elif path.suffix in {".mp4", ".mkv", ".ts", ".avi", ".webm", ".mov"}:
        _read_video(path)
    else:
        from vidsr.media import images

        images.read(path)


def _read_video(path: Path) -> None:
    from vidsr.media.probe import probe
    from vidsr.media.reader import VideoReader

    info = probe(path)
    copied = tuple(stream.index for stream in info.streams if stream.index != info.video)
    for _ in VideoReader(info, copied=copied, threads=1):
        pass


def work(seeds: Path, first: int, last: int) -> None:
    """In a process of its own: take mutants [first, last), a line to standard output for each."""
    from vidsr.errors import VidsrError

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    whole = {path.name: path.read_bytes() for path in seeds.iterdir()}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number in range(first, last):
            name, content = mutant(whole, number)
            path = Path(f"mutant{Path(name).suffix}")
            path.write_bytes(content)
            tell(f"{number} began {name}")
            try:
                take(path)
            except VidsrError as exc:
                one_line = "\n" not in str(exc)
                tell(f"{number} {'ended' if one_line else f'more than one line: {str(exc)!r}'}")
            except BaseException:
                tell(f"{number} {name}: {traceback.format_exc()!r}")
            else:
                tell(f"{number} ended")
            path.unlink()
            if left := os.listdir():  # noqa: PTH208 - names alone
                tell(f"{number} {name}: left {left}")


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


# ------------------------------------------------------------------ the watchdog


def fuzz(mutants: int, *, workers: int = 2, first: int = 0) -> list[Finding]:
    """Take that many mutants and return what was found."""
    with tempfile.TemporaryDirectory() as name:
        seeds = Path(name)
        make_seeds(seeds)
        edges = np.linspace(first, first + mutants, workers + 1).astype(int).tolist()
        findings: list[Finding] = []
        threads = [
            threading.Thread(
                target=lambda span: findings.extend(_watch(seeds, *span)), args=(span,)
            )
            for span in itertools.pairwise(edges)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(findings, key=lambda finding: finding.seed)


def _watch(seeds: Path, first: int, last: int) -> Iterator[Finding]:
    """Run a worker over [first, last), and another behind every mutant that ends it."""
    while first < last:
        current, ended, quiet = first, first, False
        with _worker(seeds, first, last) as (process, lines):
            while True:
                try:
                    line = lines.get(timeout=SECONDS)
                except queue.Empty:
                    quiet = True
                    break
                if line is None:
                    break
                number, _, what = line.partition(" ")
                current = int(number)
                if what == "ended" or not what.startswith("began"):
                    ended = current + 1
                if what != "ended" and not what.startswith("began"):
                    yield Finding(current, what)
        if ended < last:
            end = f"no answer in {SECONDS} s" if quiet else f"died with {process.returncode}"
            yield Finding(current, end)
            ended = max(ended, current + 1)
        first = ended


@contextlib.contextmanager
def _worker(
    seeds: Path, first: int, last: int
) -> Iterator[tuple[subprocess.Popen[str], queue.Queue[str | None]]]:
    words = [sys.executable, __file__, "--worker", str(seeds), str(first), str(last)]
    quiet = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **quiet},
    )
    lines: queue.Queue[str | None] = queue.Queue()

    def collect() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line.rstrip("\n"))
        process.wait()
        lines.put(None)

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        yield process, lines
    finally:
        process.kill()
        collector.join()
        assert process.stdout is not None
        process.stdout.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--worker", nargs=3)
    words = parser.parse_args()
    if words.worker:
        seeds, first, last = words.worker
        work(Path(seeds), int(first), int(last))
        return 0
    if words.seed is not None:
        return again(words.seed)
    findings = fuzz(words.mutants, first=words.first)
    for finding in findings:
        tell(str(finding))
    tell(f"{words.mutants} mutants, {len(findings)} findings")
    return bool(findings)


def again(seed: int) -> int:
    """One mutant, kept in the working folder, in this process."""
    with tempfile.TemporaryDirectory() as name:
        make_seeds(Path(name))
        whole = {path.name: path.read_bytes() for path in Path(name).iterdir()}
    kind, content = mutant(whole, seed)
    path = Path(f"mutant-{seed}{Path(kind).suffix}")
    path.write_bytes(content)
    take(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
