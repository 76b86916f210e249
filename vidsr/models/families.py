"""Which weights answer to a name: a family's member for a factor, its twin, the colorizer."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from vidsr.errors import ModelError, RequestError
from vidsr.models.card import ModelCard, shipped_cards
from vidsr.models.load import Weights, find_twin, resolve

FAMILIES = {  # the way out that each offers to whoever got another by default
    "photo": "for better film and photographs",
    "anime": "for better drawings",
    "fast": "for speed",
}
COLORIZER = "colorize"  # the model that colors if none is named


def default_family(
    device_type: str, cards: Sequence[ModelCard], factor: Fraction
) -> tuple[str, str]:
    """The family for a device when none is named, and why, with the other families.

    Args:
        device_type: "cpu", "cuda" or "mps".
        cards: of all models that ship.
        factor: the enlargement that is needed.
    """
    reaching = {card.family for card in cards if card.scale >= factor}
    family = "photo" if device_type != "cpu" and "photo" in reaching else "fast"
    others = ", ".join(
        f"--model {name} {what}"
        for name, what in FAMILIES.items()
        if name in reaching and name != family
    )
    where = "a processor" if device_type == "cpu" else "a GPU"
    return family, f"the default on {where}{', ' if others else ''}{others}"


def choose_weights(model: str, factor: Fraction, fidelity: float | None) -> Weights:
    """The member of `choose_model`, its perceptual twin, and the share of each.

    Args:
        model: a family, a member, or a checkpoint.
        factor: the enlargement that is needed.
        fidelity: the share that was asked for, or None for the card's.

    Raises:
        ModelError: as `choose_model`, or the card mixes with a twin that is missing.
        RequestError: as `choose_model`, or a fidelity is asked for and there is no twin.
    """
    card, path = choose_model(model, factor)
    twin = find_twin(path)
    if fidelity is not None and twin is None:
        raise RequestError(
            f"--fidelity {fidelity:g}: {card.name} has no perceptual weights to mix with; leave "
            "--fidelity out, or name another --model"
        )
    share = card.fidelity if fidelity is None else fidelity
    if share < 1 and twin is None:
        raise ModelError(
            f"{path}: its card mixes it with perceptual weights, which are missing; reinstall "
            "vidsr or fetch them again"
        )
    return Weights(card, path, twin, share)


def choose_model(model: str, factor: Fraction) -> tuple[ModelCard, Path]:
    """The card and file of the smallest member of a family that reaches `factor`.

    Args:
        model: a family ("fast"), a member ("fast-x4"), or a checkpoint.
        factor: the enlargement that is needed; what the network gives beyond it is reduced again.

    Raises:
        ModelError: unknown name, or a file that is no checkpoint.
        RequestError: no member reaches the factor, or it is not for enlarging.
    """
    members = [resolve(card.name) for card in family_of(model)] or [resolve(model)]
    for card, path in members:
        if card.task != "upscale":
            raise RequestError(
                f"model {card.name} colors and does not enlarge; name another --model (`vidsr "
                "models` lists them), or use `vidsr colorize`"
            )
        if card.scale >= factor:
            return card, path
    most = members[-1][0]
    raise RequestError(
        f"model {most.name} enlarges {most.scale} times at most, {float(factor):g} is asked for; "
        f"ask for --scale {most.scale} or less, or name another --model"
    )


def family_of(name: str) -> list[ModelCard]:
    """The shipped members of a family, the smallest scale first; none if `name` is no family."""
    members = [card for card in shipped_cards() if card.family == name]
    return sorted(members, key=lambda card: card.scale)


def members_of(model: str) -> list[ModelCard]:
    """The members of a family, the smallest scale first; else the one member or checkpoint.

    Raises:
        ModelError: unknown name, or a file that is no checkpoint.
    """
    return family_of(model) or [resolve(model)[0]]


def largest_scale(model: str) -> int:
    """How far a family, a member or a checkpoint enlarges; 1 if it does not.

    Raises:
        ModelError: as `members_of`.
    """
    return members_of(model)[-1].scale


def choose_colorizer(model: str | None) -> Weights:
    """The weights that color.

    Raises:
        ModelError: unknown name, a file that is no checkpoint, or none is named and none ships.
        RequestError: a model that enlarges.
    """
    shipped = [card.name for card in shipped_cards() if card.task == "colorize"]
    if model is None:
        if not shipped:
            raise ModelError(
                "no model that colors is installed yet; train one (`vidsr train colorize`) and "
                "name its file with --model"
            )
        model = COLORIZER if COLORIZER in shipped else shipped[0]
    card, path = resolve(model)
    if card.task != "colorize":
        others = f"these do: {', '.join(shipped)}" if shipped else "none that is installed does"
        raise RequestError(f"model {card.name} enlarges and does not color; {others}")
    return Weights(card, path)
