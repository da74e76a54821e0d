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
from service.batching.bounded import is_bounded

_GRAPH = "model.onnx"
_SESSIONS = 64
_MOST_BYTES = 64 << 20
"""There is room for so many sessions of any size, and for more as long as all of them take no more than these bytes."""
_BYTES, _BYTES_PER_BYTE = 150_000, 1.5
"""What a session takes: so many bytes, and so many for each of its file (measured: graphs of 2 kB to 25 MB)."""
_IN_USE = 100
"""Times the number of sessions: one that was asked for within the last so many batches is in use, and is not closed for
another one. So where more models are asked in turn than there is room for, workers compute the rest, and nobody opens
and closes sessions all the time."""

TOGETHER = 4
"""Several requests are computed together for so many times as long as a single one may take. What is between two runs
of a session has to be fetched from memory anew, so requests of many rows cost the less the more of them share it."""

_TRIED_ROWS = 256  # to find out how many are computed in time
_TRIES = 5

OpenSession = Callable[[Version], Session]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class InlineSession:
    """A proven session, and how many rows it computes in time.

    Attributes:
        run: the answers for a matrix [N, F].
        most_rows: of the largest request that it should be given.
        row_s: how long it takes for each of many rows; 0 where that was not tried.
        size: how much memory it takes, in bytes.
        used: by `Inline`'s count of how often it was asked for one.
    """

    run: Callable[[Matrix], Answers]
    most_rows: int
    row_s: float = 0.0
    size: float = 0.0
    used: int = 0

    @property
    def together_rows(self) -> int:
        """Most rows of several requests that it should be given at once."""
        return TOGETHER * self.most_rows


class Inline:
    """The sessions of one API process."""

    def __init__(
        self,
        open_session: OpenSession | None,
        most_s: float,
        tell: Callable[[str, int, float], None] = lambda *_: None,
    ) -> None:
        """Hold no session yet; without `open_session`, never hold one.

        `tell` is told of each that was opened how many seconds so many rows of its version, by its key, take it.
        """
        self._open_session = open_session
        self._most_s = most_s
        self._tell = tell
        self.given = 0  # sessions, since the start
        self._sessions: dict[str, InlineSession] = {}  # of no rows: being opened, or workers do it better
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked = 0
        self._full_until = 0  # by the count of `_asked`

    def session(self, version: Version) -> InlineSession | None:
        """The session of a version; None when it has none, which may be because it is being opened now."""
        self._asked += 1
        session = self._sessions.get(version.key)
        if session is None:
            self._open_soon(version)
            return None
        session.used = self._asked
        if not session.most_rows:
            return None
        self.given += 1
        return session

    def retire(self, version: Version) -> None:
        """Close the session of a version that is live no longer."""
        self._sessions.pop(version.key, None)
        self._full_until = 0

    def _open_soon(self, version: Version) -> None:
        if self._open_session is None or not self._has_room():
            return
        self._sessions[version.key] = InlineSession(_never, 0, size=_size(version), used=self._asked)
        task = asyncio.get_running_loop().create_task(self._open(version, self._open_session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _has_room(self) -> bool:
        """Whether there is room for one more session, if need be that of one which is not in use."""
        if self._asked < self._full_until:
            return False
        if len(self._sessions) < _SESSIONS or sum(one.size for one in self._sessions.values()) < _MOST_BYTES:
            return True
        key, least = min(self._sessions.items(), key=lambda item: item[1].used)
        if self._asked - least.used < _IN_USE * len(self._sessions):
            self._full_until = least.used + _IN_USE * len(self._sessions)
            return False
        del self._sessions[key]
        return True

    async def _open(self, version: Version, open_session: OpenSession) -> None:
        try:
            session = await asyncio.to_thread(_open, version, open_session, self._most_s)
        except (BadVersion, OSError) as error:  # it was deleted, or worse: workers say so to whoever asks
            log.info("not computed in the API process: %s", error)
            return
        if version.key in self._sessions:
            session.used = self._sessions[version.key].used
            self._sessions[version.key] = session
            if session.row_s:
                self._tell(version.key, _TRIED_ROWS, _TRIED_ROWS * session.row_s)


def _open(version: Version, open_session: OpenSession, most_s: float) -> InlineSession:
    if not is_bounded(version.read(_GRAPH)):  # nothing could end it here
        return InlineSession(_never, 0)
    session = open_session(version)
    prove(version.manifest, version.proof(), session)
    row = version.schema.encode(version.proof().rows[:1])
    if _seconds(session, row) > most_s:
        return InlineSession(_never, 0)
    row_s = _seconds(session, np.repeat(row, _TRIED_ROWS, axis=0)) / _TRIED_ROWS
    return InlineSession(session.run, max(1, int(most_s / row_s)), row_s, _size(version))


def _size(version: Version) -> float:
    return _BYTES + _BYTES_PER_BYTE * version.manifest.files[_GRAPH].bytes


def _never(_: Matrix) -> Answers:
    raise NotImplementedError


def _seconds(session: Session, matrix: Matrix) -> float:
    """The shortest of several tries: what else the machine does only ever adds."""
    shortest = float("inf")
    for _ in range(_TRIES):
        started = time.perf_counter()
        session.run(matrix)
        shortest = min(shortest, time.perf_counter() - started)
    return shortest
