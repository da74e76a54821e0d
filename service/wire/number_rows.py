"""Many rows of numbers in JSON, read as one list of numbers instead of a list for each row.

Most of what a parser of JSON does for `{"instances": [[5.1, 3.5], [4.9, 3.0]]}` is making lists, and most of what comes
after it is taking them apart. So the structure of such a body is looked at first, all at once: what is left of it
without digits, blanks and the letters of null must be `[,],[,]]}`, over and over the same row. Then its brackets become
blanks and it is parsed as one flat list. The parser is the one that reads every other body, so a number, an error and
what is no number are what they would have been; what is not exactly of this form is not read here at all.
"""

import re
from dataclasses import dataclass

import orjson

from service.wire.json_text import check_values

_SMALL = 400
"""Bytes; a smaller body is read as fast as any."""

_BLANKS = rb"[ \t\r\n]*"
_OPENING = re.compile(rb'_\{_"(instances|inputs)"_:_\[_(?=\[)'.replace(b"_", _BLANKS))
_CLOSING = re.compile(rb"\]_\}_".replace(b"_", _BLANKS))
_NO_STRUCTURE = b" \t\r\n0123456789+-.eEnul"
_BRACKETS_AS_BLANKS = bytes.maketrans(b"[]", b"  ")


@dataclass(frozen=True, slots=True)
class NumberRows:
    """Rows of one length, one after the other.

    Attributes:
        values: floats, integers and None.
        width: how many are a row.
    """

    values: list[float | int | None]
    width: int

    def __len__(self) -> int:
        return len(self.values) // self.width


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
    if structure != _structure(len(structure) // (width + 2), width):
        return None
    try:
        values = orjson.loads(b"[%b]" % raw[start:end].translate(_BRACKETS_AS_BLANKS))
    except orjson.JSONDecodeError:  # or NaN, which another parser reads
        return None
    return opening[1].decode(), NumberRows(values, width)


def _structure(rows: int, width: int) -> bytes:
    """What is left of so many rows of so many numbers, and the end of their body."""
    row = b"[%b]," % (b"," * (width - 1))
    return (row * rows)[:-1] + b"]}"
