"""The kinds of features, and how the values of one become columns of the matrix: what nothing has to learn.

A number passes, a missing value is NaN, a category is its index, a category nobody trained on is the reserved index, a
datetime is its parts (`models/moments.py`).
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, NoReturn, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models import moments
from models.errors import BadRow, shown

Share = Annotated[float, Field(ge=0, le=1)]

Values = Sequence[object] | npt.NDArray[Any]
"""The values of one feature, row by row: a list, a tuple or a one-dimensional array."""

Line = Sequence[Any] | npt.NDArray[np.float64]
"""One column of the matrix as numpy reads it: floats, integers, booleans, and None for NaN."""

Reader = tuple[frozenset[type], Mapping[str | None, float] | None]
"""The types of a feature's plain values; for a category, its index by text, while other values stand for themselves."""

BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""What does not count around the text of a category: Unicode's White_Space, as for polars. Python's own `strip` takes
four separators more, U+001C to U+001F."""

PLAIN_NUMBER = r"[+-]?(0|[1-9][0-9]*)(\.[0-9]+)?"
"""A number in a CSV that is known as a category by its value: not 007, nor 1e3."""

_NONE = type(None)
NUMBERS: frozenset[type] = frozenset({float, int, _NONE})
"""The types of plain numbers."""


class _Feature(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1, max_length=500)]
    """The column of the table."""
    missing_share: Share = 0.0
    """Share of training rows in which the value was missing."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the matrix columns that this feature fills."""
        return (self.name,)

    @property
    def reader(self) -> Reader | None:
        """How plain values are read one by one; None where all of them take looking at."""
        return None

    def lines(self, values: Values) -> Sequence[Line]:
        """The values as matrix columns, one line each; whether they are finite is seen when all lines are stacked.

        Raises:
            BadRow: a value is of the wrong kind.
        """
        raise NotImplementedError

    def refuse(self, row: int, expected: str, got: object) -> NoReturn:
        """Raise what says of one value what is expected instead."""
        raise BadRow(row, self.name, expected, shown(got))


class NumberFeature(_Feature):
    """A real number. Its column holds the number itself."""

    kind: Literal["number"] = "number"
    unit: str | None = None
    """For people."""
    quantiles: tuple[float, ...] = ()
    """Training quantiles at i / (len - 1): the first is the minimum, the last the maximum; empty if all was missing."""

    @property
    def reader(self) -> Reader:
        """Numbers and null stand for themselves."""
        return NUMBERS, None

    def lines(self, values: Values) -> Sequence[Line]:
        """The numbers, one line."""
        if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
            return (values.astype(np.float64),)
        if NUMBERS.issuperset(map(type, values)):
            return (values,)
        return ([self._number(row, value) for row, value in enumerate(values)],)

    def _number(self, row: int, value: object) -> float:
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            self.refuse(row, "must be a number", value)
        return as_float(value)


class CategoryFeature(_Feature):
    """One of a known set of texts. Its column holds the index in `categories`; `len(categories)` means unknown."""

    kind: Literal["category"] = "category"
    categories: tuple[str, ...]
    """The known texts, in the order of their index."""
    shares: tuple[Share, ...] = ()
    """Share of each category among the training rows that have one; in the order of `categories`."""

    @model_validator(mode="after")
    def _is_a_set(self) -> Self:
        if len(set(self.categories)) != len(self.categories):
            raise ValueError(f"feature {shown(self.name)} names a category twice")
        if self.shares and len(self.shares) != len(self.categories):
            raise ValueError(f"feature {shown(self.name)} has {len(self.shares)} shares")
        return self

    @cached_property
    def _index(self) -> "_Index":
        return _Index(self.categories)

    @property
    def reader(self) -> Reader:
        """Texts and null are looked up."""
        return frozenset({str, _NONE}), self._index

    def lines(self, values: Values) -> Sequence[Line]:
        """The indices, one line; what is no list or object is known by its `category_text`."""
        index = self._index
        try:
            return (list(map(index.__getitem__, values)),)
        except (KeyError, TypeError):  # there is more than texts; the second for what cannot be looked up
            return ([index[self._text(row, value)] for row, value in enumerate(values)],)

    def _text(self, row: int, value: object) -> str | None:
        if isinstance(value, list | tuple | Mapping | np.ndarray):
            self.refuse(row, "must be a text", value)
        text = category_text(value)
        if isinstance(value, float | np.floating) and text not in self._index:
            with np.errstate(over="ignore"):
                single = np.float32(value)
            if float(single) == value:  # 0.10000000149011612, as JSON has the 0.1 of a column of float32
                return category_text(single)
        return text


