"""Is what a device computes right? The checks of `gpu.py`, against the processor and itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import numpy as np
import torch

from vidsr.coloring import Look
from vidsr.engines.precision import Precision
from vidsr.errors import VidsrError
from vidsr.frame import ColorSpec, Frame, Matrix, PixelLayout, Range, Siting
from vidsr.media.color import ColorConverter
from vidsr.media.demo import draw_frame
from vidsr.models.card import ModelCard, shipped_cards
from vidsr.models.families import choose_colorizer, choose_weights
from vidsr.models.load import check
from vidsr.networks import EnginePlan, open_colorizer, open_stages, plan_color, plan_engine
from vidsr.pipeline import Chain, stream, workers_on
from vidsr.planning import Target
from vidsr.request import ColorRequest, EngineRequest
from vidsr.stages import Repeat, Stage

BAR_DB = 45.0
WITHIN = 1  # codes that planes may differ by
Asked = Precision | Literal["auto"]


def at_hand() -> list[ModelCard]:
    """The cards of all models whose weights are here, whole and with what they are mixed with."""
    cards = []
    for card in shipped_cards():
        try:
            if card.task == "colorize":
                check(choose_colorizer(card.name))
            else:
                check(choose_weights(card.name, Fraction(1), None))
            cards.append(card)
        except VidsrError as exc:
            print(f"left out: {exc}", flush=True)
    return cards


def faithful(decibels: dict[str, float]) -> bool:
    """Whether `psnr` says that a model is right."""
    return min(decibels.values()) >= BAR_DB


def near(codes: int) -> bool:
    """Whether so large a difference may be."""
    return codes <= WITHIN


def psnr(card: ModelCard, device: torch.device) -> dict[str, float]:
    """PSNR in dB of a model's picture, by the device in a precision against fp32 elsewhere."""
    size = (320, 180)
    drawing = torch.from_numpy(draw_frame(1.0, *size)).permute(2, 0, 1)[None].float().div(255)
    if card.task == "colorize":
        exact, ours = _colorizer(card.name, "cpu"), {"fp32": _colorizer(card.name, str(device))}
    else:
        exact = open_upscaler(card.name, "cpu", "fp32", size)[1]
        names: tuple[Asked, ...] = ("auto", "fp32")
        ours = {name: open_upscaler(card.name, str(device), name, size)[1] for name in names}
    with torch.inference_mode():
        truth, there = exact(drawing), drawing.to(device)
        errors = {name: (stage(there).float().cpu() - truth) for name, stage in ours.items()}
    return {
        name: round(-10 * math.log10(max(float((error**2).mean()), 1e-12)), 1)
        for name, error in errors.items()
    }


def conversion_difference(depth: int, device: torch.device) -> int:
    """Largest difference in codes between planes that went through the device and through none."""
    frames = _noise(depth, 24)
    ours, theirs = (enlarged(frames, Repeat(2), place) for place in (device, torch.device("cpu")))
    return _difference(ours, theirs)


def lanes_difference(model: str, device: torch.device) -> int:
    """Largest difference in codes between frames that overlap and the same, one after the other."""
    frames = _noise(8, 24)
    stage = open_upscaler(model, str(device), "auto", (640, 360))[1]
    one_by_one = [enlarged([frame], stage, device)[0] for frame in frames]
    return _difference(enlarged(frames, stage, device), one_by_one)


def enlarged(frames: Sequence[Frame], stage: Stage, device: torch.device) -> list[Frame]:
    """Frames through a stage on a device, overlapping as in a run."""
    first = frames[0]
    converter = ColorConverter(first.layout, first.color, device=device)
    height, width = stage.output_size(first.height, first.width)
    chain = Chain(converter, [stage], converter, first.layout, first.color, height, width)
    return list(stream(frames, workers_on(device, lambda: chain, 1)))


def open_upscaler(
    model: str, device: str, precision: Asked, size: tuple[int, int]
) -> tuple[EnginePlan, Stage]:
    """How a model would run on pictures of `size` (width, height), and it, ready."""
    request = EngineRequest(model=model, device=device, precision=precision)
    engine = plan_engine(request, Fraction(1), size, cache_dir=None)
    scale = engine.card.scale
    target = Target(size[0] * scale, size[1] * scale, Fraction(scale), square_pixels=False)
    return engine, open_stages(engine, target)[0]


def _noise(depth: int, count: int) -> list[Frame]:
    layout = PixelLayout("yuv", depth, (1, 1))
    color = ColorSpec(Matrix.BT709, Range.LIMITED, 1, 1, Siting.LEFT)
    draw, dtype = np.random.default_rng(0), np.uint8 if depth == 8 else np.uint16
    low, high = (code << (depth - 8) for code in (16, 236))

    def frame(pts: int) -> Frame:
        shapes = layout.plane_shapes(640, 360)
        planes = tuple(draw.integers(low, high, shape, dtype=dtype) for shape in shapes)
        return Frame(planes, layout, color, pts, 1, Fraction(1, 24))

    return [frame(pts) for pts in range(count)]


def _difference(ours: Sequence[Frame], theirs: Sequence[Frame]) -> int:
    return max(
        int(np.abs(a.astype(int) - b.astype(int)).max())
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one.planes, other.planes, strict=True)
    )


def _colorizer(model: str, device: str) -> Stage:
    request = ColorRequest(model, Look(stability=0))
    return open_colorizer(plan_color(request, EngineRequest(device=device)), Matrix.BT709)
