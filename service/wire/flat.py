"""FlatBuffers read from bytes that nobody has checked: every place is looked at before it is read.

The format: https://flatbuffers.dev/internals. The generated readers trust their bytes, so a table is read by hand here;
it takes one struct for each value.
"""

import struct
from collections.abc import Iterator

from service.problems import BadBody

_U16, _U32, _I32 = (struct.Struct(f"<{code}") for code in "HIi")


def damaged(what: str = "its metadata must be whole") -> BadBody:
    """The problem of a body that is no such stream."""
    return BadBody(f"the body must be an Arrow IPC stream: {what}")


class Table:
    """A table at `at` in `raw`; its fields are numbered from 0, in the order of the format's schema."""

    __slots__ = ("_at", "_raw", "_slots")

    def __init__(self, raw: memoryview, at: int) -> None:
        self._raw, self._at = raw, at
        vtable = at - _take(_I32, raw, at)
        size = _take(_U16, raw, vtable)
        if size < 4 or size % 2 or vtable + size > len(raw):
            raise damaged()
        self._slots: tuple[int, ...] = struct.unpack_from(f"<{size // 2 - 2}H", raw, vtable + 4)

    @classmethod
    def root(cls, raw: memoryview) -> "Table":
        """The table that the buffer begins with."""
        return cls(raw, _take(_U32, raw, 0))

    def number(self, field: int, code: str, default: int = 0) -> int:
        """An integer; `code` is struct's for its size."""
        at = self._place(field)
        return default if at is None else int(_take(struct.Struct(f"<{code}"), self._raw, at))

    def text(self, field: int) -> str:
        """A text; empty where there is none."""
        at = self._target(field)
        if at is None:
            return ""
        size = _take(_U32, self._raw, at)
        if at + 4 + size > len(self._raw):
            raise damaged()
        try:
            return str(self._raw[at + 4 : at + 4 + size], "utf-8")
        except UnicodeDecodeError:
            raise damaged("its names must be UTF-8") from None

    def table(self, field: int) -> "Table | None":
        """A table, also that of a union."""
        at = self._target(field)
        return None if at is None else Table(self._raw, at)

    def length(self, field: int) -> int:
        """The number of a vector's elements."""
        at = self._target(field)
        return 0 if at is None else int(_take(_U32, self._raw, at))

    def tables(self, field: int) -> Iterator["Table"]:
        """The tables of a vector, each read when it is asked for."""
        at = self._target(field)
        for number in range(self.length(field)):
            place = (at or 0) + 4 + 4 * number
            yield Table(self._raw, place + _take(_U32, self._raw, place))

    def longs(self, field: int, each: int = 1) -> tuple[int, ...]:
        """The 64-bit integers of a vector whose elements are `each` of them."""
        at, count = self._target(field), self.length(field) * each
        if at is None:
            return ()
        if at + 4 + 8 * count > len(self._raw):
            raise damaged()
        return struct.unpack_from(f"<{count}q", self._raw, at + 4)

    def _place(self, field: int) -> int | None:
        offset = self._slots[field] if field < len(self._slots) else 0
        return self._at + offset if offset else None

    def _target(self, field: int) -> int | None:
        at = self._place(field)
        return None if at is None else at + int(_take(_U32, self._raw, at))


def _take(what: struct.Struct, raw: memoryview, at: int) -> int:
    if not 0 <= at <= len(raw) - what.size:
        raise damaged()
    (value,) = what.unpack_from(raw, at)
    return int(value)
