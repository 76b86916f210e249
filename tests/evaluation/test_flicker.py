import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from evaluation.scenes import scene

from vidsr.errors import RequestError
from vidsr.evaluation.flicker import (
    FRAME_BY_FRAME,
    MEASURED_SIDE,
    ORIGINAL,
    OUTPUT,
    ColorFrame,
    ColorSteadiness,
    FlickerReport,
    colored,
    flicker,
    relative,
    steadied,
    warp_error,
)
from vidsr.lab import lab_to_rgb

RATE = 8
SIZE = (64, 96)
STEP = 2  # pixels a frame, to the left


def lightness():
    """A wide picture with texture to follow, L* in 40 to 70; (H, 2W)."""
    wide = scene(SIZE[0], 2 * SIZE[1])[..., 1]
    return 40 + 30 * wide.astype(np.float32) / 255


def colors():
    """Wide stripes of a* and b* that belong to the wide picture; (2, H, 2W)."""
    x = np.arange(2 * SIZE[1], dtype=np.float32)
    a, b = 15 * np.sin(x / 14), 12 * np.cos(x / 19)
    return np.broadcast_to(np.stack([a, b])[:, None], (2, SIZE[0], 2 * SIZE[1]))


def picture(number, ab):
    """What the window sees in frame `number`: RGB of the moving lightness with `ab` (2,H,W)."""
    luma = lightness()[:, STEP * number : STEP * number + SIZE[1]]
    lab = np.concatenate([luma[None], ab])[None]
    return lab_to_rgb(torch.from_numpy(np.ascontiguousarray(lab)))


def moving(number):
    return colors()[:, :, STEP * number : STEP * number + SIZE[1]]


def frozen(number):
    return moving(0)


def flickering(number):
    return moving(number) * (1.0 if number % 2 else 0.7)


def faded(number):
    return moving(number) * 0.5


def versions(number):
    kinds = {OUTPUT: moving, "frozen": frozen, "flickering": flickering, "faded": faded}
    return {name: picture(number, ab(number)) for name, ab in kinds.items()} | {
        ORIGINAL: picture(number, moving(number))
    }


def report_of(frames, count=12):
    made = (ColorFrame(Fraction(n, RATE), frames(n)) for n in range(count))
    *measured, report = flicker(made, "clip")
    assert report.frames == tuple(measured)
    return report


@pytest.fixture(scope="module")
def report():
    return report_of(versions)


def test_colors_that_move_with_the_picture_do_not_flicker(report):
    whole = report.whole
    assert whole[OUTPUT].warp_error == whole[ORIGINAL].warp_error < 0.4
    assert whole["flickering"].warp_error > 8 * whole[OUTPUT].warp_error


def test_frozen_colors_show_as_flicker_and_as_difference_at_the_end(report):
    assert report.whole["frozen"].warp_error > 4 * report.whole[OUTPUT].warp_error
    assert report.last_second["frozen"].ciede2000 > report.whole["frozen"].ciede2000 > 3


def test_faded_colors_show_in_their_chroma(report):
    whole = report.whole
    assert whole["faded"].warp_error < whole[OUTPUT].warp_error
    assert whole["faded"].chroma == pytest.approx(whole[OUTPUT].chroma / 2, rel=0.01)


def test_the_original_does_not_differ_from_itself(report):
    assert report.whole[ORIGINAL].ciede2000 == 0
    assert report.whole[OUTPUT].ciede2000 == 0


def test_the_last_second_is_as_long_as_that(report):
    chromas = [frame.versions["flickering"].chroma for frame in report.frames]
    last = report.last_second["flickering"].chroma
    assert last == pytest.approx(np.mean(chromas[-RATE:]))


def test_no_flicker_is_measured_across_a_cut():
    def cut(number):
        light, color = (20.0, 30.0) if number < 3 else (75.0, -30.0)
        texture = scene(*SIZE)[..., 1] / 255 * 15
        if number >= 3:
            texture = texture[::-1, ::-1]
        lab = np.stack([light + texture, np.full(SIZE, color), np.zeros(SIZE)])[None]
        return {OUTPUT: lab_to_rgb(torch.from_numpy(lab.astype(np.float32)))}

    report = report_of(cut, count=6)
    assert [frame.begins_shot for frame in report.frames] == [
        True,
        *[False] * 2,
        True,
        *[False] * 2,
    ]
    assert report.shots == 2
    assert math.isnan(report.frames[3].versions[OUTPUT].warp_error)
    assert report.whole[OUTPUT].warp_error < 0.1


