"""A network that begins as a trained one of other sizes, and learns on from there.

But for one case it computes the same at first.

Source: Net2Net (Chen, Goodfellow and Shlens 2016, arXiv:1511.05641). New channels start with random
weights but nobody listens to them yet; new layers start as the identity.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from vidsr.errors import ModelError
from vidsr.models.compact import Compact
from vidsr.models.srgan import ResidualBlock, SRGANGenerator, upsampling_factors


def grow(trained: nn.Module, larger: nn.Module) -> nn.Module:
    """`larger`, its fresh weights replaced so that it computes what `trained` does.

    Networks of equal sizes are copied. A Compact may become wider and deeper, or an SRGAN generator
    of twice its width and more blocks than it has layers; an SRGAN generator may become deeper. A
    Compact may also come down to a scale that divides its own: it computes the pixels' mean. An
    SRGAN generator of x4 may come down to x2, but computes nothing of use until it has learnt a new
    last layer: what that is to make of the first doubling's features was the second's work.

    Raises:
        ModelError: another kind of network, a scale that does not fit, or a smaller one.
    """
    if isinstance(trained, Compact) and isinstance(larger, Compact):
        ours, theirs = larger.options, trained.options
        fits = ours.channels >= theirs.channels and ours.blocks >= theirs.blocks
        if fits and theirs.scale % ours.scale == 0:
            return _grow_compact(trained, larger)
    if isinstance(trained, SRGANGenerator) and isinstance(larger, SRGANGenerator):
        deeper, shallower = larger.options, trained.options
        fits = deeper.channels == shallower.channels and deeper.blocks >= shallower.blocks
        if fits and (shallower.scale == deeper.scale or (shallower.scale, deeper.scale) == (4, 2)):
            return _grow_srgan(trained, larger)
    if isinstance(trained, Compact) and isinstance(larger, SRGANGenerator):
        chain, residual = trained.options, larger.options
        fits = residual.channels >= 2 * chain.channels and residual.channels >= chain.channels + 12
        if fits and residual.blocks > chain.blocks and residual.scale == chain.scale:
            return _embed(trained, larger)
    raise ModelError(
        f"a training of {_words(larger)} cannot start from {_words(trained)}; it must be of the "
        "same scale (a Compact: a multiple; an SRGAN for x2: x4), and of the same kind and no "
        "larger, or a Compact of half the width at most"
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
    convolutions[-1].weight[:, :channels] = _reduced(last.weight, trained, larger)
    convolutions[-1].weight[:, channels:] = 0
    _bias(convolutions[-1]).copy_(_reduced(_bias(last), trained, larger))
    return larger


def _reduced(outputs: Tensor, trained: Compact, larger: Compact) -> Tensor:
    """What the last layer has for each pixel, (3*s*s,...): the mean of those that become one.

    The picture that is added, enlarged by its nearest neighbors, has the same mean there.
    """
    scale = larger.options.scale
    each = trained.options.scale // scale
    return (
        outputs.reshape(3, scale, each, scale, each, -1)
        .mean((2, 4))
        .reshape(3 * scale**2, *outputs.shape[1:])
    )


def _bias(convolution: nn.Conv2d) -> Tensor:
    if convolution.bias is None:
        raise ModelError("only convolutions with a bias can grow")
    return convolution.bias


@torch.no_grad()
def _grow_srgan(trained: SRGANGenerator, larger: SRGANGenerator) -> SRGANGenerator:
    kept = trained.state_dict()
    if larger.options.scale < trained.options.scale:
        after_doubling = ("upsample.1.", "tail.")
        kept = {key: value for key, value in kept.items() if not key.startswith(after_doubling)}
    larger.load_state_dict({**larger.state_dict(), **kept})
    blocks = [part for part in larger.trunk if isinstance(part, ResidualBlock)]
    for block in blocks[trained.options.blocks :]:
        block.conv2.weight.zero_()
        _bias(block.conv2).zero_()
    return larger


@torch.no_grad()
def _embed(chain: Compact, larger: SRGANGenerator) -> SRGANGenerator:
    """Let a residual network compute a plain chain of layers.

    The picture itself travels in the first three channels, the chain's features in those after it;
    the others start at random, and nobody listens to them yet.
    """
    features = slice(3, 3 + chain.options.channels)
    layers = [part for part in chain.body if isinstance(part, nn.Conv2d)]
    slopes = [part.weight for part in chain.body if isinstance(part, nn.PReLU)]
    blocks = [part for part in larger.trunk if isinstance(part, ResidualBlock)]
    for number, block in enumerate(blocks):
        if number < len(slopes):
            source = features if number else slice(3)
            _compute_layer(block, layers[number], slopes[number], source, features)
        else:
            block.conv2.weight.zero_()
            _bias(block.conv2).zero_()
    head, head_slope = _layer_and_slope(larger.head)
    _pass_on(head, head_slope, slice(3))
    head.weight[features], _bias(head)[features] = 0, 0
    larger.fuse.weight[: features.stop], _bias(larger.fuse)[: features.stop] = 0, 0
    nn.init.dirac_(larger.fuse.weight[features, features])
    _enlarge(larger, layers[-1], features)
    larger.tail.weight[:] = 0
    nn.init.dirac_(larger.tail.weight[:, :3])
    _bias(larger.tail).zero_()
    return larger


def _compute_layer(
    block: ResidualBlock, layer: nn.Conv2d, slope: Tensor, source: slice, features: slice
) -> None:
    """Let a block replace its features f by PReLU(layer(f)).

    Half of its inner channels compute that, and half pass f on to be taken off, through a PReLU of
    slope 1, which does nothing. The first block of all finds no features to be taken off.
    """
    channels = len(slope)
    inner, kept = slice(channels), slice(channels, 2 * channels)
    block.conv1.weight[inner] = 0
    block.conv1.weight[inner, source] = layer.weight
    _bias(block.conv1)[inner] = _bias(layer)
    block.act.weight[inner] = slope
    block.conv2.weight[: features.stop], _bias(block.conv2)[: features.stop] = 0, 0
    nn.init.dirac_(block.conv2.weight[features, inner])
    if source == features:
        block.conv1.weight[kept], _bias(block.conv1)[kept] = 0, 0
        nn.init.dirac_(block.conv1.weight[kept, features])
        block.act.weight[kept] = 1
        nn.init.dirac_(block.conv2.weight[features, kept])
        block.conv2.weight[features, kept] *= -1


def _enlarge(larger: SRGANGenerator, last: nn.Conv2d, features: slice) -> None:
    """Let the upsampling compute the chain's last layer, added to the nearest-neighbor picture.

    The first step makes the finished pixels: those that the second step, if there is one, is to
    put between them travel as colors of their own until then.
    """
    scale = larger.options.scale
    first, *second = larger.upsample
    factor = upsampling_factors(scale)[0]
    rest = scale // factor
    convolution, slope = _layer_and_slope(first)
    for color, y, x in product(range(3), range(scale), range(scale)):
        channel = (color * rest + y % rest) * rest + x % rest
        row = (channel * factor + y // rest) * factor + x // rest
        pixel = (color * scale + y) * scale + x
        convolution.weight[row] = 0
        convolution.weight[row, features] = last.weight[pixel]
        convolution.weight[row, color, 1, 1] += 1
        _bias(convolution)[row] = _bias(last)[pixel]
        slope[channel] = 1
    for step in second:
        _pass_on(*_layer_and_slope(step), slice(3 * rest**2), outputs=3)


def _pass_on(
    layer: nn.Conv2d, slope: Tensor, channels: slice, *, outputs: int | None = None
) -> None:
    """Let a layer's first channels be the input's, unchanged; `outputs` of them have a slope."""
    layer.weight[channels], _bias(layer)[channels] = 0, 0
    nn.init.dirac_(layer.weight[channels, channels])
    slope[: outputs or channels.stop] = 1


def _layer_and_slope(parts: nn.Module) -> tuple[nn.Conv2d, Tensor]:
    layers = [part for part in parts.children() if isinstance(part, nn.Conv2d)]
    slopes = [part.weight for part in parts.children() if isinstance(part, nn.PReLU)]
    return layers[0], slopes[0]
