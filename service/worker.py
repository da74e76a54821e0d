"""An inference worker: it holds the sessions, proves them, and answers batches over a unix socket.

It knows nothing of HTTP or LitServe, which only starts the process (see service/api.py). Each connection has a thread:
a session releases the interpreter while it computes, and opening one version never holds up batches of another.
"""

import contextlib
import logging
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.errors import BadVersion, RowcastError
from models.proof import Answers, Session, prove
from models.repository import Repository, Version
from models.schema import Matrix
from service.busy import Busy, busy_path
from service.frames import LENGTH, BadFrame, Reply, Request, Status, What, read_request, reply_bytes

OpenSession = Callable[[Version], Session]
_MOST_BYTES = 1 << 33  # of one frame; far above what the limits of an API process let through
_UNUSED_S = 60.0  # how long a version that was deleted is kept for requests that still name it

log = logging.getLogger(__name__)


class NothingToServe(RowcastError):  # noqa: N818 - a class here is named after what its sentence says
    """There are versions, and not one of them can be served.

    Attributes:
        root: the repository.
        refused: one sentence per version.
    """

    code = "nothing_to_serve"

    def __init__(self, root: str, refused: tuple[str, ...]) -> None:
        super().__init__(root, refused)
        self.root, self.refused = root, refused

    def __str__(self) -> str:
        more = f" (and {len(self.refused) - 1} more)" if len(self.refused) > 1 else ""
        return f"no version in {self.root} can be served: {self.refused[0]}{more}"


@dataclass
class _Opened:
    version: Version
    session: Session
    used: float


class Engine:
    """The proven sessions of one worker. Its methods may be called from several threads."""

    def __init__(
        self, repository: Repository, open_session: OpenSession, check: Callable[[Version], None] = lambda _: None
    ) -> None:
        """Hold no session yet. `check` raises BadVersion for what must not even be opened in this process."""
        self._repository = repository
        self._open_session = open_session
        self._check = check
        self._opened: dict[str, _Opened] = {}
        self._opening = threading.Lock()  # one at a time: an opening may take much memory

    def open_all(self) -> None:
        """Open every version of the repository; those that are refused are logged.

        Raises:
            NothingToServe: there are versions and all of them are refused.
        """
        refused = []
        for name in self._repository.names():
            for number in self._repository.versions(name):
                try:
                    self._open(name, number)
                except BadVersion as error:
                    log.warning("refused: %s", error)
                    refused.append(str(error))
        if refused and not self._opened:
            raise NothingToServe(str(self._repository.root), tuple(refused))

    def open(self, key: str) -> _Opened:
        """The session of a version, opened and proven now if it is new.

        Raises:
            BadVersion: it cannot be trusted, or its folder holds another version by now.
        """
        with self._opening:
            if key not in self._opened:
                name, number = key.rpartition("@")[0].rsplit("/", 1)
                if self._open(name, int(number)) != key:
                    raise BadVersion(f"{name}/{number}", "another version stands in its place by now")
            return self._opened[key]

    def _open(self, name: str, number: int) -> str:
        version = self._repository.open(name, number)
        self._check(version)
        session = self._open_session(version)
        prove(version.manifest, version.proof(), session)
        key = version.key
        self._opened[key] = _Opened(version, session, time.monotonic())
        return key

    def run(self, key: str, matrix: Matrix) -> Answers:
        """The answers for a matrix [N, F]; a number that is not finite is refused where its request is answered.

        Raises:
            BadVersion: as for `open`.
        """
        opened = self._opened.get(key) or self.open(key)
        opened.used = time.monotonic()
        return opened.session.run(matrix)

    def answer(self, request: Request) -> Reply:
        """The reply to a request, whatever happens."""
        started = time.perf_counter()
        try:
            if request.what is What.OPEN:
                self.open(request.key)
                return Reply(Status.OK, time.perf_counter() - started, answers={})
            answers = self.run(request.key, request.matrix)
            return Reply(Status.OK, time.perf_counter() - started, answers=answers)
        except BadVersion as error:
            return Reply(Status.REFUSED, sentence=str(error))
        except Exception as error:  # noqa: BLE001 - a session may raise anything; one batch fails, not the worker
            log.warning("%s failed on %d rows: %s", request.key, len(request.matrix), error)
            return Reply(Status.FAILED, sentence=f"the session failed: {type(error).__name__}")

    def forget_deleted(self) -> None:
        """Drop the sessions of versions whose folder is gone and which nobody asked for in the last minute."""
        for key, opened in list(self._opened.items()):
            if not opened.version.folder.exists() and time.monotonic() - opened.used > _UNUSED_S:
                del self._opened[key]
                log.info("closed %s, which was deleted", opened.version)


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


def serve(engine: Engine, path: Path, look_every_s: float, end: End) -> None:
    """Answer on a unix socket until `end` was told and the last API process has closed its connections."""
    path.unlink(missing_ok=True)  # a worker that died left it
    busy = Busy(busy_path(path))
    connections: set[socket.socket] = set()
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as awaited:
        listener.bind(str(path))
        listener.listen(128)
        for one in (listener, end.told):
            awaited.register(one, selectors.EVENT_READ)
        while not (end.is_told and not connections):
            ready = [key.fileobj for key, _ in awaited.select(look_every_s)]
            if end.told in ready:
                end.told.recv(4096)
            if listener in ready:
                connection, _ = listener.accept()
                connections.add(connection)
                arguments = (engine, connection, busy, connections, end)
                threading.Thread(target=_talk, args=arguments, daemon=True).start()
            if not ready:
                engine.forget_deleted()
    end.close()


def _talk(engine: Engine, connection: socket.socket, busy: Busy, connections: set[socket.socket], end: End) -> None:
    try:
        with connection, busy.place() as place:
            while frame := _next_frame(connection):
                request = read_request(frame)
                with place if request.what is What.PREDICT else contextlib.nullcontext():
                    reply = engine.answer(request)
                connection.sendall(reply_bytes(reply))
    except (OSError, BadFrame) as error:
        log.debug("a connection ended: %s", error)
    finally:
        connections.discard(connection)
        end.wake()


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


def socket_path(runtime: Path, worker: int) -> Path:
    """Where a worker listens."""
    return runtime / f"worker-{worker}.sock"
