"""The JSON of a request as Python's values, and numbers as JSON."""

import json
from typing import Any

import numpy.typing as npt
import orjson

from service.problems import BadBody, TooLarge

MOST_VALUES = 4_000_000
MOST_CONTAINERS = 1_000_000
"""Most values, and most lists and objects, of one JSON text. Python's values take up to 30 times the room of their
text: 16 MB of "[],[],..." took 527 MB. Larger tables come as binary tensors, which take none."""

_LARGE = 500_000  # bytes; a smaller text cannot do harm


def read_json(raw: bytes | memoryview, what: str = "the body") -> Any:
    """The value of a JSON text, which may hold the bare tokens NaN, Infinity and -Infinity; `what` is said in errors.

    Raises:
        BadBody: it is no such text.
        TooLarge: it holds too many values; nothing was made of them.
    """
    if not raw:
        raise BadBody(f"{what} must be a JSON object", "nothing")
    check_values(raw)
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
    """The JSON of each row of values [N, K], without the brackets of its list; all are written at once."""
    if not len(values):
        return []
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")


def texts_of_tables(values: npt.NDArray[Any], rows: int) -> list[bytes]:
    """The JSON of every so many rows of values [N, K], without the two brackets at either end; written at once."""
    tables = values.reshape(-1, rows, values.shape[1])
    return orjson.dumps(tables, option=orjson.OPT_SERIALIZE_NUMPY)[3:-3].split(b"]],[[")


def texts_of_numbers(values: npt.NDArray[Any]) -> list[bytes]:
    """The JSON of each of the numbers [N]; all are written at once."""
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def check_values(raw: bytes | memoryview) -> None:
    """Refuse a JSON text with too many values before anything is made of them.

    Raises:
        TooLarge: it has; one that has as many separators inside its strings is no table of numbers either.
    """
    if len(raw) <= _LARGE:
        return
    raw = bytes(raw)
    if raw.count(b"[") + raw.count(b"{") > MOST_CONTAINERS:
        raise TooLarge(MOST_CONTAINERS, None, "lists and objects")
    if raw.count(b",") > MOST_VALUES:
        raise TooLarge(MOST_VALUES, None, "values")
