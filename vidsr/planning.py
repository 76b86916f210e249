"""The decisions of a plan about its output: which size, which container, which name.

Each function decides one thing from plain facts and fails early, with the way out.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from vidsr.coloring import Tint
from vidsr.errors import RequestError
from vidsr.media import images
from vidsr.media.containers import MUXERS, can_hold, muxer_of
from vidsr.media.encoders import VideoFormat, keeps_siting
from vidsr.media.probe import StreamInfo, VideoInfo
from vidsr.media.sequence import Numbered, is_animation, is_numbered, writes_pictures
from vidsr.media.subtitles import KEPT, encoder_for
from vidsr.media.writer import TrackPlan
from vidsr.models.families import largest_scale
from vidsr.request import Job, SizeRequest

LARGEST_DEFAULT = (3840, 2160)  # without --scale the result stays within this if it can
HARDWARE_LIMIT = (4096, 2304)  # many players decode no more than H.264 level 5.1 in hardware
IN_COLOR = 0.5  # share of the pictures looked at from which on an input counts as colored already


@dataclass(frozen=True)
class Target:
    """The stored size of the output and how it is reached."""

    width: int
    height: int
    factor: Fraction  # the larger of the two enlargements
    square_pixels: bool  # an exact displayed size was asked for: sample aspect becomes 1


@dataclass(frozen=True)
class Shape:
    """What the size decision needs of a source, video or still."""

    width: int
    height: int
    sample_aspect: Fraction = Fraction(1)
    turned: bool = False  # shown rotated by 90 or 270 degrees


def choose_target(request: SizeRequest | None, shape: Shape, model: str | None = None) -> Target:
    """The stored output size for a request; None keeps the size.

    Args:
        request: if it names no size, that is four times up to 4K and else twice.
        shape: of the source.
        model: if it is named and reaches less, that is taken instead.

    Raises:
        RequestError: `--size` asks for another aspect than the picture has.
        ModelError: no such model.
    """
    if request is None:
        return Target(shape.width, shape.height, Fraction(1), square_pixels=False)
    if request.size is None and request.height is None:
        scale = request.scale or _default_scale(shape, model)
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


def _default_scale(shape: Shape, model: str | None) -> int:
    sides = sorted((shape.width * 4, shape.height * 4), reverse=True)
    fits = sides[0] <= LARGEST_DEFAULT[0] and sides[1] <= LARGEST_DEFAULT[1]
    return min(4 if fits else 2, 4 if model is None else largest_scale(model))


def _even(length: Fraction) -> int:
    return max(2, 2 * round(length / 2))


def wanted_destination(job: Job, target: Target) -> Path:
    """`choose_destination` for a job, in the format that it asks for.

    Raises:
        RequestError: it asks for a format and names the output, too.
    """
    colored = job.color is not None
    chosen = choose_destination(job.source, job.destination, target.factor, colored=colored)
    if not job.formats:
        return chosen
    if chosen == job.destination:
        raise RequestError(f"--format is for names that vidsr chooses, and -o {chosen} is one")
    if is_numbered(job.source):
        raise RequestError("--format takes no numbered pictures; name the output with -o")
    kinds = set(MUXERS)
    if is_animation(job.source):
        kinds |= set(images.ANIMATION_SUFFIXES)
    elif images.is_picture(job.source):
        kinds = set(images.SUFFIXES)
    suffixes = (suffix for suffix in job.formats if suffix in kinds)
    return chosen.with_suffix(next(suffixes, chosen.suffix))


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
    if is_numbered(destination):
        _check_numbered(source, destination, overwrite=overwrite)
        return
    if destination.exists() and source.exists() and destination.samefile(source):
        raise RequestError(f"{destination} is the input itself; name another output with -o")
    if destination.exists() and not overwrite:
        raise RequestError(f"{destination} exists; --overwrite replaces it, -o names another")
    folder = destination.parent
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such folder for the output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(f"{folder} cannot be written; name another output with -o")


def _check_numbered(source: Path, destination: Path, *, overwrite: bool) -> None:
    """As `check_destination`; the folder itself may be missing."""
    resolved = [path.parent.resolve() / path.name for path in (source, destination)]
    if resolved[0] == resolved[1]:
        raise RequestError(f"{destination} is the input itself; name other pictures with -o")
    present = Numbered(destination).present()
    if present and not overwrite:
        raise RequestError(
            f"{destination}: {len(present)} such pictures are there; --overwrite replaces them, -o "
            "names others"
        )
    folder = destination.parent if destination.parent.is_dir() else destination.parent.parent
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such folder for the output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(f"{folder} cannot be written; name another output with -o")


def choose_container(
    info: VideoInfo,
    destination: Path,
    *,
    explicit: bool,
    video: VideoFormat,
    format_asked: bool = False,
) -> tuple[Path, tuple[TrackPlan, ...], list[str]]:
    """The output's final name, what becomes of each stream, and sentences about it.

    The container that was asked for is kept if it holds every stream that any container holds, text
    subtitles converted if need be. If the name was ours to choose, Matroska takes its place, else
    that is an error; so it is if the format was asked for and cannot hold the video itself.

    Raises:
        RequestError: the container cannot hold a stream and the user named it.
    """
    if writes_pictures(destination, info):
        return destination, tuple(_into_pictures(stream, info) for stream in info.streams), []
    suffix = destination.suffix.lower()
    if explicit:
        muxer_of(destination)
    copied = {
        candidate: _holdable(candidate, info, video)
        for candidate in dict.fromkeys((suffix, ".mkv", ".mp4"))
        if candidate in MUXERS
    }
    held = {candidate: _convertible(candidate, info, copied[candidate]) for candidate in copied}
    best = max(held, key=lambda candidate: len(held[candidate]))  # the first of equals
    tracks = tuple(_track(stream, info, best, copied[best]) for stream in info.streams)
    converted = [
        f"{track.stream} becomes {track.codec}: {KEPT[track.codec]} are kept, other style is not"
        for track in tracks
        if track.action == "convert"
    ]
    if best == suffix:
        return destination, tracks, converted
    if suffix not in MUXERS:
        why = ", which cannot keep timestamps" if suffix == ".avi" else ""
        notes = [f"{best} instead of {suffix or 'a name without suffix'}{why}"]
    else:
        lacking = _cannot_hold(suffix, info, video, held[best] - held[suffix])
        if explicit:
            raise RequestError(f"{lacking}; -o {destination.with_suffix(best).name} can")
        if format_asked and info.video not in held[suffix]:
            raise RequestError(f"{lacking}; --format {best.removeprefix('.')} can, or --encoder")
        notes = [f"{best} instead of {suffix}: {lacking}"]
    return destination.with_suffix(best), tracks, notes + converted


def not_holdable(info: VideoInfo, destination: Path) -> dict[int, str]:
    """The streams that a container cannot hold, and why: what a plan leaves out.

    Raises:
        RequestError: vidsr does not write such files.
    """
    muxer_of(destination)
    suffix, others = destination.suffix.lower(), [s for s in info.streams if s.index != info.video]
    held = frozenset(s.index for s in others if can_hold(suffix, info, s, ""))
    tracks = [_track(stream, info, suffix, held) for stream in others]
    return {track.stream.index: track.reason for track in tracks if track.action == "drop"}


def _into_pictures(stream: StreamInfo, info: VideoInfo) -> TrackPlan:
    if stream.index == info.video:
        return TrackPlan(stream, "process")
    return TrackPlan(stream, "drop", "pictures hold no other stream")


def _holdable(suffix: str, info: VideoInfo, video: VideoFormat) -> frozenset[int]:
    """Indices of the streams that a container takes; none if not the processed one."""
    codec = video.codec or video.encoder
    held = {stream.index for stream in info.streams if can_hold(suffix, info, stream, codec)}
    return frozenset(held) if info.video in held else frozenset()


def _convertible(suffix: str, info: VideoInfo, copied: frozenset[int]) -> frozenset[int]:
    """What a container takes as it is, and what it takes converted; none if not the video."""
    text = {s.index for s in info.streams if encoder_for(MUXERS[suffix], s.codec)}
    return copied | text if copied else copied


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
    if codec := encoder_for(MUXERS[suffix], stream.codec):
        return TrackPlan(stream, "convert", codec=codec)
    why = f"{suffix} cannot hold it"
    if stream.codec is None:
        why = "FFmpeg does not know its codec"
    elif stream.codec == "bin_data" and info.chapters:
        why = "it lists the chapters, which are written anew"
    return TrackPlan(stream, "drop", why)


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


def size_warnings(target: Target) -> list[str]:
    """What a player may not manage."""
    if target.width <= HARDWARE_LIMIT[0] and target.height <= HARDWARE_LIMIT[1]:
        return []
    return [
        f"{target.width}x{target.height} is more than most hardware plays; --height 2160 is safe"
    ]


def fit_alpha(video: VideoFormat, container: Path) -> tuple[VideoFormat, list[str]]:
    """Without alpha where a container has no place for it: VP9 keeps it beside the picture."""
    beside = video.layout.alpha and video.encoder == "libvpx-vp9"
    if not beside or muxer_of(container) in {"matroska", "webm"}:
        return video, []
    plain = replace(video, layout=replace(video.layout, alpha=False))
    return plain, [f"the alpha channel is dropped: {container.suffix} cannot hold it beside VP9"]


def siting_warnings(video: VideoFormat, container: Path) -> list[str]:
    """What is lost of where the chroma samples lie."""
    if video.layout.model != "yuv" or keeps_siting(video, muxer_of(container)):
        return []
    siting = video.color.siting.name.lower()
    return [
        f"the chroma siting ({siting}) is not stated: {video.encoder} in {container.suffix} has no "
        "word for it (libx264 and libx265 do)"
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
