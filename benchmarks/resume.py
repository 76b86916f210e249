"""Every clip of a folder, whole and cut off and gone on with: are the two outputs the same?

    python benchmarks/resume.py CLIPS [--only NAME] [--frames 12] [--seconds 3] [--json FILE]

CLIPS has folders of clips. Each is doubled by repeating its samples, in segments of `--frames`
frames: once whole, once by processes that are killed with SIGKILL in the midst of their first
segment, of one in the middle and of the last, and then gone on with. Compared are the decoded
pictures, their pts, and the packets of all other streams; and the whole run with its source. Prints
one line a clip; longer clips are cut to `--seconds`. Exits 1 if any differs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from vidsr.draft import Plan
from vidsr.errors import VidsrError
from vidsr.events import Progress, Result
from vidsr.job import plan, run
from vidsr.media.encoders import EncoderRequest
from vidsr.media.reader import Trim
from vidsr.media.verify import compare
from vidsr.request import EngineRequest, Job, SizeRequest
from vidsr.resume import frames_kept
from vidsr.stages import Repeat

# Children of a process that has imported everything and never had a thread.
PROCESSES = multiprocessing.get_context("forkserver")
LARGEST = 1 << 19  # pixels of the source; larger ones are cut to a few segments
FAST = EncoderRequest(preset="superfast", threads=1)  # reorders frames


class Deadly(Repeat):
    """Ends its process at a picture."""

    def __init__(self, left: int) -> None:
        super().__init__(2)
        self.left = left

    def __call__(self, rgb: Any) -> Any:
        """See `Stage`."""
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return super().__call__(rgb)


@dataclass(frozen=True)
class Contents:
    """What a file holds."""

    pictures: str  # sha256 of all planes
    moments: list[Fraction]
    packets: dict[int, str]  # sha256 of each other stream's packets and times


def main() -> None:
    """Run all and exit with whether all were the same."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--only", default="", help="part of a path")
    parser.add_argument("--frames", type=int, default=12, help="of a segment")
    parser.add_argument(
        "--seconds", type=Fraction, default=Fraction(3), help="of each clip at most"
    )
    parser.add_argument("--json", type=Path, default=Path("resume.json"))
    options = parser.parse_args()
    PROCESSES.set_forkserver_preload(["vidsr.job"])
    paths = [p for p in options.clips.rglob("*.*") if p.suffix != ".md" and options.only in str(p)]
    print(f"{'clip':52} {'frames':>6}  {'cut after, kept':28} outcome")
    rows = [measure(path, options) for path in sorted(paths)]
    options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    wrong = [row["clip"] for row in rows if row["different"]]
    print(f"{len(rows)} clips, {len(wrong)} with differences: {', '.join(wrong) or 'none'}")
    raise SystemExit(bool(wrong))


