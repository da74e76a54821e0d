import json
import math
import pickle
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.errors import BadRow
from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, NumberFeature
from models.schema import Schema
from tests.models.sample import EVERY_KIND, any_json, good_values

NAMES = EVERY_KIND.names
COLUMNS = ("size", "place", "garden", "sold.day", "sold.second", "sold.weekday", "sold.yearday")
SCHEMAS = st.sampled_from([EVERY_KIND, EVERY_KIND.model_copy(update={"datatype": "FP32"})])
rows_of_anything = (
    any_json
    | st.lists(any_json)
    | st.lists(st.lists(any_json, min_size=4, max_size=4), min_size=1)
    | st.lists(st.fixed_dictionaries(dict.fromkeys(NAMES, any_json)), min_size=1)
    | st.lists(st.dictionaries(st.sampled_from([*NAMES, "siez", ""]), any_json))
)
columns_of_anything = (
    any_json
    | st.fixed_dictionaries(dict.fromkeys(NAMES, any_json))
    | st.fixed_dictionaries(dict.fromkeys(NAMES, st.lists(any_json)))
    | st.fixed_dictionaries(dict.fromkeys(NAMES, st.lists(any_json, min_size=1, max_size=1)))
)


def refusal(encode, given):
    """Why an input is refused; None if it is not."""
    try:
        encode(given)
    except BadRow as error:
        return error
    return None


def sentence_of(encode, given):
    """The one sentence with which an input is refused."""
    return str(refusal(encode, given))


def check_encoding_or_refusal(schema, encode, anything):
    before = pickle.dumps(anything)
    error = refusal(encode, anything)
    if error is None:
        matrix = encode(anything)
        assert matrix.shape[1:] == (7,)
        assert matrix.dtype == (np.float32 if schema.datatype == "FP32" else np.float64)
        assert matrix.flags.c_contiguous
        assert not np.isinf(matrix).any()
    else:
        assert error.row is not None or error.feature is not None or error.expected.startswith(("rows ", "columns "))
        assert error.expected
        assert len(str(error)) < 500
        assert str(error).isprintable()
        json.dumps(
            [error.row, error.feature, error.expected, error.got], ensure_ascii=False
        ).encode()  # can be answered
    assert pickle.dumps(anything) == before


# ------------------------------------------------------------------------------------------- whatever comes in


@given(SCHEMAS, rows_of_anything)
@example(EVERY_KIND, [[10**4000, "", None, None]])
@example(EVERY_KIND, [{"\ud800": 1}])
@example(EVERY_KIND, [{"x" * 100_000: 1}])
@example(EVERY_KIND, [[], {}])
@example(EVERY_KIND, ())
def test_any_json_as_rows_gives_a_finite_matrix_or_a_refusal_with_place_and_reason(schema, rows):
    check_encoding_or_refusal(schema, schema.encode, rows)


@given(SCHEMAS, columns_of_anything)
@example(EVERY_KIND, {"size": [1], "place": ["hill", "hill"], "garden": [], "sold": "2024"})
@example(EVERY_KIND, [["size"]])
def test_any_json_as_columns_gives_a_finite_matrix_or_a_refusal_with_place_and_reason(schema, columns):
    check_encoding_or_refusal(schema, schema.encode_columns, columns)


@given(SCHEMAS, st.lists(good_values))
def test_lists_and_records_and_columns_give_the_same_matrix(schema, rows):
    records = [dict(zip(NAMES, row, strict=True)) for row in rows]
    backwards = [dict(reversed(record.items())) for record in records]
    columns = {name: [record[name] for record in records] for name in NAMES}

    matrix = schema.encode(rows)

    assert matrix.shape == (len(rows), 7)
    np.testing.assert_array_equal(schema.encode([list(row) for row in rows]), matrix)
    np.testing.assert_array_equal(schema.encode(records), matrix)
    np.testing.assert_array_equal(schema.encode(backwards), matrix)
    np.testing.assert_array_equal(schema.encode_columns(columns), matrix)


