"""One line of the log per request, or per sampled request, where that is asked for.

No line holds a key or a body, and nothing that a client sends begins a line of its own: in JSON every control character
is escaped, and as text a value that is not plain stands in quotes, in ASCII.
"""

import asyncio
import json
import random
import re
import time
from collections.abc import Mapping
from typing import Any, Literal

import orjson

from models.errors import RowcastError
from service import problems
from service.ledger import Ledger
from service.observing.log_lines import moment
from service.observing.log_stream import LogStream

_WAIT_S = 0.1  # lines of requests are written together, this often
_LONGEST_PATH = 200
_PLAIN = re.compile(r"[A-Za-z0-9_.:/+@%-]+")


class AccessLog:
    """An observer of requests that writes a line for some of them."""

    def __init__(self, form: Literal["text", "json"], share: float, stream: LogStream) -> None:
        """`share` of the requests get a line; those answered 5xx all do."""
        self._write_line = _json_line if form == "json" else _text_line
        self._share = share
        self._stream = stream
        self._lines: list[bytes] = []

    def __call__(self, ledger: Ledger, problem: RowcastError | None) -> None:
        """Note a request whose answer is written."""
        status = 200 if problem is None else problems.status_of(problem)
        if status < 500 and self._share < 1 and random.random() >= self._share:  # noqa: S311 - a sample, no secret
            return
        if not self._lines:
            asyncio.get_running_loop().call_later(_WAIT_S, self.flush)
        self._lines.append(self._write_line(time.time(), _facts(ledger, problem, status)))

    def flush(self) -> None:
        """Write what has been noted."""
        lines, self._lines = self._lines, []
        self._stream.write_lines(b"".join(lines))


def _facts(ledger: Ledger, problem: RowcastError | None, status: int) -> Mapping[str, Any]:
    """What is told of a request; what is not known of it is left out."""
    now = time.perf_counter()
    facts: dict[str, Any] = {"request_id": ledger.id, "method": ledger.method}
    facts["path"] = ledger.path[:_LONGEST_PATH].encode(errors="replace").decode()
    facts |= {"status": status, "code": "ok" if problem is None else problem.code}
    if ledger.caller is not None:
        facts["client"] = ledger.caller.name
    if ledger.version is not None:
        facts |= {"model": ledger.version.name, "version": ledger.version.number, "rows": ledger.answered_rows}
    facts["seconds"] = round(now - ledger.started, 6)
    facts |= {f"{name}_s": round(end - start, 6) for name, start, end in ledger.stages(now)}
    if ledger.trace is not None:
        facts |= {"trace_id": ledger.trace.trace_id, "span_id": ledger.trace.span_id}
    return facts


def _json_line(when: float, facts: Mapping[str, Any]) -> bytes:
    head = {"time": moment(when), "level": "info", "logger": "access"}
    return orjson.dumps({**head, **facts}, option=orjson.OPT_APPEND_NEWLINE)


def _text_line(when: float, facts: Mapping[str, Any]) -> bytes:
    pairs = " ".join(f"{name}={_shown(value)}" for name, value in facts.items())
    return f"{moment(when)} INFO access: {pairs}\n".encode()


def _shown(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
