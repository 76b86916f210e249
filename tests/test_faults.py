"""What breaks in the middle of a run, and what becomes of it: a table of faults and outcomes."""

from __future__ import annotations

import errno
import io
import itertools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import pytest
import torch
from conftest import ClipMaker
from fake_ffmpeg import fake_ffmpeg
from family import ship_family
from identity import frames_of
from torch import Tensor

from vidsr.engines import choice
from vidsr.engines.torch_engine import TorchEngine
from vidsr.errors import (
    DeviceError,
    MediaError,
    ModelError,
    OutOfMemory,
    VerificationError,
    VidsrError,
)
from vidsr.events import Result
from vidsr.job import plan, run
from vidsr.media.encoders import EncoderRequest
from vidsr.media.writer import VideoWriter
from vidsr.request import EngineRequest, Job, SizeRequest

FRAMES = 12
Break = Callable[[pytest.MonkeyPatch, Path], Any]


@pytest.fixture(autouse=True)
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ship_family(monkeypatch, tmp_path / "weights", 2)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with an older output that is to be replaced."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a.mkv").write_bytes(b"the older one")
    return folder


# ------------------------------------------------------------------ faults


def engine(misbehaves: Callable[[int, Tensor, Tensor], Tensor]) -> Break:
    """An engine whose output is what `misbehaves` makes of (call number, tiles, output)."""

    def install(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
        calls = itertools.count()

        class Misbehaving(TorchEngine):
            def __call__(self, tiles: Tensor) -> Tensor:
                number = next(calls)
                return misbehaves(number, tiles, super().__call__(tiles))

            def in_fp32(self) -> TorchEngine:
                return self

        monkeypatch.setattr(choice, "TorchEngine", Misbehaving)

    return install


def out_of_memory_at_first(number: int, _: Tensor, output: Tensor) -> Tensor:
    if number == 0:
        raise OutOfMemory("fake: no memory for the first tile")
    return output


def out_of_memory_always(_: int, tiles: Tensor, output: Tensor) -> Tensor:
    raise OutOfMemory("fake: no memory at all")


def allocation_fails_midway(number: int, _: Tensor, output: Tensor) -> Tensor:
    if number == 5:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
    return output


def not_a_number_once(number: int, _: Tensor, output: Tensor) -> Tensor:
    return output.fill_(torch.nan) if number == 5 else output


def not_a_number_always(_: int, tiles: Tensor, output: Tensor) -> Tensor:
    return output.fill_(torch.nan)


def the_device_is_lost(number: int, _: Tensor, output: Tensor) -> Tensor:
    if number == 5:
        raise DeviceError("fake: the device fell off the bus")
    return output


def reading_fails_after(share: float) -> Break:
    """An input whose disk gives EIO from a certain place on."""

    def install(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
        class Failing(io.FileIO):
            def read(self, size: int = -1) -> bytes:
                good = int(share * os.fstat(self.fileno()).st_size) - self.tell()
                if good <= 0:
                    raise av.error.OSError(errno.EIO, "Input/output error")
                return super().read(min(size, good))

            def __del__(self) -> None:
                self.close()

        def opened(path: Path) -> av.container.InputContainer:
            # Little is probed, since a fault that Python raises there would end the probing.
            return av.open(Failing(path), buffer_size=1024, options={"probesize": "2000"})

        monkeypatch.setattr("vidsr.media.reader.open_input", opened)

    return install


def the_encoder_fails(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    encode, calls = VideoWriter._encode, itertools.count()

    def failing(self: VideoWriter, frame: Any) -> None:
        if next(calls) == 5:
            raise av.error.ExternalError(-542398533, "Generic error in an external library")
        encode(self, frame)

    monkeypatch.setattr(VideoWriter, "_encode", failing)


def the_encoder_loses_a_frame(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    encode, calls = VideoWriter._encode, itertools.count()

    def losing(self: VideoWriter, frame: Any) -> None:
        if next(calls) != 5:
            encode(self, frame)

    monkeypatch.setattr(VideoWriter, "_encode", losing)


def the_disk_cannot_flush(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    def failing(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("vidsr.files.os.fsync", failing)


def a_system_ffmpeg(behavior: str) -> Break:
    def install(_: pytest.MonkeyPatch, folder: Path) -> EncoderRequest:
        return EncoderRequest(preset="ultrafast", ffmpeg=str(fake_ffmpeg(folder, behavior)))

    return install


# ------------------------------------------------------------------ outcomes


@dataclass(frozen=True)
class Whole:
    """The run goes on: every frame comes out, and what happened is told."""

    retiled: bool = False


@dataclass(frozen=True)
class Refused:
    """The run ends with one sentence; the older output stands untouched and alone."""

    error: type[VidsrError]
    code: int
    said: str


OUTCOMES: dict[str, tuple[Break, Whole | Refused]] = {
    "memory runs out on the first tile": (engine(out_of_memory_at_first), Whole(retiled=True)),
    "an allocation fails midway": (engine(allocation_fails_midway), Whole(retiled=True)),
    "memory runs out on every tile": (
        engine(out_of_memory_always),
        Refused(OutOfMemory, 5, "cpu has too little memory even for tiles of"),
    ),
    "the engine returns NaN once": (engine(not_a_number_once), Whole()),
    "the engine returns NaN always": (
        engine(not_a_number_always),
        Refused(ModelError, 4, "not finite even in fp32; its weights are damaged"),
    ),
    "the device is lost": (engine(the_device_is_lost), Refused(DeviceError, 5, "fell off the bus")),
    "reading fails at once": (
        reading_fails_after(0),
        Refused(MediaError, 3, "reading failed (Input/output error)"),
    ),
    "the encoder fails midway": (
        the_encoder_fails,
        Refused(MediaError, 3, "writing failed (Generic error in an external library)"),
    ),
    "the encoder loses a frame": (
        the_encoder_loses_a_frame,
        Refused(VerificationError, 6, "12 frames went in, 11 came out"),
    ),
    "the disk cannot flush": (
        the_disk_cannot_flush,
        Refused(MediaError, 3, "finishing the output failed (Input/output error)"),
    ),
    "a system ffmpeg dies midway": (
        a_system_ffmpeg("dies midway"),
        Refused(MediaError, 3, "ended early with code 187"),
    ),
    "a system ffmpeg is killed": (
        a_system_ffmpeg("is killed midway"),
        Refused(MediaError, 3, "was ended by signal 9"),
    ),
    "a system ffmpeg loses a frame": (
        a_system_ffmpeg("loses a frame"),
        Refused(VerificationError, 6, "was given 12 frames and wrote 11"),
    ),
}


@pytest.mark.parametrize("fault", OUTCOMES)
def test_a_fault_has_its_outcome(
    make_clip: ClipMaker, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    install, outcome = OUTCOMES[fault]
    clip = make_clip("clip.mkv", frames=FRAMES, audio=True)
    encoder = install(monkeypatch, tmp_path) or EncoderRequest("ffv1")
    job = Job(
        clip,
        out / "a.mkv",
        SizeRequest(scale=2),
        EngineRequest(threads=1),
        encoder=encoder,
        overwrite=True,
    )
    if isinstance(outcome, Whole):
        (*_, result) = run(plan(job))
        assert isinstance(result, Result)
        assert (result.frames_in, result.frames_out) == (FRAMES, FRAMES)
        assert (result.retiled > 0) == outcome.retiled
        monkeypatch.undo()
        ship_family(monkeypatch, tmp_path / "weights", 2)
        list(run(plan(replace(job, destination=tmp_path / "sound.mkv"))))
        for ours, theirs in zip(
            frames_of(out / "a.mkv"), frames_of(tmp_path / "sound.mkv"), strict=True
        ):
            for one, other in zip(ours.planes, theirs.planes, strict=True):
                # Another tile shape is another order of additions: a rounding may fall otherwise.
                assert np.abs(one.astype(int) - other).max() <= 1
    else:
        with pytest.raises(outcome.error) as caught:
            list(run(plan(job)))
        assert caught.value.exit_code == outcome.code
        assert outcome.said in str(caught.value)
        assert "\n" not in str(caught.value)
        assert (out / "a.mkv").read_bytes() == b"the older one"
    assert [path.name for path in out.iterdir()] == ["a.mkv"]
    assert [t.name for t in threading.enumerate() if t.name.startswith("vidsr")] == []


@pytest.mark.parametrize("strict", [False, True])
def test_a_read_error_midway_keeps_what_was_read_and_says_so_or_is_refused_if_strict(
    make_clip: ClipMaker, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    clip = make_clip("clip.mkv", frames=48, options={"crf": "10", "bf": "0", "g": "6"})
    reading_fails_after(0.5)(monkeypatch, tmp_path)
    size = SizeRequest(scale=2)
    planned = plan(Job(clip, out / "a.mkv", size, overwrite=True, strict=strict))
    if strict:
        with pytest.raises(MediaError, match=r"broke off early \(Input/output error\).*--strict"):
            list(run(planned))
        assert (out / "a.mkv").read_bytes() == b"the older one"
        return
    (*_, result) = run(planned)
    assert isinstance(result, Result)
    assert 6 < result.frames_in < 48
    assert result.frames_in == result.frames_out
    assert any("broke off early (Input/output error)" in note for note in result.notes)
    with av.open(str(out / "a.mkv")) as written:
        pts = sorted((p.pts or 0) * p.time_base for p in written.demux(0) if p.size)
    steps = {round(later - sooner, 2) for sooner, later in itertools.pairwise(pts)}
    assert steps == {round(Fraction(1, 24), 2)}
