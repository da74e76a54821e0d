"""Clients that are slow, broken or many: those who behave notice nothing, and nothing of the others is kept."""

import concurrent.futures
import contextlib
import json
import os
import random
import resource
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.faults.accounting import Load
from tests.faults.measured import memory_mb
from tests.server.conftest import START_S, until
from tests.service import tiny

pytestmark = pytest.mark.faults

LINE = "/v1/models/line:predict"
RECEIVE_S = 2.0  # not the 10 of the default: it is waited for


def request(body=b'{"instances": [[3]]}', *headers, path=LINE, method="POST"):
    lines = [f"{method} {path} HTTP/1.1", "Host: rowcast", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextlib.contextmanager
def connected(server, count=1):
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30)) for _ in range(count)
        ]


def said(wire):
    """All that the server says until it closes."""
    wire.settimeout(30.0)
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := wire.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def answers(raw):
    """Status and body of each of the answers that stand one behind the other."""
    found = []
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        (length,) = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        found.append((int(head.split()[1]), json.loads(rest[:length])))
        raw = rest[length:]
    return found


def codes(raw):
    return [(status, body.get("code", "ok")) for status, body in answers(raw)]


def others_are_unaffected(load):
    print(f"\n{load.books}")
    assert not load.books.failed


# --------------------------------------------------------------------------------------------------- slow


SLOW = {
    "nothing at all": b"",
    "half a line": b"POST /v1/mod",
    "headers without an end": request()[:80],
    "half a body": request()[:-5],
    "half a body for the application": request(b"", path="/predict")[:-21]
    + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
}


@pytest.mark.parametrize("what", SLOW)
def test_who_sends_too_slowly_is_cut_off_in_time_and_told_so(start, what):
    server = start(receive_s=RECEIVE_S)
    with connected(server) as (wire,):
        wire.sendall(SLOW[what])
        began = time.monotonic()
        raw = said(wire)
        assert RECEIVE_S * 0.9 < time.monotonic() - began < RECEIVE_S + 3
    expected = [] if not SLOW[what] else [(408, "too_slow")]
    assert codes(raw) == expected


def test_who_sends_a_byte_now_and_then_is_cut_off_too(start):
    server = start(receive_s=RECEIVE_S)
    with connected(server) as (wire,), Load(server) as load:
        began = time.monotonic()
        wire.settimeout(0.2)
        raw, left = b"", iter(request(b"", *[f"X-{n}: {n}" for n in range(100)]))
        while not raw:
            wire.sendall(bytes([next(left)]))
            with contextlib.suppress(TimeoutError):
                raw = wire.recv(1 << 16)
        assert time.monotonic() - began < RECEIVE_S + 3
        assert codes(raw) == [(408, "too_slow")]
    others_are_unaffected(load)


def test_who_reads_no_answers_is_cut_off_and_holds_little(start):
    server = start(receive_s=RECEIVE_S)
    body = json.dumps({"instances": [[x] for x in range(2_000)]}).encode()
    before = memory_mb(server)
    with connected(server, 4) as wires, Load(server, rate=50) as load:
        for wire in wires:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wire.setblocking(False)
        most = 0.0
        closed, rest = set(), dict.fromkeys(wires, b"")
        deadline = time.monotonic() + 90
        while len(closed) < len(wires):
            assert time.monotonic() < deadline, f"{len(wires) - len(closed)} are still open"
            for wire in wires:
                rest[wire] = rest[wire] or request(body)
                try:
                    rest[wire] = rest[wire][wire.send(rest[wire]) :]
                except BlockingIOError:
                    pass
                except OSError:
                    closed.add(wire)
            most = max(most, memory_mb(server))
            time.sleep(0.1)
    print(f"\n4 clients that read nothing: {most - before:.0f} MB more")
    assert most - before < 100
    others_are_unaffected(load)


# --------------------------------------------------------------------------------------------------- too much


MANY = {
    "20,000 headers": ([request(b"", *[f"X-{n}: {n}" for n in range(20_000)])], [(431, "head_too_large")]),
    "200 headers": ([request(b"", *[f"X-{n}: {n}" for n in range(200)])], [(431, "head_too_large")]),
    "200 headers of another route": (
        [request(b"", *[f"X-{n}: {n}" for n in range(200)], path="/v1/models", method="GET")],
        [(431, "head_too_large")],
    ),
    "a header of 100 kB": ([request(b"", "X: " + "x" * 100_000, path="/", method="GET")], [(431, "head_too_large")]),
    "a header of 100 MB": ([b"GET / HTTP/1.1\r\nX: ", *[b"x" * 1_000_000] * 100], [(431, "head_too_large")]),
    "a line of 10 MB": ([b"GET /", *[b"x" * 1_000_000] * 10], [(431, "head_too_large")]),
    "a trailer of 20,000 headers": (
        [
            request(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b""),
            b"5\r\nhello\r\n0\r\n",
            *[b"X-1: 1\r\n" * 1000] * 20,
        ],
        [(431, "head_too_large")],
    ),
    "1,000 requests ahead": (
        [request(b"", path="/v1/models", method="GET") * 1000],
        [*[(200, "ok")] * 129, (400, "bad_http")],
    ),
}


