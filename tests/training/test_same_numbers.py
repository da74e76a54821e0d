"""What a table's cells are to the trainer, they are in every form of a request: bit by bit the same matrix.

The trainer's own matrix is the right one. Everything that can ask a server is held against it: CSV, the file command,
JSON as records, lists and columns, JSON Lines, MLflow's frames, tensors in JSON and in bytes, and Arrow.
"""

import csv
import datetime as dt
import io
import json
import struct
from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import example, given
from hypothesis import strategies as st

from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, Feature, NumberFeature
from models.manifest import Manifest
from models.repository import Version
from models.schema import Schema
from service.commands import predict
from service.wire import arrow, csv_text, json_lines, oip, oip_matrix, plain, scoring
from training.data import schema as trained
from training.data.kinds import typed_column
from training.data.rows import table_rows
from training.data.table import read_table

MISSING = st.sampled_from(["", "NA", " null ", "?", "NaN", "#n/a"])
NUMBERS = (
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr)
    | st.integers(-(2**70), 2**70).map(str)
    | st.sampled_from(
        [
            *(
                "-0",
                "-0.0",
                "+4",
                ".5",
                "5.",
                " 7\u00a0",
                "00012",
                "1E5",
                "1e-400",
                "5e-324",
                "1e-46",
                "0.1",
                "16777217",
            ),
            *(str(2**53 + 1), str(2**63), str(2**64 - 1), "0.1000000000000000055511151231257827", "3.4028235e38"),
        ]
    )
)
CATEGORIES = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=3) | st.sampled_from(
    [
        *("3", "3.0", "+3", "-0", "0.50", "007", "1e3", "1" * 30, "1\u0663", "NA", "null", "inf", "true"),
        *("-1234567890123456789", "+1234567890123456789", str(2**64 - 1), str(2**64), str(10**19 + 1), "123456789.0"),
        *("hill", " hill", "hill\x1f", "\x1chill", "\x1f", "hill\x85", "\u3000hill", "hill\u200b", "hill\ufeff"),
        *("e\u0301", "\u00e9", "\ufb01", "a\nb", '"', "a,b", "'", "\\"),
    ]
)
BOOLEANS = st.sampled_from(["true", "FALSE", " True ", "0", "1", "1.0", "0.0"])
MOMENTS = st.builds(
    lambda moment, form, fraction, offset: f"{moment:{form}}".replace("%F", fraction) + offset,
    st.datetimes(dt.datetime(1000, 1, 2), dt.datetime(9999, 12, 30)),  # noqa: DTZ001 - texts without offset
    st.sampled_from(["%Y-%m-%dT%H:%M:%S%%F", "%Y-%m-%d %H:%M:%S%%F"]),
    st.sampled_from(["", ".5", ",25", ".123456", ".1234567", ".999999999"]),
    st.sampled_from(["", "Z", "+02", "-11:30", "+0530", "+00"]),
) | st.sampled_from(["2024-02-29", "2024-05-31 09:30", "0001-01-01", "9999-12-31", "1969-12-31T23:59:59.9999999"])
CELLS = {"number": NUMBERS, "category": CATEGORIES, "boolean": BOOLEANS, "datetime": MOMENTS}
KINDS = ("number", "category", "boolean", "datetime")
MIXES = st.sampled_from([KINDS, KINDS[:3], ("category", "number"), ("number", "number")])
"""Kinds of the columns of a table; requests are read in other ways where none is a datetime, or all are numbers."""


@st.composite
def written_tables(draw):
    """Kinds of columns, and lines with a cell of each kind, some of them missing."""
    kinds = draw(MIXES)
    line = st.tuples(*(CELLS[kind] | MISSING for kind in kinds))
    return kinds, draw(st.lists(line, min_size=1, max_size=6))


