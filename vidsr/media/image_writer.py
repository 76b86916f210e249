"""Still pictures and animations: array -> file, with everything that travels beside the pixels.

Note [Pictures in bands]
~~~~~~~~~~~~~~~~~~~~~~~~
Pillow encodes a picture from the whole of it, in memory of its own. PNG and TIFF are written here
instead, row by row as they come, since their pixels are no more than a filtered zlib stream; so a
picture that is larger than memory can be written. JPEG, WebP and BMP are small enough by their own
limits, and are collected for Pillow.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vidsr.errors import MediaError, RequestError, VerificationError
from vidsr.files import appearing
from vidsr.media.images import (
    ANIMATION_SUFFIXES,
    BROKEN,
    SUFFIXES,
    TIFF_LAYOUT,
    Samples,
    Still,
    read_animation,
)

if TYPE_CHECKING:
    from PIL import Image
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

QUALITY = 95  # of JPEG and WebP unless told


def write(path: Path, still: Still, *, quality: int = QUALITY) -> tuple[str, ...]:
    """Encode a whole picture, as `create` does.

    Returns:
        What the picture had and the format could not keep, such as "EXIF" or "16 bits".
    """
    height, width = still.rgb.shape[:2]
    with create(path, still, (width, height), quality=quality) as picture:
        picture.write(still.rgb, still.alpha)
    return picture.lost


class PictureWriter:
    """Takes the rows of a picture, the topmost first; made by `create`.

    Attributes:
        lost: what the picture has and the format cannot keep, such as "EXIF" or "16 bits".
    """

    def __init__(self, encoder: _Encoder, likeness: Still, lost: tuple[str, ...]) -> None:
        self.lost = lost
        self._encoder = encoder
        self._likeness = likeness

    def write(self, rgb: Samples, alpha: Samples | None = None) -> None:
        """Add rows (h,W,3), and their alpha (h,W) if the picture has one."""
        if self._likeness.alpha is None:
            alpha = None  # opaque everywhere
        rows = replace(self._likeness, rgb=rgb, alpha=alpha)
        self._encoder.write(_reduced(rows) if "16 bits" in self.lost else rows)


@contextlib.contextmanager
def create(
    path: Path, like: Still, size: tuple[int, int], *, quality: int = QUALITY
) -> Iterator[PictureWriter]:
    """Write a picture of `size` (width, height) in the format that the suffix names.

    It appears, whole, when the `with` block ends; if that fails, nothing does. PNG, TIFF and BMP
    are lossless. `quality` (1 to 100) is for JPEG, always 4:4:4, and WebP, where 100 is
    lossless.

    Args:
        path: of the new file.
        like: what stands beside the pixels; its own pixels tell type and transparency only.
        size: of the picture.
        quality: see above.

    Raises:
        RequestError: an unknown suffix, transparency or a size that the format cannot hold.
        MediaError: the file cannot be written; nothing is left behind.
    """
    name = SUFFIXES.get(path.suffix.lower())
    if name is None:
        raise RequestError(f"{path}: pictures are written as {', '.join(SUFFIXES)}")
    if not 1 <= quality <= 100:
        raise RequestError(f"quality {quality} is not between 1 and 100")
    likeness, lost = _fit(path, like, size, _FORMATS[name])
    with _whole(path) as file:
        encoder = _FORMATS[name].encoder(file, likeness, size, quality)
        yield PictureWriter(encoder, likeness, lost)
        encoder.finish()


def kept_by(path: Path) -> frozenset[str]:
    """What the format of a name can hold, in the words of `PictureWriter.lost`."""
    return _FORMATS[SUFFIXES[path.suffix.lower()]].keeps


def check_kept(path: Path, still: Still, size: tuple[int, int]) -> tuple[str, ...]:
    """Refuse early what `create` would refuse; returns what the format would lose.

    Raises:
        RequestError: transparency, or a size, that the format of `path` cannot hold.
    """
    return _fit(path, still, size, _FORMATS[SUFFIXES[path.suffix.lower()]])[1]


def write_animation(
    path: Path,
    pictures: Sequence[Samples],
    seconds: Sequence[Fraction],
    *,
    plays: int = 0,
    quality: int = QUALITY,
) -> int:
    """Write a GIF, WebP or animated PNG; it appears whole or not at all.

    Args:
        path: of the new file; its suffix names the format.
        pictures: (H,W,3) or (H,W,4) uint8, all alike. GIF keeps 255 colors of each.
        seconds: how long each is shown: kept to the nearest millisecond, in GIF to 10 of them, and
            without adding up errors. A picture for which nothing is left would be shown for long.
        plays: how often it is shown; 0 is without end.
        quality: of WebP; 100 is lossless.

    Returns:
        How many pictures are too short for the format's clock, and left out.

    Raises:
        MediaError: the file cannot be written; nothing is left behind.
        VerificationError: it does not last as long as it should; nothing is left behind.
    """
    from PIL import Image

    name = ANIMATION_SUFFIXES[path.suffix.lower()]
    tick = 10 if name == "GIF" else 1
    durations = _milliseconds(seconds, tick)
    shown = [number for number, duration in enumerate(durations) if duration] or [0]
    pictures = [pictures[number] for number in shown]
    durations = [durations[number] for number in shown]
    options: dict[str, Any] = {"loop": plays}
    if name == "WEBP":
        options |= {"quality": quality, "lossless": quality == 100, "exact": quality == 100}
    if name == "GIF":
        options = {"loop": plays - 1} if plays > 1 else {"loop": 0} if plays == 0 else {}
        options["disposal"] = 2 if pictures[0].shape[2] == 4 else 0
        pictures = [_all_or_nothing(samples) for samples in pictures]
    first, *others = (Image.fromarray(samples) for samples in pictures)
    with _whole(path) as file:
        first.save(file, name, save_all=True, append_images=others, duration=durations, **options)
        file.flush()
        _check_length(path, Path(file.name), sum(durations))
    return len(seconds) - len(shown)


def _check_length(path: Path, part: Path, milliseconds: int) -> None:
    seconds = Fraction(milliseconds, 1000)
    written = sum((shown for _, shown in read_animation(part)), Fraction(0))
    if seconds and written != seconds:
        raise VerificationError(
            f"{path}: {float(seconds):.3f} s went in, {float(written):.3f} came out"
        )


def _all_or_nothing(samples: Samples) -> Samples:
    """Alpha as GIF has it: a pixel is opaque or transparent."""
    if samples.shape[2] == 3:
        return samples
    opaque = samples[..., 3:] >= 128
    return np.where(opaque, samples | np.array([0, 0, 0, 255], samples.dtype), 0)


def _milliseconds(seconds: Sequence[Fraction], tick: int) -> list[int]:
    """Durations in multiples of `tick`, whose sums are never further than half of it off."""
    ends = [tick * round(end * 1000 / tick) for end in itertools.accumulate(seconds)]
    return [end - start for start, end in itertools.pairwise([0, *ends])]


class _Encoder(Protocol):
    """Writes a file from rows of a picture."""

    def write(self, rows: Still) -> None:
        """Add rows, the topmost first."""

    def finish(self) -> None:
        """All rows are there."""


@dataclass(frozen=True)
class _Format:
    """What a file format can hold."""

    # (file, likeness, size, quality); a likeness has one pixel and everything that is no pixel
    encoder: Callable[[IO[bytes], Still, tuple[int, int], int], _Encoder]
    max_side: int
    keeps: frozenset[str]


def _fit(
    path: Path, still: Still, size: tuple[int, int], target: _Format
) -> tuple[Still, tuple[str, ...]]:
    """A likeness of the still as the format can hold it, and the names of what it cannot."""
    side = max(size)
    if side > target.max_side:
        raise RequestError(
            f"{path}: a side of {side} pixels is above this format's {target.max_side};"
            " write .png or .tiff"
        )
    alpha = still.alpha
    if alpha is not None and "alpha" not in target.keeps:
        if int(alpha.min()) < np.iinfo(alpha.dtype).max:
            raise RequestError(f"{path}: this format has no transparency; write .png or .webp")
        alpha = None  # opaque everywhere: nothing is lost
    pixel = None if alpha is None else alpha[:1, :1]
    likeness = replace(still, rgb=still.rgb[:1, :1], alpha=pixel)
    has = {
        "16 bits": still.depth == 16,
        "greyscale": still.gray,
        "ICC profile": still.icc_profile is not None,
        "EXIF": still.exif is not None,
        "resolution": still.dpi is not None,
        "text": bool(still.text),
        "XMP": still.xmp is not None,
        "comment": still.comment is not None,
        "IPTC caption": still.iptc,
        "gamma": still.gamma is not None,
    }
    lost = tuple(name for name, present in has.items() if present and name not in target.keeps)
    return (_reduced(likeness) if "16 bits" in lost else likeness), lost


def _reduced(still: Still) -> Still:
    """Rounded to 8 bits."""
    alpha = None if still.alpha is None else _to_8_bit(still.alpha)
    return replace(still, rgb=_to_8_bit(still.rgb), alpha=alpha)


def _to_8_bit(samples: Samples) -> NDArray[np.uint8]:
    return ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file under a temporary name beside `path`, renamed to it only if nothing fails."""
    if not path.parent.is_dir():
        raise MediaError(f"{path}: there is no directory {path.parent}; create it first")
    with _writing(path), appearing(path) as part, part.open("wb") as file:
        yield file


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except BROKEN as exc:
        raise MediaError(f"{path}: the picture cannot be written ({exc})") from exc


