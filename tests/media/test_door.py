"""The seam to PyAV: a repacked picture holds the very same numbers."""

from __future__ import annotations

import gc
import http.server
import os
import threading
from pathlib import Path

import av
import av.error
import av.video.format
import numpy as np
import pytest

from vidsr.errors import MediaError, RequestError
from vidsr.frame import PixelLayout
from vidsr.media.door import layout_of, open_input, picture_of, planar_name, planes_of, translated
from vidsr.media.probe import probe

LAYOUTS = {
    "yuv420p": PixelLayout("yuv", 8, (1, 1)),
    "nv12": PixelLayout("yuv", 8, (1, 1)),
    "yuvj420p": PixelLayout("yuv", 8, (1, 1)),
    "yuvj444p": PixelLayout("yuv", 8, (0, 0)),
    "p010le": PixelLayout("yuv", 10, (1, 1)),
    "yuv422p12le": PixelLayout("yuv", 12, (1, 0)),
    "yuv411p": PixelLayout("yuv", 8, (2, 0)),
    "yuv410p": PixelLayout("yuv", 8, (2, 2)),
    "yuv440p": PixelLayout("yuv", 8, (0, 1)),
    "yuva420p": PixelLayout("yuv", 8, (1, 1), alpha=True),
    "yuyv422": PixelLayout("yuv", 8, (1, 0)),
    "gray": PixelLayout("gray", 8),
    "gray10le": PixelLayout("gray", 10),
    "monow": PixelLayout("gray", 8),
    "ya8": PixelLayout("yuv", 8, (1, 1), alpha=True),
    "ya16le": PixelLayout("yuv", 16, (1, 1), alpha=True),
    "gbrp": PixelLayout("rgb", 8),
    "gbrap10le": PixelLayout("rgb", 10, alpha=True),
    "rgb24": PixelLayout("rgb", 8),
    "bgr0": PixelLayout("rgb", 8),
    "rgba": PixelLayout("rgb", 8, alpha=True),
    "rgb48le": PixelLayout("rgb", 16),
    "rgb565le": PixelLayout("rgb", 8),
    "pal8": PixelLayout("rgb", 8, alpha=True),
}


def noise(*shape, depth=8, seed=0):
    dtype = np.uint8 if depth == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 1 << depth, shape, dtype)


def rows_of(plane, dtype=np.uint8):
    size = np.dtype(dtype).itemsize
    width = (plane.line_size or plane.buffer_size) // size  # a palette is one line without size
    return np.frombuffer(memoryview(plane), dtype).reshape(-1, width)


def packed(name, width, height, *planes, color_range=0):
    """A picture whose planes hold the given rows, as FFmpeg stores them."""
    picture = av.VideoFrame(width, height, name)
    for plane, rows in zip(picture.planes, planes, strict=True):
        rows_of(plane, rows.dtype)[: rows.shape[0], : rows.shape[1]] = rows
    picture.color_range = color_range
    return picture


def interleaved(*samples):
    return np.stack(samples, axis=-1).reshape(samples[0].shape[0], -1)


def assert_planes(picture, *expected):
    planes = planes_of(picture, layout_of(picture.format))
    for plane, samples in zip(planes, expected, strict=True):
        np.testing.assert_array_equal(plane, samples)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layout_of_a_pixel_format(name):
    assert layout_of(av.VideoFormat(name)) == LAYOUTS[name]


@pytest.mark.parametrize("name", ["gray32le", "grayf32le", "gbrpf32le", "gbrapf16le", "rgbaf16le"])
def test_floats_and_more_than_16_bits_are_refused_by_name(name):
    with pytest.raises(MediaError, match=name):
        layout_of(av.VideoFormat(name))


def test_every_format_that_ffmpeg_can_repack_is_stored_in_planes_of_the_right_size():
    # FFmpeg's scaler has no input for these, and no decoder in use gives them.
    unknown = {"bgr4", "rgb4", "v30xbe", "xv30be", "x2rgb10be", "x2bgr10be"}
    unknown |= {f"y21{n}be" for n in (0, 2, 6)}
    seen = 0
    for name in sorted(av.video.format.names):
        pix_fmt = av.VideoFormat(name, 6, 4)
        if not pix_fmt.components or name in unknown:
            continue  # memory of a graphics card
        try:
            layout = layout_of(pix_fmt)
        except MediaError:
            continue
        planes = planes_of(av.VideoFrame(6, 4, name), layout)
        assert tuple(plane.shape for plane in planes) == layout.plane_shapes(6, 4), name
        seen += 1
    assert seen > 150


