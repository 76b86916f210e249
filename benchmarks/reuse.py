"""What does reuse save, and what does it cost? Network and color conversion, without encoding.

    python benchmarks/reuse.py FOLDER_OR_CLIP... [--model photo] [--frames 60] [--runs 5]

Exact reuse runs on every clip as it is: first its frames must equal those without reuse, then both
are timed. Reuse along the motion runs on the clip shrunk and compressed (H.264, CRF 20) and is held
against the original: PSNR-Y of all frames and of the last second, both ways; PSNR of one way to the
other; and flicker, the root mean square of how the error changes from frame to frame. Times are
medians of alternating runs, wall clock and processor. Prints a table and writes JSON, and with
`--pictures FOLDER` two pictures of the place where motion changes a frame most.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from PIL import Image

from vidsr.cli.machine import cache_dir
from vidsr.draft import Plan
from vidsr.engines.memory import keep_freed_memory
from vidsr.engines.remembered import processor
from vidsr.errors import VidsrError
from vidsr.following import RUN
from vidsr.frame import Frame
from vidsr.job import plan
from vidsr.media.color import ColorConverter
from vidsr.media.probe import probe
from vidsr.media.reader import VideoReader
from vidsr.networks import fallbacks, open_stages
from vidsr.pipeline import Chain, stream, workers_on
from vidsr.request import EngineRequest, Job, SizeRequest
from vidsr.reuse import Reuse

Luma = np.ndarray  # (frames, H, W), uint8
CROP = (320, 240)  # width and height of a picture that is written
SUFFIXES = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".3gp", ".ts", ".flv", ".m4v"}


class Enlarged:
    """What one way of reuse made of a clip."""

    def __init__(self, clip: Path, frames: int, reuse: Reuse, options: argparse.Namespace) -> None:
        planned = _plan(clip, reuse, options)
        torch.set_num_threads(planned.engine.threads)
        run = RUN if reuse == "motion" else 1
        device = torch.device(planned.engine.device)
        workers = workers_on(device, lambda: _chain(planned), planned.engine.workers, run=run)
        decoded = list(_decoded(clip, frames))
        wall, cpu = time.perf_counter(), time.process_time()
        self.frames = [f for f in stream(decoded, workers, reuse) if isinstance(f, Frame)]
        self.wall, self.cpu = time.perf_counter() - wall, time.process_time() - cpu
        chains = {id(worker.chain): worker.chain for worker in workers}.values()
        counted = fallbacks([stage for chain in chains for stage in chain.stages])
        self.computed = counted.computed / max(len(self.frames), 1)
        engine = planned.engine
        self.facts = {
            "model": engine.card.name,
            "engine": f"{engine.kind} {engine.precision}",
            "processor": processor(),
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Enlarged) and all(
            np.array_equal(ours, theirs)
            for one, two in zip(self.frames, other.frames, strict=True)
            for ours, theirs in zip(one.planes, two.planes, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def luma(self) -> Luma:
        """Of all frames."""
        return np.stack([frame.planes[0] for frame in self.frames])


def main() -> None:
    """Measure every clip that is named, or that lies in a folder."""
    options = _arguments()
    found = [
        sorted(source.rglob("*")) if source.is_dir() else [source] for source in options.sources
    ]
    clips = [clip for clip in itertools.chain(*found) if clip.suffix in SUFFIXES]
    rows = []
    for clip in clips:
        for way, measure in (("exact", measure_exact), ("motion", measure_motion)):
            if options.only in {None, way}:
                try:
                    row = {"clip": clip.name, "reuse": way, **measure(clip, options)}
                except VidsrError as exc:
                    print(f"{clip.name:28.28} refused: {exc}")
                    break
                rows.append(row)
                print(_line(row), flush=True)
    options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"JSON: {options.json}")


def measure_exact(clip: Path, options: argparse.Namespace) -> dict[str, object]:
    """Equal first, then the times of both ways, alternating."""
    off = Enlarged(clip, options.frames, "off", options)
    exact = Enlarged(clip, options.frames, "exact", options)
    assert off == exact, f"{clip}: exact reuse changes the picture"
    return {"frames": len(off.frames), **_times(clip, off, exact, "exact", options)}


def measure_motion(clip: Path, options: argparse.Namespace) -> dict[str, object]:
    """Quality of both ways against the original, then their times."""
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.mkv"
        original = shrink(clip, small, options)
        off = Enlarged(small, options.frames, "off", options)
        motion = Enlarged(small, options.frames, "motion", options)
        last = round(float(probe(clip).frame_rate))
        scores = {
            name: compare(original, way.luma, last) for name, way in (("off", off), ("on", motion))
        }
        times = _times(small, off, motion, "motion", options)
    if options.pictures:
        write_worst_place(off, motion, options.pictures)
    return {
        "frames": len(off.frames),
        "psnr_y": scores["on"]["psnr"],
        "psnr_y_change": scores["on"]["psnr"] - scores["off"]["psnr"],
        "psnr_y_change_last_second": scores["on"]["psnr_last"] - scores["off"]["psnr_last"],
        "psnr_to_computed": psnr(_mean_square(motion.luma, off.luma)),
        "flicker_ratio": scores["on"]["flicker"] / max(scores["off"]["flicker"], 1e-9),
        **times,
    }


def _times(
    clip: Path, off: Enlarged, on: Enlarged, reuse: Reuse, options: argparse.Namespace
) -> dict[str, object]:
    """Medians of alternating runs; those that were looked at are the first."""
    pairs = [(off, on)]
    pairs += [
        (
            Enlarged(clip, options.frames, "off", options),
            Enlarged(clip, options.frames, reuse, options),
        )
        for _ in range(options.runs - 1)
    ]
    offs, ons = zip(*pairs, strict=True)
    return {
        **on.facts,
        "computed": on.computed,
        "wall_seconds_off": statistics.median(one.wall for one in offs),
        "wall_seconds": statistics.median(one.wall for one in ons),
        "cpu_seconds_off": statistics.median(one.cpu for one in offs),
        "cpu_seconds": statistics.median(one.cpu for one in ons),
        "wall_ratio": statistics.median(b.wall / a.wall for a, b in pairs),
        "cpu_ratio": statistics.median(b.cpu / a.cpu for a, b in pairs),
    }


def shrink(clip: Path, path: Path, options: argparse.Namespace) -> Luma:
    """Write a clip `scale` times smaller at CRF 20; the luma of what it was made of."""
    originals = []
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        stream_in = source.streams.video[0]
        side = 2 * options.scale
        rate = stream_in.average_rate or Fraction(25)
        video = target.add_stream("libx264", rate=rate, options={"crf": "20", "threads": "1"})
        video.width, video.height = (
            length // side * side // options.scale for length in (stream_in.width, stream_in.height)
        )
        video.pix_fmt = "yuv420p"
        for number, picture in enumerate(
            itertools.islice(source.decode(stream_in), options.frames)
        ):
            luma = picture.reformat(format="yuv420p").to_ndarray()[: picture.height]
            originals.append(luma[: video.height * options.scale, : video.width * options.scale])
            small = _cropped(picture, side).reformat(
                video.width, video.height, "yuv420p", interpolation="AREA"
            )
            small.pts, small.time_base = number, 1 / Fraction(rate)
            target.mux(video.encode(small))
        target.mux(video.encode(None))
    return np.stack(originals)


def _cropped(picture: av.VideoFrame, side: int) -> av.VideoFrame:
    """The top left of a picture, its sides multiples of `side`."""
    rgb = picture.to_ndarray(format="rgb24")
    height, width = (length // side * side for length in rgb.shape[:2])
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb[:height, :width]), format="rgb24")


def compare(original: Luma, ours: Luma, last: int) -> dict[str, float]:
    """PSNR of all and of the last frames, and flicker."""
    errors = [a.astype(np.float32) - b for a, b in zip(ours, original, strict=True)]
    squares = [float(np.square(error).mean()) for error in errors]
    changes = [float(np.square(b - a).mean()) for a, b in itertools.pairwise(errors)]
    return {
        "psnr": psnr(statistics.mean(squares)),
        "psnr_last": psnr(statistics.mean(squares[-last:])),
        "flicker": statistics.mean(changes or [0.0]) ** 0.5,
    }


def psnr(mean_square: float) -> float:
    """In dB, of 8-bit codes."""
    return float(10 * np.log10(255**2 / max(mean_square, 1e-4)))


def write_worst_place(off: Enlarged, motion: Enlarged, folder: Path) -> None:
    """Both ways' pictures of the part of a frame where they differ most, pixel for pixel."""
    width, height = CROP
    squares = [
        np.square(ours.astype(np.float32) - theirs)
        for ours, theirs in zip(motion.luma, off.luma, strict=True)
    ]
    number = max(range(len(squares)), key=lambda index: float(squares[index].mean()))
    around = cv2.blur(squares[number], CROP, borderType=cv2.BORDER_CONSTANT)
    y, x = np.unravel_index(around.argmax(), around.shape)
    tall, wide = around.shape
    top, left = (
        int(np.clip(middle - side // 2, 0, whole - side))
        for middle, side, whole in ((y, height, tall), (x, width, wide))
    )
    for way, name in ((off, "computed"), (motion, "motion")):
        planes = way.frames[number].planes
        codes = np.concatenate([plane.reshape(-1) for plane in planes])
        frame = av.VideoFrame.from_ndarray(codes.reshape(-1, wide), format="yuv420p")
        rgb = frame.to_ndarray(format="rgb24")[top : top + height, left : left + width]
        Image.fromarray(rgb).save(folder / f"edge-{name}.png", optimize=True)
    print(f"pictures: {width}x{height} at {left},{top} of frame {number}, in {folder}")


def _mean_square(ours: Luma, theirs: Luma) -> float:
    pairs = zip(ours, theirs, strict=True)
    return statistics.mean(float(np.square(a.astype(np.float32) - b).mean()) for a, b in pairs)


def _plan(clip: Path, reuse: Reuse, options: argparse.Namespace) -> Plan:
    error = options.reuse_error if reuse == "motion" else None
    request = EngineRequest(
        model=options.model,
        engine=options.engine,
        device=options.device,
        precision=options.precision,
        threads=options.threads,
        reuse=reuse,
        reuse_error=error,
    )
    with tempfile.TemporaryDirectory() as folder:
        job = Job(clip, Path(folder), SizeRequest(scale=options.scale), request)
        planned = plan(job, cache_dir=cache_dir())
    assert isinstance(planned, Plan)
    return planned


def _chain(planned: Plan) -> Chain:
    video = planned.video
    device = torch.device(planned.engine.device)
    return Chain(
        ColorConverter(planned.info.layout, planned.info.color, device=device),
        open_stages(planned.engine, planned.target),
        ColorConverter(video.layout, video.color, device=device),
        video.layout,
        video.color,
        video.height,
        video.width,
    )


def _decoded(clip: Path, frames: int) -> Iterator[Frame]:
    reader = VideoReader(probe(clip), copied=(), threads=1)
    return itertools.islice((item for item in reader if isinstance(item, Frame)), frames)


def _line(row: dict[str, object]) -> str:
    line = (
        f"{row['clip']:28.28} {row['reuse']:6} {row['frames']:4} frames, computed "
        f"{row['computed']:6.1%}, wall x{row['wall_ratio']:.3f}, cpu x{row['cpu_ratio']:.3f}"
    )
    if row["reuse"] == "exact":
        return f"{line}, identical"
    return (
        f"{line}, PSNR-Y {row['psnr_y']:.2f} ({row['psnr_y_change']:+.3f}, last second "
        f"{row['psnr_y_change_last_second']:+.3f}), to computed {row['psnr_to_computed']:.1f} dB, "
        f"flicker x{row['flicker_ratio']:.3f}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("sources", nargs="+", type=Path, help="clips, or folders of clips")
    parser.add_argument("--model", default=None)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--frames", type=int, default=60, help="of each clip, at most")
    parser.add_argument("--runs", type=int, default=5, help="alternating pairs")
    parser.add_argument("--only", choices=("exact", "motion"), default=None)
    parser.add_argument("--reuse-error", type=float, default=None)
    parser.add_argument("--pictures", type=Path, default=None, help="folder for two crops")
    parser.add_argument("--json", type=Path, default=Path("reuse.json"))
    keep_freed_memory()  # as the command does
    return parser.parse_args()


if __name__ == "__main__":
    main()