def _samples(still: Still) -> Samples:
    """(H,W,C) as stored: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA."""
    color = _luma(still.rgb)[..., None] if still.gray else still.rgb
    return color if still.alpha is None else np.concatenate([color, still.alpha[..., None]], axis=2)


def _luma(rgb: Samples) -> Samples:
    """BT.601 weights in 1/65536, which sum to one: equal channels come back exactly."""
    red, green, blue = (rgb[..., index].astype(np.uint32) for index in range(3))
    luma = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16
    return luma.astype(rgb.dtype)


def _pillow(still: Still) -> Image.Image:
    from PIL import Image

    samples = _samples(still)
    return Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)


def _metadata(still: Still) -> dict[str, Any]:
    """What Pillow's encoders take; each ignores what its format cannot hold."""
    tags = {
        "icc_profile": still.icc_profile,
        "exif": still.exif,
        "dpi": still.dpi,
        "xmp": still.xmp,
        "comment": still.comment,
    }
    return {name: value for name, value in tags.items() if value is not None}


def _write_jpeg(file: IO[bytes], still: Still, quality: int) -> None:
    _pillow(still).save(file, "JPEG", quality=quality, subsampling=0, **_metadata(still))


def _write_webp(file: IO[bytes], still: Still, quality: int) -> None:
    lossless = quality == 100
    image = _pillow(replace(still, gray=False))
    image.save(
        file, "WEBP", quality=quality, lossless=lossless, exact=lossless, **_webp_metadata(still)
    )


