"""Still pictures: file -> array -> file, with everything that travels beside the pixels.

The only door to Pillow in inference. Pillow reads and writes 8 bits a sample; it reduces 16-bit
colour to 8 without a word (seen on Pillow 13), so 16-bit samples are read by PyAV, and written
by PyAV (PNG) or as a plain array (TIFF).

Note [Upright pictures]: cameras store the sensor's rows and an EXIF tag that says how to turn
them. Programs differ in whether they obey the tag, so `read` turns the pixels and sets the tag
to 1; the rest of the EXIF block is kept to the byte, since maker notes hold offsets into it. XMP
is not kept: it repeats the tag.
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast

import av
import numpy as np
from numpy.typing import NDArray

from vidsr.errors import MediaError, RequestError
from vidsr.files import part_of, put_in_place

if TYPE_CHECKING:
    from PIL import Image
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

Samples = NDArray[np.uint8 | np.uint16]

MAX_PIXELS = 178_956_970  # refused above, before memory is taken; Pillow's own limit
SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}


@dataclass
class Still:
    """One picture and what its file said about it; upright, straight alpha, R'G'B' as stored."""

    rgb: Samples  # (H,W,3) uint8 or uint16, full range
    alpha: Samples | None = None  # (H,W), of the same type; 0 is transparent
    gray: bool = False  # the source was greyscale: it is saved as greyscale again
    icc_profile: bytes | None = None  # None: sRGB is meant
    exif: bytes | None = None  # begins with b"Exif\0\0"; the orientation in it is 1
    dpi: tuple[float, float] | None = None  # pixels per inch, (horizontal, vertical)
    format: str = "PNG"  # of the source, as Pillow names it
    text: dict[str, str] = field(default_factory=dict)  # keyword -> text; PNG only

    def __post_init__(self) -> None:
        if self.rgb.ndim != 3 or self.rgb.shape[2] != 3 or self.rgb.dtype not in (np.uint8, "=u2"):
            raise ValueError(f"rgb is {self.rgb.dtype} {self.rgb.shape}; uint8 or uint16 (H,W,3)")
        if self.alpha is not None and (self.alpha.shape, self.alpha.dtype) != (
            self.rgb.shape[:2],
            self.rgb.dtype,
        ):
            raise ValueError(f"alpha {self.alpha.shape} does not fit rgb {self.rgb.shape}")

    @property
    def depth(self) -> Literal[8, 16]:
        """Bits a sample."""
        return 8 if self.rgb.dtype == np.uint8 else 16


def is_picture(path: Path) -> bool:
    """Whether the name looks like a still picture; `read` goes by the content."""
    return path.suffix.lower() in SUFFIXES


def read(path: Path) -> Still:
    """Decode a picture of any suffix by its content, upright and with all its metadata.

    CMYK becomes sRGB through its profile. Palettes become RGB, 1-bit pictures greyscale.

    Raises:
        MediaError: missing, empty, no picture, damaged, animated, above MAX_PIXELS, or samples
            that are neither 8 nor 16 bits.
    """
    from PIL import Image

    with _reading(path), Image.open(path, formats=(*_FORMATS, "GIF")) as image:
        _refuse_animated(path, image)
        orientation = image.getexif().get(_ORIENTATION, 1)  # before load: TIFF turns itself there
        image.load()
        if _sample_bits(image) == 16:
            samples = _decode_16_bit(path.read_bytes(), image)
        else:
            samples = _decode_8_bit(path, image)
            orientation = 1 if image.format == "TIFF" else orientation
        return _still(image, samples, orientation)


