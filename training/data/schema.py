"""What a row is from now on, learned from the training rows: the schema; and a table's rows as its matrix.

The schema (`models/schema.py`) says how a value becomes a number. It learns its categories and its precision here, and
never changes afterwards, so that a served row becomes the very numbers that a training row became.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from models.errors import shown
from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, Feature, NumberFeature
from models.schema import Datatype, Matrix, Schema
from training.data.columns import Data
from training.data.distinct import of_distinct
from training.data.split import Rows
from training.plan import Kind, TablePlan

QUANTILES = 20
"""Intervals between the quantiles that the schema keeps of a number."""
MOST_ONE_HOT = 9
"""Categories up to which a feature is one-hot, as in RealMLP-TD (Holzmüller et al. 2024, table A.1)."""
MOST_CATEGORIES = 1000
"""Categories of a feature that are told apart, the most frequent ones; the others count as unknown ones do."""
FEWEST_ROWS = (4, 3, 2)
"""Training rows from which a category beyond the `MOST_ONE_HOT` most frequent is told apart; rarer ones are unknown.

The most of these that make no more than `MOST_UNKNOWN` of the rows unknown, or else the fewest. A few rare categories
teach what unknown means, and embedded they would be rows learned by heart (docs/decisions/0063-tables-once-more.md);
where many persons, companies or models have two or three rows each, these say who they are
(docs/decisions/0087-new-tables-on-equal-rows.md).
"""
MOST_UNKNOWN = 0.02
"""Share of the rows; between the 1.4% of a table that is better off without and the 3% of one that is not."""
FROM_ROWS = 500
"""Training rows from which this is so: of fewer, what two rows of a category say is missed more."""

_WHOLE_LOST = 0.01  # share of distinct whole numbers that FP32 may merge with a neighbour
_SPREAD_LOST = 1e-4  # rounding error of FP32 that is allowed, in interquartile ranges
_TOGETHER = 1 << 12  # rows that stay in the processor's cache while columns become lines of the matrix


def learn_schema(data: Data, train: Rows, plan: TablePlan) -> Schema:
    """Describe the features by the training rows alone: categories, quantiles, shares, precision."""
    frame = data.frame[train]
    features = tuple(_feature(frame[name], kind, plan.units.get(name)) for name, kind in data.kinds.items())
    return Schema(datatype=_datatype(frame, features), features=features)


def what_is_unknown(data: Data, train: Rows, schema: Schema) -> list[str]:
    """A sentence for each category that has values among the training rows that count as unknown."""
    said = []
    for feature in schema.features:
        if isinstance(feature, CategoryFeature):
            column = data.frame[feature.name][train].drop_nulls()
            known, there = len(feature.categories), column.n_unique()
            if known < there:
                others = f"the others, {1 - sum(feature.shares):.1%} of the training rows, count as unknown"
                told = f"the {known} most frequent are told apart, {others}"
                said.append(f"column {shown(feature.name)} has {there} categories: {told}")
    return said


def encode(frame: pl.DataFrame, schema: Schema) -> Matrix:
    """The matrix of a typed frame; bit by bit what a request's values are made by the same features.

    Shape:
        frame: N rows -> float32 or float64 (`datatype`) [N, F], C order

    Raises:
        BadRow: a number does not fit the datatype.
    """
    lines = [line for feature in schema.features for line in _lines(frame[feature.name], feature)]
    matrix = np.empty((frame.height, len(lines)), np.float64 if schema.datatype == "FP64" else np.float32)
    with np.errstate(over="ignore"):  # what does not fit is named
        for start in range(0, frame.height, _TOGETHER):
            some = slice(start, start + _TOGETHER)
            np.stack([line[some] for line in lines], axis=1, out=matrix[some], casting="same_kind")
    if np.isinf(matrix).any():
        numbers = Schema(datatype=schema.datatype, features=tuple(f for f in schema.features if f.kind == "number"))
        numbers.encode_columns({name: frame[name].cast(pl.Float64).to_numpy() for name in numbers.names})
    return matrix


def _lines(column: pl.Series, feature: Feature) -> Sequence[npt.NDArray[np.float64]]:
    """The columns of the matrix that a feature fills."""
    match feature:
        case NumberFeature() | BooleanFeature():
            return [column.cast(pl.Float64).to_numpy()]  # null becomes NaN
        case DatetimeFeature():
            return [np.asarray(line, np.float64) for line in feature.lines(column.to_numpy())]  # null becomes NaT
        case CategoryFeature():
            return [of_distinct(column, lambda texts: feature.lines(texts)[0], pl.Float64).to_numpy()]


def _feature(column: pl.Series, kind: Kind, unit: str | None) -> Feature:
    missing = column.null_count() / max(len(column), 1)
    present = column.drop_nulls()
    match kind:
        case "number":
            quantiles = quantiles_of(present.cast(pl.Float64).to_numpy())
            return NumberFeature(name=column.name, missing_share=missing, unit=unit, quantiles=quantiles)
        case "boolean":
            share = float(present.cast(pl.Float64).to_numpy().mean()) if len(present) else None
            return BooleanFeature(name=column.name, missing_share=missing, true_share=share)
        case "datetime":
            days = present.cast(pl.Int64).to_numpy() / 86_400e6
            return DatetimeFeature(name=column.name, missing_share=missing, quantiles=quantiles_of(days))
        case _:
            counts = present.value_counts(name="count").sort(["count", column.name], descending=[True, False])
            common = _told_apart(counts["count"].to_numpy()) if len(column) >= FROM_ROWS else len(counts)
            counts = counts.head(min(max(common, MOST_ONE_HOT), MOST_CATEGORIES)).sort(column.name)
            shares = tuple(float(count) / len(present) for count in counts["count"])
            categories = tuple(counts[column.name].to_list())
            return CategoryFeature(name=column.name, missing_share=missing, categories=categories, shares=shares)


def _told_apart(counts: npt.NDArray[np.unsignedinteger]) -> int:
    """How many categories, of `counts` rows each, have rows enough."""
    rare = [counts < fewest for fewest in FEWEST_ROWS]
    unknown = next((some for some in rare if counts[some].sum() <= MOST_UNKNOWN * counts.sum()), rare[-1])
    return int((~unknown).sum())


def quantiles_of(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """The quantiles that a manifest keeps of values [N]; none of no values."""
    if not len(values):
        return ()
    # sorted values are quickly selected from, and numpy sorts in a quarter of the time that it takes to select
    quantiles = np.quantile(np.sort(values), np.linspace(0, 1, QUANTILES + 1)) + 0.0  # where -0.0 sorts is chance
    return tuple(float(value) for value in quantiles)


def _datatype(frame: pl.DataFrame, features: tuple[Feature, ...]) -> Datatype:
    """FP64 where FP32 would round a column's information away."""
    numbers = (feature.name for feature in features if isinstance(feature, NumberFeature))
    return "FP64" if any(_needs_64_bits(frame[name].drop_nulls()) for name in numbers) else "FP32"


