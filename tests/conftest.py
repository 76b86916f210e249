"""What tests share: where the real clips are, and small clips made on the spot."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

torch.set_num_threads(min(2, os.cpu_count() or 1))
# Whoever starts the tests in the background (nohup, a script's &) lets them and their children
# ignore Ctrl-C; the tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips, benchmark pictures and public weights, by one setting."""
    folder = Path(os.environ.get("VIDSR_SHARED", "../shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared clips and pictures; set VIDSR_SHARED (now {folder})")
    return folder.resolve()


@pytest.fixture(scope="session")
def clips(shared: Path) -> Path:
    """The folder of real, awkward and broken clips."""
    return shared / "clips"


ClipMaker = Callable[..., Path]


@pytest.fixture
def make_clip(tmp_path: Path) -> ClipMaker:
    """Write a small clip: a moving gradient, and a tone where `audio` is set.

    Arguments: name, frames, size (width, height), pix_fmt, rate, pts (a list of ticks of
    `time_base`), time_base, codec, options, audio.
    """

    def make(
        name: str = "clip.mp4",
        *,
        frames: int = 8,
        size: tuple[int, int] = (48, 32),
        pix_fmt: str = "yuv420p",
        rate: int = 24,
        time_base: Fraction | None = None,
        pts: list[int] | None = None,
        codec: str = "libx264",
        options: dict[str, str] | None = None,
        audio: bool = False,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as file:
            video = file.add_stream(codec, rate=rate, options=options or {"crf": "10"})
            video.width, video.height, video.pix_fmt = *size, pix_fmt
            clock = time_base or Fraction(1, rate)  # the stream's own changes with the header
            video.time_base = video.codec_context.time_base = clock
            sound = file.add_stream("aac", rate=48000, layout="stereo") if audio else None
            for number in range(frames):
                picture = av.VideoFrame.from_ndarray(gradient(number, *size), format="rgb24")
                picture = picture.reformat(format=pix_fmt)
                picture.pts = pts[number] if pts else number
                picture.time_base = clock
                file.mux(video.encode(picture))
            file.mux(video.encode(None))
            if sound is not None:
                file.mux(sound.encode(_tone(frames / rate)))
                file.mux(sound.encode(None))
        return path

    return make


def gradient(number: int, width: int, height: int) -> np.ndarray:
    """A colour gradient that moves by three pixels a frame, RGB (H,W,3) uint8."""
    x = np.arange(width)[None, :] + 3 * number
    y = np.arange(height)[:, None]
    planes = [(x * 5 + y) % 256, (y * 7 + x) % 256, (x * 2 + y * 3) % 256]
    return np.stack(np.broadcast_arrays(*planes), axis=-1).astype(np.uint8)


def _tone(seconds: float) -> av.AudioFrame:
    time = np.arange(int(seconds * 48000)) / 48000
    wave = (0.2 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
    frame.sample_rate = 48000
    return frame
