"""What a connection may cost, with a clock of our own; tests/faults tries it over sockets."""

import asyncio
import json
from collections import Counter

import pytest

from service.http.connection import MOST_AHEAD
from service.http.connections import Connections
from tests.service.test_fast_lane import GOOD, Connection, Wire, counted, request

NOW = 1000.0


class Slow(Wire):
    """A transport whose client reads as much as `unread` says it has not."""

    unread = 0
    has_ended = False

    def get_write_buffer_size(self):
        return self.unread

    def write_eof(self):
        self.has_ended = True

    def abort(self):
        self.closed = True


@pytest.fixture
def talk(front, app, monkeypatch):
    """Runs a conversation with one connection."""
    monkeypatch.setattr("tests.service.test_fast_lane.Wire", Slow)

    def run(conversation):
        async def whole():
            connection = Connection(front, app)
            await conversation(connection)
            await connection.close()

        asyncio.run(whole())

    return run


def codes(answers):
    return [(status, json.loads(body).get("code", "ok")) for status, _, body in answers]


def test_a_head_that_does_not_end_is_cut_off_in_time_and_one_that_does_is_not(talk, front):
    async def conversation(connection):
        await connection.send(request()[:30])
        connection.protocol.look(NOW)
        connection.protocol.look(NOW + 4.9)
        assert connection.wire.written == b""
        connection.protocol.look(NOW + 5.1)
        assert codes(await connection.answers()) == [(408, "too_slow")]
        assert connection.wire.has_ended
        await connection.send(request())  # is not read any more
        assert connection.wire.written == b""

    talk(conversation)
    assert counted(front) == Counter({("", "", "too_slow"): 1})


def test_who_says_nothing_is_closed_and_who_is_idle_between_requests_is_not(talk):
    async def silent(connection):
        connection.protocol.look(NOW)
        connection.protocol.look(NOW + 6)
        assert (connection.wire.closed, connection.wire.written) == (True, b"")

    async def idle(connection):
        for second in range(0, 60, 3):
            await connection.send(request()[:20], request()[20:])
            await connection.answers()
            connection.protocol.look(NOW + second)
        connection.protocol.look(NOW + 70)
        assert not connection.wire.closed

    talk(silent)
    talk(idle)


def test_garbage_is_refused_behind_the_answer_to_what_came_before_it(talk, front):
    async def conversation(connection):
        await connection.send(request() + b"NONSENSE\r\n\r\n")
        assert codes(await connection.answers()) == [(200, "ok")]
        connection.protocol.look(NOW)
        assert codes(await connection.answers()) == [(400, "bad_http")]

    talk(conversation)
    assert counted(front) == Counter({("line", "2", "ok"): 1, ("", "", "bad_http"): 1})


UPGRADES = [
    ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"],
    ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZQ=="],
]


@pytest.mark.parametrize("headers", UPGRADES, ids=["h2c", "websocket"])
@pytest.mark.parametrize("cut", [10, 100, -5, None])
def test_who_would_rather_speak_another_protocol_is_answered_in_this_one(talk, front, headers, cut):
    async def conversation(connection):
        raw = request(GOOD, *headers) + request(GOOD) + request(GOOD, *headers)
        await connection.send(*((raw[:cut], raw[cut:]) if cut else (raw,)))
        assert codes(await connection.answers(3)) == [(200, "ok")] * 3
        await connection.send(request(b"", *headers, path="/v1/models", method="GET", length=False))
        assert codes(await connection.answers()) == [(200, "ok")]
        assert len(front.connections) == 1
        await connection.send(request(b"", path="/v1/models", method="CONNECT", length=False))
        assert codes(await connection.answers()) == [(400, "bad_http")]

    talk(conversation)
    assert len(front.connections) == 0
    assert counted(front) == Counter({("line", "2", "ok"): 3, ("", "", "bad_http"): 1})


