"""Words that several commands take, and what they mean."""

from __future__ import annotations

from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from vidsr.errors import RequestError


class PrecisionWord(StrEnum):
    """What `--precision` takes."""

    auto = "auto"
    fp16 = "fp16"
    bf16 = "bf16"
    fp32 = "fp32"


class ReuseWord(StrEnum):
    """What `--reuse` takes."""

    exact = "exact"
    motion = "motion"
    off = "off"


class CodecWord(StrEnum):
    """What `--codec` takes."""

    h264 = "h264"
    hevc = "hevc"


Source = Annotated[Path, typer.Argument(help="A video or a picture.", metavar="INPUT")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="The new file; default: beside the input.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]


Threads = Annotated[int | None, typer.Option(help="Of the network on a processor.")]
EncoderName = Annotated[
    str | None, typer.Option(help="FFmpeg's name: libx264 (default), libx265, libsvtav1, ffv1, ...")
]
Crf = Annotated[float | None, typer.Option(help="Quality, on the encoder's scale.")]
Preset = Annotated[str | None, typer.Option(help="Speed, by the encoder's names.")]
EncoderOptions = Annotated[
    list[str] | None, typer.Option(help="Any option of the encoder.", metavar="KEY=VALUE")
]
PixFmt = Annotated[str | None, typer.Option(help="FFmpeg's name, such as yuv444p.")]
Start = Annotated[str | None, typer.Option(help="Where to begin: seconds or [H:]M:S.")]
End = Annotated[str | None, typer.Option(help="Where to stop: seconds or [H:]M:S.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output.")]
Strict = Annotated[bool, typer.Option("--strict", help="Damaged input is an error.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan, do nothing.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")]
Saturation = Annotated[
    float | None, typer.Option(help="Of the colors; above 1 more, below less.", metavar="0..4")
]
Strength = Annotated[
    float | None, typer.Option(help="Share beside the source's own look.", metavar="0..1")
]
Stability = Annotated[
    float | None,
    typer.Option(
        help="How much color follows the motion; 0 is frame by frame, default 0.9.", metavar="0..1"
    ),
]
ReferencePicture = Annotated[
    Path | None, typer.Option(help="A picture whose colors are to be matched.")
]
Force = Annotated[bool, typer.Option("--force", help="Color what is in color already.")]


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(width, height) of `1920x1080`.

    Raises:
        RequestError: it says something else.
    """
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise RequestError(f"--size {text} is not WxH, such as 1920x1080")
    return int(width), int(height)


def parse_tile(text: str) -> int | None:
    """Pixels, or None for auto.

    Raises:
        RequestError: it says something else.
    """
    if text == "auto":
        return None
    if not text.isdecimal():
        raise RequestError(f"--tile {text} is neither auto nor a number of pixels")
    return int(text)


def parse_pairs(pairs: list[str]) -> dict[str, str]:
    """A dictionary of KEY=VALUE words.

    Raises:
        RequestError: it says something else.
    """
    for pair in pairs:
        if "=" not in pair:
            raise RequestError(f"--enc {pair} is not KEY=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


def parse_time(text: str | None) -> Fraction | None:
    """Seconds of `12.5`, `1:30` or `1:02:03.5`.

    Raises:
        RequestError: it says something else.
    """
    if text is None:
        return None
    try:
        parts = [Fraction(part) for part in text.split(":")]
    except (ValueError, ZeroDivisionError) as exc:
        raise RequestError(f"{text!r} is no time; write seconds, M:S or H:M:S") from exc
    if len(parts) > 3 or any(part < 0 for part in parts):
        raise RequestError(f"{text!r} is no time; write seconds, M:S or H:M:S")
    seconds = Fraction(0)
    for part in parts:
        seconds = seconds * 60 + part
    return seconds
