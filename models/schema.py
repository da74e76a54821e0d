"""What a row is: the features in the order the network reads them, and how a row becomes a line of the matrix.

`Schema.encode` learns nothing. A number passes, a missing value is NaN, a category is its index, a category nobody
trained on is the reserved index, a datetime is its parts. Whatever is learned (imputation, scaling, embeddings) is a
layer of the exported graph, so training and serving, which both call this file, cannot drift apart.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Annotated, Any, Literal, NoReturn, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.errors import BadRow, shown

Matrix = npt.NDArray[np.float32 | np.float64]
"""The rows as the graph reads them, [N, F]."""

Datatype = Literal["FP32", "FP64"]
Share = Annotated[float, Field(ge=0, le=1)]

DATETIME_PARTS = ("day", "second", "weekday", "yearday")
_MICROSECONDS_PER_DAY = 86_400_000_000
_FLOATS: dict[Datatype, type[np.float32] | type[np.float64]] = {"FP32": np.float32, "FP64": np.float64}


class _Feature(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1, max_length=500)]
    missing_share: Share = 0.0
    """Share of training rows in which the value was missing."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the matrix columns that this feature fills."""
        return (self.name,)

    def _refuse(self, row: int, expected: str, got: object) -> NoReturn:
        raise BadRow(row, self.name, expected, shown(got))


