"""The JSON of a request as Python's values, and numbers as JSON."""

import json
from typing import Any

import numpy.typing as npt
import orjson

from service.problems import BadBody


def read_json(raw: bytes | memoryview, what: str = "the body") -> Any:
    """The value of a JSON text, which may hold the bare tokens NaN, Infinity and -Infinity; `what` is said in errors.

    Raises:
        BadBody: it is no such text.
    """
    if not raw:
        raise BadBody(f"{what} must be a JSON object", "nothing")
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raw = bytes(raw)
        if b"NaN" not in raw and b"Infinity" not in raw:
            raise BadBody(f"{what} must be JSON: {error}") from None
    try:  # Python clients write NaN and Infinity, which are no JSON; this parser reads them, several times slower
        return json.loads(raw.decode())
    except RecursionError:
        raise BadBody(f"{what} must be JSON: it is nested too deeply") from None
    except ValueError as error:  # no UTF-8, no JSON, or an integer of thousands of digits
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise BadBody(f"{what} must be JSON: {reason}") from None


def texts_of_rows(values: npt.NDArray[Any]) -> list[bytes]:
    """The JSON of each row of values [N, K], a list of its own; all are written at once."""
    rows = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
    return [b"[" + row + b"]" for row in rows]


def texts_of_numbers(values: npt.NDArray[Any]) -> list[bytes]:
    """The JSON of each of the numbers [N]; all are written at once."""
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
