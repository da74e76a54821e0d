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
from asyncio import TimerHandle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from models.errors import RowcastError
from models.proof import Answers
from service import accepting, problems
from service.asking import (
    ASIDE_BYTES,
    JSON,
    OIP_LENGTH,
    PRIORITY,
    URGENT,
    Question,
    body_s,
    check_model,
    find,
    find_by_path,
    may_be_urgent,
    oip_question,
    plain_question,
    whom,
)
from service.blame import blamed
from service.coalescer import Batch, Job, WriteRows, own_matrix
from service.connection import MOST_HEADERS, Connection
from service.front import Front
from service.ledger import Ledger, admit, count, problem_of, read_headers
from service.observing.tracing import read_trace
from service.problems import ClientGone, ModelFailed, TooSlow
from service.same_turn import LONGEST, NOBODY, Pending, TurnBatch
from service.wire import forms, oip_row, plain
from service.wire.json_text import read_json
from service.wire.record_rows import RecordRows

if TYPE_CHECKING:
    from models.repository import Version
    from service.access.gate import Caller

_NAME = r"[A-Za-z0-9_.-]+"
_PLAIN = re.compile(
    rf"/predict|/v1/models/(?P<model>{_NAME})(/versions/(?P<version>{_NAME})|/labels/(?P<label>{_NAME}))?:predict"
)
_OIP = re.compile(rf"/v2/models/(?P<model>{_NAME})(/versions/(?P<version>{_NAME}))?/infer")

