"""What a generator and its discriminator are trained to make small.

Pictures are RGB (N,3,H,W) in [0,1]. Every loss is a mean, a tensor without dimensions, in fp32
whatever its arguments are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vidsr.errors import RequestError
from vidsr.evaluation.similarity import YIQ, haar_likeness
from vidsr.training.discriminators import Discriminator, basicsr_door

ContentLoss = Callable[[Tensor, Tensor], Tensor]  # (output, target) -> loss
_BASICSR_NAMES = ("CharbonnierLoss", "L1Loss", "MSELoss")
_COLOR_CELL = 8  # pixels, side of the areas whose mean color must stay
_LOG_FLOOR = 2e-3  # below this an error counts as itself; half a code value
_LOG_SCALE = 0.02  # a usual error: there the slope is charbonnier's
_LATTICE_CELL = 8  # low-res pixels, side of the areas in which a lattice is looked for


def charbonnier(output: Tensor, target: Tensor, epsilon: float = 1e-3) -> Tensor:
    """L1 that is smooth within `epsilon` of zero (Lai et al. 2017, arXiv:1710.01992)."""
    error = output.float() - target.float()
    return (error.square() + epsilon**2).sqrt().mean()


def log_charbonnier(output: Tensor, target: Tensor) -> Tensor:
    """Charbonnier's error of each picture as a logarithm, so that its own size tells, as in PSNR.

    In a plain mean, what is hard everywhere (paint, foliage) outweighs what could be faultless (the
    flat areas and clean lines of a drawing): here a picture with an error of .004 counts seven
    times as much for what it gains as one with .04.
    """
    error = output.float() - target.float()
    each = (error.square() + 1e-6).sqrt().mean((1, 2, 3))
    return _LOG_SCALE * (1 + each / _LOG_FLOOR).log().mean()


def l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error."""
    return F.l1_loss(output.float(), target.float())


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log D(real) - log(1 - D(fake)) (Goodfellow et al. 2014, equation 1); 2 ln 2 at a guess.

    The logits' shapes may differ; each side is averaged for itself.
    """
    return F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """-log D(fake), the form that does not saturate (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake_logits.float()).mean()


def feature_matching(features_fake: Sequence[Tensor], features_real: Sequence[Tensor]) -> Tensor:
    """Mean over layers of the L1 between activations; no gradient reaches the real ones.

    Source: pix2pixHD (Wang et al. 2018, arXiv:1711.11585, section 3.2). Here each layer is divided
    by the mean magnitude of its real activations, so that no layer dominates and 1 means "off by
    as much as there is".
    """
    pairs = zip(features_fake, features_real, strict=True)
    return torch.stack([_relative_l1(fake, real.detach()) for fake, real in pairs]).mean()


def _relative_l1(fake: Tensor, real: Tensor) -> Tensor:
    magnitude = real.float().abs().mean().clamp(min=1e-6)
    return l1(fake, real) / magnitude


class CriticFeatures:
    """Compares pictures by what a trained discriminator, now frozen, sees in them.

    It takes the place of a pretrained classification network in a perceptual loss: a critic that
    was trained on one kind of error knows its traces (Mustafa et al. 2022, "Training a
    Task-Specific Image Reconstruction Loss"). The discriminator may go on training: this is a copy.
    """

    def __init__(self, discriminator: Discriminator) -> None:
        frozen = copy.deepcopy(discriminator).eval()
        self.critic = frozen.requires_grad_(False)  # noqa: FBT003 - torch's own signature

    def feature_matching(self, output: Tensor, target: Tensor) -> Tensor:
        """`feature_matching` between the critic's features of both; gradients reach `output`."""
        with torch.no_grad():
            wanted = self.critic.features(target)
        return feature_matching(self.critic.features(output), wanted)


def color_consistency(output: Tensor, target: Tensor) -> Tensor:
    """L1 between the means of 8x8 areas: overall color and flat areas stay, detail is free.

    Rows and columns beyond the last whole area do not count.
    """
    return l1(F.avg_pool2d(output.float(), _COLOR_CELL), F.avg_pool2d(target.float(), _COLOR_CELL))


def lattice(output: Tensor, target: Tensor, scale: int) -> Tensor:
    """How much the scale x scale pixels that a low-res pixel became differ from each other alike.

    A generator that ends in a pixel shuffle makes each of them with weights of its own, and with
    little to go by it draws texture as a lattice of that size. The error of each of those places,
    averaged over 8x8 low-res pixels, is left of a lattice and not of texture.

    Args:
        output: (N,3,H,W), sides that divide by `scale`.
        target: the same.
        scale: of the network.
    """
    error = F.pixel_unshuffle(output.float() - target.float(), scale)
    cell = min(_LATTICE_CELL, *error.shape[-2:])
    mean = F.avg_pool2d(error, cell)
    places = mean.view(len(mean), -1, scale**2, *mean.shape[-2:])
    strays = places - places.mean(2, keepdim=True)
    return strays.abs().mean()


def haar_difference(output: Tensor, target: Tensor) -> Tensor:
    """1 less the likeness of both lumas' Haar responses, weighed by the coarse ones: 0 if equal.

    What a pixel loss leaves out where it is in doubt, a line's steepness and the contrast of
    detail, is asked for here at every place, whatever its sign. The middle of HaarPSI (Reisenhofer
    et al. 2018, equations 6 to 9), at full and at half size, so that the finest detail counts too;
    each picture for itself, so that one of few lines counts as much as one full of them.
    """
    ours, theirs = _luma_codes(output), _luma_codes(target)
    halves = F.avg_pool2d(ours, 2), F.avg_pool2d(theirs, 2)
    return (_haar_difference(ours, theirs) + _haar_difference(*halves)) / 2


def _haar_difference(ours: Tensor, theirs: Tensor) -> Tensor:
    likeness, coarse = haar_likeness(ours, theirs)
    weights = coarse.detach() + 1e-6
    each = (likeness * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3))
    return 1 - each.mean()


def _luma_codes(pictures: Tensor) -> Tensor:
    """(N,1,H,W), in [0,255]."""
    red, green, blue = (255 * weight for weight in YIQ[0])  # not a tensor: a GPU would wait for it
    planes = pictures.float()
    return red * planes[:, :1] + green * planes[:, 1:2] + blue * planes[:, 2:]


def open_content_loss(name: str) -> ContentLoss:
    """(output, target) -> loss: "charbonnier", "l1", or "basicsr:" and its name there.

    Raises:
        RequestError: the name is unknown, or basicsr cannot be imported.
    """
    own: dict[str, ContentLoss] = {
        "charbonnier": charbonnier,
        "log_charbonnier": log_charbonnier,
        "l1": l1,
    }
    if name in own:
        return own[name]
    foreign = [f"basicsr:{known}" for known in _BASICSR_NAMES]
    if name not in foreign:
        raise RequestError(
            f"unknown content loss {name!r}; there are {', '.join([*own, *foreign])}"
        )
    with basicsr_door():
        from basicsr.losses import basic_loss
    loss: ContentLoss = getattr(basic_loss, name.removeprefix("basicsr:"))()
    return loss
