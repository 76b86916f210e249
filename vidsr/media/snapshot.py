"""One picture out of a video, as an array for eyes and for comparisons."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vidsr.errors import RequestError
from vidsr.frame import Frame
from vidsr.media.color import ColorConverter
from vidsr.media.probe import probe
from vidsr.media.reader import VideoReader


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
    planes = [torch.from_numpy(np.ascontiguousarray(plane)) for plane in found.planes]
    rgb = ColorConverter(found.layout, found.color).to_rgb(planes)[0]
    codes = rgb.clamp_(0, 1).mul_(255).round_().to(torch.uint8)
    return np.ascontiguousarray(codes.permute(1, 2, 0).numpy())
