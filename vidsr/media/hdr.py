"""HdrMetadata: on which display a film was mastered and how bright it gets, from input to output.

Units are those of the HEVC messages (H.265 D.3.28 and D.3.35, which carry SMPTE ST 2086 and CTA
861.3): chromaticities in 1/50,000, luminances in 1/10,000 cd/m2, light levels in cd/m2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

Point = tuple[int, int]  # x, y

STEPS_OF_CHROMATICITY = 50_000
STEPS_OF_LUMINANCE = 10_000


@dataclass(frozen=True)
class Mastering:
    """The display that a film was mastered on."""

    red: Point
    green: Point
    blue: Point
    white: Point
    brightest: int
    darkest: int


@dataclass(frozen=True)
class HdrMetadata:
    """What a file says about its light, beyond the color tags."""

    mastering: Mastering | None = None
    light: tuple[int, int] | None = (
        None  # of the brightest pixel, and of the brightest mean picture
    )
    dynamic: tuple[str, ...] = ()  # what changes from picture to picture, which vidsr cannot carry


def hdr_metadata_of(picture: av.VideoFrame) -> HdrMetadata:
    """What the first picture of a file carries; decoders hand on the container's data with it."""
    side_data: Any = picture.side_data  # PyAV's stub calls it a dict; it iterates over the data
    given = {data.type.name: bytes(data) for data in side_data}
    return HdrMetadata(
        mastering=_mastering(given.get("MASTERING_DISPLAY_METADATA", b"")),
        light=_light(given.get("CONTENT_LIGHT_LEVEL", b"")),
        dynamic=tuple(dict.fromkeys(_DYNAMIC[name] for name in given if name in _DYNAMIC)),
    )


_DYNAMIC = {
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
    "DOVI_RPU_BUFFER": "Dolby Vision",
    "DOVI_METADATA": "Dolby Vision",
}


def _mastering(data: bytes) -> Mastering | None:
    """FFmpeg's AVMasteringDisplayMetadata: ten fractions, then whether the two parts are there."""
    if len(data) < 88:
        return None
    numbers = struct.unpack("=22i", data[:88])
    if not (numbers[20] and numbers[21]) or 0 in numbers[1:20:2]:
        return None
    values = [Fraction(a, b) for a, b in zip(numbers[0:20:2], numbers[1:20:2], strict=True)]
    points = [round(value * STEPS_OF_CHROMATICITY) for value in values[:8]]
    darkest, brightest = (round(value * STEPS_OF_LUMINANCE) for value in values[8:])
    red, green, blue, white = zip(points[0::2], points[1::2], strict=True)
    return Mastering(red, green, blue, white, brightest, darkest)


def _light(data: bytes) -> tuple[int, int] | None:
    if len(data) < 8:
        return None
    brightest, mean = struct.unpack("=2I", data[:8])
    return (brightest, mean) if brightest or mean else None


def hdr_options(encoder: str, hdr: HdrMetadata) -> tuple[dict[str, str], list[str]]:
    """Options with which an encoder writes it, and a sentence for each thing that it cannot."""
    lost = [
        f"{name} metadata is lost: it describes the pictures one by one" for name in hdr.dynamic
    ]
    if hdr.mastering is None and hdr.light is None:
        return {}, lost
    if encoder not in _WORDS:
        names = [
            *(["mastering display"] if hdr.mastering else []),
            *(["content light level"] if hdr.light else []),
        ]
        able = ", ".join(_WORDS)
        return {}, [f"{' and '.join(names)}: {encoder} cannot write it ({able} can)", *lost]
    key, mastering, light, more = _WORDS[encoder]
    words = [*more]
    if hdr.mastering is not None:
        words.append(f"{mastering}={_spelled(hdr.mastering, real=encoder == 'libsvtav1')}")
    if hdr.light is not None:
        words.append(f"{light}={hdr.light[0]},{hdr.light[1]}")
    return {key: ":".join(words)}, lost


_WORDS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "libx265": ("x265-params", "master-display", "max-cll", ("hdr10=1",)),
    "libx264": ("x264-params", "mastering-display", "cll", ()),
    "libsvtav1": ("svtav1-params", "mastering-display", "content-light", ()),
}


def _spelled(mastering: Mastering, *, real: bool) -> str:
    """G(x,y)B(x,y)R(x,y)WP(x,y)L(brightest,darkest), in steps or in real numbers."""

    def number(steps: int, of: int) -> str:
        return f"{steps / of:.5f}" if real else str(steps)

    points = {
        "G": mastering.green,
        "B": mastering.blue,
        "R": mastering.red,
        "WP": mastering.white,
    }
    spelled = [
        f"{name}({number(x, STEPS_OF_CHROMATICITY)},{number(y, STEPS_OF_CHROMATICITY)})"
        for name, (x, y) in points.items()
    ]
    luminances = (mastering.brightest, mastering.darkest)
    brightest, darkest = (number(steps, STEPS_OF_LUMINANCE) for steps in luminances)
    return f"{''.join(spelled)}L({brightest},{darkest})"