def test_places_that_the_motion_lost_do_not_count():
    before, now = np.zeros((2, 3, 20, 20), np.float32)
    now[1:, :, :10] = 5
    followed = np.zeros((20, 20), bool)
    followed[:, 5:] = True
    still = np.zeros((20, 20, 2), np.float32)
    assert warp_error(before, now, still, followed) == pytest.approx(math.hypot(5, 5) / 3)
    assert math.isnan(warp_error(before, now, still, followed & False))


def test_without_an_original_there_is_no_difference_and_json_says_null():
    report = report_of(lambda n: {OUTPUT: picture(n, moving(n))}, count=2)
    assert math.isnan(report.whole[OUTPUT].ciede2000)
    content = json.loads(report.to_json())
    assert content["whole"][OUTPUT]["ciede2000"] is None
    assert (content["frames"], content["shots"]) == (2, 1)


def test_large_pictures_are_measured_smaller():
    side = 2 * MEASURED_SIDE
    lab = torch.full((1, 3, side, side + 2), 50.0)
    lab[:, 1:] = 10.0
    lab[:, 1, ::2] = 30.0  # the mean of two rows is 20
    (frame, _) = flicker([ColorFrame(Fraction(0), {OUTPUT: lab_to_rgb(lab)})], "large")
    assert frame.versions[OUTPUT].chroma == pytest.approx(math.hypot(20, 10), abs=0.3)


def test_the_shipping_stage_is_steadier_than_itself_frame_by_frame():
    asked = []

    def network(lightness):  # its colors change from frame to frame
        asked.append(len(asked))
        small = lightness[..., ::2, ::2]
        return torch.cat([small, small], dim=1) * 0.1 + (0.1 if len(asked) % 2 else 0.2)

    clip = [(Fraction(n, RATE), picture(n, np.zeros((2, *SIZE), np.float32))) for n in range(8)]
    *_, report = flicker(colored(clip, steadied(network, 0.9)), "clip")
    assert len(asked) == len(clip)
    whole = report.whole
    assert list(whole) == [OUTPUT, FRAME_BY_FRAME]
    assert whole[OUTPUT].warp_error < 0.7 * whole[FRAME_BY_FRAME].warp_error


def test_stages_see_the_frames_in_order_beside_the_original():
    clip = [(Fraction(n), torch.full((1, 3, 4, 4), n / 10)) for n in range(3)]
    seen = []

    def stage(rgb):
        seen.append(round(float(rgb.mean()), 3))
        return rgb + 0.5

    frames = list(colored(clip, {OUTPUT: stage}, clip))
    assert seen == [0.0, 0.1, 0.2]
    assert [frame.seconds for frame in frames] == [0, 1, 2]
    assert list(frames[1].versions) == [OUTPUT, ORIGINAL]
    assert torch.equal(frames[1].versions[ORIGINAL], clip[1][1])
    assert list(next(iter(colored(clip, {OUTPUT: stage}))).versions) == [OUTPUT]


def test_an_original_that_is_no_original_is_refused():
    clip = [(Fraction(n), torch.zeros(1, 3, 4, 6)) for n in range(3)]
    stages = {OUTPUT: lambda rgb: rgb}
    with pytest.raises(RequestError, match="fewer frames"):
        list(colored(clip, stages, clip[:2]))
    with pytest.raises(RequestError, match="more frames"):
        list(colored(clip[:2], stages, clip))
    with pytest.raises(RequestError, match="6x5 pixels and the clip 6x4"):
        list(colored(clip, stages, [(Fraction(0), torch.zeros(1, 3, 5, 6))]))


def test_a_clip_without_frames_is_refused():
    with pytest.raises(RequestError, match="no frames"):
        list(flicker([], "empty"))


def test_flicker_is_told_relative_to_another_version(report):
    whole = report.whole
    expected = whole["flickering"].warp_error / whole[ORIGINAL].warp_error
    assert relative(whole, "flickering", ORIGINAL) == expected
    assert math.isnan(relative(whole, OUTPUT, FRAME_BY_FRAME))
    still = ColorSteadiness(0.0, 1.0, math.nan)
    assert math.isnan(relative({OUTPUT: still, ORIGINAL: still}, OUTPUT, ORIGINAL))


def test_the_report_names_its_clip(report):
    assert isinstance(report, FlickerReport)
    assert report.to_dict()["clip"] == "clip"
