import datetime as dt
import sys
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.csv_file import BadTable
from models.features import BLANKS, DatetimeFeature
from training.data import cells
from training.data.columns import Data, read_batch, read_columns
from training.data.distinct import of_distinct
from training.data.kinds import typed_column
from training.data.table import Table
from training.plan import Plan


def texts(columns: dict[str, list[str | None]]) -> Table:
    """A table as a CSV gives it."""
    return Table(pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)), "0" * 64, "t.csv", is_text=True)


def data_of(columns: dict[str, list[str | None]], **table: object) -> Data:
    plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t.csv", **table}}, "test")
    return read_columns(texts(columns), plan)


TWENTY = [str(number / 8) for number in range(20)]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "2.5", "-3e2", "+4", " 5 "], "number"),
        (["1", "NA", "", None, "?", "nan", "3"], "number"),
        (["true", "False", "TRUE", "null"], "boolean"),
        (["2024-01-31", "2024-01-31T10:00", "2024-01-31 10:00:01.5Z", "2024-01-31T10:00:00+02:00", "NA"], "datetime"),
        (["01234", "00017", "01234"], "category"),
        (["yes", "no", "yes", "yes"], "category"),
        (["NA", "EU", "NA", "EU"], "category"),
    ],
)
def test_the_kind_is_inferred_from_every_value(values, kind):
    numbers = [str(number / 8) for number in range(4 * len(values))]
    assert data_of({"x": values * 4, "y": numbers}).kinds == {"x": kind}


def test_a_spelled_missing_value_is_missing_in_a_number_and_a_category_in_a_text():
    data = data_of({"n": ["1", "NA", "3", "4"], "c": ["EU", "NA", "EU", ""], "y": TWENTY[:4]})
    assert data.frame["n"].to_list() == [1, None, 3, 4]
    assert data.frame["c"].to_list() == ["EU", "NA", "EU", None]


moments = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30)).map(str)  # noqa: DTZ001 - texts without offset
offsets = st.sampled_from(["", "Z", "+00:00", "-11:30", "+0200", "+02"])


@settings(deadline=None)
@given(st.lists(st.builds(str.__add__, moments, offsets), min_size=1, max_size=5))
def test_a_datetime_in_a_table_is_the_same_as_in_a_request(values):
    data = data_of({"t": [*values, "2024-01-01", "2024-01-02"], "y": TWENTY[: len(values) + 2]})
    feature = DatetimeFeature(name="t")
    asked = feature.lines([*values, "2024-01-01", "2024-01-02"])
    assert np.array_equal(feature.lines(data.frame["t"].to_numpy()), asked)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([f"{i * 60:,}" for i in range(60)], r"marks between thousands, as '1,020' in row 18"),
        ([f"\u2212{i}" if i % 2 else f"{i}" for i in range(60)], r"negative numbers with another sign, as '\u22121'"),
        ([f"({i}.50)" if i % 2 else f"{i}" for i in range(60)], r"negative numbers with another sign, as '\(1.50\)'"),
        ([f"USD {i * 9}" for i in range(60)], r"amounts of money, as 'USD 0' in row 1"),
        ([f"($1,0{i}.50)" if i % 2 else f"$ {i}" for i in range(60)], r"amounts of money, as '\$ 0' in row 1"),
        ([f"\u20b9{i * 9}" for i in range(60)], r"amounts of money, as '\u20b90' in row 1"),
        ([f"1 0{i} US$" for i in range(60)], r"amounts of money, as '1 00 US\$' in row 1"),
        ([f"<0.{i}" if i % 3 == 0 else f"{i}" for i in range(60)], r"numbers behind a comparison, as '<0.0' in row 1"),
        ([f"{i}.5{'kM'[i % 2]}" for i in range(60)], r"letters for thousands and millions, as '0.5k' in row 1"),
        ([f"{i * 9} kg" for i in range(60)], r"numbers with a unit, as '0 kg' in row 1"),
        ([f"{i % 28 + 1:02}.{i % 12 + 1:02}.{i:02}" for i in range(60)], r"dates, as '01.01.00' in row 1"),
        ([f"{i % 28 + 1} {'Jan' if i % 2 else 'sep'} 2024" for i in range(60)], r"dates, as '1 sep 2024' in row 1"),
        ([f"Mar {i % 28 + 1}, 2024" for i in range(60)], r"dates, as 'Mar 1, 2024' in row 1"),
        ([f"{i % 24}:{i:02}" for i in range(60)], r"times of day, as '0:00' in row 1"),
        ([f"{i % 12 + 1}:30 {'AM' if i % 2 else 'p.m.'}" for i in range(60)], r"times of day, as '1:30 p.m.' in row 1"),
        ([f"{i} days {i % 24:02}:00:00" for i in range(60)], r"durations, as '0 days 00:00:00' in row 1"),
        ([f"-1 day, {i % 24}:00:00" for i in range(60)], r"durations, as '-1 day, 0:00:00' in row 1"),
        ([f"PT{i}H{i}M" if i % 2 else f"P{i}DT1.5S" for i in range(60)], r"durations, as 'P0DT1.5S' in row 1"),
        ([f"{i // 9}h {i}m" for i in range(60)], r"durations, as '0h 0m' in row 1"),
        ([f"Wed, {i % 28 + 1:02} Jan 2020 0{i % 9}:00:00 GMT" for i in range(60)], r"dates, as 'Wed, 01 Jan 2020 00"),
        ([f"2020-01-{i:02}" if i % 2 else f"{i}.1.2020" for i in range(11, 31)], r"dates, as '12.1.2020' in row 2"),
        ([f"{i / 4}" if i % 3 else "-" for i in range(60)], r"holds numbers, but row 1 has '-'"),
        ([f"2024-{i // 28 + 1:02}-{i % 28 + 1:02}" if i % 2 else "-" for i in range(60)], r"datetimes, but row 1 has"),
        ([f"2016-12-31T23:59:{i + 1:02}" for i in range(60)], r"datetimes, but row 60 has '2016-12-31T23:59:60'"),
    ],
)  # fmt: skip
def test_numbers_and_moments_as_people_write_them_are_no_categories(values, told):
    numbers = [str(number / 8) for number in range(len(values))]
    with pytest.raises(BadTable, match=told):
        data_of({"x": values, "y": numbers})
    assert data_of({"x": [*values] * 2, "y": numbers * 2}, kinds={"x": "category"}).kinds == {"x": "category"}


