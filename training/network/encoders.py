"""What is learned about the columns: the schema, and the preprocessing that stands first in the graph.

The schema says how a value becomes a number and never changes with the data afterwards; `Preprocessing` holds what was
fitted on the training rows. Both stay with the version, so a served row passes through exactly what a training row did.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor, nn

from models.errors import shown
from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, Feature, NumberFeature
from models.schema import Datatype, Matrix, Schema
from training.data.columns import Data
from training.data.distinct import of_distinct
from training.data.split import Rows
from training.plan import TablePlan

QUANTILES = 20
"""Intervals between the quantiles that the schema keeps of a number."""
MOST_ONE_HOT = 9
"""Categories up to which a feature is one-hot, as in RealMLP-TD (Holzmüller et al. 2024, table A.1)."""
MOST_CATEGORIES = 1000
"""Categories of a feature that are told apart, the most frequent ones; the others count as unknown ones do."""
FEWEST_ROWS = (4, 3, 2)
"""Training rows from which a category beyond the `MOST_ONE_HOT` most frequent is told apart; rarer ones are unknown.

The most of these that make no more than `UNKNOWN` of the rows unknown, or else the fewest. A few rare categories teach
what unknown means, and embedded they would be rows learned by heart (docs/decisions/0063-tables-once-more.md); where
many persons, companies or models have two or three rows each, these say who they are
(docs/decisions/0087-new-tables-on-equal-rows.md).
"""
UNKNOWN = 0.02
FROM_ROWS = 500
"""Training rows from which this is so: of fewer, what two rows of a category say is missed more."""
EMBEDDING = 8
"""Width of the embedding of a larger category, as in RealMLP-TD (table A.1)."""

_WHOLE_LOST = 0.01  # share of distinct whole numbers that FP32 may merge with a neighbour
_SPREAD_LOST = 1e-4  # rounding error of FP32 that is allowed, in interquartile ranges
_TOGETHER = 1 << 12  # rows that stay in the processor's cache while columns become lines, or lines columns
_DAY, _WEEK, _YEAR = 86_400.0, 7.0, 365.25
_CLIP = 3.0  # interquartile ranges that a number tends to, however large it is
_MOST_UNCLIPPED = 100.0  # interquartile ranges up to which FP32 tells clipped numbers apart to 1e-4 of themselves


# ------------------------------------------------------------------------------------------------ the schema


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


def _feature(column: pl.Series, kind: str, unit: str | None) -> Feature:
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
    unknown = next((some for some in rare if counts[some].sum() <= UNKNOWN * counts.sum()), rare[-1])
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
    """Whole numbers merge (ids, timestamps), or rounding is no longer small beside the spread (1e9 plus or minus 1)."""
    values = np.sort(column.cast(pl.Float64).to_numpy())
    if not len(values):
        return False
    if np.abs(values).max() > np.finfo(np.float32).max:
        return True
    rounded = values.astype(np.float32)
    low, high = np.quantile(values, [0.01, 0.99])
    central = (values >= low) & (values <= high)
    error = np.abs(rounded[central] - values[central]).max(initial=0.0)
    _, scale = _centre_and_scale(values)
    if error * scale > _SPREAD_LOST:
        return True
    if error == 0 or not column.dtype.is_integer():
        return False
    return bool(len(np.unique(rounded)) < (1 - _WHOLE_LOST) * len(np.unique(values)))


# ------------------------------------------------------------------------------------------------ the preprocessing


@dataclass
class _Fitted:
    """The columns of the matrix that one step of the preprocessing reads, with what was learned for each."""

    numbers: list[int]
    centres: list[float]
    scales: list[float]
    indicators: list[int]
    one_hot: list[int]
    codes: list[float]
    turns: list[int]
    radians: list[float]
    embedded: list[int]
    sizes: list[int]


class Preprocessing(nn.Module):
    """The matrix as the network reads it: numbers of about unit size, nothing missing.

    * a number: robust scaling and smooth clipping, z = (x - median) / (interquartile range), z / sqrt(1 + (z / 3)^2)
      (RealMLP, Holzmüller et al. 2024, section 3 and appendix A.1); missing becomes the median, 0;
    * a boolean: -1 or 1, missing 0;
    * a category of up to 9 values: one-hot; missing and unknown are all zeros;
    * a larger category: its row in the embedding table, which the network learns (`Embedding`);
    * a datetime: its day like a number; second of the day, weekday and yearday as the sine and cosine of the turn,
      each only where it varied in training;
    * an indicator for each feature that was missing in a training row.

    A number is scaled in the matrix's precision, FP64 where the schema says so; from there on all is FP32.

    Shape:
        features: [N, F] -> float32 [N, width]; the last `len(sizes)` columns are rows of the embedding table

    Attributes:
        width: columns of the result.
        sizes: rows of the embedding table per embedded feature: its categories, unknown, missing.
    """

    width: int
    sizes: list[int]

    def __init__(self, schema: Schema, train: Matrix, *, learned: bool = True) -> None:
        """Fit on the training rows; `learned=False` passes numbers as they are (missing 0, a category one-hot)."""
        super().__init__()
        fitted = _fit(schema, train) if learned else _plain(schema)
        dtype = torch.float64 if schema.datatype == "FP64" else torch.float32
        self.numbers: Tensor
        self.centres: Tensor
        self.scales: Tensor
        self.indicators: Tensor
        self.one_hot: Tensor
        self.codes: Tensor
        self.turns: Tensor
        self.radians: Tensor
        self.embedded: Tensor
        self.missing_rows: Tensor
        self.offsets: Tensor
        self.register_buffer("numbers", torch.tensor(fitted.numbers, dtype=torch.int64))
        self.register_buffer("centres", torch.tensor(fitted.centres, dtype=dtype)[:, None])
        self.register_buffer("scales", torch.tensor(fitted.scales, dtype=dtype)[:, None])
        self.register_buffer("indicators", torch.tensor(fitted.indicators, dtype=torch.int64))
        self.register_buffer("one_hot", torch.tensor(fitted.one_hot, dtype=torch.int64))
        self.register_buffer("codes", torch.tensor(fitted.codes, dtype=dtype)[:, None])
        self.register_buffer("turns", torch.tensor(fitted.turns, dtype=torch.int64))
        self.register_buffer("radians", torch.tensor(fitted.radians, dtype=torch.float32)[:, None])
        self.register_buffer("embedded", torch.tensor(fitted.embedded, dtype=torch.int64))
        self.register_buffer("missing_rows", torch.tensor([size - 1 for size in fitted.sizes], dtype=dtype)[:, None])
        starts = np.concatenate([[0], np.cumsum(fitted.sizes)[:-1]]) if fitted.sizes else np.empty(0)
        self.register_buffer("offsets", torch.tensor(starts, dtype=torch.float32)[:, None])
        self.sizes = fitted.sizes
        self.clips = learned
        self.reads_all = fitted.numbers == list(range(len(schema.columns)))
        self.width = (
            len(fitted.numbers)
            + len(fitted.one_hot)
            + 2 * len(fitted.turns)
            + len(fitted.indicators)
            + len(fitted.sizes)
        )

    def forward(self, features: Tensor) -> Tensor:  # a step that no feature needs leaves no trace in the graph
        # a feature is a line here: picked by one copy, and what was learned of it is applied to all rows at once
        lines = features.T  # [F, N]
        parts = []
        if len(self.numbers):
            parts.append(self._scaled(lines if self.reads_all else lines.index_select(0, self.numbers)))
        if len(self.one_hot):
            parts.append((lines.index_select(0, self.one_hot) == self.codes).to(torch.float32))
        if len(self.turns):
            turn = lines.index_select(0, self.turns).to(torch.float32) * self.radians
            is_missing = torch.isnan(turn)
            parts += [_or_zero(torch.sin(turn), is_missing), _or_zero(torch.cos(turn), is_missing)]
        if len(self.indicators):
            parts.append(torch.isnan(lines.index_select(0, self.indicators)).to(torch.float32))
        if len(self.embedded):
            rows = lines.index_select(0, self.embedded)
            rows = torch.where(torch.isnan(rows), self.missing_rows, rows)
            parts.append(rows.to(torch.float32) + self.offsets)
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]  # [width, N]
        return whole.T.contiguous()

    def _scaled(self, lines: Tensor) -> Tensor:
        if not self.clips:
            return _or_zero(lines.to(torch.float32), torch.isnan(lines))
        z = ((lines - self.centres) * self.scales).to(torch.float32)
        z = _or_zero(z, torch.isnan(z)).clamp(-1e6, 1e6)  # beyond, the square below would overflow
        return z / torch.sqrt(1 + (z / _CLIP) * (z / _CLIP))


def unclipped(x: Tensor, numbers: int) -> Tensor:
    """The preprocessed matrix with its numbers as they were before the smooth clipping, to 100 interquartile ranges.

    Shape:
        x: [N, width], the first `numbers` columns clipped -> [N, width]
    """
    z = x[:, :numbers] / _CLIP
    z = x[:, :numbers] / torch.sqrt((1 - z * z).clamp_min(1 / (1 + (_MOST_UNCLIPPED / _CLIP) ** 2)))
    return torch.cat([z, x[:, numbers:]], 1)


def preprocess(preprocessing: Preprocessing, matrix: Matrix) -> Tensor:
    """What the network reads of all rows of a table.

    Shape:
        matrix: [N, F] -> float32 [N, width]
    """
    with torch.no_grad():
        return torch.cat([preprocessing(some) for some in torch.split(torch.from_numpy(matrix), _TOGETHER)])


class Embedding(nn.Module):
    """The preprocessed matrix with each row number of the embedding table replaced by that row.

    Unknown and missing have rows of their own, zeros until a training row needs them.

    Shape:
        x: [N, width] -> [N, width - S + 8 S], S embedded features
    """

    def __init__(self, sizes: list[int], width: int) -> None:
        super().__init__()
        self.plain = width - len(sizes)
        self.width = self.plain + EMBEDDING * len(sizes)
        self.table = nn.Parameter(torch.randn(sum(sizes), EMBEDDING) / EMBEDDING**0.5)
        for end in np.cumsum(sizes):
            nn.init.zeros_(self.table[end - 2 : end])

    def forward(self, x: Tensor) -> Tensor:
        rows = self.table[x[:, self.plain :].to(torch.int64)]  # [N, S, 8]
        return torch.cat([x[:, : self.plain], rows.flatten(1)], 1)


def known_rows(train: Tensor, sizes: list[int]) -> Tensor:
    """Which row of the embedding table to read for each: itself, or that of unknown for a category nobody has.

    Shape:
        train: [N, width], preprocessed -> int64 [rows of the table]
    """
    rows = torch.arange(sum(sizes), device=train.device)
    ends = torch.tensor(sizes, device=train.device).cumsum(0)
    is_seen = torch.zeros_like(rows, dtype=torch.bool)
    is_seen[train[:, train.shape[1] - len(sizes) :].to(torch.int64).flatten()] = True
    is_seen[ends - 1] = True  # that of missing
    unknown = torch.repeat_interleave(ends - 2, ends.diff(prepend=ends.new_zeros(1)))
    return torch.where(is_seen, rows, unknown)


def with_unseen_unknown(x: Tensor, train: Tensor, sizes: list[int]) -> Tensor:
    """The preprocessed rows with unknown in place of categories that no training row has.

    Shape:
        x: [N, width] -> [N, width]
    """
    if not sizes:
        return x
    plain = x.shape[1] - len(sizes)
    rows = known_rows(train, sizes)[x[:, plain:].to(torch.int64)]
    return torch.cat([x[:, :plain], rows.to(x.dtype)], 1)


def _or_zero(x: Tensor, is_missing: Tensor) -> Tensor:
    return torch.where(is_missing, 0.0, x)


def _fit(schema: Schema, train: Matrix) -> _Fitted:
    fitted = _Fitted([], [], [], [], [], [], [], [], [], [])
    start = 0
    for feature in schema.features:
        column = train[:, start].astype(np.float64)
        present = column[~np.isnan(column)]
        match feature:
            case NumberFeature():
                _add_number(fitted, start, *_centre_and_scale(present))
            case BooleanFeature():
                _add_number(fitted, start, 0.5, 2.0)
            case CategoryFeature() if len(feature.categories) <= MOST_ONE_HOT:
                _add_one_hot(fitted, start, len(feature.categories))
            case CategoryFeature():
                fitted.embedded.append(start)
                fitted.sizes.append(len(feature.categories) + 2)
            case DatetimeFeature():
                _add_number(fitted, start, *_centre_and_scale(present))
                for part, period in enumerate((_DAY, _WEEK, _YEAR), 1):
                    values = train[:, start + part]
                    if len(np.unique(values[~np.isnan(values)])) > 1:
                        fitted.turns.append(start + part)
                        fitted.radians.append(2 * np.pi / period)
        if 0 < len(present) < len(column) and start not in fitted.embedded:  # the table has a row for missing
            fitted.indicators.append(start)
        start += len(feature.columns)
    return fitted


def _plain(schema: Schema) -> _Fitted:
    fitted = _Fitted([], [], [], [], [], [], [], [], [], [])
    start = 0
    for feature in schema.features:
        if isinstance(feature, CategoryFeature):
            _add_one_hot(fitted, start, len(feature.categories))
        else:
            for column in range(start, start + len(feature.columns)):
                _add_number(fitted, column, 0.0, 1.0)
        start += len(feature.columns)
    return fitted


def _add_number(fitted: _Fitted, column: int, centre: float, scale: float) -> None:
    fitted.numbers.append(column)
    fitted.centres.append(centre)
    fitted.scales.append(scale)


def _add_one_hot(fitted: _Fitted, column: int, categories: int) -> None:
    fitted.one_hot += [column] * categories
    fitted.codes += [float(code) for code in range(categories)]


def _centre_and_scale(values: npt.NDArray[np.float64]) -> tuple[float, float]:
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
