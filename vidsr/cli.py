"""The command line: words -> Job; events -> a progress bar or JSON lines. Only this room prints.

Everything heavy is imported inside the commands, so that `vidsr --help` answers at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from vidsr import __version__
from vidsr.engines.memory import keep_freed_memory
from vidsr.errors import Interrupted, RequestError, VidsrError

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress as Bar
    from rich.table import Table

    from vidsr.api import Upscaler
    from vidsr.evaluation.colorize import ColorReport, Recolor
    from vidsr.evaluation.evaluate import CodecRequest, UpscaleReport
    from vidsr.evaluation.flicker import FlickerReport
    from vidsr.job import Job, Plan, Progress, Result, StillPlan
    from vidsr.media.probe import VideoInfo
    from vidsr.media.roundtrip import Codec
    from vidsr.models.load import Network
    from vidsr.planning import ColorPlan, ColorRequest

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make video and pictures larger: a trained network on every frame, nothing lost.",
)
train_app = typer.Typer(no_args_is_help=True, help="Train a network from folders of pictures.")
evaluate_app = typer.Typer(no_args_is_help=True, help="Measure a network on pictures or a clip.")
data_app = typer.Typer(no_args_is_help=True, help="Make folders of pictures to train on.")
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


class PrecisionWord(StrEnum):
    """What `--precision` takes."""

    auto = "auto"
    fp16 = "fp16"
    bf16 = "bf16"
    fp32 = "fp32"


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


@app.command()
def upscale(
    source: Source,
    output: Output = None,
    scale: Annotated[
        int | None, typer.Option(help="2, 3 or 4; default: 4 up to 4K, else 2.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Exact displayed size, WxH.")] = None,
    height: Annotated[int | None, typer.Option(help="Exact displayed height in pixels.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A family or member (`vidsr models`), or a checkpoint file; default: by the "
            "device, and said."
        ),
    ] = None,
    fidelity: Annotated[
        float | None,
        typer.Option(
            help="Between perceptual (0) and fidelity weights (1); default: the model's.",
            metavar="0..1",
        ),
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        PrecisionWord, typer.Option(help="auto measures what is fast here.")
    ] = PrecisionWord.auto,
    tile: Annotated[
        str, typer.Option(help="Side of a tile in input pixels, or auto.", metavar="auto|N")
    ] = "auto",
    overlap: Annotated[int, typer.Option(help="Input pixels over which tiles are blended.")] = 16,
    threads: Threads = None,
    encoder: EncoderName = None,
    crf: Crf = None,
    preset: Preset = None,
    enc: EncoderOptions = None,
    pix_fmt: PixFmt = None,
    start: Start = None,
    end: End = None,
    colored: Annotated[
        bool, typer.Option("--colorize", help="Color it first; see `vidsr colorize -h`.")
    ] = False,
    color_model: Annotated[
        str | None, typer.Option(help="A model or checkpoint file that colors.")
    ] = None,
    saturation: Saturation = None,
    strength: Strength = None,
    stability: Stability = None,
    reference: ReferencePicture = None,
    force: Force = False,
    overwrite: Overwrite = False,
    strict: Strict = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Enlarge a video or a picture; sound, subtitles and every frame come along."""
    with _reporting(as_json):
        from vidsr.job import Job
        from vidsr.media.encoders import EncoderRequest
        from vidsr.media.reader import Trim
        from vidsr.planning import ColorRequest, EngineRequest, SizeRequest

        color = _color_request(color_model, saturation, strength, stability, reference, force)
        if color is not None and not colored:
            raise RequestError("options for color go with --colorize; add it, or leave them out")
        job = Job(
            source=source,
            destination=output,
            size=SizeRequest(scale=scale, size=_parse_size(size), height=height),
            engine=EngineRequest(
                model, device, precision.value, _parse_tile(tile), overlap, threads, fidelity
            ),
            color=(color or ColorRequest()) if colored else None,
            encoder=EncoderRequest(encoder, crf, preset, _parse_pairs(enc or []), pix_fmt),
            trim=Trim(_parse_time(start), _parse_time(end)),
            overwrite=overwrite,
            strict=strict,
        )
        _run(job, dry_run=dry_run, as_json=as_json, quiet=quiet)