@given(SCHEMAS, st.lists(good_values, min_size=1))
def test_a_row_is_encoded_the_same_alone_and_among_others(schema, rows):
    alone = [schema.encode([row]) for row in rows]
    np.testing.assert_array_equal(schema.encode(rows), np.concatenate(alone))


def test_a_matrix_has_a_column_for_each_name_in_columns():
    assert EVERY_KIND.columns == COLUMNS
    row = {"size": 80.5, "place": "3", "garden": True, "sold": "2024-05-31T09:30:15.25"}

    (line,) = EVERY_KIND.encode([row])

    assert line.tolist() == [80.5, 2, 1, 19874, 9 * 3600 + 30 * 60 + 15.25, 4, 152]  # a Friday, day 31+29+31+30+31


def test_missing_is_nan_in_every_column_of_every_kind():
    assert np.isnan(EVERY_KIND.encode([[None, None, None, None], [math.nan, math.nan, math.nan, math.nan]])).all()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"size": 1}, "rows must be a list, got an object with 1 keys"),
        ([[1, "hill", True]], "row 0: must have 4 values ('size', 'place', 'garden', 'sold'), got 3"),
        ([[1, "hill", True, None], 7], "row 0: must be an object or a list, the same for all rows, got a list of 4"),
        (
            [{"size": 1, "place": "hill", "garden": True}],
            "row 0: feature 'sold' is absent; send null if its value is missing",
        ),
        ([{"siez": 1}], "row 0: feature 'siez' is unknown; did you mean 'size'?"),
        (
            [dict.fromkeys(NAMES), {"siez": 1, "place": None, "garden": None, "sold": None}],
            "row 1: feature 'siez' is unknown; did you mean 'size'?",
        ),
        ([{"tax": 1}], "row 0: feature 'tax' is unknown; the model reads 'size', 'place', 'garden', 'sold'"),
        ([["wide", None, None, None]], "row 0: feature 'size' must be a number, got 'wide'"),
        ([[True, None, None, None]], "row 0: feature 'size' must be a number, got true"),
        ([[math.inf, None, None, None]], "row 0: feature 'size' must be a finite number, got Infinity"),
        ([[10**400, None, None, None]], "row 0: feature 'size' must be a finite number, got an integer of 1329 bits"),
        ([[None, ["hill"], None, None]], "row 0: feature 'place' must be a text, got a list of 1"),
        ([[None, None, "true", None]], "row 0: feature 'garden' must be true or false, got 'true'"),
        ([[None, None, 2, None]], "row 0: feature 'garden' must be true or false, got 2"),
        (
            [[None, None, None, "31.5.2024"]],
            "row 0: feature 'sold' must be an ISO 8601 date or datetime, like '2024-05-31T09:30:00', got '31.5.2024'",
        ),
    ],
)
def test_a_refusal_says_where_and_what_was_expected_and_what_came(rows, sentence):
    assert sentence_of(EVERY_KIND.encode, rows) == sentence


def test_the_row_of_a_refusal_is_counted_from_0_in_the_whole_request():
    rows = [[1.0, None, None, None]] * 500 + [["x", None, None, None]]
    assert sentence_of(EVERY_KIND.encode, rows).startswith("row 500: ")


def test_columns_of_different_lengths_are_refused():
    columns = {"size": [1, 2], "place": ["hill"], "garden": [True, False], "sold": [None, None]}
    assert sentence_of(EVERY_KIND.encode_columns, columns) == "feature 'place' must have 2 values like 'size', got 1"
    columns["place"] = "hi"
    assert sentence_of(EVERY_KIND.encode_columns, columns) == "feature 'place' must be a list of values, got 'hi'"


