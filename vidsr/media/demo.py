"""The project's own demo clip: an inked cartoon, drawn here, so that anyone may use it.

Everything is drawn as geometry in a field of 320 x 180 units, so the same moment can be had at any
size: the true large drawing is the measure for an upscaled small one. Figures move on twos, as
in hand-drawn animation: twelve drawings a second, each shown for two frames of 24.

Pillow and PyAV are loaded inside the functions that draw and encode.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vidsr.errors import MediaError
from vidsr.files import appearing

if TYPE_CHECKING:
    from av import AudioFrame, VideoFrame
    from av.container import OutputContainer
    from av.video.stream import VideoStream
    from PIL.ImageDraw import ImageDraw

Point = tuple[float, float]  # in units, x to the right, y down

FIELD = (320, 180)  # units
DRAWINGS_PER_SECOND = 12
FINE_CANVAS = 5120  # subpixels across; a small picture gets the finer grid, a large one 4 a pixel
SAMPLE_RATE = 48_000
STRIDE = 15  # units that a cat's foot goes while it stands, which is half a second

INK = "#2a2140"
SKY = ("#7cc6ee", "#98d6f2", "#b7e4f4", "#d9f1f0", "#f9f3dc")  # top to horizon
SUN, CLOUD, CLOUD_SHADE = "#ffd25e", "#ffffff", "#dcebf5"
FAR_HILL, NEAR_HILL, MEADOW, MEADOW_SHADE = "#a9d3b0", "#86c17a", "#6cb15c", "#559a4d"
PATH, PATH_EDGE = "#eed9a4", "#d6b97c"
WALL, ROOF, DOOR, GLASS, STONE = "#fbeed5", "#d9604c", "#3f7f94", "#ffe99a", "#cdbfae"
BARK, LEAF, LEAF_SHADE, APPLE = "#8a5a3c", "#4fa05a", "#3c8650", "#e5484d"
FUR, FUR_SHADE, FUR_LIGHT = "#f2a04e", "#cf7d33", "#fff3df"
NOSE, SCARF = "#e8788a", "#3d7bd9"
BALL, BALL_STRIPE, BOARD, WOOD = "#ef5b5b", "#fff6e0", "#e2b878", "#b98a56"

MELODY = (
    *(("E5", 0.0), ("G5", 0.25), ("C6", 0.5), ("B5", 0.75), ("A5", 1.0), ("G5", 1.25)),
    *(("E5", 1.5), ("D5", 1.75), ("E5", 2.0), ("G5", 2.25), ("C5", 2.5)),
)  # (note, start in seconds), repeated every three seconds
BASS = (("C3", 0.0), ("G3", 0.5), ("A3", 1.0), ("E3", 1.5), ("F3", 2.0), ("G3", 2.25), ("C3", 2.5))


def draw_frame(time_seconds: float, width: int, height: int) -> NDArray[np.uint8]:
    """The drawing at a moment as RGB (H,W,3), full range; any size of 16:9, others are stretched.

    The same moment at another size is the same geometry drawn anew, never a resized picture.
    """
    from PIL import Image, ImageDraw

    fineness = 8 if width * 8 <= FINE_CANVAS else 4  # subpixels a pixel, each way
    size = (width * fineness, height * fineness)
    image = Image.new("RGB", size, SKY[-1])
    pen = Pen(ImageDraw.Draw(image), size)
    for draw in SCENE:
        draw(pen, _drawing(time_seconds) / DRAWINGS_PER_SECOND)
    return np.array(image.reduce(fineness))


def demo_picture(index: int, size: tuple[int, int], *, fps: int = 24) -> NDArray[np.uint8]:
    """Frame `index` of the clip at any (width, height): the truth that an upscale is held to."""
    return draw_frame(index / fps, *size)


def draw_demo_clip(
    path: Path, *, seconds: float = 3, width: int = 320, height: int = 180, fps: int = 24
) -> None:
    """Write the clip as mp4: H.264 (BT.709, 4:2:0) and stereo AAC; it appears only when whole.

    Raises:
        MediaError: the file cannot be written, or the encoder refuses the size (odd ones).
    """
    import av

    from vidsr.media.door import output_name

    try:
        with (
            appearing(path) as part,
            av.open(
                output_name(part), "w", format="mp4", options={"movflags": "+faststart"}
            ) as output,
        ):
            output.metadata["title"] = "vidsr demo"
            video = _video_stream(output, (width, height), fps)
            audio = output.add_stream("aac", rate=SAMPLE_RATE, layout="stereo", bit_rate=96_000)
            for frame in _video_frames(round(seconds * fps), (width, height), fps):
                output.mux(video.encode(frame))
            output.mux(video.encode(None))
            output.mux(audio.encode(_sound(seconds)))
            output.mux(audio.encode(None))
    except (av.FFmpegError, OSError) as exc:
        raise MediaError(f"{path}: the demo clip cannot be written ({exc.strerror})") from exc


def _video_stream(output: OutputContainer, size: tuple[int, int], fps: int) -> VideoStream:
    stream = output.add_stream("libx264", rate=fps)
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.time_base = Fraction(1, fps)
    stream.options = {"crf": "20", "preset": "slow", "tune": "animation", "threads": "1"}
    codec = stream.codec_context
    codec.colorspace = codec.color_primaries = codec.color_trc = 1  # BT.709 in H.273
    codec.color_range = 1  # limited
    return stream


def _video_frames(count: int, size: tuple[int, int], fps: int) -> Iterator[VideoFrame]:
    import av

    drawn, picture = -1, np.empty(0, np.uint8)
    for index in range(count):
        if _drawing(index / fps) != drawn:
            drawn, picture = _drawing(index / fps), demo_picture(index, size, fps=fps)
        frame = av.VideoFrame.from_ndarray(picture).reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        frame.pts, frame.time_base = index, Fraction(1, fps)
        yield frame


def _sound(seconds: float) -> AudioFrame:
    import av

    frame = av.AudioFrame.from_ndarray(melody(seconds), "fltp", "stereo")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
    return frame


def _drawing(time_seconds: float) -> int:
    """The number of the drawing that is shown; a frame's time may lie a rounding error early."""
    return math.floor(time_seconds * DRAWINGS_PER_SECOND + 1e-6)


