"""A plan as numbers, for scripts: what stands in words on the screen, under FFmpeg's names.

Sizes are in pixels as stored, None is unknown, and a unit that is not obvious is in the name.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidsr.draft import Plan
    from vidsr.media.probe import VideoInfo
    from vidsr.planning import Target
    from vidsr.still import StillPlan


def video_numbers(planned: Plan, seconds: float) -> dict[str, Any]:
    """Of a video's plan.

    Args:
        planned: the plan.
        seconds: what the networks are expected to need.
    """
    video, target = planned.video, planned.target
    frames = planned.frames_expected or None
    return {
        "source": _source(planned.job.source, planned.info),
        "tracks": [
            {
                "index": track.stream.index,
                "kind": track.stream.kind,
                "codec": track.stream.codec,
                "language": track.stream.language,
                "title": track.stream.title,
                "cover": track.stream.cover,
                "action": track.action,
            }
            for track in planned.tracks
        ],
        "target": {
            **_target(planned.destination, target),
            "encoder": video.encoder,
            "options": video.options,
            "pix_fmt": video.pix_fmt,
            "bit_depth": video.layout.depth,
        },
        "network": _network(planned),
        "expected": {
            "frames": frames,
            "seconds": seconds if frames else None,
            "memory_bytes": planned.memory_bytes,  # of the whole run, the network included
            "disk_bytes": planned.disk_bytes,
        },
    }


def still_numbers(planned: StillPlan) -> dict[str, Any]:
    """Of a picture's plan."""
    still = planned.still
    height, width = still.rgb.shape[:2]
    return {
        "source": {
            "path": planned.job.source,
            "bytes": _bytes([planned.job.source]),
            "format": still.format,
            "width": width,
            "height": height,
            "bit_depth": still.depth,
            "alpha": still.alpha is not None,
        },
        "target": _target(planned.destination, planned.target),
        "network": _network(planned),
    }


def _source(path: Path, info: VideoInfo) -> dict[str, Any]:
    color, aspect = info.color, info.sample_aspect
    shown = info.displayed_size
    return {
        "path": path,
        "bytes": _bytes(_files(info)),
        "format": info.container,
        "duration_seconds": info.seconds_from_header or None,
        "frames": info.frames_from_header or None,
        "frame_rate": _ratio(info.frame_rate),
        "fps": float(info.frame_rate),
        "time_base": _ratio(info.time_base),
        "width": info.width,
        "height": info.height,
        "displayed_width": shown[0],
        "displayed_height": shown[1],
        "sample_aspect_ratio": None if aspect is None else _ratio(aspect),
        "rotation": info.rotation,  # degrees counter-clockwise
        "pix_fmt": info.pix_fmt,
        "bit_depth": info.layout.depth,
        "alpha": info.layout.alpha,
        "color_space": color.matrix.name.lower(),
        "color_range": color.range.name.lower(),
        "color_primaries": color.primaries,  # H.273's codes
        "color_transfer": color.transfer,
        "chroma_location": color.siting.name.lower(),
        "guessed": sorted(color.guessed),
        "hdr": color.is_hdr,
        "interlaced": info.interlaced or info.deinterlace is not None,
        "chapters": info.chapters,
    }


def _files(info: VideoInfo) -> Iterable[Path]:
    from vidsr.media.sequence import PicturesInfo

    if not isinstance(info, PicturesInfo) or info.numbered is None:
        return [info.path]
    return map(info.numbered.path, range(info.first, info.first + info.frames_from_header))


def _target(path: Path, target: Target) -> dict[str, Any]:
    return {
        "path": path,
        "width": target.width,
        "height": target.height,
        "scale": float(target.factor),
    }


def _network(planned: Plan | StillPlan) -> dict[str, Any]:
    """Of the network that enlarges; if nothing does, of the one that colors."""
    engine = planned.engine
    return {
        "name": engine.card.name,
        "engine": engine.kind,
        "device": engine.device,
        "precision": engine.precision,
        "tile": engine.tile,
        "overlap": engine.overlap,
        "batch": engine.batch,
        "workers": engine.workers,
        "threads": engine.threads,  # of each worker
        "fidelity": engine.weights.fidelity,
        "reuse": engine.reuse,
        "memory_bytes": engine.memory_bytes,  # of the device's memory
    }


def _bytes(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _ratio(value: Fraction) -> str:
    """`24000/1001`, and `25/1`, so that every one splits."""
    return f"{value.numerator}/{value.denominator}"
