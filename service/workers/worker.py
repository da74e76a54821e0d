"""An inference worker: it answers batches over a unix socket, with the sessions of its `Engine`.

It knows nothing of HTTP or LitServe, which only starts the process (see service/workers/lit_api.py). Each connection
has a thread: a session releases the interpreter while it computes, and opening one version never holds up batches of
another.
"""

import contextlib
import logging
import queue
import selectors
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from service.batching.frames import LENGTH, BadFrame, Request, What, read_request, reply_bytes
from service.processes.busy import Busy, Place, busy_path
from service.processes.scheduling import FullShare, Share
from service.processes.yielding import resting
from service.workers.engine import Engine

_MOST_BYTES = 1 << 33  # of one frame; far above what the limits of an API process let through

log = logging.getLogger(__name__)


class End:
    """How a worker is told to end, at any moment and from any thread."""

    def __init__(self) -> None:
        self.is_told = False
        self.told, self._tell = socket.socketpair()
        self._tell.setblocking(False)

    def on_sigterm(self) -> None:
        """Take SIGTERM for the order to end; LitServe sends it."""
        signal.signal(signal.SIGTERM, lambda *_: self.tell())
        signal.set_wakeup_fd(self._tell.fileno())  # wakes a `select` that has just begun, too

    def tell(self) -> None:
        """End once the last connection has closed."""
        self.is_told = True
        self.wake()

    def wake(self) -> None:
        """Have the worker look whether it is time."""
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: it has ended
            self._tell.send(b"\0")

    def close(self) -> None:
        """Close both sockets."""
        self.told.close()
        self._tell.close()


def serve(
    engine: Engine, path: Path, look_every_s: float, end: End, new_share: Callable[[], Share] = FullShare
) -> None:
    """Answer on a unix socket until `end` was told and the last API process has closed its connections.

    `new_share` says how much of a core a new connection's thread asks for.
    """
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)  # a worker that died left it
    talks = _Talks(engine, Busy(busy_path(path)), end)
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as awaited:
        listener.bind(str(beside))
        listener.listen(128)
        beside.replace(path)  # whoever sees it is let in
        for one in (listener, end.told):
            awaited.register(one, selectors.EVENT_READ)
        while not (end.is_told and not talks.connections):
            ready = [key.fileobj for key, _ in awaited.select(look_every_s)]
            if end.told in ready:
                end.told.recv(4096)
            if listener in ready:
                talks.start(listener.accept()[0], new_share())
            talks.go_on()
            if not ready:
                engine.forget_retired()
    end.close()


class _Talks:
    """The connections of a worker, a thread each."""

    def __init__(self, engine: Engine, busy: Busy, end: End) -> None:
        self.connections: set[socket.socket] = set()
        self._engine, self._busy, self._end = engine, busy, end
        self._handed: queue.SimpleQueue[tuple[socket.socket, Share]] = queue.SimpleQueue()

    def start(self, connection: socket.socket, share: Share) -> None:
        """Answer on a connection until it is closed."""
        self.connections.add(connection)
        threading.Thread(target=self._talk, args=(connection, share), daemon=True).start()

    def go_on(self) -> None:
        """Start the threads that are to take over; a new thread's share is that of the one that starts it."""
        while not self._handed.empty():
            self.start(*self._handed.get())

    def _talk(self, connection: socket.socket, share: Share) -> None:
        others: Share | None = None
        try:
            with self._busy.place() as place:
                while others is None and (frame := _next_frame(connection)):
                    others = self._take(read_request(frame), connection, place, share)
        except (OSError, BadFrame) as error:
            log.debug("a connection ended: %s", error)
        finally:
            if others is not None:
                self._handed.put((connection, others))
            else:
                connection.close()
                self.connections.discard(connection)
            self._end.wake()

    def _take(self, request: Request, connection: socket.socket, place: Place, share: Share) -> Share | None:
        """Do what is asked; another thread's share, if one should go on with the next request."""
        match request.what:
            case What.RETIRE:
                self._engine.retire(request.key)
                return None
            case What.SHADOW:
                self._engine.start_shadow()
                return None
            case What.PREDICT:
                share.next_share = None
                with place:
                    reply = self._engine.answer(request, share)
                others = share.next_share
            case What.OPEN:
                share.opens()
                with resting():
                    reply, others = self._engine.answer(request), None
            case What.GREET:
                reply, others = self._engine.answer(request), None
        connection.sendall(reply_bytes(reply))
        return others


def _next_frame(connection: socket.socket) -> bytearray | None:
    """The next frame without its length; None when the other side has closed."""
    head = bytearray(LENGTH.size)
    if not _fill(connection, head):
        return None
    (length,) = LENGTH.unpack(head)
    if length > _MOST_BYTES:
        raise BadFrame(f"{length} bytes")
    frame = bytearray(length)
    return frame if _fill(connection, frame) else None


def _fill(connection: socket.socket, buffer: bytearray) -> bool:
    rest = memoryview(buffer)
    while rest:
        received = connection.recv_into(rest)
        if not received:
            return False
        rest = rest[received:]
    return True


def shadow_path(runtime: Path) -> Path:
    """Where the process that computes shadows listens."""
    return runtime / "shadow.sock"


def socket_path(runtime: Path, worker: int) -> Path:
    """Where a worker listens."""
    return runtime / f"worker-{worker}.sock"
