"""From a model card or a public checkpoint to a network with checked weights.

Note [Why basicsr stays outside inference]
~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~
Public checkpoints come from BasicSR, and it would be the plain choice to load them with it. But
basicsr 1.4.2 cannot be built on Python 3.13, cannot be imported with torchvision 0.17 or later, and
reads checkpoints by unpickling. So the three networks are written here, with the tensor names of
the originals, and basicsr is an extra that only training and tests may use.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import re
import struct
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vidsr.errors import ModelError
from vidsr.models.card import PERCEPTUAL, ModelCard, card_path, sha256_of
from vidsr.models.compact import Compact, CompactOptions
from vidsr.models.pix2pix import ColorOptions, Pix2PixGenerator, Pix2PixLite, Pix2PixOptions
from vidsr.models.rrdb import RRDBNet, RRDBOptions
from vidsr.models.srgan import MSRResNet, SRGANGenerator, SRGANOptions

if TYPE_CHECKING:
    from collections.abc import Callable

State = dict[str, Tensor]
Network = Compact | SRGANGenerator | MSRResNet | RRDBNet | Pix2PixGenerator | Pix2PixLite
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")
LARGEST_SIZE = 4096  # channels or blocks that a card may claim
# What torch's reader was seen to raise on truncated and altered files.
_DAMAGED = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    struct.error,
)


@dataclass(frozen=True)
class Weights:
    """What fills a network: a file, or a point between two files of one network.

    Each number is fidelity * ours + (1 - fidelity) * the twin's: network interpolation, Wang et al.
    2018 (arXiv:1809.00219), section 3.4, where the perceptual weights were trained from the others.
    """

    card: ModelCard
    path: Path
    twin: Weights | None = None  # the perceptual weights, if there are any
    fidelity: float = 1.0  # [0,1]; below 1 there is a twin

    @property
    def half(self) -> bool:
        """Whether half precision keeps the picture, for all that is mixed."""
        return self.card.half and (self.twin is None or self.fidelity == 1 or self.twin.half)

    @property
    def identity(self) -> str:
        """A word that other weights do not have: the hashes of what is mixed, and how."""
        if self.twin is None or self.fidelity == 1:
            return self.card.sha256
        return f"{self.fidelity!r} {self.card.sha256} {self.twin.card.sha256}"


def find_twin(path: Path) -> Weights | None:
    """The perceptual weights beside a weights file, or None.

    Raises:
        ModelError: there is such a file, and it is unreadable or no network that we know.
    """
    beside = path.with_stem(path.stem + PERCEPTUAL)
    return Weights(*resolve(str(beside))) if beside.is_file() else None


def check(weights: Weights) -> None:
    """Refuse what can be known to fail before loading.

    Raises:
        ModelError: a wrong hash, or a twin of another network.
    """
    _check_hash(weights.card, weights.path)
    if weights.twin is not None and weights.fidelity < 1:
        _check_hash(weights.twin.card, weights.twin.path)
        _check_twin(read_state(weights.path), read_state(weights.twin.path), weights.twin.path)


def load_mixed(weights: Weights) -> Network:
    """The network of `weights`, in eval mode, fp32, on the CPU.

    At a fidelity of 1 or 0 only one file is read, and its numbers stay as they are.

    Raises:
        ModelError: as `load`, or the twin is of another network.
    """
    twin, share = weights.twin, weights.fidelity
    if twin is None or share == 1:
        return load(weights.card, weights.path)
    perceptual = load(twin.card, twin.path)
    if share == 0:
        return perceptual
    network = load(weights.card, weights.path)
    state, other = network.state_dict(), perceptual.state_dict()
    _check_twin(state, other, twin.path)
    for key, ours in state.items():  # the network's own memory
        ours.mul_(share).add_(other[key], alpha=1 - share)
    return network


def resolve(model: str) -> tuple[ModelCard, Path]:
    """The card and weights file of a shipped or pulled name or of a checkpoint's path.

    Raises:
        ModelError: unknown name, unreadable file, or no network that we know.
    """
    if model.lower().endswith(CHECKPOINT_SUFFIXES):
        path = Path(model)
        beside = path.with_suffix(".json")
        return (ModelCard.read(beside) if beside.is_file() else describe(path)), path
    path = card_path(model)
    return ModelCard.read(path), path.with_suffix(".safetensors")


def load(card: ModelCard, path: Path) -> Network:
    """The network of a card with its weights, in eval mode, fp32, on the CPU.

    Raises:
        ModelError: wrong hash, unreadable file, or tensors that do not fit the network.
    """
    _check_hash(card, path)
    state = read_state(path)
    with torch.device("meta"):  # before memory is taken for what a card claims
        _check_fit(build(card), state, path)
    network = build(card)
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)  # noqa: FBT003 - torch's own signature


def build(card: ModelCard) -> Network:
    """The network of a card, with fresh weights.

    Raises:
        ModelError: the card names a network or a size that does not exist.
    """
    sizes = {**card.sizes, "scale": card.scale}
    makers: dict[str, Callable[[], Network]] = {
        "compact": lambda: Compact(CompactOptions(**sizes)),
        "srgan": lambda: SRGANGenerator(SRGANOptions(**sizes)),
        "msrresnet": lambda: MSRResNet(SRGANOptions(**sizes)),
        "rrdb": lambda: RRDBNet(RRDBOptions(**sizes)),
        "pix2pix": lambda: Pix2PixGenerator(Pix2PixOptions(**card.sizes)),
        "pix2pix-lite": lambda: Pix2PixLite(ColorOptions(**card.sizes)),
    }
    if card.network not in makers:
        known = ", ".join(makers)
        raise ModelError(f"{card.name}: unknown network {card.network!r}; there are {known}")
    if any(
        isinstance(size, int) and size > LARGEST_SIZE for size in sizes.values()
    ):  # memory would go before it fails
        raise ModelError(f"{card.name}: sizes {card.sizes} are beyond any network of vidsr's")
    try:
        return makers[card.network]()
    except (TypeError, ValueError, RuntimeError) as exc:  # a wrong name, or a size below zero
        raise ModelError(f"{card.name}: sizes {card.sizes} do not fit {card.network}") from exc


def describe(path: Path) -> ModelCard:
    """A card for a public checkpoint: network and sizes are read from its tensors.

    Raises:
        ModelError: unreadable, or not one of the networks that we know.
    """
    state = read_state(path)
    recognizers = (_compact, _srgan, _msrresnet, _rrdb)
    found = next((answer for ask in recognizers if (answer := ask(state))), None)
    if found is None:
        raise ModelError(
            f"{path}: not a network that vidsr knows (SRVGGNetCompact, SRGAN, MSRResNet, RRDBNet)"
        )
    network, options = found
    sizes = dataclasses.asdict(options)
    scale = sizes.pop("scale")
    draft = ModelCard(path.stem, network, sizes, scale, 0, half=True, sha256=sha256_of(path))
    with torch.device("meta"):  # only its geometry is asked for
        reach = build(draft).reach
    # An RRDB's formal reach is hundreds of pixels; it uses a few tens of them at most.
    halo = min(reach, 64)
    return dataclasses.replace(draft, halo=halo, summary=f"{network} checkpoint {path.name}")


def read_state(path: Path) -> State:
    """The tensors of a checkpoint, read without executing anything in it.

    Accepts `.safetensors`, and `.pth`/`.pt` with the tensors bare or under `params_ema`, `params`
    or `state_dict`.

    Raises:
        ModelError: missing, damaged, or holding anything but tensors.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch wonders about is no news to the user
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as exc:
        raise ModelError(f"{path}: cannot read the weights ({exc.strerror or exc})") from exc
    except (SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile) as exc:
        raise ModelError(
            f"{path} is not a checkpoint that is safe to load ({_first_line(exc)})"
        ) from exc
    except _DAMAGED as exc:
        raise ModelError(f"{path} is not a readable checkpoint ({_first_line(exc)})") from exc
    return _tensors(content, path)


