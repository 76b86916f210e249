"""Networks that tell originals from enlargements, and whose activations compare the two.

All take RGB pictures (N,3,H,W) in [0,1] and answer with logits: positive for an original. Where
logits and features of the same pictures are both wanted, `logits(features(pictures))` runs the
network once.

Our own look at the detail of a picture alone, strengthened: what an enlargement lacks is there, and
everything else is the same in both (frequency separation: Fritsche et al. 2019, arXiv:1911.07850).
Looking at whole pictures, they told nothing apart after 200 steps; so, they do after 100.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from vidsr.errors import RequestError

SLOPE = 0.2  # of every LeakyReLU, as in both papers
DETAIL_WINDOW = 5  # pixels; what differs from the mean over these is detail
DETAIL_GAIN = 8.0  # brings detail to about the size of a picture's own contrast
_WIDTHS = (1, 2, 4, 8)  # channels of the stages, in units of the first stage's
_BASICSR_NAMES = ("UNetDiscriminatorSN", "VGGStyleDiscriminator")


class UNetDiscriminator(nn.Module):
    """Judges every pixel: (N,3,H,W), H and W multiples of 8, -> logits (N,1,H,W).

    Source: Schönfeld et al. 2020 (arXiv:2002.12655), in the form of Real-ESRGAN (Wang et al. 2021,
    arXiv:2107.10833, figure 6): three halvings, three enlargements that add the features of the
    same size, spectral norm (Miyato et al. 2018) on all but the first and last convolution.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        widths = [channels * factor for factor in _WIDTHS[:-1]]
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.down = nn.ModuleList(
            spectral_norm(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)) for width in widths
        )
        self.up = nn.ModuleList(
            spectral_norm(nn.Conv2d(2 * width, width, 3, padding=1)) for width in reversed(widths)
        )
        self.last = nn.Sequential(
            spectral_norm(nn.Conv2d(channels, channels, 3, padding=1)),
            nn.LeakyReLU(SLOPE),
            spectral_norm(nn.Conv2d(channels, channels, 3, padding=1)),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(channels, 1, 3, padding=1),
        )

    def features(self, pictures: Tensor) -> list[Tensor]:
        """The activations of its seven stages: 1, 1/2, 1/4, 1/8, 1/4, 1/2 and 1 of the size.

        Raises:
            RequestError: H or W is no multiple of 8.
        """
        height, width = pictures.shape[-2:]
        if height % 8 or width % 8:
            raise RequestError(
                f"the unet discriminator judges sides that are multiples of 8, not {width}x{height}"
                "; choose another patch"
            )
        stages = [F.leaky_relu(self.first(detail(pictures)), SLOPE)]
        for conv in self.down:
            stages.append(F.leaky_relu(conv(stages[-1]), SLOPE))
        for conv, skip in zip(self.up, stages[-2::-1], strict=True):
            enlarged = F.interpolate(
                stages[-1], scale_factor=2, mode="bilinear", align_corners=False
            )
            stages.append(F.leaky_relu(conv(enlarged), SLOPE) + skip)
        return stages

    def logits(self, features: list[Tensor]) -> Tensor:
        """The features of pictures -> logits (N,1,H,W)."""
        logits: Tensor = self.last(features[-1])
        return logits

    def forward(self, pictures: Tensor) -> Tensor:
        """(N,3,H,W) -> logits (N,1,H,W)."""
        return self.logits(self.features(pictures))