# ---------------------------------------------------------------- the pen


class Pen:
    """Draws in units on a supersampled canvas: flat colours with round ink lines."""

    def __init__(self, draw: ImageDraw, size: tuple[int, int]) -> None:
        self._draw = draw
        self._scale = (size[0] / FIELD[0], size[1] / FIELD[1])

    def fill(self, points: Iterable[Point], color: str) -> None:
        """A flat area without an outline."""
        self._draw.polygon(self._pixels(points), fill=color)

    def line(self, points: Iterable[Point], color: str = INK, width: float = 1.1) -> None:
        """A line of the given width in units, with round joints and ends."""
        pixels, thick = self._pixels(points), width * self._scale[1]
        self._draw.line(pixels, fill=color, width=max(1, round(thick)), joint="curve")
        if thick > 2:
            for x, y in (pixels[0], pixels[-1]):
                half = thick / 2
                self._draw.ellipse((x - half, y - half, x + half, y + half), fill=color)

    def shape(self, points: Iterable[Point], color: str, width: float = 1.1) -> None:
        """A flat area with an ink outline."""
        corners = list(points)
        self.fill(corners, color)
        self.line([*corners, corners[0], corners[1]], width=width)

    def limb(self, points: Iterable[Point], color: str, width: float) -> None:
        """A thick line with an ink outline."""
        spine = list(points)
        self.line(spine, width=width + 2.2)
        self.line(spine, color, width)

    def cluster(self, discs: Iterable[tuple[float, float, float]], color: str) -> None:
        """Discs (x, y, radius) with one outline around them all."""
        together = list(discs)
        for x, y, radius in together:
            self.fill(ring((x, y), radius + 1.1), INK)
        for x, y, radius in together:
            self.fill(ring((x, y), radius), color)

    def _pixels(self, points: Iterable[Point]) -> list[Point]:
        return [(x * self._scale[0], y * self._scale[1]) for x, y in points]


