"""The command's own path on real clips: an identity stage on all, the shipped network on six."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from vidsr.draft import Plan
from vidsr.events import Result
from vidsr.job import plan, run
from vidsr.media.encoders import EncoderRequest
from vidsr.media.reader import Trim
from vidsr.media.verify import compare
from vidsr.request import EngineRequest, Job, SizeRequest
from vidsr.stages import Repeat, Stage

REAL_NETWORK = (
    "real/bbb_176x144_192kbps_15fps_mpeg4.mp4",
    "awkward/edit_list_start.mp4",
    "awkward/gray8_ffv1.mkv",
    "awkward/prores_422_10_321x181.mov",
    "awkward/two_audio_two_subs_attachment.mkv",
    "awkward/vfr_30_then_10.mp4",
)
FAST = EncoderRequest(preset="ultrafast")
SHORT_SECONDS = 6  # longer clips, and the largest one, are cut to half a second


def enlarge(
    clip: Path, folder: Path, *, stages: list[Stage] | None = None, trim: Trim | None = None
) -> tuple[Plan, Result]:
    job = Job(
        source=clip,
        destination=folder,
        size=SizeRequest(scale=2),
        engine=EngineRequest(model="fast"),
        encoder=FAST,
        trim=trim or Trim(),
    )
    planned = plan(job)
    assert isinstance(planned, Plan)
    *_, result = run(planned, stages=stages)
    assert isinstance(result, Result)
    return planned, result


def differences(planned: Plan, result: Result) -> list[str]:
    dropped = frozenset(t.stream.index for t in planned.tracks if t.action == "drop")
    woven = planned.info.deinterlace
    checks = compare(planned.job.source, result.destination, dropped=dropped, deinterlace=woven)
    return [
        f"{check.what}: {check.source} -> {check.written}" for check in checks if not check.equal
    ]


@pytest.mark.parametrize("name", REAL_NETWORK)
def test_the_shipped_network_loses_nothing(clips: Path, tmp_path: Path, name: str) -> None:
    planned, result = enlarge(clips / name, tmp_path)
    assert planned.engine.card.name == "fast-x2"
    assert (result.width, result.height) == (planned.info.width * 2, planned.info.height * 2)
    assert differences(planned, result) == []


def test_an_identity_stage_loses_nothing_of_any_clip(clips: Path, tmp_path: Path) -> None:
    sources = sorted(p for kind in ("real", "awkward") for p in (clips / kind).iterdir())
    sources = [path for path in sources if path.name != "audio_only.m4a"]
    wrong = {path.name: found for path in sources if (found := identity(path, tmp_path))}
    assert wrong == {}
    assert len(sources) == 38


def identity(clip: Path, folder: Path) -> list[str]:
    """What differs after a doubling by nearest neighbour; the frame count alone for long clips."""
    whole = plan(Job(source=clip, destination=folder))
    assert isinstance(whole, Plan)
    if whole.info.seconds_from_header < SHORT_SECONDS:
        return differences(*enlarge(clip, folder, stages=[Repeat(2)]))
    trim = Trim(Fraction(2), Fraction(5, 2))
    _, result = enlarge(clip, folder, stages=[Repeat(2)], trim=trim)
    lost = result.frames_in != result.frames_out or not result.frames_out
    return [f"{result.frames_in} -> {result.frames_out}"] if lost else []
