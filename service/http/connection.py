"""What a connection may cost: how long a head may take, how large it is, how much is kept for a client that is slow.

uvicorn bounds none of it. A `Connection` is uvicorn's protocol with bounds. It is looked at once a second, so that a
request that behaves pays next to nothing for those that do not.

| what | bound | then |
|---|---|---|
| connections of a process | ROWCAST_MAX_CONNECTIONS, and what the limit of open files allows | 503, closed |
| a request's line and headers | 64 kB, 128 headers, ROWCAST_RECEIVE_S | 431 or 408, closed |
| the next requests that are sent ahead | 128 | 400 behind the answers before it, closed |
| bodies that are held, in all | four of the largest | 503, closed |
| an answer that is not read | ROWCAST_RECEIVE_S without 100 kB of it leaving | cut off |
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from models.errors import RowcastError, shown
from service import problems
from service.front import Front
from service.http import accepting
from service.ledger import Ledger, count
from service.problems import BadHttp, HeadTooLarge, Overloaded, TooManyConnections, TooSlow

MOST_HEAD_BYTES = 65536
MOST_HEADERS = 128
MOST_AHEAD = 128
_LARGE = 4096  # bytes of a body; a smaller piece is not counted as held
_LINGER_S = 2.0  # long enough to read a refusal that was written while the client still sent
_PROGRESS = 100_000  # bytes of an answer, see the table


class Connection(HttpToolsProtocol):
    """One connection. `front` is called once, in the process that answers."""

    def __init__(self, front: Callable[[], Front], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._front = front()
        self.held = 0
        self._is_between = True  # the parser has seen the end of a request and no more
        self._cycles: list[Any] = []  # of the application, not answered yet
        self._begun: object = None  # the headers of the last request that the application got
        self._held_of: object = None  # the cycle whose body `held` counts
        self._head_bytes = 0  # of a head that has begun to come
        self._head_since: tuple[float, object] | None = None  # when a head began to come, and the cycle before it
        self._unread_since: tuple[float, int] | None = None  # when the client last read, and the bytes that waited then
        self._refusal: RowcastError | None = None  # nothing more is read; it is written once all before it is answered
        self._close_at: float | None = None  # when to hang up, once the refusal is written
        self._idle_since = 0.0  # by the event loop's clock

    # ------------------------------------------------------------------------------------------- what comes

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        all_of_them = self._front.connections
        if not all_of_them.add(self):
            self.turn_away(TooManyConnections(all_of_them.most))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if accepting.tally is not None:
            accepting.tally.add(-1)
        self._front.connections.remove(self)
        for cycle in self._cycles:  # uvicorn tells the last one alone, and the others write to what is closed
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)
        # whoever refers to it here is let go, so that it is gone with its last request: the garbage collector would
        # hold up all others once it finds thousands
        self.parser = self.cycle = None  # type: ignore[assignment]
        self._cycles, self._held_of, self._head_since = [], None, None

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._feed(data)
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._head_bytes = 0 if self._rest_of_a_body_comes() else self._head_bytes + len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self.turn_away(HeadTooLarge(MOST_HEAD_BYTES, "bytes"))
        else:
            self._head_bytes = 0
            if len(data) >= _LARGE:
                self._hold(len(data))
        if len(self.headers or ()) > MOST_HEADERS:  # of a trailer
            self.turn_away(HeadTooLarge(MOST_HEADERS, "headers"))

    def _feed(self, data: bytes) -> None:
        """Have the parser read; a request that would rather speak another protocol is read as if it would not.

        RFC 9110, section 7.8, leaves that to the server, and clients count on it: `curl --http2`, and Java's own with
        their first request. The parser takes what follows such a head, the body included, for the other protocol.
        uvicorn would drop it, or hand the connection over to a WebSocket, out of sight of all bounds.
        """
        while data:
            unread = b""
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as upgrade:
                unread = self._head_without_upgrade() + data[upgrade.args[0] :]
            except HttpParserError:
                self.send_400_response("")
            data = unread

    def _head_without_upgrade(self) -> bytes:
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        lines = [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        return b"".join((line, *lines, b"\r\n"))

    def _hold(self, size: int) -> None:
        connections = self._front.connections
        if self._held_of is not self.cycle:  # what came before is answered
            connections.held -= self.held
            self.held, self._held_of = 0, self.cycle
        self.held += size
        if not connections.hold(size):
            self.turn_away(Overloaded(0))

    def on_header(self, name: bytes, value: bytes) -> None:
        """As uvicorn's, and without the blanks after a value: the parser takes off those before it alone.

        They are no part of it (RFC 9110, section 5.5). To call uvicorn's own takes 1 µs more for a head.
        """
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if len(self.headers) > MOST_HEADERS:
            self._break_off(HeadTooLarge(MOST_HEADERS, "headers"))
        if self._is_head_too_large():
            self._break_off(HeadTooLarge(MOST_HEAD_BYTES, "bytes"))
        if len(self.pipeline) >= MOST_AHEAD:
            self._break_off(BadHttp(f"at most {MOST_AHEAD} requests may be sent ahead of their answers"))
        if self.parser.get_method() == b"CONNECT":
            self._break_off(BadHttp("this server is no proxy, so there is no CONNECT"))
        if fault := self._fault_of_head():
            self._break_off(BadHttp(fault))
        if self.parser.should_upgrade():
            return  # it is read again, see `_feed`
        if self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False  # RFC 9110, section 10.1.1
        super().on_headers_complete()
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete] + [self.cycle]
        self._begun = self.headers

    def _is_head_too_large(self) -> bool:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MOST_HEAD_BYTES

    def _fault_of_head(self) -> str | None:
        """What a head says, or does not say, for which a proxy may take its request for another one than we do.

        The parser refuses two Content-Lengths, and one beside a Transfer-Encoding (RFC 9112, section 6).
        """
        names = [name for name, _ in self.headers]
        is_old = self.parser.get_http_version() in {"0.9", "1.0"}
        hosts = names.count(b"host")
        if hosts > 1 or not (hosts or is_old):
            return f"a request of HTTP/1.1 must have one Host header, got {hosts or 'none'}"
        if b"transfer-encoding" in names:
            codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
            if is_old:
                return "a request of HTTP/1.0 must have no Transfer-Encoding; send its Content-Length"
            if codings != [b"chunked"]:
                got = shown(b", ".join(codings).decode("latin-1"))
                return f"Transfer-Encoding must be chunked and nothing else, got {got}"
        return None

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _break_off(self, problem: RowcastError) -> None:
        """Stop the parser; uvicorn then calls `send_400_response`."""
        self._refusal = problem
        raise problem

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's sentence
        """Refuse what is no HTTP, or what a callback of the parser refused."""
        problem, self._refusal = self._refusal, None
        self.turn_away(problem or BadHttp())

    # ------------------------------------------------------------------------------------------- and is refused

    def turn_away(self, problem: RowcastError) -> None:
        """Read nothing more, answer the problem in its turn, and close."""
        if self._refusal is not None or self.transport.is_closing():
            return
        self._refusal = problem
        self._is_between = False  # what comes from now on is no request
        if self.is_reading_body():
            self.break_body(problem)
        else:
            self._write_refusal()

    def is_reading_body(self) -> bool:
        """Whether the head of the last request is there and its body is not."""
        cycle = self.cycle  # the last, whether it is begun with or waits for its turn
        return cycle is not None and not cycle.response_complete and getattr(cycle, "more_body", False)

    def break_body(self, problem: RowcastError) -> None:
        """Tell whoever reads the body that it ends here, and why; that one answers."""
        cycle = self.cycle
        cycle.scope["rowcast.broken"] = problem  # type: ignore[typeddict-unknown-key]
        cycle.keep_alive, cycle.more_body = False, False
        cycle.message_event.set()

    def _write_refusal(self) -> None:
        """Write it if all before it is answered; else `look` does."""
        if self._close_at is not None or not (self.cycle is None or self.cycle.response_complete):
            return
        if self.transport.is_closing():  # whoever read the body has answered it
            return
        assert self._refusal is not None
        self._close_at = time.monotonic() + _LINGER_S
        ledger = Ledger(self._front.ids.next(), time.perf_counter(), "")
        body = problems.body_of(self._refusal, ledger.id)
        headers = problems.headers_of(self._refusal) | {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "x-request-id": ledger.id,
            "connection": "close",
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        status = STATUS_LINE[problems.status_of(self._refusal)]
        self.transport.write(status + lines.encode("latin-1") + b"\r\n" + body)
        count(self._front, ledger, self._refusal)
        with contextlib.suppress(NotImplementedError, OSError):  # TLS cannot close one direction
            # a close with unread bytes would be a reset, which takes the refusal from the client
            self.transport.write_eof()

    # ------------------------------------------------------------------------------------------- and is looked at

    def look(self, now: float) -> None:
        """End it if it has taken too long."""
        if not self._reads_on(now) or (self._close_at is not None and now > self._close_at):
            self.transport.abort()
        elif self._refusal is not None:
            self._write_refusal()
        elif not self._sends_on(now):
            if self._head_bytes:
                self.turn_away(TooSlow(self._front.connections.receive_s))
            else:  # it never said anything, or has its answer
                self.transport.close()

    def recount(self) -> int:
        """How many bytes of bodies it holds; all that were answered are gone."""
        if self.cycle is None or self.cycle.response_complete:
            self.held = 0
        return self.held

    def _sends_on(self, now: float) -> bool:
        """False once a head, or the rest of a body that is already answered, has come for too long."""
        cycle = self.cycle
        is_idle = self._is_between and cycle is not None
        if is_idle or not (cycle is None or cycle.response_complete):
            self._head_since = None
        elif self._head_since is None or self._head_since[1] is not cycle:
            self._head_since = now, cycle
        else:
            return now - self._head_since[0] < self._front.connections.receive_s
        return True

    def _reads_on(self, now: float) -> bool:
        """False once the client has not read for too long what waits for it."""
        size = self.transport.get_write_buffer_size()
        if not size:
            self._unread_since = None
        elif self._unread_since is None or size < self._unread_since[1] - _PROGRESS:
            self._unread_since = now, size
        else:
            return now - self._unread_since[0] < self._front.connections.receive_s
        return True

    def _rest_of_a_body_comes(self) -> bool:
        """Whether the request was answered before its body was whole."""
        return self._begun is not None and self._begun is self.headers

    # ------------------------------------------------------------------------------------------- the keep-alive timer

    # uvicorn sets a timer after each answer and cancels it with each request. Here it runs on, and when it goes off
    # looks at how long the connection has been idle.

    def _unset_keepalive_if_required(self) -> None:
        pass

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
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
            self._arm_timer(left_s)
        else:
            super().timeout_keep_alive_handler()

    def _arm_timer(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _stop_timer(self) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
