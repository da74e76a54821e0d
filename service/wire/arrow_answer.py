"""From what a session answered to an Arrow IPC stream: one batch, whose numbers are the session's own float32.

    prediction      regression: float32, or for K targets a fixed-size list of K; classification: the likeliest class, a
                    dictionary of texts, an int64 or a bool
    probabilities   classification alone: a fixed-size list of a float32 for each class
    lower, upper    where a regression was asked how sure it is: like `prediction`
    in_set          where a classification was: a fixed-size list of a bool for each class

The schema's metadata has `model_name`, `model_version` and, as JSON, `targets` and `classes`.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
import orjson

from models.features import category_text
from models.manifest import ClassLabel
from models.proof import Answers
from models.repository import Version
from service.wire.answers import class_numbers, finite
from service.wire.certainty import Certainty

_FRAME = struct.Struct("<II")
_END = _FRAME.pack(0xFFFFFFFF, 0)
_V5, _SCHEMA, _DICTIONARY, _RECORDS = 4, 1, 2, 3  # numbers of Message.fbs, and of Schema.fbs below
_INT, _FLOAT, _UTF8, _BOOL, _FIXED_LIST = 2, 3, 5, 6, 16


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the answer.

    Attributes:
        type: its number; that of its items if `items` is not 1.
        bits: of an integer.
        items: how many values a row has.
        has_dictionary: its texts stand in the dictionary 0, and its values are int32.
    """

    name: str
    type: int
    bits: int = 64
    items: int = 1
    has_dictionary: bool = False


def write(version: Version, answers: Answers, sure: Certainty | None = None) -> bytes:
    """The stream of an answer.

    Shape:
        answers: `prediction` [N, K], or `probabilities` [N, C] and `label` [N] -> N rows

    Raises:
        ModelFailed: a number is not finite, or a label is no class.
    """
    classes = version.manifest.classes
    if classes is None:
        prediction = finite(version, "prediction", answers).astype("<f4", copy=False)  # [N, K]
        values = [prediction, *(() if sure is None or sure.bounds is None else sure.bounds)]
    else:
        probabilities = finite(version, "probabilities", answers).astype("<f4", copy=False)  # [N, C]
        values = [_labels(classes, class_numbers(version, classes, answers)), probabilities]
        values += [] if sure is None or sure.members is None else [sure.members]
    is_sure = sure is not None
    return _head(version, is_sure=is_sure) + _batch(len(values[0]), _columns(version, is_sure=is_sure), values) + _END


