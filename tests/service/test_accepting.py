import asyncio
import contextlib
import socket
import ssl
from collections import Counter

import pytest

from service.http import accepting
from service.http.accepting import Loop, Tally
from tests.server.conftest import START_S


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A tally of two processes; this one is the first, the second has no connection."""
    return made(tmp_path, monkeypatch, most=10)


def made(tmp_path, monkeypatch, most):
    tally = Tally(tmp_path / "connections", 2, most)
    tally.join(1)
    tally.join(0)
    monkeypatch.setattr(accepting, "tally", tally)
    monkeypatch.setattr(accepting, "shared", [])
    return tally


class Hello(asyncio.Protocol):
    def __init__(self, tally) -> None:
        self.tally = tally

    def connection_made(self, transport):
        transport.write(b"hello")
        transport.close()

    def connection_lost(self, exc):
        assert exc is None
        self.tally.add(-1)


def run(work):
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(work)


async def serve(tally, ask, **how):
    """What `ask` says to the port of a server that greets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting.shared.append(listener)
        server = await asyncio.get_running_loop().create_server(lambda: Hello(tally), sock=listener, **how)
        try:
            return await ask(listener.getsockname()[1])
        finally:
            server.close()
            await server.wait_closed()


async def greeted(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await reader.read()
    finally:
        writer.close()


def test_a_process_that_is_not_ahead_accepts_and_counts(shared):
    assert run(serve(shared, greeted)) == b"hello"
    assert not shared.is_ahead()  # what came has gone


def test_one_that_is_ahead_accepts_what_nobody_else_takes(shared):
    shared.add(5)
    assert shared.is_ahead()
    assert run(serve(shared, greeted)) == b"hello"


def test_one_that_is_ahead_leaves_it_to_the_others(shared, monkeypatch):
    monkeypatch.setattr(accepting, "_LEAVE_S", 60.0)
    shared.add(5)

    async def ask(port):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await greeted(port)
        shared.leave(1)  # the other process is gone
        return await greeted(port)

    assert run(serve(shared, ask)) == b"hello"


@pytest.mark.parametrize(("waiting", "ahead"), [(15, 1), (160, 11), (1600, 64)])
def test_the_more_wait_the_further_ahead_a_process_may_be(tmp_path, monkeypatch, waiting, ahead):
    """The other process accepts nothing, and nobody gives it up."""
    monkeypatch.setattr(accepting, "_LEAVE_S", 60.0)
    made(tmp_path, monkeypatch, most=2000)
    made_in, turns = [], 0

    class Counted(asyncio.Protocol):
        def connection_made(self, transport):
            made_in.append(turns)
            transport.abort()

    async def accept(listener):
        nonlocal turns
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Counted, sock=listener, backlog=2000)
        for _ in range(200):
            turns += 1
            await asyncio.sleep(0)
        server.close()

    with socket.create_server(("127.0.0.1", 0), backlog=2000) as listener, contextlib.ExitStack() as clients:
        accepting.shared.append(listener)
        for _ in range(waiting):
            clients.enter_context(socket.create_connection(listener.getsockname()))
        run(accept(listener))
    assert len(made_in) == ahead
    assert max(Counter(made_in).values()) == ahead


def test_more_than_there_may_be_are_closed_at_once(shared):
    shared.add(10)
    assert run(serve(shared, greeted)) == b""
    shared.add(-1)
    assert run(serve(shared, greeted)) == b"hello"


def test_a_handshake_of_tls_that_does_not_go_on_is_given_up(shared, monkeypatch):
    monkeypatch.setattr(accepting, "_HANDSHAKE_S", 0.1)

    async def silent(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(START_S):
            assert await reader.read() == b""  # it says nothing, and is closed
            writer.close()
            while shared.is_ahead():  # noqa: ASYNC110 - until it counts no more
                await asyncio.sleep(0.001)

    run(serve(shared, silent, ssl=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)))


def test_a_socket_that_was_shut_down_is_left_alone(shared):
    async def ask():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            accepting.shared.append(listener)
            await asyncio.get_running_loop().create_server(lambda: Hello(shared), sock=listener)
            listener.shutdown(socket.SHUT_RDWR)
            await asyncio.sleep(0.05)
            with pytest.raises(ConnectionRefusedError):
                await greeted(listener.getsockname()[1])

    run(ask())


def test_without_others_the_server_is_uvloops():
    async def ask():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = await asyncio.get_running_loop().create_server(lambda: Hello(Nobody()), sock=listener)
            answer = await greeted(listener.getsockname()[1])
            server.close()
            return answer

    assert run(ask()) == b"hello"


class Nobody:
    def add(self, connections):
        pass
