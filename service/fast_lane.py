"""The fast lane: predictions answered from within uvicorn's HTTP protocol, without a task and a routing for each.

A request that is plainly a prediction goes bytes -> rows -> matrix -> coalescer -> one write. Every other one goes to
the application unchanged, which answers predictions too: whatever takes more than reading numbers here (a chunked or
compressed body, a large one, HTTP/1.0, Expect, a request behind an unanswered one, a refusal before the body) is its
part. So both lanes must give the same answers; tests/service/test_fast_lane.py holds them together.

uvicorn keeps what is under way on a connection in `cycle`, and starts the next pipelined request, arms the keep-alive
timeout and drains by it. An `Exchange` stands there in the cycle's place, so that all of this is uvicorn's own code.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from models.errors import RowcastError
from models.proof import Answers
from service import problems
from service.asking import (
    ASIDE_BYTES,
    OIP_LENGTH,
    Question,
    ask,
    find,
    find_by_path,
    oip_question,
    plain_question,
    whom,
)
from service.front import Front
from service.ledger import Ledger, check_key, count, open_ledger, problem_of
from service.problems import ClientGone, TooSlow
from service.wire import plain

_NAME = r"[A-Za-z0-9_.-]+"
_PLAIN = re.compile(
    rf"/predict|/v1/models/(?P<model>{_NAME})(/versions/(?P<version>{_NAME})|/labels/(?P<label>{_NAME}))?:predict"
)
_OIP = re.compile(rf"/v2/models/(?P<model>{_NAME})(/versions/(?P<version>{_NAME}))?/infer")

_FOR_THE_APP = frozenset({b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"})
_OIP_LENGTH = OIP_LENGTH.encode()


@dataclass(frozen=True, slots=True)
class _Target:
    """What a path names, as the application's routes read it."""

    text: str
    path: Mapping[str, str]
    is_oip: bool


@lru_cache(maxsize=4096)
def _target_of(url: bytes) -> _Target | None:
    """Whom a prediction's path asks; None for a path that is the application's."""
    text = url.decode("latin-1")
    match, is_oip = _PLAIN.fullmatch(text), False
    if match is None:
        match, is_oip = _OIP.fullmatch(text), True
    if match is None:
        return None
    return _Target(text, {name: value for name, value in match.groupdict().items() if value is not None}, is_oip)


class _Nobody:
    """Whom uvicorn wakes when something happened to a cycle: no task waits for an exchange."""

    def set(self) -> None:
        pass


@dataclass(slots=True, eq=False)
class Exchange:
    """One request that the fast lane answers; the first four attributes are what uvicorn looks at.

    Attributes:
        response_complete: it is answered, or nobody is there to answer.
        oip_length: the value of Inference-Header-Content-Length.
        give_up: at the deadline of its body, if that did not come at once.
        withdraw: takes it back from the coalescer, as long as that has it.
    """

    ledger: Ledger
    target: _Target
    oip_length: str | None
    keep_alive: bool
    response_complete: bool = False
    disconnected: bool = False
    message_event: _Nobody = field(default_factory=_Nobody)
    chunks: list[bytes] = field(default_factory=list)
    give_up: Any = None
    withdraw: Callable[[], None] | None = None


