"""Is the whole as fast as its slowest part? Decode, colour, engine and encode alone, then together.

    python benchmarks/pipeline.py FOLDER_OR_CLIP... [--model fast] [--engine auto] [--runs 3]

Each part runs alone at the best of its thread counts; its wall time and its CPU seconds are kept.
Then the command's own path runs whole. The bar: wall <= 1.15 x max(slowest part, all CPU seconds /
cores). Before any timing, the frames of the whole run are held against the parts' frames. Last,
peak memory of a short and of a twelve times longer input. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch

from vidsr.cli.machine import cache_dir
from vidsr.draft import Plan
from vidsr.engines.memory import keep_freed_memory
from vidsr.engines.remembered import usable_cores
from vidsr.frame import Frame
from vidsr.job import plan, run
from vidsr.media.color import ColorConverter
from vidsr.media.encoders import EncoderRequest
from vidsr.media.reader import VideoReader
from vidsr.media.writer import VideoWriter
from vidsr.networks import open_colorizer, open_stages
from vidsr.request import EngineRequest, Job, SizeRequest
from vidsr.stages import Stage

CLIPS = (
    "bbb_800x640_768kbps_30fps_avc_pyramid_3b.mp4",
    "sample_with_increasing_timestamps_320w_240h_5s.mp4",
)
LIMIT = 1.15


@dataclass
class Timing:
    """Median over the runs of one part at one thread count."""

    part: str
    threads: int
    wall_seconds: float
    cpu_seconds: float


def main() -> None:
    """Measure every clip that is named, or the two standard ones in a folder."""
    options = _arguments()
    reports = []
    for source in options.sources:
        clips = [source / name for name in CLIPS] if source.is_dir() else [source]
        reports += [measure(clip, options) for clip in clips]
    if not options.no_memory:
        reports[-1]["memory"] = compare_memory(options)
    options.json.write_text(json.dumps(reports, indent=2) + "\n", encoding="utf-8")
    print(f"JSON: {options.json}")


def measure(clip: Path, options: argparse.Namespace) -> dict[str, object]:
    """All parts alone, then the whole, of one clip."""
    with tempfile.TemporaryDirectory() as folder:
        planned = plan_of(clip, Path(folder) / "out.mkv", options)
        frames = decoded_frames(planned)
        enlarged = enlarged_frames(planned, frames)
        verify(planned, enlarged)
        cores = usable_cores()
        parts = [
            best_of("decode", (1, cores), lambda n: decode(planned, n, len(frames)), options.runs),
            best_of("colour", (1, cores), lambda n: colour(planned, frames, n), options.runs),
            best_of("engine", (cores,), lambda n: engine(planned, frames, n), options.runs),
            best_of("encode", (1, cores), lambda n: encode(planned, enlarged, n), options.runs),
        ]
        whole = repeat("whole", 0, lambda: whole_run(planned), options.runs)
    facts = {
        "model": planned.engine.card.name,
        "engine": f"{planned.engine.kind} {planned.engine.precision}",
    }
    return {**facts, **report(clip, len(frames), parts, whole)}


def plan_of(clip: Path, output: Path, options: argparse.Namespace) -> Plan:
    """The command's own plan."""
    job = Job(
        source=clip,
        destination=output,
        size=SizeRequest(scale=options.scale),
        engine=EngineRequest(options.model, options.device, engine=options.engine),
        encoder=EncoderRequest(preset=options.preset),
        overwrite=True,
    )
    planned = plan(job, cache_dir=cache_dir())
    assert isinstance(planned, Plan)
    return planned


def decode(planned: Plan, threads: int, count: int) -> None:
    """Every frame of the clip, planes touched and thrown away."""
    reader = VideoReader(planned.info, copied=(), threads=threads)
    assert sum(1 for item in reader if isinstance(item, Frame)) >= count


@torch.inference_mode()
def colour(planned: Plan, frames: list[Frame], threads: int) -> None:
    """Planes -> RGB at the small size and RGB -> planes at the large one."""
    torch.set_num_threads(threads)
    source, target = converters(planned)
    large = torch.rand(1, 3, planned.video.height, planned.video.width)
    for frame in frames:
        source.to_rgb([torch.from_numpy(plane) for plane in frame.planes])
        target.from_rgb(large)