def _needs_64_bits(column: pl.Series) -> bool:
    """Whether FP32 merges whole numbers (ids, timestamps), or its rounding shows beside the spread (of 1e9 +- 1)."""
    values = np.sort(column.cast(pl.Float64).to_numpy())
    if not len(values):
        return False
    if np.abs(values).max() > np.finfo(np.float32).max:
        return True
    rounded = values.astype(np.float32)
    low, high = np.quantile(values, [0.01, 0.99])
    central = (values >= low) & (values <= high)
    error = np.abs(rounded[central] - values[central]).max(initial=0.0)
    _, scale = centre_and_scale(values)
    if error * scale > _SPREAD_LOST:
        return True
    if error == 0 or not column.dtype.is_integer():
        return False
    return bool(len(np.unique(rounded)) < (1 - _WHOLE_LOST) * len(np.unique(values)))


def centre_and_scale(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Median and the factor that makes the spread one: 1 / (q75 - q25), or 2 / (max - min) where the quartiles meet.

    A column that is constant in training has factor 0: it says nothing (Holzmüller et al. 2024, appendix A.1).
    """
    if not len(values):
        return 0.0, 0.0
    low, q25, median, q75, high = (
        float(value) + 0.0 for value in np.quantile(np.sort(values), [0, 0.25, 0.5, 0.75, 1])
    )
    if q75 > q25:
        return median, min(1 / (q75 - q25), 1e30)
    return median, min(2 / (high - low), 1e30) if high > low else 0.0