def write(path: Path, still: Still, *, quality: int = 95) -> tuple[str, ...]:
    """Encode a picture in the format that the suffix names; it appears whole or not at all.

    PNG, TIFF and BMP are lossless. `quality` (1 to 100) is for JPEG, always 4:4:4, and WebP, where
    100 means lossless.

    Returns:
        What the picture had and the format could not keep, such as "EXIF" or "16 bits".

    Raises:
        RequestError: an unknown suffix, transparency or a size that the format cannot hold.
        MediaError: the file cannot be written; nothing is left behind.
    """
    name = SUFFIXES.get(path.suffix.lower())
    if name is None:
        raise RequestError(f"{path}: pictures are written as {', '.join(SUFFIXES)}")
    if not 1 <= quality <= 100:
        raise RequestError(f"quality {quality} is not between 1 and 100")
    kept, lost = _fit(path, still, _FORMATS[name])
    with _whole(path) as file:
        _FORMATS[name].encode(file, kept, quality)
    return lost


def as_color(still: Still) -> tuple[Still, list[str]]:
    """The still, to be stored in color though its source was grey; and what changes by that."""
    profile = still.icc_profile
    if profile is None or profile[16:20] == b"RGB ":
        return replace(still, gray=False), []
    return replace(still, gray=False, icc_profile=None), ["its ICC profile, for grey, is dropped"]


def check_kept(path: Path, still: Still) -> None:
    """Refuse early what `write` would refuse.

    Raises:
        RequestError: transparency, or a size, that the format of `path` cannot hold.
    """
    _fit(path, still, _FORMATS[SUFFIXES[path.suffix.lower()]])


# ---------------------------------------------------------------- reading