LINE = b"POST /v1/models/line:predict HTTP/%b\r\n"
WHOLE = b"Content-Length: %d\r\n\r\n%b" % (len(GOOD), GOOD)
CHUNKS = b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (LINE % b"1.1" + WHOLE, "must have one Host header, got none"),
        (LINE % b"1.1" + b"Host: a\r\nhost: a\r\n" + WHOLE, "must have one Host header, got 2"),
        (LINE % b"1.0" + b"Host: a\r\nHost: b\r\n" + WHOLE, "must have one Host header, got 2"),
        (LINE % b"1.0" + WHOLE, None),
        (LINE % b"1.1" + b"Host: \r\n" + WHOLE, None),
        (LINE % b"1.1" + b"Host: a\r\nTransfer-Encoding: Chunked\r\n" + CHUNKS, None),
        (LINE % b"1.0" + b"Host: a\r\nTransfer-Encoding: chunked\r\n" + CHUNKS, "must have no Transfer-Encoding"),
        (LINE % b"1.1" + b"Host: a\r\nTransfer-Encoding: gzip, chunked\r\n" + CHUNKS, "got 'gzip, chunked'"),
        *(
            (LINE % b"1.1" + b"Host: a\r\nTransfer-Encoding: %b\r\n" % codings + CHUNKS, "")
            for codings in (b"gzip", b"chunked, chunked", b"gzip\r\nTransfer-Encoding: chunked", b"xchunked", b"")
        ),
        (LINE % b"1.1" + b"Host: a\r\nTransfer-Encoding: chunked\r\n" + WHOLE, ""),
    ],
)
def test_a_head_that_two_servers_may_read_in_two_ways_is_refused(talk, front, raw, said):
    """RFC 9112, sections 3.2, 6.1 and 6.3."""

    async def conversation(connection):
        await connection.send(request())
        await connection.answers()
        await connection.send(raw)
        ((status, headers, body),) = await connection.answers()
        if said is None:
            assert status == 200
        else:
            assert (status, json.loads(body)["code"], headers["connection"]) == (400, "bad_http", "close")
            assert said in json.loads(body)["error"]
            await connection.send(request())  # is not read any more
            assert connection.wire.written == b""

    talk(conversation)
    good = 1 + (said is None)
    assert counted(front) == Counter({("line", "2", "ok"): good} | ({} if said is None else {("", "", "bad_http"): 1}))


@pytest.mark.parametrize("path", ["/v1/models/line:predict", "/v1/models"])
def test_blanks_around_the_value_of_a_header_are_no_part_of_it(talk, path):
    """RFC 9110, section 5.5."""

    async def conversation(connection):
        method = "POST" if "predict" in path else "GET"
        raw = request(GOOD, "X-Request-Id: \t mine \t", "X-Timeout-Ms:9000 ", path=path, method=method)
        await connection.send(raw.replace(b"Content-Length: 20", b"Content-Length: 20 \t"))
        ((status, headers, _),) = await connection.answers()
        assert (status, headers["x-request-id"]) == (200, "mine")

    talk(conversation)


def test_a_client_of_http_1_0_that_asks_first_is_not_told_to_go_on(talk):
    """RFC 9110, section 10.1.1: it knows no answers before the answer."""

    async def conversation(connection):
        await connection.send(LINE % b"1.0" + b"Expect: 100-continue\r\n" + WHOLE)
        assert codes(await connection.answers()) == [(200, "ok")]

    talk(conversation)


@pytest.mark.parametrize("path", ["/v1/models/line:predict", "/v1/models"])
@pytest.mark.parametrize(
    "headers", [[f"X-{n}: {n}" for n in range(200)], ["X: " + "x" * 70_000]], ids=["too many", "too long"]
)
@pytest.mark.parametrize("cut", [60_000, 66_000, None])
def test_a_head_that_is_too_large_is_refused(talk, path, headers, cut):
    async def conversation(connection):
        raw = request(GOOD, *headers, path=path, method="POST" if "predict" in path else "GET")
        await connection.send(*((raw[:cut], raw[cut:]) if cut else (raw,)))
        assert codes(await connection.answers()) == [(431, "head_too_large")]

    talk(conversation)