def _first_line(error: Exception) -> str:
    """What torch found wrong, without the advice that follows (to load it unsafely)."""
    return str(error).strip().split("\n", 1)[0].split(". ", 1)[0]


def _tensors(content: object, path: Path) -> State:
    for key in ("params_ema", "params", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise ModelError(f"{path} holds no tensors")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise ModelError(f"{path} holds more than named tensors; export the generator alone")
    return {key.removeprefix("module."): value for key, value in content.items()}


def _check_hash(card: ModelCard, path: Path) -> None:
    actual = sha256_of(path)
    if actual != card.sha256:
        raise ModelError(
            f"{path}: the weights are not those of the card (sha256 {actual[:12]}…, card "
            f"{card.sha256[:12]}…); reinstall vidsr or fetch the file again"
        )


def _check_fit(network: Network, state: State, path: Path) -> None:
    if differ := _first_difference(network.state_dict(), state):
        key, ours, theirs = differ
        raise ModelError(
            f"{path}: the weights are of another network than their card says: for {key} the "
            f"file has {theirs}, the network {ours}"
        )


def _check_twin(fidelity: State, perceptual: State, path: Path) -> None:
    if differ := _first_difference(fidelity, perceptual):
        key, ours, theirs = differ
        raise ModelError(
            f"{path}: the weights are of another network than those they are mixed with: {key} is "
            f"{theirs} here and {ours} there; --fidelity 1 leaves them out"
        )


def _first_difference(ours: State, theirs: State) -> tuple[str, str, str] | None:
    """The first name whose shapes differ, and both shapes in words."""

    def shape(state: State, key: str) -> str:
        return str(tuple(state[key].shape)) if key in state else "no such tensor"

    keys = sorted(ours.keys() | theirs.keys())
    shapes = ((key, shape(ours, key), shape(theirs, key)) for key in keys)
    return next((one for one in shapes if one[1] != one[2]), None)


# Recognizing a network by its tensors. Each answers (network, options) or None. The file is not
# trusted: counts come from the number of tensors, never from a number that a name claims.


def _shape(state: State, key: str) -> tuple[int, ...]:
    return tuple(state[key].shape) if key in state else ()


def _count(state: State, pattern: str) -> int:
    """How many different numbers `pattern`'s group matches in the keys."""
    return len({match[1] for key in state if (match := re.match(pattern, key))})


def _factor(state: State, key: str, channels: int) -> int:
    """The f of a convolution to `channels` * f**2 channels, which PixelShuffle unfolds; else 0."""
    shape = _shape(state, key)
    if len(shape) != 4 or channels == 0:
        return 0
    factor = math.isqrt(shape[0] // channels)
    return factor if factor * factor * channels == shape[0] else 0


def _compact(state: State) -> tuple[str, CompactOptions] | None:
    first = _shape(state, "body.0.weight")
    layers = _count(state, r"body\.(\d+)\.weight$")
    scale = _factor(state, f"body.{layers - 1}.weight", 3)
    if len(first) != 4 or first[1] != 3 or scale == 0:
        return None
    return "compact", CompactOptions(scale=scale, channels=first[0], blocks=(layers - 3) // 2)


def _srgan(state: State) -> tuple[str, SRGANOptions] | None:
    channels, *_ = _shape(state, "head.0.weight") or (0,)
    steps = _count(state, r"upsample\.(\d+)\.")
    scale = _factor(state, "upsample.0.0.weight", channels) ** steps
    if steps == 0 or scale not in {2, 3, 4}:
        return None
    blocks = _count(state, r"trunk\.(\d+)\.")
    return "srgan", SRGANOptions(scale=scale, channels=channels, blocks=blocks)


def _msrresnet(state: State) -> tuple[str, SRGANOptions] | None:
    channels, *_ = _shape(state, "conv_first.weight") or (0,)
    scale = _factor(state, "upconv1.weight", channels) * (2 if "upconv2.weight" in state else 1)
    if scale not in {2, 3, 4}:
        return None
    blocks = _count(state, r"body\.(\d+)\.")
    return "msrresnet", SRGANOptions(scale=scale, channels=channels, blocks=blocks)


def _rrdb(state: State) -> tuple[str, RRDBOptions] | None:
    first, dense = _shape(state, "conv_first.weight"), _shape(state, "body.0.rdb1.conv1.weight")
    if len(first) != 4 or len(dense) != 4 or first[1] not in {3, 12, 48}:
        return None
    scale = {3: 4, 12: 2, 48: 1}[first[1]]
    blocks = _count(state, r"body\.(\d+)\.")
    return "rrdb", RRDBOptions(scale=scale, channels=first[0], blocks=blocks, growth=dense[0])