def _webp_metadata(still: Still) -> dict[str, Any]:
    """A profile for grey may not stand beside the RGB that WebP always stores."""
    for_gray = still.icc_profile is not None and still.icc_profile[16:20] == b"GRAY"
    return _metadata(replace(still, icc_profile=None) if for_gray else still)


def _write_bmp(file: IO[bytes], still: Still, quality: int) -> None:
    _pillow(still).save(file, "BMP", **_metadata(still))


class _Collected:
    """For encoders that want the whole picture at once."""

    def __init__(
        self,
        save: Callable[..., None],  # (file, still, quality=)
        file: IO[bytes],
        likeness: Still,
        size: tuple[int, int],
        quality: int,
    ) -> None:
        dtype, (width, height) = likeness.rgb.dtype, size
        self._rgb: Samples = np.empty((height, width, 3), dtype)
        self._alpha: Samples | None = None
        if likeness.alpha is not None:
            self._alpha = np.empty((height, width), dtype)
        self._next = 0
        self._save = partial(save, file, quality=quality)
        self._likeness = likeness

    def write(self, rows: Still) -> None:
        end = self._next + len(rows.rgb)
        self._rgb[self._next : end] = rows.rgb
        if self._alpha is not None and rows.alpha is not None:
            self._alpha[self._next : end] = rows.alpha
        self._next = end

    def finish(self) -> None:
        self._save(replace(self._likeness, rgb=self._rgb, alpha=self._alpha))


