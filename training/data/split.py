"""Which rows train, which choose, which judge.

A row's own bytes decide: its hash is a number in [0, 1), and the shares of the plan cut that interval. So new rows
never move old ones, rows that stand twice never stand in two parts, and the order of rows and columns does not matter.
Only where most rows have a twin does a row's place among its twins count as well.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from models.csv_file import BadTable
from models.errors import shown
from models.manifest import Part
from training.data.columns import Data
from training.data.distinct import of_distinct
from training.plan import SplitPlan
from training.sentences import MOST_LISTED, listed

Rows = npt.NDArray[np.int64]
"""Numbers of rows, from 0, rising."""

_SALTS = 32
_FEWEST_ROWS = 10
_TOGETHER = 1 << 14  # values that are mixed while they lie in the processor's cache


@dataclass(frozen=True)
class Split:
    """The rows of each part; `test` may be empty.

    Attributes:
        notes: what was done that the plan does not say, a sentence each.
    """

    train: Rows
    validation: Rows
    test: Rows
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[Part, Rows]:
        """The rows of each part that has some."""
        parts: dict[Part, Rows] = {"train": self.train, "validation": self.validation, "test": self.test}
        return {part: rows for part, rows in parts.items() if len(rows)}


def split_rows(data: Data, plan: SplitPlan) -> Split:
    """Give every row its part: by hash, or by the column, time or group that the plan names.

    A class that has no row in training would be unlearnable: its rows are moved there, and said so.

    Raises:
        BadTable: a part is empty, or a split column says something else.
    """
    if plan.column is not None:
        return _checked(_by_column(data, plan.column), data, plan)
    if plan.time is not None:
        return _checked(_by_time(data, plan.time, plan), data, plan)
    if data.frame.height < _FEWEST_ROWS:
        raise BadTable(
            data.source, f"has {data.frame.height} rows with a target; training needs at least {_FEWEST_ROWS}"
        )
    return _by_hash(data, plan)


def split_in_pieces(data: Data, plan: SplitPlan) -> Split:
    """The split of a sample, by which every row of the whole table has the part that `part_of` gives it.

    Raises:
        BadTable: the split goes by time, which needs all rows at once; or as for `split_rows`.
    """
    if plan.time is not None:
        say = "give a column that says 'train', 'validation' or 'test', and name it in split.column"
        raise BadTable(data.source, f"is read in pieces, and split.time {shown(plan.time)} needs it whole; {say}")
    return _checked(part_of(data.frame, data, plan), data, plan)


def part_of(frame: pl.DataFrame, data: Data, plan: SplitPlan) -> npt.NDArray[np.int64]:
    """The part of each row by its own values: 0 trains, 1 validates, 2 tests."""
    if plan.column is not None:
        return _by_column(replace(data, frame=frame), plan.column)
    return _cut(row_hashes(frame.select(deciding_columns(data, plan))) / 2.0**64, plan)


def deciding_columns(data: Data, plan: SplitPlan) -> list[str]:
    """The columns whose values decide where a row goes: that of the groups, or all features and targets."""
    return [plan.group] if plan.group is not None else [*data.kinds, *data.targets]


def _cut(places: npt.NDArray[np.floating], plan: SplitPlan, whole: float = 1.0) -> npt.NDArray[np.int64]:
    """The part of each row by its place from 0 to `whole`, which the plan's shares cut: training first, test last."""
    edges = np.array([plan.train, plan.train + plan.validation]) * whole
    parts: npt.NDArray[np.int64] = np.searchsorted(edges, places, side="right")
    return parts.clip(0, 2 if plan.test > 0 else 1)  # without a test part, rounding might leave a sliver for it


def row_hashes(frame: pl.DataFrame, salt: int = 0) -> npt.NDArray[np.uint64]:
    """A number for each row that depends on its values and their columns' names alone, the same on every machine.

    About 0.01 s per million numbers, 0.03 s per million texts, and 1 s per million distinct ones.

    Shape:
        frame: N rows -> uint64 [N]
    """
    total = np.zeros(frame.height, dtype=np.uint64)
    for column in frame:
        bits = _value_bits(column)
        bits ^= np.uint64(_text_hash(f"{salt}:{column.name}"))
        _mix(bits)
        total += bits  # a sum: the order of columns does not count
    _mix(total)
    return total


