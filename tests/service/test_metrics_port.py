"""The second port, over sockets; tests/server/test_security.py asks it of a whole server."""

import asyncio
import socket

import pytest

from service.http import metrics_port
from service.http.metrics_port import answering
from tests.server.conftest import START_S

ASK = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def ask(app):
    """Runs a conversation with the port."""

    def run(conversation):
        async def whole():
            with socket.create_server(("127.0.0.1", 0)) as listener:
                async with answering(listener, app), asyncio.timeout(START_S):
                    await conversation(lambda: asyncio.open_connection(*listener.getsockname()))

        asyncio.run(whole())

    return run


async def closed(reader):
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", ASK[:20]], ids=["nothing", "half a head"])
@pytest.mark.parametrize("before", [b"", ASK], ids=["at first", "behind an answer"])
def test_whoever_asks_nothing_for_a_while_is_cut_off(ask, monkeypatch, sent, before):
    connections = []

    class Noted(metrics_port._Bounded):
        def connection_made(self, transport):
            super().connection_made(transport)
            connections.append(self)

    monkeypatch.setattr(metrics_port, "_Bounded", Noted)
    monkeypatch.setattr(metrics_port, "_LOOK_S", START_S if before else 0.1)

    async def conversation(connect):
        reader, writer = await connect()
        if before:
            writer.write(before)
            assert b"200 OK" in await reader.readuntil(b"}")
            monkeypatch.setattr(metrics_port, "_LOOK_S", 0.1)
            connections[0]._look()  # else its client would have to ask within 0.1 s
        writer.write(sent)
        assert await closed(reader)
        writer.close()

    ask(conversation)


def test_a_head_without_an_end_is_cut_off(ask):
    async def conversation(connect):
        reader, writer = await connect()
        writer.write(ASK[:-2] + b"X: " + b"x" * 70_000)
        assert await closed(reader)
        writer.close()

    ask(conversation)


def test_an_answer_that_never_ends_is_cut_off(monkeypatch):
    monkeypatch.setattr(metrics_port, "_LOOK_S", 0.1)

    async def endless(*_):
        await asyncio.Event().wait()

    async def whole():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with answering(listener, endless), asyncio.timeout(20):
                reader, writer = await asyncio.open_connection(*listener.getsockname())
                writer.write(ASK)
                assert await closed(reader)
                writer.close()

    asyncio.run(whole())


def test_there_are_no_more_connections_than_there_may_be(ask, monkeypatch):
    monkeypatch.setattr(metrics_port, "_MOST_CONNECTIONS", 2)

    async def conversation(connect):
        connections = [await connect() for _ in range(2)]
        for reader, writer in connections:
            writer.write(ASK)
            assert b"200 OK" in await reader.readuntil(b"}")
        reader, writer = await connect()
        assert await closed(reader)
        for _, one in [*connections, (reader, writer)]:
            one.close()

    ask(conversation)
