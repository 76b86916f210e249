"""Our three public networks against BasicSR's own answers, which make_basicsr_reference.py kept."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from vidsr.models.load import describe, load

REFERENCE = Path(__file__).with_name("basicsr_reference.safetensors")
OURS = {"MSRResNet": "msrresnet", "RRDBNet": "rrdb", "SRVGGNetCompact": "compact"}


def cases():
    with safe_open(REFERENCE, framework="pt") as file:
        return sorted({key.split("/")[0] for key in file.keys()})  # noqa: SIM118


def read_case(case):
    """(weights, input, output) of one of BasicSR's networks."""
    with safe_open(REFERENCE, framework="pt") as file:
        tensors = {
            key.removeprefix(f"{case}/"): file.get_tensor(key)
            for key in file.keys()  # noqa: SIM118
            if key.startswith(f"{case}/")
        }
    picture, output = tensors.pop("input"), tensors.pop("output")
    return {key.removeprefix("weights/"): value for key, value in tensors.items()}, picture, output


def test_every_scale_of_every_network_has_a_reference():
    assert cases() == [
        *(f"MSRResNet-x{scale}" for scale in (2, 3, 4)),
        *(f"RRDBNet-x{scale}" for scale in (2, 4)),
        *(f"SRVGGNetCompact-x{scale}" for scale in (2, 3, 4)),
    ]


@pytest.mark.parametrize("case", cases())
def test_a_checkpoint_of_basicsr_gives_basicsrs_pictures(tmp_path, case):
    weights, picture, expected = read_case(case)
    path = tmp_path / "net.pth"
    torch.save({"params": weights}, path)  # as basicsr saves its generators
    card = describe(path)
    name, scale = case.split("-x")
    assert (card.network, card.scale) == (OURS[name], int(scale))
    assert (card.sizes["channels"], card.sizes["blocks"]) == (6, 2)
    with torch.inference_mode():
        output = load(card, path)(picture)
    assert output.shape == expected.shape
    # Another release of torch adds in another order: 6e-7 was measured, on pictures of order 1.
    assert (output - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("case", cases())
def test_the_references_are_more_than_an_enlarged_input(case):
    # Were the learned part too faint to see, the test above would pass for any network.
    _, picture, output = read_case(case)
    enlarged = torch.nn.functional.interpolate(picture, size=output.shape[-2:], mode="nearest")
    assert (output - enlarged).std() > 0.05
