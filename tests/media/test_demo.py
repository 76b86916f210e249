"""The demo clip: small, whole, with sound, and the same geometry at every size."""

import av
import numpy as np
import pytest
from PIL import Image

from vidsr.errors import MediaError
from vidsr.media.demo import demo_picture, draw_demo_clip, draw_frame, melody


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "demo.mp4"
    draw_demo_clip(path)
    return path


def mean_difference(one, two):
    return np.abs(one.astype(int) - two.astype(int)).mean()


def test_the_clip_has_every_frame_and_is_small(clip):
    with av.open(str(clip)) as container:
        frames = list(container.decode(video=0))
        assert container.metadata["title"] == "vidsr demo"
    assert [frame.time for frame in frames] == pytest.approx([n / 24 for n in range(72)])
    assert (frames[0].width, frames[0].height) == (320, 180)
    assert clip.stat().st_size < 300_000


def test_the_clip_is_tagged_as_bt709_limited(clip):
    with av.open(str(clip)) as container:
        codec = container.streams.video[0].codec_context
        tags = (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range)
        assert tags == (1, 1, 1, 1)
        assert codec.pix_fmt == "yuv420p"


def test_the_sound_is_as_long_as_the_picture(clip):
    with av.open(str(clip)) as container:
        stream = container.streams.audio[0]
        assert (stream.rate, stream.channels) == (48_000, 2)
        assert stream.duration * stream.time_base == 3
        samples = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)
    assert abs(samples.shape[1] - 144_000) < 1024  # AAC ends on a whole block
    assert np.abs(samples).max() > 0.2


def test_the_encoded_picture_is_the_drawing(clip):
    with av.open(str(clip)) as container:
        frame = list(container.decode(video=0))[30]
    drawing = av.VideoFrame.from_ndarray(demo_picture(30, (320, 180))).reformat(
        format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
    )
    # CRF 20 costs about 0.9 code values here; a neighbouring drawing differs by more than 2.
    assert mean_difference(frame.to_ndarray(), drawing.to_ndarray()) < 1.5


def test_a_drawing_at_four_times_the_size_reduces_to_the_small_one():
    small = draw_frame(1.0, 320, 180)
    large = Image.fromarray(draw_frame(1.0, 1280, 720)).reduce(4)
    # Line widths are whole subpixels, so edges differ by fractions of a pixel: 0.9 in the mean.
    assert mean_difference(small, np.array(large)) < 1.2


def test_a_large_drawing_holds_detail_that_the_small_one_has_lost():
    large = draw_frame(1.0, 1280, 720)
    resized = Image.fromarray(draw_frame(1.0, 320, 180)).resize(
        (1280, 720), Image.Resampling.BICUBIC
    )
    assert mean_difference(large, np.array(resized)) > 4


def test_drawings_are_the_same_every_time_and_held_for_two_frames():
    first = demo_picture(10, (320, 180))
    np.testing.assert_array_equal(first, demo_picture(10, (320, 180)))
    np.testing.assert_array_equal(first, demo_picture(11, (320, 180)))
    assert mean_difference(first, demo_picture(12, (320, 180))) > 0.5


def test_any_size_can_be_drawn():
    assert draw_frame(0, 33, 17).shape == (17, 33, 3)


def test_the_melody_neither_clips_nor_clicks_at_its_end():
    sound = melody(3)
    assert sound.shape == (2, 144_000)
    assert np.abs(sound).max() < 0.9
    assert np.abs(sound[:, -1]).max() == 0
    assert not np.array_equal(sound[0], sound[1])


def test_the_same_clip_has_the_same_bytes(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        draw_demo_clip(tmp_path / name, seconds=0.5, width=160, height=90)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_failed_clip_leaves_nothing(tmp_path):
    with pytest.raises(MediaError, match="demo clip"):
        draw_demo_clip(tmp_path / "a.mp4", seconds=0.1, width=161, height=91)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MediaError, match="demo clip"):
        draw_demo_clip(tmp_path / "none" / "a.mp4", seconds=0.1)
