"""Words that several commands take, and what they mean."""

from __future__ import annotations

import re
from enum import StrEnum
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vidsr.errors import RequestError

MOST_DIGITS = 20  # of a number; what is longer is no time and no rate
LONGEST = 10**9  # seconds, 31 years; FFmpeg counts microseconds in 64 bits


class PrecisionWord(StrEnum):
    """What `--precision` takes."""

    auto = "auto"
    fp16 = "fp16"
    bf16 = "bf16"
    fp32 = "fp32"


class DeinterlaceWord(StrEnum):
    """What `--deinterlace` takes."""

    frame = "frame"
    field = "field"
    off = "off"


class EngineWord(StrEnum):
    """What `--engine` takes."""

    auto = "auto"
    torch = "torch"
    openvino = "openvino"
    ncnn = "ncnn"


class ReuseWord(StrEnum):
    """What `--reuse` takes."""

    exact = "exact"
    motion = "motion"
    off = "off"


class CodecWord(StrEnum):
    """What `--codec` takes."""

    h264 = "h264"
    hevc = "hevc"


# Each puts an option under a title of its own in the help of a command with many.
size_option = partial(typer.Option, rich_help_panel="Size")
network_option = partial(typer.Option, rich_help_panel="Network")
encoder_option = partial(typer.Option, rich_help_panel="Encoder")
color_option = partial(typer.Option, rich_help_panel="Color")
run_option = partial(typer.Option, rich_help_panel="Run")

Source = Annotated[
    Path,
    typer.Argument(help="A video, a picture, or numbered pictures (%06d.png).", metavar="INPUT"),
]
Sources = Annotated[
    list[Path],
    typer.Argument(
        help="A video, a picture, numbered pictures (%06d.png); or several, quoted globs too.",
        metavar="INPUT",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="The new file, or a folder; default: beside the input."),
]
OutputFolder = Annotated[
    Path, typer.Option("-o", "--output", help="The folder for the outputs; made if need be.")
]
Formats = Annotated[
    list[str] | None,
    run_option(
        *("-f", "--format"),
        help="Of outputs that -o does not name: mkv, png, ...; repeated, one for videos and one "
        "for pictures. Default: the input's.",
        metavar="SUFFIX",
    ),
]
Scale = Annotated[
    int | None, size_option("-s", "--scale", help="2, 3 or 4; default: 4 up to 4K, else 2.")
]
Size = Annotated[str | None, size_option(help="Exact displayed size, WxH.")]
Height = Annotated[int | None, size_option(help="Exact displayed height in pixels.")]
Model = Annotated[
    str | None,
    network_option(
        *("-m", "--model"),
        help="A family or member (`vidsr models`), or a checkpoint file; default: by the "
        "device, and said.",
    ),
]
Fidelity = Annotated[
    float | None,
    network_option(
        help="Between perceptual (0) and fidelity weights (1); default: the model's.",
        metavar="0..1",
    ),
]
ColorModel = Annotated[str | None, color_option(help="A model or checkpoint file that colors.")]
Device = Annotated[str, network_option(help="auto, cpu, cuda, cuda:N or mps.")]
Threads = Annotated[int | None, network_option(help="Of the network on a processor.")]
Engine = Annotated[
    EngineWord,
    network_option(help="What computes; auto measures. openvino, ncnn: extras of these names."),
]
Reuse = Annotated[
    ReuseWord,
    network_option(
        help="What is not computed again: what did not change (same pictures, sooner), also what "
        "only moved (nearly the same, for large networks), nothing."
    ),
]
ReuseError = Annotated[
    float | None,
    network_option(help="Mean squared error, in 8-bit codes, that --reuse motion accepts."),
]
EncoderName = Annotated[
    str | None,
    encoder_option(help="FFmpeg's name: libx264 (default), libx265, libsvtav1, ffv1, ..."),
]
Crf = Annotated[float | None, encoder_option(help="Quality, on the encoder's scale.")]
Preset = Annotated[str | None, encoder_option(help="Speed, by the encoder's names.")]
EncoderOptions = Annotated[
    list[str] | None, encoder_option(help="Any option of the encoder.", metavar="KEY=VALUE")
]
FfmpegProgram = Annotated[
    str | None,
    encoder_option(
        "--ffmpeg",
        help="Encode with an ffmpeg of yours, by path; `ffmpeg` takes the one in the search path.",
        metavar="PROGRAM",
    ),
]
PixFmt = Annotated[str | None, encoder_option(help="FFmpeg's name, such as yuv444p.")]
Start = Annotated[
    str | None, run_option(help="Where to begin, from the file's beginning: seconds or [H:]M:S.")
]
End = Annotated[str | None, run_option(help="Where to stop: seconds or [H:]M:S.")]
Deinterlace = Annotated[
    DeinterlaceWord,
    run_option(help="Of interlaced input: a picture a frame, one a field (double rate), or off."),
]
Rate = Annotated[
    str | None,
    run_option(help="Of numbered pictures, per second: 24, 24000/1001; default 25."),
]
MaxMemory = Annotated[
    str | None, run_option(help="Of the whole run, such as 4G; default: 80 % of what is free.")
]
Overwrite = Annotated[bool, run_option("-y", "--overwrite", help="Replace the output.")]
NoResume = Annotated[
    bool, run_option("--no-resume", help="Write in one go; an interruption leaves nothing.")
]
Strict = Annotated[bool, run_option("--strict", help="Damaged input is an error.")]
DryRun = Annotated[bool, run_option("--dry-run", help="Print the plan, do nothing.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")]
Saturation = Annotated[
    float | None, color_option(help="Of the colors; above 1 more, below less.", metavar="0..4")
]
Strength = Annotated[
    float | None, color_option(help="Share beside the source's own look.", metavar="0..1")
]
Stability = Annotated[
    float | None,
    color_option(
        help="How much color follows the motion; 0 is frame by frame, default 0.9.", metavar="0..1"
    ),
]
ReferencePicture = Annotated[
    Path | None, color_option(help="A picture whose colors are to be matched.")
]
Force = Annotated[bool, color_option("--force", help="Color what is in color already.")]