class VGGDiscriminator(nn.Module):
    """Judges pictures as a whole: (N,3,H,W) of any size -> logits (N,1).

    Source: SRGAN (Ledig et al. 2017, arXiv:1609.04802, figure 4), with spectral norm (Miyato et
    al. 2018) on all but the first and last layer in place of batch norm, whose batches would hold
    either originals or enlargements; and with the mean over all places before the linear layers,
    so that they fit any size.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        widths = [channels * factor for factor in _WIDTHS for _ in range(2)]
        convs = [
            nn.Conv2d(before, width, 3, stride=1 + number % 2, padding=1)
            for number, (before, width) in enumerate(pairwise([3, *widths]))
        ]
        self.convs = nn.ModuleList([convs[0], *map(spectral_norm, convs[1:])])
        self.last = nn.Sequential(
            spectral_norm(nn.Linear(widths[-1], 2 * widths[-1])),
            nn.LeakyReLU(SLOPE),
            nn.Linear(2 * widths[-1], 1),
        )

    def features(self, pictures: Tensor) -> list[Tensor]:
        """The activations of its eight convolutions, the last at 1/16 of the size."""
        stages = [detail(pictures)]
        for conv in self.convs:
            stages.append(F.leaky_relu(conv(stages[-1]), SLOPE))
        return stages[1:]

    def logits(self, features: list[Tensor]) -> Tensor:
        """The features of pictures -> logits (N,1)."""
        logits: Tensor = self.last(features[-1].mean(dim=(2, 3)))
        return logits

    def forward(self, pictures: Tensor) -> Tensor:
        """(N,3,H,W) -> logits (N,1)."""
        return self.logits(self.features(pictures))


def detail(pictures: Tensor) -> Tensor:
    """What differs from the mean of its surroundings, strengthened; of the same shape."""
    margin = DETAIL_WINDOW // 2
    padded = F.pad(pictures, (margin,) * 4, mode="replicate")
    return (pictures - F.avg_pool2d(padded, DETAIL_WINDOW, stride=1)) * DETAIL_GAIN


class BasicSRDiscriminator(nn.Module):
    """One of BasicSR's, by the name that it has there.

    `VGGStyleDiscriminator` judges pictures of 128x128 pixels only.

    Raises:
        RequestError: basicsr cannot be imported.
    """

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        with basicsr_door():
            from basicsr.archs import discriminator_arch
        self.name, self.channels = name, channels
        self.network: nn.Module = getattr(discriminator_arch, name)(num_in_ch=3, num_feat=channels)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """The outputs of its convolutions, then its logits."""
        outputs: list[Tensor] = []
        convs = [module for module in self.network.modules() if isinstance(module, nn.Conv2d)]
        hooks = [
            conv.register_forward_hook(lambda *call: outputs.append(call[2])) for conv in convs
        ]
        try:
            logits = self(pictures)
        finally:
            for hook in hooks:
                hook.remove()
        return [*(output for output in outputs if output is not logits), logits]

    def logits(self, features: list[Tensor]) -> Tensor:
        """The features of pictures -> logits."""
        return features[-1]

    def forward(self, pictures: Tensor) -> Tensor:
        """(N,3,H,W) -> logits, (N,1,H,W) or (N,1).

        Raises:
            RequestError: a size of pictures that the network does not take.
        """
        try:
            logits: Tensor = self.network(pictures)
        except AssertionError as exc:
            raise RequestError(f"basicsr's {self.name} refuses the patch: {exc}") from exc
        return logits

    def __deepcopy__(self, memo: dict[int, Any]) -> BasicSRDiscriminator:
        # Once trained, torch's first spectral norm, which basicsr uses, refuses to be copied.
        twin = BasicSRDiscriminator(self.name, self.channels)
        twin.load_state_dict(self.state_dict())
        return twin.to(next(self.parameters()).device).train(self.training)


Discriminator = UNetDiscriminator | VGGDiscriminator | BasicSRDiscriminator


def open_discriminator(name: str, channels: int) -> Discriminator:
    """A fresh discriminator: "unet", "vgg", or "basicsr:" and its name there.

    Args:
        name: which one.
        channels: of its first stage; the deepest has eight times as many.

    Raises:
        RequestError: the name is unknown, or basicsr cannot be imported.
    """
    makers: dict[str, Callable[[int], Discriminator]] = {
        "unet": UNetDiscriminator,
        "vgg": VGGDiscriminator,
        **{f"basicsr:{known}": partial(BasicSRDiscriminator, known) for known in _BASICSR_NAMES},
    }
    if name not in makers:
        raise RequestError(f"unknown discriminator {name!r}; there are {', '.join(makers)}")
    return makers[name](channels)


@contextmanager
def basicsr_door() -> Iterator[None]:
    """Within it basicsr may be imported.

    Raises:
        RequestError: it is missing, or lacks something itself.
    """
    try:
        _mend_torchvision()
        yield
    except (ImportError, RuntimeError) as exc:  # RuntimeError: a torchvision for another torch
        raise RequestError(
            f"basicsr cannot be imported ({exc}); the README says how to install it, or choose one "
            "of vidsr's own"
        ) from exc


def _mend_torchvision() -> None:
    """Give basicsr 1.4.2 a module that torchvision removed in 0.17 (BasicSR's issue 649).

    The one function that basicsr wants of it is in `functional` too, in all releases.
    """
    with suppress(ImportError):
        from torchvision.transforms import functional

        sys.modules.setdefault("torchvision.transforms.functional_tensor", functional)
