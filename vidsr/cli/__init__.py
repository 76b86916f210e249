"""The command line: words -> Job; events -> the screen.

Everything heavy is imported inside the commands, so that `vidsr --help` answers at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from vidsr import __version__
from vidsr.cli import words
from vidsr.cli.evaluate import evaluate_app
from vidsr.cli.screen import (
    console,
    draw,
    draw_json,
    draw_nothing,
    print_json,
    print_plan,
    reporting,
)
from vidsr.cli.train import data_app, train_app
from vidsr.engines.memory import keep_freed_memory
from vidsr.errors import RequestError

if TYPE_CHECKING:
    from vidsr.request import ColorRequest, Job

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make video and pictures larger: a trained network on every frame, nothing lost.",
)
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")


@app.command()
def upscale(
    source: words.Source,
    output: words.Output = None,
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
    device: words.Device = "auto",
    precision: Annotated[
        words.PrecisionWord, typer.Option(help="auto measures what is fast here.")
    ] = words.PrecisionWord.auto,
    tile: Annotated[
        str, typer.Option(help="Side of a tile in input pixels, or auto.", metavar="auto|N")
    ] = "auto",
    overlap: Annotated[int, typer.Option(help="Input pixels over which tiles are blended.")] = 16,
    threads: words.Threads = None,
    reuse: Annotated[
        words.ReuseWord,
        typer.Option(
            help="What is not computed again: what did not change (same pictures, sooner), also "
            "what only moved (nearly the same, for large networks), nothing."
        ),
    ] = words.ReuseWord.exact,
    reuse_error: Annotated[
        float | None,
        typer.Option(help="Mean squared error, in 8-bit codes, that --reuse motion accepts."),
    ] = None,
    encoder: words.EncoderName = None,
    crf: words.Crf = None,
    preset: words.Preset = None,
    enc: words.EncoderOptions = None,
    pix_fmt: words.PixFmt = None,
    start: words.Start = None,
    end: words.End = None,
    colored: Annotated[
        bool, typer.Option("--colorize", help="Color it first; see `vidsr colorize -h`.")
    ] = False,
    color_model: Annotated[
        str | None, typer.Option(help="A model or checkpoint file that colors.")
    ] = None,
    saturation: words.Saturation = None,
    strength: words.Strength = None,
    stability: words.Stability = None,
    reference: words.ReferencePicture = None,
    force: words.Force = False,
    overwrite: words.Overwrite = False,
    strict: words.Strict = False,
    dry_run: words.DryRun = False,
    as_json: words.Json = False,
    quiet: words.Quiet = False,
) -> None:
    """Enlarge a video or a picture; sound, subtitles and every frame come along."""
    with reporting(as_json):
        from vidsr.media.encoders import EncoderRequest
        from vidsr.media.reader import Trim
        from vidsr.request import ColorRequest, EngineRequest, Job, SizeRequest

        color = _color_request(color_model, saturation, strength, stability, reference, force)
        if color is not None and not colored:
            raise RequestError("options for color go with --colorize; add it, or leave them out")
        job = Job(
            source=source,
            destination=output,
            size=SizeRequest(scale=scale, size=words.parse_size(size), height=height),
            engine=EngineRequest(
                model,
                device,
                precision.value,
                words.parse_tile(tile),
                overlap,
                threads,
                fidelity,
                reuse.value,
                reuse_error,
            ),
            color=(color or ColorRequest()) if colored else None,
            encoder=EncoderRequest(encoder, crf, preset, words.parse_pairs(enc or []), pix_fmt),
            trim=Trim(words.parse_time(start), words.parse_time(end)),
            overwrite=overwrite,
            strict=strict,
        )
        _run(job, dry_run=dry_run, as_json=as_json, quiet=quiet)


@app.command()
def colorize(
    source: words.Source,
    output: words.Output = None,
    model: Annotated[
        str | None, typer.Option(help="A model (`vidsr models`) or checkpoint file that colors.")
    ] = None,
    saturation: words.Saturation = None,
    strength: words.Strength = None,
    stability: words.Stability = None,
    reference: words.ReferencePicture = None,
    force: words.Force = False,
    device: words.Device = "auto",
    threads: words.Threads = None,
    encoder: words.EncoderName = None,
    crf: words.Crf = None,
    preset: words.Preset = None,
    enc: words.EncoderOptions = None,
    pix_fmt: words.PixFmt = None,
    start: words.Start = None,
    end: words.End = None,
    overwrite: words.Overwrite = False,
    strict: words.Strict = False,
    dry_run: words.DryRun = False,
    as_json: words.Json = False,
    quiet: words.Quiet = False,
) -> None:
    """Give a black-and-white video or picture color; its luma stays as it is, to the bit.

    With --reference the colors are shifted and stretched to those of a picture, in bands of
    lightness; it does not know what is what, so take a picture of the same kind of scene.
    """
    with reporting(as_json):
        from vidsr.media.encoders import EncoderRequest
        from vidsr.media.reader import Trim
        from vidsr.request import ColorRequest, EngineRequest, Job

        color = _color_request(model, saturation, strength, stability, reference, force)
        job = Job(
            source=source,
            destination=output,
            size=None,
            engine=EngineRequest(device=device, threads=threads),
            color=color or ColorRequest(),
            encoder=EncoderRequest(encoder, crf, preset, words.parse_pairs(enc or []), pix_fmt),
            trim=Trim(words.parse_time(start), words.parse_time(end)),
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
    from vidsr.request import ColorRequest

    numbers = {"saturation": saturation, "strength": strength, "stability": stability}
    given = {name: number for name, number in numbers.items() if number is not None}
    if not (given or force or model is not None or reference is not None):
        return None
    return ColorRequest(model, Look(**given), reference, force)


def _run(job: Job, *, dry_run: bool, as_json: bool, quiet: bool) -> None:
    from vidsr.job import plan, run

    planned = plan(job, cache_dir=_cache_dir())
    if dry_run:
        print_plan(planned, as_json)
        return
    show = draw_json if as_json else draw_nothing if quiet else draw
    with contextlib.closing(run(planned)) as events:
        show(planned, events)


@app.command()
def info(source: words.Source, as_json: words.Json = False) -> None:
    """Show what is inside a file and what upscaling would do with it."""
    with reporting(as_json):
        from vidsr.job import plan
        from vidsr.request import Job

        print_plan(plan(Job(source=source, overwrite=True), cache_dir=_cache_dir()), as_json)


@app.command()
def models(as_json: words.Json = False) -> None:
    """List the weights that ship with vidsr, with their measured figures."""
    with reporting(as_json):
        from rich.table import Table

        from vidsr.models.card import PERCEPTUAL, shipped_cards

        cards = shipped_cards()
        if as_json:
            for card in cards:
                print_json(dataclasses.asdict(card))
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
    with reporting(as_json=False):
        from vidsr.evaluation.compare import before_after
        from vidsr.job import plan, run
        from vidsr.media.demo import draw_demo_clip
        from vidsr.media.snapshot import frame_at
        from vidsr.request import Job, SizeRequest

        clip, larger = folder / "demo.mp4", folder / f"demo-x{scale}.mp4"
        job = Job(clip, larger, SizeRequest(scale=scale), overwrite=True)
        folder.mkdir(parents=True, exist_ok=True)
        draw_demo_clip(clip)
        planned = plan(job, cache_dir=_cache_dir())
        with contextlib.closing(run(planned)) as events:
            draw(planned, events)
        sheet = folder / "before-after.png"
        before_after(frame_at(clip, 30), frame_at(larger, 30), sheet)
        console.print(f"before and after: {sheet}")


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


def _cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vidsr"
