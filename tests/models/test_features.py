import contextlib
import json
import math
import tracemalloc
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.errors import BadRow
from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, category_text, category_text_of_cell
from models.schema import Schema
from tests.models.sample import EVERY_KIND, any_text, good_values


def columns_of(feature, values):
    """The columns of the matrix that a feature alone fills; one of them as [N]."""
    matrix = Schema(datatype="FP64", features=(feature,)).encode_columns({feature.name: values})
    return matrix[:, 0] if matrix.shape[1] == 1 else matrix


def refusal(feature, values):
    """The one sentence with which values are refused."""
    with pytest.raises(BadRow) as caught:
        columns_of(feature, values)
    return str(caught.value)


@given(st.lists(good_values))
def test_a_line_of_the_matrix_is_the_encoding_of_each_value_by_its_feature(rows):
    columns = list(zip(*rows, strict=True)) or [()] * 4

    parts = [columns_of(feature, values) for feature, values in zip(EVERY_KIND.features, columns, strict=True)]

    np.testing.assert_array_equal(EVERY_KIND.encode(rows), np.column_stack(parts))


# -------------------------------------------------------------------------------------------------- categories


@given(st.lists(st.none() | st.booleans() | st.integers() | st.floats() | any_text))
def test_categories_learned_from_values_are_found_again_when_the_values_come_as_json(values):
    texts = [category_text(value) for value in values]
    feature = CategoryFeature(name="c", categories=tuple(dict.fromkeys(text for text in texts if text is not None)))

    indices = columns_of(feature, json.loads(json.dumps(values)))

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
        (np.float32(0.1), "0.1"), (np.float16(0.1), "0.1"), (np.float64(0.1), "0.1"), (np.float32(1e-7), "1e-07"),
        (np.float32(2**31), "2147483648"), (np.float32("inf"), "inf"),
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


@given(st.floats(width=32))
def test_a_number_of_32_bits_is_known_however_it_comes(number):
    text = category_text(np.float32(number))
    feature = CategoryFeature(name="c", categories=() if text is None else (text,))
    as_json = json.loads(json.dumps(number))
    written = json.loads(json.dumps(number if text is None else float(text)))
    came = columns_of(feature, [number, np.float32(number), np.float64(number), as_json, written])
    assert np.isnan(came).all() if text is None else (came == 0).all()


def test_the_digits_of_32_bits_are_no_others_of_64():
    feature = CategoryFeature(name="c", categories=("0.1", "0.2", "0.20000000298023224"))
    came = [0.1, float(np.float32(0.1)), 0.1000000015, float(np.float32(0.2)), 0.2, 1e300]
    assert columns_of(feature, came).tolist() == [0, 0, 3, 2, 1, 3]


def test_a_category_that_nobody_trained_on_is_the_reserved_index():
    feature = CategoryFeature(name="c", categories=("b", "a"))
    assert columns_of(feature, ["a", "b", "c", "A", 0]).tolist() == [1, 0, 2, 2, 2]


def test_blanks_around_a_category_do_not_count_unless_they_are_part_of_one():
    """The trainer takes them away: the very table that it read must be known again."""
    feature = CategoryFeature(name="c", categories=("hill", " hill", "two words"))
    assert columns_of(feature, ["hill", " hill", "hill\n", "two words ", "twowords"]).tolist() == [0, 1, 0, 2, 3]
    assert np.isnan(columns_of(feature, ["", "  "])).all()
    assert columns_of(CategoryFeature(name="c", categories=("", "a")), ["", " a"]).tolist() == [0, 1]
    assert columns_of(CategoryFeature(name="c", categories=()), ["a"]).tolist() == [0]


def test_separators_of_control_are_part_of_a_category_as_they_are_for_the_trainer():
    """Python's `strip` takes them for blanks; Unicode does not, nor does polars."""
    feature = CategoryFeature(name="c", categories=("hill",))
    assert columns_of(feature, ["hill\x85", "\u3000hill", "hill\x1f", "\x1f"]).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("3", "3"), ("3.0", "3"), ("+3", "3"), ("-0", "0"), ("0.50", "0.5"), ("hill", "hill"), ("", None),
        ("007", "007"), ("1e3", "1e3"), (".5", ".5"), ("1_0", "1_0"), ("1\u0663", "1\u0663"), ("inf", "inf"),
        ("-1234567890123456789", "-1234567890123456789"), ("+1234567890123456789", "1234567890123456789"),
        (str(10**19 + 1), str(10**19 + 1)), (str(2**64 - 1), str(2**64 - 1)), (str(2**64), repr(2.0**64)),
        ("1" + "0" * 29, "1e+29"), ("1" * 5000, "inf"),
    ],
)  # fmt: skip
def test_the_text_of_a_category_in_a_csv_is(cell, text):
    assert category_text_of_cell(cell) == text


@given(st.integers(-(2**70), 2**70))
def test_a_whole_number_is_the_same_category_in_a_csv_and_in_json(number):
    assert category_text_of_cell(str(number)) == category_text(number)


def test_a_hundred_thousand_categories_are_indexed_once():
    schema = Schema(features=(CategoryFeature(name="c", categories=tuple(map(str, range(100_000)))),))
    schema.encode_columns({"c": ["1"]})
    tracemalloc.start()

    assert schema.encode_columns({"c": ["99999", "x"]}).tolist() == [[99_999], [100_000]]

    allocated = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert allocated < 100_000  # bytes; an index of them takes megabytes


