"""UpscaleRecipe: what to train, on what, and for how long; from a TOML file and overrides."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import torch

from vidsr.errors import RequestError
from vidsr.models.card import ModelCard
from vidsr.models.load import build
from vidsr.training.data import Degradation
from vidsr.training.precision import Asked
from vidsr.training.run import Budget, stored_facts

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SHIPPED = "recipes.toml"  # the recipes of the upscaling networks


@dataclass(frozen=True)
class UpscaleRecipe:
    """What to train, on what, and for how long."""

    name: str  # of the exported weights
    data: tuple[Path, ...]  # folders of training pictures
    validation: tuple[Path, ...] = ()  # folders of pictures to measure PSNR-Y on
    stage: Literal["fidelity", "perceptual"] = "fidelity"
    init: str = ""  # a shipped model or a checkpoint to start from; perceptual needs one
    init_share: float = 0.0  # of init's own weights in the exported average
    network: Literal["compact", "srgan"] = "compact"
    scale: int = 4
    channels: int = 32
    blocks: int = 8
    degradation: Degradation = "mixed"
    damaged_share: float = 0.5  # of a batch, unless all is clean; the rest is clean
    smooth_share: float = 0.0  # of the pictures: made-up smooth gradients, beside those of `data`
    minutes: float | None = None  # scales the schedule to a budget, by the measured rate
    steps: int | None = None  # or the length of the schedule in iterations
    batch: int = 16
    patch: int = 24  # side of a low-res patch in pixels
    learning_rate: float = 1e-3  # at its peak; Adam (Kingma and Ba 2015)
    ema: float = 0.999  # decay of the averaged weights, per step
    seed: int = 0
    precision: Asked = "auto"  # auto measures a step of each
    content: str = "charbonnier"  # or "log_charbonnier", "l1", or "basicsr:<class>"
    haar_weight: float = 0.0  # of the difference in Haar responses, beside 1 too
    sharpness: float = 0.0  # of an unsharp mask that originals of clean crops get, for steep lines
    lattice_weight: float = 8.0  # of lattices, where Haar responses or a critic count
    # The perceptual stage; the weights stand beside 1 for the content loss.
    critic: str = "unet"  # or "vgg", or "basicsr:<class>"
    critic_channels: int = 32
    critic_steps: int = 300  # that the critic learns alone, before its copy is frozen
    critic_learning_rate: float = 1e-4
    adversarial_weight: float = 5e-3
    feature_weight: float = 2e-2  # feature matching on the frozen critic
    color_weight: float = 1.0  # color consistency of low-passed pictures
    license: str = ""  # of the weights, for their card; follows from the pictures
    report_every_seconds: float = 2.0
    checkpoint_every_seconds: float = 60.0

    def __post_init__(self) -> None:
        self.budget()  # checks minutes and steps
        if not self.name or not self.data:
            raise RequestError("a training needs a name and at least one folder of pictures")
        if self.scale not in {2, 3, 4}:
            raise RequestError(f"scale {self.scale} cannot be trained; 2, 3 or 4 can")
        if not 0 <= self.ema < 1:
            raise RequestError(f"ema {self.ema} is no decay; it lies in [0, 1)")
        for word in ("haar_weight", "sharpness"):
            if getattr(self, word) < 0:
                raise RequestError(f"{word} {getattr(self, word)} is below zero")
        self._check_start()
        self._check_shares()
        check_positive(self, _POSITIVE)

    def _check_shares(self) -> None:
        if not 0 < self.damaged_share < 1:
            raise RequestError(
                f"damaged_share {self.damaged_share} is no share of a batch, in (0, 1)"
            )
        if self.degradation != "clean" and self.batch < 2:
            raise RequestError("a batch holds clean and damaged crops: --batch 2 or more")
        if not 0 <= self.smooth_share < 1:
            raise RequestError(f"smooth_share {self.smooth_share} is no share of all, in [0, 1)")

    def _check_start(self) -> None:
        check_init_share(self.init, self.init_share)
        if self.stage == "perceptual" and not self.init:
            raise RequestError("the perceptual stage starts from trained weights: --init NAME")

    def budget(self, session_minutes: float | None = None) -> Budget:
        """The part that the loop needs."""
        return Budget(
            self.minutes,
            self.steps,
            self.report_every_seconds,
            self.checkpoint_every_seconds,
            session_minutes,
        )

    def card(self) -> ModelCard:
        """The card of the network to be trained, before it has weights."""
        sizes = {"channels": self.channels, "blocks": self.blocks}
        draft = ModelCard(self.name, self.network, sizes, self.scale, 0, half=True, sha256="")
        with torch.device("meta"):  # only its geometry is asked for
            return replace(draft, halo=build(draft).reach)


_POSITIVE = (
    "minutes",
    "steps",
    "channels",
    "blocks",
    "batch",
    "patch",
    "learning_rate",
    "critic_learning_rate",
    "critic_channels",
    "critic_steps",
)


def check_init_share(init: str, share: float) -> None:
    """Refuse a share of what a training did not begin with.

    Raises:
        RequestError: no share, or no `init`.
    """
    if not 0 <= share < 1 or (share and not init):
        raise RequestError(f"init_share {share} is a share of init, in [0, 1)")


def check_positive(recipe: object, words: Iterable[str]) -> None:
    """Refuse fields that are set and not above zero.

    Raises:
        RequestError: with the first of them.
    """
    for word in words:
        value = getattr(recipe, word)
        if value is not None and value <= 0:
            raise RequestError(f"a training needs {word} above zero, not {value}")


def recipe_from(options: Mapping[str, object]) -> UpscaleRecipe:
    """A recipe from plain words and numbers, as TOML and JSON hold them.

    Raises:
        RequestError: an unknown option (near names are suggested), a wrong type, a missing name.
    """
    return UpscaleRecipe(**checked_options(UpscaleRecipe, options))


def checked_options(kind: type, options: Mapping[str, object]) -> dict[str, Any]:
    """Plain words and numbers as the fields of a recipe class want them.

    Raises:
        RequestError: see `recipe_from`.
    """
    hints = get_type_hints(kind)
    for name in options:
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=2)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise RequestError(f"unknown option {name!r} of a training{hint}")
    missing = [name for name in ("name", "data") if not options.get(name)]
    if missing:
        raise RequestError(f"a training needs {' and '.join(missing)}")
    return {name: _typed(name, value, hints[name]) for name, value in options.items()}


def one_recipe(
    source: str | None,
    root: Path,
    overrides: Mapping[str, object],
    *,
    run_dir: Path | None = None,
) -> UpscaleRecipe:
    """The recipe of one training: a file's or a run's options, and what was said beside them.

    Args:
        source: a shipped recipe's name, a `.toml` file, or None for overrides alone.
        root: the folders of `source` are below it.
        overrides: options that win.
        run_dir: of a run to resume: without `source`, its stored recipe is the start.

    Raises:
        RequestError: see `recipe_from`; or the file holds several recipes.
        ModelError: no run to resume.
    """
    name = f"mine-x{overrides.get('scale', 4)}"
    return recipe_from(merged_options(source, root, overrides, name=name, run_dir=run_dir))


def merged_options(
    source: str | None,
    root: Path,
    overrides: Mapping[str, object],
    *,
    name: str,
    run_dir: Path | None = None,
    shipped: str = SHIPPED,
) -> dict[str, object]:
    """The options of one training, for `checked_options`; see `one_recipe`.

    Args:
        source: as there.
        root: as there.
        overrides: as there.
        name: of the training where none is said.
        run_dir: as there.
        shipped: the file in which shipped recipes are looked up.

    Raises:
        RequestError: `source` cannot be read, or holds several recipes.
        ModelError: no run to resume.
    """
    options: dict[str, object] = {"name": name}
    if source is not None:
        found = read_recipes(source, shipped)
        if len(found) != 1:
            raise RequestError(
                f"{source} holds {len(found)} recipes; name one of {', '.join(found)}"
            )
        options |= below(root, next(iter(found.values())))
    elif run_dir is not None:
        stored = stored_facts(run_dir / str(overrides.get("name", options["name"]))).get(
            "recipe", {}
        )
        options |= {name: value for name, value in stored.items() if value is not None}
    options |= overrides
    for one, other in (("minutes", "steps"), ("steps", "minutes")):
        if one in overrides and other not in overrides:
            options.pop(other, None)
    return options


def below(root: Path, options: Mapping[str, object]) -> dict[str, object]:
    """The options of a recipe, its folders taken below `root`."""
    folders = {
        word: [root / str(folder) for folder in value]
        for word in ("data", "validation")
        if isinstance(value := options.get(word), list)
    }
    return {**options, **folders}


def origin_of(name: str, init: str, run_dir: Path) -> str:
    """The weights that a training called `init` left in `run_dir`, if it did; else `init` itself.

    A training that is called as what it starts from (`name`) is not its own origin, once resumed.
    """
    trained = run_dir / init / f"{init}.safetensors"
    return str(trained) if init not in {"", name} and trained.exists() else init


def read_recipes(source: str, shipped: str = SHIPPED) -> dict[str, dict[str, object]]:
    """The options of every recipe in a TOML file, or of the shipped one of that name.

    A file holds the options of one recipe, or a table for each of several, in order of value.

    Args:
        source: the path of a `.toml` file, "all" for all shipped recipes, or a shipped name.
        shipped: the file of the shipped ones, in this room.

    Raises:
        RequestError: no such file or name, or no TOML.
    """
    if source.endswith(".toml"):
        content = _read_toml(Path(source))
        tables = {k: v for k, v in content.items() if isinstance(v, dict)}
        return tables or {str(content.get("name", Path(source).stem)): content}
    ours = _read_toml(Path(str(resources.files("vidsr.training") / shipped)))
    if source == "all":
        return ours
    if source not in ours:
        raise RequestError(
            f"no recipe {source!r}; there are {', '.join(ours)}, or name a .toml file"
        )
    return {source: ours[source]}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise RequestError(f"{path}: cannot read the recipe ({exc.strerror})") from exc
    except ValueError as exc:  # not TOML, or not even text
        raise RequestError(f"{path} is no recipe: {exc}") from exc


def _typed(name: str, value: object, hint: Any) -> Any:
    """The value as its field wants it, or an error that says what it wants."""
    if get_origin(hint) is tuple:
        folders = [value] if isinstance(value, str | Path) else value
        if isinstance(folders, list | tuple) and all(isinstance(x, str | Path) for x in folders):
            return tuple(Path(folder) for folder in folders)
        raise RequestError(f"{name} is {value!r}, which is no list of folders")
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise RequestError(f"{name} is {value!r}; {' or '.join(get_args(hint))} can be chosen")
    kinds = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    if float in kinds and type(value) is int:
        return float(value)
    if isinstance(value, kinds) and not isinstance(value, bool):
        return value
    raise RequestError(f"{name} is {value!r}, which is no {kinds[0].__name__}")


def as_options(recipe: DataclassInstance) -> dict[str, object]:
    """What `checked_options` takes to make the same recipe again."""
    return {entry.name: getattr(recipe, entry.name) for entry in fields(recipe)}