class FastLane(HttpToolsProtocol):
    """One connection. `front` is called per request, in the process that answers it."""

    def __init__(self, front: Callable[[], Front], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._front = front
        self._exchange: Exchange | None = None  # the one that is not answered yet: never two
        self._reading: Exchange | None = None  # the same as long as its body comes

    # ------------------------------------------------------------------------------------------- a request comes

    def on_headers_complete(self) -> None:
        exchange = self._open()
        if exchange is None:
            super().on_headers_complete()
            return
        self._front().open_requests += 1
        self._exchange = self._reading = exchange
        self.cycle = exchange  # type: ignore[assignment]  # it has what uvicorn looks at

    def _open(self) -> Exchange | None:
        """An exchange for the request whose headers are there; None when it is the application's."""
        target = _target_of(self.url)
        if target is None or not self._is_simple():
            return None
        headers = dict(self.headers)
        if len(headers) < len(self.headers) or not _FOR_THE_APP.isdisjoint(headers):
            return None
        front = self._front()
        if not _is_small(headers.get(b"content-length", b""), front.settings.max_body_bytes):
            return None
        ledger = open_ledger(headers)
        try:
            check_key(front, headers)
            if target.path:  # an unknown model is refused before its rows are uploaded
                look_up = find_by_path if target.is_oip else find
                ledger.version = look_up(front, target.path, ledger.routing_key)
        except RowcastError:
            return None
        ledger.is_prediction = True
        length = headers.get(_OIP_LENGTH)
        return Exchange(
            ledger, target, None if length is None else length.decode("latin-1"), self.parser.should_keep_alive()
        )

    def _is_simple(self) -> bool:
        """Whether it is a POST of HTTP/1.1 with nothing before it, neither unanswered nor unread by the client."""
        return (
            (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
        )

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        exchange = self._reading
        if exchange is not None and exchange.give_up is None:
            exchange.give_up = self.loop.call_later(
                self._front().settings.deadline_s, self._refuse, exchange, TooSlow(self._front().settings.deadline_s)
            )

    def on_body(self, body: bytes) -> None:
        if self._reading is None:
            super().on_body(body)
        else:
            self._reading.chunks.append(body)

    def on_message_complete(self) -> None:
        exchange, self._reading = self._reading, None
        if exchange is None:
            super().on_message_complete()
            return
        if exchange.give_up is not None:
            exchange.give_up.cancel()
        try:
            self._ask(exchange)
        except Exception as error:  # noqa: BLE001 - whatever it was, the client gets a problem
            self.loop.call_soon(self._refuse, exchange, error)  # never from within the parser, which may read on

    # ------------------------------------------------------------------------------------------- and is answered

    def _ask(self, exchange: Exchange) -> None:
        front, ledger, target = self._front(), exchange.ledger, exchange.target
        raw = b"".join(exchange.chunks)
        ledger.received = time.perf_counter()
        if target.is_oip:
            assert ledger.version is not None
            question = oip_question(front.settings, ledger.version, raw, exchange.oip_length)
        else:
            asked = plain.read(raw)
            ledger.version = find(front, whom(target.path, asked), ledger.routing_key)
            question = plain_question(front.settings, ledger.version, asked)
        exchange.withdraw = ask(front, ledger, question, partial(self._told, exchange, question))

    def _told(self, exchange: Exchange, question: Question, outcome: Answers | RowcastError) -> None:
        exchange.withdraw = None
        if isinstance(outcome, RowcastError):
            self._refuse(exchange, outcome)
            return
        try:
            body, headers = question.write(outcome)
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(exchange, error)
        else:
            exchange.ledger.rows = len(question.matrix)
            self._answer(exchange, 200, headers, body, None)

    def _refuse(self, exchange: Exchange, error: Exception) -> None:
        if exchange.response_complete:  # its client left
            return
        problem = problem_of(error, exchange.ledger, exchange.target.text)
        headers = {"content-type": "application/json", **problems.headers_of(problem)}
        body = problems.body_of(problem, exchange.ledger.id)
        self._answer(exchange, problems.status_of(problem), headers, body, problem)

    def _answer(
        self, exchange: Exchange, status: int, headers: Mapping[str, str], body: bytes, problem: RowcastError | None
    ) -> None:
        """Write the whole answer, count it, and let uvicorn go on with the connection."""
        exchange.keep_alive = exchange.keep_alive and "connection" not in headers
        head = [STATUS_LINE[status]]
        for field_name, value in self.server_state.default_headers:
            head += (field_name, b": ", value, b"\r\n")
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        if not exchange.keep_alive and "connection" not in headers:
            lines.append("connection: close\r\n")
        lines.append(f"content-length: {len(body)}\r\nx-request-id: {exchange.ledger.id}\r\n\r\n")
        head += ("".join(lines).encode("latin-1"), body)
        self.transport.write(b"".join(head))
        self._close(exchange, problem)
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _close(self, exchange: Exchange, problem: RowcastError | None) -> None:
        exchange.response_complete = True
        self._exchange = self._reading = None
        self._front().open_requests -= 1
        count(self._front(), exchange.ledger, problem)

    def connection_lost(self, exc: Exception | None) -> None:
        exchange = self._exchange
        if exchange is not None:
            if exchange.give_up is not None:
                exchange.give_up.cancel()
            if exchange.withdraw is not None:
                exchange.withdraw()
            self._close(exchange, ClientGone())
        super().connection_lost(exc)


def _is_small(length: bytes, most: int) -> bool:
    """Whether a body of this Content-Length is read here."""
    return length.isdigit() and len(length) < 8 and int(length) <= min(most, ASIDE_BYTES - 1)