def engine(planned: Plan, frames: list[Frame], threads: int) -> None:
    """The network alone on RGB pictures that are ready, a frame on each of `threads` cores."""
    torch.set_num_threads(1)
    picture = torch.rand(1, 3, planned.info.height, planned.info.width)

    @torch.inference_mode()
    def work(count: int) -> None:
        stages = open_stages(planned.engine, planned.target)
        for _ in range(count):
            rgb = picture
            for stage in stages:
                rgb = stage(rgb)

    with ThreadPoolExecutor(threads) as pool:
        counts = [len(frames) // threads + (n < len(frames) % threads) for n in range(threads)]
        list(pool.map(work, counts))


def encode(planned: Plan, enlarged: list[Frame], threads: int) -> None:
    """Frames that are ready -> a whole, verified file."""
    video = dataclasses.replace(planned.video, threads=threads)
    tracks = tuple(track for track in planned.tracks if track.action == "process")
    with VideoWriter(
        planned.destination, source=planned.info, video=video, tracks=tracks
    ) as writer:
        for frame in enlarged:
            writer.write(frame)
        writer.finish()


def whole_run(planned: Plan) -> None:
    """What the command does."""
    for _ in run(planned):
        pass


def verify(planned: Plan, enlarged: list[Frame], within: int = 1) -> None:
    """The whole path's frames equal those that the parts make, to so many codes of luma."""
    lossless = dataclasses.replace(
        planned,
        video=dataclasses.replace(planned.video, options={"qp": "0", "preset": "ultrafast"}),
    )
    whole_run(lossless)
    with av.open(str(planned.destination)) as written:
        video = written.streams.video[0]
        count = 0
        for count, picture in enumerate(written.decode(video), start=1):
            ours = np.frombuffer(picture.planes[0], np.uint8).reshape(
                -1, picture.planes[0].line_size
            )
            theirs = enlarged[count - 1].planes[0]
            difference = np.abs(ours[: picture.height, : picture.width].astype(int) - theirs)
            assert difference.max() <= within, f"frame {count} differs by {difference.max()}"
    assert count == len(enlarged), f"{count} frames instead of {len(enlarged)}"


def best_of(
    part: str, thread_counts: tuple[int, ...], work: Callable[[int], None], runs: int
) -> Timing:
    """The timing at the thread count that was fastest in a first run of each."""
    first = {threads: once(lambda n=threads: work(n)) for threads in sorted(set(thread_counts))}
    best = min(first, key=lambda threads: first[threads][0])
    return repeat(part, best, lambda: work(best), runs)


def repeat(part: str, threads: int, work: Callable[[], None], runs: int) -> Timing:
    """Medians of some runs."""
    timings = [once(work) for _ in range(runs)]
    wall, cpu = (statistics.median(values) for values in zip(*timings, strict=True))
    return Timing(part, threads, wall, cpu)


def once(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds of one run."""
    cpu_began, began = _cpu_seconds(), time.perf_counter()
    work()
    return time.perf_counter() - began, _cpu_seconds() - cpu_began


def report(clip: Path, frames: int, parts: list[Timing], whole: Timing) -> dict[str, object]:
    """Print the table of one clip and return it as plain data."""
    cores = usable_cores()
    slowest = max(part.wall_seconds for part in parts)
    shared = sum(part.cpu_seconds for part in parts) / cores
    bound = max(slowest, shared)
    engine_wall = next(part.wall_seconds for part in parts if part.part == "engine")
    colour_wall = next(part.wall_seconds for part in parts if part.part == "colour")
    print(f"\n{clip.name}: {frames} frames, {cores} cores, {platform.machine()}, {processor()}")
    print(f"{'part':8} {'threads':>7} {'wall s':>8} {'cpu s':>8} {'fps':>8}")
    for timing in (*parts, whole):
        rate = frames / timing.wall_seconds
        print(
            f"{timing.part:8} {timing.threads or '':>7} {timing.wall_seconds:8.2f} "
            f"{timing.cpu_seconds:8.2f} {rate:8.1f}"
        )
    print(
        f"whole / max(slowest part {slowest:.2f}, CPU / cores {shared:.2f}) = "
        f"{whole.wall_seconds / bound:.3f} (bar {LIMIT}); colour is "
        f"{colour_wall / engine_wall:.1%} of the engine"
    )
    return {
        "clip": clip.name,
        "frames": frames,
        "cores": cores,
        "processor": processor(),
        "parts": [dataclasses.asdict(timing) for timing in (*parts, whole)],
        "ratio": whole.wall_seconds / bound,
        "colour_share_of_engine": colour_wall / engine_wall,
    }


def compare_memory(options: argparse.Namespace) -> dict[str, float]:
    """Peak memory of the command on the last clip and on it twelve times over."""
    source = options.sources[-1]
    clip = source / CLIPS[-1] if source.is_dir() else source
    with tempfile.TemporaryDirectory() as folder:
        peaks = {}
        for times in (1, 12):
            looped = _looped(clip, Path(folder) / f"loop{times}.mkv", times)
            peaks[f"x{times}"] = _peak_mib(looped, Path(folder) / "out.mkv", options)
    growth = peaks["x12"] / peaks["x1"] - 1
    print(f"peak memory {peaks['x1']:.0f} MiB, twelve times longer {peaks['x12']:.0f} MiB")
    print(f"growth {growth:+.1%} (bar 10 %)")
    return peaks


def _looped(clip: Path, path: Path, times: int) -> Path:
    """The clip's video, repeated without encoding again."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        video = source.streams.video[0]
        copy = target.add_stream_from_template(video, opaque=True)
        for number in range(times):
            source.seek(0)
            shift = number * video.duration
            for packet in source.demux(video):
                if packet.size:
                    packet.pts += shift
                    packet.dts += shift
                    packet.stream = copy
                    target.mux(packet)
    return path


def _peak_mib(clip: Path, output: Path, options: argparse.Namespace) -> float:
    words = [sys.executable, "-m", "vidsr", "upscale", str(clip), "-o", str(output), "-q"]
    words += ["--scale", str(options.scale), "--model", options.model, "--overwrite"]
    words += ["--preset", options.preset] if options.preset else []
    measuring = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    output = subprocess.run(
        [sys.executable, "-c", measuring, *words], check=True, capture_output=True, text=True
    )
    return int(output.stdout) / 1024


def decoded_frames(planned: Plan) -> list[Frame]:
    """Every frame of the clip, kept."""
    reader = VideoReader(planned.info, copied=())
    return [
        dataclasses.replace(item, planes=tuple(plane.copy() for plane in item.planes))
        for item in reader
        if isinstance(item, Frame)
    ]


@torch.inference_mode()
def enlarged_frames(planned: Plan, frames: list[Frame]) -> list[Frame]:
    """What the whole run gives, made part by part."""
    source, target = converters(planned)
    torch.set_num_threads(planned.engine.threads)
    stages: list[Stage] = open_stages(planned.engine, planned.target)
    if planned.color:
        stages.insert(0, open_colorizer(planned.color, planned.info.color.matrix))

    def enlarge(frame: Frame) -> Frame:
        rgb = source.to_rgb([torch.from_numpy(plane) for plane in frame.planes])
        for stage in stages:
            rgb = stage(rgb)
        planes = tuple(plane.numpy() for plane in target.from_rgb(rgb))
        return dataclasses.replace(
            frame, planes=planes, layout=planned.video.layout, color=planned.video.color
        )

    return [enlarge(frame) for frame in frames]


def converters(planned: Plan) -> Iterator[ColorConverter]:
    """Of what comes in and of what goes out."""
    yield ColorConverter(planned.info.layout, planned.info.color)
    yield ColorConverter(planned.video.layout, planned.video.color)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def processor() -> str:
    """Its name and what it can."""
    capability = torch.backends.cpu.get_cpu_capability()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        name = platform.processor()
    return f"{name} ({capability})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("sources", nargs="+", type=Path, help="clips, or a folder with the two")
    parser.add_argument("--model", default="fast")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", default=None, help="of the encoder")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path, default=Path("pipeline.json"))
    options = parser.parse_args()
    os.environ.setdefault("SVT_LOG", "1")
    keep_freed_memory()  # as the command does
    return options


if __name__ == "__main__":
    main()
