"""What a lossy codec does to pictures: through its encoder and back, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal, cast

import av
import numpy as np
import torch
from numpy.typing import NDArray

from vidsr.errors import MediaError, RequestError
from vidsr.frame import ColorSpec, Matrix, PixelLayout, Range, Siting
from vidsr.media.color import ColorConverter
from vidsr.media.door import picture_of, planes_of
from vidsr.media.encoders import steady_options

Codec = Literal["h264", "hevc"]
Picture = NDArray[np.uint8]
ENCODERS: dict[Codec, str] = {"h264": "libx264", "hevc": "libx265"}
SMALLEST_SIDE: dict[Codec, int] = {"h264": 16, "hevc": 64}  # libx265 overruns its memory below


def round_trip(
    pictures: Sequence[Picture], *, codec: Codec, crf: float, preset: str = "veryfast"
) -> list[Picture]:
    """Encode pictures as the frames of one 4:2:0 clip (BT.601, limited range), decode it again.

    Deterministic: one thread. The first frame is a key frame, the others are predicted.

    Args:
        pictures: at least one, all (H,W,3) RGB of one size; both sides even.
        codec: the standard.
        crf: constant rate factor on the encoder's own scale.
        preset: of the encoder.

    Raises:
        RequestError: pictures too small for the codec, of odd or of different sizes.
        MediaError: the codec failed, or gave back another number of frames.
    """
    shape = pictures[0].shape
    if any(picture.shape != shape for picture in pictures) or shape[0] % 2 or shape[1] % 2:
        raise RequestError("a round trip needs pictures of one size with even sides")
    if min(shape[:2]) < SMALLEST_SIDE[codec]:
        raise RequestError(f"{codec} needs pictures of at least {SMALLEST_SIDE[codec]} pixels")
    try:
        decoded = _decode(_encode(pictures, codec, crf, preset), codec)
    except av.FFmpegError as exc:
        raise MediaError(f"{codec} round trip failed: {exc.strerror}") from exc
    if len(decoded) != len(pictures):
        raise MediaError(f"{codec} round trip: {len(pictures)} pictures became {len(decoded)}")
    return decoded


def _encode(
    pictures: Sequence[Picture], codec: Codec, crf: float, preset: str
) -> list[av.Packet[Any]]:
    encoder = cast(av.VideoCodecContext, av.CodecContext.create(ENCODERS[codec], "w"))
    encoder.height, encoder.width = pictures[0].shape[:2]
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, 25)
    encoder.framerate = Fraction(25)
    alone = {
        "h264": {"threads": "1"},
        "hevc": {"x265-params": "log-level=error:pools=none:frame-threads=1"},
    }
    options = {"crf": str(crf), "preset": preset, **alone[codec]}
    encoder.options = steady_options(ENCODERS[codec], options)
    packets = []
    for number, picture in enumerate(pictures):
        frame = _to_frame(picture)
        frame.pts, frame.time_base = number, encoder.time_base
        packets += encoder.encode(frame)
    return packets + encoder.encode(None)


def _decode(packets: list[av.Packet[Any]], codec: Codec) -> list[Picture]:
    decoder = av.CodecContext.create(codec, "r")
    decoder.thread_count = 1
    frames = [frame for packet in packets for frame in decoder.decode(packet)]
    frames += decoder.decode(None)
    return [_to_picture(frame) for frame in frames]


# Our own conversion: swscale's darkens a picture by a code value each way, and a network would
# learn to undo it.
_LAYOUT = PixelLayout("yuv", 8, (1, 1))
_COLOR = ColorSpec(Matrix.SMPTE170M, Range.LIMITED, 6, 6, Siting.LEFT)


def _to_frame(picture: Picture) -> av.VideoFrame:
    rgb = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255
    planes = ColorConverter(_LAYOUT, _COLOR).from_rgb(rgb)
    return picture_of(tuple(plane.numpy() for plane in planes), _LAYOUT)


def _to_picture(frame: av.VideoFrame) -> Picture:
    planes = [torch.from_numpy(plane.copy()) for plane in planes_of(frame, _LAYOUT)]
    rgb = ColorConverter(_LAYOUT, _COLOR).to_rgb(planes)
    codes = (rgb[0].clamp(0, 1) * 255).round().to(torch.uint8)
    return codes.permute(1, 2, 0).contiguous().numpy()
