"""Still pictures: file -> array, with everything that travels beside the pixels.

With `image_writer` the only door to Pillow in inference. Pillow reads and writes 8 bits a sample;
it reduces 16-bit colour to 8 without a word (seen on Pillow 13), so PyAV reads 16-bit samples.

Note [Upright pictures]: cameras store the sensor's rows and an EXIF tag that says how to turn
them. Programs differ in whether they obey the tag, so `read` turns the pixels and sets the tag
to 1; the rest of the EXIF block is kept to the byte, since maker notes hold offsets into it. XMP
is not kept: it repeats the tag.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import av
import numpy as np
from numpy.typing import NDArray

from vidsr.errors import MediaError
from vidsr.media.door import MAX_PIXELS

if TYPE_CHECKING:
    from PIL import Image

Samples = NDArray[np.uint8 | np.uint16]

ANIMATION_SUFFIXES = {".gif": "GIF", ".webp": "WEBP", ".apng": "PNG", ".png": "PNG"}
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
    xmp: bytes | None = None  # without an orientation
    comment: bytes | None = None  # JPEG only
    iptc: bool = False  # the source had such a block; no format keeps it here
    gamma: float | None = None  # of a PNG whose samples are not sRGB; no format keeps it here

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
    with _opened(path) as image:
        _refuse_animated(path, image)
        orientation = image.getexif().get(_ORIENTATION, 1)  # before load: TIFF turns itself there
        image.load()
        if _sample_bits(image) == 16:
            samples = _decode_16_bit(path.read_bytes(), image)
        else:
            samples = _decode_8_bit(path, image)
            orientation = 1 if image.format == "TIFF" else orientation
        return _still(image, samples, orientation)


@dataclass(frozen=True)
class Head:
    """What the head of a picture file says; no pixel is decoded for it."""

    width: int  # upright
    height: int
    depth: Literal[8, 16]  # bits a sample
    gray: bool
    alpha: bool
    frames: int  # more than one: an animation


def read_head(path: Path) -> Head:
    """Look at a picture without decoding it.

    Raises:
        MediaError: missing, empty, no picture, or above MAX_PIXELS.
    """
    with _opened(path) as image:
        exif = image.info.get("exif")  # `getexif` would decode a PNG to the end to find one
        turned = (image.format != "PNG" or exif) and image.getexif().get(_ORIENTATION, 1) >= 5
        width, height = image.size[::-1] if turned else image.size
        return Head(
            width=width,
            height=height,
            depth=_sample_bits(image),
            gray=image.mode.startswith(("1", "L", "I;16")),
            alpha=bool(image.has_transparency_data),
            frames=getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1,
        )


def read_animation(path: Path) -> Iterator[tuple[Still, Fraction]]:
    """The pictures of an animated GIF, WebP or PNG as they are shown, and for how long each.

    Yields:
        A picture with alpha, and its duration in seconds.

    Raises:
        MediaError: as `read`; also for an animated PNG of 16 bits, which Pillow reduces to 8.
    """
    with _opened(path) as image:
        if _sample_bits(image) == 16:
            raise MediaError(f"{path}: animations of 16 bits are not read; convert it to 8 first")
        first = int(getattr(image, "default_image", False))  # an APNG's, for those who know no APNG
        for number in range(first, getattr(image, "n_frames", 1)):
            image.seek(number)
            samples = np.array(image.convert("RGBA"))
            duration = Fraction(image.info.get("duration", 0)) / 1000
            profile = image.info.get("icc_profile") or None
            still = Still(samples[..., :3], samples[..., 3], icc_profile=profile)
            yield still, duration or _SHORT


def plays_of(path: Path) -> int:
    """How often an animation is shown; 0 is without end.

    Raises:
        MediaError: as `read_head`.
    """
    with _opened(path) as image:
        image.load()
        if image.format == "GIF":  # counts repetitions, and none means once
            loop = image.info.get("loop")
            return 1 if loop is None else loop and loop + 1
        return int(image.info.get("loop", 0))


def as_color(still: Still) -> tuple[Still, list[str]]:
    """The still, to be stored in color though its source was grey; and what changes by that."""
    profile = still.icc_profile
    if profile is None or profile[16:20] == b"RGB ":
        return replace(still, gray=False), []
    return replace(still, gray=False, icc_profile=None), ["its ICC profile, for grey, is dropped"]


_NAMES = tuple(dict.fromkeys(SUFFIXES.values()))
_ORIENTATION = 0x0112
_ANIMATED = {"GIF", "WEBP", "PNG"}
_SHORT = Fraction(1, 10)  # seconds that browsers show a picture for whose duration is zero
BROKEN: tuple[type[Exception], ...] = (
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
            f"{path}: the content is no picture that vidsr reads ({', '.join(_NAMES)}),"
            " or its start is damaged; export it again"
        ) from exc
    except Image.DecompressionBombError as exc:
        raise MediaError(
            f"{path}: larger than {MAX_PIXELS // 1_000_000} megapixels; split it first ({exc})"
        ) from exc
    except BROKEN as exc:
        raise MediaError(
            f"{path}: the picture cannot be decoded ({exc}); it is damaged or cut short,"
            " copy or export it again"
        ) from exc


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    from PIL import Image

    with _reading(path), Image.open(path, formats=(*_NAMES, "GIF")) as image:
        yield image


def _refuse_animated(path: Path, image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a camera's JPEG with further views behind it
        raise MediaError(
            f"{path}: has {frames} pictures; vidsr enlarges one, or an animated GIF, WebP or PNG;"
            " split it first"
        )


def _sample_bits(image: Image.Image) -> Literal[8, 16]:
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
        xmp=_xmp(image),
        comment=image.info.get("comment") if image.format in {"JPEG", "MPO"} else None,
        iptc=_IPTC in image.info.get("photoshop", {}),
        gamma=_gamma(image),
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


def _xmp(image: Image.Image) -> bytes | None:
    """The XMP packet, less its word on orientation: the picture is upright now."""
    packet = image.info.get("xmp")
    if isinstance(packet, str):
        packet = packet.encode()
    return _XMP_ORIENTATION.sub(b"", packet) if isinstance(packet, bytes) else None


def _gamma(image: Image.Image) -> float | None:
    """What a PNG says of its samples if nothing else does and it is not sRGB's near 1/2.2."""
    gamma = None if {"srgb", "icc_profile"} & set(image.info) else image.info.get("gamma")
    return None if gamma is None or abs(gamma - 1 / 2.2) < 0.01 else float(gamma)


_XMP_ORIENTATION = re.compile(rb'\s+tiff:Orientation="\d"|<tiff:Orientation>\d</tiff:Orientation>')
_IPTC = 0x0404  # of Photoshop's image resources

# ---------------------------------------------------------------- EXIF

_EXIF_HEAD = b"Exif\0\0"
TIFF_LAYOUT = {
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
    for tag in TIFF_LAYOUT & set(exif):
        del exif[tag]
    if not len(exif):
        return None
    with contextlib.suppress(*BROKEN):  # a tag that Pillow cannot store must not cost the picture
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
