import json
import math
import pickle
import sys
import time
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.errors import BadRow
from models.schema import BooleanFeature, CategoryFeature, DatetimeFeature, NumberFeature, Schema, category_text
from tests.models.sample import EVERY_KIND, any_json, any_text, good_values

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


@given(st.lists(good_values))
def test_a_line_of_the_matrix_is_the_encoding_of_each_value_by_its_feature(rows):
    columns = list(zip(*rows, strict=True)) or [()] * 4

    parts = [feature.encode(values) for feature, values in zip(EVERY_KIND.features, columns, strict=True)]

    np.testing.assert_array_equal(EVERY_KIND.encode(rows), np.column_stack(parts))


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


def test_columns_of_different_lengths_are_sentence_of():
    columns = {"size": [1, 2], "place": ["hill"], "garden": [True, False], "sold": [None, None]}
    assert sentence_of(EVERY_KIND.encode_columns, columns) == "feature 'place' must have 2 values like 'size', got 1"
    columns["place"] = "hi"
    assert sentence_of(EVERY_KIND.encode_columns, columns) == "feature 'place' must be a list of values, got 'hi'"


def test_a_schema_of_many_long_names_still_refuses_in_a_short_sentence():
    schema = Schema(features=tuple(NumberFeature(name=f"{i:03d}" + "\0" * 497) for i in range(300)))
    start = time.process_time()

    sentences = [sentence_of(schema.encode, [{"\0" * 60: 1}]), sentence_of(schema.encode, [[1]])]

    assert max(map(len, sentences)) < 500
    assert time.process_time() - start < 1  # a hint costs time with the square of a name's length


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
def test_an_integer_of_a_million_digits_takes_no_time(position):
    schema = Schema(features=(NumberFeature(name="x"), CategoryFeature(name="c", categories=("a",))))
    huge = 10**1_000_000
    row = [0, 0]
    row[position] = huge
    start = time.process_time()

    if position == 0:
        assert sentence_of(schema.encode, [row]).endswith("got an integer of 3321929 bits")
    else:
        assert schema.encode([row]).tolist() == [[0, 1]]

    assert time.process_time() - start < 2  # its digits would take ten times as long


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


# -------------------------------------------------------------------------------------------------- categories


@given(st.lists(st.none() | st.booleans() | st.integers() | st.floats() | any_text))
def test_categories_learned_from_values_are_found_again_when_the_values_come_as_json(values):
    texts = [category_text(value) for value in values]
    feature = CategoryFeature(name="c", categories=tuple(dict.fromkeys(text for text in texts if text is not None)))

    indices = feature.encode(json.loads(json.dumps(values)))

    assert [None if math.isnan(i) else feature.categories[int(i)] for i in indices] == texts


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None), (math.nan, None), (np.float32("nan"), None),
        ("", ""), (" Hill", " Hill"), ("nan", "nan"), ("3.0", "3.0"),
        (True, "true"), (np.False_, "false"),
        (3, "3"), (3.0, "3"), (-0.0, "0"), (np.int8(-3), "-3"), (np.float32(3), "3"),
        (2.5, "2.5"), (1e-7, "1e-07"), (1e16, "10000000000000000"), (0.1 + 0.2, "0.30000000000000004"),
        (2**64 - 1, "18446744073709551615"), (2**64, "1.8446744073709552e+19"),
        (2.0**63, "9223372036854775808"), (2.0**64, "1.8446744073709552e+19"), (1e300, "1e+300"),
        (date(2024, 5, 31), "2024-05-31"),
        (math.inf, "inf"), (-math.inf, "-inf"), (10**400, "inf"), (-(10**400), "-inf"),
    ],
)  # fmt: skip
def test_the_text_of_a_category_is(value, text):
    assert category_text(value) == text


@given(st.integers(-(2**53), 2**53))
def test_a_whole_number_is_the_same_category_with_and_without_a_point(number):
    assert category_text(number) == category_text(float(number)) == str(number)


@given(st.integers())
def test_a_whole_number_is_the_same_category_for_readers_of_json_who_know_only_float64_beyond_64_bits(number):
    as_read_elsewhere = number if abs(number) < 2**64 else float(number)
    assert category_text(number) == category_text(as_read_elsewhere)


def test_a_category_that_nobody_trained_on_is_the_reserved_index():
    feature = CategoryFeature(name="c", categories=("b", "a"))
    assert feature.encode(["a", "b", "c", "A", 0]).tolist() == [1, 0, 2, 2, 2]


def test_blanks_around_a_category_do_not_count_unless_they_are_part_of_one():
    """The trainer takes them away: the very table that it read must be known again."""
    feature = CategoryFeature(name="c", categories=("hill", " hill", "two words"))
    assert feature.encode(["hill", " hill", "hill\n", "two words ", "twowords"]).tolist() == [0, 1, 0, 2, 3]
    assert np.isnan(feature.encode(["", "  "])).all()
    assert CategoryFeature(name="c", categories=("", "a")).encode(["", " a"]).tolist() == [0, 1]
    assert CategoryFeature(name="c", categories=()).encode(["a"]).tolist() == [0]


def test_a_million_categories_are_looked_up_in_no_time_after_the_first():
    feature = CategoryFeature(name="c", categories=tuple(map(str, range(1_000_000))))
    start = time.process_time()
    feature.encode(["1"])
    first = time.process_time() - start
    start = time.process_time()

    assert feature.encode(["999999", "x"]).tolist() == [999_999, 1_000_000]

    assert time.process_time() - start < first / 4


# ---------------------------------------------------------------------------------------------------- booleans


