"""VideoFormat: what the processed stream becomes, and what each encoder wants for it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
import av.codec
import av.error

from vidsr.errors import RequestError
from vidsr.frame import ColorSpec, Matrix, PixelLayout, Range, Siting
from vidsr.media.door import planar_name
from vidsr.media.probe import VideoInfo


@dataclass(frozen=True)
class EncoderRequest:
    """What the user asked of the encoder; None is our choice."""

    encoder: str | None = None  # FFmpeg's name
    crf: float | None = None  # quality on the encoder's own scale
    preset: str | None = None
    options: dict[str, str] = field(default_factory=dict)  # passed through as they are
    pix_fmt: str | None = None
    threads: int = 0


@dataclass(frozen=True)
class VideoFormat:
    """What the processed stream becomes."""

    width: int
    height: int
    layout: PixelLayout
    color: ColorSpec
    encoder: str
    options: dict[str, str]  # of the encoder, quality included
    sample_aspect: Fraction | None = None  # None leaves it out
    threads: int = 0  # of the encoder; 0 lets it choose
    interlaced: bool = False
    packed: bool = False  # ffv1 takes 8-bit RGB only as bgr0

    @property
    def pix_fmt(self) -> str:
        """FFmpeg's name of what the encoder gets."""
        return "bgr0" if self.packed else planar_name(self.layout)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame's planes."""
        shapes = self.layout.plane_shapes(self.width, self.height)
        return sum(h * w for h, w in shapes) * (1 if self.layout.depth == 8 else 2)


@dataclass(frozen=True)
class _Traits:
    """How an encoder spells quality and speed, and our defaults for it."""

    quality: str | None = None
    default_quality: str = ""
    preset: str | None = None  # the option's name
    default_preset: str = ""
    options: dict[str, str] = field(default_factory=dict)
    lossless: bool = False
    largest_side: int = 65535
    smallest_side: int = 1


_NVENC = _Traits("cq", "19", "preset", "p5", {"rc": "vbr", "b": "0"}, largest_side=8192)
_TRAITS = {
    "libx264": _Traits("crf", "17", "preset", "medium", largest_side=16384),
    "libx265": _Traits(
        "crf",
        "18",
        "preset",
        "medium",
        {"x265-params": "log-level=error"},
        smallest_side=64,  # libx265 writes past its own memory on pictures 48 pixels wide
    ),
    "libsvtav1": _Traits("crf", "24", "preset", "6", largest_side=16384),
    "libvpx-vp9": _Traits("crf", "22", "cpu-used", "3", {"b": "0", "row-mt": "1"}),
    "ffv1": _Traits(options={"level": "3", "slicecrc": "1"}, lossless=True),
    "prores_ks": _Traits(options={"profile": "hq"}),
    "h264_nvenc": replace(_NVENC, largest_side=4096),
    "hevc_nvenc": _NVENC,
    "av1_nvenc": _NVENC,
}


def choose_format(
    source: VideoInfo, size: tuple[int, int], request: EncoderRequest
) -> tuple[VideoFormat, list[str]]:
    """The output's format at `size` (width, height), and a sentence for each thing that changes.

    Raises:
        RequestError: no such encoder, or it cannot do what was asked.
    """
    deep = source.layout.depth > 8 and min(size) >= _TRAITS["libx265"].smallest_side
    encoder = request.encoder or ("libx265" if deep else "libx264")
    traits = _TRAITS.get(encoder, _Traits())
    names = _pixel_formats(encoder)
    layout, notes = (
        (_asked_layout(request.pix_fmt, encoder, names), [])
        if request.pix_fmt
        else _choose_layout(source.layout, traits, encoder, names)
    )
    if source.layout.alpha:
        notes.append("the alpha channel is dropped")
    color = _choose_color(source, layout)
    options = _options(encoder, traits, request)
    width, height = size
    if layout != (fitted := _fit_size(layout, size, names)):
        notes.append(f"{width}x{height} is odd: {planar_name(fitted)} instead of subsampled chroma")
        layout = fitted
    _check_size(encoder, traits, size)
    if request.encoder is None and encoder == "libx265":
        notes.append("more than 8 bits: HEVC (libx265), since few devices play 10-bit H.264")
    if source.interlaced and encoder != "libx264":
        notes.append(f"the interlaced flag is lost: {encoder} writes progressive frames")
    merged = _merge(_merge(options, request.options), _bitstream_options(encoder, color, source))
    chosen = VideoFormat(
        *size,
        layout=layout,
        color=color,
        encoder=encoder,
        options=merged,
        threads=request.threads,
        interlaced=source.interlaced and encoder == "libx264",
        packed=bool(names) and planar_name(layout) not in names,
    )
    _try_open(chosen)
    return chosen, notes


