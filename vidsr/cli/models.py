"""The command `models`: what there is, and `models pull`, which fetches more."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from vidsr.cli import words
from vidsr.cli.screen import console, last_of, print_json, reporting

if TYPE_CHECKING:
    from vidsr.models.card import ModelCard

models_app = typer.Typer(help="List the weights, or pull more.", invoke_without_command=True)


@models_app.callback()
def models(context: typer.Context, as_json: words.Json = False) -> None:
    """List the weights that came with vidsr or were pulled, with their measured figures."""
    if context.invoked_subcommand is not None:
        return
    with reporting(as_json):
        from vidsr.models.card import shipped_cards

        cards = shipped_cards()
        if as_json:
            for card in cards:
                print_json(dataclasses.asdict(card))
        else:
            _print_cards(cards)


@models_app.command()
def pull(
    what: Annotated[
        str, typer.Argument(help="A model's name, or the address of its .safetensors file.")
    ],
    folder: Annotated[
        str | None,
        typer.Option("--from", help="The https address of the folder that holds a named model."),
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="Of the weights, for a model without a card.")
    ] = None,
    as_json: words.Json = False,
) -> None:
    """Fetch a model over https into the folder of your own; it is checked by its sha256.

    A download that was cut off goes on where it stopped.
    """
    with reporting(as_json):
        from vidsr.models.card import pulled_dir
        from vidsr.models.pull import pull, source_of

        pulled = last_of(pull(source_of(what, folder, sha256), pulled_dir()), what, None)
        if as_json:
            print_json({"event": "pulled", "path": pulled.path, "bytes": pulled.done})
        else:
            size = f"{pulled.done / 1e6:.1f} MB"
            console.print(f"pulled {pulled.card.name}: {pulled.path}, {size}", soft_wrap=True)


def _print_cards(cards: list[ModelCard]) -> None:
    from rich.table import Column, Table

    from vidsr.models.card import PERCEPTUAL

    mixed = {card.name.removesuffix(PERCEPTUAL) for card in cards if card.is_twin}
    figures = "PSNR (bicubic or gray), dB"
    table = Table(Column("model", no_wrap=True), "scale", "fidelity", "network", figures, box=None)
    for card in cards:
        measured = [_measured_words(*item) for item in card.measured.items()]
        name = f"  {card.name}" if card.is_twin else card.name  # below its model
        share = f"{card.fidelity:g}" if card.name in mixed else ""
        scale = "color" if card.task == "colorize" else f"x{card.scale}"
        table.add_row(name, scale, share, card.summary, "  ".join(measured))
    console.print(table)


def _measured_words(name: str, figures: dict[str, float]) -> str:
    """One measurement of a card beside what costs nothing: of luma, or of all three channels."""
    ours, free = ("psnr_y", "bicubic_psnr_y")
    if ours not in figures:
        ours, free = ("psnr_rgb", "gray_psnr_rgb")
    return f"{name} {figures[ours]:.2f} ({figures[free]:.2f})"