class _Png:
    """Rows, filtered and deflated as they come (PNG, third edition, sections 5, 7, 9 and 10)."""

    def __init__(self, file: IO[bytes], likeness: Still, size: tuple[int, int], _: int) -> None:
        pixel = _samples(likeness)
        count = pixel.shape[2]
        self._file = file
        self._step = count * pixel.itemsize  # bytes to the same sample of the pixel to the left
        self._above = np.zeros((1, size[0] * self._step), np.uint8)
        self._deflate = zlib.compressobj()
        file.write(b"\x89PNG\r\n\x1a\n")
        kind = {1: 0, 2: 4, 3: 2, 4: 6}[count]
        header = struct.pack(">IIBBBBB", *size, 8 * pixel.itemsize, kind, 0, 0, 0)
        self._put(b"IHDR", header)
        file.write(b"".join(_png_metadata(likeness)))

    def write(self, rows: Still) -> None:
        samples = _samples(rows)
        stored = samples.astype(samples.dtype.newbyteorder(">"), copy=False)
        lines = np.ascontiguousarray(stored).reshape(len(stored), -1).view(np.uint8)
        for first in range(0, len(lines), _LINES):
            some = lines[first : first + _LINES]
            above = np.concatenate([self._above, some[:-1]])
            self._above = some[-1:].copy()
            self._put_data(self._deflate.compress(_png_filtered(some, above, self._step)))

    def finish(self) -> None:
        self._put_data(self._deflate.flush())
        self._put(b"IEND", b"")

    def _put_data(self, data: bytes) -> None:
        if data:
            self._put(b"IDAT", data)

    def _put(self, kind: bytes, data: bytes) -> None:
        check = zlib.crc32(data, zlib.crc32(kind))
        self._file.write(b"".join([struct.pack(">I", len(data)), kind, data]))
        self._file.write(struct.pack(">I", check))


_LINES = 64  # of a PNG that are filtered together


def _png_filtered(lines: NDArray[np.uint8], above: NDArray[np.uint8], step: int) -> bytes:
    """Lines (h, bytes), each with the filter before it whose result has the least sum.

    PNG, third edition, section 9; the choice is the heuristic of its section 12.7.
    """
    left, corner = np.zeros_like(lines), np.zeros_like(lines)
    left[:, step:], corner[:, step:] = lines[:, :-step], above[:, :-step]
    choices = np.stack([lines - left, lines - above, lines - _paeth(left, above, corner)])
    sums = np.abs(choices.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)  # (3, h)
    best = sums.argmin(axis=0)
    filters = np.array([1, 2, 4], np.uint8)[best]
    chosen = choices[best, np.arange(len(lines))]
    return np.concatenate([filters[:, None], chosen], axis=1).tobytes()


def _paeth(
    left: NDArray[np.uint8], above: NDArray[np.uint8], corner: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Whichever of the three is nearest to left + above - corner, in this order if equally near."""
    a, b, c = (part.astype(np.int16) for part in (left, above, corner))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    rest = np.where(to_b <= to_c, above, corner)
    return np.where((to_a <= to_b) & (to_a <= to_c), left, rest)


def _png_metadata(likeness: Still) -> Iterator[bytes]:
    """The chunks that stand beside the pixels: those of a one-pixel picture that Pillow wrote."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in likeness.text.items():
        info.add_text(key, value)
    if likeness.xmp is not None:
        info.add_itxt("XML:com.adobe.xmp", likeness.xmp.decode(errors="replace"))
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "PNG", pnginfo=info, **_metadata(likeness))
    data, start = pixel.getvalue(), 8
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] not in {b"IHDR", b"IDAT", b"IEND"}:
            yield data[start:end]
        start = end