@pytest.mark.parametrize(
    "values",
    [
        ["12 months", "36 months"] * 30,
        [f"SKU{i % 30}" for i in range(60)],
        [f"{i % 30}{'abc'[i % 3]}" for i in range(60)],
        ["1", "2", "3", "other"] * 15,
        ["<1", "1", "2", ">3"] * 15,
        ["5k", "10k", "1M"] * 20,
        [f"{i % 30}" if i % 2 else f"x{i % 7}" for i in range(60)],
        [f"1.{i % 30}.0" for i in range(60)],
        [f"P{i % 30}" for i in range(60)],
        ["P", "P", "P", "PT1H"] * 15,
        ["2 days", "1 day"] * 30,
    ],
)
def test_codes_with_numbers_in_them_are_categories(values):
    assert data_of({"x": values, "y": [str(number / 8) for number in range(60)]}).kinds == {"x": "category"}


def test_numbers_that_a_parquet_file_holds_as_texts_are_said_so():
    frame = pl.DataFrame({"x": ["1.5", "2"] * 10, "y": TWENTY}).with_columns(pl.col("y").cast(pl.Float64))
    plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t.parquet"}}, "test")
    data = read_columns(Table(frame, "0" * 64, "t.parquet"), plan)
    told = "column 'x' holds numbers as texts, which are categories; --kind x=number takes them as numbers"
    assert (data.kinds, data.notes) == ({"x": "category"}, (told,))


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["2024-05-31", "2024-06-01T09:30"], "datetime"),
        (["2024-05-31", "2024-06-01", "NaN", None], "datetime"),
        (["2024-05-31", "some day"], "category"),
    ],
)
def test_moments_that_a_parquet_file_holds_as_texts_are_moments_as_in_a_csv(texts, kind):
    frame = pl.DataFrame({"x": (texts * 10)[:20], "y": TWENTY}).with_columns(pl.col("y").cast(pl.Float64))
    plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t.parquet"}}, "test")
    assert read_columns(Table(frame, "0" * 64, "t.parquet"), plan).kinds == {"x": kind}


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["$5", "$1,200", None], "column 'x' holds amounts of money, as '$5' in row 1"),
        (
            [" 12,5 ", "3,25", "7"],
            "column 'x' holds numbers with a decimal comma or marks between thousands, as '12,5'",
        ),
        (["5.5", "6", "7", "8", "9", "wide"], "column 'x' holds numbers, but row 6 has 'wide'"),
        (["S", "M", "5 kg"], None),
        (["true", "false", "true"], None),
    ],
)
def test_texts_of_a_parquet_file_that_a_csv_would_be_refused_for_are_told_of(texts, told):
    frame = pl.DataFrame({"x": (texts * 10)[:20], "y": TWENTY}).with_columns(pl.col("y").cast(pl.Float64))
    plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t.parquet"}}, "test")
    data = read_columns(Table(frame, "0" * 64, "t.parquet"), plan)
    assert data.kinds == {"x": "category"}
    assert [note.startswith(told or "") for note in data.notes] == [True] * (told is not None)
    assert all(note.endswith("; its type says text, so all of it are categories") for note in data.notes)