_FOR_THE_APP = frozenset({b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"})
_FORMS = tuple(name.encode() for name, kind in forms.KINDS.items() if kind != "json")
_SAID_OF_IT = frozenset({b"x-request-id", b"x-routing-key", b"traceparent"})
_OIP_LENGTH = OIP_LENGTH.encode()
_PRIORITY, _URGENT = PRIORITY.encode(), URGENT.encode()
_JSON = b"content-type: application/json\r\n"
_LONGEST_KNOWN = 4000  # bytes of a head
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)\r\n", re.IGNORECASE)
_MOST_DIGITS = 8  # of a Content-Length that the fast lane reads


@dataclass(frozen=True, slots=True)
class _Target:
    """What a path names, as the application's routes read it.

    Attributes:
        whom: model, version and label; None where it takes more to find out.
    """

    text: str
    path: Mapping[str, str]
    is_oip: bool
    whom: tuple[str, int | None, str | None] | None


@lru_cache(maxsize=4096)
def _target_of(url: bytes) -> _Target | None:
    """Whom a prediction's path asks; None for a path that is the application's."""
    text = url.decode("latin-1")
    match, is_oip = _PLAIN.fullmatch(text), False
    if match is None:
        match, is_oip = _OIP.fullmatch(text), True
    if match is None:
        return None
    path = {name: value for name, value in match.groupdict().items() if value is not None}
    number = plain.version_number(path["version"]) if "version" in path else None
    is_plain = "model" in path and (number is not None or "version" not in path)
    return _Target(text, path, is_oip, (path["model"], number, path.get("label")) if is_plain else None)


@dataclass(frozen=True, slots=True)
class _Head:
    """What the headers of a request say that the fast lane may answer.

    Attributes:
        oip_length: the value of Inference-Header-Content-Length.
        is_bare: it has no id, no trace and no routing key.
        is_urgent: it asks to go before others.
    """

    headers: Mapping[bytes, bytes]
    target: _Target
    oip_length: str | None
    keep_alive: bool
    is_bare: bool
    is_urgent: bool


class Exchange(Job, Ledger):
    """One request that the fast lane answers: the coalescer's job, its own ledger, and in uvicorn's eyes a cycle.

    Attributes:
        lane: the connection it came on.
        response_complete, disconnected, message_event, keep_alive: what uvicorn looks at.
        give_up: at the deadline of its body, if that did not come at once.
        question: what it asks; None for one plain row, which is its `line`.
        write_rows: writes the answer to a `line`.
        oip_id: the id that comes back with the answer to a `line`; empty where there is none.
    """

    response_complete = False
    disconnected = False
    message_event = NOBODY
    is_prediction = True
    give_up: TimerHandle | None = None
    question: Question | None = None
    write_rows: WriteRows = staticmethod(plain.write_rows)
    oip_id = ""

    def __init__(self, lane: "FastLane", head: _Head, request_id: str, started: float) -> None:
        self.lane, self.head, self.keep_alive = lane, head, head.keep_alive
        self.id, self.started, self.path = request_id, started, head.target.text

    def answered(self, batch: Batch, start: int) -> None:
        """Write its part of the batch's answers."""
        self.sent, self.computed = batch.sent, batch.computed
        headers = JSON
        try:
            if self.question is not None:
                body, headers = self.question.write(batch.answers_of(start, self.rows))
            elif (written := batch.written(self.write_rows)) is not None:
                body = written[start]
            else:
                (body,) = self.write_rows(batch.version, batch.answers_of(start, 1))
            if self.oip_id:
                body = oip_row.with_id(batch.version, body, self.oip_id)
        except ModelFailed as error:
            self.lane.refuse(self, blamed(error, batch.version, own_matrix(self)))
        except Exception as error:  # noqa: BLE001 - whatever it was, the client gets a problem
            self.lane.refuse(self, error)
        else:
            self.lane.answer(self, headers, body)
            if self.question is not None:
                self.lane.tell_shadows(self, batch.answers_of(start, self.rows))

    def refused(self, problem: RowcastError) -> None:
        """Write the problem."""
        self.lane.refuse(self, problem)


class FastLane(Connection):
    """One connection. `front` is called once, in the process that answers."""

    def __init__(self, front: Callable[[], Front], *args: Any, **kwargs: Any) -> None:
        super().__init__(front, *args, **kwargs)
        self._exchange: Exchange | None = None  # the one that is not answered yet: never two
        self._chunks: list[bytes] | None = None  # of its body, as long as that comes
        self._idle_since = 0.0
        self._opening, self._opening_has = b"", [(b"", b"")]  # of an answer in JSON, and uvicorn's headers in it
        self._whole: tuple[_Head, bytes] | None = None  # a request of which all was in the data that is being read
        self._admitted: _Head | None = None  # a head for which nothing but time or a change can alter what follows
        self._admitted_at = -1
        self._caller: Caller | None = None
        self._version: Version | None = None
        self._turn_batch: TurnBatch | None = None  # of the next request, if its head is known
        self._pending = Pending(self)
        self._since = 0.0  # when the request came that is read again
        self._known: _Head | None = None  # the last head that came in one piece with its body
        self._known_bytes, self._known_length = b"", 0  # that head, and how long it was with its body
        self._known_around = b"", b""  # that head before and after the digits of its Content-Length

    # ------------------------------------------------------------------------------------------- a request comes

    def data_received(self, data: bytes) -> None:
        is_known = (len(data) == self._known_length and data.startswith(self._known_bytes)) or self._is_known(data)
        if not (is_known and self._is_between and self._is_free() and self._take_known(data[len(self._known_bytes) :])):
            self._parse(data)

    def _is_known(self, data: bytes) -> bool:
        """Whether it is a whole request, whose head differs from the known one in its Content-Length alone."""
        before, after = self._known_around
        if not before or not data.startswith(before):
            return False
        end = data.find(after, len(before), len(before) + _MOST_DIGITS)
        length = data[len(before) : max(0, end)]
        start = end + len(after)
        if not _is_small(length, self._front.settings.max_body_bytes) or int(length) != len(data) - start:
            return False
        self._known_bytes, self._known_length = data[:start], len(data)
        return True

    def _take_known(self, body: bytes) -> bool:
        """Take a request whose head is the one that the parser read the last time, unless it is to be refused."""
        front, batch = self._front, self._turn_batch
        is_admitted = self._known is self._admitted and self._admitted_at == front.gate.looks + front.catalog.changes
        if batch is not None and is_admitted:
            pending = self._pending
            pending.head, pending.body = self._known_bytes, body
            pending.started, pending.response_complete = time.perf_counter(), False
            self.cycle = pending  # type: ignore[assignment]  # it has what uvicorn looks at
            batch.add(pending)
            return True
        assert self._known is not None
        if not self._begin(self._known):
            return False
        exchange = self._exchange
        assert exchange is not None
        exchange.received = exchange.started
        self._ask(exchange, body)
        self._choose_batch(body)
        return True

    def read_again(self, pending: Pending) -> None:
        """Read a request that was not answered in its turn."""
        pending.response_complete = True
        self._since = pending.started
        self._parse(pending.head + pending.body)
        self._since = 0.0
        if not pending.keep_alive and self.cycle is not None:
            self.cycle.keep_alive = False

    def _parse(self, data: bytes) -> None:
        if not self._pending.response_complete:  # more comes before its answer: requests keep their order
            assert self._pending.batch is not None
            self._pending.batch.remove(self._pending)
            self.read_again(self._pending)
        was_between, self._whole = self._is_between, None
        super().data_received(data)
        if self._whole is not None and was_between and self._is_between:
            self._remember(data, *self._whole)
        elif self._chunks is not None and self._exchange is not None and self._exchange.give_up is None:
            seconds = body_s(self._front.settings)
            self._exchange.give_up = self.loop.call_later(seconds, self.refuse, self._exchange, TooSlow(seconds))

    def _remember(self, data: bytes, head: _Head, body: bytes) -> None:
        """Know this head again, where the data is it and its body and nothing else: most clients send one for ever."""
        end = len(data) - len(body)
        if head.keep_alive and end <= _LONGEST_KNOWN and data.find(b"\r\n\r\n") + 4 == end:
            self._known, self._known_bytes, self._known_length = head, data[:end], len(data)
            length = _LENGTH.search(self._known_bytes)
            self._known_around = (data[: length.start(1)], data[length.end(1) : end]) if length else (b"", b"")
            self._choose_batch(body)

    def _choose_batch(self, body: bytes) -> None:
        """Have the next request answered in its turn, if this one could have been."""
        exchange = self._exchange
        self._turn_batch = None
        is_admitted = exchange is not None and exchange.head is self._known is self._admitted
        if exchange is not None and exchange.rows and is_admitted and self._version is not None:
            head = exchange.head
            if exchange.line is not None or head.oip_length is not None:
                self._turn_batch = self._front.turn_batches.of(
                    self._version, body, is_oip=head.target.is_oip, oip_length=head.oip_length
                )

    def on_message_begin(self) -> None:
        self._is_between = False
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        head = self._read_head()
        if head is not None and self._is_free() and self._begin(head):
            self._chunks = []
        else:
            self._hand_over()

    def _hand_over(self) -> None:
        """Let uvicorn begin the request as well: the fast lane does without the scope that this makes."""
        url, expects, headers = self.url, self.expect_100_continue, self.headers
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()

    def _read_head(self) -> _Head | None:
        """The head that is there; None when its request is the application's."""
        target = _target_of(self.url)
        if target is None or self.parser.get_method() != b"POST" or self.parser.get_http_version() != "1.1":
            return None
        headers = dict(self.headers)
        if not len(self.headers) == len(headers) <= MOST_HEADERS or not _FOR_THE_APP.isdisjoint(headers):
            return None
        if any(_names_a_form(headers.get(name, b"")) for name in (b"content-type", b"accept")):
            return None
        if not _is_small(headers.get(b"content-length", b""), self._front.settings.max_body_bytes):
            return None
        length = headers.get(_OIP_LENGTH)
        oip_length = None if length is None else length.decode("latin-1")
        keep_alive = self.parser.should_keep_alive()
        is_bare = _SAID_OF_IT.isdisjoint(headers)
        is_urgent = not target.is_oip and headers.get(_PRIORITY) == _URGENT
        return _Head(headers, target, oip_length, keep_alive, is_bare=is_bare, is_urgent=is_urgent)

    def _is_free(self) -> bool:
        """Whether nothing is before the next request, neither unanswered nor unread by the client."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused

    def _begin(self, head: _Head) -> bool:
        """Begin an exchange, unless the request is to be refused before its body: the application does that."""
        front = self._front
        if head is self._admitted and self._admitted_at == front.gate.looks + front.catalog.changes:
            exchange = Exchange(self, head, front.ids.next(), self._since or time.perf_counter())
            exchange.routing_key, exchange.caller, exchange.version = exchange.id, self._caller, self._version
        elif (admitted := self._admit(head)) is None:
            return False
        else:
            exchange = admitted
        front.open_requests += 1
        self.cycle = self._exchange = exchange  # type: ignore[assignment]  # it has what uvicorn looks at
        return True

    def _admit(self, head: _Head) -> Exchange | None:
        """An exchange that may begin, with all that is known of it before its body; None when it may not."""
        front, target = self._front, head.target
        exchange = Exchange(self, head, "", self._since or time.perf_counter())
        read_headers(front, exchange, head.headers)
        is_lasting = head.is_bare and not head.is_urgent and front.open_trace is read_trace
        try:
            if target.whom is not None:  # an unknown model is refused before its rows are uploaded
                exchange.version = front.catalog.find(*target.whom, exchange.routing_key)
                is_lasting = is_lasting and not front.catalog.is_drawn(target.whom[0])
            elif target.path:
                look_up = find_by_path if target.is_oip else find
                exchange.version = look_up(front, target.path, exchange.routing_key)
                is_lasting = False
            # last of all, since it takes of what a client may ask in a second
            admit(front, exchange, head.headers, self.client, "predict", model=target.path.get("model"))
        except RowcastError:
            return None
        assert exchange.caller is not None
        if is_lasting and exchange.caller.headers is None:  # without a limit
            self._admitted, self._admitted_at = head, front.gate.looks + front.catalog.changes
            self._caller, self._version = exchange.caller, exchange.version
        return exchange

    def on_body(self, body: bytes) -> None:
        if self._chunks is None:
            super().on_body(body)
        else:
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        self._is_between = True
        chunks, self._chunks = self._chunks, None
        exchange = self._exchange
        if exchange is None or chunks is None:
            super().on_message_complete()
            return
        if exchange.give_up is not None:
            exchange.give_up.cancel()
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._whole = exchange.head, body
        exchange.received = time.perf_counter()
        self._ask(exchange, body)

    def _ask(self, exchange: Exchange, body: bytes) -> None:
        try:
            self._submit(exchange, body)
        except Exception as error:  # noqa: BLE001 - whatever it was, the client gets a problem
            self.loop.call_soon(self.refuse, exchange, error)  # never from within the parser, which may read on

    def _submit(self, exchange: Exchange, body: bytes) -> None:
        front, target = self._front, exchange.head.target
        within_s = front.settings.deadline_s
        if target.is_oip:
            assert exchange.version is not None
            if exchange.head.oip_length is None and len(body) <= LONGEST and not front.catalog.has_shadows:
                found = oip_row.line_of(read_json(body), exchange.version)
                if found is not None:
                    exchange.oip_id, exchange.line = found
                    exchange.write_rows = oip_row.write_rows
            if exchange.line is None:
                exchange.question = oip_question(front.settings, exchange.version, body, exchange.head.oip_length)
        else:
            request = self._read_plain(exchange, body)
            if request is not None:
                exchange.version = find(front, whom(target.path, request), exchange.routing_key)
                exchange.question = plain_question(front.settings, exchange.version, request)
        is_urgent = exchange.head.is_urgent
        if exchange.question is None:
            exchange.rows = 1
        else:
            is_urgent = is_urgent or exchange.question.is_urgent
            exchange.matrix, within_s = exchange.question.matrix, exchange.question.within_s
            exchange.rows = len(exchange.matrix)
        if target.whom is None and exchange.version is not None:  # else the path has named the model
            check_model(exchange, exchange.version)
        exchange.is_urgent = is_urgent and may_be_urgent(exchange)
        exchange.encoded = exchange.arrived = time.perf_counter()
        exchange.deadline = exchange.started + within_s
        front.coalescer.submit(exchange)

    def _read_plain(self, exchange: Exchange, body: bytes) -> plain.Request | None:
        """What a plain body asks; None where it is one plain row, which is the exchange's line now."""
        front = self._front
        request = plain.read_rows(body, exchange.version)
        if request is not None:
            if isinstance(request.rows, RecordRows) and request.key == "instances" and not front.catalog.has_shadows:
                exchange.line = request.rows.line()
            return request if exchange.line is None else None
        asked = read_json(body)
        row = None if front.catalog.has_shadows else plain.only_row(asked)  # a shadow encodes it by itself
        if row is not None:
            if exchange.version is None:
                exchange.version = find(front, exchange.head.target.path, exchange.routing_key)
            exchange.line = exchange.version.schema.line_of(row)
        return plain.read(asked) if exchange.line is None else None

    # ------------------------------------------------------------------------------------------- and is answered

    def answer(self, exchange: Exchange, headers: Mapping[str, str], body: bytes) -> None:
        """Write the answers to an exchange."""
        exchange.answered_rows = exchange.rows
        if headers is not JSON or not exchange.keep_alive or exchange.headers:
            self._write(exchange, 200, headers, body)
        else:
            if self._opening_has is not self.server_state.default_headers:  # uvicorn makes them anew every second
                self._opening_has, self._opening = self.server_state.default_headers, self.opening(_JSON)
            request_id = exchange.id.encode()
            self.transport.write(b"%b%d\r\nx-request-id: %b\r\n\r\n%b" % (self._opening, len(body), request_id, body))
        self._finish(exchange, None)

    def tell_shadows(self, exchange: Exchange, answers: Answers) -> None:
        """Have another version, if one is to see this traffic, compute what was answered."""
        if self._front.catalog.has_shadows:
            assert exchange.question is not None
            self._front.shadows.saw(exchange.question, exchange.routing_key, answers)

    def refuse(self, exchange: Exchange, error: Exception) -> None:
        """Write what went wrong with an exchange, if its client is still there."""
        if exchange.response_complete:
            return
        problem = problem_of(error, exchange, exchange.head.target.text)
        headers = {"content-type": "application/json", **problems.headers_of(problem)}
        self._write(exchange, problems.status_of(problem), headers, problems.body_of(problem, exchange.id))
        self._finish(exchange, problem)

    def _write(self, exchange: Exchange, status: int, headers: Mapping[str, str], body: bytes) -> None:
        exchange.keep_alive = exchange.keep_alive and "connection" not in headers
        lines = [f"{name}: {value}\r\n" for name, value in {**headers, **(exchange.headers or {})}.items()]
        if not exchange.keep_alive and "connection" not in headers:
            lines.append("connection: close\r\n")
        lines.append(f"content-length: {len(body)}\r\nx-request-id: {exchange.id}\r\n\r\n")
        opening = _opening(status, self.server_state.default_headers)
        self.transport.write(b"".join((opening, "".join(lines).encode("latin-1"), body)))

    def opening(self, headers: bytes) -> bytes:
        """The beginning of an answer with these headers, up to its length."""
        return _opening(200, self.server_state.default_headers) + headers + b"content-length: "

    def _finish(self, exchange: Exchange, problem: RowcastError | None) -> None:
        """Count the exchange, which is written, and let uvicorn go on with the connection."""
        self._close(exchange, problem)
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _close(self, exchange: Exchange, problem: RowcastError | None) -> None:
        exchange.response_complete = True
        self._exchange = self._chunks = None
        self._front.open_requests -= 1
        count(self._front, exchange, problem)

    def is_reading_body(self) -> bool:
        """Whether the head of the last request is there and its body is not."""
        return self._chunks is not None or super().is_reading_body()

    def break_body(self, problem: RowcastError) -> None:
        """Answer the problem to the request whose body ends here."""
        if self._chunks is None or self._exchange is None:
            super().break_body(problem)
            return
        self._exchange.keep_alive = False
        self.refuse(self._exchange, problem)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._pending.response_complete:
            assert self._pending.batch is not None
            assert self._known is not None
            self._pending.batch.remove(self._pending)
            self._pending.response_complete = True
            self._begin(self._known)  # so that it is counted
        exchange = self._exchange
        if exchange is not None:
            if exchange.give_up is not None:
                exchange.give_up.cancel()
            self._front.coalescer.withdraw(exchange)
            self._close(exchange, ClientGone())
        self._stop_timer()
        if accepting.tally is not None:
            accepting.tally.add(-1)
        super().connection_lost(exc)

    # ------------------------------------------------------------------------------------------- the keep-alive timer

    # uvicorn sets a timer after each answer and cancels it with each request. Here it runs on, and when it goes off
    # looks at how long the connection has been idle.

    def _unset_keepalive_if_required(self) -> None:
        pass

    def on_response_complete(self) -> None:
        self.rests(self.loop.time())

    def rests(self, since: float) -> None:
        """Go on with the connection, whose last request is answered, after the time `since` of its event loop."""
        self._idle_since = since
        if self.timeout_keep_alive_task is None or self.pipeline or self.flow.read_paused:
            self._stop_timer()
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self.cycle is not None and not self.cycle.response_complete:
            return  # its answer sets the timer again
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def _stop_timer(self) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None


def _opening(status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The beginning of an answer, with uvicorn's headers."""
    return b"".join((STATUS_LINE[status], *(b"%b: %b\r\n" % field for field in headers)))


def _names_a_form(value: bytes) -> bool:
    """Whether a type is that of rows or answers in a form that is not JSON: the application reads and writes those."""
    lower = value.lower()
    return any(form in lower for form in _FORMS)


def _is_small(length: bytes, most: int) -> bool:
    """Whether a body of this Content-Length is read here."""
    return length.isdigit() and len(length) < _MOST_DIGITS and int(length) <= min(most, ASIDE_BYTES - 1)
