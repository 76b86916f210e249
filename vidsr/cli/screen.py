"""Events -> a progress bar, tables, JSON lines or one sentence of error. Only this room prints."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from vidsr.errors import Interrupted, MediaError, VidsrError
from vidsr.files import appearing

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from vidsr.batch import BatchEvent, Outcome, Summary, Told
    from vidsr.draft import Plan
    from vidsr.events import Progress, Result
    from vidsr.media.probe import VideoInfo
    from vidsr.media.verify import Check
    from vidsr.networks import ColorPlan
    from vidsr.still import StillPlan

# A file may be named `my:smile:.mp4`, which `escape` would leave for an emoji.
console = Console(highlight=False, emoji=False)
errors = Console(stderr=True, highlight=False, emoji=False)


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


@contextlib.contextmanager
def keeping(planned: Plan | StillPlan) -> Iterator[None]:
    """Say, when a run ends before its end, what is kept, and how to go on where that can help."""
    try:
        yield
    except KeyboardInterrupt:
        kept = _kept(planned)
        words = f"{kept}{_GO_ON}" if kept else "nothing was written"
        raise Interrupted(f"interrupted; {words}") from None
    except VidsrError as exc:
        if kept := _kept(planned):
            exc.add_note(f"{kept}{_GO_ON}" if _may_pass(exc) else kept)
        raise


_GO_ON = ": run the same command to go on from there"


def _kept(planned: Plan | StillPlan) -> str:
    from vidsr.resume import frames_kept

    frames = frames_kept(planned.destination) if getattr(planned, "segment_frames", 0) else 0
    return f"{frames} frames are kept" if frames else ""


def _may_pass(error: VidsrError) -> bool:
    """Whether a disk, an encoder or a device failed; what we find in an input has no cause."""
    cause = error.__cause__
    return cause is not None and not isinstance(cause, ValueError)  # that is how data fails


def _fail(error: VidsrError, as_json: bool) -> NoReturn:
    print_error(error, as_json)
    raise typer.Exit(error.exit_code)


def print_error(error: VidsrError, as_json: bool) -> None:
    """One sentence on standard error, or one JSON object."""
    message = "; ".join([str(error), *getattr(error, "__notes__", [])])
    if as_json:
        facts = {"type": type(error).__name__, "exit_code": error.exit_code, "message": message}
        print_json({"event": "error", **facts})
    else:
        errors.print(f"[red]error:[/red] {escape(message)}", soft_wrap=True)


def draw(planned: Plan | StillPlan, events: Iterator[Progress | Result]) -> None:
    """A bar while the job runs, then what was written, by which model, and what was lost."""
    from vidsr.events import Progress

    engine = planned.engine
    title = f"{engine.card.name} by {engine.kind} on {engine.device} ({engine.precision})"
    with bar(title) as progress:
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
    return bars(title.replace("{", "{{").replace("}", "}}"))


def bars(name: str) -> Bar:
    """As `bar`, for several: `name` is a template of what stands before each."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    return Progress(
        TextColumn(name, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        Remaining(),
        TextColumn("{task.fields[by]}", markup=False),
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
    _print_ledger(_notes(result))


def _notes(result: Result) -> list[str]:
    """The ledger: all that is not as it was, and why."""
    notes = list(result.notes)
    if result.retiled:
        notes.append(f"{result.retiled} pictures were computed again in smaller tiles")
    if result.recomputed:
        notes.append(f"{result.recomputed} tiles were computed again in fp32")
    return notes


def draw_json(planned: Plan | StillPlan, events: Iterator[Progress | Result]) -> None:
    """One JSON object an event."""
    for event in events:
        print_json({"event": type(event).__name__.lower(), **dataclasses.asdict(event)})


def draw_nothing(planned: Plan | StillPlan, events: Iterator[Progress | Result]) -> None:
    """Run the job and say nothing but errors."""
    for _ in events:
        pass


def draw_batch(events: Iterator[BatchEvent]) -> Summary:
    """A bar for all files and one for each that runs; returns the last event.

    Raises:
        Interrupted: saying how much is done.
    """
    from vidsr.batch import Listed, Outcome, Summary

    with _interruptible(events) as counted, bars("{task.description}") as progress:
        total = progress.add_task("files", total=None, rate="", by="")
        running = _Running(progress)
        for event in counted:
            if isinstance(event, Listed):
                progress.update(total, total=event.waiting)
            elif isinstance(event, Outcome):
                progress.advance(total, advance=running.end(event.source))
            elif isinstance(event, Summary):
                return event
            else:
                running.show(event)
    raise VidsrError("the batch ended without a summary")


class _Running:
    """The bars of the files that are being done."""

    def __init__(self, progress: Bar) -> None:
        self.progress = progress
        self.tasks: dict[Path, TaskID] = {}

    def show(self, told: Told) -> None:
        from vidsr.events import Progress

        event = told.event
        if not isinstance(event, Progress):
            name = printable(told.source.name)
            expected = event.frames_expected or None
            self.tasks[told.source] = self.progress.add_task(name, total=expected, rate="", by="")
            return
        rate, by = f"{event.frames_per_second:.2f} fps", f"{event.bottleneck} busiest"
        self.progress.update(self.tasks[told.source], completed=event.frames, rate=rate, by=by)

    def end(self, source: Path) -> int:
        """How many of the files that were to do have ended with this one."""
        task = self.tasks.pop(source, None)
        if task is not None:
            self.progress.remove_task(task)
        return int(task is not None)


def draw_batch_json(events: Iterator[BatchEvent]) -> Summary:
    """One JSON object an event but for the last, which is returned.

    Raises:
        Interrupted: as `draw_batch`.
    """
    from vidsr.batch import Summary, Told

    with _interruptible(events) as counted:
        for event in counted:
            if isinstance(event, Summary):
                return event
            source = {"source": event.source} if isinstance(event, Told) else {}
            told = event.event if isinstance(event, Told) else event
            print_json({"event": type(told).__name__.lower(), **source, **dataclasses.asdict(told)})
    raise VidsrError("the batch ended without a summary")


@contextlib.contextmanager
def _interruptible(events: Iterator[BatchEvent]) -> Iterator[Iterator[BatchEvent]]:
    """Count what is done, so that Ctrl-C can say it."""
    tally = Counter[str]()
    try:
        yield _counted(events, tally)
    except KeyboardInterrupt as exc:
        raise Interrupted(
            f"interrupted; {tally['done']} of {tally['waiting']} files are done, the same command "
            "goes on from here"
        ) from exc


def _counted(events: Iterator[BatchEvent], tally: Counter[str]) -> Iterator[BatchEvent]:
    from vidsr.batch import Listed, Outcome

    for event in events:
        if isinstance(event, Listed):
            tally["waiting"] = event.waiting
        elif isinstance(event, Outcome):
            tally[event.status] += 1
        yield event


# What is worth a line each at the end of a batch; a report has everything.
_SHOWN = {"failed": 1_000_000, "done": 40, "waiting": 40, "ignored": 10, "skipped": 5}


def print_summary(summary: Summary, *, as_json: bool, quiet: bool) -> None:
    """What became of a batch: a line a file as far as that can be read, then how many of each."""
    if as_json:
        print_json({"event": "summary", **_summary_facts(summary)})
        return
    width = max((len(printable(outcome.source)) for outcome in summary.outcomes), default=0)
    for status, limit in _SHOWN.items():
        outcomes = [outcome for outcome in summary.outcomes if outcome.status == status]
        for outcome in outcomes[: 0 if quiet else limit]:
            name = f"{printable(outcome.source):{min(width, 50)}}"
            line = f"{status:8} {name}  {_outcome_words(outcome)}".rstrip()
            console.print(escape(line), soft_wrap=True)
        if quiet and status == "failed":
            for outcome in outcomes:
                errors.print(
                    f"[red]error:[/red] {escape(printable(outcome.reason))}", soft_wrap=True
                )
        elif len(outcomes) > limit and not quiet:
            console.print(f"{status:8} and {len(outcomes) - limit} more", soft_wrap=True)
    if not quiet:
        counts = ", ".join(f"{count} {status}" for status, count in summary.counts.items())
        console.print(f"{counts or 'no video or picture found'}; {summary.seconds:.1f} s")


def _outcome_words(outcome: Outcome) -> str:
    result = outcome.result
    if result is None:
        return printable(outcome.reason.removeprefix(f"{outcome.source}: "))
    words = [f"{printable(result.destination)}: {result.width}x{result.height}"]
    words += [f"{result.frames_out} frames"] if result.frames_out > 1 else []
    words += [f"{result.bytes / 1e6:.1f} MB", f"{result.seconds:.1f} s"]
    again = f" (again: {outcome.again})" if outcome.again else ""
    notes = f"; dropped or changed: {'; '.join(_notes(result))}" if _notes(result) else ""
    return f"{', '.join(words)}{again}{notes}"


def write_report(summary: Summary, path: Path) -> None:
    """What became of each file, as JSON; it appears whole or not at all.

    Raises:
        MediaError: it cannot be written.
    """
    files = [dataclasses.asdict(outcome) for outcome in summary.outcomes]
    text = json.dumps({**_summary_facts(summary), "files": files}, default=str, indent=2)
    try:
        with appearing(path) as part:
            part.write_text(text + "\n", encoding="utf-8")
    except OSError as exc:
        raise MediaError(f"{path}: the report cannot be written ({exc.strerror})") from exc


def _summary_facts(summary: Summary) -> dict[str, Any]:
    return {
        "counts": summary.counts,
        "exit_code": summary.exit_code,
        "seconds": summary.seconds,
    }


def printable(words: object) -> str:
    """Words with file names in them; what is no text of a name's bytes becomes a sign for that."""
    return str(words).encode(errors="surrogateescape").decode(errors="replace")


def print_plan(planned: Plan | StillPlan, as_json: bool) -> None:
    """What would happen: a fact a line, or one JSON object."""
    from vidsr.cli.plan_numbers import still_numbers, video_numbers
    from vidsr.job import estimate_seconds
    from vidsr.still import StillPlan

    if isinstance(planned, StillPlan):
        facts, numbers = _still_facts(planned), still_numbers(planned)
    else:
        seconds = estimate_seconds(planned)
        facts, numbers = _video_facts(planned, seconds), video_numbers(planned, seconds)
    if as_json:
        print_json({"event": "plan", **facts, **numbers})
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


def _video_facts(planned: Plan, seconds: float) -> dict[str, Any]:
    info, video = planned.info, planned.video
    streams = [
        f"{track.stream}: {track.action}{f', {track.reason}' if track.reason else ''}"
        for track in planned.tracks
    ]
    return {
        "input": f"{info.path}: {info.container}, {info.seconds_from_header:.2f} s",
        "picture": _picture_words(info),
        "streams": streams,
        "output": f"{planned.destination}: {video.width}x{video.height}, {video.encoder} "
        f"{f'by {video.ffmpeg} ' if video.ffmpeg else ''}"
        + " ".join(f"{key}={value}" for key, value in video.options.items()),
        **_engine_facts(planned),
        "estimates": f"memory {planned.memory_bytes / 1e6:.0f} MB, of which the network "
        f"{planned.engine.memory_bytes / 1e6:.0f} MB, disk "
        f"{planned.disk_bytes / 1e6:.0f} MB, time {seconds:.0f} s for about "
        f"{planned.frames_expected} frames",
        "notes": list(planned.notes) or ["none"],
    }


def _picture_words(info: VideoInfo) -> str:
    shown = info.displayed_size
    stored = (info.width, info.height)
    color = info.color
    woven = info.interlaced or info.deinterlace is not None
    guessed = f" (guessed: {', '.join(sorted(color.guessed))})" if color.guessed else ""
    return (
        f"{info.width}x{info.height} {info.pix_fmt}, {float(info.frame_rate):.3f} fps, "
        f"{color.matrix.name} {color.range.name.lower()} range, chroma {color.siting.name.lower()}"
        f"{guessed}{f', shown as {shown[0]}x{shown[1]}' if shown != stored else ''}"
        f"{', interlaced' if woven else ''}{', HDR' if color.is_hdr else ''}"
    )


def _engine_facts(planned: Plan | StillPlan) -> dict[str, Any]:
    facts, engine, color = {}, planned.engine, planned.color
    if color is not None:
        facts["color"] = _color_words(color)
    if planned.job.size is None:
        facts["engine"] = f"{engine.device}, {engine.precision}, {engine.threads} threads"
        return facts
    layout = ", planar" if engine.layout == "planar" else ""
    return {
        "model": _model_words(planned),
        **facts,
        "engine": f"{engine.kind} on {engine.device}, {engine.precision}{layout}, tiles of "
        f"{engine.tile} px, {engine.batch} a batch, {engine.workers} workers of {engine.threads} "
        f"threads, reuse {engine.reuse}",
        **({"measured": f"{engine.measured} a tile of a core"} if engine.measured else {}),
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


def print_checks(checks: list[Check], as_json: bool) -> None:
    """A table of what was compared, and then the ledger."""
    from rich.table import Table

    from vidsr.media.verify import ledger

    notes = ledger(checks)
    if as_json:
        facts = [dataclasses.asdict(check) for check in checks]
        equal = not any(check.failed for check in checks)
        print_json({"event": "verify", "equal": equal, "checks": facts, "notes": notes})
        return
    table = Table("", "check", "source", "output", box=None)
    for check in checks:
        verdict = "same" if check.equal else "known" if check.reason else "DIFFERS"
        cells = (verdict, check.what, check.source, check.written)
        table.add_row(*(escape(printable(cell)) for cell in cells))
    console.print(table)
    _print_ledger(notes)


def _print_ledger(notes: list[str]) -> None:
    console.print(f"dropped or changed:{'' if notes else ' nothing'}")
    for note in notes:
        console.print(f"  {escape(printable(note))}", soft_wrap=True)


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on one line of standard output."""
    sys.stdout.write(printable(json.dumps(content, default=str, ensure_ascii=False)) + "\n")
    sys.stdout.flush()


def last_of(items: Iterator[Any], title: str, total: int | None) -> Any:
    """The last item, which is the report; the others move a bar."""
    with bar(title) as progress:
        task = progress.add_task("", total=total, rate="", by="")
        for item in items:
            last = item
            progress.advance(task)
    return last
