"""Pictures out of a video: the right ones, in the right colours."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import gradient

from vidsr.errors import MediaError, RequestError
from vidsr.media.probe import probe
from vidsr.media.reader import Trim
from vidsr.media.snapshot import film, frame_at, frames_along, gray_film


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


@pytest.mark.parametrize("name", ["clip.ts", "clip.mkv"])
@pytest.mark.parametrize("trim", [Trim(), Trim(Fraction(1, 4), Fraction(3, 4))])
def test_looks_along_a_film_are_spread_over_it_wherever_its_clock_begins(make_clip, name, trim):
    options = {"crf": "10", "bf": "0", "g": "4"}
    looks = []
    for first in (0, 24 * 3600):
        pts = [*range(first, first + 24)]
        clip = make_clip(name, frames=24, pts=pts, options=options)
        looks.append([rgb.mean().item() for rgb in frames_along(probe(clip), trim, 4)])
    assert looks[0] == looks[1]
    assert len(set(looks[0])) == 4


def test_a_film_is_every_frame_with_its_moment(make_clip):
    clip = make_clip("clip.mkv", codec="ffv1", pix_fmt="bgr0", options={"level": "3"}, rate=25)
    shown = list(film(clip))
    assert [float(seconds) for seconds, _ in shown] == [number / 25 for number in range(8)]
    for number, (_, rgb) in enumerate(shown):
        expected = torch.from_numpy(gradient(number, 48, 32)).permute(2, 0, 1)[None] / 255
        assert torch.allclose(rgb, expected, atol=1e-6)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p10le", "bgr0", "gray"])
def test_a_gray_film_is_the_luma_alone(make_clip, pix_fmt):
    clip = make_clip("clip.mkv", codec="ffv1", pix_fmt=pix_fmt, options={"level": "3"})
    for (moment, gray), (again, rgb) in zip(gray_film(clip), film(clip), strict=True):
        assert moment == again
        assert torch.equal(gray[:, 0], gray[:, 1])
        assert torch.equal(gray[:, 0], gray[:, 2])
        luma = [0.2126, 0.7152, 0.0722] if pix_fmt == "bgr0" else [0.299, 0.587, 0.114]
        weights = torch.tensor(luma).view(1, 3, 1, 1)
        expected = (rgb * weights).sum(1)
        assert torch.allclose(gray[:, 0], expected, atol=1 / 255)