@pytest.mark.parametrize("color_range", [0, 1, 2])
def test_nv12_is_repacked_without_changing_a_value(color_range):
    y, u, v = noise(5, 7), noise(3, 4, seed=1), noise(3, 4, seed=2)
    picture = packed("nv12", 7, 5, y, interleaved(u, v), color_range=color_range)
    assert_planes(picture, y, u, v)


@pytest.mark.parametrize("color_range", [0, 1, 2])
def test_p010_is_repacked_without_changing_a_value(color_range):
    y, u, v = (noise(*s, depth=10, seed=i) for i, s in enumerate([(6, 8), (3, 4), (3, 4)]))
    picture = packed("p010le", 8, 6, y << 6, interleaved(u, v) << 6, color_range=color_range)
    assert_planes(picture, y, u, v)


def test_p010_of_a_width_that_is_no_multiple_of_eight_is_repacked_the_same_every_time():
    # FFmpeg's threaded repacking spoils one picture of this size in seven.
    y, u, v = (noise(*s, depth=10, seed=i) for i, s in enumerate([(182, 322), *[(91, 161)] * 2]))
    picture = packed("p010le", 322, 182, y << 6, interleaved(u, v) << 6)
    for _ in range(200):
        assert_planes(picture, y, u, v)


@pytest.mark.parametrize("color_range", [0, 1, 2])
@pytest.mark.parametrize("name", ["rgb24", "bgr24", "bgr0", "rgb0", "rgba", "argb"])
def test_packed_rgb_is_repacked_without_changing_a_value(name, color_range):
    named = {letter: noise(5, 7, seed=ord(letter)) for letter in "rgba0"}
    letters = name.removesuffix("24")
    picture = packed(name, 7, 5, interleaved(*(named[n] for n in letters)), color_range=color_range)
    alpha = [named["a"]] if "a" in letters else []
    assert_planes(picture, named["r"], named["g"], named["b"], *alpha)


@pytest.mark.parametrize("color_range", [0, 1, 2])
@pytest.mark.parametrize(("name", "depth"), [("gray10be", 10), ("gray16be", 16)])
def test_big_endian_grey_is_swapped_and_nothing_else(name, depth, color_range):
    y = noise(5, 7, depth=depth)
    assert_planes(packed(name, 7, 5, y.astype(">u2"), color_range=color_range), y)


def test_big_endian_yuv_is_swapped_and_nothing_else():
    samples = [noise(*s, depth=10, seed=i) for i, s in enumerate([(6, 8), (3, 4), (3, 4)])]
    picture = packed("yuv420p10be", 8, 6, *(plane.astype(">u2") for plane in samples))
    assert_planes(picture, *samples)


def test_big_endian_rgb_is_swapped_and_nothing_else():
    r, g, b = (noise(5, 7, depth=16, seed=i) for i in range(3))
    assert_planes(packed("rgb48be", 7, 5, interleaved(r, g, b).astype(">u2")), r, g, b)


@pytest.mark.parametrize("color_range", [0, 1, 2])
def test_grey_with_alpha_keeps_both_and_gets_neutral_chroma(color_range):
    y, a = noise(4, 6), noise(4, 6, seed=1)
    picture = packed("ya8", 6, 4, interleaved(y, a), color_range=color_range)
    neutral = np.full((2, 3), 128)
    assert_planes(picture, y, neutral, neutral, a)


def test_a_palette_is_looked_up():
    index = noise(5, 7)
    colors = noise(256, 4, seed=1)  # B, G, R, A in memory
    picture = packed("pal8", 7, 5, index, colors.reshape(1, -1))
    b, g, r, a = (colors[index, channel] for channel in range(4))
    assert_planes(picture, r, g, b, a)


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (1, 1), (641, 3)])
@pytest.mark.parametrize("name", sorted({planar_name(layout) for layout in LAYOUTS.values()}))
def test_what_goes_into_a_picture_comes_out_again(name, size):
    layout = layout_of(av.VideoFormat(name))
    shapes = layout.plane_shapes(*size)
    planes = tuple(noise(*s, depth=layout.depth, seed=i) for i, s in enumerate(shapes))
    picture = picture_of(planes, layout)
    assert picture.format.name == name
    assert_planes(picture, *planes)


