"""The networks of a plan: how they will be run, and made ready."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from threading import Lock

import torch

from vidsr.coloring import WORKING_SIDE, Colorize, Look, Reference
from vidsr.engines.choice import (
    LIBRARIES,
    Choice,
    EngineName,
    Subject,
    Way,
    Wish,
    choose,
    machine_key,
    open_engine,
)
from vidsr.engines.engine import Engine
from vidsr.engines.openvino_engine import Store
from vidsr.engines.precision import DTYPES, Precision, fastest_precision
from vidsr.engines.remembered import Remembered, usable_cores
from vidsr.engines.torch_engine import Layout, open_device
from vidsr.errors import RequestError
from vidsr.following import PART_HALO, REUSE_ERROR, Follow
from vidsr.frame import Matrix
from vidsr.media import images
from vidsr.media.color import luma_weights, rgb_of_codes
from vidsr.memory import free_memory
from vidsr.models.card import ModelCard, shipped_cards
from vidsr.models.families import choose_colorizer, choose_weights, default_family
from vidsr.models.load import Network, Weights, check, load, load_mixed
from vidsr.motion import opencv
from vidsr.planning import Target
from vidsr.request import ColorRequest, EngineRequest, Job
from vidsr.resize import Resize
from vidsr.reuse import Reuse
from vidsr.stages import (
    SMALLEST_KEPT,
    Counters,
    Stage,
    Upscale,
    bytes_per_pixel,
    choose_tile,
    least_exact,
)
from vidsr.tiling import Grid

NCNN_SHARE = 2.25  # of the memory that others take; measured, 1.6 to 2.5
COLOR_PIXEL_BYTES = 3200  # per pixel of what the colorizer sees: 169 colors and 32 wide features
MOST_WORKERS = 8  # each holds a frame and a network; beyond this, workers get more threads
_TRYING = Lock()  # see _remembered_least
CAUTION = 0.6  # of the memory there is, since what a network takes is an estimate


@dataclass(frozen=True)
class Room:
    """Main memory for networks at work."""

    bytes: int  # in all
    picture: int  # of which each needs so much beside its tile


@dataclass(frozen=True)
class EnginePlan:
    """The network and how it will be run; all of it is fixed before the first frame."""

    weights: Weights
    why: str  # a default family's reason and alternatives; "" if the model was named
    device: str
    precision: Precision
    tile: int
    batch: int
    overlap: int
    threads: int  # of each worker
    workers: int  # frames that are computed at once; see Note [Two slots]
    memory_bytes: int  # estimate of what the engine takes
    kind: EngineName = "torch"  # what computes
    layout: Layout = "channels_last"  # of torch's feature maps
    measured: str = ""  # what the choice of kind, precision and layout rests on, in words
    notes: tuple[str, ...] = ()  # what could not be as it was asked for
    cache_dir: Path | None = None  # where compiled models are kept
    reuse: Reuse = "exact"  # of what did not change from frame to frame, or only moved
    reuse_error: float = REUSE_ERROR  # mean squared, in 8-bit codes, that motion may leave

    @property
    def card(self) -> ModelCard:
        """Of the network."""
        return self.weights.card


@dataclass(frozen=True)
class ColorPlan:
    """The network that colors and how it is used."""

    engine: EnginePlan
    look: Look
    reference: Path | None


def plan_networks(
    job: Job,
    target: Target,
    size: tuple[int, int],
    cache_dir: Path | None,
    room: Room | None = None,
) -> tuple[EnginePlan, ColorPlan | None]:
    """What enlarges (else what colors) pictures of `size` (width, height), and what colors."""
    color = None if job.color is None else plan_color(job.color, job.engine)
    if job.size is None and color is not None:
        return color.engine, color
    return plan_engine(job.engine, target.factor, size, cache_dir=cache_dir, room=room), color


def plan_engine(
    request: EngineRequest,
    factor: Fraction,
    size: tuple[int, int],
    *,
    cache_dir: Path | None,
    room: Room | None = None,
) -> EnginePlan:
    """How the network will run on a picture of `size` (width, height).

    On a processor it stays within `room`, as far as it can; None is what is free now. Elsewhere
    what is free on the device bounds it.

    Raises:
        ModelError: unknown model, weights that are not those of the card, or a twin that does not
            fit.
        DeviceError: no such device, or a library is missing or lacks the precision.
        RequestError: no member reaches the factor, the tile is too small for this network, a
            fidelity is asked for and there is nothing to mix, or a library for a GPU.
    """
    device = _device_for(request)
    _check_reuse(request, device)
    model, why = request.model, ""
    if model is None:
        model, why = default_family(device.type, shipped_cards(), factor)
    weights = choose_weights(model, factor, request.fidelity)
    check(weights)
    chosen = _choose_way(request, weights, device, cache_dir)
    precision = chosen.way.precision
    _check_tile(request, weights.card, size)
    room = room or Room(free_memory(device), 0)
    # Off the processor too the picture lies, in float, where the network is.
    free = (room.bytes if device.type == "cpu" else free_memory(device)) - room.picture
    tile, batch = _choose_tile(weights.card, chosen.way, free, device, request.overlap, size)
    if request.tile is not None:
        tile, batch = min(request.tile, max(size)), 1
    engine_bytes = _tile_bytes(weights.card, chosen.way, tile, size) * batch
    cores = request.threads or usable_cores()
    affordable = int(room.bytes * CAUTION) // (engine_bytes + room.picture)
    workers = max(1, min(cores, MOST_WORKERS, affordable)) if device.type == "cpu" else 1
    return EnginePlan(
        weights=weights,
        why=why,
        device=str(device),
        precision=precision,
        tile=tile,
        batch=batch,
        overlap=request.overlap,
        threads=max(1, cores // workers),
        workers=workers,
        memory_bytes=engine_bytes * workers,
        kind=chosen.way.engine,
        layout=chosen.way.layout,
        measured=chosen.measured,
        notes=chosen.notes,
        cache_dir=cache_dir,
        reuse=request.reuse,
        reuse_error=REUSE_ERROR if request.reuse_error is None else request.reuse_error,
    )


def _device_for(request: EngineRequest) -> torch.device:
    """The device that is asked for; all libraries but torch compute on the processor."""
    if request.engine not in LIBRARIES:
        return open_device(request.device)
    if request.device not in {"auto", "cpu"}:
        raise RequestError(
            f"--engine {request.engine} computes on the processor, not on {request.device}; leave "
            "--engine out, or choose --device cpu"
        )
    return open_device("cpu")


def _choose_way(
    request: EngineRequest, weights: Weights, device: torch.device, cache_dir: Path | None
) -> Choice:
    """What computes the network, in which precision and layout."""
    if device.type == "cpu":
        wish = Wish(request.engine, request.precision, weights.half)
        subject = Subject(lambda: load_mixed(weights), weights.card.scale, weights.identity)
        return choose(wish, subject, cache_dir)
    precision = request.precision
    if precision == "auto":
        precision = fastest_precision(device) if weights.half else "fp32"
    return Choice(Way(precision=precision))


def plan_color(request: ColorRequest, engine: EngineRequest) -> ColorPlan:
    """Which network will color, and how it will run: in fp32, one frame after the other.

    Raises:
        ModelError: no such model, none that colors, or weights that are not those of the card.
        DeviceError: no such device.
        RequestError: a model that enlarges, no such reference, OpenCV is missing, or a library for
            a GPU.
    """
    if request.reference is not None and not request.reference.is_file():
        raise RequestError(f"--reference {request.reference}: no such picture")
    device = _device_for(engine)  # where the pictures are enlarged, too
    weights = choose_colorizer(request.model)
    check(weights)
    if request.look.stability:
        opencv()  # last: whoever lacks a model need not install it
    plan = EnginePlan(
        weights=weights,
        why="",
        device=str(device),
        precision="fp32",
        tile=WORKING_SIDE,
        batch=1,
        overlap=0,
        threads=engine.threads or usable_cores(),
        workers=1,
        memory_bytes=2 * WORKING_SIDE**2 * COLOR_PIXEL_BYTES,
        reuse="off" if engine.reuse == "off" else "exact",  # color alone follows motion its own way
    )
    return ColorPlan(plan, request.look, request.reference)


def alone(engine: EnginePlan) -> EnginePlan:
    """The same engine with one worker that has all threads: for a picture with none before it."""
    return replace(
        engine,
        workers=1,
        threads=engine.threads * engine.workers,
        memory_bytes=engine.memory_bytes // engine.workers,
        reuse="off",
    )


def fit_tile(engine: EnginePlan, size: tuple[int, int]) -> EnginePlan:
    """The same engine for single pictures of another size (width, height)."""
    card, device = engine.card, torch.device(engine.device)
    way, free = Way(engine.kind, engine.precision), free_memory(device)
    tile, batch = _choose_tile(card, way, free, device, engine.overlap, size)
    memory = _tile_bytes(card, way, tile, size) * batch
    return replace(alone(engine), tile=tile, batch=batch, memory_bytes=memory)


def _check_reuse(request: EngineRequest, device: torch.device) -> None:
    if request.reuse != "motion":
        return
    if device.type != "cpu":
        raise RequestError(
            f"--reuse motion is for a processor, and this runs on {device}; leave it out"
        )
    opencv("--reuse exact needs none")


def _check_tile(request: EngineRequest, card: ModelCard, size: tuple[int, int]) -> None:
    least = 2 * card.halo + request.overlap + SMALLEST_KEPT
    if request.tile is not None and request.tile < min(least, max(size)):
        raise RequestError(
            f"--tile {request.tile} is too small: {card.name} needs {card.halo} pixels of context "
            f"a side and --overlap is {request.overlap}; {least} is the least"
        )


def _choose_tile(
    card: ModelCard,
    way: Way,
    free: int,
    device: torch.device,
    overlap: int,
    size: tuple[int, int],
) -> tuple[int, int]:
    width, height = size
    return choose_tile(
        height,
        width,
        margin=2 * card.halo + overlap,
        pixel_bytes=_pixel_bytes(card, way),
        memory_bytes=int(max(free, 0) * CAUTION),
        device_type=device.type,
    )


def _tile_bytes(card: ModelCard, way: Way, tile: int, size: tuple[int, int]) -> int:
    """What the network takes for a tile of a picture, which may be smaller than the tile."""
    return min(tile, size[0]) * min(tile, size[1]) * _pixel_bytes(card, way)


def _pixel_bytes(card: ModelCard, way: Way) -> int:
    channels = card.sizes.get("channels", 64)
    at_the_end = 3 if card.network == "compact" else channels
    itemsize = DTYPES[way.precision].itemsize
    plain = bytes_per_pixel(channels, card.scale, itemsize, output_channels=at_the_end)
    return int(plain * (NCNN_SHARE if way.engine == "ncnn" else 1))


def open_stages(engine: EnginePlan, target: Target, network: Network | None = None) -> list[Stage]:
    """The network of a plan, ready on its device, and the reduction to an exact size if needed.

    Args:
        engine: how the network is run.
        target: the size that comes out.
        network: of `engine.weights`, by whoever has loaded it before; it is not changed.
    """
    halo, follows = engine.card.halo, engine.reuse == "motion"
    upscale = Upscale(
        _open_engine(engine, network or load_mixed(engine.weights)),
        halo=halo,
        overlap=engine.overlap,
        tile=engine.tile,
        batch=engine.batch,
        part_halo=min(halo, PART_HALO) if follows else None,
        find_least=partial(_remembered_least, engine),
    )
    stage: Stage = Follow(upscale, error=engine.reuse_error) if follows else upscale
    exact = target.factor == engine.card.scale and not target.square_pixels
    return [stage] if exact else [stage, Resize(target.height, target.width)]


def _remembered_least(plan: EnginePlan, engine: Engine, grid: Grid, halo: int) -> int | None:
    """`least_exact`, kept in the user's cache: trying it out costs more than a frame.

    Only one worker tries; the others wait for what it finds.
    """
    if plan.cache_dir is None:
        return least_exact(engine, grid, halo)
    way = Way(plan.kind, plan.precision, plan.layout).words
    height, width = grid.shape
    facts = f"{way}, {plan.threads} threads, {width}x{height}, {halo} around"
    key = f"{machine_key(plan.weights.identity)} / {facts}"
    remembered = Remembered(plan.cache_dir / "parts.json")
    with _TRYING:
        known = remembered.read(key)
        if not (isinstance(known, dict) and isinstance(known.get("least"), int | None)):
            known = {"least": least_exact(engine, grid, halo)}
            remembered.write(key, known)
    least: int | None = known["least"]
    return least


def _open_engine(plan: EnginePlan, network: Network) -> Engine:
    folder = plan.cache_dir and plan.cache_dir / "openvino"
    return open_engine(
        Way(plan.kind, plan.precision, plan.layout),
        network,
        plan.card.scale,
        (plan.tile, plan.tile),
        batch=plan.batch,
        threads=plan.threads,
        device=open_device(plan.device),
        store=Store(folder, plan.weights.identity) if folder else None,
    )


def open_colorizer(color: ColorPlan, matrix: Matrix) -> Colorize:
    """The colorizer of a plan, ready on its device, for pictures of a matrix."""
    device = open_device(color.engine.device)
    network = load(color.engine.card, color.engine.weights.path)
    ready = network.to(device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    reference = None
    if color.reference is not None:
        reference = Reference(rgb_of_codes(images.read(color.reference).rgb).to(device))
    return Colorize(ready, look=color.look, reference=reference, luma_weights=luma_weights(matrix))


def fallbacks(stages: list[Stage]) -> Counters:
    """What the stages counted, together."""
    counters = [stage.counters for stage in stages if isinstance(stage, Upscale | Follow)]
    return Counters(
        sum(one.retiled for one in counters),
        sum(one.recomputed for one in counters),
        sum(one.computed for one in counters),
    )
