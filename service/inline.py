"""Sessions inside an API process, for batches that are computed faster than they are sent to a worker.

A small network answers a batch in some 30 µs; sending it to a worker and back takes twice as long. So a version that is
asked gets a session here, too, once workers have proven it. What is large or slow, and all that runs on a GPU, is
computed by workers: nothing here may hold up the event loop for longer than `most_s`.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.errors import BadVersion
from models.proof import Answers, Session, prove
from models.repository import Version
from models.schema import Matrix

_MOST_SESSIONS = 64
_TRIED_ROWS = 256
_TRIES = 5

OpenSession = Callable[[Version], Session]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class InlineSession:
    """A proven session, and how many rows it computes in time.

    Attributes:
        run: the answers for a matrix [N, F].
        most_rows: the largest batch that it should be given.
        used: by `Inline`'s count of how often it was asked for one.
    """

    run: Callable[[Matrix], Answers]
    most_rows: int
    used: int = 0


class Inline:
    """The sessions of one API process."""

    def __init__(self, open_session: OpenSession | None, most_s: float) -> None:
        """Hold no session yet; without `open_session`, never hold one."""
        self._open_session = open_session
        self._most_s = most_s
        self._sessions: dict[str, InlineSession | None] = {}  # None: being opened, or workers do it better
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked = 0

    def session(self, version: Version) -> InlineSession | None:
        """The session of a version; None when it has none, which may be because it is being opened now."""
        try:
            session = self._sessions[version.key]
        except KeyError:
            self._open_soon(version)
            return None
        if session is not None:
            self._asked += 1
            session.used = self._asked
        return session

    def _open_soon(self, version: Version) -> None:
        if self._open_session is None:
            return
        if len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[min(self._sessions, key=self._last_used)]
        self._sessions[version.key] = None
        task = asyncio.get_running_loop().create_task(self._open(version, self._open_session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _last_used(self, key: str) -> int:
        session = self._sessions[key]
        return 0 if session is None else session.used

    async def _open(self, version: Version, open_session: OpenSession) -> None:
        try:
            session = await asyncio.to_thread(_open, version, open_session, self._most_s)
        except (BadVersion, OSError) as error:  # it was deleted, or worse: workers say so to whoever asks
            log.info("not computed in the API process: %s", error)
            return
        if session.most_rows and version.key in self._sessions:
            self._sessions[version.key] = session


def _open(version: Version, open_session: OpenSession, most_s: float) -> InlineSession:
    session = open_session(version)
    prove(version.manifest, version.proof(), session)
    return InlineSession(session.run, _most_rows(session, version, most_s))


def _most_rows(session: Session, version: Version, most_s: float) -> int:
    """How many rows the session computes within `most_s`; 0 when not even one."""
    row = version.schema.encode(version.proof().rows[:1])
    if _seconds(session, row) > most_s:
        return 0
    many = np.repeat(row, _TRIED_ROWS, axis=0)
    return max(1, int(_TRIED_ROWS * most_s / _seconds(session, many)))


def _seconds(session: Session, matrix: Matrix) -> float:
    """The shortest of several tries: what else the machine does only ever adds."""
    shortest = float("inf")
    for _ in range(_TRIES):
        started = time.perf_counter()
        session.run(matrix)
        shortest = min(shortest, time.perf_counter() - started)
    return shortest