def test_a_schema_of_many_long_names_still_refuses_in_a_short_sentence():
    schema = Schema(features=tuple(NumberFeature(name=f"{i:03d}" + "\0" * 497) for i in range(300)))

    sentences = [sentence_of(schema.encode, [{"\0" * 60: 1}]), sentence_of(schema.encode, [[1]])]

    assert max(map(len, sentences)) < 500


@pytest.mark.parametrize(("length", "hint"), [(60, "did you mean"), (61, "the model reads")])
def test_no_hint_is_searched_for_a_name_longer_than_60(length, hint):
    """The search takes time with the square of a name's length."""
    schema = Schema(features=(NumberFeature(name="x" * length),))
    assert hint in sentence_of(schema.encode, [{"x" * (length - 1) + "y": 1}])


# ----------------------------------------------------------------------------------------------------- numbers


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_itself(value):
    (line,) = Schema(datatype="FP64", features=(NumberFeature(name="x"),)).encode([[value]])
    assert line.tolist() == [float(value)]


def test_what_float32_cannot_hold_is_refused_and_what_it_rounds_is_not():
    small = Schema(features=(NumberFeature(name="x.day"), DatetimeFeature(name="x")))  # two columns of one name

    assert small.encode([[3.4028235e38, None]])[0, 0] == np.float32(3.4028235e38)
    assert small.encode([[1e-60, None]])[0, 0] == 0
    assert small.encode([[2**24 + 1, None]])[0, 0] == 2**24
    assert sentence_of(small.encode, [[1.0, "2024-05-31"], [-3.5e38, None]]) == (
        "row 1: feature 'x.day' must lie within 3.4e+38 of zero, the range of FP32, got -3.5e+38"
    )


@pytest.mark.parametrize("position", [0, 1])
def test_the_digits_of_an_integer_of_a_million_are_never_written(position):
    schema = Schema(features=(NumberFeature(name="x"), CategoryFeature(name="c", categories=("a",))))
    huge = 10**1_000_000
    row = [0, 0]
    row[position] = huge

    if position == 0:
        assert sentence_of(schema.encode, [row]).endswith("got an integer of 3321929 bits")
    else:
        assert schema.encode([row]).tolist() == [[0, 1]]


@given(
    st.lists(st.floats(allow_infinity=False, width=32), min_size=1),
    st.sampled_from(["f2", "f4", "f8", "i2", "u1", "O"]),
)
def test_a_column_may_be_an_array_of_any_number_type(values, dtype):
    finite = np.clip(np.nan_to_num(np.array(values)), 0, 200)
    column = finite.astype(dtype)
    schema = Schema(features=(NumberFeature(name="x"),))
    np.testing.assert_array_equal(schema.encode_columns({"x": column}), schema.encode_columns({"x": column.tolist()}))


def test_an_array_with_an_infinite_value_is_refused_at_its_row():
    schema = Schema(features=(NumberFeature(name="x"),))
    assert sentence_of(schema.encode_columns, {"x": np.array([0, np.nan, np.inf])}).startswith(
        "row 2: feature 'x' must be a finite"
    )
    assert sentence_of(schema.encode_columns, {"x": np.array([True])}).startswith("row 0: feature 'x' must be a number")
    assert sentence_of(schema.encode_columns, {"x": np.zeros((2, 2))}).startswith(
        "feature 'x' must be a list of values"
    )


# ----------------------------------------------------------------------------------------------------- schemas


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ((), "at least 1 item"),
        ((NumberFeature(name="x"), BooleanFeature(name="x")), "feature 'x' stands twice"),
    ],
)
def test_a_schema_is_refused_without_features_or_with_one_name_twice(features, reason):
    with pytest.raises(ValueError, match=reason):
        Schema(features=features)


def test_encode_does_not_depend_on_how_many_digits_python_may_print():
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        check_encoding_or_refusal(EVERY_KIND, EVERY_KIND.encode, [[10**3000] * 4])
        check_encoding_or_refusal(EVERY_KIND, EVERY_KIND.encode, [{10**3000: 1}])
    finally:
        sys.set_int_max_str_digits(limit)