def _pixel_formats(encoder: str) -> list[str]:
    try:
        codec = av.codec.Codec(encoder, "w")
    except (av.error.FFmpegError, ValueError) as exc:
        near = difflib.get_close_matches(encoder, _TRAITS, n=1) or ["libx264"]
        raise RequestError(f"no encoder {encoder!r} here; did you mean {near[0]}?") from exc
    if codec.type != "video":
        raise RequestError(f"{encoder} does not encode video; use libx264, libx265 or libsvtav1")
    return [pix_fmt.name for pix_fmt in codec.video_formats or ()]


def _takes(names: list[str], layout: PixelLayout) -> bool:
    name = planar_name(layout)
    return not names or name in names or (name == "gbrp" and "bgr0" in names)


def _choose_layout(
    source: PixelLayout, traits: _Traits, encoder: str, names: list[str]
) -> tuple[PixelLayout, list[str]]:
    """The nearest layout that the encoder takes: same model and depth first, never fewer bits."""
    notes: list[str] = []
    wanted = replace(source, alpha=False)
    if source.model == "rgb" and not (traits.lossless and _takes(names, wanted)):
        notes.append("RGB becomes YUV 4:2:0, BT.709 (keep it with --encoder ffv1)")
        wanted = PixelLayout("yuv", source.depth, (1, 1))
    for candidate in _candidates(wanted):
        if _takes(names, candidate):
            if candidate != wanted:
                notes.append(f"{encoder}: {planar_name(wanted)} becomes {planar_name(candidate)}")
            return candidate, notes
    raise RequestError(f"{encoder} takes none of vidsr's pixel formats; use libx264 or ffv1")


def _candidates(wanted: PixelLayout) -> list[PixelLayout]:
    deeper = [d for d in (8, 10, 12, 14, 16) if d >= wanted.depth]
    shallower = [d for d in (14, 12, 10, 8) if d < wanted.depth]
    step_x, step_y = wanted.subsampling

    def loss(steps: tuple[int, int]) -> tuple[bool, int]:  # less chroma than wanted, else how near
        return steps[0] > step_x or steps[1] > step_y, abs(sum(steps) - step_x - step_y)

    nearest = [wanted.subsampling, *sorted([(1, 1), (1, 0), (0, 0)], key=loss)]
    shapes = [replace(wanted, subsampling=s) for s in dict.fromkeys(nearest)]
    if wanted.model == "gray":
        shapes = [wanted, *(PixelLayout("yuv", wanted.depth, s) for s in ((1, 1), (1, 0), (0, 0)))]
    return [replace(shape, depth=depth) for depth in deeper + shallower for shape in shapes]


def _asked_layout(pix_fmt: str, encoder: str, names: list[str]) -> PixelLayout:
    for model, steps in (("gray", [(0, 0)]), ("rgb", [(0, 0)]), ("yuv", _STEPS)):
        for depth in (8, 10, 12, 14, 16):
            for step in steps:
                layout = PixelLayout(model, depth, step)  # type: ignore[arg-type]
                if planar_name(layout) == pix_fmt and _takes(names, layout):
                    return layout
    planar = ", ".join(name for name in names if name.startswith(("yuv4", "gray", "gbrp")))
    raise RequestError(f"--pix-fmt {pix_fmt} does not go with {encoder}; these do: {planar}")


_STEPS = [(1, 1), (1, 0), (0, 0), (0, 1), (2, 0), (2, 2)]


def _choose_color(source: VideoInfo, layout: PixelLayout) -> ColorSpec:
    if layout.model == "yuv" and source.layout.model == "rgb":
        return ColorSpec(Matrix.BT709, Range.LIMITED, 1, 1, Siting.LEFT)
    if layout.model == "rgb" and source.layout.model != "rgb":
        return replace(source.color, matrix=Matrix.RGB, range=Range.FULL)
    return source.color


