"""Writes basicsr_reference.safetensors: what BasicSR's own networks answer on random weights.

Runs where basicsr 1.4.2 can be imported; needs torch, numpy and safetensors besides, not vidsr.
"""

import math
from pathlib import Path

import basicsr
import numpy as np
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.srresnet_arch import MSRResNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from safetensors.numpy import save

NETWORKS = {
    **{f"MSRResNet-x{s}": MSRResNet(num_feat=6, num_block=2, upscale=s) for s in (2, 3, 4)},
    **{
        f"RRDBNet-x{s}": RRDBNet(3, 3, scale=s, num_feat=6, num_block=2, num_grow_ch=2)
        for s in (2, 4)
    },
    **{
        f"SRVGGNetCompact-x{s}": SRVGGNetCompact(num_feat=6, num_conv=2, upscale=s)
        for s in (2, 3, 4)
    },
}


def randomize(network, generator):
    """Draw all tensors anew: fresh ones have zero biases, equal slopes and tiny weights."""
    for name, weight in network.named_parameters():
        if weight.ndim == 4:
            reach = math.sqrt(3 / weight[0].numel())  # keeps the variance of its input
            weight.data.uniform_(-reach, reach, generator=generator)
        elif name.endswith("bias"):
            weight.data.uniform_(-0.1, 0.1, generator=generator)
        else:
            weight.data.uniform_(0, 0.5, generator=generator)  # slopes of a PReLU


def main():
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for name, network in NETWORKS.items():
        randomize(network, generator)
        picture = torch.rand(1, 3, 6, 8, generator=generator)
        tensors[f"{name}/input"] = picture
        with torch.no_grad():
            tensors[f"{name}/output"] = network.eval()(picture)
        tensors |= {f"{name}/weights/{key}": value for key, value in network.state_dict().items()}
    content = save(
        {key: np.ascontiguousarray(value.numpy()) for key, value in tensors.items()},
        metadata={"made_by": f"basicsr {basicsr.__version__}, torch {torch.__version__}"},
    )
    Path(__file__).with_name("basicsr_reference.safetensors").write_bytes(content)


if __name__ == "__main__":
    main()
