"""Mastering display and light level come through every encoder that knows them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from identity import FAST, pass_through

from vidsr.media.encoders import EncoderRequest, choose_format
from vidsr.media.hdr import HdrMetadata, Mastering, hdr_options
from vidsr.media.probe import probe

MASTERING = Mastering(
    red=(34000, 16000),
    green=(13250, 34500),
    blue=(7500, 3000),
    white=(15635, 16450),
    brightest=10_000_000,
    darkest=50,
)
HDR = HdrMetadata(MASTERING, (1000, 400))
SPELLED = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"


@pytest.fixture
def make_hdr10(tmp_path):
    def make(params=f":master-display={SPELLED}:max-cll=1000,400", *, name="hdr.mkv"):
        path = tmp_path / name
        with av.open(str(path), "w") as file:
            options = {"preset": "ultrafast", "x265-params": "log-level=error:pools=1" + params}
            video = file.add_stream("libx265", rate=24, options=options)
            video.width, video.height, video.pix_fmt = 64, 64, "yuv420p10le"
            context = video.codec_context
            context.color_trc, context.color_primaries, context.colorspace = 16, 9, 9
            context.color_range = 1
            for number in range(3):
                picture = av.VideoFrame(64, 64, "yuv420p10le")
                for plane in picture.planes:
                    codes = np.full(plane.buffer_size // 2, 400 + number, np.uint16)
                    plane.update(codes.tobytes())
                picture.pts, picture.time_base = number, Fraction(1, 24)
                file.mux(video.encode(picture))
            file.mux(video.encode(None))
        return path

    return make


@pytest.mark.parametrize("name", ["hdr.mkv", "hdr.mp4"])
def test_it_is_read(make_hdr10, name):
    assert probe(make_hdr10(name=name)).hdr == HDR


def test_what_is_not_stated_is_none(make_hdr10, make_clip):
    assert probe(make_clip()).hdr == HdrMetadata()
    assert probe(make_hdr10(":max-cll=900,0")).hdr == HdrMetadata(light=(900, 0))


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])
@pytest.mark.parametrize("encoder", ["libx265", "libx264", "libsvtav1"])
def test_it_comes_through(make_hdr10, tmp_path, name, encoder):
    preset = "10" if encoder == "libsvtav1" else "ultrafast"
    request = EncoderRequest(encoder=encoder, preset=preset, threads=1)
    pass_through(make_hdr10(), tmp_path / name, encoder=request)
    written = probe(tmp_path / name)
    assert written.color == replace(probe(make_hdr10()).color, guessed=written.color.guessed)
    assert written.hdr.light == HDR.light
    assert written.hdr.mastering is not None
    # AV1 stores sixteen binary digits, the others steps as they are.
    allowed = 1 if encoder == "libsvtav1" else 0
    for ours, theirs in zip(_numbers(written.hdr.mastering), _numbers(MASTERING), strict=True):
        assert abs(ours - theirs) <= max(allowed, allowed * theirs // 10_000)


def _numbers(mastering):
    points = (mastering.red, mastering.green, mastering.blue, mastering.white)
    return [*(n for point in points for n in point), mastering.brightest, mastering.darkest]


def test_one_without_the_other_comes_through(make_hdr10, tmp_path):
    pass_through(make_hdr10(f":master-display={SPELLED}"), tmp_path / "out.mkv")
    assert probe(tmp_path / "out.mkv").hdr == HdrMetadata(MASTERING)


def test_options_that_the_user_gives_win(make_hdr10, tmp_path):
    mine = replace(FAST, options={"x265-params": "max-cll=500,100"})
    pass_through(make_hdr10(), tmp_path / "out.mkv", encoder=mine)
    assert probe(tmp_path / "out.mkv").hdr == replace(HDR, light=(500, 100))


@pytest.mark.parametrize("encoder", ["ffv1", "prores_ks", "libvpx-vp9", "hevc_nvenc"])
def test_an_encoder_that_cannot_write_it_is_named(encoder):
    options, notes = hdr_options(encoder, HDR)
    assert options == {}
    assert notes == [
        f"mastering display and content light level: {encoder} cannot write it "
        "(libx265, libx264, libsvtav1 can)"
    ]


def test_it_is_named_in_the_plan_of_a_format(make_hdr10):
    info = probe(make_hdr10())
    _, notes = choose_format(info, (64, 64), EncoderRequest(encoder="ffv1"))
    assert any("ffv1 cannot write it" in note for note in notes)


def test_what_changes_from_picture_to_picture_is_named():
    _, notes = hdr_options("libx265", replace(HDR, dynamic=("HDR10+",)))
    assert notes == ["HDR10+ metadata is lost: it describes the pictures one by one"]


def test_nothing_is_said_of_what_was_never_there():
    assert hdr_options("ffv1", HdrMetadata()) == ({}, [])
