"""`vidsr bench` and `vidsr doctor`: what this machine can do, drawn or as JSON."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from vidsr import __version__
from vidsr.cli import words
from vidsr.cli.screen import bar, console, print_json, reporting

if TYPE_CHECKING:
    from vidsr.bench import Timing
    from vidsr.doctor import Checkup


def bench(
    model: Annotated[
        str | None, typer.Option(help="A family, a member or a checkpoint; default: all.")
    ] = None,
    device: words.Device = "auto",
    seconds: Annotated[float, typer.Option(help="That one figure may take.", min=0.0)] = 2.0,
    as_json: words.Json = False,
) -> None:
    """Measure models and engines on this machine, and say what to choose and how long it takes.

    It is the network's time alone, at 480p, 720p and 1080p input.
    """
    with reporting(as_json):
        from vidsr.bench import SIZES, BenchRequest, advice, benched, run_bench

        request = BenchRequest(model, device, seconds, cache_dir())
        timings = []
        with bar("measuring") as progress:
            total = len(benched(request)) * len(SIZES)
            task = progress.add_task("", total=total, rate="", by="")
            for timing in run_bench(request):
                timings.append(timing)
                progress.update(
                    task,
                    completed=len(timings),
                    rate=f"{timing.frames_per_second:.2f} fps",
                    by=f"{timing.model} by {timing.engine} at {timing.size}",
                )
                if as_json:
                    print_json({"event": "timing", **_facts(timing)})
        if as_json:
            print_json({"event": "advice", "sentences": advice(timings)})
        else:
            _draw_timings(timings, advice(timings))


def _facts(timing: Timing) -> dict[str, object]:
    return {
        **dataclasses.asdict(timing),
        "frames_per_second": timing.frames_per_second,
        "hour_seconds": timing.hour_seconds,
    }


def _draw_timings(timings: list[Timing], sentences: list[str]) -> None:
    from rich.table import Table

    from vidsr.bench import VIDEO_RATE, hours

    hour = f"an hour of video ({VIDEO_RATE} fps)"
    table = Table("model", "scale", "engine", "input", "frames/s", hour, box=None)
    for timing in timings:
        mark = "~" if timing.scaled else ""
        table.add_row(
            timing.model,
            f"x{timing.scale}",
            f"{timing.engine} {timing.precision} on {timing.device}",
            timing.size,
            f"{mark}{timing.frames_per_second:.3g}",
            f"{mark}{hours(timing)}",
        )
    console.print(table)
    if any(timing.scaled for timing in timings):
        console.print("~ measured on a smaller piece and scaled by the pixels that are computed")
    for sentence in sentences:
        console.print(escape(sentence), soft_wrap=True)


def doctor(as_json: words.Json = False) -> None:
    """Show versions, devices and encoders, and what is missing with the command that adds it."""
    with reporting(as_json):
        from vidsr.doctor import check_up

        checkup = check_up(Path.cwd(), cache_dir())
        versions = {"vidsr": __version__, **checkup.versions}
        if as_json:
            facts = {**dataclasses.asdict(checkup), "versions": versions}
            print_json({"event": "doctor", **facts})
        else:
            _draw_checkup(checkup, versions)


def _draw_checkup(checkup: Checkup, versions: dict[str, str]) -> None:
    works = [name for name, opens in checkup.encoders.items() if opens]
    fails = [name for name, opens in checkup.encoders.items() if not opens]
    facts = {
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "processor": f"{checkup.processor}, {checkup.cores} cores",
        "devices": ", ".join(checkup.devices),
        **{f"{name} computes in": text for name, text in checkup.precisions.items()},
        "encoders": ", ".join(works) + (f"; not here: {', '.join(fails)}" if fails else ""),
        "models": ", ".join(checkup.models) or "none",
        "free": f"{checkup.free_disk_bytes / 1e9:.0f} GB of disk here, "
        f"{checkup.free_memory_bytes / 1e9:.1f} GB of memory",
        "cache": str(checkup.cache_folder),
    }
    lacking = [f"{one.what} ({one.why}): {one.way_out}" for one in checkup.missing]
    width = max(map(len, facts))
    for name, text in facts.items():
        console.print(f"[bold]{name:{width}}[/bold]  {escape(text)}", soft_wrap=True)
    for number, text in enumerate(lacking or ["nothing"]):
        label = "missing" if number == 0 else ""
        console.print(f"[bold]{label:{width}}[/bold]  {escape(text)}", soft_wrap=True)


def cache_dir() -> Path:
    """The user's folder for what can be made again."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vidsr"
