"""Some rows of a table: enough to prove a version with, to explain by, or to draw."""

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import JsonValue

from models.schema import Schema


def spread(rows: int, most: int) -> npt.NDArray[np.int64]:
    """Numbers of at most `most` rows, evenly spread over all."""
    return np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(np.int64))


def table_rows(frame: pl.DataFrame, schema: Schema, *, most: int) -> list[dict[str, JsonValue]]:
    """Rows from all over a typed frame, as the JSON objects that a client would send."""
    some = frame[spread(frame.height, most)].select(schema.names)
    moments = pl.selectors.datetime().dt.strftime("%Y-%m-%dT%H:%M:%S%.6f")
    return [dict(row) for row in some.with_columns(moments).iter_rows(named=True)]
