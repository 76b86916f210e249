"""The command line: words -> Job; events -> the screen.

Everything heavy is imported inside the commands, so that `vidsr --help` answers at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from vidsr import __version__
from vidsr.cli import words
from vidsr.cli.evaluate import evaluate_app
from vidsr.cli.machine import bench, doctor
from vidsr.cli.machine import cache_dir as _cache_dir
from vidsr.cli.models import models_app
from vidsr.cli.screen import (
    console,
    draw,
    draw_batch,
    draw_batch_json,
    draw_json,
    draw_nothing,
    keeping,
    print_checks,
    print_error,
    print_plan,
    print_summary,
    reporting,
    write_report,
)
from vidsr.cli.train import data_app, train_app
from vidsr.engines.memory import keep_freed_memory
from vidsr.errors import MediaError, RequestError, VerificationError

if TYPE_CHECKING:
    from vidsr.batch import BatchRequest
    from vidsr.media.encoders import EncoderRequest
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
app.add_typer(models_app, name="models")


@app.command()
def upscale(
    sources: words.Sources,
    output: words.Output = None,
    formats: words.Formats = None,
    scale: words.Scale = None,
    size: words.Size = None,
    height: words.Height = None,
    model: words.Model = None,
    fidelity: words.Fidelity = None,
    device: words.Device = "auto",
    engine: words.Engine = words.EngineWord.auto,
    precision: Annotated[
        words.PrecisionWord, words.network_option(help="auto measures what is fast here.")
    ] = words.PrecisionWord.auto,
    tile: Annotated[
        str, words.network_option(help="Side of a tile in input pixels, or auto.", metavar="auto|N")
    ] = "auto",
    overlap: Annotated[
        int, words.network_option(help="Input pixels over which tiles are blended.")
    ] = 16,
    threads: words.Threads = None,
    reuse: words.Reuse = words.ReuseWord.exact,
    reuse_error: words.ReuseError = None,
    encoder: words.EncoderName = None,
    crf: words.Crf = None,
    preset: words.Preset = None,
    enc: words.EncoderOptions = None,
    pix_fmt: words.PixFmt = None,
    ffmpeg: words.FfmpegProgram = None,
    start: words.Start = None,
    end: words.End = None,
    deinterlace: words.Deinterlace = words.DeinterlaceWord.frame,
    rate: words.Rate = None,
    max_memory: words.MaxMemory = None,
    colored: Annotated[
        bool, words.color_option("--colorize", help="Color it first; see `vidsr colorize -h`.")
    ] = False,
    color_model: words.ColorModel = None,
    saturation: words.Saturation = None,
    strength: words.Strength = None,
    stability: words.Stability = None,
    reference: words.ReferencePicture = None,
    force: words.Force = False,
    overwrite: words.Overwrite = False,
    strict: words.Strict = False,
    no_resume: words.NoResume = False,
    dry_run: words.DryRun = False,
    as_json: words.Json = False,
    quiet: words.Quiet = False,
) -> None:
    """Enlarge a video or a picture; sound, subtitles and every frame come along.

    Several inputs go into the folder -o under their own names; what was done before is skipped.
    """
    with reporting(as_json):
        from vidsr.media.reader import Trim
        from vidsr.request import EngineRequest, Job, SizeRequest

        color = _color_request(color_model, saturation, strength, stability, reference, force)
        job = Job(
            source=sources[0],
            destination=output,
            size=SizeRequest(scale=scale, size=words.parse_size(size), height=height),
            engine=EngineRequest(
                *(model, device, precision.value, words.parse_tile(tile), overlap, threads),
                fidelity=fidelity,
                engine=engine.value,
                reuse=reuse.value,
                reuse_error=reuse_error,
            ),
            color=_wanted_color(color, colored),
            encoder=_encoder_request(encoder, crf, preset, enc, pix_fmt, ffmpeg),
            trim=Trim(words.parse_time(start), words.parse_time(end)),
            deinterlace=deinterlace.value,
            overwrite=overwrite,
            strict=strict,
            resume=not no_resume,
            rate=words.parse_rate(rate),
            max_memory=words.parse_memory(max_memory),
            formats=words.parse_formats(formats),
        )
        _run(job, sources, dry_run=dry_run, as_json=as_json, quiet=quiet)


@app.command()
def colorize(
    sources: words.Sources,
    output: words.Output = None,
    formats: words.Formats = None,
    model: Annotated[
        str | None,
        words.color_option(
            *("-m", "--model"), help="A model (`vidsr models`) or checkpoint file that colors."
        ),
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
    ffmpeg: words.FfmpegProgram = None,
    start: words.Start = None,
    end: words.End = None,
    deinterlace: words.Deinterlace = words.DeinterlaceWord.frame,
    rate: words.Rate = None,
    max_memory: words.MaxMemory = None,
    overwrite: words.Overwrite = False,
    strict: words.Strict = False,
    no_resume: words.NoResume = False,
    dry_run: words.DryRun = False,
    as_json: words.Json = False,
    quiet: words.Quiet = False,
) -> None:
    """Give a black-and-white video or picture color; its luma stays as it is, to the bit.

    With --reference the colors are shifted and stretched to those of a picture, in bands of
    lightness; it does not know what is what, so take a picture of the same kind of scene.

    Several inputs go into the folder -o under their own names; what was done before is skipped.
    """
    with reporting(as_json):
        from vidsr.media.reader import Trim
        from vidsr.request import ColorRequest, EngineRequest, Job

        color = _color_request(model, saturation, strength, stability, reference, force)
        job = Job(
            source=sources[0],
            destination=output,
            size=None,
            engine=EngineRequest(device=device, threads=threads),
            color=color or ColorRequest(),
            encoder=_encoder_request(encoder, crf, preset, enc, pix_fmt, ffmpeg),
            trim=Trim(words.parse_time(start), words.parse_time(end)),
            deinterlace=deinterlace.value,
            overwrite=overwrite,
            strict=strict,
            resume=not no_resume,
            rate=words.parse_rate(rate),
            max_memory=words.parse_memory(max_memory),
            formats=words.parse_formats(formats),
        )
        _run(job, sources, dry_run=dry_run, as_json=as_json, quiet=quiet)


def _encoder_request(
    encoder: str | None,
    crf: float | None,
    preset: str | None,
    enc: list[str] | None,
    pix_fmt: str | None,
    ffmpeg: str | None,
) -> EncoderRequest:
    from vidsr.media.encoders import EncoderRequest

    options = words.parse_pairs(enc or [])
    return EncoderRequest(encoder, crf, preset, options, pix_fmt, ffmpeg=ffmpeg)


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


def _wanted_color(color: ColorRequest | None, colored: bool) -> ColorRequest | None:
    """What words for color ask for beside --colorize."""
    from vidsr.request import ColorRequest

    if color is not None and not colored:
        raise RequestError("options for color go with --colorize; add it, or leave them out")
    return (color or ColorRequest()) if colored else None


def _run(job: Job, sources: list[Path], *, dry_run: bool, as_json: bool, quiet: bool) -> None:
    from vidsr.batch import BatchRequest, stands_for_others
    from vidsr.job import plan, run

    if len(sources) > 1 or stands_for_others(sources[0]):
        if job.destination is None:
            raise RequestError("several inputs need a folder for their outputs; name it with -o")
        request = BatchRequest(tuple(sources), job.destination, job)
        _run_batch(request, dry_run=dry_run, as_json=as_json, quiet=quiet, report=None)
        return
    planned = plan(job, cache_dir=_cache_dir())
    if dry_run:
        print_plan(planned, as_json)
        return
    show = draw_json if as_json else draw_nothing if quiet else draw
    with keeping(planned), contextlib.closing(run(planned)) as events:
        show(planned, events)


@app.command()
def batch(
    folder: Annotated[Path, typer.Argument(help="Of videos and pictures.", metavar="DIR")],
    output: words.OutputFolder,
    formats: words.Formats = None,
    recursive: Annotated[
        bool, words.run_option("--recursive", help="Folders in it too; the tree is kept.")
    ] = False,
    include: Annotated[
        list[str] | None,
        words.run_option(help="Only names or paths like this; may be repeated.", metavar="GLOB"),
    ] = None,
    jobs: Annotated[
        int,
        words.run_option(
            help="Files at once, sharing threads and memory. Pays for many small files and on many "
            "cores; a large video fills the cores alone."
        ),
    ] = 1,
    report: Annotated[
        Path | None, words.run_option(help="Write what became of each file there, as JSON.")
    ] = None,
    scale: Annotated[
        int | None,
        words.size_option(
            *("-s", "--scale"),
            help="2, 3 or 4; default: 4 up to 4K, else 2; 1 with --colorize: only color.",
        ),
    ] = None,
    size: words.Size = None,
    height: words.Height = None,
    model: words.Model = None,
    fidelity: words.Fidelity = None,
    device: words.Device = "auto",
    engine: words.Engine = words.EngineWord.auto,
    threads: words.Threads = None,
    reuse: words.Reuse = words.ReuseWord.exact,
    reuse_error: words.ReuseError = None,
    encoder: words.EncoderName = None,
    crf: words.Crf = None,
    preset: words.Preset = None,
    enc: words.EncoderOptions = None,
    pix_fmt: words.PixFmt = None,
    ffmpeg: words.FfmpegProgram = None,
    deinterlace: words.Deinterlace = words.DeinterlaceWord.frame,
    max_memory: words.MaxMemory = None,
    colored: Annotated[
        bool, words.color_option("--colorize", help="Color them first; see `vidsr colorize -h`.")
    ] = False,
    color_model: words.ColorModel = None,
    saturation: words.Saturation = None,
    strength: words.Strength = None,
    stability: words.Stability = None,
    reference: words.ReferencePicture = None,
    force: words.Force = False,
    overwrite: Annotated[
        bool,
        words.run_option("-y", "--overwrite", help="Replace files that no batch has made, too."),
    ] = False,
    strict: words.Strict = False,
    no_resume: words.NoResume = False,
    dry_run: Annotated[
        bool, words.run_option("--dry-run", help="List what would be done, do nothing.")
    ] = False,
    as_json: words.Json = False,
    quiet: words.Quiet = False,
) -> None:
    """Enlarge every video and picture of a folder; what was done before is skipped.

    One that fails does not stop the others. The same command goes on after an interruption, and
    does again what has changed: a file, an option or a model.
    """
    with reporting(as_json):
        from vidsr.batch import BatchRequest, Folder
        from vidsr.request import EngineRequest, Job, SizeRequest

        if report is not None:
            _check_report(report, output)
        color = _color_request(color_model, saturation, strength, stability, reference, force)
        wanted = None
        if not (colored and scale == 1):
            wanted = SizeRequest(scale=scale, size=words.parse_size(size), height=height)
        job = Job(
            source=folder,
            size=wanted,
            engine=EngineRequest(
                model,
                device,
                threads=threads,
                fidelity=fidelity,
                engine=engine.value,
                reuse=reuse.value,
                reuse_error=reuse_error,
            ),
            color=_wanted_color(color, colored),
            encoder=_encoder_request(encoder, crf, preset, enc, pix_fmt, ffmpeg),
            deinterlace=deinterlace.value,
            overwrite=overwrite,
            strict=strict,
            resume=not no_resume,
            max_memory=words.parse_memory(max_memory),
            formats=words.parse_formats(formats),
        )
        request = BatchRequest(Folder(folder, recursive, tuple(include or ())), output, job, jobs)
        _run_batch(request, dry_run=dry_run, as_json=as_json, quiet=quiet, report=report)


def _check_report(report: Path, output: Path) -> None:
    """Refuse before the work what could not be written after it; a run makes its output folder."""
    if report.is_dir():
        raise RequestError(f"--report {report} is a folder; name a file in it")
    folder = report.parent
    if not folder.is_dir() and folder.resolve() != output.resolve():
        raise RequestError(f"{folder}: no such folder for the report")
    if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(f"{folder} cannot be written; name another --report")


def _run_batch(
    request: BatchRequest, *, dry_run: bool, as_json: bool, quiet: bool, report: Path | None
) -> None:
    from vidsr.batch import LocalExecutor, preview, run

    if dry_run:
        summary = preview(request)
    else:
        executor = LocalExecutor(request.jobs, _cache_dir())
        show = draw_batch_json if as_json else draw_batch
        with contextlib.closing(run(request, executor)) as events:
            summary = show(events)
    print_summary(summary, as_json=as_json, quiet=quiet)
    if report is not None:
        write_report(summary, report)
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)


@app.command()
def info(source: words.Source, as_json: words.Json = False) -> None:
    """Show what is inside a file and what upscaling would do with it."""
    with reporting(as_json):
        from vidsr.draft import draft
        from vidsr.request import Job

        print_plan(draft(Job(source=source), cache_dir=_cache_dir()), as_json)


@app.command()
def verify(
    source: words.Source,
    written: Annotated[Path, typer.Argument(help="What was made of it.", metavar="OUTPUT")],
    scale: Annotated[
        int | None, typer.Option(help="By which it was enlarged; default: any size of its shape.")
    ] = None,
    as_json: words.Json = False,
) -> None:
    """Compare a finished file with its source; what differs for no known reason is an error.

    Frames, every timestamp, durations, offset of sound, streams with their packets and tags, colour
    tags, shape, rotation, chapters, attachments; of a picture its size, depth, profile and tags.
    """
    with reporting(as_json):
        from vidsr.media import images
        from vidsr.media.probe import probe
        from vidsr.media.sequence import is_animation, is_numbered
        from vidsr.media.verify import compare, compare_stills, deinterlaced_as
        from vidsr.planning import not_holdable

        for path in (source, written):
            if is_numbered(path) or is_animation(path):
                raise RequestError(
                    f"{path}: verify takes videos and still pictures, not animations or numbered "
                    "pictures"
                )
        if images.is_picture(source):
            checks = compare_stills(source, written, scale=scale)
        else:
            info = probe(source)
            checks = compare(
                source,
                written,
                dropped=not_holdable(info, written),
                scale=scale,
                deinterlace=deinterlaced_as(info, probe(written)),
            )
        print_checks(checks, as_json)
        failed = [check.what for check in checks if check.failed]
        if failed:
            raise VerificationError(f"{written} is not what {source} promises: {', '.join(failed)}")


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
        _make_folder(folder)
        draw_demo_clip(clip)
        planned = plan(job, cache_dir=_cache_dir())
        with contextlib.closing(run(planned)) as events:
            draw(planned, events)
        sheet = folder / "before-after.png"
        before_after(frame_at(clip, 30), frame_at(larger, 30), sheet)
        console.print(f"before and after: {sheet}")


def _make_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file; name a folder for the demo")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise MediaError(f"{folder}: the folder cannot be made ({exc.strerror})") from exc


# After the commands above, since help lists them in this order.
app.command()(bench)
app.command()(doctor)


_UsageError: Any = typer.BadParameter.__mro__[1]  # typer has a click of its own, not for import


def main() -> NoReturn:
    """Entry point: run the command and exit with its class's code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    keep_freed_memory()
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 writes 20 lines to stderr otherwise
    as_json = "--json" in sys.argv
    try:
        code = app(prog_name="vidsr", standalone_mode=not as_json)
    except _UsageError as exc:  # typer would draw a box
        error = RequestError(exc.format_message())
        print_error(error, as_json)
        code = error.exit_code
    raise SystemExit(code)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        console.print(f"vidsr {__version__}")
        raise typer.Exit
