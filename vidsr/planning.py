"""The decisions of a plan: which model, which size, which container, which tile.

Each function decides one thing from plain facts and fails early, with the way out.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import torch

from vidsr.coloring import WORKING_SIDE, Look, Tint
from vidsr.engines.precision import DTYPES, Precision, fastest_precision
from vidsr.engines.torch_engine import open_device
from vidsr.errors import ModelError, RequestError
from vidsr.media.encoders import VideoFormat
from vidsr.media.probe import StreamInfo, VideoInfo
from vidsr.media.writer import MUXERS, TrackPlan, can_hold, muxer_of
from vidsr.models.card import ModelCard, shipped_cards
from vidsr.models.load import Weights, check, find_twin, resolve
from vidsr.motion import opencv
from vidsr.stages import SMALLEST_KEPT, bytes_per_pixel, choose_tile

LARGEST_DEFAULT = (3840, 2160)  # without --scale the result stays within this if it can
HARDWARE_LIMIT = (4096, 2304)  # many players decode no more than H.264 level 5.1 in hardware
FAMILIES = {  # the way out that each offers to whoever got another by default
    "photo": "for better film and photographs",
    "anime": "for better drawings",
    "fast": "for speed",
}
COLORIZER = "colorize"  # the model that colors if none is named
IN_COLOR = 0.5  # share of the pictures looked at from which on an input counts as colored already
COLOR_PIXEL_BYTES = 3200  # per pixel of what the colorizer sees: 169 colors and 32 wide features
MOST_WORKERS = 8  # each holds a frame and a network; beyond this, workers get more threads


@dataclass(frozen=True)
class SizeRequest:
    """What size was asked for; at most one of the three is set."""

    scale: int | None = None
    size: tuple[int, int] | None = None  # displayed (width, height)
    height: int | None = None  # displayed

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.scale, self.size, self.height)) > 1:
            raise RequestError("--scale, --size and --height exclude each other; give one")
        if self.scale is not None and self.scale not in {2, 3, 4}:
            raise RequestError(
                f"--scale {self.scale}: 2, 3 and 4 work; use --height for other sizes"
            )
        sides = (*(self.size or ()), *((self.height,) if self.height is not None else ()))
        if any(side < 16 for side in sides):
            raise RequestError(f"the size asked for, {sides}, is below 16 pixels")


@dataclass(frozen=True)
class Target:
    """The stored size of the output and how it is reached."""

    width: int
    height: int
    factor: Fraction  # the larger of the two enlargements
    square_pixels: bool  # an exact displayed size was asked for: sample aspect becomes 1


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

    @property
    def card(self) -> ModelCard:
        """Of the network."""
        return self.weights.card


@dataclass(frozen=True)
class EngineRequest:
    """Which network is wanted, and how and where it should run."""

    model: str | None = None  # a family, a member, or a checkpoint's path
    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1", "mps"
    precision: Precision | Literal["auto"] = "auto"
    tile: int | None = None  # side of a tile in source pixels, its halo included
    overlap: int = 16  # source pixels over which neighbouring tiles are blended
    threads: int | None = None  # of the engine on a processor; None takes every core
    fidelity: float | None = None  # share of the fidelity weights, [0,1]; None: the card's

    def __post_init__(self) -> None:
        if self.fidelity is not None and not 0 <= self.fidelity <= 1:
            raise RequestError(
                f"--fidelity {self.fidelity:g} is not between 0 (looks) and 1 (true to the source)"
            )
        if self.overlap < 0:
            raise RequestError(f"--overlap {self.overlap} is negative")
        if self.threads is not None and self.threads < 1:
            raise RequestError(f"--threads {self.threads}: at least 1; leave it out for all cores")


@dataclass(frozen=True)
class ColorRequest:
    """That color is wanted, and how."""

    model: str | None = None  # a model of task "colorize", or its checkpoint's path
    look: Look = field(default_factory=Look)
    reference: Path | None = None  # a picture whose colors are to be matched
    force: bool = False  # color even what is in color already


@dataclass(frozen=True)
class ColorPlan:
    """The network that colors and how it is used."""

    engine: EnginePlan
    look: Look
    reference: Path | None


@dataclass(frozen=True)
class Shape:
    """What the size decision needs of a source, video or still."""

    width: int
    height: int
    sample_aspect: Fraction = Fraction(1)
    turned: bool = False  # shown rotated by 90 or 270 degrees


def choose_target(request: SizeRequest | None, shape: Shape) -> Target:
    """The stored output size for a request; None keeps the size.

    Raises:
        RequestError: `--size` asks for another aspect than the picture has.
    """
    if request is None:
        return Target(shape.width, shape.height, Fraction(1), square_pixels=False)
    if request.size is None and request.height is None:
        scale = request.scale or _default_scale(shape)
        size = shape.width * scale, shape.height * scale
        return Target(*size, Fraction(scale), square_pixels=False)
    stored_aspect = shape.width * shape.sample_aspect / shape.height
    aspect = 1 / stored_aspect if shape.turned else stored_aspect
    if request.size:
        width, height = request.size
        nearest = _even(height * aspect)
        if abs(width - nearest) > 2:
            raise RequestError(
                f"--size {width}x{height} has another shape than the picture; "
                f"--size {nearest}x{height} or --height {height} keeps it"
            )
    else:
        height = request.height or 0
        width = _even(height * aspect)
    if shape.turned:
        width, height = height, width
    factor = max(Fraction(width, shape.width), Fraction(height, shape.height))
    return Target(width, height, factor, square_pixels=True)


def _default_scale(shape: Shape) -> int:
    sides = sorted((shape.width * 4, shape.height * 4), reverse=True)
    return 4 if sides[0] <= LARGEST_DEFAULT[0] and sides[1] <= LARGEST_DEFAULT[1] else 2


def _even(length: Fraction) -> int:
    return max(2, 2 * round(length / 2))


def default_family(
    device_type: str, cards: Sequence[ModelCard], factor: Fraction
) -> tuple[str, str]:
    """The family for a device when none is named, and why, with the other families.

    Args:
        device_type: "cpu", "cuda" or "mps".
        cards: of all models that ship.
        factor: the enlargement that is needed.
    """
    reaching = {card.family for card in cards if card.scale >= factor}
    family = "photo" if device_type != "cpu" and "photo" in reaching else "fast"
    others = ", ".join(
        f"--model {name} {what}"
        for name, what in FAMILIES.items()
        if name in reaching and name != family
    )
    where = "a processor" if device_type == "cpu" else "a GPU"
    return family, f"the default on {where}{', ' if others else ''}{others}"


def choose_weights(model: str, factor: Fraction, fidelity: float | None) -> Weights:
    """The member of `choose_model`, its perceptual twin, and the share of each.

    Args:
        model: a family, a member, or a checkpoint.
        factor: the enlargement that is needed.
        fidelity: the share that was asked for, or None for the card's.

    Raises:
        ModelError: as `choose_model`, or the card mixes with a twin that is missing.
        RequestError: as `choose_model`, or a fidelity is asked for and there is no twin.
    """
    card, path = choose_model(model, factor)
    twin = find_twin(path)
    if fidelity is not None and twin is None:
        raise RequestError(
            f"--fidelity {fidelity:g}: {card.name} has no perceptual weights to mix with; leave "
            "--fidelity out, or name another --model"
        )
    share = card.fidelity if fidelity is None else fidelity
    if share < 1 and twin is None:
        raise ModelError(
            f"{path}: its card mixes it with perceptual weights, which are missing; reinstall "
            "vidsr or fetch them again"
        )
    return Weights(card, path, twin, share)


def choose_model(model: str, factor: Fraction) -> tuple[ModelCard, Path]:
    """The card and file of the smallest member of a family that reaches `factor`.

    Args:
        model: a family ("fast"), a member ("fast-x4"), or a checkpoint.
        factor: the enlargement that is needed; what the network gives beyond it is reduced again.

    Raises:
        ModelError: unknown name, or a file that is no checkpoint.
        RequestError: no member reaches the factor, or it is not for enlarging.
    """
    members = [resolve(card.name) for card in family_of(model)] or [resolve(model)]
    for card, path in members:
        if card.task != "upscale":
            raise RequestError(
                f"model {card.name} colors and does not enlarge; name another --model (`vidsr "
                "models` lists them), or use `vidsr colorize`"
            )
        if card.scale >= factor:
            return card, path
    most = members[-1][0]
    raise RequestError(
        f"model {most.name} enlarges {most.scale} times at most, {float(factor):g} is asked for; "
        f"ask for --scale {most.scale} or less, or name another --model"
    )


def family_of(name: str) -> list[ModelCard]:
    """The shipped members of a family, the smallest scale first; none if `name` is no family."""
    members = [card for card in shipped_cards() if card.family == name]
    return sorted(members, key=lambda card: card.scale)


def choose_destination(
    source: Path, destination: Path | None, factor: Fraction, *, colored: bool = False
) -> Path:
    """Where the output goes: as asked, or beside the input with what is done in its name."""
    if destination is None:
        size = "" if colored and factor == 1 else f"-x{float(factor):.3g}"
        return source.with_name(f"{source.stem}{size}{'-color' * colored}{source.suffix}")
    return destination / source.name if destination.is_dir() else destination


def check_destination(source: Path, destination: Path, *, overwrite: bool) -> None:
    """Refuse an output that cannot or must not be written.

    Raises:
        RequestError: the output is the input, exists, or its folder cannot be written.
    """
    if destination.exists() and source.exists() and destination.samefile(source):
        raise RequestError(f"{destination} is the input itself; name another output with -o")
    if destination.exists() and not overwrite:
        raise RequestError(f"{destination} exists; --overwrite replaces it, -o names another")
    folder = destination.parent
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such folder for the output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(f"{folder} cannot be written; name another output with -o")


def choose_container(
    info: VideoInfo, destination: Path, *, explicit: bool, video: VideoFormat
) -> tuple[Path, tuple[TrackPlan, ...], list[str]]:
    """The output's final name, what becomes of each stream, and sentences about it.

    The container that was asked for is kept if it holds every stream that any container holds. If
    the name was ours to choose, Matroska takes its place, else that is an error.

    Raises:
        RequestError: the container cannot hold a stream and the user named it.
    """
    suffix = destination.suffix.lower()
    if explicit:
        muxer_of(destination)
    held = {
        candidate: _holdable(candidate, info, video)
        for candidate in dict.fromkeys((suffix, ".mkv", ".mp4"))
        if candidate in MUXERS
    }
    best = max(held, key=lambda candidate: len(held[candidate]))  # the first of equals
    tracks = tuple(_track(stream, info, best, held[best]) for stream in info.streams)
    if best == suffix:
        return destination, tracks, []
    if suffix not in MUXERS:
        why = ", which cannot keep timestamps" if suffix == ".avi" else ""
        notes = [f"{best} instead of {suffix or 'a name without suffix'}{why}"]
    else:
        lacking = _cannot_hold(suffix, info, video, held[best] - held[suffix])
        if explicit:
            raise RequestError(f"{lacking}; -o {destination.with_suffix(best).name} can")
        notes = [f"{best} instead of {suffix}: {lacking}"]
    return destination.with_suffix(best), tracks, notes


def _holdable(suffix: str, info: VideoInfo, video: VideoFormat) -> frozenset[int]:
    """Indices of the streams that a container takes; none if not the processed one."""
    held = {
        stream.index for stream in info.streams if can_hold(suffix, info, stream, video.encoder)
    }
    return frozenset(held) if info.video in held else frozenset()


def _cannot_hold(suffix: str, info: VideoInfo, video: VideoFormat, lacking: frozenset[int]) -> str:
    if info.video in lacking:
        return f"{suffix} cannot hold {video.encoder} video"
    names = ", ".join(str(stream) for stream in info.streams if stream.index in lacking)
    return f"{suffix} cannot hold {names}"


def _track(stream: StreamInfo, info: VideoInfo, suffix: str, held: frozenset[int]) -> TrackPlan:
    if stream.index == info.video:
        return TrackPlan(stream, "process")
    if stream.index in held:
        return TrackPlan(stream, "copy")
    why = f"{suffix} cannot hold it"
    if stream.codec is None:
        why = "FFmpeg does not know its codec"
    elif stream.codec == "bin_data" and info.chapters:
        why = "it lists the chapters, which are written anew"
    return TrackPlan(stream, "drop", why)


def plan_engine(
    request: EngineRequest,
    factor: Fraction,
    size: tuple[int, int],
    *,
    cache_dir: Path | None,
) -> EnginePlan:
    """How the network will run on a picture of `size` (width, height).

    Raises:
        ModelError: unknown model, weights that are not those of the card, or a twin that does not
            fit.
        DeviceError: no such device.
        RequestError: no member reaches the factor, the tile is too small for this network, or a
            fidelity is asked for and there is nothing to mix.
    """
    device = open_device(request.device)
    model, why = request.model, ""
    if model is None:
        model, why = default_family(device.type, shipped_cards(), factor)
    weights = choose_weights(model, factor, request.fidelity)
    check(weights)
    precision = request.precision
    if precision == "auto":
        precision = fastest_precision(device, cache_dir=cache_dir) if weights.half else "fp32"
    _check_tile(request, weights.card, size)
    tile, batch = _choose_tile(weights.card, precision, device, request.overlap, size)
    if request.tile is not None:
        tile, batch = min(request.tile, max(size)), 1
    engine_bytes = _tile_bytes(weights.card, precision, tile, size) * batch
    cores = request.threads or usable_cores()
    affordable = int(free_memory(device) * 0.6) // engine_bytes
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
    )


def plan_color(request: ColorRequest, engine: EngineRequest) -> ColorPlan:
    """Which network will color, and how it will run: in fp32, one frame after the other.

    Raises:
        ModelError: no such model, none that colors, or weights that are not those of the card.
        DeviceError: no such device.
        RequestError: a model that enlarges, no such reference, or OpenCV is missing.
    """
    if request.reference is not None and not request.reference.is_file():
        raise RequestError(f"--reference {request.reference}: no such picture")
    device = open_device(engine.device)
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
    )
    return ColorPlan(plan, request.look, request.reference)


def choose_colorizer(model: str | None) -> Weights:
    """The weights that color.

    Raises:
        ModelError: unknown name, a file that is no checkpoint, or none is named and none ships.
        RequestError: a model that enlarges.
    """
    shipped = [card.name for card in shipped_cards() if card.task == "colorize"]
    if model is None:
        if not shipped:
            raise ModelError(
                "no model that colors is installed yet; train one (`vidsr train colorize`) and "
                "name its file with --model"
            )
        model = COLORIZER if COLORIZER in shipped else shipped[0]
    card, path = resolve(model)
    if card.task != "colorize":
        others = f"these do: {', '.join(shipped)}" if shipped else "none that is installed does"
        raise RequestError(f"model {card.name} enlarges and does not color; {others}")
    return Weights(card, path)


def judge_color(source: Path, tints: Sequence[Tint], *, force: bool) -> list[str]:
    """What is to be said of the color that an input has, by the `tint_of` some of its pictures.

    Raises:
        RequestError: it is in color, and `force` is not set.
    """
    colored, tinted = tints.count("color"), tints.count("tint")
    if tints and colored >= IN_COLOR * len(tints) and not force:
        raise RequestError(f"{source} is in color already; --force colors it anew")
    notes = []
    if tinted:
        notes.append("the input is tinted (sepia or the like): its tint is taken off first")
    if colored:
        share = f"{colored} of {len(tints)} pictures looked at are" if len(tints) > 1 else "it is"
        notes.append(f"{share} in color, which is replaced")
    return notes


def fit_tile(engine: EnginePlan, size: tuple[int, int]) -> EnginePlan:
    """The same engine for single pictures of another size (width, height)."""
    card, precision, device = engine.card, engine.precision, torch.device(engine.device)
    tile, batch = _choose_tile(card, precision, device, engine.overlap, size)
    memory = _tile_bytes(card, precision, tile, size) * batch
    return replace(engine, tile=tile, batch=batch, workers=1, memory_bytes=memory)


def _check_tile(request: EngineRequest, card: ModelCard, size: tuple[int, int]) -> None:
    least = 2 * card.halo + request.overlap + SMALLEST_KEPT
    if request.tile is not None and request.tile < min(least, max(size)):
        raise RequestError(
            f"--tile {request.tile} is too small: {card.name} needs {card.halo} pixels of context "
            f"a side and --overlap is {request.overlap}; {least} is the least"
        )


def _choose_tile(
    card: ModelCard,
    precision: Precision,
    device: torch.device,
    overlap: int,
    size: tuple[int, int],
) -> tuple[int, int]:
    width, height = size
    return choose_tile(
        height,
        width,
        margin=2 * card.halo + overlap,
        pixel_bytes=_pixel_bytes(card, precision),
        memory_bytes=int(free_memory(device) * 0.6),
        device_type=device.type,
    )


def _tile_bytes(card: ModelCard, precision: Precision, tile: int, size: tuple[int, int]) -> int:
    """What the network takes for a tile of a picture, which may be smaller than the tile."""
    return min(tile, size[0]) * min(tile, size[1]) * _pixel_bytes(card, precision)


def _pixel_bytes(card: ModelCard, precision: Precision) -> int:
    channels = card.sizes.get("channels", 64)
    at_the_end = 3 if card.network == "compact" else channels
    itemsize = DTYPES[precision].itemsize
    return bytes_per_pixel(channels, card.scale, itemsize, output_channels=at_the_end)


def usable_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return 4 << 30  # systems that do not tell: assume little


def size_warnings(target: Target) -> list[str]:
    """What a player may not manage."""
    if target.width <= HARDWARE_LIMIT[0] and target.height <= HARDWARE_LIMIT[1]:
        return []
    return [
        f"{target.width}x{target.height} is more than most hardware plays; --height 2160 is safe"
    ]


def check_disk(folder: Path, needed: int) -> None:
    """Refuse a job whose output surely does not fit.

    Raises:
        RequestError: with both figures.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RequestError(
            f"{folder}: about {needed >> 20} MiB are needed, {free >> 20} MiB are free"
        )