def with_twins_told_apart(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with the number of equal rows above each, so that their hashes differ.

    A table of a few columns of a few values is crowds of equal rows. By their values alone a whole crowd would land in
    one part, and the parts would be of different populations: `survival`, so split, scored 0.83 and 0.53 on two parts.
    """
    return frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).over(frame.columns).alias("equal rows above"))


def _by_hash(data: Data, plan: SplitPlan) -> Split:
    """The split of the first salt that leaves no part nearly empty; large tables need only the first."""
    frame = data.frame.select(deciding_columns(data, plan))
    if plan.group is None and 2 * frame.n_unique() < frame.height:
        frame = with_twins_told_apart(frame)
    shares = np.array([plan.train, plan.validation, plan.test])
    for salt in range(_SALTS):
        parts = _cut(row_hashes(frame, salt) / 2.0**64, plan)
        got = np.bincount(parts, minlength=3) / len(parts)
        if (got >= shares / 2).all():
            break
    return _checked(parts, data, plan)


def _by_time(data: Data, column: str, plan: SplitPlan) -> npt.NDArray[np.int64]:
    """Rows of one moment stay together; a row without a time is taken for the oldest."""
    ranks = data.frame[column].rank("min", descending=False).fill_null(1).to_numpy() - 1  # 0 is the oldest
    return _cut(ranks, plan, len(ranks))


def _by_column(data: Data, column: str) -> npt.NDArray[np.int64]:
    names = {"train": 0, "validation": 1, "test": 2}
    said = data.frame[column].cast(pl.String)
    parts = of_distinct(said, lambda texts: [names.get(text) for text in texts], pl.Int64)
    wrong = parts.is_null()
    if wrong.any():
        reason = f"must say 'train', 'validation' or 'test', got {shown(said.filter(wrong)[0])}"
        raise BadTable(data.source, f"split column {shown(column)} {reason}")
    return parts.to_numpy()


def _checked(parts: npt.NDArray[np.int64], data: Data, plan: SplitPlan) -> Split:
    notes: tuple[str, ...] = ()
    if data.classes is not None:
        absent = np.setdiff1d(data.y, data.y[parts == 0])
        notes = _moved(data, absent)
        parts = np.where(np.isin(data.y, absent), 0, parts)
    train, validation, test = (np.flatnonzero(parts == part) for part in range(3))
    asked = {"train": train, "validation": validation}
    if plan.column is None and plan.test > 0:
        asked["test"] = test
    for name, rows_of_part in asked.items():
        if not len(rows_of_part):
            raise BadTable(data.source, f"the {name} part is empty; give more rows or other shares in split")
    return Split(train, validation, test, notes)


def _moved(data: Data, absent: npt.NDArray[np.int64]) -> tuple[str, ...]:
    """What is said of classes that have no training row: a sentence each, or one for all where they are many."""
    assert data.classes is not None
    rows = [int((data.y == code).sum()) for code in absent]
    labels = [shown(data.classes[int(code)]) for code in absent]
    where = "none in the training part; moved there"
    if len(absent) > MOST_LISTED:
        return (f"classes {listed(labels)} have only {min(rows)} to {max(rows)} rows, {where}",)
    each = zip(labels, rows, strict=True)
    return tuple(f"class {label} has only {n} row{'s' * (n > 1)}, {where}" for label, n in each)


# ------------------------------------------------------------------------------------------------ hashing


def _value_bits(column: pl.Series) -> npt.NDArray[np.uint64]:
    """64 bits for each value, in an array of their own; a number has the same whether it is read as 3 or as 3.0."""
    if column.dtype == pl.String:
        hashes = of_distinct(column, lambda texts: [_text_hash(text) for text in texts], pl.UInt64)
        return hashes.fill_null(1).to_numpy(writable=True)
    if isinstance(column.dtype, pl.Datetime):
        column = column.cast(pl.Int64)
    numbers: npt.NDArray[np.float64] = column.cast(pl.Float64).to_numpy() + 0.0  # null is NaN; -0.0 becomes 0.0
    is_missing = np.isnan(numbers)
    if is_missing.any():
        numbers[is_missing] = np.nan  # one NaN for all
    return numbers.view(np.uint64)


def _text_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(bits: npt.NDArray[np.uint64]) -> None:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014, figure 16), which spreads every bit over all; in place."""
    for start in range(0, len(bits), _TOGETHER):
        some = bits[start : start + _TOGETHER]
        some += np.uint64(0x9E3779B97F4A7C15)
        some ^= some >> np.uint64(30)
        some *= np.uint64(0xBF58476D1CE4E5B9)
        some ^= some >> np.uint64(27)
        some *= np.uint64(0x94D049BB133111EB)
        some ^= some >> np.uint64(31)
