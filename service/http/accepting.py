"""How several API processes share one listening socket evenly.

Whichever process wakes first accepts all that waits, so that of 16 connections one process may have all and the other
none, for as long as they live. Here each process accepts one at a time, and leaves it to the others for a moment while
it has more than the one that has fewest. Where hundreds wait, one more or less matters little: each accepts some dozens
at a time, whose first requests then make one batch.
"""

import asyncio
import errno
import logging
import mmap
import socket
import ssl
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

Factory = Callable[[], asyncio.BaseProtocol]

_COUNT = struct.Struct("<i")
_ABSENT = 2**31 - 1
_WAITING = struct.Struct("=24xI")  # the beginning of Linux's tcp_info; of a socket that listens, how many wait there
_MOST_AT_ONCE = 64  # more would keep those waiting that are there
_ONE_IN = 16  # of those that wait
_LEAVE_S = 0.002  # how long the others may take to accept what is left to them
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_FULL_S = 1.0  # how long to wait then, as asyncio does
_HANDSHAKE_S = 10.0  # of TLS; asyncio would wait for a minute

log = logging.getLogger(__name__)


class Tally:
    """How many connections each API process of a server has, in a file that all of them map."""

    def __init__(self, path: Path, slots: int, most: int) -> None:
        """Make the file, in which no process is present; each may have `most` connections."""
        path.write_bytes(_COUNT.pack(_ABSENT) * slots)
        with path.open("r+b") as file:
            self._counts = mmap.mmap(file.fileno(), 0)
        self._slots, self._most = slots, most
        self._slot: int | None = None
        self._mine = 0

    def join(self, slot: int) -> None:
        """Count in this slot from now on; the process has no connection yet."""
        self._slot = slot
        self._write(slot, 0)

    def leave(self, slot: int) -> None:
        """Nobody accepts in this slot, as long as no process joins in it."""
        self._write(slot, _ABSENT)

    def add(self, connections: int) -> None:
        """This process has so many more connections; fewer where the number is negative.

        The acceptor counts a connection that comes, its protocol one that is lost.
        """
        if self._slot is not None:
            self._mine += connections
            self._write(self._slot, self._mine)

    def is_full(self) -> bool:
        """Whether this process has as many connections as it may."""
        return self._mine >= self._most

    def is_ahead(self, by: int = 1) -> bool:
        """Whether another process has so many connections less than this one, or fewer still."""
        (fewest,) = min(_COUNT.iter_unpack(self._counts))
        return bool(self._mine - fewest >= by)

    def _write(self, slot: int, count: int) -> None:
        _COUNT.pack_into(self._counts, slot * _COUNT.size, count)


tally: Tally | None = None
"""This server's; None in a process that shares its socket with nobody."""

shared: list[socket.socket] = []
"""The listening sockets that all API processes of this server accept on."""


class Loop(uvloop.Loop):
    """uvloop's event loop, whose servers take turns with those of other processes. uvicorn makes it by name."""

    async def create_server(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], *args: Any, **kwargs: Any
    ) -> Any:
        """A server as asyncio makes it; one on a socket that others share takes turns."""
        sock = kwargs.get("sock")
        if tally is None or sock not in shared:
            return await super().create_server(protocol_factory, *args, **kwargs)
        return Acceptor(self, protocol_factory, sock, tally, kwargs.get("ssl"), kwargs.get("backlog", 100))


class Acceptor:
    """Accepts connections on a socket that other processes accept on, too; what uvicorn needs of an asyncio server."""

    def __init__(  # noqa: PLR0917 - as asyncio hands them over
        self,
        loop: asyncio.AbstractEventLoop,
        protocol_factory: Factory,
        listener: socket.socket,
        counts: Tally,
        context: ssl.SSLContext | None,
        backlog: int,
    ) -> None:
        self._loop, self._protocol_factory, self._listener, self._context = loop, protocol_factory, listener, context
        self._tally = counts
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False
        self._left_since: float | None = None  # when a connection that waits now was left to the others
        listener.setblocking(False)
        listener.listen(backlog)
        loop.add_reader(listener, self._on_connection)

    def close(self) -> None:
        """Accept no more."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Return when no more is accepted."""

    def _on_connection(self) -> None:
        (waiting,) = _WAITING.unpack(self._listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WAITING.size))
        at_once = min(1 + waiting // _ONE_IN, _MOST_AT_ONCE)
        if self._tally.is_ahead(by=at_once):
            now = time.perf_counter()
            if self._left_since is None:
                self._left_since = now
            if now - self._left_since < _LEAVE_S:
                return  # the event loop comes back at once, as long as nobody took it
        self._left_since = None
        for _ in range(at_once):
            if not self._accept():
                break

    def _go_on(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._listener, self._on_connection)

    def _accept(self) -> bool:
        """Accept a connection; False where there is none to accept."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another process was faster
        except OSError as error:
            if error.errno not in _FULL:  # the socket was shut down: the server is ending
                self.close()
                return False
            log.error("a connection could not be accepted: %s", error)  # noqa: TRY400 - one sentence, no traceback
            self._loop.remove_reader(self._listener)
            self._loop.call_later(_FULL_S, self._go_on)
            return False
        if self._tally.is_full():  # of TLS, most may be handshakes, which nobody else counts
            connection.close()
            return True
        self._tally.add(1)
        patience_s = None if self._context is None else _HANDSHAKE_S
        coming = self._loop.connect_accepted_socket(
            self._protocol_factory, connection, ssl=self._context, ssl_handshake_timeout=patience_s
        )
        task = self._loop.create_task(coming)
        self._tasks.add(task)
        task.add_done_callback(self._has_come)
        return True

    def _has_come(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is not None:  # it left before there was a protocol to hear of it
            self._tally.add(-1)
