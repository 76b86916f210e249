"""Events -> a progress bar, tables, JSON lines or one sentence of error. Only this room prints."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from vidsr.errors import Interrupted, VidsrError

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from vidsr.events import Progress, Result
    from vidsr.job import Plan
    from vidsr.media.probe import VideoInfo
    from vidsr.networks import ColorPlan
    from vidsr.still import StillPlan

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


@contextlib.contextmanager
def reporting(as_json: bool) -> Iterator[None]:
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
        print_json({"event": "error", **facts})
    else:
        errors.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
    raise typer.Exit(error.exit_code)


def draw(planned: Plan | StillPlan, events: Iterator[Progress | Result]) -> None:
    """A bar while the job runs, then what was written, by which model, and what was lost."""
    from vidsr.events import Progress

    engine = planned.engine
    with bar(f"{engine.card.name} on {engine.device} ({engine.precision})") as progress:
        expected = getattr(planned, "frames_expected", 1) or None
        task = progress.add_task("", total=expected, rate="", by="")
        for event in events:
            if isinstance(event, Progress):
                rate, by = f"{event.frames_per_second:.2f} fps", f"{event.bottleneck} busiest"
                progress.update(task, completed=event.frames, rate=rate, by=by)
            else:
                result = event
                progress.update(task, completed=event.frames_out, total=event.frames_out)
    _print_result(result, _model_words(planned))


def bar(title: str) -> Bar:
    """A progress bar on standard error; none where that is no terminal."""
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
    if result.reused:
        console.print(f"reused: {result.reused:.0%} of the pictures' area")
    notes = list(result.notes)
    if result.retiled:
        notes.append(f"{result.retiled} pictures were computed again in smaller tiles")
    if result.recomputed:
        notes.append(f"{result.recomputed} tiles were computed again in fp32")
    changed = "; ".join(notes) or "nothing"
    console.print(f"dropped or changed: {escape(changed)}", soft_wrap=True)


def draw_json(planned: Plan | StillPlan, events: Iterator[Progress | Result]) -> None:
    """One JSON object an event."""
    for event in events:
        print_json({"event": type(event).__name__.lower(), **dataclasses.asdict(event)})


def draw_nothing(planned: Plan | StillPlan, events: Iterator[Progress | Result]) -> None:
    """Run the job and say nothing but errors."""
    for _ in events:
        pass


def print_plan(planned: Plan | StillPlan, as_json: bool) -> None:
    """What would happen: a fact a line, or one JSON object."""
    from vidsr.still import StillPlan

    facts = _still_facts(planned) if isinstance(planned, StillPlan) else _video_facts(planned)
    if as_json:
        print_json({"event": "plan", **facts})
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
        f"{engine.batch} a batch, {engine.workers} workers of {engine.threads} threads, "
        f"reuse {engine.reuse}",
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


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on one line of standard output."""
    sys.stdout.write(json.dumps(content, default=str, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def last_of(items: Iterator[Any], title: str, total: int | None) -> Any:
    """The last item, which is the report; the others move a bar."""
    with bar(title) as progress:
        task = progress.add_task("", total=total, rate="", by="")
        for item in items:
            last = item
            progress.advance(task)
    return last
