"""The sessions of one inference worker: opened, proven, asked, and closed once nobody needs them."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import BadVersion, RowcastError
from models.proof import Answers, Proof, Session, prove
from models.repository import Repository, Version
from models.schema import Matrix
from service.batching.frames import SECONDS, TRIED_ROWS, Reply, Request, Status, What
from service.batching.gathering import LONGEST_S
from service.workers.merging import Computed, Merging
from service.workers.turns import Turns, is_long

OpenSession = Callable[[Version], Session]
OpenSpread = Callable[[Version], Session | None]
"""Opens a session whose runs several cores share; None where it would take too much memory."""
_NOBODYS = contextlib.nullcontext()
_QUICK_S = 0.001  # of what is quicker the first batch says soon enough how many rows a second it takes
_UNUSED_S = 60.0  # how long a version that is live no longer is kept for requests that were given it before

log = logging.getLogger(__name__)


class NothingToServe(RowcastError):
    """There are versions, and not one of them can be served.

    Attributes:
        root: the repository.
        refused: one sentence per version.
    """

    code = "nothing_to_serve"
    root: str
    refused: tuple[str, ...]

    def __str__(self) -> str:
        more = f" (and {len(self.refused) - 1} more)" if len(self.refused) > 1 else ""
        return f"no version in {self.root} can be served: {self.refused[0]}{more}"


@dataclass
class _Opened:
    version: Version
    session: Session
    spread: Session | None
    seconds: tuple[float, ...]  # as in SECONDS
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
        turns: Turns | None = None,
        open_spread: OpenSpread | None = None,
    ) -> None:
        """Hold no session yet.

        `check` raises BadVersion for what must not even be opened in this process; `expect` hears of many that it will
        be asked about, soon. `start_shadow` has another process serve what shadows are asked, if there is none.
        Batches of a version that are computed together have `max_batch_rows` at most; `turns` says how many long ones
        are computed at once. `open_spread` opens a session whose runs several cores share, for those that are alone.
        """
        self._repository = repository
        self._open_session, self._open_spread = open_session, open_spread
        self._check = check
        self._start_shadow = start_shadow
        self._expect = expect
        self._max_batch_rows = max_batch_rows
        self._turns = turns or Turns()
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
        proof = version.proof()
        prove(version.manifest, proof, session)
        key = version.key
        seconds = _tried(session, version.schema.encode(proof.rows[:1]))
        spread = self._spread(version, proof) if is_long(seconds[0]) else None
        merging = Merging(self._max_batch_rows, self._turns)
        self._opened[key] = _Opened(version, session, spread, seconds, time.monotonic(), merging)
        return key

    def _spread(self, version: Version, proof: Proof) -> Session | None:
        """A second session whose runs several cores share."""
        if self._open_spread is None:
            return None
        try:
            spread = self._open_spread(version)
            if spread is not None:
                prove(version.manifest, proof, spread)
        except Exception as error:  # noqa: BLE001 - there may be no more threads or memory: one core computes
            log.info("%s: each run has one core: %s", version, error)
            return None
        return spread

    def run(self, key: str, matrix: Matrix, share: AbstractContextManager[None] = _NOBODYS) -> Computed:
        """The answers for a matrix [N, F], and how long the session ran, with the wait for its turn.

        A number that is not finite is refused where its request is answered. `share` is entered where this thread
        computes; another one may, see service/workers/merging.py.

        Raises:
            BadVersion: as for `open`.
        """
        opened = self._opened.get(key) or self.open(key)
        opened.used = time.monotonic()

        def compute(rows: Matrix, is_alone: bool) -> tuple[Answers, float | None]:
            with share:
                if not is_alone or opened.spread is None:
                    return opened.session.run(rows), None
                began = time.process_time()
                return opened.spread.run(rows), time.process_time() - began

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
                return Reply(Status.OK, time.perf_counter() - started, answers={SECONDS: self._seconds(request.key)})
            answers, seconds, core_s = self.run(request.key, request.matrix, share)
            return Reply(Status.OK, seconds, core_s, answers=answers)
        except BadVersion as error:
            return Reply(Status.REFUSED, sentence=str(error))
        except Exception as error:  # noqa: BLE001 - a session may raise anything; one batch fails, not the worker
            log.warning("%s failed on %d rows: %s", request.key, len(request.matrix), error)
            return Reply(Status.FAILED, sentence=f"the session failed: {type(error).__name__}")

    def _seconds(self, keys: str) -> npt.NDArray[np.float64]:
        opened = [self._opened.get(key) for key in keys.split("\n")]  # one may be retired and closed already
        return np.array([(0.0,) * len(TRIED_ROWS) if one is None else one.seconds for one in opened])

    def start_shadow(self) -> None:
        """Have a process that computes shadows."""
        with self._opening:  # what starts it does one thing at a time
            self._start_shadow()

    def retire(self, key: str) -> None:
        """Close a version once nobody has asked it for a minute, unless it is opened again meanwhile."""
        with self._opening:
            self._retired.add(key)

    def forget_retired(self) -> None:
        """Close the sessions of versions that are live no longer and which nobody asked for in the last minute.

        While a version is being opened, which may take long, nothing is closed, and nobody waits.
        """
        if self._opening.acquire(blocking=False):
            try:
                self._close_retired(time.monotonic())
            finally:
                self._opening.release()

    def _close_retired(self, now: float) -> None:
        if now - self._looked > _UNUSED_S:  # the process that should have said so may have died
            self._looked = now
            self._retired |= {key for key, opened in self._opened.items() if _is_deleted(opened.version)}
        for key in list(self._retired):
            opened = self._opened.get(key)
            if opened is None or now - opened.used > _UNUSED_S:
                self._opened.pop(key, None)
                self._retired.discard(key)
                log.info("closed %s", key.rpartition("@")[0])


def _tried(session: Session, row: Matrix) -> tuple[float, ...]:
    """Seconds of a core that a run takes with each of TRIED_ROWS; 0 where it is quick, or would keep others waiting."""
    one_s = _core_s(session, row)
    if not _QUICK_S < one_s <= LONGEST_S:
        return (0.0,) * len(TRIED_ROWS)
    return (one_s, *(_core_s(session, np.repeat(row, rows, axis=0)) for rows in TRIED_ROWS[1:]))


def _core_s(session: Session, matrix: Matrix) -> float:
    began = time.thread_time()
    session.run(matrix)
    return time.thread_time() - began


def _is_deleted(version: Version) -> bool:
    """Whether its model's folder can be read and has it no longer; of a repository that is away nothing is known."""
    try:
        return version.folder not in version.folder.parent.iterdir()
    except OSError:
        return False


def _place(key: str) -> tuple[str, int]:
    """The model and the number of the version that a key names."""
    name, _, number = key.rpartition("@")[0].rpartition("/")
    return name, int(number)
