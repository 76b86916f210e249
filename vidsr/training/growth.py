"""A larger network that begins as a smaller one: it computes the same, and learns on from there.

Source: Net2Net (Chen, Goodfellow and Shlens 2016, arXiv:1511.05641). New channels start with random
weights but nobody listens to them yet; new layers start as the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidsr.errors import ModelError
from vidsr.models.compact import Compact
from vidsr.models.srgan import ResidualBlock, SRGANGenerator


def grow(trained: nn.Module, larger: nn.Module) -> nn.Module:
    """`larger`, its fresh weights replaced so that it computes what `trained` does.

    Networks of equal sizes are copied. A Compact may become wider and deeper, an SRGAN generator
    deeper.

    Raises:
        ModelError: another kind of network, another scale, or a smaller one.
    """
    if isinstance(trained, Compact) and isinstance(larger, Compact):
        ours, theirs = larger.options, trained.options
        fits = ours.channels >= theirs.channels and ours.blocks >= theirs.blocks
        if fits and ours.scale == theirs.scale:
            return _grow_compact(trained, larger)
    if isinstance(trained, SRGANGenerator) and isinstance(larger, SRGANGenerator):
        deeper, shallower = larger.options, trained.options
        same = (deeper.channels, deeper.scale) == (shallower.channels, shallower.scale)
        if same and deeper.blocks >= shallower.blocks:
            return _grow_srgan(trained, larger)
    raise ModelError(
        f"a training of {_words(larger)} cannot start from {_words(trained)}; it must be of the "
        "same kind and scale, and no larger"
    )


def _words(network: nn.Module) -> str:
    options = getattr(network, "options", None)
    sizes = f" {options.channels}x{options.blocks}, x{options.scale}" if options else ""
    return f"a {type(network).__name__}{sizes}"


@torch.no_grad()
def _grow_compact(trained: Compact, larger: Compact) -> Compact:
    channels, blocks = trained.options.channels, trained.options.blocks
    first, *inner, last = (part for part in trained.body if isinstance(part, nn.Conv2d))
    convolutions = [part for part in larger.body if isinstance(part, nn.Conv2d)]
    slopes = [part.weight for part in larger.body if isinstance(part, nn.PReLU)]
    old_slopes = [part.weight for part in trained.body if isinstance(part, nn.PReLU)]
    for number, convolution in enumerate(convolutions[1:-1]):
        convolution.weight[:channels] = 0
        if number < blocks:
            convolution.weight[:channels, :channels] = inner[number].weight
            _bias(convolution)[:channels] = _bias(inner[number])
        else:
            nn.init.dirac_(convolution.weight[:channels, :channels])
            _bias(convolution)[:channels] = 0
            slopes[number + 1][:channels] = 1  # a PReLU of slope 1 does nothing
    convolutions[0].weight[:channels] = first.weight
    _bias(convolutions[0])[:channels] = _bias(first)
    for slope, old in zip(slopes, old_slopes, strict=False):
        slope[:channels] = old
    convolutions[-1].weight[:, :channels] = last.weight
    convolutions[-1].weight[:, channels:] = 0
    _bias(convolutions[-1]).copy_(_bias(last))
    return larger


def _bias(convolution: nn.Conv2d) -> Tensor:
    if convolution.bias is None:
        raise ModelError("only convolutions with a bias can grow")
    return convolution.bias


@torch.no_grad()
def _grow_srgan(trained: SRGANGenerator, larger: SRGANGenerator) -> SRGANGenerator:
    larger.load_state_dict({**larger.state_dict(), **trained.state_dict()})
    blocks = [part for part in larger.trunk if isinstance(part, ResidualBlock)]
    for block in blocks[trained.options.blocks :]:
        block.conv2.weight.zero_()
        _bias(block.conv2).zero_()
    return larger
