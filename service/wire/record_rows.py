"""Rows as records in JSON, read by a parser that knows their features.

A parser that knows nothing makes a dict of every row, and taking those apart costs more than making them. So each
version has a decoder of its own: a row is a struct with one slot per feature, and a category's text is looked up while
it is parsed, as a member of an enum that is the float of its index. What is left is to lay floats side by side.

What is not exactly such rows, right or wrong (another key, a number as a category, a moment, NaN), is read as every
other body is. docs/decisions/0019 has the measurements.
"""

import math
import re
import struct
import threading
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from itertools import starmap
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from models.features import BLANKS, BooleanFeature, CategoryFeature, Feature, NumberFeature
from models.repository import Version
from models.schema import Matrix, Schema
from service.wire.json_text import check_values

_MOST_FEATURES = 200
"""The slots of a struct are tried one after the other where a client has another order of keys."""
_MOST_CATEGORIES = 5000
_MOST_AT_ONCE = 50
"""A member of an enum takes 7 µs to make and 0.8 kB: a decoder with more of them is made aside, and only for a version
that is sent records. Until it is there, they are read as every other body is."""

_BLANKS = rb"[ \t\r\n]*"
_OPENING = re.compile(rb'_\{_"(instances|inputs)"_:_(?=\[_\{)'.replace(b"_", _BLANKS))
_CLOSING = re.compile(rb"\]_\}_".replace(b"_", _BLANKS))

_astuple = msgspec.structs.astuple


class _Decoder:
    """What reads the rows of one version, and lays their floats side by side."""

    def __init__(self, row: type[msgspec.Struct]) -> None:
        self.decode = msgspec.json.Decoder(list[row]).decode  # type: ignore[valid-type]  # it is made for the version
        self._names = row.__struct_fields__
        self._pack = struct.Struct(f"{len(self._names)}d").pack
        self._nulls: frozenset[str] = frozenset()  # the fields that were null in some row so far

    def floats(self, rows: Sequence[msgspec.Struct]) -> npt.NDArray[np.float64]:
        """The values of rows, [N, F]; None becomes NaN, in the rows themselves, since None is no float."""
        for name in self._nulls:
            _fill(rows, name)
        while True:
            try:
                packed = b"".join(starmap(self._pack, map(_astuple, rows)))
            except struct.error:
                found = [name for name in self._names if name not in self._nulls and _fill(rows, name)]
                if not found:
                    raise
                self._nulls = self._nulls.union(found)  # a thread may be going through the old ones
            else:
                return np.frombuffer(packed, np.float64).reshape(len(rows), len(self._names))


def _fill(rows: Sequence[Any], name: str) -> bool:
    """Whether a field was None in any row; it is NaN there now."""
    found = False
    for row in rows:
        if getattr(row, name) is None:
            setattr(row, name, math.nan)
            found = True
    return found


class RecordRows:
    """Rows that the decoder of a schema has read."""

    def __init__(
        self, rows: Sequence[msgspec.Struct], decoder: _Decoder, schema: Schema, text: bytes | memoryview
    ) -> None:
        self._rows, self._decoder, self._schema, self._text = rows, decoder, schema, text

    def __len__(self) -> int:
        return len(self._rows)

    def line(self) -> list[Any] | None:
        """What `Schema.line_of` gives for the only row; None where there are several."""
        return list(_astuple(self._rows[0])) if len(self._rows) == 1 else None

    def encode(self, schema: Schema) -> Matrix:
        """The matrix that the graph reads, [N, F].

        Raises:
            BadRow: as for `Schema.encode`.
        """
        if schema is self._schema:
            with np.errstate(over="ignore"):
                kind = np.float32 if schema.datatype == "FP32" else np.float64
                matrix: Matrix = self._decoder.floats(self._rows).astype(kind, order="C")
            if not np.isinf(matrix).any():
                return matrix
        return schema.encode(orjson.loads(self._text))


def read(raw: bytes, version: Version | None) -> tuple[str, RecordRows] | None:
    """The key and the rows of a body that is nothing but plain records of this version; None for every other body.

    Raises:
        TooLarge: as `read_json` does.
    """
    opening = None if version is None else _OPENING.match(raw)
    if opening is None:
        return None
    assert version is not None
    end = raw.rfind(b"]")
    decoder = _decoding(version).decoder
    if decoder is None or _CLOSING.fullmatch(raw, end) is None:
        return None
    check_values(raw)
    text = memoryview(raw)[opening.end() : end + 1]
    try:
        rows = decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return opening[1].decode(), RecordRows(rows, decoder, version.schema, text)


# ---------------------------------------------------------------------------------------- a decoder for each version


class _Decoding:
    """A version's decoder of a list of rows.

    Attributes:
        decoder: None while it is being made, and for a version whose rows are read otherwise.
    """

    def __init__(self, schema: Schema) -> None:
        """Make it, or begin to."""
        self.decoder: _Decoder | None = None
        features = schema.features
        categories = [len(one.categories) for one in features if isinstance(one, CategoryFeature)]
        if len(features) > _MOST_FEATURES or sum(categories) > _MOST_CATEGORIES or 0 in categories:
            return
        if sum(categories) <= _MOST_AT_ONCE:
            self._make(features)
        else:
            threading.Thread(target=self._make, args=[features], name="decoder", daemon=True).start()

    def _make(self, features: Sequence[Feature]) -> None:
        self.decoder = _decoder_of(features)


@lru_cache(maxsize=256)
def _decoding(version: Version) -> _Decoding:
    return _Decoding(version.schema)


def _decoder_of(features: Sequence[Feature]) -> _Decoder | None:
    """The decoder of a list of rows; None where rows are read otherwise."""
    kinds = [_kind(feature) for feature in features]
    if None in kinds:
        return None
    fields = [(f"_{place}", kind) for place, kind in enumerate(kinds)]
    names = {f"_{place}": feature.name for place, feature in enumerate(features)}
    try:
        row = msgspec.defstruct("Row", fields, rename=names, forbid_unknown_fields=True, gc=False)
    except ValueError:  # a name with a quotation mark or the like
        return None
    return _Decoder(row)


def _kind(feature: Feature) -> Any:
    """What stands in JSON for a feature; None for a moment, which takes reading."""
    if isinstance(feature, NumberFeature):
        return float | None
    if isinstance(feature, BooleanFeature):
        return bool | None
    if isinstance(feature, CategoryFeature):
        return _enum_of(feature.categories) | None
    return None


def _enum_of(categories: Sequence[str]) -> type[Enum]:
    """Floats, the indices of categories, by their texts."""

    class Category(float, Enum):
        def __new__(cls, text: str, index: int) -> Self:
            member = float.__new__(cls, index)
            member._value_ = text
            return member

        @classmethod
        def _missing_(cls, text: Any) -> object:
            meant = text.strip(BLANKS)  # as `Schema.encode` takes a text that is no category
            return by_text.get(meant, unknown) if meant else missing

    made: Any = Category
    made = made("Category", {f"c{index}": (text, index) for index, text in enumerate(categories)})
    by_text = {member.value: member for member in made}
    unknown, missing = float.__new__(made, len(categories)), float.__new__(made, math.nan)
    return made  # type: ignore[no-any-return]
