"""JSON Lines: a row on each line, an answer on each line.

[5.1, 3.5]                              {"prediction":"rose","probabilities":[0.9,0.1]}
[4.9, 3.0]                              {"prediction":"tulip","probabilities":[0.2,0.8]}
"""

from typing import Any

import numpy.typing as npt
import orjson

from models.proof import Answers
from models.repository import Version
from models.schema import Matrix, Schema
from service.problems import TooLarge
from service.wire.answers import class_numbers, finite
from service.wire.certainty import Certainty, sets
from service.wire.json_text import check_values, read_json, texts_of_rows


def encode(raw: bytes, schema: Schema, most_rows: int) -> Matrix:
    """The rows as the matrix that the graph reads, [N, F]; where a row has one value, a line may be that alone.

    Raises:
        BadBody: a line is no JSON; it names the line, from 1.
        TooLarge: there are more rows than `most_rows`, or too many values, see `check_values`; none was read.
        BadRow: as for `Schema.encode`.
    """
    check_values(raw)
    lines = raw.strip().split(b"\n") if raw.strip() else []
    if len(lines) > most_rows:
        raise TooLarge(most_rows, len(lines), "rows")
    rows = [read_json(line.strip(), f"line {number}") for number, line in enumerate(lines, 1)]
    if len(schema.names) == 1:
        rows = [row if isinstance(row, list | dict) else [row] for row in rows]
    return schema.encode(rows)


def write(version: Version, answers: Answers, sure: Certainty | None = None) -> bytes:
    """The lines of an answer: a number, a list of the targets' or a class, and the probabilities beside a class.

    How sure it is follows: `lower` and `upper`, of the form of the prediction, or `prediction_set`, a list of classes.

    Raises:
        ModelFailed: a number is not finite, or a label is no class.
    """
    classes = version.manifest.classes
    columns: dict[bytes, list[bytes]]
    if classes is None:
        columns = {b"prediction": _values(finite(version, "prediction", answers))}
        if sure is not None and sure.bounds is not None:
            columns |= {b"lower": _values(sure.bounds[0]), b"upper": _values(sure.bounds[1])}
    else:
        probabilities = [b"[%b]" % row for row in texts_of_rows(finite(version, "probabilities", answers))]
        texts = [orjson.dumps(one) for one in classes]
        labels = [texts[number] for number in class_numbers(version, classes, answers).tolist()]
        columns = {b"prediction": labels, b"probabilities": probabilities}
        if sure is not None:
            columns[b"prediction_set"] = [orjson.dumps(one) for one in sets(version, answers, sure)]
    line = b"{" + b",".join(b'"%b":%%b' % name for name in columns) + b"}\n"
    return b"".join(map(line.__mod__, zip(*columns.values(), strict=True)))


def _values(matrix: npt.NDArray[Any]) -> list[bytes]:
    """What stands for each row of a regression [N, K]: a number, or a list of K."""
    return texts_of_rows(matrix) if matrix.shape[1] == 1 else [b"[%b]" % row for row in texts_of_rows(matrix)]
