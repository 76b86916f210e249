"""What a CUDA device does with vidsr: right first, then fast.

    python benchmarks/gpu.py [--device cuda] [--seconds 1] [--models fast-x4,photo-x4]
                             [--sizes 480p,1080p] [--json gpu.json]

1. Correctness: each model whose weights are here on one picture, device against processor in fp32;
   PSNR >= 45 dB. Frames that overlap in the pipeline's lanes against the same ones by one, and
   conversions of 8 and 10 bits against the processor's: equal within one code.
2. Engine alone, and decode to encode, in frames per second, and the memory that the engine took
   beside what its plan says. Color and size in one pass, if a colorizer is here.
3. Of the first model each step alone, the three on the device together, and which is the slowest.
4. The matrix product's peak, fp32 and fp16.

The JSON is written after each measurement. One that fails is kept as such, and the others go on.
Exits 1 if one failed or a picture is wrong. Needs no files: it draws its own clips, in which every
frame is another. `--device cpu` runs the same code without a card, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
from gpu_checks import (
    at_hand,
    conversion_difference,
    enlarged,
    faithful,
    lanes_difference,
    near,
    open_upscaler,
    psnr,
)
from pipeline import decode, decoded_frames, encode, once

from vidsr.draft import Plan
from vidsr.engines.memory import keep_freed_memory
from vidsr.engines.precision import DTYPES, Precision
from vidsr.engines.torch_engine import open_device
from vidsr.events import Progress, Result
from vidsr.job import plan, run
from vidsr.media.color import ColorConverter
from vidsr.media.demo import draw_frame
from vidsr.media.encoders import EncoderRequest, encoders_here
from vidsr.models.card import ModelCard, shipped_cards
from vidsr.networks import open_stages
from vidsr.request import ColorRequest, EngineRequest, Job, SizeRequest

SIZES = {"480p": (854, 480), "720p": (1280, 720), "1080p": (1920, 1080)}
FRAMES = {"480p": 96, "720p": 48, "1080p": 16}  # from file to file: the last becomes 8K at x4


class Report:
    """What was measured, on the disk as soon as it is."""

    def __init__(self, path: Path, **facts: object) -> None:
        self.failed: list[str] = []
        self._path = path
        self._content = facts
        print(facts, flush=True)

    def add(self, name: str, work: Callable[[], object], right: Callable[..., bool] = bool) -> None:
        """Measure one thing, or keep why that failed; `right` says whether the result is."""
        began = time.perf_counter()
        try:
            result = work()
            failed = not right(result)
        except Exception as exc:  # a card's time is short: the others go on
            result, failed = f"{type(exc).__name__}: {exc}", True
        self.failed += [name] * failed
        self._content |= {name: result, "failed": self.failed}
        self._path.write_text(json.dumps(self._content, indent=2) + "\n", encoding="utf-8")
        words = f"{'FAILED ' * failed}{name}: {result}"
        print(f"{words} ({time.perf_counter() - began:.1f} s)", flush=True)


def main() -> None:
    """Check, measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=1.0, help="a measurement")
    parser.add_argument("--models", default="", help="whose rates are measured; all unless told")
    parser.add_argument("--sizes", default="480p,720p,1080p")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    keep_freed_memory()  # as the command does
    device, cards = open_device(options.device), at_hand()
    encoder = choose_encoder(device)
    report = Report(
        options.json, device=_name(device), torch=torch.__version__, encoder=encoder.encoder
    )
    enlarging = [card.name for card in cards if card.task == "upscale" and not card.is_twin]
    asked = options.models.split(",") if options.models else enlarging
    models = [name for name in asked if name in enlarging]
    if not models:
        raise SystemExit(f"none of {', '.join(asked)} is here; there are {', '.join(enlarging)}")
    check_pictures(report, cards, models[0], device)
    colorizer = next((card.name for card in cards if card.task == "colorize"), None)
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes.split(","):
            clip = Path(folder) / f"{size}.mp4"
            draw_clip(clip, SIZES[size], max(8, round(FRAMES[size] * min(options.seconds, 1))))
            jobs = {name: _job(name, clip, device, encoder) for name in models}
            for name, job in jobs.items():
                rate = partial(engine_rate, name, SIZES[size], device, options.seconds)
                report.add(f"{name} {size} engine", rate)
                report.add(f"{name} {size} file to file", partial(file_to_file, job, device))
            job = jobs[models[0]]
            report.add(f"{models[0]} {size} steps", partial(steps, job, device, options.seconds))
            if colorizer:
                colored = replace(job, color=ColorRequest(colorizer, force=True))
                report.add(f"{models[0]} {size} in color", partial(file_to_file, colored, device))
    names: tuple[Precision, ...] = ("fp32", "fp16") if device.type == "cuda" else ("fp32",)
    for name in names:
        report.add(f"matrix {name} TFLOP/s", partial(matrix_peak, name, device, options.seconds))
    if report.failed:
        raise SystemExit(f"wrong or failed: {', '.join(report.failed)}")


def choose_encoder(device: torch.device) -> EncoderRequest:
    """The card's own encoder if it has one (not all do) and opens."""
    if device.type == "cuda" and encoders_here()["hevc_nvenc"]:
        return EncoderRequest("hevc_nvenc", preset="p1")
    return EncoderRequest("libx264", preset="ultrafast")


