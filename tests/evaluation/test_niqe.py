import math
from pathlib import Path

import numpy as np
import pytest
from evaluation.scenes import codes, scene, texture

from vidsr.errors import MediaError, ModelError, RequestError
from vidsr.evaluation.evaluate import picture_paths, read_picture
from vidsr.evaluation.metrics import enlarge, luma, shrink, to_picture, to_tensor
from vidsr.evaluation.niqe import FEATURES, NaturalModel, _block_features, fit, niqe, shipped_model

# Means over the six blocks of scene(192, 288), by BasicSR 1.4.2's niqe.py (which follows the
# authors' MATLAB code): 18 features at full size, 18 at half.
BASICSR_FEATURES = """
    2.8888 1.0444  0.9077 -0.0631 0.2696 0.2152  0.9222 -0.0529 0.2701 0.2231
                   0.8968 -0.0443 0.255  0.2175  0.887  -0.033  0.2459 0.2186
    2.0338 0.55    0.7048 0.0306  0.0486 0.0649  0.6747 0.0415  0.0452 0.0623
                   0.7148 -0.0023 0.0588 0.0572  0.6758 -0.0019 0.0521 0.0513
"""


@pytest.fixture(scope="module")
def model() -> NaturalModel:
    return shipped_model()


@pytest.fixture(scope="module")
def own() -> NaturalModel:
    """A model of drawn scenes."""
    return fit([scene(960, 960)] * 5, "five drawings")


def test_features_are_those_of_basicsr():
    features, _ = _block_features(luma(scene(192, 288), border=0).round())
    means = features.mean(0).numpy()
    expected = np.array(BASICSR_FEATURES.split(), float)
    # At half size the reductions differ at the picture's edges, so the later 18 differ more.
    assert np.abs(means - expected)[:18].max() < 1e-3
    assert np.abs(means - expected)[18:].max() < 4e-3


def test_the_model_that_ships_is_whole_and_says_what_it_was_fitted_on(model):
    assert "pictures of photo/train" in model.about
    assert np.linalg.eigvalsh(model.covariance).min() > 0


def test_blur_and_noise_raise_the_distance_of_photographs(model, shared: Path):
    paths = picture_paths(shared / "data/photo/val")[:6]
    photographs = [read_picture(path)[:296, :296] for path in paths]
    blurred = [to_picture(enlarge(shrink(to_tensor(p), 4), 4)) for p in photographs]
    noisy = [codes(p + 15 * texture(*p.shape[:2])[..., None]) for p in photographs]
    clean, blur, noise = (
        np.mean([niqe(picture, model, border=4) for picture in pictures])
        for pictures in (photographs, blurred, noisy)
    )
    assert clean + 1 < min(blur, noise), (clean, blur, noise)


def test_where_two_blocks_have_no_texture_there_is_no_figure(model):
    assert math.isnan(niqe(scene(100, 95), model, border=0))
    assert math.isnan(niqe(scene(100, 191), model, border=0))
    assert math.isnan(niqe(np.full((300, 300, 3), 90, np.uint8), model, border=0))
    half = np.concatenate([scene(200, 200), np.full((200, 200, 3), 90, np.uint8)])
    assert niqe(half, model, border=0) > 0


def test_a_fitted_model_survives_its_file(own, tmp_path):
    own.write(tmp_path / "own.npz")
    read = NaturalModel.read(tmp_path / "own.npz")
    assert np.array_equal(read.mean, own.mean)
    assert np.array_equal(read.covariance, own.covariance)
    assert read.about == own.about
    assert read.about.endswith(" sharp blocks of five drawings")
    assert [path.name for path in tmp_path.iterdir()] == ["own.npz"]


def test_pictures_are_near_to_a_model_of_their_kind(model, own):
    assert niqe(scene(480, 480), own, border=0) < niqe(scene(480, 480), model, border=0)


def test_a_model_needs_many_blocks():
    with pytest.raises(RequestError, match="only 0 sharp blocks"):
        fit([scene(90, 90)], "nothing")


def test_files_that_are_no_model_are_refused(tmp_path):
    for name, write in {
        "text.npz": lambda path: path.write_text("no zip"),
        "short.npz": lambda path: np.savez(path, mean=np.zeros(3)),
        "small.npz": lambda path: np.savez(
            path, mean=np.zeros(3), covariance=np.zeros((3, 3)), about=""
        ),
        "pickle.npz": lambda path: np.savez(
            path, mean=np.array([{}]), covariance=np.zeros((FEATURES, FEATURES)), about=""
        ),
    }.items():
        write(tmp_path / name)
        with pytest.raises(ModelError, match=name):
            NaturalModel.read(tmp_path / name)
    with pytest.raises(ModelError, match=r"missing\.npz"):
        NaturalModel.read(tmp_path / "missing.npz")


def test_an_unwritable_place_is_named_and_nothing_is_left(model, tmp_path):
    (tmp_path / "own.npz").mkdir()
    with pytest.raises(MediaError, match=r"own\.npz"):
        model.write(tmp_path / "own.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["own.npz"]
