"""VideoFormat: what the processed stream becomes, and what each encoder wants for it.

Note [x264 and AVX-512]
~~~~~~~~~~~~~~~~~~~~~~~
The same input gives the same bytes: what resumes after a kill is joined to what was written before.
x264's macroblock tree breaks that where it computes with AVX-512: of 150 encodings of 27 frames at
preset medium 20 came out otherwise (x264 in PyAV 18, an AMD EPYC), and none with AVX2, whose result
is that of the other 130. So there x264 is told to use AVX2.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
import av.codec
import av.error

from vidsr.errors import RequestError
from vidsr.frame import ColorSpec, Matrix, PixelLayout, Range, Siting
from vidsr.media import ffmpeg
from vidsr.media.door import planar_name
from vidsr.media.hdr import hdr_options
from vidsr.media.probe import VideoInfo

LARGEST_CRF = 51  # of x264 and x265, which silently take this for more


@dataclass(frozen=True)
class EncoderRequest:
    """What the user asked of the encoder; None is our choice."""

    encoder: str | None = None  # FFmpeg's name
    crf: float | None = None  # quality on the encoder's own scale
    preset: str | None = None
    options: dict[str, str] = field(default_factory=dict)  # passed through as they are
    pix_fmt: str | None = None
    threads: int = 0
    ffmpeg: str | None = None  # a program, by path or name, that encodes; None: FFmpeg's libraries

    def __post_init__(self) -> None:
        # x264, x265 and VP9 would silently take what lies between -1 and 0 for "not set".
        if self.crf is not None and not 0 <= self.crf < math.inf:
            raise RequestError(f"--crf {self.crf:g}: encoders take 0 (best) and more")


def unused(request: EncoderRequest) -> list[str]:
    """A sentence about what was asked of an encoder, where there is none: pictures have none."""
    given = {
        "--encoder": request.encoder,
        "--crf": request.crf,
        "--preset": request.preset,
        "--enc": request.options or None,
        "--pix-fmt": request.pix_fmt,
    }
    names = [name for name, value in given.items() if value is not None]
    return [f"{', '.join(names)}: for video, not used for pictures"] if names else []


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
    packed: bool = False  # ffv1 takes 8-bit RGB only as bgr0 or bgra
    ffmpeg: str | None = None  # path of the program that encodes, if it is not FFmpeg's libraries
    codec: str | None = None  # FFmpeg's name of what comes out, such as "hevc"

    @property
    def pix_fmt(self) -> str:
        """FFmpeg's name of what the encoder gets."""
        packed = "bgra" if self.layout.alpha else "bgr0"
        return packed if self.packed else planar_name(self.layout)

    @property
    def opening_options(self) -> dict[str, str]:
        """What the encoder is opened with, see Note [x264 and AVX-512]."""
        return steady_options(self.encoder, self.options)

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
    worst: float = math.inf  # quality
    largest_side: int = 65535
    smallest_side: int = 1


