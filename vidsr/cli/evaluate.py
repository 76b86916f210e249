"""`vidsr evaluate ...`: measure a network on pictures or a clip."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from vidsr.cli.screen import bar, console, last_of, print_json, reporting
from vidsr.cli.words import CodecWord, Device, Fidelity, Json
from vidsr.errors import RequestError

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from vidsr.api import Upscaler
    from vidsr.evaluation.colorize import ColorReport, Recolor
    from vidsr.evaluation.evaluate import CodecRequest, UpscaleReport
    from vidsr.evaluation.flicker import FlickerReport
    from vidsr.media.probe import VideoInfo
    from vidsr.media.roundtrip import Codec
    from vidsr.models.load import Network

evaluate_app = typer.Typer(no_args_is_help=True, help="Measure a network on pictures or a clip.")


@evaluate_app.command("upscale")
def evaluate_upscale(
    data: Annotated[list[Path], typer.Option(help="Folder of originals; may be repeated.")],
    model: Annotated[str, typer.Option(help="A shipped model or a checkpoint file.")],
    against: Annotated[
        list[str] | None, typer.Option(help="Another model of that scale; may be repeated.")
    ] = None,
    fidelity: Fidelity = None,
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
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Shrink pictures, enlarge them by models and by bicubic, and score the results.

    PSNR-Y in dB and SSIM-Y as in the literature; MS-SSIM, DSS and HaarPSI up to 1; NIQE, fitted on
    our own photographs, less is better; the steepness of lines, 1 is the original's; the shift of
    colors in CIEDE2000. The best figures are bold. --fidelity is --model's; the models of --against
    have their own.
    """
    with reporting(as_json):
        from vidsr.evaluation import report as reports
        from vidsr.evaluation.compare import ContactSheet
        from vidsr.evaluation.evaluate import evaluate_upscale, picture_paths

        if card and fidelity is not None:
            raise RequestError("a card tells of the model's own fidelity: --card or --fidelity")
        scale, stages = _open_upscalers(model, against or [], device, fidelity)
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
            report = last_of(measurement, f"measuring {folder}", len(picture_paths(folder)))
            if as_json:
                print_json(report.to_dict())
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
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Turn pictures gray, color them, and score the colors beside those of gray itself.

    PSNR over R, G and B in dB, SSIM, mean and 95th percentile of CIEDE2000, colorfulness (Hasler
    and Suesstrunk 2003) and its ratio to the originals'. Lightness is the original's throughout.
    """
    with reporting(as_json):
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
            report = last_of(measurement, f"measuring {folder}", len(picture_paths(folder)))
            if as_json:
                print_json(report.to_dict())
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
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure how much the colors of a video change along its motion from frame to frame.

    Beside it the strength of the colors and, given the original, their mean CIEDE2000 to it, for
    faded or frozen colors do not flicker. With --model also without stabilization.
    """
    with reporting(as_json):
        from vidsr.evaluation.flicker import colored, flicker
        from vidsr.media.probe import probe
        from vidsr.media.snapshot import film, gray_film

        info = probe(clip)
        stages = _flicker_stages(info, model, stability, device)
        frames = colored(
            gray_film(clip) if model else film(clip), stages, film(original) if original else None
        )
        report = last_of(
            flicker(frames, clip.name), f"measuring {clip.name}", info.frames_from_header or None
        )
        if as_json:
            print_json(report.to_dict())
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
    with reporting(as_json=False):
        from vidsr.evaluation.evaluate import picture_paths, read_picture, set_name
        from vidsr.evaluation.niqe import fit

        paths = [path for folder in data for path in picture_paths(folder)]
        about = f"{len(paths)} pictures of {', '.join(set_name(folder) for folder in data)}"
        with bar("fitting") as progress:
            task = progress.add_task("", total=len(paths), rate="", by="")
            model = fit((read_picture(path) for path in progress.track(paths, task_id=task)), about)
        model.write(output)
        console.print(f"wrote {output}: {model.about}", soft_wrap=True)


def _open_upscalers(
    model: str, against: list[str], device: str, fidelity: float | None
) -> tuple[int, dict[str, Upscaler]]:
    """Their common scale, and each by its name, `model`, which `fidelity` is of, first."""
    from vidsr.api import Upscaler

    first = Upscaler(model, device=device, fidelity=fidelity)
    name = first.card.name if fidelity is None else f"{first.card.name}, fidelity {fidelity:g}"
    upscalers = {name: first}
    for words in against:
        upscaler = Upscaler(words, device=device)
        name = words if upscaler.card.name in upscalers else upscaler.card.name
        upscalers[name] = upscaler
        if upscaler.scale != first.scale:
            raise RequestError(
                f"--against {words} enlarges {upscaler.scale} times and --model {model} "
                f"{first.scale} times; compare models of one scale"
            )
    return first.scale, upscalers


def _codec_request(codec: CodecWord | None, crf: float | None) -> CodecRequest | None:
    from vidsr.evaluation.evaluate import CodecRequest

    if codec is None:
        if crf is not None:
            raise RequestError(f"--crf {crf:g} needs --codec h264 or --codec hevc")
        return None
    name: Codec = "h264" if codec is CodecWord.h264 else "hevc"
    return CodecRequest(name, 28.0 if crf is None else crf)


def _weights_of(model: str, scale: int) -> Path:
    from vidsr.models.families import choose_model

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
    from vidsr.models.families import choose_colorizer
    from vidsr.models.load import load

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