def check_pictures(
    report: Report, cards: Sequence[ModelCard], model: str, device: torch.device
) -> None:
    """Every network's picture, conversions and lanes."""
    for card in cards:
        report.add(f"{card.name} dB", partial(psnr, card, device), faithful)
    for depth in (8, 10):
        report.add(f"{depth} bits differ by", partial(conversion_difference, depth, device), near)
    report.add(f"lanes with {model} differ by", partial(lanes_difference, model, device), near)


def engine_rate(
    model: str, size: tuple[int, int], device: torch.device, seconds: float
) -> dict[str, object]:
    """Frames per second of the network alone, how it ran, and what memory it took."""
    planned, stage = open_upscaler(model, str(device), "auto", size)
    picture = torch.rand(1, 3, size[1], size[0], device=device)
    _peak_mib(device)  # forgets earlier ones
    return {
        "fps": _per_second(lambda: stage(picture), device, seconds),
        "how": f"{planned.precision}, tiles of {planned.tile}, {planned.batch} at once",
        "planned_mib": planned.memory_bytes >> 20,
        "peak_mib": _peak_mib(device),
    }


def file_to_file(job: Job, device: torch.device) -> dict[str, object]:
    """Frames per second of the whole command, and the share of the time that each part worked."""
    _peak_mib(device)  # forgets earlier ones
    planned = plan(job)
    assert isinstance(planned, Plan)
    *events, result = run(planned)
    assert isinstance(result, Result)
    reports = [event for event in events if isinstance(event, Progress)]
    steady = None  # without the start and the end, where there was time for reports
    if len(reports) > 1:
        first, *_, last = reports
        steady = round((last.frames - first.frames) / (last.seconds - first.seconds), 2)
    return {
        "fps": round(result.frames_out / result.seconds, 2),
        "steady_fps": steady,
        "frames": result.frames_out,
        "size": f"{result.width}x{result.height}",
        "busy": {part: round(share, 2) for part, share in result.busy.items()},
        "retiled": result.retiled,
        "recomputed": result.recomputed,
        "peak_mib": _peak_mib(device),
        "host_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,  # so far
    }


def steps(job: Job, device: torch.device, seconds: float) -> dict[str, object]:
    """Frames per second of each step alone; the three on the device overlap in the pipeline."""
    planned = plan(job)
    assert isinstance(planned, Plan)
    frames = decoded_frames(planned)
    stage = open_stages(planned.engine, planned.target)[0]
    large_frames = enlarged(frames, stage, device)  # fetches memory, too
    converter = ColorConverter(planned.video.layout, planned.video.color, device=device)
    arriving, leaving = (
        [_pinned(torch.from_numpy(plane), device) for plane in some[0].planes]
        for some in (frames, large_frames)
    )
    rgb = torch.rand(1, 3, frames[0].height, frames[0].width, device=device)
    large = stage(rgb)  # laid out as in a run

    def upload() -> object:
        return converter.to_rgb([plane.to(device, non_blocking=True) for plane in arriving])

    def download() -> object:
        for source, target in zip(converter.from_rgb(large), leaving, strict=True):
            target.copy_(source)
        return [plane.numpy().copy() for plane in leaving]

    def rate(work: Callable[[], object]) -> float:
        return round(len(frames) / once(work)[0], 2)

    fps = {
        "decode": rate(lambda: decode(planned, 0, len(frames))),
        "upload and to RGB": _per_second(upload, device, seconds),
        "engine": _per_second(lambda: stage(rgb), device, seconds),
        "from RGB and download": _per_second(download, device, seconds),
        "encode": rate(lambda: encode(planned, large_frames, 0)),
    }
    together = rate(lambda: enlarged(frames, stage, device))
    return {**fps, "slowest": min(fps, key=lambda step: fps[step]), "on the device": together}


def matrix_peak(precision: Precision, device: torch.device, seconds: float) -> float:
    """TFLOP/s of a square matrix product."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.rand(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    return round(2 * side**3 * _per_second(lambda: a @ b, device, seconds) / 1e12, 2)


def draw_clip(path: Path, size: tuple[int, int], count: int) -> None:
    """A drawing that moves sideways, so that no frame repeats another; it is drawn once."""
    drawing = draw_frame(1.0, *size)
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=24, options={"preset": "ultrafast", "crf": "20"})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.roll(drawing, 8 * number, axis=1))
            output.mux(video.encode(frame.reformat(format="yuv420p")))
        output.mux(video.encode(None))


def _job(model: str, clip: Path, device: torch.device, encoder: EncoderRequest) -> Job:
    scale = next(card.scale for card in shipped_cards() if card.name == model)
    return Job(
        clip,
        clip.with_name("large.mkv"),
        SizeRequest(scale=scale),
        EngineRequest(model=model, device=str(device)),
        encoder,
        overwrite=True,
    )


def _per_second(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Calls per second, warmed up and synchronized."""
    with torch.inference_mode():
        for _ in range(3 if device.type == "cuda" else 1):
            work()
        _synchronize(device)
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            work()
            calls += 1
            if calls % 8 == 0:
                _synchronize(device)
        _synchronize(device)
    return round(calls / (time.perf_counter() - began), 2)


def _pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tensor.pin_memory() if device.type == "cuda" else tensor.clone()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_mib(device: torch.device) -> int | None:
    """Of what tensors took on the device since the last look; None on a processor."""
    if device.type != "cuda":
        return None
    peak = torch.cuda.max_memory_allocated(device) >> 20
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


if __name__ == "__main__":
    main()