_NVENC = _Traits("cq", "19", "preset", "p5", {"rc": "vbr", "b": "0"}, largest_side=8192)
_TRAITS = {
    "libx264": _Traits("crf", "17", "preset", "medium", worst=LARGEST_CRF, largest_side=16384),
    "libx265": _Traits(
        "crf",
        "18",
        "preset",
        "medium",
        {"x265-params": "log-level=error"},
        worst=LARGEST_CRF,
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


def steady_options(encoder: str, options: dict[str, str]) -> dict[str, str]:
    """Options with which an encoder gives the same bytes each time: x264 is kept from AVX-512."""
    import torch  # here: `--help` knows this room, and loads no torch

    if encoder.startswith("libx264") and torch.backends.cpu.get_cpu_capability() == "AVX512":
        return _merge({"x264-params": "asm=avx2"}, options)
    return dict(options)


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
    program = None if request.ffmpeg is None else ffmpeg.find(request.ffmpeg)
    names = ffmpeg.pixel_formats(program, encoder) if program else _pixel_formats(encoder)
    layout, notes = (
        (_asked_layout(request.pix_fmt, encoder, names), [])
        if request.pix_fmt
        else _choose_layout(source.layout, traits, encoder, names)
    )
    color = _choose_color(source, layout)
    options = _options(encoder, traits, request)
    width, height = size
    if layout != (fitted := _fit_size(layout, size, names)):
        notes.append(f"{width}x{height} is odd: {planar_name(fitted)} instead of subsampled chroma")
        layout = fitted
    if source.layout.alpha:
        layout, kept = _with_alpha(layout, encoder, [] if request.pix_fmt else names)
        notes += kept
        if layout.alpha and encoder == "prores_ks":
            options["profile"] = "4444"
    _check_size(encoder, traits, size)
    if request.encoder is None and encoder == "libx265":
        notes.append("more than 8 bits: HEVC (libx265), since few devices play 10-bit H.264")
    if source.interlaced and encoder != "libx264":
        notes.append(f"the interlaced flag is lost: {encoder} writes progressive frames")
    light, unwritten = hdr_options(encoder, source.hdr)
    notes += unwritten
    wanted = _merge(_merge(options, light), request.options)
    merged = _merge(wanted, _bitstream_options(encoder, color, source))
    chosen = VideoFormat(
        *size,
        layout=layout,
        color=color,
        encoder=encoder,
        options=merged,
        threads=request.threads,
        interlaced=source.interlaced and encoder == "libx264",
        packed=bool(names) and planar_name(layout) not in names,
        ffmpeg=program,
    )
    codec = ffmpeg.try_encoder(chosen) if program else _try_open(chosen)
    return replace(chosen, codec=codec), notes


def siting_if_unsaid(color: ColorSpec) -> Siting:
    """What a video without a word about its siting is taken for."""
    bt2020 = color.matrix in {Matrix.BT2020_NCL, Matrix.BT2020_CL}
    return Siting.TOPLEFT if bt2020 else Siting.LEFT


def keeps_siting(video: VideoFormat, muxer: str) -> bool:
    """Whether chroma comes back where it was, from this encoder's bitstream in this container."""
    siting = video.color.siting
    if not any(video.layout.subsampling) or siting is siting_if_unsaid(video.color):
        return True
    codec = av.codec.Codec(video.encoder, "w").canonical_name
    stated = {Siting.LEFT, Siting.TOPLEFT} if codec == "av1" else set()  # by the bitstream
    if muxer in {"matroska", "webm"}:
        stated |= {Siting.LEFT, Siting.CENTER, Siting.TOPLEFT, Siting.TOP}
    return codec in {"h264", "hevc"} or siting in stated


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
    packed = {"gbrp": "bgr0", "gbrap": "bgra"}.get(name)
    return not names or name in names or packed in names


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


def _with_alpha(
    layout: PixelLayout, encoder: str, names: list[str]
) -> tuple[PixelLayout, list[str]]:
    """The layout with alpha, in 4:4:4 if the encoder has it only there, or else without."""
    for candidate in (layout, replace(layout, subsampling=(0, 0))):
        wanted = replace(candidate, alpha=True)
        if encoder in ALPHA_ENCODERS and names and _takes(names, wanted):
            return wanted, []
    return layout, ["the alpha channel is dropped"]


ALPHA_ENCODERS = {"ffv1", "prores_ks", "libvpx-vp9"}  # whose alpha decoders know again


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
    if request.crf is not None and request.crf > traits.worst:
        raise RequestError(f"--crf {crf}: {encoder} takes 0 (best) to {traits.worst:g}")
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
    usual = color.siting is Siting.LEFT and siting_if_unsaid(color) is Siting.LEFT
    if not usual and color.siting is not Siting.UNSPECIFIED:
        options["chroma_sample_location"] = color.siting.name.lower()
    if source.interlaced and encoder == "libx264":
        options["x264-params"] = "tff=1" if source.top_field_first else "bff=1"
    return options


def _merge(options: dict[str, str], more: dict[str, str]) -> dict[str, str]:
    """Later options win; lists of parameters (x264-params) are joined."""
    lists = {key for key in options.keys() & more.keys() if key.endswith("-params")}
    joined = {key: f"{options[key]}:{more[key]}" for key in lists}
    return {**options, **more, **joined}


def _try_open(video: VideoFormat) -> str:
    """Open the encoder once for nothing, so that what it refuses is known before the first frame.

    Returns:
        FFmpeg's name of the codec.

    Raises:
        RequestError: it cannot run here, or refuses or does not know an option.
    """
    context = av.codec.CodecContext.create(video.encoder, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height = video.width, video.height
    context.pix_fmt = video.pix_fmt
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.options = video.opening_options
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
    return context.codec.canonical_name


@dataclass(frozen=True)
class _Appetite:
    """Memory that an encoder takes, in frames of its own size and layout.

    Measured with 960x540 in 8-bit 4:2:0 on one thread; five threads more took one frame more.
    """

    fixed: int
    each: float  # for each frame of lookahead
    params: str  # the option that holds `rc-lookahead` among others
    lookahead: dict[str, int]  # by preset, as the encoder's documentation says


_APPETITES = {
    "libx264": _Appetite(
        34,
        2.6,
        "x264-params",
        {
            "ultrafast": 0,
            "superfast": 0,
            "veryfast": 10,
            "faster": 20,
            "fast": 30,
            "medium": 40,
            "slow": 50,
            "slower": 60,
            "veryslow": 60,
            "placebo": 60,
        },
    ),
    "libx265": _Appetite(
        100,
        3.8,
        "x265-params",
        {
            "ultrafast": 5,
            "superfast": 10,
            "veryfast": 15,
            "faster": 15,
            "fast": 15,
            "medium": 20,
            "slow": 25,
            "slower": 40,
            "veryslow": 40,
            "placebo": 60,
        },
    ),
}
_OTHERS = _Appetite(16, 0.0, "", {})  # a guess: nothing that looks ahead


def encoder_bytes(video: VideoFormat) -> int:
    """Main memory that the encoder will take, by measurements of x264 and x265."""
    appetite = _APPETITES.get(video.encoder, _OTHERS)
    frames = appetite.fixed + appetite.each * _lookahead(video, appetite)
    return int(frames * video.frame_bytes)


def fit_encoder(video: VideoFormat, limit: int) -> tuple[VideoFormat, list[str]]:
    """The same, looking less far ahead if it would take more bytes; and what to say of it.

    It may still take more: a lookahead of none is the least.
    """
    appetite = _APPETITES.get(video.encoder, _OTHERS)
    before = _lookahead(video, appetite)
    if encoder_bytes(video) <= limit or not before:
        return video, []
    ahead = max(0, int((limit / video.frame_bytes - appetite.fixed) / appetite.each))
    words = f"rc-lookahead={ahead}"
    if video.encoder == "libx264" and ahead == 0:
        words += ":mbtree=0"  # it looks ahead for this alone, and x264 warns
    options = _merge(video.options, {appetite.params: words})
    note = f"{video.encoder} looks {ahead} frames ahead instead of {before}, to save memory"
    return replace(video, options=options), [note]


def _lookahead(video: VideoFormat, appetite: _Appetite) -> int:
    """The last setting of several counts, as it does for the encoder."""
    params = video.options.get(appetite.params, "").split(":")
    asked = [word.partition("=")[2] for word in params if word.startswith("rc-lookahead=")]
    asked = asked or [video.options.get("rc-lookahead", "")]
    if asked[-1].isdecimal():
        return int(asked[-1])
    return appetite.lookahead.get(video.options.get("preset", "medium"), 0)


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
