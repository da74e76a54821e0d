"""A line below the rows that adds them up, as spreadsheets have, is no row; learned as one it outweighs all others."""

import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl

from models.errors import shown
from training.data.cells import TEXTS
from training.data.table import Table
from training.sentences import listed

_FEWEST_ROWS = 10
_NEAR = 1e-4
"""How far a total may be from the sum of what stands above it, relative to it: people round."""
_NEAR_MEAN = 1e-3  # the same for a mean, relative to how far the values lie apart
_FIRST = 100  # rows that tell of most last ones that they are no sums


def without_total(table: Table) -> Table:
    """The table without its last row where that sums up the others, and a sentence in its notes that says so.

    Sums lie beyond every value above them. One is enough where another cell of the row is missing, or is a text, as no
    other cell of its column; else there are two. A row of means has such a cell as well, and nothing but means.
    """
    is_row = table.frame.select(~pl.all_horizontal(pl.all().is_null())).to_series()  # others are blank lines
    if is_row.sum() <= _FEWEST_ROWS:
        return table
    place = int(is_row.arg_true()[-1])
    above, last = table.frame.head(place), table.frame.row(place, named=True)
    numbers = {name: number for name, value in last.items() if (number := _number(value)) is not None}
    sums = [name for name, number in numbers.items() if _is_sum(number, above[name])]
    odd = _odd_cell([name for name in last if name not in numbers], above, last) if sums or len(numbers) > 1 else None
    if sums and (odd or len(sums) > 1):
        what = "adds up the rows above it"
    elif odd and len(numbers) > 1 and all(_is_mean(number, above[name]) for name, number in numbers.items()):
        what = "is the mean of the rows above it"
    else:
        return table
    seen = odd or f"columns {listed([shown(name) for name in sums])}"
    return replace(table, frame=above, notes=(*table.notes, f"row {place + 1} {what} ({seen}) and is left out"))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _numbers(column: pl.Series) -> pl.Series:
    """Those of its values that are numbers."""
    if column.dtype in TEXTS:
        column = column.cast(pl.String).str.strip_chars()
    return column.cast(pl.Float64, strict=False).drop_nulls().drop_nans()


def _is_sum(number: float, column: pl.Series) -> bool:
    if abs(number) <= _largest(_numbers(column.head(_FIRST))):
        return False
    values = _numbers(column)
    total = float(values.sum())
    return len(values) >= _FEWEST_ROWS and abs(number) > _largest(values) and math.isclose(number, total, rel_tol=_NEAR)


def _is_mean(number: float, column: pl.Series) -> bool:
    values = _numbers(column).to_numpy()
    return len(values) >= _FEWEST_ROWS and abs(number - values.mean()) < _NEAR_MEAN * np.ptp(values)


def _largest(values: pl.Series) -> float:
    return float(values.abs().max() or 0.0)  # type: ignore[arg-type] # of numbers it is one


def _odd_cell(names: list[str], above: pl.DataFrame, last: dict[str, Any]) -> str | None:
    """Where the last row has what no other row has: a text of its own, or nothing."""
    for name in names:
        if isinstance(last[name], str) and not (above[name].cast(pl.String) == last[name]).any():
            return f"{shown(last[name])} in column {shown(name)}"
    for name in names:
        if last[name] is None and above[name].null_count() == 0:
            return f"nothing in column {shown(name)}"
    return None