def test_a_decimal_is_the_category_that_its_number_is_in_a_request():
    frame = pl.DataFrame({"x": [Decimal("1.00"), Decimal("2.50")] * 10, "y": range(20)}).with_columns(pl.col("y") / 8)
    plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t.parquet", "kinds": {"x": "category"}}}, "test")
    assert read_columns(Table(frame, "0" * 64, "t.parquet"), plan).frame["x"].unique().sort().to_list() == ["1", "2.5"]


@pytest.mark.parametrize("factor", [1e-50, 1.0])
def test_a_target_that_answers_cannot_tell_apart_is_refused(factor):
    far = 1e9 if factor == 1.0 else 0.0
    with pytest.raises(BadTable, match=r"target 'y' has a standard deviation of .*, and near .* 32 bits are .* apart"):
        data_of({"x": TWENTY, "y": [str(far + factor * number) for number in range(20)]})
    wide = data_of({"x": TWENTY, "y": [str(1000 * number + far) for number in range(20)]})
    assert wide.task == "regression"


def test_whole_numbers_that_are_taken_as_classes_are_said_so():
    columns = {"x": [str(i) for i in range(60)], "y": ["1", "2", "3"] * 20}
    assert data_of(columns).notes == (
        "target 'y' has 3 whole numbers and is taken as classes; --task regression takes it as a number",
    )


def test_whole_numbers_that_may_be_classes_and_are_taken_as_a_number_are_said_so():
    told = "target 'y' has 21 distinct whole numbers and is taken as a number; --task multiclass takes them as classes"
    for distinct, notes in ((21, (told,)), (101, ())):
        y = [str(number) for number in range(distinct)] * 10
        columns = {"x": [str(number) for number in range(len(y))], "y": y}
        assert (data_of(columns).task, data_of(columns).notes) == ("regression", notes)


def test_spelled_missing_values_that_are_categories_are_said_so():
    columns = {"a": ["NA", "EU"], "b": ["none", "x"], "c": ["", "x"], "n": ["1", "NA"], "y": ["0.5", "1.5"]}
    (told,) = data_of({name: cells * 10 for name, cells in columns.items()}).notes
    assert (
        told
        == "'NA' and the like are categories in columns 'a', 'b'; an empty cell is missing, as null is in a request"
    )


def test_one_text_among_numbers_is_refused_with_its_row_and_the_way_on():
    values = [*TWENTY[:11], "wide", *TWENTY[:8]]
    with pytest.raises(BadTable, match=r"column 'x' holds numbers, but row 12 has 'wide'; .* --kind x=category"):
        data_of({"x": values, "y": TWENTY})
    as_number = data_of({"x": values, "y": TWENTY}, kinds={"x": "number"})
    assert as_number.frame["x"].null_count() == 1
    assert as_number.notes == ("1 values of column 'x' are no number and count as missing (first: 'wide' in row 12)",)
    assert data_of({"x": values, "y": TWENTY}, kinds={"x": "category"}).kinds == {"x": "category"}


def test_a_number_that_is_a_category_has_the_text_that_json_gives_it():
    data = data_of({"x": ["3", "3.0", "4", "4.5"], "y": TWENTY[:4]}, kinds={"x": "category"})
    assert data.frame["x"].to_list() == ["3", "3", "4", "4.5"]


@pytest.mark.parametrize("number", ["1e400", "inf", "-Infinity"])
def test_an_infinite_number_is_refused_with_its_row(number):
    with pytest.raises(BadTable, match=r"column 'x', row 2: the number is infinite"):
        data_of({"x": ["1", number, "3"], "y": TWENTY[:3]})