class _Index(dict[str | None, float]):
    """Text to index; every other text has the index of what is unknown, and None is missing.

    Blanks around a text do not count, and a text without anything else is missing, unless the text with its blanks is a
    category itself: so the trainer reads tables.
    """

    def __init__(self, categories: Sequence[str]) -> None:
        super().__init__((category, float(index)) for index, category in enumerate(categories))
        self[None] = math.nan
        self._unknown = float(len(categories))

    def __missing__(self, value: object) -> float:
        if not isinstance(value, str):
            raise KeyError(value)
        meant = value.strip(BLANKS)
        return self.get(meant or None, self._unknown)


class BooleanFeature(_Feature):
    """True or false. Its column holds 1 or 0."""

    kind: Literal["boolean"] = "boolean"
    true_share: Share | None = None
    """Share of true among the training rows that have a value."""

    @property
    def reader(self) -> Reader:
        """Booleans and null stand for themselves."""
        return frozenset({bool, _NONE}), None

    def lines(self, values: Values) -> Sequence[Line]:
        """The values as 1 and 0, one line; the numbers 0 and 1 count as booleans."""
        if set(map(type, values)) <= {bool, _NONE}:
            return (values,)
        return ([self._bit(row, value) for row, value in enumerate(values)],)

    def _bit(self, row: int, value: object) -> float:
        if _is_missing(value):
            return math.nan
        if not isinstance(value, bool | np.bool_ | int | float | np.integer | np.floating) or value not in (0, 1):
            self.refuse(row, "must be true or false", value)
        return float(value)


class DatetimeFeature(_Feature):
    """A moment or a date, as ISO 8601 text. Its columns hold `moments.PARTS`.

    A text with an offset is converted to UTC; one without is taken as UTC.
    """

    kind: Literal["datetime"] = "datetime"
    quantiles: tuple[float, ...] = ()
    """Training quantiles in days since 1970-01-01, as for a number."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the matrix columns that this feature fills."""
        return tuple(f"{self.name}.{part}" for part in moments.PARTS)

    def lines(self, values: Values) -> Sequence[Line]:
        """The parts, four lines; dates and datetimes of Python and numpy are read like their text."""
        if isinstance(values, np.ndarray) and values.dtype.kind == "M":
            lines = moments.lines_of(values)
            if lines is not None:
                return lines
            values = moments.python_datetimes(values)
        parts = [self._parts(row, value) for row, value in enumerate(values)]
        return list(zip(*parts, strict=True)) if parts else [()] * len(moments.PARTS)

    def _parts(self, row: int, value: object) -> tuple[float, float, float, float]:
        if _is_missing(value):
            return (math.nan,) * 4
        try:
            return moments.parts_of(value)
        except (TypeError, ValueError, OverflowError):
            self.refuse(row, "must be an ISO 8601 date or datetime, like '2024-05-31T09:30:00'", value)


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))


def as_float(value: Any) -> float:
    """A number as Python's float; infinite where it is beyond their range."""
    try:
        return float(value)
    except OverflowError:  # an integer beyond 1.8e308
        return math.inf if value > 0 else -math.inf


Feature = Annotated[
    NumberFeature | CategoryFeature | BooleanFeature | DatetimeFeature,
    Field(discriminator="kind"),
]


def category_text(value: object) -> str | None:
    """The text by which a value is known as a category; None if it is missing.

    A whole number is its decimal digits whether it comes as 3 or 3.0, true is "true": CSV, Parquet and JSON agree.
    From 2^64 on, where readers of JSON begin to differ, a number is the text of its float64. A smaller float of numpy's
    is what a person would write for it, 0.1 and not 0.10000000149011612.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value)) if abs(int(value)) < 2**64 else repr(as_float(value))
    if isinstance(value, float | np.floating):
        number = float(value)
        if math.isnan(number):
            return None
        is_whole = abs(number) < 2**64 and number.is_integer()
        return str(int(number)) if is_whole else repr(number if isinstance(value, float) else float(str(value)))
    return str(value)


_is_plain_number = re.compile(PLAIN_NUMBER).fullmatch
_MOST_DIGITS = 20  # of a whole number below 2^64


def category_text_of_cell(cell: str) -> str | None:
    """The text by which a cell of a CSV, without blanks around it, is known as a category; None if nothing is left.

    A CSV does not say which of its texts are numbers: 3, 3.0 and +3 are one category there, as they are in JSON.
    """
    if not _is_plain_number(cell):
        return cell or None
    is_whole = "." not in cell and len(cell.lstrip("+-")) <= _MOST_DIGITS
    return category_text(int(cell) if is_whole else float(cell))
