"""Where a network fails: the kinds of rows on which it errs most, and the rows on which it errs most."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from models.features import BooleanFeature, CategoryFeature, Feature, NumberFeature

if TYPE_CHECKING:
    from training.recipe import Fitted, PartRows  # recipe tells the story and imports report, which imports this file

LEAST_ROWS = 20
"""Rows below which a mean error says little."""
_PARTS = 4  # of a number's rows: quarters
_STANDARD_ERRORS = 3.0  # of some hundred kinds of rows one is beyond three by chance; two would call every tenth so


@dataclass(frozen=True)
class Kind:
    """Rows that have something in common, and how much the network errs on them.

    Attributes:
        feature: what they have in common is a value of it.
        values: which, in words.
        error: their mean error; `rest` that of all other rows.
    """

    feature: str
    values: str
    rows: int
    error: float
    rest: float


@dataclass(frozen=True)
class Miss:
    """One row that the network got wrong: its number in the part, what it answers, what is right, and by how much."""

    row: int
    predicted: str
    actual: str
    error: float


def errors_of(fitted: "Fitted", rows: "PartRows") -> npt.NDArray[np.float64]:
    """How far off the answer for each row is, [N].

    Of a classification 1 less the probability of the right class; of a regression the absolute error in standard
    deviations of the target among the training rows, mean over the targets.
    """
    answers = fitted.predict(rows.matrix)
    errors: npt.NDArray[np.float64]
    if fitted.data.classes is not None:
        errors = 1 - answers["probabilities"][np.arange(len(rows.y)), rows.y].astype(np.float64)
    else:
        spread = fitted.parts["train"].y.std(0)
        errors = (np.abs(rows.y - answers["prediction"]) / np.where(spread > 0, spread, 1.0)).mean(1)
    return errors


def worst_kinds(fitted: "Fitted", rows: "PartRows", most: int = 6) -> list[Kind]:
    """Kinds of rows on which the error is beyond chance above that of all others, the largest excess first."""
    errors = errors_of(fitted, rows)
    found = []
    for feature in fitted.schema.features:
        for values, is_one in _kinds_of(feature, rows.frame[feature.name]):
            count = int(is_one.sum())
            if min(count, len(errors) - count) < LEAST_ROWS:
                continue
            inside, outside = errors[is_one], errors[~is_one]
            chance = np.sqrt(inside.var() / len(inside) + outside.var() / len(outside))
            if inside.mean() - outside.mean() > _STANDARD_ERRORS * chance:
                found.append(Kind(feature.name, values, count, float(inside.mean()), float(outside.mean())))
    return sorted(found, key=lambda kind: kind.rest - kind.error)[:most]


def worst_rows(fitted: "Fitted", rows: "PartRows") -> list[Miss]:
    """The five rows with the largest errors; of a classification only those whose likeliest class is another one."""
    errors, answers, classes = errors_of(fitted, rows), fitted.predict(rows.matrix), fitted.data.classes
    misses = []
    for row in np.argsort(-errors, kind="stable")[:5]:
        if classes is None:
            predicted, actual = (_numbers(values[row]) for values in (answers["prediction"], rows.y))
        elif answers["label"][row] == rows.y[row]:
            continue
        else:
            likeliest = answers["label"][row]
            predicted = f"{classes[likeliest]} ({answers['probabilities'][row, likeliest]:.0%})"
            actual = str(classes[rows.y[row]])
        misses.append(Miss(int(row), predicted, actual, float(errors[row])))
    return misses


def _kinds_of(feature: Feature, values: pl.Series) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """The kinds of rows that a feature tells apart: by category, by quarter of a number, missing or not."""
    missing = values.is_null().to_numpy()
    if isinstance(feature, NumberFeature):
        missing = missing | ~np.isfinite(values.cast(pl.Float64).fill_null(float("nan")).to_numpy())
    yield "missing", missing
    match feature:
        case CategoryFeature() | BooleanFeature():
            for value in values.drop_nulls().unique(maintain_order=True).to_list()[:200]:
                yield str(value), (values == value).fill_null(value=False).to_numpy()
        case NumberFeature():
            numbers = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
            if missing.all():
                return
            ends = np.unique(np.quantile(numbers[~missing], np.linspace(0, 1, _PARTS + 1)))
            for low, high in pairwise(ends):
                is_last = high == ends[-1]
                yield (
                    f"{low:.4g} to {high:.4g}",
                    ~missing & (numbers >= low) & ((numbers <= high) if is_last else (numbers < high)),
                )
        case _:
            pass


def _numbers(values: npt.NDArray[Any]) -> str:
    return ", ".join(f"{value:.5g}" for value in values)
