"""Containers: which a file name asks for, and what each can hold."""

from __future__ import annotations

import io
from pathlib import Path

import av
import av.error

from vidsr.errors import RequestError
from vidsr.media.door import open_input
from vidsr.media.probe import StreamInfo, VideoInfo

# Containers that keep every timestamp (to a millisecond at worst). AVI cannot: it has no pts.
MUXERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".3gp": "3gp",
    ".flv": "flv",
    ".ts": "mpegts",
    ".mts": "mpegts",
    ".m2ts": "mpegts",
}
# In Matroska a cover is an attached file, of this name and type.
COVERS = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
_TS_VIDEO = {"h264", "hevc", "mpeg2video", "mpeg1video", "mpeg4"}


def muxer_of(path: Path) -> str:
    """FFmpeg's name of the container that a file name asks for.

    Raises:
        RequestError: vidsr does not write such files.
    """
    suffix = path.suffix.lower()
    if suffix == ".avi":
        raise RequestError(f"{path}: AVI cannot keep timestamps; name an .mkv or .mp4 file")
    if suffix not in MUXERS:
        missing = "" if suffix else "there is no such folder, and "
        raise RequestError(
            f"{path}: {missing}vidsr writes {', '.join(MUXERS)}, numbered pictures (%06d.png), "
            f".gif, .webp and .apng, not {suffix or 'a name without suffix'}"
        )
    return MUXERS[suffix]


def muxer_options(path: Path, source: VideoInfo) -> dict[str, str]:
    """mp4 and mov store each stream's delay in ticks of the movie, 1 ms unless told otherwise.

    Matroska would move every stream to make the padding before an audio track's start positive, and
    would number its tracks at random.
    """
    if muxer_of(path) in {"matroska", "webm"}:
        return {"avoid_negative_ts": "disabled", "fflags": "+bitexact"}
    if muxer_of(path) not in {"mp4", "mov", "3gp"}:
        return {}
    # Fine enough for every stream, as long as the file's length still fits in 32 bits of it.
    fine, video = source.common_clock, source.time_base.denominator
    fits = fine * (source.seconds_from_header + 1) < 2**32
    return {"movie_timescale": str(fine if fits else max(video, 1000))}


def can_hold(suffix: str, source: VideoInfo, track: StreamInfo, codec: str) -> bool:
    """Whether a container takes a stream, the processed one as a `codec`.

    A header is written to memory and thrown away, since some muxers refuse only then; no encoder is
    opened for this.
    """
    if track.cover and MUXERS[suffix] != "mp4":
        return MUXERS[suffix] == "matroska" and track.codec in COVERS
    try:
        with open_input(source.path) as original:
            trial = av.open(io.BytesIO(), "w", format=MUXERS[suffix])
            if track.index == source.video:
                if MUXERS[suffix] == "mpegts" and codec not in _TS_VIDEO:
                    return False  # it would be written as data that nobody knows again
                trial.add_mux_stream(codec, width=source.width, height=source.height)
                if MUXERS[suffix] == "matroska":
                    return True  # it takes every codec, but no header before the encoder's own
            else:
                trial.add_stream_from_template(original.streams[track.index], opaque=True)
            trial.start_encoding()
            trial.close()
    except (av.error.FFmpegError, OSError, ValueError):
        return False
    return True