def ring(center: Point, radius: float, height: float | None = None) -> list[Point]:
    """Points of a circle, or of an ellipse with half axes `radius` and `height`."""
    tall = radius if height is None else height
    angles = (step * math.tau / 72 for step in range(72))
    return [(center[0] + radius * math.cos(a), center[1] + tall * math.sin(a)) for a in angles]


def arc(center: Point, radius: float, start: float, end: float) -> list[Point]:
    """Points of a part of a circle; degrees, clockwise from the right."""
    angles = (math.radians(start + (end - start) * step / 24) for step in range(25))
    return [(center[0] + radius * math.cos(a), center[1] + radius * math.sin(a)) for a in angles]


def curve(points: Sequence[Point]) -> list[Point]:
    """A smooth line through the points (Catmull-Rom)."""
    padded = [points[0], *points, points[-1]]
    between = [
        (_spline(t / 8, *(p[0] for p in four)), _spline(t / 8, *(p[1] for p in four)))
        for four in zip(padded, padded[1:], padded[2:], padded[3:], strict=False)
        for t in range(8)
    ]
    return [*between, points[-1]]


def _spline(t: float, a: float, b: float, c: float, d: float) -> float:
    return b + t * ((c - a) + t * ((2 * a - 5 * b + 4 * c - d) + t * (3 * b - 3 * c + d - a))) / 2


def moved(points: Iterable[Point], to: Point, turn: float = 0, size: float = 1) -> list[Point]:
    """Points around the origin, sized, turned by radians (clockwise) and moved."""
    cos, sin = math.cos(turn) * size, math.sin(turn) * size
    return [(to[0] + x * cos - y * sin, to[1] + x * sin + y * cos) for x, y in points]