def test_rows_without_a_target_are_left_out_and_counted():
    data = data_of({"x": ["1", "2", "3", "4", None], "y": ["1.5", "", "NA", "2.5", None]})
    assert data.y.tolist() == [[1.5], [2.5]]
    assert data.rows_read == 5
    assert data.notes == ("2 of 5 rows have no 'y' and are left out (first: row 2)",)  # the last line was blank


@pytest.mark.parametrize(
    ("target", "kind", "told"),
    [
        (
            [*TWENTY, "-", "-"],
            "number",
            "2 values of column 'y' are no number and count as missing (first: '-' in row 21)",
        ),
        (["1", "0"] * 10 + ["two", ""], "number", "1 values of column 'y' are no number and count as missing"),
        (
            ["true", "FALSE"] * 10 + ["no", "NA"],
            "boolean",
            "1 values of column 'y' are no boolean and count as missing",
        ),
    ],
)
@pytest.mark.parametrize("is_text", [True, False])
def test_texts_in_a_target_that_is_told_to_be_a_number_are_rows_without_one(target, kind, told, is_text):
    table = texts({"x": ["a", "b"] * 11, "y": target})
    plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t.csv", "kinds": {"y": kind}}}, "test")
    data = read_columns(Table(table.frame, table.sha256, "t.csv", is_text=is_text), plan)
    assert len(data.y) == data.frame.height == 20
    assert data.frame["y"].null_count() == 0
    assert any(note.startswith(told) for note in data.notes)
    assert "2 of 22 rows have no 'y' and are left out (first: row 21)" in data.notes
    batch, _ = read_batch(table.frame, 1, data, plan, is_text=is_text)
    assert batch.height == 20


def test_numbers_that_a_leading_zero_makes_a_category_are_said_to_be():
    told = "column 'x' has a number with a leading zero ('05.3' in row 4) and counts as codes, a category; "
    data = data_of({"x": ["1.5", "12", "120", "05.3", "7"] * 4, "y": TWENTY})
    assert (data.kinds, data.notes) == ({"x": "category"}, (told + "--kind x=number takes them as numbers",))
    assert data_of({"x": ["01234", "10115"] * 10, "y": TWENTY}).notes == ()


def test_digits_are_booleans_where_that_is_said():
    data = data_of({"x": ["1", "0", "1.0", "0.0", "NA"] * 4, "y": TWENTY}, kinds={"x": "boolean"})
    assert data.frame["x"].head(5).to_list() == [True, False, True, False, None]
    assert data.notes == ()


def test_numbers_with_a_point_between_thousands_are_refused_where_others_are_whole():
    mixed = ["998", "1.250", "12", "3.400", "501"] * 4
    with pytest.raises(
        BadTable, match=r"column 'x' holds numbers with a point between thousands, as '1.250' in row 2"
    ) as error:
        data_of({"x": mixed, "y": TWENTY})
    assert "beside '998'; write them like 1250, or say that they are decimals: --kind x=number" in str(error.value)
    with pytest.raises(BadTable, match=r"'y' holds numbers with a point between thousands, as '1.250' in row 2"):
        data_of({"x": TWENTY, "y": [*mixed[:-1], "NA"]})
    assert data_of({"x": mixed, "y": TWENTY}, kinds={"x": "number"}).frame["x"][1] == 1.25


@pytest.mark.parametrize(
    "numbers",
    [
        ["998", "1.257", "12", "3.412", "501"],  # as thousandths are written without zeros at their end
        ["998", "0.250", "12", "3.400", "501"],
        ["9998", "1.250", "12", "3.400", "501"],
        ["998", "1.25", "12", "3.400", "501"],
        ["0", "1.250", "0", "3.400", "0"],
        ["2.000", "1.250", "7.125", "3.400", "5.000"],
    ],
)
def test_thousandths_are_numbers(numbers):
    assert data_of({"x": numbers * 4, "y": TWENTY}).frame["x"][1] == float(numbers[1])


def test_columns_that_say_nothing_are_left_out_with_their_reason():
    data = data_of(
        {
            "x": TWENTY,
            "empty": [None] * 20,
            "same": ["k"] * 20,
            "name": [f"n{number}" for number in range(20)],
            "id": [str(number) for number in range(20)],
            "y": TWENTY,
        }
    )
    assert list(data.kinds) == ["x"]
    assert data.notes == (
        "column 'empty' is empty and is left out",
        "column 'same' is 'k' in every row and is left out",
        "column 'name' is distinct in nearly every row (an id or free text) and is left out",
        "column 'id' numbers the rows and is left out",
    )