@pytest.mark.parametrize("what", MANY)
def test_who_sends_too_much_of_a_head_is_refused(start, what):
    chunks, expected = MANY[what]
    server = start(receive_s=RECEIVE_S)
    before = memory_mb(server)
    with connected(server) as (wire,), Load(server, rate=50) as load:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for chunk in chunks:
                wire.sendall(chunk)
        raw = said(wire)
    if "MB" not in what:  # who goes on sending so much may meet a reset before it reads
        assert codes(raw) == expected
    assert memory_mb(server) - before < 20
    others_are_unaffected(load)


def test_bodies_together_hold_no_more_than_four_of_the_largest(start):
    server = start(max_body_bytes=8_000_000, receive_s=10, api_processes=1)
    before = memory_mb(server)
    with connected(server, 40) as wires, Load(server, rate=50) as load:
        refused = []

        def send_most_of_it(wire):
            wire.sendall(request(b"", path="/predict").replace(b"Length: 0", b"Length: 8000000"))
            with contextlib.suppress(OSError):
                for _ in range(79):
                    wire.sendall(b" " * 100_000)
                return
            refused.append(wire)

        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            list(pool.map(send_most_of_it, wires))
        grown = memory_mb(server) - before
    print(f"\n40 bodies of 8 MB that do not end: {grown:.0f} MB more, {len(refused)} refused while they came")
    assert grown < 100
    others_are_unaffected(load)


def test_two_thousand_connections_of_every_kind_leave_the_others_alone(start):
    server = start(api_processes=2, receive_s=5)
    dice = random.Random(0)
    kinds = [*SLOW.values(), b"\x16\x03\x01\x02\x00\x01\x00\x01", b"GET / HTTP/9.9\r\n\r\n", request()]
    before, longest = memory_mb(server), 0.0
    with Load(server) as load, connected(server, 2000) as wires:
        for wire in wires:
            wire.sendall(dice.choice(kinds))
            if dice.random() < 0.2:
                wire.shutdown(socket.SHUT_WR)
        most = memory_mb(server)
        for _ in range(20):
            began = time.monotonic()
            assert server.is_live()
            longest = max(longest, time.monotonic() - began)
            most = max(most, memory_mb(server))
            time.sleep(0.4)
    print(f"\n2,000 connections: {most - before:.0f} MB more, live within {longest:.2f} s")
    assert most - before < 100
    assert longest < 1
    others_are_unaffected(load)


def test_a_burst_that_comes_while_nobody_accepts_is_answered(start):
    """uvicorn lets 2048 connections wait; what comes after them is left to ask again and again, for a minute."""
    if int(Path("/proc/sys/net/core/somaxconn").read_text()) < 3000:
        pytest.skip("this machine's kernel lets fewer connections wait")
    server = start(hang_s=6000)
    (api,) = server.apis
    os.kill(api, signal.SIGSTOP)
    with connected(server, 3000) as wires:
        for wire in wires:
            wire.sendall(request(b'{"instances": [[3]]}', "Connection: close"))
        os.kill(api, signal.SIGCONT)
        assert {codes(said(wire))[0] for wire in wires} == {(200, "ok")}


def test_more_connections_than_there_may_be_are_told_so_and_those_that_are_there_go_on(start):
    server = start(max_connections=50, api_processes=1)
    with connected(server, 45) as wires:
        for wire in wires:
            wire.sendall(request())
            assert b"200 OK" in wire.recv(1000)
        with connected(server, 40) as more:
            time.sleep(0.5)
            told = [codes(said(wire)) for wire in more[10:]]
        assert told == [[(503, "too_many_connections")]] * 30
        for wire in wires:
            wire.sendall(request())
            assert b"200 OK" in wire.recv(1000)
    until(lambda: server.metric("rowcast_requests_total") >= 90)


# --------------------------------------------------------------------------------------------------- broken


