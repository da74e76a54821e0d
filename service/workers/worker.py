"""An inference worker: it holds the sessions, proves them, and answers batches over a unix socket.

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
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from models.errors import BadVersion, RowcastError
from models.proof import Answers, Session, prove
from models.repository import Repository, Version
from models.schema import Matrix
from service.batching.frames import LENGTH, BadFrame, Reply, Request, Status, What, read_request, reply_bytes
from service.processes.busy import Busy, Place, busy_path
from service.processes.scheduling import FullShare, Share
from service.workers.merging import Merging

OpenSession = Callable[[Version], Session]
_MOST_BYTES = 1 << 33  # of one frame; far above what the limits of an API process let through
_NOBODYS = contextlib.nullcontext()
_UNUSED_S = 60.0  # how long a version that is live no longer is kept for requests that were given it before

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
    merging: Merging


class Engine:
    """The proven sessions of one worker. Its methods may be called from several threads."""

    def __init__(
        self,
        repository: Repository,
        open_session: OpenSession,
        check: Callable[[Version], None] = lambda _: None,
        start_shadow: Callable[[], None] = lambda: None,
        expect: Callable[[Sequence[Version]], None] = lambda _: None,
        *,
        max_batch_rows: int = 1,
    ) -> None:
        """Hold no session yet.

        `check` raises BadVersion for what must not even be opened in this process; `expect` hears of many that it will
        be asked about, soon. `start_shadow` has another process serve what shadows are asked, if there is none.
        Batches of a version that are computed together have `max_batch_rows` at most.
        """
        self._repository = repository
        self._open_session = open_session
        self._check = check
        self._start_shadow = start_shadow
        self._expect = expect
        self._max_batch_rows = max_batch_rows
        self._opened: dict[str, _Opened] = {}
        self._opening = threading.Lock()  # one at a time: an opening may take much memory
        self._retired: set[str] = set()
        self._looked = time.monotonic()

    def open_all(self, keep: int, unloaded: Collection[str] = ()) -> None:
        """Open what API processes will ask for: of every model the newest versions, and those that labels name.

        Those that are refused are logged. `unloaded` models are passed over.

        Raises:
            NothingToServe: there are versions and all of them are refused.
        """
        refused: list[str] = []
        names = [name for name in self._repository.names() if name not in unloaded]
        self._expect([version for name in names for version in self._newest(name, keep)])
        for name in names:
            self._open_newest(name, keep, refused)
        if refused and not self._opened:
            raise NothingToServe(str(self._repository.root), tuple(refused))

    def _newest(self, name: str, keep: int) -> Iterator[Version]:
        """What `_open_newest` opens if nothing is refused."""
        labelled = self._labelled(name)
        for place, number in enumerate(reversed(self._repository.versions(name))):
            if place < keep or number in labelled:
                with contextlib.suppress(BadVersion):  # it is said when it is opened
                    yield self._repository.open(name, number)

    def _labelled(self, name: str) -> set[int]:
        try:
            return set(self._repository.labels(name).values())
        except (BadVersion, OSError):  # an API process says so
            return set()

    def _open_newest(self, name: str, keep: int, refused: list[str]) -> None:
        labelled = self._labelled(name)
        newest = 0
        for number in reversed(self._repository.versions(name)):
            if newest >= keep and number not in labelled:
                continue
            try:
                self._open(name, number)
                newest += 1
            except BadVersion as error:
                log.warning("refused: %s", error)
                refused.append(str(error))

    def open_each(self, keys: Sequence[str]) -> list[str]:
        """Why each version cannot be served, on one line, "" if it can; those that are new are checked together."""
        with self._opening:
            new = []
            for key in keys:
                if key not in self._opened:
                    with contextlib.suppress(BadVersion):  # it is said when it is opened
                        new.append(self._repository.open(*_place(key)))
            if len(new) > 1:
                self._expect(new)
        return [self._why_not(key).replace("\n", " ") for key in keys]

    def _why_not(self, key: str) -> str:
        try:
            self.open(key)
        except BadVersion as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - a session may raise anything; the other versions are opened
            log.warning("%s cannot be opened: %s", key, error)
            return f"{key.rpartition('@')[0]}: the session failed: {type(error).__name__}"
        return ""

    def open(self, key: str) -> _Opened:
        """The session of a version, opened and proven now if it is new.

        Raises:
            BadVersion: it cannot be trusted, or its folder holds another version by now.
        """
        with self._opening:
            self._retired.discard(key)
            if key not in self._opened:
                name, number = _place(key)
                if self._open(name, number) != key:
                    raise BadVersion(f"{name}/{number}", "another version stands in its place by now")
            return self._opened[key]

    def _open(self, name: str, number: int) -> str:
        version = self._repository.open(name, number)
        self._check(version)
        session = self._open_session(version)
        prove(version.manifest, version.proof(), session)
        key = version.key
        self._opened[key] = _Opened(version, session, time.monotonic(), Merging(self._max_batch_rows))
        return key

    def run(self, key: str, matrix: Matrix, share: AbstractContextManager[None] = _NOBODYS) -> tuple[Answers, float]:
        """The answers for a matrix [N, F], and how long the session ran, in seconds.

        A number that is not finite is refused where its request is answered. `share` is entered where this thread
        computes; another one may, see service/workers/merging.py.

        Raises:
            BadVersion: as for `open`.
        """
        opened = self._opened.get(key) or self.open(key)
        opened.used = time.monotonic()

        def compute(rows: Matrix) -> Answers:
            with share:
                return opened.session.run(rows)

        return opened.merging.run(matrix, compute)

    def answer(self, request: Request, share: AbstractContextManager[None] = _NOBODYS) -> Reply:
        """The reply to a request, whatever happens."""
        started = time.perf_counter()
        try:
            if request.what is What.GREET:
                return Reply(Status.OK, answers={})
            if request.what is What.OPEN:
                refused = self.open_each(request.key.split("\n"))
                if any(refused):
                    return Reply(Status.REFUSED, sentence="\n".join(refused))
                return Reply(Status.OK, time.perf_counter() - started, answers={})
            answers, seconds = self.run(request.key, request.matrix, share)
            return Reply(Status.OK, seconds, answers=answers)
        except BadVersion as error:
            return Reply(Status.REFUSED, sentence=str(error))
        except Exception as error:  # noqa: BLE001 - a session may raise anything; one batch fails, not the worker
            log.warning("%s failed on %d rows: %s", request.key, len(request.matrix), error)
            return Reply(Status.FAILED, sentence=f"the session failed: {type(error).__name__}")

    def start_shadow(self) -> None:
        """Have a process that computes shadows."""
        with self._opening:  # what starts it does one thing at a time
            self._start_shadow()

    def retire(self, key: str) -> None:
        """Close a version once nobody has asked it for a minute, unless it is opened again meanwhile."""
        with self._opening:
            self._retired.add(key)

    def forget_retired(self) -> None:
        """Close the sessions of versions that are live no longer and which nobody asked for in the last minute."""
        now = time.monotonic()
        with self._opening:
            if now - self._looked > _UNUSED_S:  # the process that should have said so may have died
                self._looked = now
                self._retired |= {key for key, opened in self._opened.items() if not opened.version.folder.exists()}
            for key in list(self._retired):
                opened = self._opened.get(key)
                if opened is None or now - opened.used > _UNUSED_S:
                    self._opened.pop(key, None)
                    self._retired.discard(key)
                    log.info("closed %s", key.rpartition("@")[0])


def _place(key: str) -> tuple[str, int]:
    """The model and the number of the version that a key names."""
    name, _, number = key.rpartition("@")[0].rpartition("/")
    return name, int(number)


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
