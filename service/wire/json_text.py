"""The JSON of a request as Python's values."""

import json
from typing import Any

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