GOOD = request()
BROKEN = {
    "garbage": (b"\x16\x03\x01\x02\x00\r\n\r\n", [(400, "bad_http")]),
    "garbage behind a request": (GOOD + b"NONSENSE\r\n\r\n", [(200, "ok"), (400, "bad_http")]),
    "two lengths": (request(b"x", "Content-Length: 2"), [(400, "bad_http")]),
    "a length and chunks": (request(b"", "Transfer-Encoding: chunked") + b"0\r\n\r\n", [(400, "bad_http")]),
    "a negative length": (request(b"").replace(b"Length: 0", b"Length: -1"), [(400, "bad_http")]),
    "a chunk that is no number": (
        request(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"") + b"zz\r\n",
        [(400, "bad_http")],
    ),
    "an endless number of a chunk": (
        request(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"") + b"f" * 40 + b"\r\n",
        [(400, "bad_http")],
    ),
    **{
        f"{codings} as Transfer-Encoding": (
            GOOD
            + request(b"", f"Transfer-Encoding: {codings}").replace(b"Content-Length: 0\r\n", b"")
            + b"0\r\n\r\n"
            + GOOD,
            [(200, "ok"), (400, "bad_http")],
        )
        for codings in ("chunked, chunked", "gzip, chunked", "gzip")
    },
    "chunks in HTTP/1.0": (
        request(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"").replace(b"/1.1", b"/1.0"),
        [(400, "bad_http")],
    ),
    "no host": (GOOD + GOOD.replace(b"Host: rowcast\r\n", b"") + GOOD, [(200, "ok"), (400, "bad_http")]),
    "two hosts": (GOOD.replace(b"Host: rowcast\r\n", b"Host: rowcast\r\n" * 2), [(400, "bad_http")]),
    "no host in HTTP/1.0": (
        GOOD.replace(b"Host: rowcast\r\n", b"").replace(b"/1.1", b"/1.0"),
        [(200, "ok")],
    ),
    "a header with a line feed alone": (b"GET / HTTP/1.1\nHost: x\n\n", None),
    "a folded header": (b"GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n", None),
    "a NUL in a header": (b"GET / HTTP/1.1\r\nHost: \0\r\n\r\n", [(400, "bad_http")]),
}


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """One server for many a broken request."""
    from tests.server.conftest import START_S, Server  # noqa: PLC0415

    root = tmp_path_factory.mktemp("published")
    tiny.publish(root, "line")
    server = Server(root, tmp_path_factory.mktemp("log") / "server.log", receive_s=RECEIVE_S)
    until(server.is_ready, START_S)
    yield server
    server.close()
    assert "Traceback" not in server.said(), server.said()[-3000:]


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_refused_and_what_came_before_it_is_answered(patient, what):
    raw, expected = BROKEN[what]
    with connected(patient) as (wire,):
        wire.sendall(raw)
        wire.settimeout(10)
        got = said(wire)
    if expected is None:
        assert all(status < 500 for status, _ in answers(got))
    else:
        assert codes(got) == expected
    assert patient.answers()


def test_a_client_that_stops_anywhere_harms_nobody(patient):
    dice = random.Random(1)
    with Load(patient) as load:
        for _ in range(500):
            with connected(patient) as (wire,):
                raw = GOOD * dice.randint(1, 4)
                wire.sendall(raw[: dice.randrange(len(raw))])
                if dice.random() < 0.5:
                    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
    others_are_unaffected(load)
    until(lambda: patient.metric("rowcast_rows_in_flight") == 0)


def test_an_api_process_whose_files_are_all_open_answers_who_is_connected_and_recovers(start):
    """Whoever comes then waits in the kernel until there is room, as with any server that cannot accept."""
    server = start(workers=1, inline_s=0)
    (api,) = server.apis
    with Load(server) as load:
        until(lambda: load.books.answered > 100)
        before = resource.prlimit(api, resource.RLIMIT_NOFILE)
        resource.prlimit(api, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{api}/fd")) + 3, before[1]))  # noqa: PTH208
        with connected(server, 20) as waiting:
            until(
                lambda: "a connection could not be accepted: [Errno 24] Too many open files" in server.said(), START_S
            )
            os.kill(server.workers[0], signal.SIGKILL)
            time.sleep(2)  # looks at the repository, counts of drift and lanes to the new worker want files as well
            resource.prlimit(api, resource.RLIMIT_NOFILE, before)
            for one in waiting:
                one.sendall(request())
            assert all(one.recv(4096).startswith(b"HTTP/1.1 200 OK") for one in waiting)
    print(f"\n{load.books}")
    assert not load.books.failed
    assert "Traceback" not in server.said()
    until(lambda: server.metric("rowcast_repository_readable") == 1)