_ORIENTATION = 0x0112
_BROKEN: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, MemoryError),
    *(OverflowError, struct.error, zlib.error, av.FFmpegError),
)  # what decoders raise on damaged files


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises inside into one sentence with the way out."""
    from PIL import Image, UnidentifiedImageError

    try:
        if path.stat().st_size == 0:
            raise MediaError(f"{path}: the file is empty; copy or export it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd tags and of large pictures
            yield
    except FileNotFoundError as exc:
        raise MediaError(f"{path}: no such file; check the name") from exc
    except UnidentifiedImageError as exc:
        raise MediaError(
            f"{path}: the content is no picture that vidsr reads ({', '.join(_FORMATS)}),"
            " or its start is damaged; export it again"
        ) from exc
    except Image.DecompressionBombError as exc:
        raise MediaError(
            f"{path}: larger than {MAX_PIXELS // 1_000_000} megapixels; split it first ({exc})"
        ) from exc
    except _BROKEN as exc:
        raise MediaError(
            f"{path}: the picture cannot be decoded ({exc}); it is damaged or cut short,"
            " copy or export it again"
        ) from exc


def _refuse_animated(path: Path, image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a camera's JPEG with further views behind it
        raise MediaError(
            f"{path}: has {frames} frames; animated pictures come later,"
            " convert it to a video first"
        )


def _sample_bits(image: Image.Image) -> int:
    """8 or 16: how the file stores what Pillow shows as one of these modes."""
    if image.mode.startswith("I;16"):
        return 16
    tags = getattr(image, "tag_v2", {})
    if tags and image.mode in {"L", "LA", "RGB", "RGBA", "RGBX"}:
        return 16 if 16 in tags.get(258, (8,)) else 8
    return 16 if image.format == "PNG" and _png_depth(image) == 16 else 8


def _png_depth(image: Image.Image) -> int:
    with Path(image.filename).open("rb") as file:  # type: ignore[attr-defined]
        return file.read(25)[24]  # signature 8, IHDR head 8, width 4, height 4, then the depth


def _decode_8_bit(path: Path, image: Image.Image) -> Samples:
    """Samples (H,W,C): 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA."""
    if image.mode == "CMYK":
        image = _from_cmyk(image)
    if image.mode not in {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"}:
        raise MediaError(
            f"{path}: pixels of type {image.mode} are not supported;"
            " convert it to 8- or 16-bit RGB first"
        )
    mode = "L" if image.mode in {"1", "L", "LA", "La"} else "RGB"
    if image.mode == "La":  # Pillow converts premultiplied grey only to LA
        image = image.convert("LA")
    wanted = mode + "A" if image.has_transparency_data else mode
    samples = np.array(image.convert(wanted))
    return samples.reshape(*samples.shape[:2], -1)


def _from_cmyk(image: Image.Image) -> Image.Image:
    """SRGB through the embedded profile; by the plain formula if there is none that works."""
    from PIL import ImageCms

    profile = image.info.pop("icc_profile", None)  # describes inks: wrong from here on
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            turned = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            return cast("Image.Image", turned)
    return image.convert("RGB")


_CHANNELS = {"gray16": 1, "ya16": 2, "rgb48": 3, "rgba64": 4}


def _decode_16_bit(data: bytes, image: Image.Image) -> Samples:
    """Samples (H,W,C) as `_decode_8_bit`, without Pillow's reduction."""
    codec = cast("av.VideoCodecContext", av.CodecContext.create(str(image.format).lower(), "r"))
    (frame,) = [*codec.decode(av.Packet(data)), *codec.decode(None)]
    if frame.format.name[:-2] not in _CHANNELS:  # separate planes
        alpha = any(component.is_alpha for component in frame.format.components)
        frame = frame.reformat(format="rgba64le" if alpha else "rgb48le")
    samples = _packed(frame).astype(np.uint16)
    if getattr(image, "tag_v2", {}).get(338, (2,))[0] == 1:  # TIFF: colour times alpha is stored
        alpha_32 = np.maximum(samples[..., -1:], 1).astype(np.uint32)
        straight = (samples[..., :-1].astype(np.uint32) * 65535 + alpha_32 // 2) // alpha_32
        samples[..., :-1] = np.minimum(straight, 65535)
    return samples


def _packed(frame: Any) -> NDArray[np.uint16]:
    """View (H,W,C) of a packed 16-bit PyAV frame, in its own byte order."""
    channels = _CHANNELS[frame.format.name[:-2]]
    plane = frame.planes[0]
    order = ">u2" if frame.format.name.endswith("be") else "<u2"
    rows = np.frombuffer(plane, order).reshape(-1, plane.line_size // 2)
    return rows[: frame.height, : frame.width * channels].reshape(frame.height, -1, channels)


def _still(image: Image.Image, samples: Samples, orientation: int) -> Still:
    samples = _upright(samples, orientation)
    count = samples.shape[2]
    dpi = image.info.get("dpi")
    if dpi and orientation >= 5:
        dpi = dpi[::-1]
    return Still(
        rgb=np.ascontiguousarray(samples[..., :3] if count > 2 else samples[..., [0, 0, 0]]),
        alpha=np.ascontiguousarray(samples[..., -1]) if count in {2, 4} else None,
        gray=count < 3,
        icc_profile=image.info.get("icc_profile") or None,
        exif=_exif(image, orientation),
        dpi=(float(dpi[0]), float(dpi[1])) if dpi and all(dpi) else None,
        format="JPEG" if image.format == "MPO" else str(image.format),
        text=_text(image),
    )


def _upright(samples: Samples, orientation: int) -> Samples:
    """Turn as EXIF 2.32 table 6 says: the tag tells where row 0 and column 0 of the scene lie."""
    if orientation in {5, 6, 7, 8}:
        samples = samples.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        samples = samples[::-1]
    if orientation in {2, 3, 6, 7}:
        samples = samples[:, ::-1]
    return samples


def _text(image: Image.Image) -> dict[str, str]:
    """PNG's text chunks, less those that carry EXIF or XMP in disguise."""
    text: dict[str, str] = getattr(image, "text", {})
    disguised = ("XML:com.adobe.xmp", "Raw profile type")
    return {key: str(value) for key, value in text.items() if not key.startswith(disguised)}


# ---------------------------------------------------------------- EXIF

_EXIF_HEAD = b"Exif\0\0"
_TIFF_LAYOUT = {
    *(254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 280, 281, 284, 290, 291),
    *(317, 318, 319, 320, 322, 323, 324, 325, 330, 332, 338, 339, 340, 341, 342, 347, 529, 530),
    *(531, 532, 700, 34377, 34675, _ORIENTATION),
}  # tags of how a TIFF stores its pixels (TIFF 6.0), not of what the picture is


def _exif(image: Image.Image, orientation: int) -> bytes | None:
    """The EXIF block with orientation 1."""
    exif = image.info.get("exif")
    if image.format == "TIFF" or not isinstance(exif, bytes):  # tags spread in the file
        return _collected_exif(image)
    exif = exif if exif.startswith(_EXIF_HEAD) else _EXIF_HEAD + exif
    return exif if orientation == 1 else _reset_orientation(exif)


def _collected_exif(image: Image.Image) -> bytes | None:
    exif = image.getexif()
    for tag in _TIFF_LAYOUT & set(exif):
        del exif[tag]
    if not len(exif):
        return None
    with contextlib.suppress(*_BROKEN):  # a tag that Pillow cannot store must not cost the picture
        block: bytes = exif.tobytes()
        return block if block.startswith(_EXIF_HEAD) else _EXIF_HEAD + block
    return None


def _reset_orientation(exif: bytes) -> bytes:
    """Patch the tag in place (TIFF 6.0, section 2) and unlink the thumbnail, which stays turned."""
    block, start = bytearray(exif), len(_EXIF_HEAD)
    order = "<" if block[start : start + 2] == b"II" else ">"
    directory = start + struct.unpack_from(order + "I", block, start + 4)[0]
    (count,) = struct.unpack_from(order + "H", block, directory)
    end = directory + 2 + 12 * count
    for entry in range(directory + 2, end, 12):
        if struct.unpack_from(order + "H", block, entry)[0] == _ORIENTATION:
            struct.pack_into(order + "HHIHH", block, entry, _ORIENTATION, 3, 1, 1, 0)
    if end + 4 <= len(block):
        struct.pack_into(order + "I", block, end, 0)
    return bytes(block)


# ---------------------------------------------------------------- writing


@dataclass(frozen=True)
class _Format:
    """What a file format can hold."""

    encode: Callable[[IO[bytes], Still, int], None]
    max_side: int
    keeps: frozenset[str]


def _fit(path: Path, still: Still, target: _Format) -> tuple[Still, tuple[str, ...]]:
    """The still as the format can hold it, and the names of what it cannot."""
    side = max(still.rgb.shape[:2])
    if side > target.max_side:
        raise RequestError(
            f"{path}: a side of {side} pixels is above this format's {target.max_side};"
            " write .png or .tiff"
        )
    alpha = still.alpha
    if alpha is not None and "alpha" not in target.keeps:
        if int(alpha.min()) < np.iinfo(alpha.dtype).max:
            raise RequestError(f"{path}: this format has no transparency; write .png or .webp")
        still = replace(still, alpha=None)  # opaque everywhere: nothing is lost
    has = {
        "16 bits": still.depth == 16,
        "greyscale": still.gray,
        "ICC profile": still.icc_profile is not None,
        "EXIF": still.exif is not None,
        "resolution": still.dpi is not None,
        "text": bool(still.text),
    }
    lost = tuple(name for name, present in has.items() if present and name not in target.keeps)
    return (_reduced(still) if "16 bits" in lost else still), lost


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
    try:
        part = part_of(path)
        with contextlib.ExitStack() as stack:
            stack.callback(part.unlink, missing_ok=True)
            with part.open("wb") as file:
                yield file
            put_in_place(part, path)
    except _BROKEN as exc:
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
    tags = {"icc_profile": still.icc_profile, "exif": still.exif, "dpi": still.dpi}
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


def _write_bmp(file: IO[bytes], still: Still, _: int) -> None:
    _pillow(still).save(file, "BMP", **_metadata(still))


def _write_png(file: IO[bytes], still: Still, _: int) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in still.text.items():
        info.add_text(key, value)
    if still.depth == 8:
        _pillow(still).save(file, "PNG", pnginfo=info, **_metadata(still))
    else:
        _write_16_bit_png(file, still, info)


def _write_16_bit_png(file: IO[bytes], still: Still, info: Any) -> None:
    """PyAV's pixels with the metadata chunks of a one-pixel picture that Pillow wrote."""
    from PIL import Image

    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "PNG", pnginfo=info, **_metadata(still))
    header, *pixels = (
        chunk
        for kind, chunk in _png_chunks(_encode_16_bit_png(_samples(still)))
        if kind in {b"IHDR", b"IDAT", b"IEND"}
    )
    beside = (
        chunk
        for kind, chunk in _png_chunks(pixel.getvalue())
        if kind not in {b"IHDR", b"IDAT", b"IEND"}
    )
    file.write(b"".join([b"\x89PNG\r\n\x1a\n", header, *beside, *pixels]))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, whole chunk) in the order of the file."""
    start = 8
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : start + 8], data[start:end]
        start = end


def _encode_16_bit_png(samples: Samples) -> bytes:
    height, width, count = samples.shape
    name = next(name for name, channels in _CHANNELS.items() if channels == count) + "be"
    frame = av.VideoFrame(width, height, name)
    _packed(frame)[:] = samples
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt = width, height, name
    codec.time_base = Fraction(1, 1)
    codec.options = {"pred": "mixed"}
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])


def _write_tiff(file: IO[bytes], still: Still, _: int) -> None:
    """One deflated strip after the tags; Pillow writes no 16-bit colour and loses sub-directories.

    16-bit grey with alpha is stored as RGBA, since Pillow would not know it again.
    """
    samples = _samples(still)
    if samples.shape[2] == 2 and still.depth == 16:
        samples = _samples(replace(still, gray=False))
    strip = zlib.compress(_differences(samples).astype(samples.dtype.newbyteorder("<")).tobytes())
    tags = _exif_tags(still.exif)
    _add_layout(tags, samples, len(strip))
    if still.icc_profile:
        tags[34675] = still.icc_profile
    if still.dpi:
        tags[282], tags[283], tags[296] = (*still.dpi, 2)  # per inch
    tags.save(file)
    file.write(strip)


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
    for tag in set(block) - _TIFF_LAYOUT:
        directory = block.get_ifd(tag) if tag in {34665, 34853} else None  # EXIF, GPS
        tags[tag] = directory or block[tag]
    return tags


def _add_layout(tags: ImageFileDirectory_v2, samples: Samples, strip_bytes: int) -> None:
    height, width, count = samples.shape
    tags[256], tags[257], tags[278] = width, height, height  # all rows in one strip
    tags[258] = (samples.dtype.itemsize * 8,) * count
    tags[259], tags[317] = 8, 2  # deflate, horizontal differences
    tags[262] = 1 if count < 3 else 2  # black is zero | RGB
    tags[277] = count
    if count in {2, 4}:
        tags[338] = 2  # straight alpha
    tags[273], tags[279] = 0, strip_bytes  # offset: Pillow counts from the end of the tags
    tags.tagtype[273] = tags.tagtype[279] = 4  # 32 bits


_FORMATS = {
    "PNG": _Format(
        _write_png,
        2**31 - 1,
        frozenset({"alpha", "16 bits", "greyscale", "ICC profile", "EXIF", "resolution", "text"}),
    ),
    "JPEG": _Format(
        _write_jpeg, 65535, frozenset({"greyscale", "ICC profile", "EXIF", "resolution"})
    ),
    "WEBP": _Format(_write_webp, 16383, frozenset({"alpha", "ICC profile", "EXIF"})),
    "BMP": _Format(_write_bmp, 2**31 - 1, frozenset({"greyscale", "resolution"})),
    "TIFF": _Format(
        _write_tiff,
        2**31 - 1,
        frozenset({"alpha", "16 bits", "greyscale", "ICC profile", "EXIF", "resolution"}),
    ),
}
