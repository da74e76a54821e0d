"""What a row is: the features in the order the network reads them, and how a row becomes a line of the matrix.

`Schema.encode` learns nothing. A number passes, a missing value is NaN, a category is its index, a category nobody
trained on is the reserved index, a datetime is its parts. Whatever is learned (imputation, scaling, embeddings) is a
layer of the exported graph, so training and serving, which both call this file, cannot drift apart.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Annotated, Any, Literal, NoReturn, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.errors import BadRow, nearest, shown
from models.features import NUMBERS, Feature, Line, NumberFeature, Reader, Values, as_float

Matrix = npt.NDArray[np.float32 | np.float64]
"""The rows as the graph reads them, [N, F]."""

Datatype = Literal["FP32", "FP64"]

_FLOATS: dict[Datatype, type[np.float32] | type[np.float64]] = {"FP32": np.float32, "FP64": np.float64}
_LISTS = (list, tuple)


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

    @cached_property
    def is_all_numbers(self) -> bool:
        """Whether every feature is a number."""
        return all(isinstance(feature, NumberFeature) for feature in self.features)

    @cached_property
    def _readers(self) -> tuple[Reader, ...] | None:
        """For each feature what `line_of` needs of it; None for a schema with moments, which take reading."""
        readers = tuple(feature.reader for feature in self.features if feature.reader is not None)
        return readers if len(readers) == len(self.features) else None

    def encode(self, rows: object) -> Matrix:
        """Turn rows into the matrix that the exported graph reads.

        Each row is a mapping from feature to value, or a list of values in the order of the features; all rows of one
        call have one form. Missing is None or NaN; every feature must be there.

        Shape:
            rows: N rows -> float32 or float64 (`datatype`) [N, F], C order

        Raises:
            BadRow: a row has another form, a feature is unknown or absent, or a value is of the wrong kind.
        """
        if not isinstance(rows, _LISTS):
            raise BadRow(None, None, "rows must be a list", shown(rows))
        if self.is_all_numbers and rows:
            matrix = _matrix_of_plain_lists(rows, len(self.features), self.datatype)
            if matrix is not None:
                return matrix
        if all(issubclass(kind, _LISTS) for kind in set(map(type, rows))):
            return _stack(self.features, self._columns_of_lists(rows), self.datatype)
        return _stack(self.features, self._columns_of_mappings(rows), self.datatype)

    def line_of(self, row: object) -> list[Any] | None:
        """The values of one row's line of the matrix, for `stack`, when every value is plainly of its kind.

        None for every other row, right or wrong: `encode` must look at it. A service encodes most rows in this way,
        one by one as they come and many at once into a matrix.
        """
        readers = self._readers
        if readers is None or type(row) not in (list, dict) or len(row) != len(readers):  # type: ignore[arg-type]
            return None
        values: list[Any]
        if type(row) is list:
            values = row
        else:
            try:
                values = [row[name] for name in self.names]  # type: ignore[index]
            except KeyError:
                return None
        if self.is_all_numbers:
            return values if NUMBERS.issuperset(map(type, values)) else None
        line: list[Any] = []
        for (kinds, index), value in zip(readers, values, strict=True):
            if type(value) not in kinds:
                return None
            line.append(value if index is None else index[value])
        return line

    def stack(self, lines: Sequence[list[Any]]) -> Matrix:
        """The matrix of lines that `line_of` gave, bit by bit what `encode` makes of their rows.

        Shape:
            lines: N lines, at least one -> float32 or float64 (`datatype`) [N, F], C order

        Raises:
            BadRow: a number does not fit the datatype; its row is the number of its line.
        """
        with np.errstate(over="ignore"):  # what does not fit is named
            try:
                matrix: Matrix = np.array(lines, dtype=np.float64).astype(_FLOATS[self.datatype], copy=False)
            except OverflowError:  # an integer beyond 1.8e308
                _refuse_overflow(self.features, list(zip(*lines, strict=True)), self.datatype)
            if np.isinf(matrix).any():
                _refuse_overflow(self.features, list(zip(*lines, strict=True)), self.datatype)
        return matrix

    def encode_floats(self, rows: npt.NDArray[np.float64]) -> Matrix | None:
        """What `encode` makes of rows of floats, where that is the floats themselves; None where it takes `encode`.

        Shape:
            rows: [N, F] -> float32 or float64 (`datatype`) [N, F], C order
        """
        if not self.is_all_numbers or rows.shape[1] != len(self.features):
            return None
        with np.errstate(over="ignore"):
            matrix: Matrix = rows.astype(_FLOATS[self.datatype], copy=False)
        return None if np.isinf(matrix).any() else matrix

    def encode_numbers(self, values: list[Any], width: int) -> Matrix:
        """The same as `encode`, for rows that come as one list, one after the other: floats, integers and None alone.

        Shape:
            values: N * width, at least one row -> float32 or float64 (`datatype`) [N, F], C order

        Raises:
            BadRow: as for `encode`.
        """
        if width != len(self.features):
            self._refuse_width(0, width)
        return _stack(self.features, [values[place::width] for place in range(width)], self.datatype)

    def encode_columns(self, columns: object) -> Matrix:
        """The same as `encode`, for rows that come as columns: a mapping from feature to its N values.

        A column is a list, a tuple or a one-dimensional numpy array.

        Raises:
            BadRow: as for `encode`; also when columns differ in length.
        """
        if not isinstance(columns, Mapping):
            raise BadRow(None, None, "columns must be an object of feature to values", shown(columns))
        self._check_names(None, columns)
        for name in self.names:
            column = columns[name]
            if not isinstance(column, _LISTS) and not (isinstance(column, np.ndarray) and column.ndim == 1):
                raise BadRow(None, name, "must be a list of values", shown(column))
            if len(column) != len(columns[self.names[0]]):
                expected = f"must have {len(columns[self.names[0]])} values like {shown(self.names[0])}"
                raise BadRow(None, name, expected, str(len(column)))
        return _stack(self.features, [columns[name] for name in self.names], self.datatype)

    def _columns_of_lists(self, rows: Sequence[Any]) -> Sequence[Values]:
        if not rows:
            return [()] * len(self.features)
        if set(map(len, rows)) != {len(self.features)}:
            row = next(i for i, values in enumerate(rows) if len(values) != len(self.features))
            self._refuse_width(row, len(rows[row]))
        return list(zip(*rows, strict=True))

    def _refuse_width(self, row: int, width: int) -> NoReturn:
        raise BadRow(row, None, f"must have {len(self.features)} values ({_listed(self.names)})", str(width))

    def _columns_of_mappings(self, rows: Sequence[Any]) -> Sequence[Values]:
        if set(map(type, rows)) != {dict} or set(map(len, rows)) != {len(self.features)}:
            for number, row in enumerate(rows):
                if not isinstance(row, Mapping):
                    raise BadRow(number, None, "must be an object or a list, the same for all rows", shown(row))
                if len(row) != len(self.features):
                    self._check_names(number, row)
        try:
            return [[row[name] for row in rows] for name in self.names]
        except KeyError:  # as many names as there are features, but not the same
            for number, row in enumerate(rows):
                self._check_names(number, row)
            raise

    def _check_names(self, number: int | None, row: Mapping[Any, Any]) -> None:
        for name in row:
            if name not in self._name_set:
                raise BadRow(number, _printable(name), f"is unknown; {self._hint(name)}")
        for name in self.names:
            if name not in row:
                raise BadRow(number, name, "is absent; send null if its value is missing")

    def _hint(self, name: object) -> str:
        near = nearest(name, self.names) if isinstance(name, str) else None
        if near is not None:
            return f"did you mean {shown(near)}?"
        return f"the model reads {_listed(self.names)}"


@np.errstate(over="ignore", invalid="ignore")  # what does not fit is named; a NaN may be a signalling one
def _stack(features: Sequence[Feature], columns: Sequence[Values], datatype: Datatype) -> Matrix:
    """The values of each feature as one matrix [N, F], in C order."""
    lines: list[Line] = []
    for feature, values in zip(features, columns, strict=True):
        lines += feature.lines(values)
    try:
        matrix: Matrix = np.array(lines, dtype=np.float64).T.astype(_FLOATS[datatype], order="C")
    except OverflowError:  # an integer beyond 1.8e308
        _refuse_overflow(features, columns, datatype)
    if np.count_nonzero(np.isinf(matrix)):
        _refuse_overflow(features, columns, datatype)
    return matrix


def _matrix_of_plain_lists(rows: Sequence[Any], width: int, datatype: Datatype) -> Matrix | None:
    """The matrix of rows that are lists of so many finite numbers; None for others, which take looking at."""
    if set(map(type, rows)) != {list} or set(map(len, rows)) != {width}:
        return None
    values = list(chain.from_iterable(rows))
    if not {float, int}.issuperset(map(type, values)):
        return None
    try:
        with np.errstate(over="ignore"):
            matrix: Matrix = np.array(values, np.float64).reshape(-1, width).astype(_FLOATS[datatype], copy=False)
    except OverflowError:  # an integer beyond 1.8e308
        return None
    return None if np.isinf(matrix).any() else matrix


def _refuse_overflow(features: Sequence[Feature], columns: Sequence[Values], datatype: Datatype) -> NoReturn:
    largest = float(np.finfo(_FLOATS[datatype]).max)
    for feature, values in zip(features, columns, strict=True):
        for row, value in enumerate(values if isinstance(feature, NumberFeature) else ()):
            number = math.nan if value is None else as_float(value)
            if math.isinf(number):
                feature.refuse(row, "must be a finite number", value)
            if math.isinf(_FLOATS[datatype](number)):
                feature.refuse(row, f"must lie within {largest:.2g} of zero, the range of {datatype}", value)
    raise AssertionError("only a number can be infinite")


def _listed(names: Sequence[str], most: int = 6) -> str:
    rest = len(names) - most
    return ", ".join(shown(name, 40) for name in names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _printable(name: object) -> str:
    """A name that nobody here chose, fit for an answer: not long, and without what UTF-8 cannot hold."""
    text = name if isinstance(name, str) else shown(name)
    return text[:500].encode(errors="backslashreplace").decode()
