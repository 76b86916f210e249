"""One picture out of a video: the right one, in the right colours."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import gradient

from vidsr.errors import MediaError, RequestError
from vidsr.media.snapshot import frame_at


@pytest.mark.parametrize("index", [0, 3, 7])
def test_the_frame_of_that_number_is_given_exactly_from_rgb(make_clip, index):
    clip = make_clip("clip.mkv", codec="ffv1", pix_fmt="bgr0", options={"level": "3"})
    picture = frame_at(clip, index)
    assert (picture.dtype, picture.shape) == (np.uint8, (32, 48, 3))
    np.testing.assert_array_equal(picture, gradient(index, 48, 32))


def test_reordered_frames_are_counted_as_they_are_shown(make_clip):
    clip = make_clip(
        "clip.mp4",
        frames=12,
        pix_fmt="yuv444p",
        options={"crf": "1", "bf": "3", "x264-params": "b-adapt=0"},
    )
    differences = [
        np.abs(frame_at(clip, 5).astype(int) - gradient(number, 48, 32)).mean()
        for number in range(12)
    ]
    assert int(np.argmin(differences)) == 5


def test_a_grey_picture_has_three_equal_channels(make_clip):
    clip = make_clip("clip.mkv", codec="ffv1", pix_fmt="gray", options={"level": "3"})
    picture = frame_at(clip, 0)
    assert (picture == picture[:, :, :1]).all()


def test_a_number_past_the_end_is_refused_with_how_many_there_are(make_clip):
    with pytest.raises(RequestError, match="no frame 8; it has 8"):
        frame_at(make_clip(frames=8), 8)


def test_a_file_that_cannot_be_read_is_our_error(tmp_path):
    with pytest.raises(MediaError, match="no such file"):
        frame_at(tmp_path / "absent.mp4", 0)