def parse_formats(words: list[str] | None) -> tuple[str, ...]:
    """Suffixes of `mkv`, `.MKV`."""
    return tuple(f".{word.lower().removeprefix('.')}" for word in words or ())


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
        parts = [_fraction(part) for part in text.split(":")]
    except (ValueError, ZeroDivisionError) as exc:
        raise RequestError(f"{text!r} is no time; write seconds, M:S or H:M:S") from exc
    if len(parts) > 3 or not all(0 <= part < LONGEST for part in parts):
        raise RequestError(f"{text!r} is no time; write seconds, M:S or H:M:S")
    seconds = Fraction(0)
    for part in parts:
        seconds = seconds * 60 + part
    return seconds


def parse_rate(text: str | None) -> Fraction | None:
    """Pictures a second of `24`, `23.976` or `24000/1001`.

    Raises:
        RequestError: it says something else.
    """
    if text is None:
        return None
    try:
        return _fraction(text)
    except (ValueError, ZeroDivisionError) as exc:
        raise RequestError(f"--rate {text} is no rate; write 24 or 24000/1001") from exc


def _fraction(text: str) -> Fraction:
    """The number that a few digits say; `1e999` would fit nowhere else.

    Raises:
        ValueError: it says no number.
        ZeroDivisionError: `1/0`.
    """
    if len(text) > MOST_DIGITS or "e" in text.lower():
        raise ValueError(text)
    return Fraction(text)


_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_memory(text: str | None) -> int | None:
    """Bytes of `4G`, `800M` or a number.

    Raises:
        RequestError: it says something else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.strip().lower())
    if match is None:
        raise RequestError(f"--max-memory {text} is no size; write 4G or 800M")
    return int(Fraction(match[1]) * _UNITS[match[2]])
