"""Which kind a column is, and its values as that kind.

Inferred once, stated in the schema, overridden by the plan. In a CSV a column is

* boolean where every value is true or false (1 and 0 as well where the plan says boolean);
* a number where every value is one, unless one is written with a leading zero, like the codes 007 or 01234;
* a datetime where every value is an ISO 8601 date or datetime;
* otherwise a category.

What is nearly one of these, or one of them in a form that no request can send, is refused. A Parquet file says itself
what its columns are; its texts are categories, unless all of a column are datetimes.
"""

import json
import re
from collections.abc import Callable

import numpy as np
import polars as pl

from models import moments
from models.csv_file import BadTable
from models.errors import shown
from models.features import category_text
from training.data.cells import (
    READERS,
    TEXTS,
    TOLD,
    category_texts,
    finite,
    plain_value,
    read_numbers,
    without_blanks,
    without_spelled_missing,
)
from training.data.distinct import of_distinct
from training.plan import Kind
from training.sentences import kind_option

MOSTLY = 0.8
"""Share of a column's values from which the others are taken for mistakes: refused, never read as categories."""
SOME = 0.05
"""Share of a column's values in another form, from which plain numbers beside them are taken for more of the same."""
MOST_MARKS = 2
"""Texts that may stand for a missing value, as - does, in a column of more than `FEW_WHOLE_NUMBERS` values."""
FEW_WHOLE_NUMBERS = 20
"""A target of at most this many distinct whole numbers, each ten times on average, is a class; so are any two."""
_CODE = r"^[+-]?0\d"
_MONEY = r"[A-Z]{0,2}\p{Sc}|USD|EUR|GBP|CHF|JPY"
_AMOUNT = r"\d[\d.,' \u00a0\u2009\u202f]*"
_DAY = r"(0?[1-9]|[12]\d|3[01])"
_MONTH = r"(jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]*\.?"
_WEEKDAY = r"((?i:mon|tue|wed|thu|fri|sat|sun)[a-z]*,? )?"
_SPELLED = rf"{_WEEKDAY}({_DAY}[ -](?i:{_MONTH})[ -]\d{{2,4}}|(?i:{_MONTH}) {_DAY},? \d{{4}})"
_OTHER_FORMS = {
    r"^[+-]?(\d{1,3}([ ,.'\u00a0\u2009\u202f]\d{3})+([.,]\d+)?|\d+,\d+([eE][+-]?\d+)?)$": (
        "numbers with a decimal comma or marks between thousands",
        "them like 1234.5",
    ),
    r"^(\u2212\d[\d.,]*|\(\d[\d.,]*\)|\d[\d.,]*-)$": ("negative numbers with another sign", "them like -1234.5"),
    r"^[+-]?\d+([.,]\d+)?\s?%$": ("percentages", "them as numbers without the sign"),
    rf"^[(+-]?({_MONEY})\s?[+-]?{_AMOUNT}\)?$|^[(+-]?{_AMOUNT}({_MONEY})\)?$": (
        "amounts of money",
        "them as numbers without the sign",
    ),
    r"^(\d{4}[/.-]\d{1,2}[/.-]\d{1,2}|\d{1,2}[/.-]\d{1,2}[/.-]\d{4}|"
    rf"{_DAY}[/.-]{_DAY}[/.-]\d\d|{_SPELLED})([T ].*)?$": (
        "dates",
        "them like 2024-05-31 or 2024-05-31T09:30:00",
    ),
    r"^\d{1,2}:\d\d(:\d\d(\.\d+)?)?(\s?(?i:[ap]\.?m\.?))?$": ("times of day", "them as numbers, like hours"),
    r"^-?\d+ days?,? [+-]?\d{1,2}:\d\d(:\d\d(\.\d+)?)?$": ("durations", "them as numbers, like hours"),
}
"""What a CSV may hold that is meant as a number or a moment, and that no request could send as one."""
_OTHER_FORMS_OF_MANY = {
    r"^(-?P(\d+[DW]|T)[\d.DHMST]*|(\d+\s?(d|h|m|min|s)\s?){2,4})$": ("durations", "them as numbers, like hours"),
    r"^([<>]=?|[\u2264\u2265~\u2248])\s?[+-]?\d[\d.,]*$": ("numbers behind a comparison", "them as numbers alone"),
    rf"^[+-]?({_MONEY})?\s?\d[\d.,]*\s?([kKmMbB]|[Mm]io|[Bb]n)\.?$": (
        "numbers with letters for thousands and millions",
        "them as whole numbers",
    ),
}
"""The same where a column has more than `FEW_WHOLE_NUMBERS` values: fewer may well be classes, like <1, 2 and 5k."""
_THOUSANDS = r"^[+-]?[1-9]\d{0,2}\.\d{3}$"
_BELOW_A_THOUSAND = r"^[+-]?(0|[1-9]\d{0,2})$"
_FEWEST_BELOW = 3
_WITH_UNIT = r"^[+-]?\d[\d.,]*\s?([A-Za-z\u00b0\u00b5/]+[\u00b2\u00b3]?)$"


