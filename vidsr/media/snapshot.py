"""Pictures out of a video, for eyes and for comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidsr.errors import RequestError
from vidsr.frame import Frame, PixelLayout
from vidsr.media.color import ColorConverter
from vidsr.media.probe import VideoInfo, probe
from vidsr.media.reader import Trim, VideoReader
from vidsr.media.sequence import open_reader


def frame_at(path: Path, index: int) -> NDArray[np.uint8]:
    """The frame number `index`, counted from zero, as R'G'B' (H,W,3) at full range.

    Raises:
        MediaError: the file cannot be read.
        RequestError: it has fewer frames.
    """
    reader = VideoReader(probe(path), copied=())
    found = next(islice((item for item in reader if isinstance(item, Frame)), index, None), None)
    if found is None:
        raise RequestError(f"{path} has no frame {index}; it has {reader.report.frames}")
    codes = _rgb(found)[0].clamp_(0, 1).mul_(255).round_().to(torch.uint8)
    return np.ascontiguousarray(codes.permute(1, 2, 0).numpy())


def frames_along(info: VideoInfo, trim: Trim, count: int) -> Iterator[Tensor]:
    """Up to `count` frames spread over a file, or over a job's trim of it, as RGB (1,3,H,W).

    Fewer where the file ends before its header says, at least one if anything can be decoded.

    Raises:
        MediaError: the file cannot be read.
    """
    start = trim.start or Fraction(0)
    end = trim.end if trim.end is not None else Fraction(info.seconds_from_header)
    length = max(end - start, Fraction(0))
    for number in range(count):
        moment = start + length * number / count
        rest = Trim(moment or None, trim.end).on_clock(info.start_seconds)
        reader = open_reader(info, copied=(), trim=rest)
        frame = next((item for item in reader if isinstance(item, Frame)), None)
        if frame is not None:
            yield _rgb(frame)


def film(path: Path) -> Iterator[tuple[Fraction, Tensor]]:
    """Every frame with its moment in seconds, as RGB (1,3,H,W), about [0,1] and not clipped.

    Raises:
        MediaError: the file cannot be read.
    """
    for frame in _frames(path):
        yield frame.pts * frame.time_base, _rgb(frame)


def gray_film(path: Path) -> Iterator[tuple[Fraction, Tensor]]:
    """As `film`, but of the luma alone: what the file would hold if it were gray.

    Raises:
        MediaError: the file cannot be read.
    """
    for frame in _frames(path):
        layout = PixelLayout("gray", frame.layout.depth)
        converter = ColorConverter(layout, frame.color)
        luma: tuple[Tensor, ...] = (torch.from_numpy(np.ascontiguousarray(frame.planes[0])),)
        if frame.layout.model == "rgb":
            luma = converter.from_rgb(_rgb(frame))
        yield frame.pts * frame.time_base, converter.to_rgb(luma)


def _frames(path: Path) -> Iterator[Frame]:
    return (item for item in VideoReader(probe(path), copied=()) if isinstance(item, Frame))


def _rgb(frame: Frame) -> Tensor:
    """(1,3,H,W), not clipped."""
    count = len(frame.planes) - frame.layout.alpha
    planes = [torch.from_numpy(np.ascontiguousarray(plane)) for plane in frame.planes[:count]]
    return ColorConverter(replace(frame.layout, alpha=False), frame.color).to_rgb(planes)
