"""Many rows of numbers in JSON, read into an array instead of a list for each row.

Most of what a parser of JSON does for `{"instances": [[5.1, 3.5], [4.9, 3.0]]}` is making Python's lists and floats,
and most of what comes after it is taking them apart. So the structure of such a body is looked at first, all at once:
what is left of it without digits, blanks and the letters of null must be `[,],[,]]}`, over and over the same row. Then
simdjson parses all lists straight into floats, and finds out whether each number is where JSON has one. What is not
exactly of this form, or has a number that simdjson does not take, is read as every other body is; so are the numbers
wherever more than their floats matters. docs/decisions/0019 has the measurements.
"""

import re
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import simdjson

from models.schema import Matrix, Schema
from service.wire.json_text import check_values

_SMALL = 400
"""Bytes; a smaller body is read as fast as any."""

_BLANKS = rb"[ \t\r\n]*"
_OPENING = re.compile(rb'_\{_"(instances|inputs)"_:_\[_(?=\[)'.replace(b"_", _BLANKS))
_CLOSING = re.compile(rb"\]_\}_".replace(b"_", _BLANKS))
AROUND = re.compile(
    rb'(?P<before>_\{_"(instances|inputs)"_:_\[_\[)[^]]*(?P<between>\]_,_\[)[^{}]*?(?P<after>\]_\]_\}_)'.replace(
        b"_", _BLANKS
    )
)
"""A body of several rows: what stands around their numbers, and between the first two rows."""

_NO_STRUCTURE = b" \t\r\n0123456789+-.eEnul"


class NumberRows:
    """Rows of floats, integers and None, `width` of them each."""

    def __init__(self, text: bytes, rows: int, width: int) -> None:
        """The rows of a JSON list of lists.

        Raises:
            orjson.JSONDecodeError: it is no JSON.
        """
        self._text, self._rows, self._width = text, rows, width
        self._floats = floats(text)
        if self._floats is None:
            orjson.loads(text)

    def __len__(self) -> int:
        return self._rows

    def matrix(self, schema: Schema) -> Matrix | None:
        """The matrix that the graph reads, [N, F]; None where that takes `encode`, which may refuse a row."""
        return None if self._floats is None else schema.encode_floats(self._floats.reshape(self._rows, self._width))

    def encode(self, schema: Schema) -> Matrix:
        """The same of all rows that can be encoded.

        Raises:
            BadRow: as for `Schema.encode`.
        """
        matrix = self.matrix(schema)
        if matrix is not None:
            return matrix
        return schema.encode_numbers(list(chain.from_iterable(orjson.loads(self._text))), self._width)


def floats(text: bytes) -> npt.NDArray[np.float64] | None:
    """The numbers of a JSON list, or of lists in one; None where one is null or beyond 64 bits, or the text no JSON."""
    try:
        numbers: Any = simdjson.Parser().parse(text).as_buffer(of_type="d")  # type: ignore[union-attr]  # it is a list
    except (ValueError, TypeError, RuntimeError):  # the last for an integer beyond 64 bits
        return None
    return np.frombuffer(numbers, np.float64)


def read(raw: bytes) -> tuple[str, NumberRows] | None:
    """The key and the rows of a body that is nothing but several rows of numbers; None for every other body.

    Raises:
        TooLarge: as `read_json` does.
    """
    if len(raw) < _SMALL or raw.find(b"],") < 0:
        return None
    check_values(raw)
    opening = _OPENING.match(raw)
    if opening is None:
        return None
    start, end = opening.end(), raw.rfind(b"]")
    if _CLOSING.fullmatch(raw, end) is None:
        return None
    structure = raw[start:].translate(None, _NO_STRUCTURE)
    width = structure.find(b"]")
    rows = len(structure) // (width + 2)
    if structure != _structure(rows, width):
        return None
    try:
        return opening[1].decode(), NumberRows(b"[%b]" % raw[start:end], rows, width)
    except orjson.JSONDecodeError:  # NaN among them, which another parser reads
        return None


def _structure(rows: int, width: int) -> bytes:
    """What is left of so many rows of so many numbers, and the end of their body."""
    row = b"[%b]," % (b"," * (width - 1))
    return (row * rows)[:-1] + b"]}"
