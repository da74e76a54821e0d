"""The plain JSON of TensorFlow Serving and KServe V1: bytes to rows, answers to bytes.

    {"instances": [[5.1, 3.5], [4.9, 3.0]]}                     rows as lists, in the order of the features
    {"instances": [{"length": 5.1, "width": 3.5}, ...]}         rows as records
    {"inputs": {"length": [5.1, 4.9], "width": [3.5, 3.0]}}     columns
    {"instances": {"length": 5.1, "width": 3.5}}                one row, as a record or as a list of plain values

`"inputs"` takes what `"instances"` takes, and columns too. Missing is null or NaN. A key that stands twice counts
once, the last time. docs/reference/http.md says all of it to those who send requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from models.errors import nearest, shown
from models.proof import Answers
from models.repository import Version
from models.schema import Matrix, Schema
from service.problems import BadBody, TooLarge
from service.wire import number_rows, record_rows
from service.wire.answers import class_numbers, finite, json_labels
from service.wire.json_text import read_json, texts_of_numbers, texts_of_rows, texts_of_tables
from service.wire.number_rows import NumberRows
from service.wire.record_rows import RecordRows

_KEYS = ("instances", "inputs", "model", "version", "label", "signature_name", "parameters")
_MOST_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Request:
    """What a body asks for.

    Attributes:
        key: where its rows stand, "instances" or "inputs".
        rows: a list of rows, one row, or columns; what it is depends on the schema, see `encode`. Or rows that
            are read already.
        model, version, label: whom it asks, where it says so.
        parameters: what it asks for beside the predictions; unknown ones are ignored.
    """

    key: str
    rows: list[Any] | dict[str, Any] | NumberRows | RecordRows
    model: str | None = None
    version: int | None = None
    label: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def encode(self, schema: Schema, most_rows: int) -> Matrix:
        """The rows as the matrix that the graph reads, [N, F].

        A list of plain values is one row; for a schema with one feature, where each value is a row, it is N rows.

        Raises:
            TooLarge: N is above `most_rows`; nothing was encoded.
            BadRow: as for `Schema.encode` and `Schema.encode_columns`.
        """
        if isinstance(self.rows, NumberRows | RecordRows):
            _check_rows(len(self.rows), most_rows)
            return self.rows.encode(schema)
        if isinstance(self.rows, dict):
            lengths = [len(values) for values in self.rows.values() if isinstance(values, list)]
            if self.key == "inputs" and lengths:
                _check_rows(max(lengths), most_rows)
                return schema.encode_columns(self.rows)
            return schema.encode([self.rows])
        if self.rows and not any(isinstance(row, list | dict) for row in self.rows):
            rows = [[value] for value in self.rows] if len(schema.names) == 1 else [self.rows]
        else:
            rows = self.rows
        _check_rows(len(rows), most_rows)
        return schema.encode(rows)


def read_rows(raw: bytes, version: Version | None) -> Request | None:
    """What a body asks for that is nothing but several rows of numbers, or plain records; None for every other body.

    `version` is that whose rows they will be, if that is known.

    Raises:
        TooLarge: as `read_json` does.
    """
    found = record_rows.read(raw, version) or number_rows.read(raw)
    return None if found is None else Request(*found)


def read_bytes(raw: bytes, version: Version | None = None) -> Request:
    """What a body asks for; `version` is that whose rows they will be, if that is known.

    Raises:
        BadBody: it is no JSON object of this grammar.
        TooLarge: as `read_json` does.
    """
    return read_rows(raw, version) or read(read_json(raw))


def only_row(body: object) -> object:
    """The row of a body that holds nothing but one row in a list, as most do; None for any other body."""
    if type(body) is dict and len(body) == 1:
        rows = body.get("instances")
        if type(rows) is list and len(rows) == 1:
            return rows[0]
    return None


def read(body: object) -> Request:
    """What the JSON of a body asks for. Its rows are not looked at yet.

    Raises:
        BadBody: it is no object of this grammar.
    """
    if not isinstance(body, dict):
        raise BadBody('the body must be a JSON object with "instances" or "inputs"', shown(body))
    check_keys(body, _KEYS, "key")
    given = [key for key in ("instances", "inputs") if key in body]
    if len(given) != 1:
        raise BadBody('the body must have one of "instances" and "inputs"', "both" if given else "neither")
    rows = body[given[0]]
    if not isinstance(rows, list | dict):
        raise BadBody(f'"{given[0]}" must be a list of rows or one row', shown(rows))
    version, label = _version(body.get("version")), _text(body, "label")
    if version is not None and label is not None:
        raise BadBody('the body may have one of "version" and "label"', "both")
    parameters = body.get("parameters")
    given_parameters = parameters if isinstance(parameters, dict) else {}
    return Request(given[0], rows, _text(body, "model"), version, label, given_parameters)


def check_keys(given: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    """Refuse a key that nobody knows.

    Raises:
        BadBody: there is one; it says which is near.
    """
    for key in given:
        if key not in known:
            near = nearest(key, known)
            hint = f"did you mean {shown(near)}?" if near is not None else f"known are {', '.join(known)}"
            raise BadBody(f"{what} {shown(key)} is unknown; {hint}")


def write(version: Version, answers: Answers) -> bytes:
    """The JSON of an answer. Every float32 comes back bit by bit when its text is read and rounded to float32.

    Shape:
        answers: `prediction` [N, K], or `probabilities` [N, C] and `label` [N] -> N predictions

    Raises:
        ModelFailed: a number is not finite, or a label is no class: neither may leave as null.
    """
    (text,) = write_many(version, answers, len(next(iter(answers.values()))))
    return text


def write_many(version: Version, answers: Answers, rows: int) -> list[bytes]:
    """For every so many rows of an answer, the very bytes that `write` makes of these rows alone.

    Raises:
        ModelFailed: as `write` does, when one of them is not finite or no class.
    """
    manifest = version.manifest
    after: dict[str, Any] = _tail(version)
    values: dict[str, Any]
    if manifest.classes is None:
        prediction = finite(version, "prediction", answers)  # [N, K]
        if prediction.shape[1] == 1:
            prediction = prediction[:, 0].copy()
        if len(manifest.targets) > 1:
            after = {"targets": manifest.targets, **after}
        values = {"predictions": prediction}
    else:
        probabilities = finite(version, "probabilities", answers)  # [N, C]
        values = {"predictions": json_labels(version, answers), "probabilities": probabilities}
        after = {"classes": manifest.classes, **after}
    total = len(next(iter(answers.values())))
    return [
        orjson.dumps(
            {name: part[at : at + rows] for name, part in values.items()} | after, option=orjson.OPT_SERIALIZE_NUMPY
        )
        for at in range(0, max(1, total), max(1, rows))
    ]


def write_rows(version: Version, answers: Answers) -> list[bytes]:
    """For each row of an answer, the very bytes that `write` makes of that row alone.

    Raises:
        ModelFailed: as `write` does, when one of them is not finite or no class.
    """
    manifest = version.manifest
    pieces = _pieces(version)
    if manifest.classes is None:
        prediction = finite(version, "prediction", answers)
        texts = texts_of_rows(prediction) if len(manifest.targets) > 1 else texts_of_numbers(prediction[:, 0])
        return [pieces.before + text + pieces.after for text in texts]
    texts = texts_of_rows(finite(version, "probabilities", answers))
    labels = class_numbers(version, manifest.classes, answers).tolist()
    return [pieces.classes[label] + text + pieces.after for label, text in zip(labels, texts, strict=True)]


def write_few(version: Version, answers: Answers, rows: int) -> list[bytes]:
    """For every so many rows of an answer, the very bytes that `write` makes of these rows alone.

    Raises:
        ModelFailed: as `write` does, when one of them is not finite or no class.
    """
    pieces = _pieces(version)
    if version.manifest.classes is None:
        prediction = finite(version, "prediction", answers)
        is_one = prediction.shape[1] == 1
        texts = texts_of_rows(prediction.reshape(-1, rows)) if is_one else texts_of_tables(prediction, rows)
        return [pieces.before + text + pieces.after for text in texts]
    texts = texts_of_tables(finite(version, "probabilities", answers), rows)
    labels = json_labels(version, answers)
    if isinstance(labels, list):
        said = [orjson.dumps(labels[at : at + rows])[1:-1] for at in range(0, len(labels), rows)]
    else:
        said = texts_of_rows(labels.reshape(-1, rows))
    return [
        b'{"predictions":[%b],"probabilities":[[%b%b' % (own, text, pieces.after)
        for own, text in zip(said, texts, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Pieces:
    """What is the same in every answer of a version.

    Attributes:
        before: what stands before the numbers; empty for a classification.
        classes: for each class what stands before the probabilities of one row.
        after: what follows the numbers.
    """

    before: bytes
    classes: list[bytes]
    after: bytes


@lru_cache(maxsize=256)
def _pieces(version: Version) -> _Pieces:
    manifest = version.manifest
    tail = _tail(version)
    if manifest.classes is not None:
        after = b"]]," + orjson.dumps({"classes": manifest.classes, **tail})[1:]
        before = [orjson.dumps({"predictions": [label]})[:-1] + b',"probabilities":[[' for label in manifest.classes]
        return _Pieces(b"", before, after)
    if len(manifest.targets) > 1:
        return _Pieces(b'{"predictions":[[', [], b"]]," + orjson.dumps({"targets": manifest.targets, **tail})[1:])
    return _Pieces(b'{"predictions":[', [], b"]," + orjson.dumps(tail)[1:])


def _tail(version: Version) -> dict[str, Any]:
    return {"model_name": version.name, "model_version": str(version.number)}


def version_number(text: str) -> int | None:
    """The number of a version as it stands in a path; None for a text that is no such number."""
    plain = text.isascii() and text.isdigit() and not text.startswith("0") and len(text) <= _MOST_DIGITS
    return int(text) if plain else None


def _version(value: object) -> int | None:
    if value is None:
        return None
    number = version_number(value) if isinstance(value, str) else value
    if type(number) is not int or number < 1:
        raise BadBody('"version" must be a number from 1', shown(value))
    return number


def _text(body: Mapping[str, Any], key: str) -> str | None:
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise BadBody(f'"{key}" must be a text', shown(value))
    return value


def _check_rows(rows: int, most: int) -> None:
    if rows > most:
        raise TooLarge(most, rows, "rows")
