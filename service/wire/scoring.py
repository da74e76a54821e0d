"""The JSON of MLflow's scoring protocol (versions 2 and 3) and of Vertex AI, as SageMaker's clients send it too.

    {"dataframe_split": {"columns": ["length", "width"], "data": [[5.1, 3.5], [4.9, 3.0]]}}
    {"dataframe_records": [{"length": 5.1, "width": 3.5}, {"length": 4.9, "width": 3.0}]}
    {"instances": ...} and {"inputs": ...}      as in `service.wire.plain`
    {"params": {"output": "probabilities"}}     beside any of them; Vertex AI calls it "parameters"

An answer is `{"predictions": [...]}` and has no other key: MLflow's client refuses one that has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from models.errors import BadRow, shown
from models.proof import Answers
from models.repository import Version
from models.schema import Matrix, Schema
from service.problems import BadBody, TooLarge
from service.wire import plain
from service.wire.answers import finite, json_labels
from service.wire.columns import check_names
from service.wire.json_text import read_json

OUTPUTS = ("prediction", "probabilities")
"""What an answer with room for one thing may be asked to hold."""

_ROWS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_KEYS = (*_ROWS, "params", "parameters", "signature_name")
_SPLIT = ("columns", "data", "index")


@dataclass(frozen=True, slots=True)
class Request:
    """What a body asks for.

    Attributes:
        key: which of the four forms its rows have.
        rows: as they came.
        output: one of `OUTPUTS`, where it says which.
    """

    key: str
    rows: Any
    output: str | None = None

    def encode(self, schema: Schema, most_rows: int) -> Matrix:
        """The rows as the matrix that the graph reads, [N, F].

        Raises:
            BadBody: they are not of the form that their key says.
            TooLarge: N is above `most_rows`; nothing was encoded.
            BadRow: as for `Schema.encode` and `Schema.encode_columns`.
        """
        if self.key == "dataframe_split":
            return _encode_split(self.rows, schema, most_rows)
        if not isinstance(self.rows, list | dict):
            raise BadBody(f'"{self.key}" must be a list of rows or one row', shown(self.rows))
        return plain.Request("inputs" if self.key == "inputs" else "instances", self.rows).encode(schema, most_rows)


def read(raw: bytes) -> Request:
    """What a body asks for. Its rows are not looked at yet.

    Raises:
        BadBody: it is no JSON object of this grammar.
    """
    body = read_json(raw)
    if not isinstance(body, dict):
        raise BadBody(f"the body must be a JSON object with one of {', '.join(_ROWS)}", shown(body))
    plain.check_keys(body, _KEYS, "key")
    given = [key for key in _ROWS if key in body]
    if len(given) != 1:
        raise BadBody(f"the body must have one of {', '.join(_ROWS)}", " and ".join(given) or "none of them")
    output = None
    for key in ("params", "parameters"):
        params = body.get(key) or {}
        if not isinstance(params, dict):
            raise BadBody(f'"{key}" must be an object', shown(params))
        plain.check_keys(params, ("output",), f'key of "{key}"')
        output = params.get("output", output)
    if output is not None and output not in OUTPUTS:
        raise BadBody(f"the output must be one of {', '.join(OUTPUTS)}", shown(output))
    return Request(given[0], body[given[0]], output)


def _encode_split(frame: Any, schema: Schema, most_rows: int) -> Matrix:
    """A frame of pandas, as `to_dict(orient="split")` gives it; its index says nothing here."""
    if not isinstance(frame, dict):
        raise BadBody('"dataframe_split" must be an object with "columns" and "data"', shown(frame))
    plain.check_keys(frame, _SPLIT, 'key of "dataframe_split"')
    columns, data = frame.get("columns"), frame.get("data")
    if not isinstance(data, list) or not isinstance(columns, list | None):
        raise BadBody('"columns" and "data" of "dataframe_split" must be lists', shown(data if columns else columns))
    if len(data) > most_rows:
        raise TooLarge(most_rows, len(data), "rows")
    if columns is None or columns == list(range(len(schema.names))):  # numbers: positions, as numpy's columns have them
        columns = list(schema.names)
    moments = {feature.name for feature in schema.features if feature.kind == "datetime"}
    if columns == list(schema.names) and not moments:
        return schema.encode([_line(number, row) for number, row in enumerate(data)])
    names = [name if isinstance(name, str) else shown(name) for name in columns]
    check_names(names, schema, "among the columns")
    for number, row in enumerate(data):
        if len(_line(number, row)) != len(columns):
            raise BadRow(number, None, f"must have {len(columns)} values, as many as columns", str(len(row)))
    cells = zip(*data, strict=True) if data else [()] * len(names)
    return schema.encode_columns(
        {name: _without_nat(column) if name in moments else column for name, column in zip(names, cells, strict=True)}
    )


def _without_nat(values: Sequence[Any]) -> list[Any]:
    """The values of a datetime; MLflow's client writes pandas' missing one as this text."""
    return [None if value == "NaT" else value for value in values]


def _line(number: int, row: Any) -> list[Any]:
    if not isinstance(row, list):
        raise BadRow(number, None, "must be a list of values", shown(row))
    return row


def write(version: Version, answers: Answers, *, output: str) -> bytes:
    """The JSON of an answer: numbers, lists of the targets' numbers, classes, or lists of the classes' probabilities.

    Raises:
        ModelFailed: a number is not finite, or a label is no class.
    """
    classes = version.manifest.classes
    predictions: Any
    if classes is None:
        values = finite(version, "prediction", answers)  # [N, K]
        predictions = values[:, 0].copy() if values.shape[1] == 1 else values
    else:
        likely = finite(version, "probabilities", answers)  # [N, C]
        labels = json_labels(version, answers)  # where they are no classes, the probabilities mean nothing either
        predictions = likely if output == "probabilities" else labels
    return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)
