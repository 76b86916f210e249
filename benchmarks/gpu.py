"""What a CUDA device does with vidsr: right first, then fast.

    python benchmarks/gpu.py [--device cuda] [--seconds 2] [--json gpu.json]

1. Correctness: each shipped model on one picture, device against processor in fp32; PSNR >= 45 dB.
   The pipeline's lanes: planes through CUDA streams against immediate lanes, equal within one code.
2. The matrix product's peak, fp32 and fp16.
3. Engine alone, and decode to encode, in frames per second at 480p, 720p and 1080p.

Exits 1 if a picture is wrong. Needs no files: it draws its own clip. `--device cpu` runs the same
code without a card, to see that the script itself works.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidsr.draft import Plan
from vidsr.engines.memory import keep_freed_memory
from vidsr.engines.precision import DTYPES, Precision
from vidsr.events import Result
from vidsr.frame import ColorSpec, Frame, Matrix, PixelLayout, Range, Siting
from vidsr.job import plan, run
from vidsr.media.color import ColorConverter
from vidsr.media.demo import draw_demo_clip, draw_frame
from vidsr.media.encoders import EncoderRequest
from vidsr.models.card import shipped_cards
from vidsr.networks import open_stages, plan_engine
from vidsr.pipeline import Chain, stream, workers_on
from vidsr.planning import Target
from vidsr.request import EngineRequest, Job, SizeRequest
from vidsr.stages import Repeat, Stage

SIZES = {"480p": (854, 480), "720p": (1280, 720), "1080p": (1920, 1080)}
BAR_DB = 45.0


def main() -> None:
    """Check, measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=2.0, help="a measurement")
    parser.add_argument("--sizes", default="480p,720p,1080p")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    keep_freed_memory()  # as the command does
    device = torch.device(options.device)
    report: dict[str, object] = {"device": _name(device), "torch": torch.__version__}
    print(f"{report['device']}, torch {torch.__version__}")
    report["correct"] = correctness(device)
    report["lanes_differ_by"] = lanes_difference(device)
    report["matrix_tflops"] = matrix_peak(device, options.seconds)
    report["rates"] = [
        rates(card.name, size, device, options.seconds)
        for card in shipped_cards()
        for size in options.sizes.split(",")
    ]
    options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    wrong = [name for name, psnr in report["correct"].items() if psnr < BAR_DB]
    if wrong or report["lanes_differ_by"] > 1:
        raise SystemExit(f"wrong pictures: {wrong}, lanes differ by {report['lanes_differ_by']}")


def correctness(device: torch.device) -> dict[str, float]:
    """PSNR in dB of each model, device with its own precision against processor in fp32."""
    drawing = torch.from_numpy(draw_frame(1.0, 320, 180)).permute(2, 0, 1)[None].float().div(255)
    result = {}
    for card in shipped_cards():
        exact = _stage(card.name, "cpu", "fp32", (320, 180))
        fast = _stage(card.name, str(device), "auto", (320, 180))
        with torch.inference_mode():
            difference = fast(drawing.to(device)).float().cpu() - exact(drawing)
        result[card.name] = -10 * math.log10(max(float((difference**2).mean()), 1e-12))
        print(
            f"{card.name}: {result[card.name]:.1f} dB against fp32 on the processor (bar {BAR_DB})"
        )
    return result


def lanes_difference(device: torch.device) -> int:
    """Largest difference in code values between the device's lanes and immediate ones."""
    ours = _through_lanes(device)
    theirs = _through_lanes(torch.device("cpu"))
    worst = max(
        int(np.abs(a.astype(int) - b.astype(int)).max())
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one.planes, other.planes, strict=True)
    )
    print(f"lanes: {len(ours)} frames differ by at most {worst} code values (bar 1)")
    return worst