def measure(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One line of the table."""
    name = f"{path.parent.name}/{path.name}"
    row: dict[str, Any] = {"clip": name, "frames": 0, "cuts": [], "different": []}
    with tempfile.TemporaryDirectory() as folder:
        try:
            planned = planned_for(path, Path(folder), options)
            _, whole = last_of(planned)
        except VidsrError as exc:
            row["refused"] = str(exc)
            print(f"{name:52} {'':6}  {'':28} refused: {exc}", flush=True)
            return row
        row["frames"] = whole.frames_out
        first = contents(whole.destination)
        row["different"] += against_source(planned, whole)
        moved = whole.destination.rename(Path(folder) / f"whole{whole.destination.suffix}")
        for frame in cuts(whole.frames_out, options.frames):
            died = killed_at(planned, frame)
            row["cuts"].append([frame, frames_kept(planned.destination)])
            row["different"] += [] if died else [f"it was not killed at {frame}"]
        kept = frames_kept(planned.destination)
        resumed, again = last_of(planned)
        row["different"] += differences(first, contents(again.destination))
        row["different"] += [] if resumed == kept else [f"{resumed} of {kept} were used"]
        row["different"] += [] if again.notes == whole.notes else ["notes"]
        row["same_bytes"] = moved.read_bytes() == again.destination.read_bytes()
    words = ", ".join(f"{frame}: {kept}" for frame, kept in row["cuts"]) or "too short to cut"
    outcome = "; ".join(row["different"]) or f"equal{', to the byte' * row['same_bytes']}"
    print(f"{name:52} {whole.frames_out:6}  {words:28} {outcome}", flush=True)
    return row


def planned_for(path: Path, folder: Path, options: argparse.Namespace) -> Plan:
    """The clip doubled in short segments."""
    job = Job(path, folder, SizeRequest(scale=2), EngineRequest(model="fast"), FAST)
    planned = plan(job)
    if not isinstance(planned, Plan):
        raise VidsrError("a still picture, which is not worked on in segments")
    info, seconds = planned.info, options.seconds
    if info.width * info.height > LARGEST:
        seconds = min(seconds, 3 * options.frames / info.frame_rate)
    if info.seconds_from_header > seconds:
        planned = plan(replace(job, trim=Trim(end=seconds)))
        assert isinstance(planned, Plan)
    return replace(planned, segment_frames=options.frames)


def cuts(frames: int, segment: int) -> Iterator[int]:
    """Where processes die: in the first segment, in one in the middle, in the last."""
    places = (frames // 10, frames // 2, frames * 99 // 100)
    yield from sorted({place for place in places if 0 < place < frames and frames > segment})


def killed_at(planned: Plan, frame: int) -> bool:
    """Whether a process that works on the plan was killed when it met that frame."""
    left = frame - frames_kept(planned.destination)
    child = PROCESSES.Process(target=run_until, args=(planned, left))
    child.start()
    child.join()
    return child.exitcode == -signal.SIGKILL


def run_until(planned: Plan, left: int) -> None:
    """Work on a plan and be killed at the picture after so many."""
    for _ in run(planned, stages=[Deadly(left)]):
        pass


def last_of(planned: Plan) -> tuple[int, Result]:
    """How many frames of earlier runs were used, and the result."""
    used = 0
    with contextlib.closing(run(planned, stages=[Repeat(2)])) as events:
        for event in events:
            if isinstance(event, Progress):
                used = event.resumed
            else:
                return used, event
    raise AssertionError("a run ended without a result")


def against_source(planned: Plan, result: Result) -> list[str]:
    """What the whole run lost; nothing is asked of one that was trimmed."""
    if planned.job.trim != Trim():
        return []
    dropped = frozenset(t.stream.index for t in planned.tracks if t.action == "drop")
    checks = compare(
        planned.job.source,
        result.destination,
        dropped=dropped,
        deinterlace=planned.info.deinterlace,
    )
    return [f"{one.what}: {one.source} -> {one.written}" for one in checks if not one.equal]


def contents(path: Path) -> Contents:
    """Decode and hash a file."""
    pictures, moments = hashlib.sha256(), []
    with av.open(str(path)) as file:
        video = file.streams.best("video")
        assert video is not None
        packets = {stream.index: hashlib.sha256() for stream in file.streams if stream != video}
        for packet in file.demux():
            hashed = packets.get(packet.stream.index)
            if hashed is not None:
                hashed.update(repr((packet.pts, packet.dts, packet.duration)).encode())
                hashed.update(bytes(packet))
                continue
            for picture in packet.decode():
                assert isinstance(picture, av.VideoFrame)
                moments.append((picture.pts or 0) * (picture.time_base or Fraction(0)))
                for plane in picture.planes:
                    pictures.update(memoryview(plane))
    found = {index: hashed.hexdigest() for index, hashed in packets.items()}
    return Contents(pictures.hexdigest(), moments, found)


def differences(whole: Contents, resumed: Contents) -> list[str]:
    """What is not the same in two outputs."""
    return [
        f"{name} differ"
        for name in ("pictures", "moments", "packets")
        if getattr(whole, name) != getattr(resumed, name)
    ]


if __name__ == "__main__":
    main()