def test_a_category_is_refused_twice_and_with_shares_for_others():
    with pytest.raises(ValueError, match="names a category twice"):
        CategoryFeature(name="c", categories=("a", "a"))
    with pytest.raises(ValueError, match="has 1 shares"):
        CategoryFeature(name="c", categories=("a", "b"), shares=(1.0,))


# ---------------------------------------------------------------------------------------------------- booleans


@pytest.mark.parametrize(
    "values", [[True, False, None], [1, 0, None], [1.0, 0.0, math.nan], [np.True_, np.False_, np.float32("nan")]]
)
def test_true_and_false_are_1_and_0_however_they_come(values):
    np.testing.assert_array_equal(columns_of(BooleanFeature(name="b"), values), [1, 0, math.nan])


def test_a_boolean_column_may_be_an_array():
    assert columns_of(BooleanFeature(name="b"), np.array([True, False])).tolist() == [1, 0]
    assert refusal(BooleanFeature(name="b"), np.array([1, 2])) == "row 1: feature 'b' must be true or false, got 2"


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

    assert columns_of(SOLD, [moment.isoformat()])[0].tolist() == right
    assert columns_of(SOLD, [str(moment)])[0].tolist() == right
    assert columns_of(SOLD, [moment])[0].tolist() == right
    assert columns_of(SOLD, np.array([moment], dtype="datetime64[us]"))[0].tolist() == right
    assert columns_of(SOLD, [np.datetime64(moment)])[0].tolist() == right


@given(st.datetimes(datetime.fromisoformat("0002-01-01"), datetime.fromisoformat("9998-12-31"), timezones=offsets))
def test_a_moment_with_an_offset_is_read_in_utc(moment):
    in_utc = moment.astimezone(UTC).replace(tzinfo=None)
    assert columns_of(SOLD, [moment.isoformat(), moment]).tolist() == [parts_by_pythons_own_arithmetic(in_utc)] * 2


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("2024-05-31", "2024-05-31T00:00:00"),
        ("2024-05-31 09:30", "2024-05-31T09:30:00"),
        ("2024-05-31T09:30Z", "2024-05-31T09:30:00"),
        ("2024-05-31T09:30:00.5+0200", "2024-05-31T07:30:00.500000"),
        ("2024-05-31T00:30+02:00", "2024-05-30T22:30:00"),
        ("2024-05-31T09:30:00.1234569", "2024-05-31T09:30:00.123456"),  # from the seventh digit on: dropped
        ("2024-05-31 09:30:00,123", "2024-05-31T09:30:00.123000"),  # as Python's logging writes it
        ("2024-05-31 09:30:00.5+02", "2024-05-31T07:30:00.500000"),  # as PostgreSQL writes it
        ("2024-05-31T09:30-11", "2024-05-31T20:30:00"),
    ],
)
def test_one_moment_may_be_written_in_several_ways(text, same_as):
    assert columns_of(SOLD, [text]).tolist() == columns_of(SOLD, [datetime.fromisoformat(same_as)]).tolist()


@pytest.mark.parametrize(
    "value",
    [
        "", "now", "today", "NaT", "2024", "2024-05", "20240531", "2024-W22-5", "2024-152", "24-05-31", "2024-5-31",
        "2024-02-30", "2023-02-29", "2024-13-01", "0000-01-01", "10000-01-01", "-2024-05-31", "\uff12024-05-31",
        "2024-05-31T", "2024-05-31T09", "2024-05-31T24:00", "2024-05-31T09:60", "2024-05-31T09:30:60",
        "2024-05-31T09:30:00;5", "2024-05-31T09:30:00.", "2024-05-31t09:30", "2024-05-31T09:30z", "2024-05-31x09:30",
        "2024-05-31T09:30+24:00", "2024-05-31T09:30+24", "2024-05-31T09:30+2", "2024-05-31T09:30+02:00:01",
        "2024-05-31T09:30 +02:00", " 2024-05-31", "2024-05-31\n", "2024-05-31Z", "2024-05-31\ud80009:30",
        "0001-01-01T00:00+00:01", "9999-12-31T23:59-00:01",
        0, 19874, 1.5, True, ["2024-05-31"], {}, np.datetime64("10000-01-01"), np.datetime64(2**62, "s"),
    ],
)  # fmt: skip
def test_what_other_readers_may_take_for_a_datetime_is_refused(value):
    assert refusal(SOLD, [value]).startswith("row 0: feature 'sold' must be an ISO 8601 date or datetime")


@given(any_text)
def test_any_text_is_a_datetime_or_is_refused(text):
    with contextlib.suppress(BadRow):
        assert columns_of(SOLD, [text]).shape == (1, 4)


def test_an_array_of_datetimes_may_have_holes_and_any_unit():
    column = np.array(["2024-05-31", "NaT"], dtype="datetime64[D]")
    assert columns_of(SOLD, column)[0].tolist() == [19874, 0, 4, 152]
    assert np.isnan(columns_of(SOLD, column)[1]).all()
    np.testing.assert_array_equal(columns_of(SOLD, column.astype("datetime64[ns]")), columns_of(SOLD, column))
    np.testing.assert_array_equal(columns_of(SOLD, [date(2024, 5, 31), None]), columns_of(SOLD, column))
    assert refusal(SOLD, np.array(["2024-05-31", "12024-05-31"], dtype="datetime64[s]")).startswith("row 1: ")
