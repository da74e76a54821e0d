"""What the cells of a column say: as texts of a CSV, numbers, booleans, moments and categories, and which are missing.

A cell that is empty is missing. NA, N/A, #N/A, NaN, null, None and ? (in any case) are missing in a target and in
number, boolean and datetime columns; in a category column they are categories like any other, so that a request which
says "NA" means the same as the table did. Blanks around a value do not count.
"""

from collections.abc import Callable
from datetime import datetime

import polars as pl

from models.csv_file import BOOLEANS, MISSING, BadTable
from models.errors import shown
from models.features import PLAIN_NUMBER, category_text_of_cell
from models.moments import ISO_8601
from training.plan import Kind

TEXTS = (pl.String, pl.Categorical, pl.Enum)
_ISO = f"^{ISO_8601}$"


def without_blanks(column: pl.Series) -> pl.Series:
    """Its texts without blanks around them, null where nothing is left."""
    texts = column.cast(pl.String).str.strip_chars()
    return texts.set(texts == "", None)


def without_spelled_missing(texts: pl.Series) -> pl.Series:
    """The texts with null for those of `MISSING`."""
    short = texts.filter(texts.str.len_bytes() <= max(map(len, MISSING))).unique()
    spelled = short.filter(short.str.to_lowercase().is_in(list(MISSING)))
    return texts.set(texts.is_in(spelled.to_list()), None) if len(spelled) else texts


def category_texts(texts: pl.Series, *, is_text: bool) -> pl.Series:
    """The texts without blanks around them, null where nothing is left.

    A CSV's 3 and 3.0 are one category, as they are in JSON: a number that is a category has its canonical text.
    """
    distinct = texts.drop_nulls().unique()
    stripped = distinct.str.strip_chars()
    meant = stripped.set(stripped == "", None)
    if is_text:
        numbers = meant.filter(meant.str.contains(f"^{PLAIN_NUMBER}$").fill_null(value=False))
        canonical = [category_text_of_cell(text) for text in numbers]
        meant = meant.replace(numbers, pl.Series(canonical, dtype=pl.String)) if len(numbers) else meant
    return texts if meant.equals(distinct) else texts.replace(distinct, meant)


def read_numbers(texts: pl.Series) -> pl.Series:
    """Int64 where all are whole, else Float64; null for what is no number."""
    first = texts.head(100)  # says of most columns that they are not all whole
    if first.cast(pl.Int64, strict=False).null_count() == first.null_count():
        whole = texts.cast(pl.Int64, strict=False)
        if whole.null_count() == texts.null_count():
            return whole
    values = texts.cast(pl.Float64, strict=False)
    return values.set(values.is_nan(), None)


def _read_booleans(texts: pl.Series) -> pl.Series:
    lower = texts.str.to_lowercase()
    known = lower.is_in(["true", "false"])
    return (lower == "true").set(~known, None)


def _read_told_booleans(texts: pl.Series) -> pl.Series:
    """The same where it is known that they are booleans: then 1 and 0 are, too, as in requests."""
    return texts.str.to_lowercase().replace_strict(BOOLEANS, default=None, return_dtype=pl.Boolean)


def _read_datetimes(texts: pl.Series) -> pl.Series:
    """Moments in UTC, of the texts that are moments in requests."""
    is_iso = texts.str.contains(_ISO)
    form = _form_of(texts) if is_iso.all() else None
    if form is not None:
        moments = texts.str.replace(" ", "T", literal=True).str.to_datetime(form, strict=False, time_unit="us")
        return _within_years(moments)
    texts = texts.set(~is_iso, None).str.replace(",", ".", literal=True)
    parts = texts.str.extract_groups(
        r"^(?<day>\d{4}-\d{2}-\d{2})[T ]?(?<minute>\d{2}:\d{2})?:?(?<second>\d{2}(?:\.\d+)?)?"
        r"(?<offset>Z|[+-]\d{2}(?::?\d{2})?)?$"
    ).struct.unnest()
    offset = (
        parts["offset"].fill_null("+0000").str.replace("Z", "+0000", literal=True).str.replace(":", "", literal=True)
    )
    offset = offset.str.replace(r"^([+-]\d{2})$", "${1}00")
    second = parts["second"].fill_null("00").str.head(9)  # microseconds, as requests are read
    whole = parts["day"] + " " + parts["minute"].fill_null("00:00") + ":" + second + offset
    moments = whole.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", strict=False, time_unit="us", time_zone="UTC")
    return _within_years(moments.dt.replace_time_zone(None).alias(texts.name))


def _within_years(moments: pl.Series) -> pl.Series:
    """The moments of the years that Python's datetimes have, and with them requests; null for others."""
    is_far = ~moments.is_between(datetime.min, datetime.max).fill_null(value=True)  # noqa: DTZ901 - in UTC, as documented
    return moments.set(is_far, None) if is_far.any() else moments


def _form_of(texts: pl.Series) -> str | None:
    """The form that all of a column's ISO 8601 texts have, in which they are read in a quarter of the time."""
    lengths = texts.str.len_bytes()
    shortest, longest = lengths.min(), lengths.max()
    if shortest == longest == 10:
        return "%Y-%m-%d"
    if shortest == longest == 19:
        return "%Y-%m-%dT%H:%M:%S"
    if texts.str.contains(r"^.{19}\.\d{1,6}$").all():  # null is passed over, by all three
        return "%Y-%m-%dT%H:%M:%S%.f"
    return None


READERS: dict[Kind, Callable[[pl.Series], pl.Series]] = {
    "boolean": _read_booleans,
    "number": read_numbers,
    "datetime": _read_datetimes,
}
"""What reads the texts of a kind; null for those that are none of it."""
TOLD = READERS | {"boolean": _read_told_booleans}
"""The same where the plan says the kind."""


def finite(values: pl.Series, rows: pl.Series, place: str) -> pl.Series:
    """The values, of which none is NaN.

    Raises:
        BadTable: a value is infinite, as 1e400 is.
    """
    if not values.dtype.is_float() or values.is_finite().all():
        return values
    wrong = values.is_infinite().fill_null(value=False)
    if wrong.any():
        first = wrong.arg_max()
        assert first is not None
        raise BadTable(place, f"column {shown(values.name)}, row {rows[first]}: the number is infinite; correct it")
    return values


def is_whole(values: pl.Series) -> bool:
    """Whether all are whole numbers that a float64 has exactly."""
    if values.dtype.is_integer():
        return True
    return values.dtype.is_float() and bool((values == values.round()).all()) and bool((values.abs() < 2**53).all())


def plain_value(value: object) -> object:
    """A value of a column as JSON has it, or else its text."""
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
