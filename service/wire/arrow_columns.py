"""The columns of an Arrow stream as values: numpy arrays that lie in the body where they can, else lists.

Numbers, dates and timestamps stay where they were sent; a null among them makes a copy in which it is NaN, NaT or None.
Texts, booleans and entries of dictionaries become lists of Python's values. Every length is checked before numpy reads.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import shown
from service.wire.arrow_stream import Batch, Field
from service.wire.flat import damaged

Values = npt.NDArray[Any] | list[Any]
"""Row by row; missing is NaN, NaT or None."""

_TEXTS = {"text": "<i4", "large text": "<i8"}
_VIEW = np.dtype("V16")
_PLACE = struct.Struct("<i4xii")  # of a view: length, four first letters, number of the buffer, offset in it
_EXACT = 2**53  # of whole numbers up to here each is a float
_EXACT_TENS = 22  # and each power of ten up to here
_INLINE = 12  # bytes of a text that stand in its view
_MOST_OVERLAP = 4  # texts of views may lie over one another, as slices do; so many times the body, and no more


class Columns:
    """Reads batch after batch; it keeps the dictionaries that the stream has sent so far."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = fields
        self._dictionaries: dict[int, list[Any]] = {}  # behind the entries of each a None, at -1, for nulls
        self._entries = {field.dictionary[0]: field for field in fields if field.dictionary is not None}

    def learn(self, batch: Batch) -> None:
        """Keep the entries of a dictionary.

        Raises:
            BadBody: no column has such a dictionary, or its buffers are not what its type says.
        """
        field = self._entries.get(-1 if batch.dictionary is None else batch.dictionary)
        if field is None or batch.dictionary is None:
            raise damaged("its dictionaries must be those of its columns")
        if batch.length > 8 * sum(map(len, batch.buffers)):
            raise damaged("the entries of a dictionary must be in it")
        ((_, values),) = _values([replace(field, dictionary=None)], batch)
        known = self._dictionaries.setdefault(batch.dictionary, [None])
        known[-1 if batch.is_delta else 0 :] = [*as_list(values), None]

    def values(self, batch: Batch) -> Iterator[tuple[Field, Values]]:
        """The values of each column of a batch.

        Raises:
            BadBody: the buffers are not what the types say, or an index has no entry.
        """
        plain = [
            field if field.dictionary is None else Field(field.name, "index", field.dictionary[1])
            for field in self._fields
        ]
        for field, (_, values) in zip(self._fields, _values(plain, batch), strict=True):
            yield field, values if field.dictionary is None else self._look_up(field, field.dictionary[0], values)

    def _look_up(self, field: Field, dictionary: int, indices: Values) -> list[Any]:
        known, at = self._dictionaries.get(dictionary, [None]), np.asarray(indices)
        if len(at) and at.max() >= len(known) - 1:
            raise damaged(f"each index of column {shown(field.name)} must have an entry in its dictionary")
        return [known[index] for index in at.tolist()]  # at the cost of the rows alone: batches may be many


def _values(fields: Sequence[Field], batch: Batch) -> Iterator[tuple[Field, Values]]:
    buffers, nodes, view_buffers = iter(batch.buffers), iter(batch.nodes), iter(batch.view_buffers)
    for field in fields:
        length, nulls = next(nodes, (-1, 0))
        if length != batch.length or not 0 <= nulls <= length:
            raise damaged(f"column {shown(field.name)} must have as many values as its batch has rows")
        if field.kind == "null":
            yield field, [None] * length
            continue
        bits = next(buffers, None)
        present = None if nulls == 0 or bits is None else _bits(field, bits, length)
        if field.kind in _TEXTS:
            places = _array(field, next(buffers, None), _TEXTS[field.kind], length + 1 if length else 0)
            texts = _texts(field, places, next(buffers, None))
            yield field, _with_nulls(texts, present)
        elif field.kind == "text view":
            views = _array(field, next(buffers, None), _VIEW, length)
            data = [next(buffers, None) for _ in range(_count(field, next(view_buffers, 0), batch))]
            yield field, _with_nulls(_viewed(field, views, data), present)
        elif field.kind == "bool":
            bits = next(buffers, None)
            yield field, _with_nulls(_bits(field, bits, length).tolist(), present)
        else:
            yield field, _numbers(field, next(buffers, None), length, present)
    if next(buffers, None) is not None or next(nodes, None) is not None:
        raise damaged("a batch must have the buffers of its columns and no other")


def _count(field: Field, count: int, batch: Batch) -> int:
    if not 0 <= count <= len(batch.buffers):
        raise damaged(f"column {shown(field.name)} must have its buffers")
    return count


