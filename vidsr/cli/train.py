"""`vidsr train ...` and `vidsr data ...`: from folders of pictures to weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidsr.cli.screen import bar, console, last_of, print_json, reporting
from vidsr.cli.words import Json

if TYPE_CHECKING:
    from vidsr.training.run import TrainProgress

train_app = typer.Typer(no_args_is_help=True, help="Train a network from folders of pictures.")
data_app = typer.Typer(no_args_is_help=True, help="Make folders of pictures to train on.")

Recipe = Annotated[
    str | None,
    typer.Option(help="A shipped recipe or a .toml file; what is given beside it wins."),
]
Root = Annotated[Path, typer.Option(help="Where the recipe's folders are.")]
Data = Annotated[list[Path] | None, typer.Option(help="Folder of pictures; may be repeated.")]
Validation = Annotated[list[Path] | None, typer.Option(help="Folder of pictures to measure on.")]
Name = Annotated[str | None, typer.Option(help="Of the weights.")]
Init = Annotated[
    str | None,
    typer.Option(help="Weights to start from: a training's in the --run folder, a model, a file."),
]
Channels = Annotated[int | None, typer.Option(help="Width of the network.")]
Blocks = Annotated[int | None, typer.Option(help="Depth of the network.")]
Minutes = Annotated[float | None, typer.Option(help="The budget.")]
Steps = Annotated[int | None, typer.Option(help="Or the length in iterations.")]
Batch = Annotated[int | None, typer.Option(help="Crops a step.")]
LearningRate = Annotated[float | None, typer.Option(help="At its peak.")]
Seed = Annotated[int | None, typer.Option(help="Of all random draws.")]
License = Annotated[str | None, typer.Option("--license", help="Of the weights, for their card.")]
TrainingThreads = Annotated[int | None, typer.Option(help="Of the processor.")]
Runs = Annotated[Path, typer.Option("--run", help="Folder of all runs.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on after a kill.")]
Session = Annotated[
    float | None, typer.Option(help="Stop after so many minutes; call again to go on.")
]


@train_app.command("upscale")
def train_upscale(
    recipe: Recipe = None,
    root: Root = Path(),
    data: Data = None,
    validation: Validation = None,
    name: Name = None,
    stage: Annotated[str | None, typer.Option(help="fidelity or perceptual.")] = None,
    init: Init = None,
    network: Annotated[str | None, typer.Option(help="compact or srgan.")] = None,
    scale: Annotated[int | None, typer.Option(help="2, 3 or 4.")] = None,
    channels: Channels = None,
    blocks: Blocks = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="Bicubic low-res only, as in the benchmarks.")
    ] = False,
    minutes: Minutes = None,
    steps: Steps = None,
    batch: Batch = None,
    patch: Annotated[int | None, typer.Option(help="Side of a low-res crop in pixels.")] = None,
    learning_rate: LearningRate = None,
    seed: Seed = None,
    licensed: License = None,
    threads: TrainingThreads = None,
    run_dir: Runs = Path("runs"),
    resume: Resume = False,
    session: Session = None,
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
    with reporting(as_json):
        from vidsr.training.recipe import one_recipe, origin_of
        from vidsr.training.srgan import train

        _set_threads(threads)
        overrides = {word: value for word, value in given.items() if value is not None}
        wanted = one_recipe(recipe, root, overrides, run_dir=run_dir if resume else None)
        wanted = dataclasses.replace(wanted, init=origin_of(wanted.name, wanted.init, run_dir))
        folder = run_dir / wanted.name
        reports = train(wanted, folder, resume=resume, session_minutes=session)
        _draw_run(wanted.name, folder, reports, as_json)


@train_app.command("colorize")
def train_colorize(
    recipe: Recipe = None,
    root: Root = Path(),
    data: Data = None,
    validation: Validation = None,
    name: Name = None,
    stage: Annotated[str | None, typer.Option(help="pretrain or adversarial.")] = None,
    init: Init = None,
    channels: Channels = None,
    blocks: Blocks = None,
    minutes: Minutes = None,
    steps: Steps = None,
    batch: Batch = None,
    patch: Annotated[int | None, typer.Option(help="Side of a crop in pixels.")] = None,
    learning_rate: LearningRate = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many examinations without a better one.")
    ] = None,
    seed: Seed = None,
    licensed: License = None,
    threads: TrainingThreads = None,
    run_dir: Runs = Path("runs"),
    resume: Resume = False,
    session: Session = None,
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
    with reporting(as_json):
        from vidsr.training.color_recipe import one_recipe
        from vidsr.training.pix2pix import train
        from vidsr.training.recipe import origin_of

        _set_threads(threads)
        overrides = {word: value for word, value in given.items() if value is not None}
        wanted = one_recipe(recipe, root, overrides, run_dir=run_dir if resume else None)
        wanted = dataclasses.replace(wanted, init=origin_of(wanted.name, wanted.init, run_dir))
        folder = run_dir / wanted.name
        reports = train(wanted, folder, resume=resume, session_minutes=session)
        _draw_run(wanted.name, folder, reports, as_json)


@train_app.command("all")
def train_all(
    root: Annotated[Path, typer.Option(help="Where photo/train, anime/train, ... are.")],
    minutes: Annotated[float, typer.Option(help="The budget of the whole plan.")],
    session: Session = None,
    threads: TrainingThreads = None,
    run_dir: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Train everything that ships, in order of value; call again to go on."""
    with reporting(as_json):
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
    with reporting(as_json):
        from vidsr.training.prepare import PrepareOptions, prepare

        options = PrepareOptions(side, colorfulness, near, val, test)
        reports = prepare(folders, output, options, sources=sources)
        last = last_of(reports, "pictures", None)
        if as_json:
            print_json({"event": "prepared", "output": str(output), **dataclasses.asdict(last)})
            return
        dropped = ", ".join(f"{count} {reason}" for reason, count in last.dropped.items())
        console.print(f"{last.kept} pictures kept, {dropped or 'none'} dropped: {output}")


def _draw_run(name: str, folder: Path, reports: Iterator[TrainProgress], as_json: bool) -> None:
    _draw_training(((name, report) for report in reports), as_json)
    if not as_json:
        console.print(f"run: {folder}")


def _draw_training(reports: Iterator[tuple[str, Any]], as_json: bool) -> None:
    if as_json:
        for name, report in reports:
            print_json({"event": "training", "name": name, **dataclasses.asdict(report)})
        return
    last: dict[str, str] = {}
    with bar("training") as progress:
        tasks: dict[str, Any] = {}
        for name, report in reports:
            if name not in tasks:
                tasks[name] = progress.add_task("", total=None, rate="", by="")
            psnr = "" if report.psnr is None else f", validation {report.psnr:.2f} dB"
            rate = (
                f"{report.megapixels_per_second:.2f} MP/s, "
                f"{report.teraflops_per_second:.3f} TFLOP/s"
            )
            progress.update(
                tasks[name],
                completed=report.step,
                total=report.total_steps or None,
                rate=f"{name}: loss {report.loss:.4f}{psnr}",
                by=rate,
            )
            last[name] = f"{name}: step {report.step}, loss {report.loss:.4f}{psnr}, {rate}"
    for line in last.values():
        console.print(line, soft_wrap=True)
