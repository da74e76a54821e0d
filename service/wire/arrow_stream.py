"""An Arrow IPC stream taken apart: its fields, then its batches, each the buffers of its columns.

The format: https://arrow.apache.org/docs/format/Columnar.html, "Serialization and Interprocess Communication". Numbers
of fields and types are those of its Schema.fbs and Message.fbs. No byte of a buffer is looked at here.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from models.errors import shown
from service.wire.flat import Table, damaged

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
MOST_MESSAGES = 10_000
"""Most batches in a stream, so that many empty ones cannot keep a process busy."""

_FRAME = struct.Struct("<II")
_CONTINUES = 0xFFFFFFFF
_SCHEMA, _DICTIONARY, _RECORDS = 1, 2, 3
_V4 = 3
_TYPES = {
    1: "null", 2: "int", 3: "float", 4: "binary", 5: "text", 6: "bool", 7: "decimal", 8: "date", 9: "time",
    10: "timestamp", 11: "interval", 12: "list", 13: "struct", 14: "union", 15: "fixed-size binary",
    16: "fixed-size list", 17: "map", 18: "duration", 19: "large binary", 20: "large text", 21: "large list",
    22: "run-end encoded", 23: "binary view", 24: "text view", 25: "list view", 26: "large list view",
}  # fmt: skip
_INTS = (8, 16, 32, 64)
_FLOATS = ("<f2", "<f4", "<f8")
_UNITS = ("s", "ms", "us", "ns")
_DECIMALS = {32: "<i4", 64: "<i8", 128: "<u8,<i8"}  # numpy has no integers of 128 bits; the lower half comes first
_MOST_PLACES = 76


@dataclass(frozen=True, slots=True)
class Field:
    """A column as the stream announces it.

    Attributes:
        kind: "null", "int", "float", "decimal", "bool", "text", "large text", "text view", "date", "timestamp", or
            another one of Arrow's types, which nothing here reads.
        dtype: how its values lie in their buffer, as numpy says it; empty for texts, bits and nulls.
        dictionary: the id of the dictionary that its values stand in, and the dtype of the indices; else None.
        places: of a decimal behind its point.
    """

    name: str
    kind: str
    dtype: str = ""
    dictionary: tuple[int, str] | None = None
    places: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a stream, or entries of a dictionary.

    Attributes:
        length: how many.
        nodes: a column's length and number of nulls, one after the other.
        buffers: the columns' buffers, one after the other, where each lies in the body.
        view_buffers: how many buffers of texts each column of views has.
        dictionary: the id of the dictionary, for entries of one.
        is_delta: these entries follow the ones that are known.
    """

    length: int
    nodes: Sequence[tuple[int, int]]
    buffers: Sequence[memoryview]
    view_buffers: Sequence[int]
    dictionary: int | None = None
    is_delta: bool = False


def read_stream(raw: bytes) -> tuple[Iterator[Field], Iterator[Batch]]:
    """The fields of a stream and its batches, both read as they are asked for.

    Raises:
        BadBody: it is no such stream, or a compressed or big-endian one; what is iterated raises it as well.
    """
    messages = _messages(raw)
    kind, header, _ = next(messages, (0, None, None))
    if kind != _SCHEMA or header is None:
        raise damaged("its first message must be a schema")
    if header.number(0, "h"):
        raise damaged("it must be little-endian")
    return map(_field, header.tables(1)), _batches(messages)


def _messages(raw: bytes) -> Iterator[tuple[int, Table, memoryview]]:
    """Each message's kind, header and body."""
    if raw.startswith(b"ARROW1"):
        raise damaged("this is an Arrow file (Feather); send it in the stream format")
    at = 0
    for _ in range(MOST_MESSAGES):
        if at == len(raw):  # a stream may end with its connection, and HTTP knows that a body is whole
            return
        message = _message(memoryview(raw)[at:])
        if message is None:
            if at + _FRAME.size != len(raw):
                raise damaged("nothing may follow its end")
            return
        kind, header, body, size = message
        yield kind, header, body
        at += size
    raise damaged(f"it must have at most {MOST_MESSAGES} messages; send larger batches")