def typed_column(
    column: pl.Series, wanted: Kind | None, rows: pl.Series, place: str, *, is_text: bool, notes: list[str]
) -> tuple[Kind, pl.Series]:
    """The kind of a column and its values: Float64 or Int64, Boolean, String, or Datetime in UTC.

    `wanted` is the plan's kind, `rows` numbers the values in errors, `is_text` says that the table is a CSV.

    Raises:
        BadTable: a value is of another kind than the others, or infinite, or no kind fits.
    """
    if column.dtype in TEXTS:
        texts = column.cast(pl.String)
        if wanted == "number" or (wanted is None and is_text):
            numbers = plain_numbers(texts, is_certain=wanted is not None)
            if numbers is not None:
                if wanted is None:
                    _refuse_thousands(texts, rows, place)
                return "number", finite(numbers, rows, place)
        kind = wanted or (None if is_text else _kind_of_texts(texts, rows, notes))
        if kind != "category":
            texts = without_blanks(texts)
            if kind is None:
                kind = _inferred(texts, rows, place, notes)
                if kind == "number":
                    _refuse_thousands(texts, rows, place)
        if kind == "category":
            return kind, category_texts(texts, is_text=is_text)
        return kind, from_texts(texts, kind, rows, place, notes)
    kind = (wanted if not _is_compound(column.dtype) else None) or _kind_of_dtype(column, place)
    if isinstance(column.dtype, pl.Date | pl.Datetime):
        _check_years(column, rows, place)
    return kind, _from_values(column, kind, rows, place)


def plain_numbers(texts: pl.Series, *, is_certain: bool) -> pl.Series | None:
    """The numbers of a column whose every cell is null or plainly one, which most columns of a CSV are; None of others.

    What is said of cells below takes five passes over the texts; this is one.
    """
    if read_numbers(texts.head(1000)).null_count() > texts.head(1000).null_count():
        return None
    if texts.null_count() == len(texts) or (not is_certain and texts.str.contains(_CODE).any()):
        return None
    numbers = read_numbers(texts)
    return numbers if numbers.null_count() == texts.null_count() else None


def _kind_of_texts(texts: pl.Series, rows: pl.Series, notes: list[str]) -> Kind:
    """What texts are whose column says that they are texts; a note tells of those that a CSV would be refused for."""
    if _are_datetimes(texts):
        return "datetime"
    if plain_numbers(texts, is_certain=False) is not None:
        notes.append(
            f"column {shown(texts.name)} holds numbers as texts, which are categories; "
            f"{kind_option(texts.name, 'number')} takes them as numbers"
        )
        return "category"
    try:
        _inferred(without_blanks(texts), rows, "", [])
    except BadTable as error:
        told = error.reason.partition("; ")[0]
        notes.append(f"{told}; its type says text, so all of it are categories")
    return "category"


def _are_datetimes(texts: pl.Series) -> bool:
    """Whether all are ISO 8601 dates or datetimes, as programs leave them that read a CSV and write Parquet."""
    read = READERS["datetime"]
    for part in (texts.head(1000), texts):
        values = without_spelled_missing(without_blanks(part)).drop_nulls()
        if not values.len() or read(values).null_count():
            return False
    return True