def _numbers(field: Field, raw: memoryview | None, length: int, present: npt.NDArray[np.bool_] | None) -> Values:
    if field.kind == "index":
        indices = _array(field, raw, field.dtype, length).astype(np.int64, copy=False)
        is_there = np.bool_(True) if present is None else present
        if np.any(is_there & (indices < 0)):
            raise damaged(f"each index of column {shown(field.name)} must have an entry in its dictionary")
        return np.where(is_there, indices, -1)
    if field.kind in ("date", "timestamp"):
        moments = _array(field, raw, "<i4" if field.dtype == "D" else "<i8", length)
        moments = moments.astype(np.int64, copy=False).view(f"<M8[{field.dtype}]")
        return moments if present is None else np.where(present, moments, np.datetime64("NaT"))
    numbers = _array(field, raw, field.dtype, length)
    if field.kind == "decimal":
        numbers = _decimals(numbers, field.places)
    if present is None:
        return numbers
    if numbers.dtype.kind == "f":
        return np.where(present, numbers, numbers.dtype.type(np.nan))
    return _with_nulls(numbers.tolist(), present)  # as a float a large integer would be another one


def _decimals(values: npt.NDArray[Any], places: int) -> npt.NDArray[np.float64]:
    """The floats that are nearest."""
    high, low = None, values
    if values.dtype.names:
        high, low = values["f1"], values["f0"].astype(np.int64)  # its bits
    numbers = low.astype(np.float64)
    numbers = numbers / 10.0**places if places >= 0 else numbers * 10.0**-places
    is_long = (np.abs(low, dtype=np.float64) > _EXACT) | (abs(places) > _EXACT_TENS)  # these would be rounded twice
    if high is not None:
        is_long |= high != low >> 63
    for place in np.flatnonzero(is_long):
        whole = int(low[place]) if high is None else (int(high[place]) << 64) + int(values["f0"][place])
        numbers[place] = whole / 10**places if places >= 0 else float(whole * 10**-places)
    return numbers


def _array(field: Field, raw: memoryview | None, dtype: str | np.dtype[Any], length: int) -> npt.NDArray[Any]:
    kind = np.dtype(dtype)
    if raw is None or len(raw) < length * kind.itemsize:
        raise damaged(f"the values of column {shown(field.name)} must be in their buffer")
    return np.frombuffer(raw, kind, length)


def _bits(field: Field, raw: memoryview | None, length: int) -> npt.NDArray[np.bool_]:
    if raw is None or len(raw) * 8 < length:
        raise damaged(f"the values of column {shown(field.name)} must be in their buffer")
    return np.unpackbits(np.frombuffer(raw, np.uint8), count=length, bitorder="little").astype(np.bool_)


def _with_nulls(values: list[Any], present: npt.NDArray[np.bool_] | None) -> list[Any]:
    if present is None:
        return values
    return [value if is_there else None for value, is_there in zip(values, present.tolist(), strict=True)]


def _texts(field: Field, places: npt.NDArray[Any], raw: memoryview | None) -> list[Any]:
    if not len(places):
        return []
    if raw is None or not (places[0] >= 0 and places[-1] <= len(raw) and (places[1:] >= places[:-1]).all()):
        raise damaged(f"the texts of column {shown(field.name)} must be in their buffer")
    ends: list[int] = places.tolist()
    whole = bytes(raw[ends[0] : ends[-1]])
    if whole.isascii():
        text, first = whole.decode("ascii"), ends[0]
        return [text[start - first : end - first] for start, end in pairwise(ends)]
    return [_text(field, raw[start:end]) for start, end in pairwise(ends)]


def _viewed(field: Field, views: npt.NDArray[Any], data: Sequence[memoryview | None]) -> list[Any]:
    """The texts of a column of views: short ones stand in their view, others in a buffer. Equal views are read once."""
    raw, size = views.tobytes(), _VIEW.itemsize
    keys = [raw[at : at + size] for at in range(0, len(raw), size)]
    rest = _MOST_OVERLAP * sum(len(buffer) for buffer in data if buffer is not None)
    known: dict[bytes, str] = {}
    for key in keys:
        if key in known:
            continue
        length, number, offset = _PLACE.unpack(key)
        if 0 <= length <= _INLINE:
            known[key] = _text(field, memoryview(key)[4 : 4 + length])
            continue
        buffer = data[number] if 0 <= number < len(data) else None
        rest -= abs(length)
        if buffer is None or length < 0 or not 0 <= offset <= len(buffer) - length or rest < 0:
            raise damaged(f"the texts of column {shown(field.name)} must be in their buffers")
        known[key] = _text(field, buffer[offset : offset + length])
    return [known[key] for key in keys]


def _text(field: Field, raw: memoryview) -> str:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise damaged(f"the texts of column {shown(field.name)} must be UTF-8") from None


def join(parts: Sequence[Values]) -> Values:
    """The values of one column, from all batches.

    A single batch stays where it was sent.
    """
    if len(parts) == 1:
        return parts[0]
    if parts and all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return [value for part in parts for value in as_list(part)]


def as_list(values: Values) -> list[Any]:
    """The values as Python's own; moments stay numpy's, which knows years that Python does not."""
    if isinstance(values, list):
        return values
    if values.dtype.kind == "M":
        return [None if np.isnat(value) else value for value in values]
    listed: list[Any] = values.tolist()
    return listed
