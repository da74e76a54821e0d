"""The preprocessing that stands first in the graph: a row's line of the matrix becomes what the network reads.

Networks learn best from numbers of about unit size without holes. `Preprocessing` makes such of any table. What it has
learned (medians, spreads, what was ever missing) comes from the training rows and stays in the graph, so a served row
passes through exactly what a training row did.

Read `Preprocessing` first, then `_fit`, which decides what becomes of each feature. `Embedding` is the one step whose
numbers the network learns itself, by gradients: it is a layer of each perceptron, not a part of the preprocessing.

Shape:
    N rows, F columns of the schema's matrix (a datetime has several), S embedded features
    matrix [N, F] -> Preprocessing -> [N, width] -> Embedding -> [N, width - S + 8 S]

The columns of [N, width], in this order: numbers, booleans and days among them; one-hot columns; sines, cosines;
indicators; and S row numbers of the embedding table.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, NumberFeature
from models.schema import Matrix, Schema
from training.data.schema import MOST_ONE_HOT, centre_and_scale

EMBEDDING = 8
"""Width of the embedding of a larger category, as in RealMLP-TD (Holzmüller et al. 2024, table A.1)."""

_TOGETHER = 1 << 12  # rows that stay in the processor's cache while they are preprocessed
_DAY, _WEEK, _YEAR = 86_400.0, 7.0, 365.25  # in the units of a datetime's columns: seconds, days, days
_CLIP = 3.0  # interquartile ranges that a number tends to, however large it is
_MOST_UNCLIPPED = 100.0  # interquartile ranges up to which FP32 tells clipped numbers apart to 1e-4 of themselves


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
    numbers: Tensor
    centres: Tensor
    scales: Tensor
    indicators: Tensor
    one_hot: Tensor
    codes: Tensor
    turns: Tensor
    radians: Tensor
    embedded: Tensor
    missing_rows: Tensor
    offsets: Tensor

    def __init__(self, schema: Schema, train: Matrix, *, learned: bool = True) -> None:
        """Fit on the training rows; `learned=False` passes numbers as they are (missing 0, a category one-hot)."""
        super().__init__()
        fitted = _fit(schema, train) if learned else _plain(schema)
        exact = torch.float64 if schema.datatype == "FP64" else torch.float32  # the matrix's own precision
        ends = np.cumsum(fitted.sizes, dtype=np.int64)  # of each feature's rows in the embedding table
        buffers = {
            "numbers": _places(fitted.numbers),
            "centres": _factors(fitted.centres, exact),
            "scales": _factors(fitted.scales, exact),
            "indicators": _places(fitted.indicators),
            "one_hot": _places(fitted.one_hot),
            "codes": _factors(fitted.codes, exact),
            "turns": _places(fitted.turns),
            "radians": _factors(fitted.radians, torch.float32),
            "embedded": _places(fitted.embedded),
            "missing_rows": _factors([size - 1 for size in fitted.sizes], exact),
            "offsets": _factors((ends - fitted.sizes).tolist(), torch.float32),
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)
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

    def forward(self, features: Tensor) -> Tensor:
        # transposed, so that a column is a line of memory: picked by one copy, and scaled for all rows at once
        lines = features.T  # [F, N]
        parts = []  # what no feature needs is not even asked, so that it leaves no node in the exported graph
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


def _places(columns: list[int]) -> Tensor:
    """Which columns of the matrix are read, [n]."""
    return torch.tensor(columns, dtype=torch.int64)


def _factors(values: Sequence[float], dtype: torch.dtype) -> Tensor:
    """A number for each of n columns, as lines [n, N] are computed with: [n, 1]."""
    return torch.tensor(values, dtype=dtype)[:, None]


def _or_zero(x: Tensor, is_missing: Tensor) -> Tensor:
    return torch.where(is_missing, 0.0, x)


# ------------------------------------------------------------------------------------------------ what is learned


@dataclass
class _Fitted:
    """What each step of the preprocessing reads, as columns of the matrix [N, F], and what was learned for each.

    Attributes:
        numbers: columns that are scaled, by `centres` and `scales`.
        one_hot: for each one-hot column of the result, the column that is compared with its code in `codes`.
        turns: columns of which sine and cosine are taken, once multiplied by `radians`.
        indicators: columns that were missing in a training row.
        embedded: columns that become rows of the embedding table; `sizes` says how many rows each feature has there.
    """

    numbers: list[int] = field(default_factory=list)
    centres: list[float] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    one_hot: list[int] = field(default_factory=list)
    codes: list[float] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    radians: list[float] = field(default_factory=list)
    indicators: list[int] = field(default_factory=list)
    embedded: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add_number(self, column: int, centre: float, scale: float) -> None:
        """Have a column scaled."""
        self.numbers.append(column)
        self.centres.append(centre)
        self.scales.append(scale)

    def add_one_hot(self, column: int, categories: int) -> None:
        """Have a column made one-hot."""
        self.one_hot += [column] * categories
        self.codes += [float(code) for code in range(categories)]


def _fit(schema: Schema, train: Matrix) -> _Fitted:
    fitted = _Fitted()
    start = 0
    for feature in schema.features:
        column = train[:, start].astype(np.float64)
        present = column[~np.isnan(column)]
        match feature:
            case NumberFeature():
                fitted.add_number(start, *centre_and_scale(present))
            case BooleanFeature():
                fitted.add_number(start, 0.5, 2.0)
            case CategoryFeature() if len(feature.categories) <= MOST_ONE_HOT:
                fitted.add_one_hot(start, len(feature.categories))
            case CategoryFeature():
                fitted.embedded.append(start)
                fitted.sizes.append(len(feature.categories) + 2)
            case DatetimeFeature():
                fitted.add_number(start, *centre_and_scale(present))
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
    fitted = _Fitted()
    start = 0
    for feature in schema.features:
        if isinstance(feature, CategoryFeature):
            fitted.add_one_hot(start, len(feature.categories))
        else:
            for column in range(start, start + len(feature.columns)):
                fitted.add_number(column, 0.0, 1.0)
        start += len(feature.columns)
    return fitted