def _message(raw: memoryview) -> tuple[int, Table, memoryview, int] | None:
    """The kind, header and body of the message that the bytes begin with, and its size; None for the stream's end."""
    if len(raw) < _FRAME.size:
        raise damaged("it ends within a message")
    mark, size = _FRAME.unpack_from(raw)
    if mark != _CONTINUES:
        raise damaged("each message must begin with ffffffff")
    if size == 0:
        return None
    begin = _FRAME.size + size
    if begin > len(raw):
        raise damaged("it ends within a message")
    message = Table.root(raw[_FRAME.size : begin])
    length, header = message.number(3, "q"), message.table(2)
    if not 0 <= length <= len(raw) - begin:
        raise damaged("it ends within a message")
    if message.number(0, "h") < _V4 or header is None:
        raise damaged("its metadata must be of version 4 or 5")
    return message.number(1, "B"), header, raw[begin : begin + length], begin + length


def _field(field: Table) -> Field:
    name = field.text(0)
    number, type_ = field.number(2, "B"), field.table(3)
    if type_ is None or number not in _TYPES:
        raise damaged(f"the type of column {shown(name)} must be one of Arrow's")
    dictionary = None
    encoding = field.table(4)
    if encoding is not None:
        index = encoding.table(1)
        dictionary = encoding.number(0, "q"), "<i4" if index is None else _int(index)
    kind = _TYPES[number]
    return Field(name, kind, _dtype(kind, type_), dictionary, _places(type_) if kind == "decimal" else 0)


def _dtype(kind: str, type_: Table) -> str:
    match kind:
        case "int":
            return _int(type_)
        case "float":
            return _one_of(_FLOATS, type_.number(0, "h"))
        case "decimal":
            bits = type_.number(2, "i", 128)
            if bits not in _DECIMALS:
                raise damaged(f"its decimals must have 32, 64 or 128 bits, and some have {bits}")
            return _DECIMALS[bits]
        case "date":  # days, or milliseconds, which is the default
            return _one_of(("D", "ms"), type_.number(0, "h", 1))
        case "timestamp":
            return _one_of(_UNITS, type_.number(0, "h"))
        case _:
            return ""


def _places(type_: Table) -> int:
    places = type_.number(1, "i")
    if abs(places) > _MOST_PLACES:
        raise damaged("its types must be Arrow's")
    return places


def _int(type_: Table) -> str:
    bits = type_.number(0, "i")
    if bits not in _INTS:
        raise damaged(f"its integers must have 8, 16, 32 or 64 bits, and some have {bits}")
    return f"<{'i' if type_.number(1, '?') else 'u'}{bits // 8}"


def _one_of(known: Sequence[str], number: int) -> str:
    if not 0 <= number < len(known):
        raise damaged("its types must be Arrow's")
    return known[number]


def _batches(messages: Iterator[tuple[int, Table, memoryview]]) -> Iterator[Batch]:
    for kind, header, body in messages:
        if kind == _RECORDS:
            yield _batch(header, body)
        elif kind == _DICTIONARY:
            data = header.table(1)
            if data is None:
                raise damaged()
            yield _batch(data, body, header.number(0, "q"), is_delta=bool(header.number(2, "?")))
        else:
            raise damaged("its messages must be one schema, then batches of rows")


def _batch(header: Table, body: memoryview, dictionary: int | None = None, *, is_delta: bool = False) -> Batch:
    if header.table(3) is not None:
        raise damaged("its batches must not be compressed; compress the whole body and say so by Content-Encoding")
    length = header.number(0, "q")
    places = header.longs(2, each=2)
    if length < 0 or sum(map(abs, places[1::2])) > len(body):  # buffers that lie over one another: a way to grow
        raise damaged("its buffers must lie in their message, one beside the other")
    buffers = []
    for offset, size in zip(places[::2], places[1::2], strict=True):
        if not (0 <= offset <= len(body) and 0 <= size <= len(body) - offset):
            raise damaged("its buffers must lie in their message, one beside the other")
        buffers.append(body[offset : offset + size])
    nodes = header.longs(1, each=2)
    pairs = list(zip(nodes[::2], nodes[1::2], strict=True))
    return Batch(length, pairs, buffers, header.longs(4), dictionary, is_delta)