def box(left: float, top: float, right: float, bottom: float) -> list[Point]:
    """The corners of a rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


# ---------------------------------------------------------------- the scene, back to front


def draw_sky(pen: Pen, _: float) -> None:
    """Flat bands with wavy edges."""
    pen.fill(box(0, 0, *FIELD), SKY[0])
    for index, color in enumerate(SKY[1:]):
        top = 20 + 20 * index
        edge = [(x, top + 2.5 * math.sin(x / 23 + index * 2)) for x in range(0, 321, 4)]
        pen.fill([*edge, (320, 180), (0, 180)], color)


def draw_sun(pen: Pen, time: float) -> None:
    """A disc with turning rays."""
    center = (238, 28)
    for ray in range(12):
        turn = ray * math.tau / 12 + time * 0.5
        pen.shape(moved([(17, -2.2), (24, 0), (17, 2.2)], center, turn), SUN, 0.8)
    pen.shape(ring(center, 13), SUN)


def draw_clouds(pen: Pen, time: float) -> None:
    """Two clouds that drift to the right."""
    puffs = ((-15, 2, 7), (-6, -3, 10), (6, -1, 8), (15, 3, 6), (0, 4, 7))
    for x, y, size, speed in ((64, 26, 1.0, 3.0), (166, 44, 0.7, 2.0)):
        at = x + time * speed
        pen.cluster([(at + dx * size, y + dy * size, r * size) for dx, dy, r in puffs], CLOUD)
        for dx, dy, radius in puffs[1:4]:
            shade = arc((at + dx * size, y + dy * size), radius * size * 0.7, 20, 110)
            pen.line(shade, CLOUD_SHADE, 1.2 * size)


def draw_hills(pen: Pen, _: float) -> None:
    """Two ridges with hatched slopes, and the meadow."""
    ridges = ((88, 14, 47, 0.6, FAR_HILL), (106, 10, 36, 2.4, NEAR_HILL))
    for base, rise, wave, phase, color in ridges:
        top = [(x, base - rise * math.sin(x / wave + phase)) for x in range(-4, 325, 2)]
        pen.shape([*top, (330, 190), (-10, 190)], color)
        for index in range(6, len(top), 4):
            x, y = top[index]
            length = 5 + 3 * math.sin(index * 1.7)
            for row in (0, 9):
                start = (x + row / 2, y + 4 + row)
                pen.line([start, (start[0] - length * 0.6, start[1] + length)], MEADOW_SHADE, 0.45)
    meadow = [(x, 127 + 3 * math.sin(x / 50 + 1)) for x in range(-4, 325, 4)]
    pen.shape([*meadow, (330, 190), (-10, 190)], MEADOW)


def draw_windmill(pen: Pen, time: float) -> None:
    """A stone tower and four latticed sails that turn."""
    hub = (108, 62)
    pen.shape([(101, 66), (115, 66), (119, 108), (97, 108)], WALL)
    for row, y in enumerate(range(71, 106, 5)):
        for x in range(101 + row % 2 * 4, 114, 8):
            pen.line([(x, y), (x + 3.5, y)], STONE, 0.7)
    pen.shape([(105, 108), (105, 99), *arc((108, 99), 3, 180, 360), (111, 108)], DOOR, 0.8)
    pen.shape([(99, 67), *arc((108, 66), 8, 180, 360), (117, 67)], ROOF)
    for sail in range(4):
        turn = sail * math.tau / 4 + time * 1.4
        pen.shape(moved(box(7, 0, 33, 8), hub, turn), CLOUD, 0.8)
        for rib in range(11, 33, 4):
            pen.line(moved([(rib, 0), (rib, 8)], hub, turn), width=0.45)
        pen.line(moved([(7, 4), (33, 4)], hub, turn), width=0.45)
        pen.line(moved([(0, 0), (34, 0)], hub, turn), width=1.4)
    pen.shape(ring(hub, 2.6), ROOF, 0.9)


def draw_chimney(pen: Pen, time: float) -> None:
    """The chimney of the house and its smoke."""
    for puff in range(4):
        age = (time / 2 + puff / 4) % 1
        at = (270 + 9 * age + 2 * math.sin(age * 9), 69 - 30 * age)
        pen.cluster([(*at, 1.5 + 4 * age), (at[0] + 3, at[1] + 1, 1 + 3 * age)], CLOUD)
    pen.shape(box(266, 70, 274, 88), STONE)
    pen.shape(box(264, 68, 276, 72), ROOF, 0.9)


def draw_house(pen: Pen, _: float) -> None:
    """A cottage: corner stones, a tiled roof, a door and a lit window with flowers."""
    pen.shape(box(226, 98, 290, 134), WALL)
    for y in range(103, 133, 5):
        for x in (228 + y % 2, 279 + y % 2):
            pen.line(box(x, y, x + 6, y + 3), STONE, 0.6)
    draw_roof(pen)
    pen.shape([(236, 134), (236, 114), *arc((242, 114), 6, 180, 360), (248, 134)], DOOR)
    for x in (240, 244):
        pen.line([(x, 111), (x, 133)], width=0.4)
    pen.fill(ring((246, 123), 0.9), SUN)
    pen.shape(box(257, 106, 275, 121), GLASS)
    pen.line([(266, 106), (266, 121)], width=0.8)
    pen.line([(257, 113), (275, 113)], width=0.8)
    pen.shape(box(255, 121, 277, 125), BARK, 0.8)
    for x in range(257, 277, 4):
        pen.shape(ring((x, 119.5), 1.7), APPLE if x % 8 == 1 else SUN, 0.5)


def draw_roof(pen: Pen) -> None:
    """Four rows of round tiles."""
    pen.shape([(220, 100), (236, 76), (280, 76), (296, 100)], ROOF)
    for row in range(4):
        y = 79 + row * 5.6
        left, right = 239 - (y - 76) / 1.5, 277 + (y - 76) / 1.5
        for tile in range(int((right - left) / 5.5)):
            pen.line(arc((left + 2.7 + tile * 5.5, y), 2.7, 0, 180), width=0.5)


def draw_tree(pen: Pen, time: float) -> None:
    """An apple tree that sways a little."""
    sway = 1.2 * math.sin(time * math.tau / 3)
    pen.shape(
        curve([(22, 146), (28, 138), (30, 120), (29, 98)])
        + curve([(43, 98), (42, 120), (45, 138), (52, 146)]),
        BARK,
    )
    for x in (33, 36, 39):
        pen.line(curve([(x, 112), (x + 1, 124), (x - 1, 140)]), width=0.5)
    crown = ((16, 84, 15), (36, 66, 20), (58, 82, 15), (38, 92, 16), (24, 70, 14), (52, 68, 13))
    pen.cluster([(x + sway, y, radius) for x, y, radius in crown], LEAF)
    for index in range(34):
        around, out = index * 2.4, 3.4 * math.sqrt(index + 0.5)  # sunflower spacing
        leaf = (37 + sway + 1.5 * out * math.cos(around), 79 + out * math.sin(around))
        pen.line(arc(leaf, 2.2, 10, 170), LEAF_SHADE, 0.8)
    for x, y in ((20, 88), (31, 66), (44, 86), (56, 76), (42, 70)):
        pen.shape(ring((x + sway, y), 2.6), APPLE, 0.8)
        pen.line(arc((x + sway, y), 1.4, 190, 260), CLOUD, 0.6)


def draw_sign(pen: Pen, _: float) -> None:
    """A wooden board that says vidsr."""
    for x in (149, 203):
        pen.shape(box(x, 92, x + 4, 141), WOOD)
    pen.shape(box(141, 73, 215, 102), BOARD)
    for y in (79, 88, 96):
        pen.line(curve([(144, y), (161, y + 1.2), (183, y - 1), (212, y + 0.5)]), WOOD, 0.5)
    for x, y in ((144, 76), (212, 76), (144, 99), (212, 99)):
        pen.fill(ring((x, y), 0.8), INK)
    letters: tuple[tuple[float, list[Point]], ...] = (
        (150, [(0, -11), (4.5, 0), (9, -11)]),
        (165, [(0, -11), (0, 0)]),
        (165, [(0, -16.2), (0, -15.8)]),
        (170, [*arc((5.5, -5.5), 5.5, 0, 360)]),
        (170, [(11, -17), (11, 0)]),
        (
            186,
            curve([(8, -9), (4.5, -11), (1, -9), (2, -6.5), (6.5, -4.8), (8, -2), (4, 0), (0, -2)]),
        ),
        (199, [(0, -11), (0, 0)]),
        (199, curve([(0, -6), (2.2, -9.8), (6, -10.6)])),
    )
    for left, points in letters:
        pen.line(moved(points, (left + 3, 95)), width=2.6)


def draw_path(pen: Pen, _: float) -> None:
    """The sandy way in front, with pebbles, tufts of grass and flowers."""
    upper = [(x, 149 + 1.5 * math.sin(x / 31)) for x in range(-4, 325, 4)]
    lower = [(x, 168 + 1.5 * math.sin(x / 27 + 2)) for x in range(324, -5, -4)]
    pen.shape([*upper, *lower], PATH)
    for index in range(26):
        x, y = index * 12.7 % 320, 153 + index * 7.3 % 12
        pen.line([(x, y), (x + 2 + index % 3, y)], PATH_EDGE, 0.9)
    for index in range(40):
        x, y = index * 37.3 % 320, (139, 143, 173, 177)[index % 4]
        for lean in (-2, 0, 2):
            pen.line([(x + lean / 3, y), (x + lean, y - 4)], MEADOW_SHADE, 0.7)
    for index in range(14):
        x, y = 9 + index * 53.9 % 312, (144, 175)[index % 2]
        pen.line([(x, y), (x, y - 4)], MEADOW_SHADE, 0.8)
        for petal in range(5):
            pen.fill(moved(ring((1.6, 0), 1.1), (x, y - 5), petal * math.tau / 5), CLOUD)
        pen.fill(ring((x, y - 5), 1), SUN)


def draw_ball(pen: Pen, time: float) -> None:
    """A ball that bounces ahead of the cat, flattened where it lands."""
    beat = time / 0.75 % 1
    height = 4 * beat * (1 - beat)
    squash = 1 + 0.16 * max(0.0, 1 - height * 5)
    x, ground, radius = cat_x(time) + 62, 163, 8
    pen.fill(ring((x, ground), radius * (1.1 - 0.4 * height), 1.8), PATH_EDGE)
    center = (x, ground - radius / squash - 34 * height)
    pen.shape(ring(center, radius * squash, radius / squash), BALL)
    turn = time * 3
    for side in (-1, 1):
        stripe = [(dx, side * (1.2 + dx * dx / 22)) for dx in range(-5, 6)]
        pen.line(moved(stripe, center, turn), BALL_STRIPE, 1.6)
    pen.line(arc(center, 5.6, 200, 250), CLOUD, 1.1)


def cat_x(time: float) -> float:
    """Where the cat is: as fast as its standing feet go back, so that they do not slide."""
    return 92 + time * STRIDE * 2


def draw_cat(pen: Pen, time: float) -> None:
    """A cat with a scarf, walking."""
    x, bob = cat_x(time), 0.9 * math.sin(time * math.tau * 2)
    hips, chest = (x - 15, 140 + bob), (x + 13, 139 - bob)
    pen.fill(ring((x, 163), 27, 2.2), PATH_EDGE)
    for hip, phase in ((hips, 0.5), (chest, 0.75)):
        draw_leg(pen, (hip[0] + 3, hip[1] + 3), time + phase, FUR_SHADE)
    wag = 5 * math.sin(time * math.tau)
    tail = [(x - 19, 137), (x - 30, 134), (x - 35, 122), (x - 31 + wag, 111), (x - 26 + wag, 107)]
    pen.limb(curve(tail), FUR, 4.5)
    pen.line(curve(tail)[-11:], FUR_LIGHT, 4.5)
    back = [(x - 22, 139), (x - 15, 130 + bob), (x, 131), (x + 14, 128 - bob), (x + 22, 136)]
    belly = [(x + 17, 147), (x, 148), (x - 16, 149), (x - 22, 139)]
    pen.shape(curve([*back, *belly]), FUR)
    for dx in (-9, -3, 3):
        pen.line(curve([(x + dx, 132), (x + dx + 1, 136), (x + dx, 139)]), FUR_SHADE, 1.6)
    for hip, phase in ((hips, 0.0), (chest, 0.25)):
        draw_leg(pen, (hip[0], hip[1] + 3), time + phase, FUR)
    draw_head(pen, (x + 24, 121 - bob), time)


def draw_leg(pen: Pen, hip: Point, phase: float, color: str) -> None:
    """One leg: its foot stands half a second while the body passes, then swings forward."""
    cycle = phase % 1
    if cycle < 0.5:
        reach, lift = STRIDE * (0.5 - 2 * cycle), 0.0
    else:
        swing = 2 * cycle - 1
        reach = STRIDE * (swing * swing * (3 - 2 * swing) - 0.5)
        lift = 5 * math.sin(swing * math.pi)
    foot = (hip[0] + reach, 161 - lift)
    knee = ((hip[0] + foot[0]) / 2 + 1.5 + lift / 3, (hip[1] + foot[1]) / 2)
    pen.limb(curve([hip, knee, foot]), color, 5)
    pen.limb([foot, (foot[0] + 2.5, foot[1])], FUR_LIGHT, 3.6)


def draw_head(pen: Pen, center: Point, time: float) -> None:
    """The head: ears, face, blinking eyes, whiskers, and the scarf below."""
    x, y = center
    flutter = 2 * math.sin(time * math.tau * 2)
    pen.shape([(x - 9, y + 12), (x - 22, y + 13 + flutter), (x - 20, y + 19 - flutter)], SCARF)
    pen.limb(curve([(x - 9, y + 11), (x - 1, y + 15), (x + 7, y + 12)]), SCARF, 4)
    for side in (-1, 1):
        ear = [(side * 11.5, -4), (side * 10.5, -18), (side * 2.5, -10)]
        pen.shape(moved(ear, center), FUR)
        pen.fill(moved(ear, (x + side * 3.1, y - 3.8), size=0.55), NOSE)
    pen.shape(ring(center, 13.5, 11.8), FUR)
    pen.fill(ring((x + 3, y + 5.2), 7.5, 4.6), FUR_LIGHT)
    for dx in (-3, 0, 3):
        pen.line([(x + 1 + dx, y - 10.5), (x + 1 + dx * 0.7, y - 6.8)], FUR_SHADE, 1.3)
    for eye in (x - 3.2, x + 7.6):
        if time % 1.5 >= 1.25:
            pen.line(arc((eye, y - 1.5), 2.2, 20, 160), width=1.1)
        else:
            pen.fill(ring((eye, y - 1), 2.1, 2.9), INK)
            pen.fill(ring((eye + 0.7, y - 2.2), 0.9), CLOUD)
    pen.shape([(x + 0.8, y + 2.4), (x + 4.4, y + 2.4), (x + 2.6, y + 4.4)], NOSE, 0.6)
    pen.line(arc((x + 0.7, y + 4.6), 1.9, 10, 150), width=0.8)
    pen.line(arc((x + 4.5, y + 4.6), 1.9, 30, 170), width=0.8)
    for rise in (-1.5, 0.5, 2.5):
        pen.line([(x - 5, y + 4 + rise / 3), (x - 14, y + 3.5 + rise)], width=0.4)
        pen.line([(x + 9.5, y + 4 + rise / 3), (x + 18, y + 3.5 + rise)], width=0.4)


SCENE = (
    *(draw_sky, draw_sun, draw_clouds, draw_hills, draw_path, draw_windmill, draw_chimney),
    *(draw_house, draw_tree, draw_sign, draw_ball, draw_cat),
)


# ---------------------------------------------------------------- the sound


def melody(seconds: float) -> NDArray[np.float32]:
    """Plucked notes over a bass as (2, samples) in [-1, 1], 48 kHz."""
    count = round(seconds * SAMPLE_RATE)
    sound = np.zeros((2, count))
    for index, (name, start, loudness, decay) in enumerate(_notes(seconds)):
        pan = 0.5 + 0.3 * math.sin(index * 2.1)
        first = round(start * SAMPLE_RATE)
        time = np.arange(count - first) / SAMPLE_RATE
        tone = loudness * _pluck(_frequency(name), time) * np.exp(-decay * time)
        sound[:, first:] += np.outer([1 - pan, pan], tone)
    fade = np.minimum(1, np.arange(count)[::-1] / (0.05 * SAMPLE_RATE))
    return np.ascontiguousarray(sound * fade, dtype=np.float32)


def _notes(seconds: float) -> Iterator[tuple[str, float, float, float]]:
    """(note, start in seconds, loudness, decay a second) of everything that sounds."""
    for turn in range(math.ceil(seconds / 3)):
        for notes, loudness, decay in ((MELODY, 0.4, 5.0), (BASS, 0.45, 3.0)):
            for name, start in notes:
                if start + 3 * turn < seconds:
                    yield name, start + 3 * turn, loudness, decay


def _pluck(frequency: float, time: NDArray[np.float64]) -> NDArray[np.float64]:
    """Odd partials of a triangle wave, the high ones fading first, after an attack of 4 ms."""
    partials = [
        np.sin(math.tau * frequency * k * time) * np.exp(-2.0 * (k - 1) * time) / k**2
        for k in (1, 3, 5)
    ]
    plucked: NDArray[np.float64] = np.minimum(1, time / 0.004) * sum(partials)
    return plucked


def _frequency(name: str) -> float:
    """Hertz of a natural note such as "C5", in equal temperament with A4 = 440."""
    semitone = {"C": -9, "D": -7, "E": -5, "F": -4, "G": -2, "A": 0, "B": 2}[name[0]]
    return float(440 * 2 ** (semitone / 12 + int(name[1]) - 4))