@app.command()
def colorize(
    source: Source,
    output: Output = None,
    model: Annotated[
        str | None, typer.Option(help="A model (`vidsr models`) or checkpoint file that colors.")
    ] = None,
    saturation: Saturation = None,
    strength: Strength = None,
    stability: Stability = None,
    reference: ReferencePicture = None,
    force: Force = False,
    device: Device = "auto",
    threads: Threads = None,
    encoder: EncoderName = None,
    crf: Crf = None,
    preset: Preset = None,
    enc: EncoderOptions = None,
    pix_fmt: PixFmt = None,
    start: Start = None,
    end: End = None,
    overwrite: Overwrite = False,
    strict: Strict = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Give a black-and-white video or picture color; its luma stays as it is, to the bit.

    With --reference the colors are shifted and stretched to those of a picture, in bands of
    lightness; it does not know what is what, so take a picture of the same kind of scene.
    """
    with _reporting(as_json):
        from vidsr.job import Job
        from vidsr.media.encoders import EncoderRequest
        from vidsr.media.reader import Trim
        from vidsr.planning import ColorRequest, EngineRequest

        color = _color_request(model, saturation, strength, stability, reference, force)
        job = Job(
            source=source,
            destination=output,
            size=None,
            engine=EngineRequest(device=device, threads=threads),
            color=color or ColorRequest(),
            encoder=EncoderRequest(encoder, crf, preset, _parse_pairs(enc or []), pix_fmt),
            trim=Trim(_parse_time(start), _parse_time(end)),
            overwrite=overwrite,
            strict=strict,
        )
        _run(job, dry_run=dry_run, as_json=as_json, quiet=quiet)


def _color_request(
    model: str | None,
    saturation: float | None,
    strength: float | None,
    stability: float | None,
    reference: Path | None,
    force: bool,
) -> ColorRequest | None:
    """What the words ask for; None if there are none."""
    from vidsr.coloring import Look
    from vidsr.planning import ColorRequest

    numbers = {"saturation": saturation, "strength": strength, "stability": stability}
    given = {name: number for name, number in numbers.items() if number is not None}
    if not (given or force or model is not None or reference is not None):
        return None
    return ColorRequest(model, Look(**given), reference, force)


def _run(job: Job, *, dry_run: bool, as_json: bool, quiet: bool) -> None:
    from vidsr.job import plan, run

    planned = plan(job, cache_dir=_cache_dir())
    if dry_run:
        _print_plan(planned, as_json)
        return
    draw = _draw_json if as_json else _draw_nothing if quiet else _draw
    with contextlib.closing(run(planned)) as events:
        draw(planned, events)


@app.command()
def info(source: Source, as_json: Json = False) -> None:
    """Show what is inside a file and what upscaling would do with it."""
    with _reporting(as_json):
        from vidsr.job import Job, plan

        _print_plan(plan(Job(source=source, overwrite=True), cache_dir=_cache_dir()), as_json)


@app.command()
def models(as_json: Json = False) -> None:
    """List the weights that ship with vidsr, with their measured figures."""
    with _reporting(as_json):
        from rich.table import Table

        from vidsr.models.card import PERCEPTUAL, shipped_cards

        cards = shipped_cards()
        if as_json:
            for card in cards:
                _print_json(dataclasses.asdict(card))
            return
        mixed = {card.name.removesuffix(PERCEPTUAL) for card in cards if card.is_twin}
        figures = "PSNR (bicubic or gray), dB"
        table = Table("model", "scale", "fidelity", "network", figures, box=None)
        for card in cards:
            measured = [_measured_words(*item) for item in card.measured.items()]
            name = f"  {card.name}" if card.is_twin else card.name  # below its model
            share = f"{card.fidelity:g}" if card.name in mixed else ""
            scale = "color" if card.task == "colorize" else f"x{card.scale}"
            table.add_row(name, scale, share, card.summary, "  ".join(measured))
        console.print(table)


def _measured_words(name: str, figures: dict[str, float]) -> str:
    """One measurement of a card beside what costs nothing: of luma, or of all three channels."""
    ours, free = ("psnr_y", "bicubic_psnr_y")
    if ours not in figures:
        ours, free = ("psnr_rgb", "gray_psnr_rgb")
    return f"{name} {figures[ours]:.2f} ({figures[free]:.2f})"


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where to put the files.")] = Path("demo"),
    scale: Annotated[int, typer.Option(help="2, 3 or 4.")] = 4,
) -> None:
    """Draw a short cartoon with sound, enlarge it, and show one frame before and after."""
    with _reporting(as_json=False):
        from vidsr.evaluation.compare import before_after
        from vidsr.job import Job, plan, run
        from vidsr.media.demo import draw_demo_clip
        from vidsr.media.snapshot import frame_at
        from vidsr.planning import SizeRequest

        clip, larger = folder / "demo.mp4", folder / f"demo-x{scale}.mp4"
        job = Job(clip, larger, SizeRequest(scale=scale), overwrite=True)
        folder.mkdir(parents=True, exist_ok=True)
        draw_demo_clip(clip)
        planned = plan(job, cache_dir=_cache_dir())
        with contextlib.closing(run(planned)) as events:
            _draw(planned, events)
        sheet = folder / "before-after.png"
        before_after(frame_at(clip, 30), frame_at(larger, 30), sheet)
        console.print(f"before and after: {sheet}")


@train_app.command("upscale")
def train_upscale(
    recipe: Annotated[
        str | None,
        typer.Option(help="A shipped recipe or a .toml file; what is given beside it wins."),
    ] = None,
    root: Annotated[Path, typer.Option(help="Where the recipe's folders are.")] = Path(),
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder of pictures; may be repeated.")
    ] = None,
    validation: Annotated[
        list[Path] | None, typer.Option(help="Folder of pictures to measure on.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the weights.")] = None,
    stage: Annotated[str | None, typer.Option(help="fidelity or perceptual.")] = None,
    init: Annotated[str | None, typer.Option(help="Weights to start from.")] = None,
    network: Annotated[str | None, typer.Option(help="compact or srgan.")] = None,
    scale: Annotated[int | None, typer.Option(help="2, 3 or 4.")] = None,
    channels: Annotated[int | None, typer.Option(help="Width of the network.")] = None,
    blocks: Annotated[int | None, typer.Option(help="Depth of the network.")] = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="Bicubic low-res only, as in the benchmarks.")
    ] = False,
    minutes: Annotated[float | None, typer.Option(help="The budget.")] = None,
    steps: Annotated[int | None, typer.Option(help="Or the length in iterations.")] = None,
    batch: Annotated[int | None, typer.Option(help="Crops a step.")] = None,
    patch: Annotated[int | None, typer.Option(help="Side of a low-res crop in pixels.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At its peak.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all random draws.")] = None,
    licensed: Annotated[
        str | None, typer.Option("--license", help="Of the weights, for their card.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Of the processor.")] = None,
    run_dir: Annotated[Path, typer.Option("--run", help="Folder of all runs.")] = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on after a kill.")] = False,
    session: Annotated[
        float | None, typer.Option(help="Stop after so many minutes, to be resumed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train an upscaling network and export it as weights with a card."""
    given = {
        "data": data,
        "validation": validation,
        "name": name,
        "stage": stage,
        "init": init,
        "network": network,
        "scale": scale,
        "channels": channels,
        "blocks": blocks,
        "degradation": "clean" if clean else None,
        "minutes": minutes,
        "steps": steps,
        "batch": batch,
        "patch": patch,
        "learning_rate": learning_rate,
        "seed": seed,
        "license": licensed,
    }
    with _reporting(as_json):
        from vidsr.training.recipe import one_recipe
        from vidsr.training.srgan import train

        _set_threads(threads)
        overrides = {word: value for word, value in given.items() if value is not None}
        wanted = one_recipe(recipe, root, overrides, run_dir=run_dir if resume else None)
        folder = run_dir / wanted.name
        reports = train(wanted, folder, resume=resume, session_minutes=session)
        _draw_training(((wanted.name, report) for report in reports), as_json)
        if not as_json:
            console.print(f"run: {folder}")


@train_app.command("colorize")
def train_colorize(
    recipe: Annotated[
        str | None,
        typer.Option(help="A shipped recipe or a .toml file; what is given beside it wins."),
    ] = None,
    root: Annotated[Path, typer.Option(help="Where the recipe's folders are.")] = Path(),
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder of color pictures; may be repeated.")
    ] = None,
    validation: Annotated[
        list[Path] | None, typer.Option(help="Folder of pictures to measure on.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the weights.")] = None,
    stage: Annotated[str | None, typer.Option(help="pretrain or adversarial.")] = None,
    init: Annotated[str | None, typer.Option(help="Weights to start from.")] = None,
    channels: Annotated[int | None, typer.Option(help="Width of the network.")] = None,
    blocks: Annotated[int | None, typer.Option(help="Depth of the network.")] = None,
    minutes: Annotated[float | None, typer.Option(help="The budget.")] = None,
    steps: Annotated[int | None, typer.Option(help="Or the length in iterations.")] = None,
    batch: Annotated[int | None, typer.Option(help="Crops a step.")] = None,
    patch: Annotated[int | None, typer.Option(help="Side of a crop in pixels.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At its peak.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many examinations without a better one.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of all random draws.")] = None,
    licensed: Annotated[
        str | None, typer.Option("--license", help="Of the weights, for their card.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Of the processor.")] = None,
    run_dir: Annotated[Path, typer.Option("--run", help="Folder of all runs.")] = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on after a kill.")] = False,
    session: Annotated[
        float | None, typer.Option(help="Stop after so many minutes, to be resumed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a colorizing network and export it as weights with a card."""
    given = {
        "data": data,
        "validation": validation,
        "name": name,
        "stage": stage,
        "init": init,
        "channels": channels,
        "blocks": blocks,
        "minutes": minutes,
        "steps": steps,
        "batch": batch,
        "patch": patch,
        "learning_rate": learning_rate,
        "patience": patience,
        "seed": seed,
        "license": licensed,
    }
    with _reporting(as_json):
        from vidsr.training.color_recipe import one_recipe
        from vidsr.training.pix2pix import train

        _set_threads(threads)
        overrides = {word: value for word, value in given.items() if value is not None}
        wanted = one_recipe(recipe, root, overrides, run_dir=run_dir if resume else None)
        folder = run_dir / wanted.name
        reports = train(wanted, folder, resume=resume, session_minutes=session)
        _draw_training(((wanted.name, report) for report in reports), as_json)
        if not as_json:
            console.print(f"run: {folder}")


@train_app.command("all")
def train_all(
    root: Annotated[Path, typer.Option(help="Where photo/train, anime/train, ... are.")],
    minutes: Annotated[float, typer.Option(help="The budget of the whole plan.")],
    session: Annotated[
        float | None, typer.Option(help="Stop after so many minutes; call again to go on.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Of the processor.")] = None,
    run_dir: Annotated[Path, typer.Option("--run", help="Folder of all runs.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """Train everything that ships, in order of value; call again to go on."""
    with _reporting(as_json):
        from vidsr.training.plan import train_all

        _set_threads(threads)
        reports = train_all(root, run_dir, minutes=minutes, session_minutes=session)
        _draw_training(reports, as_json)


def _set_threads(threads: int | None) -> None:
    import torch

    if threads:
        torch.set_num_threads(threads)


@data_app.command("prepare")
def prepare_data(
    folders: Annotated[list[Path], typer.Argument(help="Searched for pictures, deeply.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A new folder.")],
    side: Annotated[int, typer.Option(help="Short side of what is written, in pixels.")] = 256,
    colorfulness: Annotated[
        float, typer.Option(help="Less is gray and dropped; 15 is slightly colored.")
    ] = 5.0,
    near: Annotated[int, typer.Option(help="Of 256 bits; near-duplicates differ in no more.")] = 20,
    val: Annotated[float, typer.Option(help="Share of the pictures to validate on.")] = 0.05,
    test: Annotated[float, typer.Option(help="Share of the pictures to test on.")] = 0.05,
    sources: Annotated[
        Path | None, typer.Option(help="CSV of licences: columns file and licence.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make training pictures of what lies about: sort out, resize, split, list.

    Gray, broken and small pictures and near-duplicates are dropped, and manifest.csv says why.
    """
    with _reporting(as_json):
        from vidsr.training.prepare import PrepareOptions, prepare

        options = PrepareOptions(side, colorfulness, near, val, test)
        reports = prepare(folders, output, options, sources=sources)
        last = _last_of(reports, "pictures", None)
        if as_json:
            _print_json({"event": "prepared", "output": str(output), **dataclasses.asdict(last)})
            return
        dropped = ", ".join(f"{count} {reason}" for reason, count in last.dropped.items())
        console.print(f"{last.kept} pictures kept, {dropped or 'none'} dropped: {output}")


@evaluate_app.command("upscale")
def evaluate_upscale(
    data: Annotated[list[Path], typer.Option(help="Folder of originals; may be repeated.")],
    model: Annotated[str, typer.Option(help="A shipped model or a checkpoint file.")],
    against: Annotated[
        list[str] | None, typer.Option(help="Another model of that scale; may be repeated.")
    ] = None,
    codec: Annotated[
        CodecWord | None, typer.Option(help="Compress the low-res pictures: h264 or hevc.")
    ] = None,
    crf: Annotated[
        float | None, typer.Option(help="How much, on the encoder's scale; default 28.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for report.json, plot.png and sheet.png."),
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Write the means into the card of --model.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Shrink pictures, enlarge them by models and by bicubic, and score the results.

    PSNR-Y in dB and SSIM-Y as in the literature; MS-SSIM, DSS and HaarPSI up to 1; NIQE, fitted on
    our own photographs, less is better; the steepness of lines, 1 is the original's; the shift of
    colors in CIEDE2000. The best figures are bold.
    """
    with _reporting(as_json):
        from vidsr.evaluation import report as reports
        from vidsr.evaluation.compare import ContactSheet
        from vidsr.evaluation.evaluate import evaluate_upscale, picture_paths

        scale, stages = _open_upscalers(model, against or [], device)
        request = _codec_request(codec, crf)
        card_file = reports.writable_card(_weights_of(model, scale)) if card else None
        sheets = [ContactSheet(scale) for _ in data]
        measurements = [
            evaluate_upscale(stages, scale, folder, codec=request, show=crops.add)
            for folder, crops in zip(data, sheets, strict=True)
        ]  # made before any is begun, since this looks whether the folders have pictures
        written = [_report_folder(output, data, folder) for folder in data]
        runs = zip(data, sheets, measurements, written, strict=True)
        for folder, crops, measurement, reported in runs:
            report = _last_of(measurement, f"measuring {folder}", len(picture_paths(folder)))
            if as_json:
                _print_json(report.to_dict())
            else:
                _print_scores(report)
            if reported:
                reports.write_report(report, crops, reported)
            if card_file:
                reports.add_to_card(card_file, report, next(iter(stages)))


@evaluate_app.command("colorize")
def evaluate_colorize(
    data: Annotated[list[Path], typer.Option(help="Folder of color pictures; may be repeated.")],
    model: Annotated[str, typer.Option(help="A model that colors, or its checkpoint file.")],
    saturation: Annotated[
        list[float] | None,
        typer.Option(help="Factor on the colors; may be repeated for a curve; default: 1."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for report.json, plot.png and sheet.jpg."),
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Write the means into the card of --model.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Turn pictures gray, color them, and score the colors beside those of gray itself.

    PSNR over R, G and B in dB, SSIM, mean and 95th percentile of CIEDE2000, colorfulness (Hasler
    and Suesstrunk 2003) and its ratio to the originals'. Lightness is the original's throughout.
    """
    with _reporting(as_json):
        from vidsr.evaluation import color_report
        from vidsr.evaluation import report as reports
        from vidsr.evaluation.colorize import evaluate_colorize, operating_points
        from vidsr.evaluation.evaluate import picture_paths

        weights, network, place = _open_color_network(model, device)
        stages = operating_points(network, saturation or [1.0], place)
        card_file = reports.writable_card(weights) if card else None
        runs = [
            (
                folder,
                color_report.Gallery(len(picture_paths(folder))),
                _report_folder(output, data, folder),
            )
            for folder in data
        ]
        measurements = [
            evaluate_colorize(stages, folder, show=gallery.add) for folder, gallery, _ in runs
        ]  # made before any is begun, since this looks whether the folders have pictures
        for (folder, gallery, reported), measurement in zip(runs, measurements, strict=True):
            report = _last_of(measurement, f"measuring {folder}", len(picture_paths(folder)))
            if as_json:
                _print_json(report.to_dict())
            else:
                _print_color_scores(report)
            if reported:
                color_report.write_color_report(report, gallery, reported)
            if card_file:
                reports.add_measured(card_file, color_report.card_figures(report))


@evaluate_app.command("flicker")
def evaluate_flicker(
    clip: Annotated[Path, typer.Argument(help="A colorized video, or with --model a source.")],
    model: Annotated[
        str | None, typer.Option(help="Turn the clip gray and color it by this model.")
    ] = None,
    original: Annotated[
        Path | None, typer.Option(help="The same clip in its real colors, to be measured beside.")
    ] = None,
    stability: Annotated[
        float | None, typer.Option(help="Of the colors of --model.", metavar="0..1")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Measure how much the colors of a video change along its motion from frame to frame.

    Beside it the strength of the colors and, given the original, their mean CIEDE2000 to it, for
    faded or frozen colors do not flicker. With --model also without stabilization.
    """
    with _reporting(as_json):
        from vidsr.evaluation.flicker import colored, flicker
        from vidsr.media.probe import probe
        from vidsr.media.snapshot import film, gray_film

        info = probe(clip)
        stages = _flicker_stages(info, model, stability, device)
        frames = colored(
            gray_film(clip) if model else film(clip), stages, film(original) if original else None
        )
        report = _last_of(
            flicker(frames, clip.name), f"measuring {clip.name}", info.frames_from_header or None
        )
        if as_json:
            _print_json(report.to_dict())
        else:
            _print_flicker(report)


@evaluate_app.command("fit-niqe")
def fit_niqe(
    data: Annotated[list[Path], typer.Option(help="Folder of good pictures; may be repeated.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The new file; vidsr/evaluation/niqe.npz ships.")
    ],
) -> None:
    """Fit NIQE's model of good pictures, which says what is natural."""
    with _reporting(as_json=False):
        from vidsr.evaluation.evaluate import picture_paths, read_picture, set_name
        from vidsr.evaluation.niqe import fit

        paths = [path for folder in data for path in picture_paths(folder)]
        about = f"{len(paths)} pictures of {', '.join(set_name(folder) for folder in data)}"
        with _bar("fitting") as bar:
            task = bar.add_task("", total=len(paths), rate="", by="")
            model = fit((read_picture(path) for path in bar.track(paths, task_id=task)), about)
        model.write(output)
        console.print(f"wrote {output}: {model.about}", soft_wrap=True)


def _open_upscalers(model: str, against: list[str], device: str) -> tuple[int, dict[str, Upscaler]]:
    """Their common scale, and each by its name, `model` first."""
    from vidsr.api import Upscaler

    upscalers: dict[str, Upscaler] = {}
    for words in [model, *against]:
        upscaler = Upscaler(words, device=device)
        name = words if upscaler.card.name in upscalers else upscaler.card.name
        upscalers[name] = upscaler
        scale = next(iter(upscalers.values())).scale
        if upscaler.scale != scale:
            raise RequestError(
                f"--against {words} enlarges {upscaler.scale} times and --model {model} {scale} "
                "times; compare models of one scale"
            )
    return scale, upscalers


def _codec_request(codec: CodecWord | None, crf: float | None) -> CodecRequest | None:
    from vidsr.evaluation.evaluate import CodecRequest

    if codec is None:
        if crf is not None:
            raise RequestError(f"--crf {crf:g} needs --codec h264 or --codec hevc")
        return None
    name: Codec = "h264" if codec is CodecWord.h264 else "hevc"
    return CodecRequest(name, 28.0 if crf is None else crf)


def _weights_of(model: str, scale: int) -> Path:
    from vidsr.planning import choose_model

    return choose_model(model, Fraction(scale))[1]


def _report_folder(output: Path | None, data: list[Path], folder: Path) -> Path | None:
    """Where the report on `folder` goes: `output` itself, or with several in one below it."""
    from vidsr.evaluation.evaluate import set_name
    from vidsr.evaluation.report import open_folder

    if output is None:
        return None
    reported = output if len(data) == 1 else output / set_name(folder).replace("/", "-")
    open_folder(reported)
    return reported


def _open_color_network(model: str, device: str) -> tuple[Path, Network, torch.device]:
    """The weights file, the network on its device, and the device."""
    from vidsr.engines.torch_engine import open_device
    from vidsr.models.load import load
    from vidsr.planning import choose_colorizer

    weights, place = choose_colorizer(model), open_device(device)
    return weights.path, load(weights.card, weights.path).to(place), place


def _flicker_stages(
    info: VideoInfo, model: str | None, stability: float | None, device: str
) -> dict[str, Recolor]:
    """What is measured: the clip itself, or what the model makes of it."""
    from vidsr.coloring import Look
    from vidsr.evaluation.flicker import OUTPUT, steadied
    from vidsr.media.color import luma_weights

    if model is None:
        if stability is not None:
            raise RequestError(f"--stability {stability:g} needs --model")
        return {OUTPUT: lambda rgb: rgb}
    _, network, place = _open_color_network(model, device)
    share = Look().stability if stability is None else stability
    weights = luma_weights(info.color.matrix)
    return steadied(network, share, device=place, luma_weights=weights)


def main() -> NoReturn:
    """Entry point: run the command and exit with its class's code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    keep_freed_memory()
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 writes 20 lines to stderr otherwise
    app(prog_name="vidsr")
    raise SystemExit(0)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        console.print(f"vidsr {__version__}")
        raise typer.Exit


# Failing: one sentence and the exit code of its class.


@contextlib.contextmanager
def _reporting(as_json: bool) -> Iterator[None]:
    """Turn errors into one sentence; let SIGTERM end a run as cleanly as Ctrl-C does."""
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        _fail(Interrupted("interrupted; nothing was written"), as_json)
    except BrokenPipeError:
        os._exit(Interrupted.exit_code)  # whoever read our output has gone
    except VidsrError as exc:
        _fail(exc, as_json)


def _fail(error: VidsrError, as_json: bool) -> NoReturn:
    if as_json:
        facts = {"type": type(error).__name__, "exit_code": error.exit_code, "message": str(error)}
        _print_json({"event": "error", **facts})
    else:
        errors.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
    raise typer.Exit(error.exit_code)


# Words -> values.


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise RequestError(f"--size {text} is not WxH, such as 1920x1080")
    return int(width), int(height)


def _parse_tile(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise RequestError(f"--tile {text} is neither auto nor a number of pixels")
    return int(text)


def _parse_pairs(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise RequestError(f"--enc {pair} is not KEY=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


def _parse_time(text: str | None) -> Fraction | None:
    """Seconds of `12.5`, `1:30` or `1:02:03.5`."""
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


def _cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vidsr"


# Events -> the screen.


def _draw(planned: Plan | StillPlan, events: Iterator[Progress | Result]) -> None:
    from vidsr.job import Progress

    engine = planned.engine
    with _bar(f"{engine.card.name} on {engine.device} ({engine.precision})") as bar:
        expected = getattr(planned, "frames_expected", 1) or None
        task = bar.add_task("", total=expected, rate="", by="")
        for event in events:
            if isinstance(event, Progress):
                rate, by = f"{event.frames_per_second:.2f} fps", f"{event.bottleneck} busiest"
                bar.update(task, completed=event.frames, rate=rate, by=by)
            else:
                result = event
                bar.update(task, completed=event.frames_out, total=event.frames_out)
    _print_result(result, _model_words(planned))


def _bar(title: str) -> Bar:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    return Progress(
        TextColumn(escape(title)),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        Remaining(),
        TextColumn("{task.fields[by]}"),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,  # it would leave an empty line in a log
    )


def _print_result(result: Result, model: str) -> None:
    frames = "" if result.frames_out == 1 else f"{result.frames_out} frames, "
    rate = result.frames_out / max(result.seconds, 1e-9)
    console.print(
        f"wrote {escape(str(result.destination))}: {result.width}x{result.height}, {frames}"
        f"{result.bytes / 1e6:.1f} MB in {result.seconds:.1f} s ({rate:.2f} fps)",
        soft_wrap=True,
    )
    console.print(f"model: {escape(model)}", soft_wrap=True)
    notes = list(result.notes)
    if result.retiled:
        notes.append(f"{result.retiled} pictures were computed again in smaller tiles")
    if result.recomputed:
        notes.append(f"{result.recomputed} tiles were computed again in fp32")
    changed = "; ".join(notes) or "nothing"
    console.print(f"dropped or changed: {escape(changed)}", soft_wrap=True)


def _draw_json(planned: Plan | StillPlan, events: Iterator[Progress | Result]) -> None:
    for event in events:
        _print_json({"event": type(event).__name__.lower(), **dataclasses.asdict(event)})


def _draw_nothing(planned: Plan | StillPlan, events: Iterator[Progress | Result]) -> None:
    for _ in events:
        pass


def _draw_training(reports: Iterator[tuple[str, Any]], as_json: bool) -> None:
    if as_json:
        for name, report in reports:
            _print_json({"event": "training", "name": name, **dataclasses.asdict(report)})
        return
    last: dict[str, str] = {}
    with _bar("training") as bar:
        tasks: dict[str, Any] = {}
        for name, report in reports:
            if name not in tasks:
                tasks[name] = bar.add_task("", total=None, rate="", by="")
            psnr = "" if report.psnr is None else f", validation {report.psnr:.2f} dB"
            rate = (
                f"{report.megapixels_per_second:.2f} MP/s, "
                f"{report.teraflops_per_second:.3f} TFLOP/s"
            )
            bar.update(
                tasks[name],
                completed=report.step,
                total=report.total_steps or None,
                rate=f"{name}: loss {report.loss:.4f}{psnr}",
                by=rate,
            )
            last[name] = f"{name}: step {report.step}, loss {report.loss:.4f}{psnr}, {rate}"
    for line in last.values():
        console.print(line, soft_wrap=True)


def _print_plan(planned: Plan | StillPlan, as_json: bool) -> None:
    from vidsr.job import StillPlan

    facts = _still_facts(planned) if isinstance(planned, StillPlan) else _video_facts(planned)
    if as_json:
        _print_json({"event": "plan", **facts})
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        lines = value if isinstance(value, list) else [value]
        for number, line in enumerate(lines):
            label = name if number == 0 else ""
            console.print(f"[bold]{label:{width}}[/bold]  {escape(str(line))}", soft_wrap=True)


def _still_facts(planned: StillPlan) -> dict[str, Any]:
    height, width = planned.still.rgb.shape[:2]
    return {
        "input": f"{planned.job.source}: {planned.still.format}, {width}x{height}, "
        f"{planned.still.depth} bit{', grey' if planned.still.gray else ''}"
        f"{', alpha' if planned.still.alpha is not None else ''}",
        "output": f"{planned.destination}: {planned.target.width}x{planned.target.height}",
        **_engine_facts(planned),
        "notes": list(planned.notes) or ["none"],
    }


def _video_facts(planned: Plan) -> dict[str, Any]:
    from vidsr.job import estimate_seconds

    info, video = planned.info, planned.video
    seconds = estimate_seconds(planned)
    streams = [
        f"{track.stream}: {track.action}{f', {track.reason}' if track.reason else ''}"
        for track in planned.tracks
    ]
    return {
        "input": f"{info.path}: {info.container}, {info.seconds_from_header:.2f} s",
        "picture": _picture_words(info),
        "streams": streams,
        "output": f"{planned.destination}: {video.width}x{video.height}, {video.encoder} "
        + " ".join(f"{key}={value}" for key, value in video.options.items()),
        **_engine_facts(planned),
        "estimates": f"memory {planned.engine.memory_bytes / 1e6:.0f} MB for the network, disk "
        f"{planned.disk_bytes / 1e6:.0f} MB, time {seconds:.0f} s for about "
        f"{planned.frames_expected} frames",
        "notes": list(planned.notes) or ["none"],
    }


def _picture_words(info: VideoInfo) -> str:
    shown = info.displayed_size
    stored = (info.width, info.height)
    color = info.color
    guessed = f" (guessed: {', '.join(sorted(color.guessed))})" if color.guessed else ""
    return (
        f"{info.width}x{info.height} {info.pix_fmt}, {float(info.frame_rate):.3f} fps, "
        f"{color.matrix.name} {color.range.name.lower()} range, chroma {color.siting.name.lower()}"
        f"{guessed}{f', shown as {shown[0]}x{shown[1]}' if shown != stored else ''}"
        f"{', interlaced' if info.interlaced else ''}{', HDR' if color.is_hdr else ''}"
    )


def _engine_facts(planned: Plan | StillPlan) -> dict[str, Any]:
    facts, engine, color = {}, planned.engine, planned.color
    if color is not None:
        facts["color"] = _color_words(color)
    if planned.job.size is None:
        facts["engine"] = f"{engine.device}, {engine.precision}, {engine.threads} threads"
        return facts
    return {
        "model": _model_words(planned),
        **facts,
        "engine": f"{engine.device}, {engine.precision}, tiles of {engine.tile} px, "
        f"{engine.batch} a batch, {engine.workers} workers of {engine.threads} threads",
    }


def _color_words(color: ColorPlan) -> str:
    """Which network colors, and how."""
    card, look = color.engine.card, color.look
    words = [f"{card.name}: {card.summary}", f"saturation {look.saturation:g}"]
    words += [f"strength {look.strength:g}"] if look.strength < 1 else []
    words += [f"stability {look.stability:g}"] if look.stability else []
    words += [f"colors of {color.reference}"] if color.reference else []
    return "; ".join(words)


def _model_words(planned: Plan | StillPlan) -> str:
    """Which network it is, what is mixed in it, and why it was taken if nobody named it."""
    if planned.job.size is None and planned.color is not None:
        return _color_words(planned.color)
    engine, asked = planned.engine, planned.job.engine.fidelity
    words = [f"{engine.card.name}: {engine.card.summary}"]
    if engine.weights.twin is not None:
        share = engine.weights.fidelity
        default = asked is None and share == engine.card.fidelity
        words.append(f"fidelity {share:g}{' (default)' if default else ''}")
    words += [f"colored by {planned.color.engine.card.name}"] if planned.color else []
    return "; ".join([*words, engine.why] if engine.why else words)


def _last_of(items: Iterator[Any], title: str, total: int | None) -> Any:
    """The last item, which is the report; the others move a bar."""
    with _bar(title) as bar:
        task = bar.add_task("", total=total, rate="", by="")
        for item in items:
            last = item
            bar.advance(task)
    return last


def _print_scores(report: UpscaleReport) -> None:
    """A row a picture, then a row a model with the means over all pictures."""
    from vidsr.evaluation.report import METRICS

    means = report.mean
    pictures = _score_table("PSNR-Y and DSS of each picture", report.name, list(means))
    for picture in report.pictures:
        cells = [f"{own.psnr_y:.2f} {own.dss:.3f}" for own in picture.stages.values()]
        pictures.add_row(escape(picture.name), *cells)
    titles = [metric.title for metric in METRICS]
    models = _score_table(f"mean of {len(report.pictures)}", report.name, titles)
    best = [metric.winner(means) for metric in METRICS]
    for name, scores in means.items():
        cells = [metric.show(getattr(scores, metric.field)) for metric in METRICS]
        marked = [
            f"[bold]{cell}[/bold]" if name == first else cell
            for cell, first in zip(cells, best, strict=True)
        ]
        models.add_row(escape(name), *marked)
    console.print(pictures, "", models)


def _print_color_scores(report: ColorReport) -> None:
    """A table a group of pictures, a row a stage with the means."""
    from vidsr.evaluation.color_report import FIGURES
    from vidsr.evaluation.colorize import GRAY

    for group, means in report.means.items():
        originals = f"of colorfulness {means[GRAY].original_colorfulness:.1f}"
        title = f"{group}: {len(report.groups[group])} pictures {originals}"
        table = _score_table(title, report.data, [figure.title for figure in FIGURES])
        for name, scores in means.items():
            table.add_row(escape(name), *[figure.show(scores) for figure in FIGURES])
        console.print(table, "")


def _print_flicker(report: FlickerReport) -> None:
    """A table of the whole clip and one of its end, a row a version."""
    from vidsr.evaluation.flicker import FRAME_BY_FRAME, ORIGINAL, relative
    from vidsr.evaluation.scores import shown

    title = f"{len(report.frames)} frames, {report.shots} shots"
    columns = ["flicker", f"/ {FRAME_BY_FRAME}", f"/ {ORIGINAL}", "chroma", "dE00"]
    for span, means in ((title, report.whole), ("the last second", report.last_second)):
        table = _score_table(span, report.clip, columns)
        for name, figures in means.items():
            shares = [relative(means, name, other) for other in (FRAME_BY_FRAME, ORIGINAL)]
            table.add_row(
                escape(name),
                shown(figures.warp_error, 3),
                *[shown(share, 2) for share in shares],
                shown(figures.chroma, 2),
                shown(figures.ciede2000, 2),
            )
        console.print(table, "")


def _score_table(title: str, of: str, columns: list[str]) -> Table:
    """Figures keep their width; where the line is short, names give way."""
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", box=None, pad_edge=False, collapse_padding=True
    )
    table.add_column(escape(of), overflow="fold")
    for column in columns:
        table.add_column(escape(column), justify="right", no_wrap=True)
    return table


def _print_json(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, default=str, ensure_ascii=False) + "\n")
    sys.stdout.flush()
