"""A system ffmpeg as encoder: raw frames into its standard input, a file of video alone comes out.

The only door to ffmpeg-python, which spells the command; a list of words, no shell ever sees it.

Note [Time through a pipe]
~~~~~~~~~~~~~~~~~~~~~~~~~~
Frames travel as NUT, both ways: it holds any time base exactly. It knows no time before zero, so
frames that begin earlier are all sent later, by a known number of ticks. `-copyts`, `-fps_mode
passthrough`, `-enc_time_base` and `-avoid_negative_ts disabled` keep ffmpeg from moving, dropping,
doubling or rounding; what it (or a filter) did all the same is found, since every pts of the file
is held against what was sent. NUT has no place for durations and colour tags, so the join sets
them; ffmpeg gets the tags as options, for its decoder and its encoder, and writes them into the
bitstream.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
from array import array
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import av
import av.error
import numpy as np

from vidsr.errors import MediaError, RequestError, VerificationError
from vidsr.frame import Frame, PixelLayout, Siting
from vidsr.media.door import open_input, output_name, picture_of, repacked, translated

if TYPE_CHECKING:
    from vidsr.media.encoders import VideoFormat

LAST_LINES = 3  # of what ffmpeg said, in an error
SECONDS_TO_ANSWER = 30  # for a question about an encoder
SECONDS_TO_DIE = 5  # after its pipe has broken
PIPED = 1 << 20  # bytes at a time into its pipe
# What uploads frames to a device takes them in these; ffmpeg converts without loss.
_STANDS_FOR = {"nv12": "yuv420p", "p010le": "yuv420p10le", "nv16": "yuv422p", "nv24": "yuv444p"}
_ON_A_DEVICE = {"vaapi", "qsv", "cuda", "videotoolbox_vld", "vulkan", "d3d11", "mediacodec"}
_MISTAKEN = re.compile(r"yuv440p1\dle")  # in NUT, for a 15-bit RGB


class FfmpegEncoder:
    """One run of ffmpeg. A context manager: leaving it unfinished ends it and leaves no file."""

    def __init__(
        self, path: Path, *, video: VideoFormat, time_base: Fraction, frame_rate: Fraction
    ) -> None:
        """Start `video.ffmpeg`, which will write a NUT file of video alone to `path`.

        Args:
            path: of the file, which is replaced.
            video: what the frames look like, the encoder and its options.
            time_base: of the frames.
            frame_rate: what rate control is told.

        Raises:
            MediaError: it cannot be started.
        """
        assert video.ffmpeg is not None
        self.path = path
        self.pts = array("q")  # of every frame that was given, in time_base
        self.delay = 0  # ticks by which the file's pts are later than those of the frames
        self._video, self._time_base = video, time_base
        self._name = f"{Path(video.ffmpeg).name} ({video.encoder})"
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the encoder
        self._finished = False
        self._pipe: av.container.OutputContainer | None = None
        try:
            self._process = subprocess.Popen(  # in a group of its own: Ctrl-C is ours to handle
                _command(video, time_base, path),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                process_group=0,
            )
        except OSError as exc:
            self._said.close()
            raise MediaError(f"{video.ffmpeg} cannot be started ({exc.strerror})") from exc
        self._stream = self._open_pipe(frame_rate)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """As `close`."""
        self.close()

    def close(self) -> None:
        """End the process; remove the file unless `finish` has returned it."""
        self._process.kill()
        self._close_pipe()
        self._process.wait()
        self._said.close()
        if not self._finished:
            self.path.unlink(missing_ok=True)

    def write(self, frame: Frame) -> None:
        """Send a frame; waits while ffmpeg is busy.

        Raises:
            MediaError: ffmpeg has ended, with its last lines.
        """
        picture = repacked(picture_of(frame.planes, frame.layout), self._video.pix_fmt)
        if not self.pts:
            self.delay = max(0, -frame.pts)
        picture.pts, picture.time_base = frame.pts + self.delay, frame.time_base
        picture.duration = frame.duration
        self.pts.append(frame.pts)
        self._send(picture)

    def finish(self) -> Path:
        """Let ffmpeg come to its end, and hold what it wrote against what it was given.

        Returns:
            The file; it is the caller's now. Its pts are those of the frames plus `delay`.

        Raises:
            MediaError: ffmpeg failed, with its last lines.
            VerificationError: it lost, added, moved or resized frames.
        """
        self._send(None)
        with contextlib.suppress(*_BROKEN_PIPE):
            self._close_pipe()
        if self._process.wait() != 0:
            raise self._failure()
        self._verify()
        self._finished = True
        return self.path

    def _open_pipe(self, frame_rate: Fraction) -> av.VideoStream:
        self._pipe = av.open(self._process.stdin, "w", format="nut", buffer_size=PIPED)
        stream = self._pipe.add_stream("rawvideo", rate=frame_rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = self._video.width, self._video.height
        stream.pix_fmt = self._video.pix_fmt
        stream.time_base = stream.codec_context.time_base = self._time_base
        return stream

    def _send(self, picture: av.VideoFrame | None) -> None:
        assert self._pipe is not None
        try:
            self._pipe.mux(self._stream.encode(picture))
        except _BROKEN_PIPE as exc:
            raise self._failure() from exc

    def _close_pipe(self) -> None:
        """Tell ffmpeg that no more frames come."""
        pipe, self._pipe = self._pipe, None
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(*_BROKEN_PIPE):
            if pipe is not None:
                pipe.close()
        with contextlib.suppress(*_BROKEN_PIPE):
            stdin.close()

    def _failure(self) -> MediaError:
        """What happened, in ffmpeg's words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(SECONDS_TO_DIE)
        code = self._process.poll()
        how = "takes no more frames" if code is None else f"ended early with code {code}"
        if code is not None and code < 0:
            how = f"was ended by signal {-code}"
        self._said.seek(0)
        return MediaError(f"{self._name} {how}: {_last_lines(self._said.read())}")

    def _verify(self) -> None:
        with translated(self.path, f"reading what {self._name} wrote"):
            moments, size = _contents(self.path)
        ours = (self._video.width, self._video.height)
        if size != ours:
            raise VerificationError(
                f"{self._name} wrote {size[0]}x{size[1]} instead of {ours[0]}x{ours[1]}"
            )
        if len(moments) != len(self.pts):
            raise VerificationError(
                f"{self._name} was given {len(self.pts)} frames and wrote {len(moments)}"
            )
        for pts, moment in zip(self.pts, sorted(moments), strict=True):
            if (pts + self.delay) * self._time_base != moment:
                raise VerificationError(
                    f"{self._name} moved the frame at {float(pts * self._time_base):.6f} s to "
                    f"{float(moment - self.delay * self._time_base):.6f} s"
                )