def test_rgb_planes_stand_in_the_order_red_green_blue():
    r, g, b = (np.full((2, 2), value, np.uint8) for value in (10, 20, 30))
    picture = picture_of((r, g, b), PixelLayout("rgb", 8))
    np.testing.assert_array_equal(picture.to_ndarray(format="rgb24")[0, 0], [10, 20, 30])


def test_a_planar_picture_is_not_copied():
    picture = av.VideoFrame(8, 6, "yuv420p")
    layout = layout_of(picture.format)
    for ours, plane in zip(planes_of(picture, layout), picture.planes, strict=True):
        assert np.shares_memory(ours, rows_of(plane))


def test_a_picture_holds_its_own_copy():
    planes = (noise(4, 4),)
    picture = picture_of(planes, PixelLayout("gray", 8))
    before = planes[0].copy()
    planes[0][:] = 0
    assert_planes(picture, before)


@pytest.mark.parametrize("name", ["yuv420p", "nv12", "bgr0"])
def test_a_view_keeps_the_memory_of_its_picture_alive(name):
    picture = av.VideoFrame(320, 180, name)
    for plane in picture.planes:
        rows_of(plane)[:] = 77
    planes = planes_of(picture, layout_of(picture.format))
    del picture
    gc.collect()
    others = [av.VideoFrame(320, 180, name) for _ in range(20)]
    for other in others:
        for plane in other.planes:
            rows_of(plane)[:] = 200
    assert all((plane == 77).all() for plane in planes)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (av.error.InvalidDataError(1094995529, "Invalid data found"), "Invalid data found"),
        (ValueError("'webm' format does not support 'libx264' codec"), "does not support"),
    ],
)
def test_a_foreign_error_becomes_one_sentence(error, reason):
    with pytest.raises(MediaError) as caught, translated(Path("clip.mp4"), "reading"):
        raise error
    assert str(caught.value).startswith("clip.mp4: reading failed (")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [RequestError("asked wrongly"), KeyError("a fault of ours")])
def test_our_own_errors_and_faults_pass_unchanged(error):
    with pytest.raises(type(error)) as caught, translated(Path("clip.mp4"), "reading"):
        raise error
    assert caught.value is error


def test_tags_that_are_not_utf8_are_read_as_latin_1(make_clip):
    path = make_clip("old.mkv")
    with av.open(str(path)) as source, av.open(str(path.with_name("x.mkv")), "w") as copy:
        copy.metadata["title"] = "Cafe~"
        stream = copy.add_stream_from_template(source.streams[0])
        for packet in source.demux(0):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    tagged = path.with_name("x.mkv").read_bytes()
    path.write_bytes(tagged.replace(b"Cafe~", "Cafés".encode("latin-1")))
    with open_input(path) as file:
        assert file.metadata["title"] == "Cafés"


@pytest.fixture
def server():
    """A web server on this machine: its address, and the list of what it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}", asked
        web.shutdown()
        thread.join()


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile '{}'\n"
DASH = """<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>
<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{0}</BaseURL>
<SegmentBase/></Representation></AdaptationSet></Period></MPD>"""


@pytest.mark.parametrize("name", ["list.m3u8", "list.ffconcat", "list.mp4", "list.mpd", "list.mkv"])
@pytest.mark.parametrize("text", [PLAYLIST, CONCAT, DASH], ids=["hls", "concat", "dash"])
def test_a_playlist_opens_neither_the_network_nor_another_file(
    make_clip, server, tmp_path, name, text
):
    address, asked = server
    clip = make_clip("clip.ts")  # a good file, so that to open it would succeed
    path = tmp_path / name
    for target in (f"{address}/a.ts", clip.name, str(clip), f"file:{clip}", "fd:", "/etc/passwd"):
        path.write_text(text.format(target))
        with pytest.raises(MediaError, match=name):
            probe(path)
    assert asked == []


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(MediaError, match=r"pipe.mp4 is a pipe or a device"):
        probe(tmp_path / "pipe.mp4")
