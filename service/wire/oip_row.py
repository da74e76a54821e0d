"""One row of the Open Inference Protocol in JSON, as most clients send it: read without making tensors of it first.

oip.py, oip_matrix.py and oip_answer.py take every request; what is read and written here they would read and write in
the very same way, at four times the cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import orjson

from models.features import BooleanFeature, CategoryFeature, Feature
from models.proof import Answers
from models.repository import Version
from models.schema import Schema
from service.wire.answers import class_numbers, finite
from service.wire.json_text import texts_of_rows
from service.wire.oip_answer import class_names
from service.wire.oip_signature import CLASS, PACKED

_LARGEST = {"FP32": float(np.finfo(np.float32).max), "FP64": float(np.finfo(np.float64).max)}
_MOST_INTEGER = 2**53  # above, an integer may be rounded on its way


def line_of(body: object, version: Version) -> tuple[str, list[Any]] | None:
    """The id and the line (see `Schema.line_of`) of a request that is one row and asks for nothing in particular.

    None for every other request, right or wrong.
    """
    if type(body) is not dict or len(body) != 1 + ("id" in body):
        return None
    inputs, request_id = body.get("inputs"), body.get("id", "")
    if type(inputs) is not list or type(request_id) is not str or not request_id.isascii():
        return None
    schema = version.schema
    if len(inputs) == 1 and len(schema.names) != 1:
        values = _values(inputs[0], PACKED, (schema.datatype,), [1, len(schema.columns)])
        are_numbers = values is not None and _are_numbers(values, schema.datatype)
        line = schema.line_of(values) if are_numbers and schema.is_all_numbers else None
    else:
        line = _line_of_columns(inputs, schema)
    return None if line is None else (request_id, line)


def _line_of_columns(inputs: list[Any], schema: Schema) -> list[Any] | None:
    if len(inputs) != len(schema.features):
        return None
    row = []
    for one, feature in zip(inputs, schema.features, strict=True):
        values = _values(one, feature.name, _datatypes(feature, schema), [1, 1]) or _values(
            one, feature.name, _datatypes(feature, schema), [1]
        )
        if values is None or len(values) != 1 or not _is_plain(values[0], feature, schema):
            return None
        row.append(values[0])
    return schema.line_of(row)


def _values(one: object, name: str, datatypes: Sequence[str], shape: list[int]) -> list[Any] | None:
    """The data of a tensor of this name, one of these datatypes and this shape, which has no parameters."""
    if type(one) is not dict or len(one) != 4 or one.get("name") != name or one.get("datatype") not in datatypes:
        return None
    values, given = one.get("data"), one.get("shape")
    is_shape = given == shape and all(type(size) is int for size in given)  # 1.0 and true are equal to 1
    return values if is_shape and type(values) is list else None


def _datatypes(feature: Feature, schema: Schema) -> Sequence[str]:
    if isinstance(feature, CategoryFeature):
        return ("BYTES",)
    return ("BOOL",) if isinstance(feature, BooleanFeature) else ("FP64", schema.datatype)


def _is_plain(value: object, feature: Feature, schema: Schema) -> bool:
    if isinstance(feature, CategoryFeature):
        return type(value) is str and value != ""
    return type(value) is bool if isinstance(feature, BooleanFeature) else _are_numbers([value], schema.datatype)


def _are_numbers(values: Sequence[object], datatype: str) -> bool:
    """Whether all are numbers well within the range of the datatype."""
    most = _LARGEST[datatype]
    for value in values:
        if type(value) is float:
            if not -most < value < most:
                return False
        elif type(value) is not int or not -_MOST_INTEGER < value < _MOST_INTEGER:
            return False
    return True


def write_rows(version: Version, answers: Answers) -> list[bytes]:
    """For each row of an answer, the bytes that `oip_answer.write` makes of that row alone, for a request without id.

    Raises:
        ModelFailed: as `oip_answer.write` does, when one of them is not finite or no class.
    """
    pieces = _pieces(version)
    classes = version.manifest.classes
    if classes is None:
        return [
            pieces.before + text + pieces.after[0] for text in texts_of_rows(finite(version, "prediction", answers))
        ]
    numbers = texts_of_rows(finite(version, "probabilities", answers))
    labels = class_numbers(version, classes, answers).tolist()
    return [pieces.before + text + pieces.after[label] for label, text in zip(labels, numbers, strict=True)]


def with_id(version: Version, written: bytes, request_id: str) -> bytes:
    """What `write_rows` wrote, for a request that has an id."""
    end = _pieces(version).end_of_version
    return b'%b,"id":%b%b' % (written[:end], orjson.dumps(request_id), written[end:])


@dataclass(frozen=True, slots=True)
class _Pieces:
    """What is the same in every answer of a version with one row.

    Attributes:
        before: what stands before the numbers.
        after: what follows them, for each class; the same for all where there are no classes.
        end_of_version: where an id would stand in `before`.
    """

    before: bytes
    after: list[bytes]
    end_of_version: int


@lru_cache(maxsize=256)
def _pieces(version: Version) -> _Pieces:
    classes = version.manifest.classes
    head = orjson.dumps({"model_name": version.name, "model_version": str(version.number)})[:-1]
    name, width = ("prediction", len(version.manifest.targets)) if classes is None else ("probabilities", len(classes))
    first = orjson.dumps({"name": name, "datatype": "FP32", "shape": [1, width]})[:-1]
    before = head + b',"outputs":[' + first + b',"data":['
    if classes is None:
        return _Pieces(before, [b"]}]}"], len(head))
    after = []
    for number, text in enumerate(class_names(version)):
        label = {"name": "label", "datatype": "INT64", "shape": [1], "data": [number]}
        likeliest = {"name": CLASS, "datatype": "BYTES", "shape": [1], "data": [text]}
        after.append(b"]}," + orjson.dumps([label, likeliest])[1:] + b"}")
    return _Pieces(before, after, len(head))
