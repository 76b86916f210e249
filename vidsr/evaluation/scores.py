"""What every report does with its figures: means of what is finite, and plain values for JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Scores = TypeVar("Scores", bound="DataclassInstance")  # all of its fields are floats


def mean_of(scores: Iterable[Scores]) -> Scores:
    """Field by field the mean over the finite values; there is at least one of the scores."""
    first, *rest = scores
    columns = zip(*map(dataclasses.astuple, [first, *rest]), strict=True)
    return type(first)(*map(finite_mean, columns))


def finite_mean(values: Sequence[float]) -> float:
    """Over the finite values; where there are none, what there is: infinite or NaN."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else values[0]


def plain(figures: Mapping[str, float]) -> dict[str, float | None]:
    """What is not finite, which JSON cannot say, becomes None."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def to_json(content: Mapping[str, object]) -> str:
    """Indented JSON of plain values."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)


def shown(value: float, digits: int) -> str:
    """The figure in words; a dash for what could not be measured."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
