"""The seam to PyAV that reader, writer and probe share: errors, pixel formats, planes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.error
import av.filter
import numpy as np
from numpy.typing import NDArray

from vidsr.errors import MediaError
from vidsr.frame import PixelLayout

# Of one picture, before it is enlarged; above, a file is refused before memory is taken. It is
# Pillow's own limit for an error.
MAX_PIXELS = 178_956_970
_LIMITS = {"max_pixels": str(MAX_PIXELS)}  # of FFmpeg's decoders
Plane = NDArray[np.uint8] | NDArray[np.uint16]


@contextlib.contextmanager
def translated(path: Path, doing: str) -> Iterator[None]:
    """Turn whatever PyAV raises inside into one sentence: `<path>: <doing> failed (<why>)`."""
    try:
        yield
    except (av.error.FFmpegError, OSError, ValueError) as exc:  # ValueError: PyAV's own checks
        reason = getattr(exc, "strerror", None) or str(exc).split(";")[0]
        raise MediaError(f"{path}: {doing} failed ({reason})") from exc


def open_input(path: Path) -> av.container.InputContainer:
    """Open a file for reading; tags that are not UTF-8 are taken for Latin-1, as old tools wrote.

    Raises:
        av.error.FFmpegError: it cannot be opened; see `translated`.
    """
    # FFmpeg gets an open handle, and no other protocol: so no name is taken for an address, and no
    # playlist, from wherever it came, opens another file or a connection.
    handle = os.open(path, os.O_RDONLY)
    options = {"fd": str(handle), "protocol_whitelist": "fd", **_LIMITS}
    try:
        container = av.open("fd:", options=options)
    except UnicodeDecodeError:
        os.lseek(handle, 0, os.SEEK_SET)
        container = av.open("fd:", options=options, metadata_encoding="latin-1")
    finally:
        os.close(handle)  # FFmpeg has its own copy
    for stream in container.streams.video:
        if stream.codec_context is not None:
            stream.codec_context.options = dict(_LIMITS)
    return container


def output_name(path: Path) -> str:
    """What FFmpeg is to be told, so that it takes any file's name for a file's name."""
    return f"file:{path}"


def layout_of(pix_fmt: av.VideoFormat) -> PixelLayout:
    """How vidsr stores a decoded pixel format; packed and palette formats become planar.

    Raises:
        MediaError: floating-point samples or more than 16 bits.
    """
    depth = max(component.bits for component in pix_fmt.components)
    if depth > 16 or "f16" in pix_fmt.name:
        kind = "floating-point" if "f16" in pix_fmt.name else f"{depth}-bit"
        raise MediaError(f"pixel format {pix_fmt.name} has {kind} samples; 16-bit integers work")
    depth = max(8, depth)
    alpha = any(c.is_alpha for c in pix_fmt.components) or pix_fmt.name == "pal8"
    if pix_fmt.is_rgb or pix_fmt.has_palette:
        return PixelLayout("rgb", depth, alpha=alpha)
    if sum(not c.is_alpha for c in pix_fmt.components) == 1:
        # FFmpeg has no planar grey with alpha; with neutral chroma it is the same picture.
        if alpha:
            return PixelLayout("yuv", depth, (1, 1), alpha=True)
        return PixelLayout("gray", depth)
    steps = (_log2(64 // pix_fmt.chroma_width(64)), _log2(64 // pix_fmt.chroma_height(64)))
    return PixelLayout("yuv", depth, steps, alpha=alpha)


def planar_name(layout: PixelLayout) -> str:
    """FFmpeg's name of the planar pixel format that stores a layout."""
    bits = "" if layout.depth == 8 else f"{layout.depth}le"
    alpha = "a" if layout.alpha else ""
    if layout.model == "rgb":
        return f"gbr{alpha}p{bits}"
    if layout.model == "gray":
        return f"gray{bits}"
    return f"yuv{alpha}{_SUBSAMPLING[layout.subsampling]}p{bits}"


def planes_of(picture: av.VideoFrame, layout: PixelLayout) -> tuple[Plane, ...]:
    """The planes of a decoded picture in our order (Y,U,V or R,G,B, A), without copying if planar.

    The views keep the picture's memory alive.
    """
    name = planar_name(layout)
    if picture.format.name.replace("yuvj", "yuv") != name:
        picture = repacked(picture, name)
    shapes = layout.plane_shapes(picture.width, picture.height)
    return tuple(
        _view(picture.planes[index], shape, layout.depth)
        for index, shape in zip(_order(layout), shapes, strict=True)
    )


def repacked(picture: av.VideoFrame, pix_fmt: str) -> av.VideoFrame:
    """The same samples in another order, or the picture itself."""
    if picture.format.name == pix_fmt:
        return picture
    # Full range (2) on both sides, whatever it is, so no value changes. One thread: several write
    # over each other's lines (p010 whose width is no multiple of 8).
    return picture.reformat(format=pix_fmt, src_color_range=2, dst_color_range=2, threads=1)


def picture_of(planes: tuple[Plane, ...], layout: PixelLayout) -> av.VideoFrame:
    """A PyAV picture holding a copy of the planes."""
    height, width = planes[0].shape
    picture = av.VideoFrame(width, height, planar_name(layout))
    for index, source in zip(_order(layout), planes, strict=True):
        np.copyto(_view(picture.planes[index], source.shape, layout.depth), source)
    return picture


_SUBSAMPLING = {
    (0, 0): "444",
    (1, 0): "422",
    (1, 1): "420",
    (0, 1): "440",
    (2, 0): "411",
    (2, 2): "410",
}


def _order(layout: PixelLayout) -> tuple[int, ...]:
    """FFmpeg's plane index of each of our planes: it stores G, B, R."""
    count = len(layout.plane_shapes(2, 2))
    return (2, 0, 1, 3)[:count] if layout.model == "rgb" else tuple(range(count))


def _view(plane: av.video.plane.VideoPlane, shape: tuple[int, ...], depth: int) -> Plane:
    height, width = shape
    memory = memoryview(plane)  # keeps the picture alive
    rows: Plane
    if depth == 8:
        rows = np.frombuffer(memory, np.uint8).reshape(-1, plane.line_size)
    else:
        rows = np.frombuffer(memory, np.uint16).reshape(-1, plane.line_size // 2)
    return rows[:height, :width]


def _log2(number: int) -> int:
    return number.bit_length() - 1


class Filter:
    """One of FFmpeg's filters, made for the first picture that it is given."""

    def __init__(self, name: str, options: str = "") -> None:
        """Name it, with its options as FFmpeg spells them: `key=value:key=value`."""
        self._name, self._options = name, options
        self._graph: av.filter.Graph | None = None

    def push(self, picture: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        """Give a picture, or None at the end; get those that are ready."""
        if self._graph is None:
            assert picture is not None
            self._graph = self._made_for(picture)
        self._graph.vpush(picture)
        while True:
            try:
                yield self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return

    def _made_for(self, picture: av.VideoFrame) -> av.filter.Graph:
        graph = av.filter.Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=picture.width,
            height=picture.height,
            format=picture.format,
            time_base=picture.time_base or Fraction(1, 90000),
        )
        chosen, sink = graph.add(self._name, self._options or None), graph.add("buffersink")
        graph.link_nodes(source, chosen, sink).configure()
        return graph