def test_many_columns_that_say_nothing_are_left_out_in_one_sentence():
    columns = {f"x{number}": [str(number)] * 20 for number in range(30)}
    data = data_of({"x": TWENTY, **columns, "empty": [None] * 20, "y": TWENTY})
    same, empty = data.notes
    names = ", ".join(f"'x{number}'" for number in range(20))
    assert same == f"30 columns are the same in every row and are left out: {names} and 10 more"
    assert empty == "column 'empty' is empty and is left out"


def test_dates_without_hyphens_are_numbers_and_said_to_be_dates():
    days = pl.date_range(dt.date(1999, 11, 20), dt.date(2000, 1, 31), eager=True)
    together = days.dt.strftime("%Y%m%d").to_list()
    y = [str(k / 7) for k in range(len(together))]
    data = data_of({"d": together, "y": y})
    assert data.kinds == {"d": "number"}
    told = "column 'd' holds dates like 19991120 and counts as a number, which leaps from month to month"
    assert data.notes == (f"{told}; write them like 2024-05-31",)
    assert data_of({"d": together, "y": y}, kinds={"d": "number"}).notes == ()
    assert data_of({"d": [*together[:-1], "20000132"], "y": y}).notes == ()


@pytest.mark.parametrize(
    ("target", "task", "classes"),
    [
        (["a", "b"] * 20, "binary", ("a", "b")),
        (["true", "false"] * 20, "binary", (False, True)),
        (["0", "1"] * 20, "binary", (0, 1)),
        (["1.0", "2.0"] * 20, "binary", (1, 2)),
        (["3", "5", "4"] * 10, "multiclass", (3, 4, 5)),
        ([str(i) for i in range(30)], "regression", None),
        (["0.5", "1.5"] * 10, "regression", None),
    ],
)
def test_the_task_is_inferred_and_labels_keep_their_type(target, task, classes):
    data = data_of({"x": [str(i % 7) for i in range(len(target))], "y": target})
    assert (data.task, data.classes) == (task, classes)
    assert classes is None or [type(label) for label in data.classes or ()] == [type(label) for label in classes]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"x": TWENTY, "Y": TWENTY}, r"target 'y' is no column; did you mean Y\?"),
        ({"x": TWENTY, "price": TWENTY}, r"target 'y' is no column; there are price, x"),
        ({"Report 2023": TWENTY}, r"target 'y' is no column; there is only Report 2023"),
        ({"": TWENTY}, r"target 'y' is no column$"),
        ({"x": TWENTY, "y": ["5"] * 20}, r"target 'y' is 5 in every row; there is nothing to learn"),
        ({"x": TWENTY, "y": [None] * 20}, r"0 of 20 rows have a target; training needs at least 10"),
        ({"x": ["1"], "y": ["2"]}, r"1 of 1 rows have a target; training needs at least 10"),
        ({"y": TWENTY}, r"no column is left to predict 'y' from"),
        ({"x": ["k"] * 20, "y": TWENTY}, r"no column is left .* \(column 'x' is 'k' in every row and is left out\)"),
        ({"x": TWENTY, "y": [f"n{i}" for i in range(20)]}, r"target 'y' has 20 distinct values in 20 rows; too many"),
        ({"x": TWENTY, "y": [f"2024-01-{i + 1:02}" for i in range(20)]}, r"target 'y' holds datetimes"),
        ({"x": TWENTY, "y": [*TWENTY[:19], "wide"]}, r"column 'y' holds numbers, but row 20 has 'wide'"),
        ({"x": TWENTY, "y": [*TWENTY[:19], "1e999"]}, r"column 'y', row 20: the number is infinite"),
    ],
)
def test_a_target_that_cannot_be_learned_is_refused(columns, reason):
    with pytest.raises(BadTable, match=reason):
        data_of(columns)


@pytest.mark.parametrize("key", ["drop", "kinds", "units"])
def test_a_plan_that_names_no_column_is_refused(key):
    named = ["xx"] if key == "drop" else {"xx": "number"}
    with pytest.raises(BadTable, match=rf"{key} 'xx' is no column"):
        data_of({"x": TWENTY, "y": TWENTY}, **{key: named})