class _Tiff:
    """One deflated strip after the tags; Pillow writes no 16-bit colour and loses sub-directories.

    16-bit grey with alpha is stored as RGBA, since Pillow would not know it again. The tags hold
    the strip's length and stand before it, so it waits in a nameless file of its own.
    """

    def __init__(self, file: IO[bytes], likeness: Still, size: tuple[int, int], _: int) -> None:
        self._file = file
        self._likeness = likeness
        self._size = size
        self._gray = likeness.gray and (likeness.alpha is None or likeness.depth == 8)
        self._deflate = zlib.compressobj()
        self._strip = tempfile.TemporaryFile(dir=Path(file.name).parent)  # noqa: SIM115

    def write(self, rows: Still) -> None:
        steps = _differences(_samples(replace(rows, gray=self._gray)))
        stored = steps.astype(steps.dtype.newbyteorder("<"), copy=False)
        self._strip.write(self._deflate.compress(stored.tobytes()))

    def finish(self) -> None:
        still = self._likeness
        with self._strip as strip:
            strip.write(self._deflate.flush())
            tags = _exif_tags(still.exif)
            pixel = _samples(replace(still, gray=self._gray))
            _add_layout(tags, pixel, self._size, strip.tell())
            if still.icc_profile:
                tags[34675] = still.icc_profile
            if still.xmp:
                tags[700] = still.xmp
            if still.dpi:
                tags[282], tags[283], tags[296] = (*still.dpi, 2)  # per inch
            tags.save(self._file)
            strip.seek(0)
            shutil.copyfileobj(strip, self._file)


def _differences(samples: Samples) -> Samples:
    """Each sample less its left neighbour, modulo its range: TIFF 6.0 section 14."""
    steps = samples.copy()
    steps[:, 1:] -= samples[:, :-1]
    return steps


def _exif_tags(exif: bytes | None) -> ImageFileDirectory_v2:
    from PIL import Image
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2()
    block = Image.Exif()
    block.load(exif or b"")
    for tag in set(block) - TIFF_LAYOUT:
        directory = block.get_ifd(tag) if tag in {34665, 34853} else None  # EXIF, GPS
        tags[tag] = directory or block[tag]
    return tags


def _add_layout(
    tags: ImageFileDirectory_v2, pixel: Samples, size: tuple[int, int], strip_bytes: int
) -> None:
    (width, height), count = size, pixel.shape[2]
    tags[256], tags[257], tags[278] = width, height, height  # all rows in one strip
    tags[258] = (pixel.itemsize * 8,) * count
    tags[259], tags[317] = 8, 2  # deflate, horizontal differences
    tags[262] = 1 if count < 3 else 2  # black is zero | RGB
    tags[277] = count
    if count in {2, 4}:
        tags[338] = 2  # straight alpha
    tags[273], tags[279] = 0, strip_bytes  # offset: Pillow counts from the end of the tags
    tags.tagtype[273] = tags.tagtype[279] = 4  # 32 bits


_TAGS = frozenset({"ICC profile", "EXIF", "XMP"})
_FORMATS = {
    "PNG": _Format(
        _Png,
        2**31 - 1,
        _TAGS | {"alpha", "16 bits", "greyscale", "resolution", "text"},
    ),
    "JPEG": _Format(
        partial(_Collected, _write_jpeg),
        65500,  # libjpeg's own limit is below the format's
        _TAGS | {"greyscale", "resolution", "comment"},
    ),
    "WEBP": _Format(partial(_Collected, _write_webp), 16383, _TAGS | {"alpha"}),
    "BMP": _Format(
        partial(_Collected, _write_bmp), 2**31 - 1, frozenset({"greyscale", "resolution"})
    ),
    "TIFF": _Format(
        _Tiff,
        2**31 - 1,
        _TAGS | {"alpha", "16 bits", "greyscale", "resolution"},
    ),
}
