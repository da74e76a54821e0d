"""Bodies of many rows of numbers, held against the way that every body can go."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.errors import RowcastError
from models.features import BooleanFeature, CategoryFeature, NumberFeature
from models.schema import Schema
from service.wire import number_rows, plain
from service.wire.json_text import read_json
from tests.service import tiny

SCHEMAS = tiny.SCHEMAS | {
    "codes": Schema(
        datatype="FP64",
        features=(
            NumberFeature(name="a"),
            CategoryFeature(name="b", categories=("1", "2.5", str(2**64 - 1))),
            BooleanFeature(name="c"),
        ),
    )
}
PAD = " " * 400  # what is smaller is not looked at
NUMBERS = ["0", "-0", "-0.0", "1", "2.5", "-3e-3", "1E5", "1e-400", "null", "18446744073709551616", "1" * 30]
NO_NUMBERS = ["", "01", "1.", ".5", "+1", "1 2", "--1", "1e", "e", "nul", "nullnull", "NaN", "true", '"1"', "[1]", "{}"]
RARE = ["1e400", "1e39", "-1e39", "1" * 400]  # not finite as FP32 or as FP64
BLANKS = st.sampled_from(["", "", " ", "\n\t\r ", "\v"])


@st.composite
def bodies(draw):
    """Rows that are nearly always plain ones, and sometimes broken anywhere."""
    seldom = st.integers(0, 7).map(lambda dice: dice == 7)
    finite = st.floats(allow_nan=False, allow_infinity=False).map(json.dumps)
    values = st.sampled_from(NUMBERS) | finite | st.integers(-(2**70), 2**70).map(str)
    width = draw(st.integers(1, 4))
    widths = st.integers(0, 4) if draw(seldom) else st.just(width)
    rows = [[draw(values) for _ in range(draw(widths))] for _ in range(draw(st.integers(1, 4)))]
    if draw(seldom):
        rows[-1][-1:] = [draw(st.sampled_from(NO_NUMBERS + RARE))]
    blank = draw(BLANKS)
    comma = f"{blank},{draw(BLANKS)}"
    key = draw(st.sampled_from(["instances", "instances", "inputs", "instance"]))
    text = f'{PAD}{{{blank}"{key}"{blank}:{blank}[{comma.join(f"[{comma.join(row)}]" for row in rows)}{blank}]{blank}}}'
    if draw(seldom):
        place = draw(st.integers(len(PAD), len(text)))
        text = text[:place] + draw(st.sampled_from([*'0123-+.eEnul [],{}:"', ""])) + text[place + draw(st.booleans()) :]
    return text.encode()


def outcome(read, schema):
    try:
        matrix = read().encode(schema, 3)
    except RowcastError as problem:
        return type(problem).__name__, str(problem)
    return matrix.dtype.name, matrix.shape, matrix.tobytes()


@given(bodies(), st.sampled_from(sorted(SCHEMAS)))
@example(PAD.encode() + b'{"instances":[[1,2],[3,4]5]}', "pair")
@example(PAD.encode() + b'{"instances":[[1,2],[3,4]]5}', "pair")
@example(PAD.encode() + b'{"instances":[1[2,3],[4,5]]}', "pair")
@example(PAD.encode() + b'{"instances":[[1,2]3,[4,5]]}', "pair")
@example(PAD.encode() + b'{"instances":[[1,]2,[4,5]]}', "pair")
@example(PAD.encode() + b'{"instances":[[1,2],4[,5]]}', "pair")
@example(PAD.encode() + b'{"instances":[[1,2],[4,]5]}', "pair")
@example(PAD.encode() + b'{"instances":[[1,],[4,5]]}', "pair")
@example(PAD.encode() + b'{"instances":[[1,2],[3,4]],"inputs":[[1,2],[3,4]]}', "pair")
def test_a_body_is_read_as_any_other_way_reads_it(body, name):
    schema = SCHEMAS[name]
    right = outcome(lambda: plain.read(read_json(body)), schema)
    assert outcome(lambda: plain.read_bytes(body), schema) == right


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("key", ["instances", "inputs"])
@pytest.mark.parametrize("missing", [None, 2, 10**30])
def test_rows_of_numbers_are_known(key, separators, missing):
    rows = np.random.default_rng(0).standard_normal((100, 2)).tolist()
    rows[7] = [missing, 3]
    found = number_rows.read(json.dumps({key: rows}, separators=separators).encode())
    assert found is not None
    assert found[0] == key
    np.testing.assert_array_equal(found[1].encode(SCHEMAS["pair"]), SCHEMAS["pair"].encode(rows))


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [[0.5] * 200]},  # one row is read faster in another way
        {"instances": [[1, 2], [3, "4"]] * 50},
        {"instances": [[1, 2], [3]] * 50},
        {"instances": [{"a": 1, "b": 2}] * 50},
        {"instances": [[1, 2]] * 50, "model": "pair"},
    ],
)
def test_other_rows_are_left_alone(body):
    assert number_rows.read(json.dumps(body).encode()) is None
