"""The fast lane: predictions answered from within uvicorn's HTTP protocol, without a task and a routing for each.

A request takes the shortest of three ways that it can:

1. One like the last one of its connection is answered with all others of this turn of the event loop: `data_received`
   puts it into `Pending` (service/http/same_turn.py).
2. One that is plainly a prediction becomes an `Exchange`: head (`_begin`), body (`_ask`), rows, matrix, coalescer, one
   write (`answer`, `refuse`). A head that came before is not parsed again (`_take_known`).
3. Every other one goes to the application unchanged (`_hand_over`), which answers predictions too: whatever takes more
   than reading numbers here (a chunked or compressed body, a large one, HTTP/1.0, Expect, a request behind an
   unanswered one, a refusal before the body) is its part.

All ways must give the same answers; tests/service/test_fast_lane.py and test_same_turn.py hold them together.

uvicorn keeps what is under way on a connection in `cycle`, and starts the next pipelined request, arms the keep-alive
timeout and drains by it. An `Exchange` stands there in the cycle's place, so that all of this is uvicorn's own code.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.errors import RowcastError
from models.proof import Answers
from service import problems
from service.asking import JSON, body_s, find, find_by_path
from service.front import Front
from service.http.connection import MOST_HEAD_BYTES, Connection
from service.http.exchange import Exchange
from service.http.heads import Head, KnownHead, read_head
from service.http.openings import Opening, opening
from service.http.same_turn import Pending, TurnJob
from service.ledger import admit, count, problem_of, read_headers
from service.observing.tracing import read_trace
from service.problems import ClientGone, TooSlow
from service.wire.turn_forms import LastRequest

if TYPE_CHECKING:
    from models.repository import Version
    from service.access.gate import Caller

_NO_HEADS: dict[int, bytes] = {}
_JSON_OPENING = Opening(b"content-type: application/json\r\ncontent-length: ")


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A request that was admitted, and others with its head are as long as nothing changes.

    Attributes:
        version: None where the body names it.
        changes: what `Front.changes` was.
    """

    head: Head
    caller: "Caller"
    version: "Version | None"
    changes: int


