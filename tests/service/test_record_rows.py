"""Bodies of records, held against the way that every body can go."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.errors import RowcastError
from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, NumberFeature
from models.manifest import Manifest
from models.repository import Version
from models.schema import Schema
from service.wire import plain, record_rows
from service.wire.json_text import read_json

COLORS = ("red", "", "1", "true", "né", "a b", '"', "\\", "x\ny", "\x00unknown")
MIXED = (
    NumberFeature(name="a"),
    CategoryFeature(name="color", categories=COLORS),
    BooleanFeature(name="wild"),
    NumberFeature(name="né"),
)
SCHEMAS = {
    "FP32": Schema(features=MIXED),
    "FP64": Schema(datatype="FP64", features=MIXED),
    "number": Schema(features=(NumberFeature(name="a"),)),
    "category": Schema(features=(CategoryFeature(name="color", categories=COLORS),)),
    "no empty one": Schema(features=(CategoryFeature(name="color", categories=("red", " red", "blue")),)),
    "moment": Schema(features=(*MIXED, DatetimeFeature(name="seen"))),
    "quoted": Schema(features=(NumberFeature(name='a"b'),)),
    "all missing": Schema(features=(NumberFeature(name="a"), CategoryFeature(name="color", categories=()))),
}
VERSIONS = {name: Version(Path(name), Manifest.model_construct(input=schema)) for name, schema in SCHEMAS.items()}
READ = ("FP32", "FP64", "number", "category", "no empty one")

finite = st.floats(allow_nan=False, allow_infinity=False).map(json.dumps)
texts = st.sampled_from(COLORS) | st.sampled_from([" red", "1 ", "\u2003", "red\n"]) | st.text(max_size=4)
VALUES = {
    "number": finite
    | st.integers(-(2**70), 2**70).map(str)
    | st.sampled_from(["null", "0", "-0", "-0.0", "1e-400", "1E5", str(2**53 + 1), str(2**64), "1" * 30]),
    "category": st.builds(json.dumps, texts | st.none(), ensure_ascii=st.booleans()),
    "boolean": st.sampled_from(["true", "false", "null"]),
    "datetime": st.sampled_from(['"2024-05-31"', '"2024-05-31T10:00:00+02:00"', "null"]),
}
RARE = [
    *("1e400", "1e39", "-1e39", "1" * 400, "01", "1.", "+1", "NaN", "-Infinity", "true", "0", "1", "2", "1.0", '"1"'),
    *('"\\ud800"', '"\\ud83d\\ude00"', '"\\x"', '"a\tb"', '"\x00"', '"red', '"2024-05-31"'),
    *("[]", "{}", "[1]", "", "nul"),
]
BLANKS = st.sampled_from(["", "", " ", "\n\t\r ", "\v"])


@st.composite
def bodies(draw):
    """The name of a schema, and a body of its records that is nearly always a plain one, and sometimes broken."""
    seldom = st.integers(0, 7).map(lambda dice: dice == 7)
    name = draw(st.sampled_from(sorted(SCHEMAS)))
    rows = []
    for _ in range(draw(st.integers(0, 4))):
        fields = [(json.dumps(one.name), draw(VALUES[one.kind])) for one in SCHEMAS[name].features]
        if draw(seldom):
            fields = draw(st.permutations(fields))
        if draw(seldom):  # a key that stands twice, another one, or one that is absent
            more = (draw(st.sampled_from(['"a"', '"color"', '"colour"', '"\\u0061"'])), draw(VALUES["category"]))
            fields = draw(st.sampled_from([[more, *fields], [*fields, more], fields[1:], [*fields, fields[0]]]))
        if draw(seldom) and fields:
            fields[-1] = (fields[-1][0], draw(st.sampled_from(RARE)))
        rows.append("{" + ",".join(f"{key}:{value}" for key, value in fields) + "}")
    blank = draw(BLANKS)
    key = draw(st.sampled_from(["instances", "instances", "inputs", "instance"]))
    more = draw(st.sampled_from(["", "", "", ',"parameters":{"a":[{}]}', ',"inputs":[{"a":1}]', "]"]))
    text = f'{blank}{{{blank}"{key}"{blank}:{blank}[{f"{blank},".join(rows)}{blank}]{more}{blank}}}'
    raw = text.encode()
    if draw(seldom):
        place = draw(st.integers(0, len(raw)))
        broken = draw(st.sampled_from([*b'01-.eEn [],{}:"\\\xff\xc3', None]))
        raw = raw[:place] + (b"" if broken is None else bytes([broken])) + raw[place + draw(st.booleans()) :]
    return name, raw


def outcome(read, schema):
    try:
        matrix = read().encode(schema, 3)
    except RowcastError as problem:
        return type(problem).__name__, str(problem)
    return matrix.dtype.name, matrix.shape, matrix.flags.c_contiguous, matrix.tobytes()


@given(bodies(), st.sampled_from(sorted(SCHEMAS)))
@example(("number", b'{"instances":[{"a":1},{"a":1e39}]}'), "number")
@example(("number", b'{"instances":[{"a":-0},{"a":null}]}'), "number")
@example(("category", b'{"instances":[{"color":"green"},{"color":"\\u0000unknown"}]}'), "category")
@example(
    ("no empty one", b'{"instances":[{"color":" red"},{"color":"blue\\n"},{"color":""},{"color":" "}]}'), "no empty one"
)
@example(("category", b'{"instances":[{"color":"r\xff"}]}'), "category")
@example(("category", b'{"instances":[{"color":"r\\ud800"}]}'), "category")
def test_a_body_is_read_as_any_other_way_reads_it(body, other):
    name, raw = body
    for asked in (name, other):  # what was read for one version may be encoded for another
        right = outcome(lambda: plain.read(read_json(raw)), SCHEMAS[asked])
        assert outcome(lambda: plain.read_bytes(raw, VERSIONS[name]), SCHEMAS[asked]) == right


@given(bodies())
def test_one_row_gives_the_line_that_any_other_way_gives(body):
    name, raw = body
    schema = SCHEMAS[name]
    found = record_rows.read(raw, VERSIONS[name])
    line = None if found is None else found[1].line()
    if found is None:
        return
    assert (line is None) == (len(found[1]) != 1)
    if line is not None:
        row = read_json(raw)[found[0]][0]
        right = schema.line_of(row)
        assert right is not None
        np.testing.assert_array_equal(np.array([line], np.float64), np.array([right], np.float64))


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("key", ["instances", "inputs"])
@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("hole", [False, True])
def test_plain_records_are_known(key, name, separators, hole):
    row = {"a": 1.5, "color": "né", "wild": True, "né": -2}
    names = SCHEMAS[name].names
    rows = [{name: row[name] for name in names}, {name: None if hole else row[name] for name in reversed(names)}] * 50
    found = record_rows.read(json.dumps({key: rows}, separators=separators).encode(), VERSIONS[name])
    assert found is not None
    assert (found[0], len(found[1])) == (key, 100)
    np.testing.assert_array_equal(found[1].encode(SCHEMAS[name]), SCHEMAS[name].encode(rows))


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("number", {"instances": [[1], [2]]}),
        ("number", {"instances": {"a": 1}}),
        ("number", {"instances": []}),
        ("number", {"instances": [{"a": 1}], "model": "number"}),
        ("number", {"instances": [{"a": True}]}),
        ("category", {"instances": [{"color": 1}]}),
        ("quoted", {"instances": [{'a"b': 1}]}),
        ("all missing", {"instances": [{"a": 1, "color": None}]}),
    ],
)
def test_other_rows_are_left_alone(name, body):
    assert record_rows.read(json.dumps(body).encode(), VERSIONS[name]) is None


def test_nothing_is_read_before_it_is_known_for_whom():
    assert record_rows.read(b'{"instances":[{"a":1}]}', None) is None


def test_nobody_waits_for_the_decoder_of_many_categories():
    names = tuple(f"name {index}" for index in range(3000))
    schema = Schema(features=(NumberFeature(name="a"), CategoryFeature(name="name", categories=names)))
    version = Version(Path("many"), Manifest.model_construct(input=schema))
    body = json.dumps({"instances": [{"a": 1.5, "name": "name 2999"}, {"a": None, "name": "nobody"}]}).encode()
    assert record_rows.read(body, version) is None  # it has begun
    before = plain.read_bytes(body, version).rows
    deadline = time.monotonic() + 120
    while (found := record_rows.read(body, version)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    key, after = found
    assert key == "instances"
    np.testing.assert_array_equal(after.encode(schema), [[1.5, 2999], [np.nan, 3000]])
    np.testing.assert_array_equal(schema.encode(before), after.encode(schema))
