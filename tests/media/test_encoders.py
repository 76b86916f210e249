"""What each input becomes: the table of DESIGN, row by row, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vidsr.errors import RequestError
from vidsr.frame import ColorSpec, Matrix, PixelLayout, Range, Siting
from vidsr.media.door import planar_name
from vidsr.media.encoders import (
    EncoderRequest,
    VideoFormat,
    choose_format,
    keeps_siting,
    steady_options,
)
from vidsr.media.probe import StreamInfo, VideoInfo, guess_color
from vidsr.media.roundtrip import round_trip

YUV420, YUV422, YUV444 = (PixelLayout("yuv", 8, steps) for steps in ((1, 1), (1, 0), (0, 0)))
SIZE = (640, 480)


def info(layout, *, size=(320, 240), color=None, interlaced=False, top_field_first=True):
    return VideoInfo(
        path=Path("clip.mp4"),
        container="mov,mp4,m4a,3gp,3g2,mj2",
        streams=(StreamInfo(0, "video", "h264", None, None, cover=False),),
        video=0,
        width=size[0],
        height=size[1],
        pix_fmt=planar_name(layout),
        layout=layout,
        color=color or guess_color(*size, layout),
        sample_aspect=None,
        display_matrix=None,
        rotation=0,
        time_base=Fraction(1, 24),
        frame_rate=Fraction(24),
        frames_from_header=0,
        seconds_from_header=0.0,
        interlaced=interlaced,
        top_field_first=top_field_first,
        chapters=0,
        common_clock=24,
    )


def chosen(layout, *, size=SIZE, source=None, **request):
    video, notes = choose_format(source or info(layout), size, EncoderRequest(**request))
    return video.encoder, planar_name(video.layout), notes


@pytest.mark.parametrize("layout", [YUV420, YUV422, YUV444, PixelLayout("gray", 8)])
def test_eight_bits_become_h264_of_the_same_sampling(layout):
    assert chosen(layout) == ("libx264", planar_name(layout), [])


@pytest.mark.parametrize("depth", [10, 12])
@pytest.mark.parametrize("steps", [(1, 1), (1, 0), (0, 0)])
def test_more_than_eight_bits_become_hevc_of_the_same_sampling_and_depth(depth, steps):
    layout = PixelLayout("yuv", depth, steps)
    encoder, name, notes = chosen(layout)
    assert (encoder, name) == ("libx265", planar_name(layout))
    assert any("HEVC" in note for note in notes)


def test_deep_grey_stays_grey():
    assert chosen(PixelLayout("gray", 10))[:2] == ("libx265", "gray10le")


def test_grey_gets_neutral_chroma_where_the_encoder_has_no_grey():
    encoder, name, notes = chosen(PixelLayout("gray", 8), encoder="libsvtav1")
    assert (encoder, name) == ("libsvtav1", "yuv420p")
    assert notes == ["libsvtav1: gray becomes yuv420p"]


@pytest.mark.parametrize("depth", [8, 10])
def test_rgb_becomes_420_in_bt709_and_that_is_said(depth):
    layout = PixelLayout("rgb", depth)
    video, notes = choose_format(info(layout), SIZE, EncoderRequest())
    assert video.layout == PixelLayout("yuv", depth, (1, 1))
    assert video.color == ColorSpec(Matrix.BT709, Range.LIMITED, 1, 1, Siting.LEFT)
    assert any("RGB becomes YUV 4:2:0" in note for note in notes)


@pytest.mark.parametrize("depth", [8, 10, 16])
def test_rgb_stays_rgb_for_a_lossless_encoder(depth):
    layout = PixelLayout("rgb", depth)
    video, notes = choose_format(info(layout), SIZE, EncoderRequest(encoder="ffv1"))
    assert video.layout == layout
    assert (video.color.matrix, video.color.range) == (Matrix.RGB, Range.FULL)
    assert notes == []


@pytest.mark.parametrize("model", ["yuv", "rgb"])
@pytest.mark.parametrize("request_", [{}, {"encoder": "libx265"}, {"pix_fmt": "yuv444p"}])
def test_an_alpha_channel_that_is_dropped_is_named(model, request_):
    layout = PixelLayout(model, 8, (1, 1) if model == "yuv" else (0, 0), alpha=True)
    _, name, notes = chosen(layout, **request_)
    assert "a" not in name.removeprefix("gr")
    assert "the alpha channel is dropped" in notes


@pytest.mark.parametrize(
    ("encoder", "model", "name"),
    [
        ("ffv1", "yuv", "yuva420p"),
        ("ffv1", "rgb", "gbrap"),
        ("prores_ks", "yuv", "yuva444p10le"),
        ("prores_ks", "rgb", "yuva444p10le"),
        ("libvpx-vp9", "yuv", "yuva420p"),
    ],
)
def test_alpha_is_kept_where_the_encoder_can(encoder, model, name):
    layout = PixelLayout(model, 8, (1, 1) if model == "yuv" else (0, 0), alpha=True)
    video, notes = choose_format(info(layout), SIZE, EncoderRequest(encoder=encoder))
    assert planar_name(video.layout) == name
    assert video.pix_fmt == ("bgra" if name == "gbrap" else name)
    assert not any("alpha" in note for note in notes)


def test_colour_tags_are_the_inputs():
    color = ColorSpec(Matrix.BT2020_NCL, Range.FULL, 9, 16, Siting.TOPLEFT, frozenset({"siting"}))
    source = info(PixelLayout("yuv", 10, (1, 1)), color=color)
    video, _ = choose_format(source, SIZE, EncoderRequest())
    assert video.color == color


@pytest.mark.parametrize(
    ("layout", "encoder", "name"),
    [
        (YUV420, "prores_ks", "yuv422p10le"),  # more bits and more chroma, no more than needed
        (YUV444, "prores_ks", "yuv444p10le"),
        (PixelLayout("yuv", 8, (2, 0)), "libx264", "yuv422p"),
        (PixelLayout("yuv", 8, (0, 1)), "libx264", "yuv444p"),
        (PixelLayout("yuv", 8, (2, 2)), "libx264", "yuv420p"),
        (PixelLayout("yuv", 12, (1, 1)), "libx264", "yuv420p10le"),
        (PixelLayout("yuv", 9, (1, 1)), "libx265", "yuv420p10le"),
        (PixelLayout("yuv", 16, (1, 1)), "libx265", "yuv420p12le"),
        (YUV444, "libsvtav1", "yuv420p"),
    ],
)
def test_the_nearest_format_that_the_encoder_takes_is_chosen_and_named(layout, encoder, name):
    _, found, notes = chosen(layout, encoder=encoder)
    assert found == name
    assert notes[0].startswith(f"{encoder}: ")
    assert notes[0].endswith(name)


@pytest.mark.parametrize("size", [(641, 480), (640, 481), (641, 481)])
def test_an_odd_size_becomes_444_and_that_is_said(size):
    _, name, notes = chosen(YUV420, size=size)
    assert name == "yuv444p"
    assert notes == [f"{size[0]}x{size[1]} is odd: yuv444p instead of subsampled chroma"]


def test_an_odd_height_is_no_trouble_for_422():
    assert chosen(YUV422, size=(640, 481))[1] == "yuv422p"


def test_an_odd_size_is_refused_where_the_encoder_has_no_444():
    with pytest.raises(RequestError, match="641x480 is odd"):
        chosen(YUV420, size=(641, 480), encoder="libsvtav1")


@pytest.mark.parametrize(
    ("wrong", "near"), [("x264", "libx264"), ("libsvt-av1", "libsvtav1"), ("ffv2", "ffv1")]
)
def test_an_unknown_encoder_suggests_a_near_one(wrong, near):
    with pytest.raises(RequestError, match=f"no encoder '{wrong}' here; did you mean {near}"):
        chosen(YUV420, encoder=wrong)


def test_an_encoder_of_sound_is_refused():
    with pytest.raises(RequestError, match="does not encode video"):
        chosen(YUV420, encoder="aac")


@pytest.mark.parametrize(
    ("request_", "flag"), [({"crf": 20.0}, "--crf"), ({"preset": "slow"}, "--preset")]
)
def test_what_an_encoder_does_not_have_is_refused(request_, flag):
    with pytest.raises(RequestError, match=f"ffv1 has no {flag}"):
        chosen(YUV420, encoder="ffv1", **request_)


@pytest.mark.parametrize(
    ("encoder", "quality", "preset"),
    [
        ("libx264", ("crf", "17"), ("preset", "medium")),
        ("libx265", ("crf", "18"), ("preset", "medium")),
        ("libsvtav1", ("crf", "24"), ("preset", "6")),
        ("libvpx-vp9", ("crf", "22"), ("cpu-used", "3")),
    ],
)
def test_quality_and_speed_are_spelled_as_the_encoder_does(encoder, quality, preset):
    ours, _ = choose_format(info(YUV420), SIZE, EncoderRequest(encoder=encoder))
    assert ours.options.items() >= {quality, preset}
    asked = EncoderRequest(encoder=encoder, crf=30.0, preset="5" if preset[1].isdigit() else "fast")
    theirs, _ = choose_format(info(YUV420), SIZE, asked)
    assert theirs.options[quality[0]] == "30"
    assert theirs.options[preset[0]] == asked.preset


def test_a_fraction_of_crf_is_kept():
    video, _ = choose_format(info(YUV420), SIZE, EncoderRequest(crf=17.5))
    assert video.options["crf"] == "17.5"


@pytest.mark.parametrize("name", ["yuv420p10le", "yuv444p", "gray"])
def test_a_pixel_format_can_be_asked_for(name):
    assert chosen(YUV420, encoder="libx264", pix_fmt=name)[1:] == (name, [])


def test_rgb_can_be_asked_for_and_is_tagged_so():
    request = EncoderRequest(encoder="ffv1", pix_fmt="gbrp")
    video, _ = choose_format(info(YUV420), SIZE, request)
    assert video.layout == PixelLayout("rgb", 8)
    assert (video.color.matrix, video.color.range) == (Matrix.RGB, Range.FULL)


@pytest.mark.parametrize("name", ["yuv410p", "nonsense", "nv12"])
def test_a_pixel_format_that_does_not_go_is_refused_with_those_that_do(name):
    with pytest.raises(RequestError, match=r"--pix-fmt .* libx264; these do: .*yuv420p"):
        chosen(YUV420, encoder="libx264", pix_fmt=name)


@pytest.mark.parametrize("size", [(16386, 64), (64, 16386)])
def test_more_pixels_than_the_encoder_writes_are_refused(size):
    with pytest.raises(RequestError, match="libx264 writes at most 16384 pixels a side"):
        chosen(YUV420, size=size)


def test_hevc_is_not_asked_for_pictures_so_small_that_it_crashes():
    deep = PixelLayout("yuv", 10, (1, 1))
    assert chosen(deep, size=(48, 64))[:2] == ("libx264", "yuv420p10le")
    with pytest.raises(RequestError, match="libx265 needs 64 pixels a side"):
        chosen(deep, size=(48, 64), encoder="libx265")


def test_the_users_options_win_over_ours():
    video, _ = choose_format(info(YUV420), SIZE, EncoderRequest(options={"crf": "5", "g": "12"}))
    assert video.options.items() >= {("crf", "5"), ("g", "12")}


def test_lists_of_parameters_of_the_user_and_ours_are_joined():
    deep = info(PixelLayout("yuv", 10, (1, 1)))
    hevc, _ = choose_format(deep, SIZE, EncoderRequest(options={"x265-params": "keyint=48"}))
    assert hevc.options["x265-params"].split(":") == ["log-level=error", "keyint=48"]
    fields = info(YUV420, interlaced=True)
    h264, _ = choose_format(fields, SIZE, EncoderRequest(options={"x264-params": "keyint=48"}))
    assert set(h264.options["x264-params"].split(":")) == {"keyint=48", "tff=1"}


def test_an_option_that_the_encoder_does_not_know_is_refused():
    with pytest.raises(RequestError, match="knows no option sharpness"):
        chosen(YUV420, options={"sharpness": "9"})


def test_a_value_that_the_encoder_does_not_take_is_refused():
    with pytest.raises(RequestError, match="cannot be opened with"):
        chosen(YUV420, preset="nonsense")


@pytest.mark.parametrize("siting", [siting for siting in Siting if siting > Siting.LEFT])
def test_an_unusual_siting_is_asked_of_the_encoder(siting):
    color = replace(guess_color(320, 240, YUV420), siting=siting)
    video, _ = choose_format(info(YUV420, color=color), SIZE, EncoderRequest())
    assert video.options["chroma_sample_location"] == siting.name.lower()


@pytest.mark.parametrize(("top_first", "word"), [(True, "tff=1"), (False, "bff=1")])
def test_interlaced_pictures_stay_interlaced_in_h264(top_first, word):
    source = info(YUV420, interlaced=True, top_field_first=top_first)
    video, notes = choose_format(source, SIZE, EncoderRequest())
    assert video.interlaced
    assert video.options["x264-params"] == word
    assert notes == []


def test_an_interlaced_flag_that_is_lost_is_named():
    source = info(YUV420, interlaced=True)
    video, notes = choose_format(source, SIZE, EncoderRequest(encoder="libx265"))
    assert not video.interlaced
    assert notes == ["the interlaced flag is lost: libx265 writes progressive frames"]


@pytest.mark.parametrize(
    ("encoder", "muxer", "siting", "kept"),
    [
        ("libx264", "mp4", Siting.BOTTOM, True),
        ("libx265", "mpegts", Siting.CENTER, True),
        ("libsvtav1", "mp4", Siting.TOPLEFT, True),
        ("libsvtav1", "mp4", Siting.CENTER, False),
        ("libsvtav1", "matroska", Siting.CENTER, True),
        ("ffv1", "mp4", Siting.TOPLEFT, False),
        ("ffv1", "mp4", Siting.LEFT, True),
        ("ffv1", "matroska", Siting.BOTTOMLEFT, False),
        ("libvpx-vp9", "webm", Siting.TOP, True),
        ("prores_ks", "mov", Siting.CENTER, False),
    ],
)
def test_it_is_known_which_encoder_and_container_keep_the_siting(encoder, muxer, siting, kept):
    color = ColorSpec(Matrix.BT709, Range.LIMITED, 1, 1, siting)
    video = VideoFormat(96, 64, YUV420, color, encoder, {})
    assert keeps_siting(video, muxer) is kept
    full = replace(video, layout=replace(YUV420, subsampling=(0, 0)))
    assert keeps_siting(full, muxer)


def test_left_is_stated_where_top_left_would_be_guessed():
    color = ColorSpec(Matrix.BT2020_NCL, Range.LIMITED, 9, 16, Siting.LEFT)
    request = EncoderRequest(encoder="libsvtav1", preset="10")
    video, _ = choose_format(info(YUV420, color=color), (96, 64), request)
    assert video.options["chroma_sample_location"] == "left"
    assert not keeps_siting(replace(video, encoder="ffv1"), "mp4")


# ------------------------------------------------------------------ the same bytes each time


@pytest.mark.parametrize(
    ("capability", "encoder", "params"),
    [
        ("AVX512", "libx264", "asm=avx2:keyint=48"),
        ("AVX512", "libx265", "keyint=48"),
        ("AVX2", "libx264", "keyint=48"),
        ("DEFAULT", "libx264", "keyint=48"),
    ],
)
def test_x264_is_kept_from_avx_512(monkeypatch, capability, encoder, params):
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    name = encoder.removeprefix("lib") + "-params"
    assert steady_options(encoder, {name: "keyint=48"}) == {name: params}


def test_what_the_user_says_of_instructions_wins(monkeypatch):
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    options = steady_options("libx264", {"x264-params": "asm=sse2"})
    assert options["x264-params"] == "asm=avx2:asm=sse2"  # the last one counts


def test_the_same_pictures_are_the_same_bytes_each_time():
    noise = np.random.default_rng(0)
    pictures = [noise.integers(0, 256, (64, 96, 3), np.uint8) // 8 + 3 * n for n in range(12)]
    clip = [np.ascontiguousarray(picture.astype(np.uint8)) for picture in pictures]
    decoded = {
        np.stack(round_trip(clip, codec="h264", crf=17, preset="medium")).tobytes()
        for _ in range(20)
    }
    assert len(decoded) == 1