class FastLane(Connection):
    """One connection. `front` is called once, in the process that answers."""

    __slots__ = ("_heads", "_pending")  # read for every request: a slot is found sooner than what is in `__dict__`

    def __init__(self, front: Callable[[], Front], *args: Any, **kwargs: Any) -> None:
        super().__init__(front, *args, **kwargs)
        self._exchange: Exchange | None = None  # the one that is not answered yet: never two
        self._chunks: list[bytes] | None = None  # what has come of its body; None while no body comes
        self._whole: tuple[Head, bytes] | None = None  # the request, if any, that this call of `_parse` has seen whole
        self._admitted: _Admitted | None = None
        self._pending = Pending(self)
        self._heads = _NO_HEADS  # by the length of a whole request: the head with which it goes straight to `_pending`
        self._may_be_too_large = False  # the head that the parser reads
        self._rows = 0  # of the last request: whoever sends as many rows twice will probably do so again
        self._since = 0.0  # when a request that is read again came first, else 0: its deadline counts from then
        self._known = KnownHead(self._front.settings.max_body_bytes)

    # ------------------------------------------------------------------------------------------- a request comes

    def data_received(self, data: bytes) -> None:
        head, pending = self._heads.get(len(data)), self._pending
        if head is None or pending.head or not data.startswith(head) or not pending.take(head, data):
            self._look_at(data)

    def _look_at(self, data: bytes) -> None:
        """Read data: by a head that is known, if they begin with it, else by the parser."""
        head = self._known.text_of(data) if self._is_between and self._is_free() else None
        if head is None or not self._take_known(head, data):
            self._parse(data)

    def _take_known(self, head: bytes, data: bytes) -> bool:
        """Read a request that has the last one's head, without the parser; False if it is refused before its body."""
        known = self._known
        if self._pending.take(head, data):
            self.cycle = self._pending  # type: ignore[assignment]  # it has what uvicorn looks at
            self._heads = known.texts
            return True
        assert known.head is not None
        if not self._begin(known.head):
            return False
        exchange = self._exchange
        assert exchange is not None
        exchange.received = exchange.started
        body = data[len(head) :]
        self._ask(exchange, body)
        self._choose_batch(body)
        return True

    def _parse(self, data: bytes) -> None:
        self._read_now()  # the request that waits came before these data
        self._heads = _NO_HEADS
        was_between, self._whole = self._is_between, None
        self._may_be_too_large = self._head_bytes + len(data) > MOST_HEAD_BYTES
        super().data_received(data)
        if self._whole is not None and was_between and self._is_between:
            head, body = self._whole
            if self._known.remember(head, data, body):
                self._choose_batch(body)
        elif self._chunks is not None and self._exchange is not None and self._exchange.give_up is None:
            seconds = body_s(self._front.settings)
            self._exchange.give_up = self.loop.call_later(seconds, self.refuse, self._exchange, TooSlow(seconds))

    def on_message_begin(self) -> None:
        self._is_between = False
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        head = read_head(self.url, self.headers, self.parser, self._front.settings.max_body_bytes)
        if self._may_be_too_large and self._is_head_too_large():
            head = None  # the application's part refuses it
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

    def _is_free(self) -> bool:
        """Whether nothing is before the next request, neither unanswered nor unread by the client."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused

    def _begin(self, head: Head) -> bool:
        """Begin an exchange, unless the request is to be refused before its body: the application does that."""
        front = self._front
        self._heads = _NO_HEADS
        admitted = self._still_admitted(head)
        if admitted is not None:
            exchange = Exchange(self, head, front.ids.next(), self._since or time.perf_counter())
            exchange.routing_key, exchange.caller, exchange.version = exchange.id, admitted.caller, admitted.version
        elif (begun := self._admit(head)) is not None:
            exchange = begun
        else:
            return False
        front.open_requests += 1
        self.cycle = self._exchange = exchange  # type: ignore[assignment]  # it has what uvicorn looks at
        return True

    def _still_admitted(self, head: Head) -> _Admitted | None:
        """What is known of a head that was admitted before; None where it is to be looked at."""
        admitted = self._admitted
        if admitted is not None and admitted.head is head and admitted.changes == self._front.changes:
            return admitted
        return None

    def _admit(self, head: Head) -> Exchange | None:
        """An exchange with all that is known before its body; None when the request is refused already.

        What does not change from request to request of the same head is kept as `_admitted`.
        """
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
            self._admitted = _Admitted(head, exchange.caller, exchange.version, front.changes)
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
            exchange.ask(self._front, body)
        except Exception as error:  # noqa: BLE001 - whatever it was, the client gets a problem
            self.loop.call_soon(self.refuse, exchange, error)  # never from within the parser, which may read on

    def _choose_batch(self, body: bytes) -> None:
        """Have the next request answered in its turn, if this one could have been."""
        exchange, rows_before = self._exchange, self._rows
        self._pending.batch, self._rows = None, 0 if exchange is None else exchange.rows
        if exchange is None or not exchange.rows or exchange.head is not self._known.head:
            return
        admitted, head, rows = self._still_admitted(exchange.head), exchange.head, exchange.rows
        if admitted is None or admitted.version is None:
            return
        # one plain row, raw tensors, a flat list of the Open Inference Protocol, or as many plain rows as before
        begin = None if exchange.question is None else exchange.question.begin
        are_as_many = not head.target.is_oip and 1 < rows == rows_before
        if exchange.line is not None or head.oip_length is not None or begin is not None or are_as_many:
            last = LastRequest(admitted.version, body, rows, head.target.is_oip, head.oip_length, begin)
            self._pending.batch = self._front.turn_batches.of(last)

    # ------------------------------------------------------------------------------------------- and is answered

    def answer(self, exchange: Exchange, headers: Mapping[str, str], body: bytes) -> None:
        """Write the answers to an exchange."""
        exchange.answered_rows = exchange.rows
        if headers is not JSON or not exchange.keep_alive or exchange.headers:
            self._write(exchange, 200, headers, body)
        else:
            begins, request_id = _JSON_OPENING.text(self.server_state.default_headers), exchange.id.encode()
            self.transport.write(b"%b%d\r\nx-request-id: %b\r\n\r\n%b" % (begins, len(body), request_id, body))
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
        begins = opening(status, self.server_state.default_headers)
        self.transport.write(b"".join((begins, "".join(lines).encode("latin-1"), body)))

    def _finish(self, exchange: Exchange, problem: RowcastError | None) -> None:
        """Count the exchange, which is written, and let uvicorn go on with the connection."""
        self._close(exchange, problem)
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _close(self, exchange: Exchange, problem: RowcastError | None) -> None:
        exchange.response_complete = True
        exchange.stands_for = self._exchange = self._chunks = None
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

    # ------------------------------------------------------------------------------- or has waited with others

    def read_again(self, pending: Pending) -> None:
        """Read a request that was not answered in its turn."""
        data, pending.head = pending.head + pending.body, b""
        self._since = pending.started
        self._parse(data)
        self._since = 0.0

    def _read_now(self) -> None:
        """Have a request that waits with others read again: something comes before their answers."""
        pending = self._pending
        if pending.job is not None:
            self.take_out(pending.job)
        elif pending.head:
            pending.withdraw()
            self.read_again(pending)

    def take_out(self, job: TurnJob) -> Exchange:
        """Have a request that a worker computes with others answered by itself: the exchange that does so."""
        pending, exchange = self._pending, self._stand_in()
        exchange.stands_for, job.stand_in, job.together = job, exchange, None
        exchange.version = job.version
        body, pending.head, pending.job = pending.body, b"", None
        try:
            exchange.read(self._front, body, job.version)
        except Exception as error:  # noqa: BLE001 - it was read before, so this is nobody's mistake but ours
            self._front.coalescer.withdraw(job)
            self.loop.call_soon(self.refuse, exchange, error)
        return exchange

    def _stand_in(self) -> Exchange:
        """An exchange in the place of the request that waits with others."""
        front, admitted = self._front, self._admitted
        assert admitted is not None
        exchange = Exchange(self, admitted.head, front.ids.next(), self._pending.started)
        exchange.routing_key, exchange.caller, exchange.received = exchange.id, admitted.caller, exchange.started
        front.open_requests += 1
        self._heads = _NO_HEADS
        self.cycle = self._exchange = exchange  # type: ignore[assignment]  # it has what uvicorn looks at
        return exchange

    # ------------------------------------------------------------------------------- and something comes in between

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._pending.write = transport.write

    def pause_writing(self) -> None:
        self._heads = _NO_HEADS
        super().pause_writing()

    def turn_away(self, problem: RowcastError) -> None:
        self._heads = _NO_HEADS
        super().turn_away(problem)

    def shutdown(self) -> None:
        self._read_now()  # its answer says that it is the last
        super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        self._idle_since = max(self._idle_since, self._pending.answered)
        super().timeout_keep_alive_handler()
        if self._pending.head:
            self._arm_timer(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._pending.job is not None:
            self.take_out(self._pending.job)
        elif self._pending.head:
            assert self._known.head is not None
            self._pending.withdraw()
            self._begin(self._known.head)  # so that it is counted
        exchange = self._exchange
        if exchange is not None:
            if exchange.give_up is not None:
                exchange.give_up.cancel()
            self._front.coalescer.withdraw(exchange.stands_for or exchange)
            self._close(exchange, ClientGone())
        super().connection_lost(exc)
        del self._pending.connection
