"""ModelCard: what a weights file is, in readable JSON beside it."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import inspect
import json
import os
import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from vidsr.errors import ModelError

TASKS = ("upscale", "colorize")
PERCEPTUAL = "-perceptual"  # ends the name of a perceptual twin, see `ModelCard.is_twin`


@dataclass(frozen=True)
class ModelCard:
    """Everything that the rest of vidsr needs to know of `<name>.safetensors`."""

    name: str  # the weights file's stem
    network: str  # "compact", "srgan", "msrresnet", "rrdb", "pix2pix", "pix2pix-lite"
    sizes: dict[str, int]  # the network's options: channels, blocks, ...
    scale: int  # output pixels per input pixel, each way
    halo: int  # context in input pixels that a tile needs on each side
    half: bool  # whether fp16 and bf16 keep the picture (measured for what ships)
    sha256: str  # of the weights file
    task: str = "upscale"  # or "colorize", which keeps the size: scale is 1
    fidelity: float = 1.0  # default share of these weights, [0,1]; the rest is the twin's
    summary: str = ""  # one line for `vidsr models`
    trained_on: str = ""  # pictures, degradation, how long and on what
    license: str = ""  # of the weights
    measured: dict[str, Any] = field(default_factory=dict)  # set -> metric -> figure

    def __post_init__(self) -> None:
        types: dict[str, type | tuple[type, ...]] = {
            "str": str,
            "int": int,
            "bool": bool,
            "float": (int, float),
        }
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if not isinstance(value, types.get(str(entry.type), dict)):
                raise ModelError(
                    f"card {self.name!r}: {entry.name} is {value!r}, which is no {entry.type}"
                )
        if self.task not in TASKS or (self.task == "colorize" and self.scale != 1):
            raise ModelError(
                f"card {self.name!r}: task {self.task!r} with scale {self.scale} does not exist; "
                "there are upscale, and colorize with scale 1"
            )
        if not 0 <= self.fidelity <= 1:
            raise ModelError(
                f"card {self.name!r}: fidelity is {self.fidelity!r}, not between 0 and 1"
            )

    @property
    def family(self) -> str | None:
        """What `--model` may say in place of the name: "photo" of photo-x4; None if nothing."""
        found = re.fullmatch(r"(.+)-x\d+", self.name)
        return found[1] if found else None

    @property
    def is_twin(self) -> bool:
        """Whether these are the perceptual weights beside a model trained for fidelity.

        A twin is of the same network and is mixed with that model (`--fidelity`). It belongs to no
        family, but its name works as any other.
        """
        return self.name.endswith(PERCEPTUAL)

    @classmethod
    def read(cls, path: Path) -> ModelCard:
        """Read a card.

        Raises:
            ModelError: the file is missing, not JSON, or has missing, unknown or ill-typed fields.
        """
        try:
            text = path.read_bytes()
        except OSError as exc:
            raise ModelError(f"{path}: cannot read the model card ({exc.strerror})") from exc
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: bytes, origin: object) -> ModelCard:
        """The card that JSON holds; `origin` is its file or address, for messages.

        Raises:
            ModelError: not JSON, or missing, unknown or ill-typed fields.
        """
        try:
            content = json.loads(text.decode("utf-8"))
        except (ValueError, RecursionError) as exc:  # not JSON, or not even text
            raise ModelError(f"{origin} is not a model card: {exc}") from exc
        if not isinstance(content, dict):
            raise ModelError(f"{origin} is not a model card: it holds no JSON object")
        parameters = inspect.signature(cls).parameters.values()
        needed = {p.name for p in parameters if p.default is p.empty}
        if missing := sorted(needed - content.keys()):
            raise ModelError(f"{origin} is not a model card: it lacks {', '.join(missing)}")
        if unknown := sorted(content.keys() - {p.name for p in parameters}):
            raise ModelError(f"{origin} is not a model card: unknown fields {', '.join(unknown)}")
        return cls(**content)

    def write(self, path: Path) -> None:
        """Write the card as indented JSON with a final newline."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


def weights_dir() -> Path:
    """The folder of shipped weights: inside an installed package, else beside it in a checkout."""
    package = Path(str(resources.files("vidsr")))
    installed = package / "weights"
    return installed if installed.is_dir() else package.parent / "weights"


def pulled_dir() -> Path:
    """The user's folder of pulled weights, which need not exist.

    The only place below the command line that asks the environment: the library finds them too.
    """
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "vidsr" / "weights"


def shipped_cards() -> list[ModelCard]:
    """All cards that came with vidsr, then those that were pulled; a twin follows its model."""
    paths = [
        path
        for folder in (weights_dir(), pulled_dir())
        for path in sorted(folder.glob("[!.]*.json"), key=lambda path: path.stem)
    ]
    return [ModelCard.read(path) for path in paths]


def find_card(name: str) -> ModelCard:
    """The card of that name.

    Raises:
        ModelError: no such model; the message suggests near names.
    """
    return ModelCard.read(card_path(name))


def card_path(name: str) -> Path:
    """The file of the card of that name, shipped or pulled; its weights lie beside it.

    Raises:
        ModelError: no such model, near names are suggested; or a file that is no checkpoint.
    """
    for folder in (weights_dir(), pulled_dir()):
        path = folder / f"{name}.json"
        if path.is_file() and path.parent == folder:
            return path
    if Path(name).is_file():
        raise ModelError(f"{name} is no checkpoint: those end in .pth, .pt or .safetensors")
    cards = shipped_cards()
    near = difflib.get_close_matches(name, [card.name for card in cards], n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else _names_there_are(cards)
    raise ModelError(f"unknown model {name!r}; {hint} (`vidsr models` lists all)")


def _names_there_are(cards: list[ModelCard]) -> str:
    """What `--model` usually says: the families, then what else enlarges."""
    larger = [card for card in cards if card.task == "upscale" and not card.is_twin]
    families = dict.fromkeys(card.family for card in larger if card.family)
    names = [*families, *(card.name for card in larger)]
    return f"there are {', '.join(names)}" if names else f"none are in {weights_dir()}"


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise ModelError(f"{path}: cannot read the weights ({exc.strerror})") from exc