def _fit_size(layout: PixelLayout, size: tuple[int, int], names: list[str]) -> PixelLayout:
    """4:4:4 where an odd side does not divide by the chroma step, if the encoder takes it."""
    step_x, step_y = layout.subsampling
    if size[0] % (1 << step_x) == 0 and size[1] % (1 << step_y) == 0:
        return layout
    full = replace(layout, subsampling=(0, 0))
    if not _takes(names, full):
        raise RequestError(
            f"{size[0]}x{size[1]} is odd and the encoder cannot write 4:4:4; "
            "ask for an even --size, or another --encoder"
        )
    return full


def _options(encoder: str, traits: _Traits, request: EncoderRequest) -> dict[str, str]:
    options = dict(traits.options)
    crf = None if request.crf is None else f"{request.crf:g}"
    for flag, name, asked, default in (
        ("--crf", traits.quality, crf, traits.default_quality),
        ("--preset", traits.preset, request.preset, traits.default_preset),
    ):
        if name:
            options[name] = default if asked is None else asked
        elif asked is not None:
            raise RequestError(f"{encoder} has no {flag}; set its own options with --enc key=value")
    return options


def _bitstream_options(encoder: str, color: ColorSpec, source: VideoInfo) -> dict[str, str]:
    """Siting and field order, which no attribute of PyAV carries."""
    options = {}
    if color.siting not in {Siting.LEFT, Siting.UNSPECIFIED}:
        options["chroma_sample_location"] = color.siting.name.lower()
    if source.interlaced and encoder == "libx264":
        options["x264-params"] = "tff=1" if source.top_field_first else "bff=1"
    return options


def _merge(options: dict[str, str], more: dict[str, str]) -> dict[str, str]:
    """Later options win; lists of parameters (x264-params) are joined."""
    lists = {key for key in options.keys() & more.keys() if key.endswith("-params")}
    joined = {key: f"{options[key]}:{more[key]}" for key in lists}
    return {**options, **more, **joined}


def _try_open(video: VideoFormat) -> None:
    """Open the encoder once for nothing, so that what it refuses is known before the first frame.

    Raises:
        RequestError: it cannot run here, or refuses or does not know an option.
    """
    context = av.codec.CodecContext.create(video.encoder, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height = video.width, video.height
    context.pix_fmt = video.pix_fmt
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.options = dict(video.options)
    try:
        context.open()
    except (av.error.FFmpegError, OSError) as exc:
        words = " ".join(f"{key}={value}" for key, value in video.options.items())
        hardware = "; it needs an NVIDIA GPU and its driver" if "nvenc" in video.encoder else ""
        raise RequestError(
            f"{video.encoder} cannot be opened with {words} ({exc.strerror}){hardware}"
        ) from exc
    if unknown := sorted(context.options):
        raise RequestError(f"{video.encoder} knows no option {', '.join(unknown)}")


def _check_size(encoder: str, traits: _Traits, size: tuple[int, int]) -> None:
    if max(size) > traits.largest_side:
        raise RequestError(
            f"{encoder} writes at most {traits.largest_side} pixels a side, not {size[0]}x{size[1]}"
            "; ask for a smaller --height or another --encoder"
        )
    if min(size) < traits.smallest_side:
        raise RequestError(
            f"{encoder} needs {traits.smallest_side} pixels a side, {size[0]}x{size[1]} has fewer"
            "; use --encoder libx264"
        )


def encoders_here() -> dict[str, bool]:
    """Encoders that vidsr knows the options of, and whether each can be opened on this machine."""
    return {name: _opens(name) for name in _TRAITS}


def _opens(encoder: str) -> bool:
    try:
        names = _pixel_formats(encoder)
        pix_fmt = "yuv420p" if "yuv420p" in names else names[0]
        context = av.codec.CodecContext.create(encoder, "w")
        assert isinstance(context, av.VideoCodecContext)
        context.width, context.height, context.pix_fmt = 256, 256, pix_fmt
        context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
        context.options = dict(_TRAITS[encoder].options)
        context.open()
    except (RequestError, av.error.FFmpegError, OSError, ValueError, LookupError):
        return False
    return True


def ffmpeg_version() -> str:
    """Of the libraries that came with PyAV."""
    return str(getattr(av, "ffmpeg_version_info", "unknown"))