def test_the_rest_of_a_body_that_is_answered_already_counts_for_no_head(talk):
    async def conversation(connection):
        body = request(b"x" * 300_000, path="/v1/models/nobody:predict")
        await connection.send(body[:1000])
        assert codes(await connection.answers()) == [(404, "unknown_model")]
        for start in range(1000, len(body), 50_000):
            await connection.send(body[start : start + 50_000])
        await connection.send(request()[:20])
        await connection.send(request()[20:])
        assert codes(await connection.answers()) == [(200, "ok")]

    talk(conversation)


@pytest.mark.parametrize("path", ["/v1/models/line:predict", "/predict?"])  # of the fast lane, of the application
def test_when_bodies_take_all_the_memory_that_they_may_more_are_refused_until_one_is_answered(front, app, talk, path):
    long = request(GOOD + b" " * 30_000, path=path)
    front.connections.most_held = 50_000

    async def conversation(one):
        other, third = Connection(front, app), Connection(front, app)
        await one.send(long[:-5_000])
        await other.send(long[:25_000])
        assert codes(await other.answers()) == [(503, "overloaded")]
        await other.close()
        await one.send(long[-5_000:])
        assert codes(await one.answers()) == [(200, "ok")]
        await third.send(long[:29_000], long[29_000:])
        assert codes(await third.answers()) == [(200, "ok")]
        await third.close()

    talk(conversation)
    assert front.connections.held == 0


def test_what_breaks_within_a_body_is_refused_once(talk, front):
    async def conversation(connection):
        raw = request(b"", "Transfer-Encoding: chunked", length=False)
        await connection.send(raw, b'5\r\n{"ins\r\n', b"no number\r\n")
        assert codes(await connection.answers()) == [(400, "bad_http")]
        assert connection.wire.closed

    talk(conversation)
    assert counted(front) == Counter({("line", "2", "bad_http"): 1})


def test_too_many_requests_ahead_are_refused_behind_the_answers(talk):
    async def conversation(connection):
        await connection.send(request(b"", path="/v1/models", method="GET") * (MOST_AHEAD + 50))
        answers = codes(await connection.answers(MOST_AHEAD + 1))
        assert set(answers) == {(200, "ok")}
        connection.protocol.look(NOW)
        assert codes(await connection.answers()) == [(400, "bad_http")]

    talk(conversation)


def test_who_does_not_read_is_cut_off_and_who_reads_slowly_is_not(talk):
    async def conversation(connection):
        await connection.send(request())
        await connection.answers()
        connection.wire.unread = 10_000_000
        for second in range(20):  # 150 kB in four seconds
            connection.protocol.look(NOW + 4 * second)
            connection.wire.unread -= 150_000
            assert not connection.wire.closed
        connection.protocol.look(NOW + 80)
        connection.protocol.look(NOW + 86)
        assert connection.wire.closed

    talk(conversation)


def test_one_connection_too_many_is_told_so(talk, front):
    front.connections.most = 0

    async def conversation(connection):
        assert codes(await connection.answers()) == [(503, "too_many_connections")]

    talk(conversation)
    assert len(front.connections) == 0


def test_bodies_are_held_together_and_forgotten_when_they_are_answered(front):
    class Holding:
        def __init__(self, held):
            self.held, self.is_answered = held, False

        def look(self, now):
            raise NotImplementedError

        def recount(self):
            self.held = 0 if self.is_answered else self.held
            return self.held

    connections = Connections(front.settings)
    first, second = Holding(300_000), Holding(90_000)
    for one in (first, second):
        connections.add(one)
        assert connections.hold(one.held)
    second.held += 20_000
    assert not connections.hold(20_000)  # of 400,000
    first.is_answered = True
    assert connections.hold(0)
    connections.remove(second)
    assert connections.held == 0