def test_a_value_nested_a_hundred_thousand_lists_deep_is_refused_like_any_list():
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for place, expected in enumerate(("a number", "a text", "true or false", "an ISO 8601 date or datetime")):
        row = [None] * 4
        row[place] = deep
        assert f"must be {expected}" in sentence_of(EVERY_KIND.encode, [row])
    assert (
        sentence_of(EVERY_KIND.encode, deep) == "row 0: must have 4 values ('size', 'place', 'garden', 'sold'), got 1"
    )


LINES = st.sampled_from(
    [
        Schema(datatype="FP32", features=EVERY_KIND.features[:3]),
        Schema(datatype="FP64", features=EVERY_KIND.features[:3]),
        Schema(features=(NumberFeature(name="size"), NumberFeature(name="place"), NumberFeature(name="garden"))),
    ]
)
values_of_anything = any_json | st.floats() | st.sampled_from(["hill", "true", "3", 3, True, None, 2**70, 1e300])
row_of_anything = (
    any_json
    | st.lists(values_of_anything, min_size=2, max_size=4)
    | st.fixed_dictionaries(dict.fromkeys(NAMES[:3], values_of_anything))
    | st.dictionaries(st.sampled_from([*NAMES[:3], "siez"]), values_of_anything)
)


@given(LINES, st.lists(row_of_anything, max_size=5))
def test_lines_are_stacked_to_what_encode_makes_of_their_rows_or_refused_in_its_words(schema, rows):
    lines, plain = [], []
    for row in rows:
        line = schema.line_of(row)
        if line is None:
            continue
        lines.append(line)
        plain.append(list(row) if isinstance(row, list) else [row[name] for name in schema.names])
    if lines:
        error = refusal(schema.encode, plain)
        assert str(refusal(schema.stack, lines)) == str(error)
        if error is None:
            stacked, encoded = schema.stack(lines), schema.encode(plain)
            assert stacked.dtype == encoded.dtype
            assert stacked.flags.c_contiguous
            np.testing.assert_array_equal(stacked, encoded)


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ([80.5, "3", True], [80.5, 2.0, True]),
        ([7, "hill", None], [7, 0.0, None]),
        ([None, "moon", False], [None, 3.0, False]),
        ({"garden": True, "size": 1.5, "place": "true"}, [1.5, 1.0, True]),
        ([80.5, "3"], None),
        ([80.5, 3, True], None),
        (["80.5", "3", True], None),
        ([80.5, "3", 1], None),
        ({"garden": True, "size": 1.5, "plcae": "true"}, None),
        ("row", None),
        (None, None),
    ],
)
def test_an_ordinary_row_is_a_line_and_every_other_is_left_to_encode(row, line):
    assert Schema(features=EVERY_KIND.features[:3]).line_of(row) == line


def test_a_schema_with_moments_has_no_lines():
    assert EVERY_KIND.line_of([1.0, "hill", True, "2024-05-31"]) is None


NUMBER_ROWS = st.lists(
    st.lists(st.floats() | st.integers() | st.sampled_from([None, True, "1", 10**400, 1e39]), min_size=2, max_size=2)
    | st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=2),
    max_size=4,
)


@given(NUMBER_ROWS, st.sampled_from(["FP32", "FP64"]))
def test_rows_of_numbers_are_encoded_as_their_columns_are(rows, datatype):
    schema = Schema(datatype=datatype, features=(NumberFeature(name="a"), NumberFeature(name="b")))
    columns = {"a": [row[0] for row in rows], "b": [row[1] for row in rows]}
    error = refusal(schema.encode_columns, columns)
    assert str(refusal(schema.encode, rows)) == str(error)
    if error is None:
        matrix = schema.encode(rows)
        np.testing.assert_array_equal(matrix, schema.encode_columns(columns))
        assert matrix.dtype == schema.encode_columns(columns).dtype
        assert matrix.flags.c_contiguous
