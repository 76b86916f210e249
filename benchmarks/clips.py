"""Every clip of a folder, whole, through the real command, then held against its source.

    python benchmarks/clips.py CLIPS [--model fast] [--scale 2] [--only NAME] [--identity]

CLIPS has folders of clips. Prints one line a clip: frames, time, what differs (nothing should), and
what was dropped; a file that vidsr refuses is named with its sentence. Exits 1 if any differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from vidsr.draft import Plan
from vidsr.engines.memory import keep_freed_memory
from vidsr.errors import VidsrError
from vidsr.events import Result
from vidsr.frame import Frame
from vidsr.job import plan, run
from vidsr.media.color import ColorConverter
from vidsr.media.encoders import EncoderRequest
from vidsr.media.probe import probe
from vidsr.media.reader import VideoReader
from vidsr.media.verify import compare
from vidsr.request import EngineRequest, Job, SizeRequest


def main() -> None:
    """Run all and exit with whether all were equal."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--preset", default="ultrafast")
    parser.add_argument("--only", default="", help="part of a path")
    parser.add_argument("--identity", action="store_true", help="measure the colour path alone")
    parser.add_argument("--json", type=Path, default=Path("clips.json"))
    options = parser.parse_args()
    keep_freed_memory()  # as the command does
    paths = [p for p in options.clips.rglob("*.*") if p.suffix != ".md" and options.only in str(p)]
    if options.identity:
        raise SystemExit(identity(sorted(paths)))
    rows = [measure(path, options) for path in sorted(paths, key=work)]
    options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    wrong = [row["clip"] for row in rows if row.get("different")]
    print(f"{len(rows)} clips, {len(wrong)} with differences: {', '.join(wrong) or 'none'}")
    raise SystemExit(bool(wrong))


def identity(paths: list[Path]) -> bool:
    """Planes -> RGB -> planes with nothing in between: the largest error of each clip, in codes."""
    worst = 0
    for path in paths:
        try:
            info = probe(path)
            converter = ColorConverter(replace(info.layout, alpha=False), info.color)
            frames = (item for item in VideoReader(info, copied=()) if isinstance(item, Frame))
            error = max(_error(frame, converter) for frame in islice(frames, 24))
        except VidsrError:
            continue
        worst = max(worst, error)
        print(f"{path.parent.name}/{path.name:56} {error}", flush=True)
    print(f"the largest error is {worst} code values")
    return worst > 1


def _error(frame: Frame, converter: ColorConverter) -> int:
    planes = [torch.from_numpy(plane.copy()) for plane in frame.planes]
    back = converter.from_rgb(converter.to_rgb(planes))
    pairs = zip(planes, back, strict=False)
    return max(int((old.int() - new.int()).abs().max()) for old, new in pairs)


def work(path: Path) -> float:
    """Pixels to enlarge, as far as the header tells: the short clips come first."""
    try:
        info = probe(path)
    except VidsrError:
        return 0
    return info.width * info.height * info.seconds_from_header * float(info.frame_rate)


def measure(path: Path, options: argparse.Namespace) -> dict[str, object]:
    """One clip: enlarge, compare, report."""
    name = f"{path.parent.name}/{path.name}"
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            planned, result = enlarge(path, Path(folder), options)
        except VidsrError as exc:
            sentence = str(exc).replace(str(path), path.name)
            print(f"{name:60} refused, code {exc.exit_code}: {sentence}", flush=True)
            return {"clip": name, "refused": sentence, "code": exc.exit_code}
        seconds = time.perf_counter() - began
        dropped = frozenset(t.stream.index for t in planned.tracks if t.action == "drop")
        woven = planned.info.deinterlace
        checks = compare(path, result.destination, dropped=dropped, deinterlace=woven)
    different = [
        f"{check.what}: {check.source} -> {check.written}" for check in checks if not check.equal
    ]
    notes = list(result.notes)
    print(
        f"{name:60} {result.frames_in:5} -> {result.frames_out:5} frames {seconds:7.1f} s  "
        f"{len(checks)} checks, {'; '.join(different) or 'equal'}"
        f"{'  [' + '; '.join(notes) + ']' if notes else ''}",
        flush=True,
    )
    return {
        "clip": name,
        "frames_in": result.frames_in,
        "frames_out": result.frames_out,
        "seconds": seconds,
        "checks": len(checks),
        "different": different,
        "notes": notes,
    }


def enlarge(path: Path, folder: Path, options: argparse.Namespace) -> tuple[Plan, Result]:
    """What the command does, into a folder."""
    job = Job(
        source=path,
        destination=folder,
        size=SizeRequest(scale=options.scale),
        engine=EngineRequest(model=options.model),
        encoder=EncoderRequest(preset=options.preset),
    )
    planned = plan(job)
    assert isinstance(planned, Plan)
    with contextlib.closing(run(planned)) as events:
        for event in events:
            if isinstance(event, Result):
                return planned, event
    raise AssertionError("a run ended without a result")


if __name__ == "__main__":
    main()