def feature_of(name: str, kind: str, values: pl.Series) -> Feature:
    match kind:
        case "number":
            return NumberFeature(name=name)
        case "boolean":
            return BooleanFeature(name=name)
        case "datetime":
            return DatetimeFeature(name=name)
    known = values.drop_nulls().unique().sort().to_list()
    return CategoryFeature(name=name, categories=known[: len(known) // 2 + 1])  # the others are unknown


def typed(frame: pl.DataFrame, kinds, *, is_text: bool, datatype: str) -> tuple[pl.DataFrame, Schema]:
    """The frame as a fit reads it, and its schema."""
    columns, features, rows = [], [], pl.Series(range(1, frame.height + 1))
    for name, kind in zip(frame.columns, kinds, strict=True):
        notes: list[str] = []
        _, values = typed_column(frame[name], kind, rows, "table", is_text=is_text, notes=notes)
        assert not notes  # each cell is of its kind
        columns.append(values)
        features.append(feature_of(name, kind, values))
    return pl.DataFrame(columns), Schema(datatype=datatype, features=tuple(features))


class Keeps:
    """A session that keeps what it is asked."""

    def run(self, matrix):
        self.matrix = matrix
        return {"prediction": np.zeros((len(matrix), 1), np.float32)}


def by_file(frame: pl.DataFrame, version: Version, *, is_text: bool):
    """The matrix that `python -m service predict` makes of a file's columns."""
    session = Keeps()
    predict.Scoring(version, session).score(frame.with_row_index(predict._ROW), is_text=is_text)
    return session.matrix


def asked_by_values(rows, version: Version):
    """The matrices of the same rows in every form that says of which type a value is."""
    schema, most = version.schema, len(rows)
    names, lists = schema.names, [list(row.values()) for row in rows]
    columns = {name: [row[name] for row in rows] for name in names}

    def plainly(body):
        return plain.read_bytes(json.dumps(body).encode(), version).encode(schema, most)

    yield "records", plainly({"instances": rows})
    yield "lists", plainly({"instances": lists})
    yield "columns", plainly({"inputs": columns})
    yield "lines", json_lines.encode("\n".join(map(json.dumps, rows)).encode(), schema, most)
    frame = {"dataframe_split": {"columns": list(names), "data": lists}}
    yield "frame", scoring.read(json.dumps(frame).encode()).encode(schema, most)
    yield "rows one by one", np.concatenate([plainly({"instances": [row]}) for row in rows])
    found = [schema.line_of(row) for row in rows]
    if None not in found:
        yield "stacked", schema.stack(found)
    yield "tensors", tensors(columns, schema, version)
    yield "tensors in bytes", tensors(columns, schema, version, in_bytes=True)


DATATYPES = {"number": "FP64", "category": "BYTES", "boolean": "BOOL", "datetime": "BYTES"}


def tensors(columns, schema: Schema, version: Version, *, in_bytes: bool = False):
    inputs, raws = [], b""
    for feature in schema.features:
        values, datatype = columns[feature.name], DATATYPES[feature.kind]
        one = {"name": feature.name, "datatype": datatype, "shape": [len(values)]}
        if not in_bytes or (feature.kind == "boolean" and None in values):  # which has no byte for it
            inputs.append(one | {"data": values})
            continue
        if datatype == "BYTES":
            texts = [(value or "").encode() for value in values]
            raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
        else:
            raw = np.array(values, "?" if datatype == "BOOL" else "<f8").tobytes()
        inputs.append(one | {"parameters": {"binary_data_size": len(raw)}})
        raws += raw
    head = json.dumps({"inputs": inputs}).encode()
    return oip_matrix.encode(oip.read(head + raws, str(len(head)) if raws else None), version, 100)


def in_arrow(frame: pl.DataFrame, schema: Schema, *, newest: bool):
    level = pl.CompatLevel.newest() if newest else pl.CompatLevel.oldest()
    return arrow.encode(frame.write_ipc_stream(None, compat_level=level).getvalue(), schema, frame.height)


def version_of(schema: Schema) -> Version:
    manifest = Manifest.model_construct(input=schema, name="m", version=1, classes=None, targets=("y",))
    return Version(Path("m/1"), manifest)


def check_same(right, got):
    for form, matrix in got:
        assert (form, matrix.dtype, matrix.shape) == (form, right.dtype, right.shape)
        is_same = (matrix == right) | (np.isnan(matrix) & np.isnan(right))
        assert is_same.all(), (form, matrix[~is_same], right[~is_same])


@given(written_tables(), st.sampled_from(["FP32", "FP64"]))
@example((KINDS, [("1", "-1234567890123456789", "1", "2024-05-31 09:30:00+02"), ("2", "hill", "0", "NA")]), "FP32")
@example((KINDS, [("1", str(10**19 + 1), "1", "2024-05-31T09:30:00,123"), ("2", "3", "0", "NA")]), "FP64")
@example((KINDS[:3], [("1", "hill", "1"), ("2", "hill\x1f", "0"), ("3", "\x1f", "NA")]), "FP32")
@example((KINDS[:3], [("1", "13", "1"), ("2", "1\u0663", "0")]), "FP32")
def test_a_csv_has_the_same_numbers_in_training_and_in_every_request(tmp_path, written, datatype):
    kinds, lines = written
    names = ["a", "b c", "\u00e9", "when"][: len(kinds)]
    text = io.StringIO()
    csv.writer(text).writerows([names, *lines])
    path = tmp_path / "table.csv"
    path.write_text(text.getvalue(), newline="")
    table = read_table(path).frame
    frame, schema = typed(table, kinds, is_text=True, datatype=datatype)
    right, version = trained.encode(frame, schema), version_of(schema)

    check_same(right, [("csv", csv_text.encode(path.read_bytes(), schema, len(lines), header=True))])
    check_same(right, [("file", by_file(table, version, is_text=True))])
    check_same(right, asked_by_values(table_rows(frame, schema, most=len(lines)), version))
    check_same(right, [("arrow", in_arrow(frame, schema, newest=newest)) for newest in (False, True)])


DTYPES = {
    "number": (pl.Int8, pl.Int64, pl.UInt64, pl.Float32, pl.Float64, pl.Decimal(38, 4)),
    "category": (pl.String, pl.Categorical, pl.Int64, pl.UInt64, pl.Float32, pl.Float64, pl.Boolean, pl.Decimal(38, 4)),
    "boolean": (pl.Boolean, pl.Int8, pl.Float64),
    "datetime": (pl.Date, pl.Datetime("ms"), pl.Datetime("us"), pl.Datetime("ns"), pl.Datetime("us", "Asia/Kolkata")),
}


@st.composite
def columns_of(draw, kind, rows):
    """A column as a Parquet file may have it."""
    dtype = draw(st.sampled_from(DTYPES[kind]))
    if isinstance(dtype, pl.Decimal):
        values = st.decimals(-(10**33), 10**33, allow_nan=False, places=4)
    elif dtype in (pl.String, pl.Categorical):
        values = CATEGORIES
    elif dtype == pl.Boolean:
        values = st.booleans()
    elif kind == "boolean":
        values = st.integers(0, 1)
    elif dtype.is_float():
        values = st.floats(allow_infinity=False, width=32) | st.integers(-(2**62), 2**62).map(float)
    elif dtype == pl.Date:
        values = st.integers(-719_162, 2_932_896)
    elif dtype.is_temporal():
        days = (-100_000, 100_000) if dtype.time_unit == "ns" else (-719_162, 2_932_896)
        in_a_day = 86_400 * {"ms": 10**3, "us": 10**6, "ns": 10**9}[dtype.time_unit]
        values = st.integers(days[0] * in_a_day, (days[1] + 1) * in_a_day - 1)
    else:
        bits = 8 if dtype == pl.Int8 else 64
        values = (
            st.integers(0, 2**64 - 1) if dtype == pl.UInt64 else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        )
    drawn = draw(st.lists(st.none() | values, min_size=rows, max_size=rows))
    return (
        pl.Series(drawn, dtype=pl.Int64).cast(dtype)
        if dtype.is_temporal()
        else pl.Series(drawn, dtype=dtype, strict=False)
    )


@given(st.data(), MIXES, st.integers(1, 6), st.sampled_from(["FP32", "FP64"]))
def test_a_typed_table_has_the_same_numbers_in_training_and_in_every_request(data, kinds, rows, datatype):
    table = pl.DataFrame({str(place): data.draw(columns_of(kind, rows)) for place, kind in enumerate(kinds)})
    frame, schema = typed(table, kinds, is_text=False, datatype=datatype)
    right, version = trained.encode(frame, schema), version_of(schema)

    check_same(right, [("file", by_file(table, version, is_text=False))])
    check_same(right, asked_by_values(table_rows(frame, schema, most=rows), version))
    check_same(right, [("arrow", in_arrow(table, schema, newest=newest)) for newest in (False, True)])