class NumberFeature(_Feature):
    """A real number. Its column holds the number itself."""

    kind: Literal["number"] = "number"
    unit: str | None = None
    quantiles: tuple[float, ...] = ()
    """Training quantiles at i / (len - 1): the first is the minimum, the last the maximum; empty if all was missing."""

    def encode(self, values: Sequence[object] | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The values as floats [N], NaN where missing (null or NaN).

        Raises:
            BadRow: a value is no number, or no finite one.
        """
        if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
            column = values.astype(np.float64)
        else:
            column = self._from_objects(values)
        if np.isinf(column).any():
            row = int(np.isinf(column).argmax())
            self._refuse(row, "must be a finite number", values[row])
        return column

    def _from_objects(self, values: Sequence[object] | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        if set(map(type, values)) <= {float, int, type(None)}:
            try:
                return np.array(values, dtype=np.float64)
            except OverflowError:  # an integer beyond 1.8e308: found and named below
                pass
        column = np.empty(len(values))
        for row, value in enumerate(values):
            if value is None:
                column[row] = math.nan
            elif isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
                self._refuse(row, "must be a number", value)
            else:
                try:
                    column[row] = float(value)
                except OverflowError:
                    self._refuse(row, "must be a finite number", value)
        return column


class CategoryFeature(_Feature):
    """One of a known set of texts. Its column holds the index in `categories`; `len(categories)` means unknown."""

    kind: Literal["category"] = "category"
    categories: tuple[str, ...]
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
    def _index(self) -> dict[object, float]:
        return {None: math.nan} | {category: float(index) for index, category in enumerate(self.categories)}

    def encode(self, values: Sequence[object] | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The indices as floats [N], NaN where missing, `len(categories)` where unknown.

        Raises:
            BadRow: a value is a list or an object.
        """
        index, unknown = self._index, float(len(self.categories))
        if set(map(type, values)) <= {str, type(None)}:
            return np.array([index.get(value, unknown) for value in values], dtype=np.float64)
        texts = [self._text(row, value) for row, value in enumerate(values)]
        return np.array([index.get(text, unknown) for text in texts], dtype=np.float64)

    def _text(self, row: int, value: object) -> str | None:
        if isinstance(value, list | tuple | Mapping | np.ndarray):
            self._refuse(row, "must be a text", value)
        return category_text(value)


class BooleanFeature(_Feature):
    """True or false. Its column holds 1 or 0."""

    kind: Literal["boolean"] = "boolean"
    true_share: Share | None = None
    """Share of true among the training rows that have a value."""

    def encode(self, values: Sequence[object] | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The values as 0, 1 or NaN [N]; the numbers 0 and 1 count as booleans.

        Raises:
            BadRow: a value is neither.
        """
        column = np.empty(len(values))
        for row, value in enumerate(values):
            if value is None or (isinstance(value, float) and math.isnan(value)):
                column[row] = math.nan
            elif isinstance(value, bool | np.bool_ | int | float | np.integer | np.floating) and value in (0, 1):
                column[row] = value
            else:
                self._refuse(row, "must be true or false", value)
        return column


class DatetimeFeature(_Feature):
    """A moment or a date, as ISO 8601 text. Its columns hold `DATETIME_PARTS`, read in UTC.

    day: days since 1970-01-01; second: of the day, with its fraction; weekday: 0 is Monday; yearday: 1 to 366.
    A text with an offset is converted to UTC; one without is taken as UTC.
    """

    kind: Literal["datetime"] = "datetime"
    quantiles: tuple[float, ...] = ()
    """Training quantiles in days since 1970-01-01, as for a number."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the matrix columns that this feature fills."""
        return tuple(f"{self.name}.{part}" for part in DATETIME_PARTS)

    def encode(self, values: Sequence[object] | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The parts as floats [N, 4], NaN where missing.

        Raises:
            BadRow: a value is no ISO 8601 date or datetime between the years 1 and 9999.
        """
        if isinstance(values, np.ndarray) and values.dtype.kind == "M":
            moments = values.astype("datetime64[us]")
        else:
            moments = np.array([self._moment(row, value) for row, value in enumerate(values)], dtype="datetime64[us]")
        microseconds = moments.astype(np.int64)
        day, rest = np.divmod(microseconds, _MICROSECONDS_PER_DAY)
        new_year = moments.astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64)
        parts = np.stack([day, rest / 1e6, (day + 3) % 7, day - new_year + 1], axis=1).astype(np.float64)  # [N, 4]
        parts[np.isnat(moments)] = math.nan
        return parts

    def _moment(self, row: int, value: object) -> datetime | np.datetime64:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return np.datetime64("NaT")
        if isinstance(value, np.datetime64):
            return value
        try:
            return _in_utc(value)
        except (TypeError, ValueError, OverflowError):  # no date, no such date, beyond the years 1 to 9999 in UTC
            self._refuse(row, "must be an ISO 8601 date or datetime, like '2024-05-31T09:30:00'", value)


def _in_utc(value: object) -> datetime:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001 - taken as UTC, as documented
    if not isinstance(value, datetime):
        raise TypeError
    return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)


Feature = Annotated[
    NumberFeature | CategoryFeature | BooleanFeature | DatetimeFeature,
    Field(discriminator="kind"),
]


class Schema(BaseModel):
    """The features in the order the network reads them.

    Attributes:
        datatype: precision of the matrix. FP64 where FP32 would round this table's values away.
        features: at least one; names are unique.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    datatype: Datatype = "FP32"
    features: Annotated[tuple[Feature, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        seen: set[str] = set()
        for name in (feature.name for feature in self.features):
            if name in seen:
                raise ValueError(f"feature {shown(name)} stands twice")
            seen.add(name)
        return self

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the matrix columns, in order; a datetime fills several. Their number is F."""
        return tuple(column for feature in self.features for column in feature.columns)

    @cached_property
    def _name_set(self) -> frozenset[str]:
        return frozenset(self.names)

    def encode(self, rows: object) -> Matrix:
        """Turn rows into the matrix that the exported graph reads.

        Each row is a mapping from feature to value, or a list of values in the order of the features; all rows of one
        call have one form. Missing is None or NaN; every feature must be there.

        Shape:
            rows: N rows -> float32 or float64 (`datatype`) [N, F], C order

        Raises:
            BadRow: a row has another form, a feature is unknown or absent, or a value is of the wrong kind.
        """
        if not isinstance(rows, list | tuple):
            raise BadRow(None, None, "rows must be a list", shown(rows))
        if not rows:
            return np.empty((0, len(self.columns)), dtype=_FLOATS[self.datatype])
        if all(isinstance(row, list | tuple) for row in rows):
            return self._stack(self._columns_of_lists(rows), len(rows))
        return self._stack(self._columns_of_mappings(rows), len(rows))

    def encode_columns(self, columns: Mapping[str, Any]) -> Matrix:
        """The same as `encode`, for rows that come as columns: a mapping from feature to its N values.

        A column is a list, a tuple or a one-dimensional numpy array.

        Raises:
            BadRow: as for `encode`; also when columns differ in length.
        """
        self._check_names(None, columns)
        lengths = {}
        for name in self.names:
            column = columns[name]
            if not isinstance(column, list | tuple) and not (isinstance(column, np.ndarray) and column.ndim == 1):
                raise BadRow(None, name, "must be a list of values", shown(column))
            lengths[name] = len(column)
        rows = lengths[self.names[0]]
        for name, length in lengths.items():
            if length != rows:
                raise BadRow(None, name, f"must have {rows} values like {shown(self.names[0])}", str(length))
        return self._stack([columns[name] for name in self.names], rows)

    def _stack(self, columns: Sequence[Any], rows: int) -> Matrix:
        matrix = np.empty((rows, len(self.columns)), dtype=_FLOATS[self.datatype])
        start = 0
        with np.errstate(over="ignore"):  # what does not fit is named below
            for feature, values in zip(self.features, columns, strict=True):
                width = len(feature.columns)
                matrix[:, start : start + width] = feature.encode(values).reshape(rows, width)
                start += width
        if self.datatype == "FP32" and np.isinf(matrix).any():
            self._refuse_overflow(matrix, columns)
        return matrix

    def _refuse_overflow(self, matrix: Matrix, columns: Sequence[Any]) -> NoReturn:
        row, column = (int(place) for place in np.argwhere(np.isinf(matrix))[0])
        feature = next(i for i, f in enumerate(self.features) if self.columns[column] in f.columns)
        got = columns[feature][row]
        raise BadRow(row, self.names[feature], "must lie within the range of float32, 3.4e38", shown(got))

    def _columns_of_lists(self, rows: Sequence[Any]) -> Sequence[Any]:
        if set(map(len, rows)) != {len(self.features)}:
            row = next(i for i, values in enumerate(rows) if len(values) != len(self.features))
            expected = f"must have {len(self.features)} values ({_listed(self.names)})"
            raise BadRow(row, None, expected, str(len(rows[row])))
        return list(zip(*rows, strict=True))

    def _columns_of_mappings(self, rows: Sequence[Any]) -> Sequence[Any]:
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise BadRow(number, None, "a row must be an object or a list, the same for all rows", shown(row))
            if row.keys() != self._name_set:
                self._check_names(number, row)
        return [[row[name] for row in rows] for name in self.names]

    def _check_names(self, number: int | None, row: Mapping[str, Any]) -> None:
        for name in row:
            if name not in self._name_set:
                near = difflib.get_close_matches(str(name)[:500], self.names, n=1)
                hint = f"did you mean {shown(near[0])}?" if near else f"the model reads {_listed(self.names)}"
                raise BadRow(number, str(name), f"is unknown; {hint}")
        for name in self.names:
            if name not in row:
                raise BadRow(number, name, "is absent; send null if its value is missing")


def category_text(value: object) -> str | None:
    """The text by which a value is known as a category; None if it is missing.

    A whole number is its decimal text whether it comes as 3 or 3.0, true is "true": CSV, Parquet and JSON agree.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        number = float(value)
        if math.isnan(number):
            return None
        return str(int(number)) if number.is_integer() and abs(number) < 2**63 else repr(number)
    if isinstance(value, int | np.integer):
        return shown(int(value))
    return str(value)


def _listed(names: Sequence[str], most: int = 8) -> str:
    rest = len(names) - most
    return ", ".join(shown(name) for name in names[:most]) + (f" and {rest} more" if rest > 0 else "")
