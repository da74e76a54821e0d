"""The requests that are measured: which rows, in which form, for which model."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from benchmarks.serving import mixed

Form = Literal["plain", "binary", "oip"]
"""JSON of each server's own; raw float32; JSON of the Open Inference Protocol."""


@dataclass(frozen=True)
class Kind:
    """A kind of request.

    Attributes:
        connections: how many the bars are set for; more can be asked for.
        like: the kind whose rows go the plain path, where this one goes another that may cost 10% more.
    """

    name: str
    model: str
    rows: int
    form: Form
    connections: tuple[int, ...]
    like: str | None = None


KINDS = {
    kind.name: kind
    for kind in (
        Kind("1 row JSON", "bench", 1, "plain", (1, 16, 64, 256)),
        Kind("1 row OIP JSON", "bench", 1, "oip", (16, 64), like="1 row JSON"),
        Kind("1 row OIP binary", "bench", 1, "binary", (16, 64), like="1 row JSON"),
        Kind("1000 rows JSON", "bench", 1000, "plain", (16,)),
        Kind("1000 rows OIP JSON", "bench", 1000, "oip", (16,), like="1000 rows JSON"),
        Kind("1000 rows binary", "bench", 1000, "binary", (16,), like="1000 rows JSON"),
        Kind("1 row, 20 mixed columns", "mixed", 1, "plain", (16, 64)),
        Kind("1000 rows, 20 mixed columns", "mixed", 1000, "plain", (16,)),
    )
}


@dataclass(frozen=True)
class Body:
    """What is sent."""

    raw: bytes
    type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def numbers(rows: int, features: int = 2) -> np.ndarray:
    """Rows of numbers with four digits, float32 [N, F]; the same on every call."""
    dice = random.Random(1)
    drawn = [[round(dice.uniform(-1, 1), 4) for _ in range(features)] for _ in range(rows)]
    return np.array(drawn, dtype=np.float32)


def texts(matrix: np.ndarray) -> list[list[float]]:
    """The numbers as a client writes them."""
    return [[round(float(value), 4) for value in row] for row in matrix]


def plain_json(rows: list[Any]) -> Body:
    """The JSON that Rowcast and, in these benchmarks, every peer takes."""
    return Body(as_json({"instances": rows}))


def oip_json(matrix: np.ndarray) -> Body:
    """A tensor of the Open Inference Protocol, its numbers as text."""
    data = [value for row in texts(matrix) for value in row]
    return Body(as_json({"inputs": [{"name": "features", "datatype": "FP32", "shape": matrix.shape, "data": data}]}))


def oip_binary(matrix: np.ndarray) -> Body:
    """A tensor of the Open Inference Protocol behind a head that says so, asking for probabilities in the same way."""
    size = {"binary_data_size": matrix.nbytes}
    tensor = {"name": "features", "datatype": "FP32", "shape": matrix.shape, "parameters": size}
    wanted = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    head = as_json({"inputs": [tensor], "outputs": wanted})
    length = {"Inference-Header-Content-Length": str(len(head))}
    return Body(head + matrix.tobytes(), "application/octet-stream", length)


def rows_of(kind: Kind) -> list[Any]:
    """The rows that a kind of request carries, as JSON has them."""
    return mixed.records(kind.rows) if kind.model == "mixed" else texts(numbers(kind.rows))


def probabilities_in(raw: bytes, kind: Kind, classes: int) -> np.ndarray:
    """The probabilities of an answer, float32 [N, C], whichever server gave it.

    Raises:
        KeyError, ValueError: it is no such answer.
    """
    shape = (kind.rows, classes)
    if kind.form == "binary":
        return np.frombuffer(raw[-kind.rows * classes * 4 :], np.float32).reshape(shape)
    answer = json.loads(raw)
    if kind.form == "oip":
        (answer["probabilities"],) = (
            output["data"] for output in answer["outputs"] if output["name"] == "probabilities"
        )
    return np.array(answer["probabilities"], np.float32).reshape(shape)


def as_json(value: object) -> bytes:
    """JSON without blanks."""
    return json.dumps(value, separators=(",", ":")).encode()