def _through_lanes(device: torch.device) -> list[Frame]:
    layout = PixelLayout("yuv", 8, (1, 1))
    color = ColorSpec(Matrix.BT709, Range.LIMITED, 1, 1, Siting.LEFT)
    converter = ColorConverter(layout, color, device=device)
    chain = Chain(converter, [Repeat(2)], converter, layout, color, 720, 1280)
    draw = np.random.default_rng(0)

    def frame(number: int) -> Frame:
        planes = tuple(
            draw.integers(16, 236, shape, dtype=np.uint8) for shape in layout.plane_shapes(640, 360)
        )
        return Frame(planes, layout, color, number, 1, Fraction(1, 24))

    frames = (frame(number) for number in range(48))
    return list(stream(frames, workers_on(device, lambda: chain, 1)))


def matrix_peak(device: torch.device, seconds: float) -> dict[str, float]:
    """TFLOP/s of a square matrix product in fp32 and, on a GPU, fp16."""
    side = 8192 if device.type == "cuda" else 1024
    names: tuple[Precision, ...] = ("fp32", "fp16") if device.type == "cuda" else ("fp32",)
    peak = {}
    for name in names:
        a, b = (torch.rand(side, side, device=device).to(DTYPES[name]) for _ in range(2))
        rate = _per_second(lambda a=a, b=b: a @ b, device, seconds)
        peak[name] = 2 * side**3 * rate / 1e12
        print(f"matrix product {name}: {peak[name]:.1f} TFLOP/s")
    return peak


def rates(model: str, size: str, device: torch.device, seconds: float) -> dict[str, object]:
    """Frames per second of the engine alone and from file to file."""
    width, height = SIZES[size]
    stage = _stage(model, str(device), "auto", (width, height))
    picture = torch.rand(1, 3, height, width, device=device)
    alone = _per_second(lambda: stage(picture), device, seconds)
    frames = max(8, min(96, int(2 * alone)))  # drawing them takes time too
    whole = file_to_file(model, (width, height), device, frames=frames)
    share = whole / alone
    print(f"{model} {size}: engine {alone:.2f} fps, file to file {whole:.2f} fps ({share:.0%})")
    return {"model": model, "size": size, "engine_fps": alone, "file_to_file_fps": whole}


def file_to_file(model: str, size: tuple[int, int], device: torch.device, *, frames: int) -> float:
    """Frames per second of the whole command on a drawn clip, with a hardware encoder on CUDA."""
    encoder = EncoderRequest("hevc_nvenc" if device.type == "cuda" else None)
    if device.type != "cuda":
        encoder = EncoderRequest(preset="ultrafast")
    scale = next(card.scale for card in shipped_cards() if card.name == model)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "drawn.mp4"
        draw_demo_clip(clip, seconds=frames / 24, width=size[0], height=size[1])
        job = Job(
            clip,
            Path(folder) / "large.mkv",
            SizeRequest(scale=scale),
            EngineRequest(model=model, device=str(device)),
            encoder,
        )
        planned = plan(job)
        assert isinstance(planned, Plan)
        *_, result = run(planned)
    assert isinstance(result, Result)
    return result.frames_out / result.seconds


def _stage(model: str, device: str, precision: str, size: tuple[int, int]) -> Stage:
    request = EngineRequest(model=model, device=device, precision=precision)
    engine = plan_engine(request, Fraction(1), size, cache_dir=None)
    scale = engine.card.scale
    target = Target(size[0] * scale, size[1] * scale, Fraction(scale), square_pixels=False)
    return open_stages(engine, target)[0]


def _per_second(work: Callable[[], Tensor], device: torch.device, seconds: float) -> float:
    """Calls per second, warmed up and synchronized."""
    with torch.inference_mode():
        for _ in range(3 if device.type == "cuda" else 1):
            work()
        _synchronize(device)
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            work()
            calls += 1
            if device.type == "cuda" and calls % 8 == 0:
                _synchronize(device)
        _synchronize(device)
    return calls / (time.perf_counter() - began)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


if __name__ == "__main__":
    main()
