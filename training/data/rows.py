"""Some rows of a table: enough to prove a version with, to explain by, or to draw."""

import polars as pl
from pydantic import JsonValue

from models.schema import Schema
from training.data.spread import spread


def table_rows(frame: pl.DataFrame, schema: Schema, *, most: int) -> list[dict[str, JsonValue]]:
    """Rows from all over a typed frame, as the JSON objects that a client would send."""
    some = frame[spread(frame.height, most)].select(schema.names)
    moments = pl.selectors.datetime().dt.strftime("%Y-%m-%dT%H:%M:%S%.6f")
    return [dict(row) for row in some.with_columns(moments).iter_rows(named=True)]