_BROKEN_PIPE = (OSError, ValueError, av.error.FFmpegError)


def find(executable: str) -> str:
    """The path of an ffmpeg: as given, or the one that its name finds in the search path.

    Raises:
        RequestError: there is no such program.
    """
    found = shutil.which(executable)
    if found is None:
        raise RequestError(
            f"--ffmpeg {executable}: no such program; install ffmpeg or name its path"
        )
    return found


def pixel_formats(executable: str, encoder: str) -> list[str]:
    """FFmpeg's names of what an encoder of this ffmpeg takes; empty if it does not say.

    Raises:
        RequestError: it has no such encoder, or does not answer.
    """
    question = [executable, "-hide_banner", "-h", f"encoder={encoder}"]
    try:
        answer = subprocess.run(
            question,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS_TO_ANSWER,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        why = getattr(exc, "strerror", None) or f"no answer in {SECONDS_TO_ANSWER} s"
        raise RequestError(f"--ffmpeg {executable} cannot be asked for encoders ({why})") from exc
    text = answer.stdout.decode(errors="replace")
    if not text.startswith("Encoder "):
        said = _last_lines(answer.stderr)
        raise RequestError(f"{executable} has no encoder {encoder!r} ({said})")
    formats = re.search(r"^ *Supported pixel formats: (.*)$", text, re.MULTILINE)
    return _planar(formats[1].split()) if formats else []


def try_encoder(video: VideoFormat) -> str:
    """Encode one frame for nothing, so that what ffmpeg refuses is known before the first one.

    Returns:
        FFmpeg's name of the codec, such as "hevc".

    Raises:
        RequestError: it fails, with its last lines.
    """
    rate = Fraction(25)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.nut"
        try:
            with FfmpegEncoder(path, video=video, time_base=1 / rate, frame_rate=rate) as encoder:
                encoder.write(_blank(video.layout, video))
                encoder.finish()
            with open_input(path) as written:
                return written.streams.video[0].codec_context.codec.canonical_name
        except (MediaError, VerificationError) as exc:
            raise RequestError(f"in a trial {exc}") from exc


def _blank(layout: PixelLayout, video: VideoFormat) -> Frame:
    dtype = np.uint8 if layout.depth == 8 else np.uint16
    shapes = layout.plane_shapes(video.width, video.height)
    planes = tuple(np.zeros(shape, dtype) for shape in shapes)
    return Frame(planes, layout, video.color, pts=0, duration=1, time_base=Fraction(1, 25))


def _planar(names: list[str]) -> list[str]:
    """Our names for what is repacked or uploaded without loss, beside those that are ours."""
    names = [name for name in names if not _MISTAKEN.fullmatch(name)]
    more = [_STANDS_FOR[name] for name in names if name in _STANDS_FOR]
    if names and set(names) <= _ON_A_DEVICE:  # a filter of the user's uploads them
        more = ["yuv420p", "yuv420p10le"]
    return list(dict.fromkeys(names + more))


def _command(video: VideoFormat, time_base: Fraction, path: Path) -> list[str]:
    import ffmpeg

    color = video.color
    tags: dict[str, Any] = {
        "colorspace": int(color.matrix),
        "color_range": int(color.range),
        "color_primaries": color.primaries,
        "color_trc": color.transfer,
    }
    if color.siting != Siting.UNSPECIFIED:
        tags["chroma_sample_location"] = int(color.siting)
    options = {**tags, **video.options, "c:v": video.encoder}
    if filters := _filters(video):
        options["vf"] = filters
    if video.threads:
        options["threads"] = video.threads
    if video.interlaced:
        options["flags"] = "+ildct"
    raw = ffmpeg.input("pipe:0", format="nut", copyts=None, **tags)
    encoded = raw.output(
        output_name(path),
        format="nut",
        fps_mode="passthrough",
        enc_time_base=f"{time_base.numerator}:{time_base.denominator}",
        avoid_negative_ts="disabled",
        **options,
    )
    quiet = encoded.global_args("-hide_banner", "-nostdin", "-loglevel", "error")
    words: list[str] = ffmpeg.compile(quiet, cmd=video.ffmpeg, overwrite_output=True)
    return words


def _filters(video: VideoFormat) -> str:
    """The user's own, after the one that sets the shape of pixels, which NUT does not carry."""
    asked = video.options.get("vf", "")
    aspect = video.sample_aspect
    ours = f"setsar={aspect.numerator}/{aspect.denominator}" if aspect else ""
    return ",".join(part for part in (ours, asked) if part)


def _contents(path: Path) -> tuple[list[Fraction], tuple[int, int]]:
    """The moments of a video's packets in seconds, as stored, and its (width, height)."""
    with open_input(path) as written:
        stream = written.streams.video[0]
        size = (stream.codec_context.width, stream.codec_context.height)
        packets = (packet for packet in written.demux(stream) if packet.size)
        return [(packet.pts or 0) * packet.time_base for packet in packets], size


def _last_lines(said: bytes) -> str:
    lines = said.decode(errors="replace").replace("\r", "\n").splitlines()
    last = [line.strip() for line in lines if line.strip()][-LAST_LINES:]
    return "; ".join(last) or "it said nothing"