@pytest.mark.parametrize(
    "values", [[True, False, None], [1, 0, None], [1.0, 0.0, math.nan], [np.True_, np.False_, np.float32("nan")]]
)
def test_true_and_false_are_1_and_0_however_they_come(values):
    np.testing.assert_array_equal(BooleanFeature(name="b").encode(values), [1, 0, math.nan])


def test_a_boolean_column_may_be_an_array():
    assert BooleanFeature(name="b").encode(np.array([True, False])).tolist() == [1, 0]
    assert (
        sentence_of(BooleanFeature(name="b").encode, np.array([1, 2]))
        == "row 1: feature 'b' must be true or false, got 2"
    )


# --------------------------------------------------------------------------------------------------- datetimes

SOLD = DatetimeFeature(name="sold")
offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


def parts_by_pythons_own_arithmetic(moment):
    since_1970 = moment - datetime.fromisoformat("1970-01-01")
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    second = (moment - midnight) / timedelta(seconds=1)
    return [since_1970.days, second, moment.weekday(), moment.timetuple().tm_yday]


@given(st.datetimes())
@example(datetime.fromisoformat("0001-01-01"))
@example(datetime.fromisoformat("9999-12-31T23:59:59.999999"))
@example(datetime.fromisoformat("1969-12-31T23:59:59"))
@example(datetime.fromisoformat("2000-02-29"))
def test_the_parts_of_a_moment_are_those_of_pythons_own_arithmetic(moment):
    right = parts_by_pythons_own_arithmetic(moment)

    assert SOLD.encode([moment.isoformat()])[0].tolist() == right
    assert SOLD.encode([str(moment)])[0].tolist() == right
    assert SOLD.encode([moment])[0].tolist() == right
    assert SOLD.encode(np.array([moment], dtype="datetime64[us]"))[0].tolist() == right
    assert SOLD.encode([np.datetime64(moment)])[0].tolist() == right


@given(st.datetimes(datetime.fromisoformat("0002-01-01"), datetime.fromisoformat("9998-12-31"), timezones=offsets))
def test_a_moment_with_an_offset_is_read_in_utc(moment):
    in_utc = moment.astimezone(UTC).replace(tzinfo=None)
    assert SOLD.encode([moment.isoformat(), moment]).tolist() == [parts_by_pythons_own_arithmetic(in_utc)] * 2


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("2024-05-31", "2024-05-31T00:00:00"),
        ("2024-05-31 09:30", "2024-05-31T09:30:00"),
        ("2024-05-31T09:30Z", "2024-05-31T09:30:00"),
        ("2024-05-31T09:30:00.5+0200", "2024-05-31T07:30:00.500000"),
        ("2024-05-31T00:30+02:00", "2024-05-30T22:30:00"),
        ("2024-05-31T09:30:00.1234569", "2024-05-31T09:30:00.123456"),  # from the seventh digit on: dropped
    ],
)
def test_one_moment_may_be_written_in_several_ways(text, same_as):
    assert SOLD.encode([text]).tolist() == SOLD.encode([datetime.fromisoformat(same_as)]).tolist()


@pytest.mark.parametrize(
    "value",
    [
        "", "now", "today", "NaT", "2024", "2024-05", "20240531", "2024-W22-5", "2024-152", "24-05-31", "2024-5-31",
        "2024-02-30", "2023-02-29", "2024-13-01", "0000-01-01", "10000-01-01", "-2024-05-31", "\uff12024-05-31",
        "2024-05-31T", "2024-05-31T09", "2024-05-31T24:00", "2024-05-31T09:60", "2024-05-31T09:30:60",
        "2024-05-31T09:30:00,5", "2024-05-31T09:30:00.", "2024-05-31t09:30", "2024-05-31T09:30z", "2024-05-31x09:30",
        "2024-05-31T09:30+24:00", "2024-05-31T09:30+02", "2024-05-31T09:30+02:00:01", "2024-05-31T09:30 +02:00",
        " 2024-05-31", "2024-05-31\n", "2024-05-31Z", "2024-05-31\ud80009:30",
        "0001-01-01T00:00+00:01", "9999-12-31T23:59-00:01",
        0, 19874, 1.5, True, ["2024-05-31"], {}, np.datetime64("10000-01-01"), np.datetime64(2**62, "s"),
    ],
)  # fmt: skip
def test_what_other_readers_may_take_for_a_datetime_is_sentence_of(value):
    assert sentence_of(SOLD.encode, [value]).startswith("row 0: feature 'sold' must be an ISO 8601 date or datetime")


@given(any_text)
def test_any_text_is_a_datetime_or_is_sentence_of(text):
    error = refusal(SOLD.encode, [text])
    assert error.row == 0 if error else SOLD.encode([text]).shape == (1, 4)


def test_an_array_of_datetimes_may_have_holes_and_any_unit():
    column = np.array(["2024-05-31", "NaT"], dtype="datetime64[D]")
    assert SOLD.encode(column)[0].tolist() == [19874, 0, 4, 152]
    assert np.isnan(SOLD.encode(column)[1]).all()
    np.testing.assert_array_equal(SOLD.encode(column.astype("datetime64[ns]")), SOLD.encode(column))
    np.testing.assert_array_equal(SOLD.encode([date(2024, 5, 31), None]), SOLD.encode(column))
    assert sentence_of(SOLD.encode, np.array(["2024-05-31", "12024-05-31"], dtype="datetime64[s]")).startswith(
        "row 1: "
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


def test_a_category_is_refused_twice_and_with_shares_for_others():
    with pytest.raises(ValueError, match="names a category twice"):
        CategoryFeature(name="c", categories=("a", "a"))
    with pytest.raises(ValueError, match="has 1 shares"):
        CategoryFeature(name="c", categories=("a", "b"), shares=(1.0,))


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