def _inferred(texts: pl.Series, rows: pl.Series, place: str, notes: list[str]) -> Kind:
    values = without_spelled_missing(texts).drop_nulls()
    if values.len() == 0:
        return "category"
    sample = values.head(1000)  # most columns are known by their first values; the whole column then has to agree
    for kind, read in READERS.items():
        if _share_read(read, sample) == 0 and sample.len() == 1000:
            continue
        share = _share_read(read, values)
        if kind == "number" and share > 0 and values.str.contains(_CODE).any():
            if share == 1 and values.str.len_chars().n_unique() > 1:  # most codes are of one length
                first = texts.str.contains(_CODE).fill_null(value=False).arg_max()
                assert first is not None
                notes.append(
                    f"column {shown(texts.name)} has a number with a leading zero ({shown(texts[first])} in row "
                    f"{rows[first]}) and counts as codes, a category; {kind_option(texts.name, 'number')} takes them "
                    "as numbers"
                )
            return "category"
        if share == 1:
            return kind
        if share >= MOSTLY or (share > 0 and _are_marks(values.filter(read(values).is_null()), values)):
            _refuse_odd_one(texts, kind, rows, place)
    _refuse_other_forms(texts, values, rows, place)
    return "category"


def _are_marks(odd: pl.Series, values: pl.Series) -> bool:
    """Whether the values that cannot be read say no more than that others are missing."""
    marks = odd.n_unique()
    return marks <= MOST_MARKS and values.n_unique() - marks > FEW_WHOLE_NUMBERS


def _refuse_other_forms(texts: pl.Series, values: pl.Series, rows: pl.Series, place: str) -> None:
    """Numbers and dates as people write them, which would be thousands of categories that say nothing."""
    sample = values.head(1000)
    forms = dict(_OTHER_FORMS)
    if values.n_unique() > FEW_WHOLE_NUMBERS:
        units = sample.str.extract(_WITH_UNIT).drop_nulls().mode()
        if len(units):
            forms[rf"^[+-]?\d[\d.,]*\s?{re.escape(units[0])}$"] = "numbers with a unit", "them as numbers alone"
        forms |= _OTHER_FORMS_OF_MANY
    for form, (what, instead) in forms.items():
        if all(_is_mostly(form, part) for part in (sample, values)):
            is_so = texts.str.contains(form).fill_null(value=False)
            is_wrong = is_so & READERS["datetime"](texts).is_null()  # some of the dates may be as they should be
            first = (is_wrong if is_wrong.any() else is_so).arg_max()
            assert first is not None
            name = shown(texts.name)
            raise BadTable(
                place,
                f"column {name} holds {what}, as {shown(texts[first])} in row {rows[first]}; write {instead}, or say "
                f"that its texts are categories: {_as_category(texts.name)}",
            )


def _refuse_thousands(texts: pl.Series, rows: pl.Series, place: str) -> None:
    """Numbers like 1.250 and 3.400 beside 998, which are read as little more than one beside a thousand.

    Programs that write decimals leave out their last zeros, or else write whole numbers with them: 1.25 beside 998, or
    1.250 beside 998.000.
    """
    for part in (texts.head(1000), texts):
        cells = without_spelled_missing(without_blanks(part))
        is_below, is_above = (cells.str.contains(one).fill_null(value=False) for one in (_BELOW_A_THOUSAND, _THOUSANDS))
        if not (is_below | is_above | cells.is_null()).all():
            return
    below, above = cells.filter(is_below), cells.filter(is_above)
    if below.n_unique() < _FEWEST_BELOW or not above.str.ends_with("0").any():
        return
    written = cells[first := int(is_above.arg_max() or 0)]
    raise BadTable(
        place,
        f"column {shown(texts.name)} holds numbers with a point between thousands, as {shown(written)} in row "
        f"{rows[first]} beside {shown(below[0])}; write them like {written.replace('.', '')}, or say that they are "
        f"decimals: {kind_option(texts.name, 'number')}",
    )


def _is_mostly(form: str, values: pl.Series) -> bool:
    is_so = values.str.contains(form)
    if is_so.sum() < SOME * values.len():
        return False
    return (is_so | read_numbers(values).is_not_null()).sum() >= MOSTLY * values.len()


def _share_read(read: Callable[[pl.Series], pl.Series], values: pl.Series) -> float:
    return 1 - read(values).null_count() / values.len()


def _refuse_odd_one(texts: pl.Series, kind: Kind, rows: pl.Series, place: str) -> None:
    cells = without_spelled_missing(texts)
    odd = (cells.is_not_null() & READERS[kind](cells).is_null()).arg_max()
    assert odd is not None
    name, a_kind = texts.name, {"number": "numbers", "boolean": "true and false", "datetime": "datetimes"}[kind]
    raise BadTable(
        place,
        f"column {shown(name)} holds {a_kind}, but row {rows[odd]} has {shown(texts[odd])}; correct it, or say what "
        f"the column is: {_as_category(name)} (as a {kind}, such values count as missing)",
    )