def _labels(classes: Sequence[ClassLabel], numbers: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    at = numbers.astype("<i4")
    type_ = _class_type(classes)
    return at if type_ == _UTF8 else np.array(classes, np.bool_ if type_ == _BOOL else "<i8")[at]


def _class_type(classes: Sequence[ClassLabel]) -> int:
    if all(type(one) is bool for one in classes):
        return _BOOL
    return _INT if all(type(one) is int and -(2**63) <= one < 2**63 for one in classes) else _UTF8


def _columns(version: Version, *, is_sure: bool) -> Sequence[_Column]:
    classes = version.manifest.classes
    if classes is None:
        names = ("prediction", "lower", "upper") if is_sure else ("prediction",)
        return [_Column(name, _FLOAT, items=len(version.manifest.targets)) for name in names]
    type_ = _class_type(classes)
    return [
        _Column("prediction", type_, has_dictionary=type_ == _UTF8),
        _Column("probabilities", _FLOAT, items=len(classes)),
        *([_Column("in_set", _BOOL, items=len(classes))] if is_sure else ()),
    ]


# --------------------------------------------------------------------------------------------------- messages


@lru_cache(maxsize=256)
def _head(version: Version, *, is_sure: bool) -> bytes:
    """The messages before the batch, the same for every answer of a version: its schema, and the classes' texts."""
    builder, manifest = flatbuffers.Builder(1024), version.manifest
    known = {"model_name": version.name, "model_version": str(version.number)}
    known["targets"] = orjson.dumps(manifest.targets).decode()
    if manifest.classes is not None:
        known["classes"] = orjson.dumps(manifest.classes).decode()
    columns = _columns(version, is_sure=is_sure)
    fields = _tables(builder, [_field(builder, column) for column in columns])
    pairs = _tables(builder, [_pair(builder, key, value) for key, value in known.items()])
    schema = _table(builder, 4, {1: fields, 2: pairs})
    head = _message(builder, _SCHEMA, schema, 0)
    if not any(column.has_dictionary for column in columns):
        return head
    texts = [(category_text(one) or "").encode() for one in manifest.classes or ()]
    ends = np.cumsum([0, *map(len, texts)]).astype("<i4")
    builder = flatbuffers.Builder(1024)
    places, body = _body([b"", ends.tobytes(), b"".join(texts)])
    entries = _record_batch(builder, len(texts), [len(texts)], places)
    return head + _message(builder, _DICTIONARY, _table(builder, 3, {1: entries}), len(body)) + body


def _batch(rows: int, columns: Sequence[_Column], values: Sequence[npt.NDArray[Any]]) -> bytes:
    nodes: list[int] = []
    chunks: list[bytes | memoryview] = []
    for column, array in zip(columns, values, strict=True):
        nodes += [rows] if column.items == 1 else [rows, rows * column.items]
        chunks += [b""] * (1 if column.items == 1 else 2)  # nothing is missing, so no bits say what is there
        is_bits = array.dtype.kind == "b"
        chunks.append(np.packbits(array, bitorder="little").tobytes() if is_bits else array.tobytes())
    builder = flatbuffers.Builder(1024)
    places, body = _body(chunks)
    return _message(builder, _RECORDS, _record_batch(builder, rows, nodes, places), len(body)) + body


def _body(chunks: Sequence[bytes | memoryview]) -> tuple[list[tuple[int, int]], bytes]:
    """Where each buffer lies, and all of them, each from a place that 8 divides."""
    places, parts, at = [], [], 0
    for chunk in chunks:
        places.append((at, len(chunk)))
        parts += [chunk, b"\0" * (-len(chunk) % 8)]
        at += len(chunk) + -len(chunk) % 8
    return places, b"".join(parts)


def _message(builder: Any, kind: int, header: int, body_bytes: int) -> bytes:
    builder.StartObject(5)
    builder.PrependInt64Slot(3, body_bytes, 0)
    builder.PrependUOffsetTRelativeSlot(2, header, 0)
    builder.PrependInt16Slot(0, _V5, 0)
    builder.PrependUint8Slot(1, kind, 0)
    builder.Finish(builder.EndObject())
    metadata = bytes(builder.Output())
    metadata += b"\0" * (-len(metadata) % 8)
    return _FRAME.pack(0xFFFFFFFF, len(metadata)) + metadata


def _record_batch(builder: Any, rows: int, nodes: Sequence[int], places: Sequence[tuple[int, int]]) -> int:
    nodes_at = _pairs_of_longs(builder, [(length, 0) for length in nodes])
    places_at = _pairs_of_longs(builder, places)
    builder.StartObject(5)
    builder.PrependInt64Slot(0, rows, 0)
    builder.PrependUOffsetTRelativeSlot(1, nodes_at, 0)
    builder.PrependUOffsetTRelativeSlot(2, places_at, 0)
    return int(builder.EndObject())


def _field(builder: Any, column: _Column) -> int:
    name, type_ = builder.CreateString(column.name), _type(builder, column.type, column.bits)
    offsets = {0: name, 3: type_}
    number = column.type
    if column.has_dictionary:
        offsets[4] = _table(builder, 4, {1: _type(builder, _INT, 32)})
    if column.items > 1:
        item = _field(builder, _Column("item", column.type, column.bits))
        offsets[5] = _tables(builder, [item])
        builder.StartObject(1)
        builder.PrependInt32Slot(0, column.items, 0)
        offsets[3], number = builder.EndObject(), _FIXED_LIST
    return _table(builder, 7, offsets, type_number=number)


def _type(builder: Any, type_: int, bits: int) -> int:
    builder.StartObject(2)
    if type_ == _INT:
        builder.PrependInt32Slot(0, bits, 0)
        builder.PrependBoolSlot(1, True, False)
    elif type_ == _FLOAT:
        builder.PrependInt16Slot(0, 1, 0)  # single
    return int(builder.EndObject())


def _pair(builder: Any, key: str, value: str) -> int:
    return _table(builder, 2, {0: builder.CreateString(key), 1: builder.CreateString(value)})


def _table(builder: Any, slots: int, offsets: Mapping[int, int], type_number: int = 0) -> int:
    """A table whose fields lie elsewhere; of a column's, the third is the number of its type."""
    builder.StartObject(slots)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    if type_number:
        builder.PrependUint8Slot(2, type_number, 0)
    return int(builder.EndObject())


def _tables(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _pairs_of_longs(builder: Any, pairs: Sequence[tuple[int, int]]) -> int:
    builder.StartVector(16, len(pairs), 8)
    for first, second in reversed(pairs):
        builder.PrependInt64(second)
        builder.PrependInt64(first)
    return int(builder.EndVector())