def test_a_task_that_the_target_does_not_allow_is_refused():
    table = texts({"x": TWENTY, "y": ["a", "b", "c", "a"] * 5, "z": TWENTY})
    for fields, reason in (
        ({"target": ["y"], "task": "regression"}, "holds texts; a regression needs numbers"),
        ({"target": ["y"], "task": "binary"}, "has 3 classes; a binary classification has 2"),
        ({"target": ["y", "z"], "task": "multiclass"}, "has one target, not 2"),
    ):
        plan = Plan.of({"name": "m", "table": {"path": "t.csv"}, **fields}, "test")
        with pytest.raises(BadTable, match=reason):
            read_columns(table, plan)


@pytest.mark.parametrize(
    "moments",
    [
        pl.Series([0, 253_402_300_800_000]).cast(pl.Datetime("ms")),
        pl.Series([0, 2**60]).cast(pl.Datetime("ms")),  # of which polars can make no microseconds
        pl.Series([0, -62_135_596_800_000_001]).cast(pl.Datetime("us")),
        pl.Series([0, 2**62]).cast(pl.Datetime("us", "Asia/Kolkata")),
        pl.Series([0, 2**31 - 1], dtype=pl.Int32).cast(pl.Date),
    ],
)
@pytest.mark.parametrize("kind", [None, "category"])
def test_a_moment_that_no_request_could_send_is_refused_with_its_row(moments, kind):
    with pytest.raises(BadTable, match="column 'sold', row 8: the moment is beyond the years 1 to 9999; correct it"):
        typed_column(moments.alias("sold"), kind, pl.Series([7, 8]), "t", is_text=False, notes=[])


def test_the_first_and_the_last_moment_are_read():
    ends = [-62_135_596_800_000_000, 253_402_300_799_999_999]
    for moments in (pl.Series(ends).cast(pl.Datetime("us")), pl.Series([-719_162, 2_932_896]).cast(pl.Date)):
        kind, values = typed_column(moments, None, pl.Series([1, 2]), "t", is_text=False, notes=[])
        assert (kind, values.dt.year().to_list()) == ("datetime", [1, 9999])


def test_nan_is_a_missing_boolean_as_it_is_in_a_request():
    told = typed_column(
        pl.Series([1.0, 0.0, float("nan")]), "boolean", pl.Series([1, 2, 3]), "t", is_text=False, notes=[]
    )
    assert told[1].to_list() == [True, False, None]


def test_a_category_of_32_bits_is_what_a_csv_would_have():
    column = pl.Series("c", [0.1, 3.0, 2.0**31, 1e-7, None, float("nan"), 0.1], dtype=pl.Float32)
    _, values = typed_column(column, "category", pl.Series(range(7)), "t", is_text=False, notes=[])
    assert values.to_list() == ["0.1", "3", "2147483648", "1e-07", None, None, "0.1"]


def test_blanks_are_the_same_to_the_trainer_and_to_a_request():
    letters = pl.Series([chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000])
    assert set(letters.filter(letters.str.strip_chars() == "")) == set(BLANKS)


def test_nobody_is_told_to_leave_out_the_target():
    with pytest.raises(BadTable, match=r"column 'y' holds amounts of money, .* a command$"):
        data_of({"x": TWENTY, "y": [f"${number}" for number in range(20)]})


@pytest.mark.parametrize("kinds", [{}, {"a b": "category"}])
def test_columns_of_no_kind_are_refused_together(kinds):
    table = Table(pl.DataFrame({"a b": [[1], [2]], "c": [b"1", b"2"], "y": [1.5, 2.5]}), "0" * 64, "t.parquet")
    plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t.parquet", "kinds": kinds}}, "test")
    with pytest.raises(BadTable, match=r"'a b' is of type List, .* --drop 'a b' leaves it out; refused as well: 'c'"):
        read_columns(table, plan)


@pytest.mark.parametrize(
    "texts",
    [
        ["2020-01-05", "2020-02-30", None, "2021-12-31", "0000-01-01"],
        ["2020-01-05T00:00:01", "2020-02-29 25:00:00", None, "2021-12-31 23:59:59", "2020-01-01T23:59:60"],
        ["2020-01-05T00:00:01.1", "2020-02-20 05:00:00.123456", None],
    ],
)
def test_moments_of_one_form_are_read_as_among_other_forms(texts):
    alone = cells._read_datetimes(pl.Series(texts)).to_list()
    assert alone[0] is not None
    assert cells._read_datetimes(pl.Series([*texts, "2020-01-01T01:01Z"])).to_list()[:-1] == alone