def _as_category(name: str) -> str:
    """How to say that a column is one, in both places where that can be said."""
    key = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
    return f'kinds.{key} = "category" in a plan, {kind_option(name, "category")} in a command'


def from_texts(texts: pl.Series, kind: Kind, rows: pl.Series, place: str, notes: list[str]) -> pl.Series:
    """The values of texts that are of this kind; a note tells of those that are not, and count as missing."""
    cells = without_spelled_missing(texts)
    values = TOLD[kind](cells)
    lost = values.null_count() - cells.null_count()
    if lost:
        first = (cells.is_not_null() & values.is_null()).arg_max()
        assert first is not None
        notes.append(
            f"{lost} values of column {shown(texts.name)} are no {kind} and count as missing "
            f"(first: {shown(texts[first])} in row {rows[first]})"
        )
    return finite(values, rows, place) if kind == "number" else values


def _from_values(column: pl.Series, kind: Kind, rows: pl.Series, place: str) -> pl.Series:
    if column.dtype.is_decimal():
        column = column.cast(pl.Float64)  # so that 1.00 is the category of the 1 that a request sends
    if column.dtype.is_float():
        column = column.fill_nan(None)
    is_moment = isinstance(column.dtype, pl.Date | pl.Datetime)
    if kind == "category":
        in_table = np.float32 if column.dtype == pl.Float32 else plain_value
        return of_distinct(column, lambda values: [category_text(in_table(value)) for value in values], pl.String)
    if (kind == "datetime" and not (is_moment or column.dtype == pl.Null)) or (
        kind == "number" and column.dtype.is_temporal()
    ):  # a cast would take whole numbers for microseconds and dates for days, which no request can send
        instead = "moments in a column of datetimes" if kind == "datetime" else "them as numbers, like days or hours"
        dtype = column.dtype.base_type()
        raise BadTable(place, f"column {shown(column.name)} is of type {dtype} and cannot be a {kind}; write {instead}")
    try:
        if kind == "datetime":
            if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone:
                column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
            return column.cast(pl.Datetime("us"))
        if kind == "boolean":
            if not column.drop_nulls().cast(pl.Float64).is_in([0.0, 1.0]).all():
                raise BadTable(place, f"column {shown(column.name)} cannot be boolean: it holds more than 0 and 1")
            return column.cast(pl.Boolean)
        is_whole = column.dtype.is_integer() and column.dtype != pl.UInt64
        values = column.cast(pl.Int64 if is_whole else pl.Float64)
    except pl.exceptions.PolarsError:
        raise BadTable(place, f"column {shown(column.name)} is {column.dtype} and cannot be a {kind}") from None
    return finite(values, rows, place)


def _check_years(column: pl.Series, rows: pl.Series, place: str) -> None:
    """Refuse what some programs write for infinity, which no request can send.

    Raises:
        BadTable: a moment is beyond the years 1 to 9999.
    """
    in_a_second = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
    in_a_day = 86_400 * in_a_second[column.dtype.time_unit] if isinstance(column.dtype, pl.Datetime) else 1
    first, last = moments.BOUNDS[0]
    wrong = ~(column.to_physical() // in_a_day).is_between(first, last).fill_null(value=True)
    if wrong.any():
        row = rows[wrong.arg_max() or 0]
        raise BadTable(
            place, f"column {shown(column.name)}, row {row}: the moment is beyond the years 1 to 9999; correct it"
        )


def _kind_of_dtype(column: pl.Series, place: str) -> Kind:
    if column.dtype == pl.Boolean:
        return "boolean"
    if column.dtype.is_numeric() or column.dtype == pl.Null:
        return "number"
    if column.dtype in (pl.Date, pl.Datetime):
        return "datetime"
    raise BadTable(
        place,
        f"column {shown(column.name)} is of type {column.dtype.base_type()}, which is no number, text, boolean or "
        "datetime; make it one",
    )


def _is_compound(dtype: pl.DataType) -> bool:
    """Whether no kind makes one value of it."""
    return dtype.is_nested() or dtype in (pl.Binary, pl.Object)