def test_what_is_done_once_for_each_distinct_value_is_done_for_all_rows():
    asked = []
    texts = pl.Series(["a", None, "b", "a"])
    assert of_distinct(
        texts, lambda values: asked.extend(values) or [value * 2 for value in values], pl.String
    ).to_list() == ["aa", None, "bb", "aa"]
    assert sorted(asked) == ["a", "b"]
    assert of_distinct(pl.Series([None, None], dtype=pl.String), len, pl.Float64).to_list() == [None, None]


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("0,5", "numbers with a decimal comma or marks between thousands"),
        ("1,234", "numbers with a decimal comma or marks between thousands"),
        ("1,5E+03", "numbers with a decimal comma or marks between thousands"),
        ("1.234.567,89", "numbers with a decimal comma or marks between thousands"),
        ("-1 234 567", "numbers with a decimal comma or marks between thousands"),
        ("12.50-", "negative numbers with another sign"),
        ("12.5 %", "percentages"),
        ("$5.00", "amounts of money"),
        ("1.234,00 \u20ac", "amounts of money"),
        ("31.12.2024", "dates"),
        ("12/31/2024 09:30", "dates"),
        ("2024/1/5", "dates"),
    ],
)
def test_numbers_and_dates_that_no_request_could_send_are_refused_unless_named_categories(written, what):
    table = {"a": [written] * 17 + [None, "NA", "other"], "b": TWENTY, "y": TWENTY}
    with pytest.raises(
        BadTable, match=rf"column 'a' holds {what}, as '.*' in row 1; write .*--kind a=category"
    ) as error:
        data_of(table)
    assert repr(written)[1:-1] in str(error.value) or written in str(error.value)
    assert data_of(table, kinds={"a": "category"}).kinds["a"] == "category"


@pytest.mark.parametrize(
    "texts", [["1-2", "3-4"], ["v1.2.3", "v1.2.4"], ["10.0.0.1", "10.0.0.2"], ["007", "008"], ["S", "M"]]
)
def test_texts_that_only_look_like_numbers_stay_categories(texts):
    data = data_of({"a": texts * 10, "b": TWENTY, "y": TWENTY})
    assert data.kinds["a"] == "category"


@pytest.mark.parametrize(
    ("values", "kind", "instead"),
    [
        ([1_700_000_000 + number for number in range(20)], "datetime", "is of type Int64 and cannot be a datetime"),
        ([float(number) for number in range(20)], "datetime", "is of type Float64 and cannot be a datetime"),
        ([dt.date(2024, 1, 1 + number) for number in range(20)], "number", "is of type Date and cannot be a number"),
        ([dt.time(number, 3) for number in range(20)], "number", "is of type Time and cannot be a number"),
        ([dt.timedelta(hours=number) for number in range(20)], "number", "is of type Duration and cannot be a number"),
    ],
)
def test_a_kind_that_no_request_could_send_is_refused(values, kind, instead):
    frame = pl.DataFrame({"x": values, "y": range(20)}).with_columns(pl.col("y") / 8)
    plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t.parquet", "kinds": {"x": kind}}}, "test")
    with pytest.raises(BadTable, match=f"column 'x' {instead}; write "):
        read_columns(Table(frame, "0" * 64, "t.parquet"), plan)


def test_a_target_of_a_parquet_file_that_holds_numbers_as_texts_is_said_so():
    frame = pl.DataFrame({"x": range(20), "y": TWENTY})
    plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t.parquet"}}, "test")
    with pytest.raises(BadTable, match="too many classes; --kind y=number takes these texts as numbers"):
        read_columns(Table(frame, "0" * 64, "t.parquet"), plan)
    classes = plan.model_copy(update={"task": "multiclass"})
    with pytest.raises(BadTable, match=r"too many classes$"):  # these are no texts
        read_columns(Table(frame.with_columns(y=pl.Series(range(20)) / 8), "0" * 64, "t.parquet"), classes)
    few = Table(frame.with_columns(y=pl.Series(["1", "2"] * 10)), "0" * 64, "t.parquet")
    assert "column 'y' holds numbers as texts, which are categories; --kind y=number takes them as numbers" in (
        read_columns(few, plan).notes
    )
