"""Whether one more request is let in to the queue: only if its turn is likely to come soon enough.

A queue that is bounded by rows alone is minutes long for a slow model and refuses bursts to a fast one. So it is
bounded in time: rows that wait, by the pace at which the last batches went.

A batch has a cost of its own beside that of its rows, so the few rows of an idle server say little about the many of a
burst. While batches are short beside the longest wait, rows are taken to go up to eight times as fast as those before
them did, and a batch may be eight times as large: if that was too kind, the next batch knows it soon.

A batch that was held up, by a worker that was stopped or a machine that starts another, says nothing about those behind
it: one that took eight times as long for its rows as those before it does not count, unless there are more than two of
sixteen.
"""

import math
from collections import deque

from service.problems import Overloaded

_BATCHES = 16  # that say how fast rows go
_STEP = 8.0
_FIRST_ROWS = 64  # of a batch before anything is known
_SHORT_S = 0.02  # of a batch that somebody urgent may have to wait for
_MOST_VERSIONS = 1000  # whose pace is remembered


class Admission:
    """Says who is let in, for one API process."""

    def __init__(self, max_wait_s: float, max_rows: int) -> None:
        self.max_wait_s = max_wait_s
        self._max_rows = max_rows
        self._known: dict[str, _Known] = {}  # by version

    def check(self, key: str, rows: int, waiting: int, waiting_in_all: int, within_s: float, at_once: int) -> None:  # noqa: PLR0917 - by name it takes twice as long
        """Let `rows` in, or not: behind `waiting` rows of the same version, `at_once` of whose batches go at a time.

        Whoever finds nobody waiting is let in. While no worker lives (`at_once` is 0), the pace says nothing.

        Raises:
            Overloaded: their turn would come too late, or too many rows wait already, whatever they are for.
        """
        if not waiting_in_all:
            return
        pace = self._known.get(key, _NOTHING).pace * at_once
        wait_s = waiting / pace if pace else 0.0
        if wait_s > min(self.max_wait_s, within_s):
            raise Overloaded(waiting, wait_s)
        if waiting_in_all + rows > self._max_rows:
            raise Overloaded(waiting_in_all, min(60.0, waiting_in_all / pace) if pace else 1.0)

    def sure(self, key: str) -> int:
        """As long as so many rows wait in all, `check` lets in whoever can wait `max_wait_s`."""
        return int(min(self._known.get(key, _NOTHING).pace * self.max_wait_s, self._max_rows))

    def most_rows(self, key: str) -> int:
        """How many rows a batch of several requests may have: not many more than one that came back."""
        batches = self._known.get(key, _NOTHING).batches
        return int(max(_FIRST_ROWS, _STEP * max((rows for rows, _ in batches), default=0)))

    def short_rows(self, key: str) -> int:
        """How many rows a batch may have that nobody is to wait for long: twice those of the largest that was short."""
        batches = self._known.get(key, _NOTHING).batches
        return max(1, 2 * max((rows for rows, seconds in batches if seconds <= _SHORT_S), default=0))

    def learn(self, key: str, rows: int, seconds: float) -> None:
        """A batch of so many rows came back after so many seconds."""
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_VERSIONS:
                del self._known[next(iter(self._known))]
            known = self._known[key] = _Known()
        if seconds > _STEP * known.row_s * rows and known.held_up < 2 * _STEP:
            known.held_up += _STEP
            return
        known.held_up = max(0.0, known.held_up - 1)
        batches = known.batches
        batches.append((rows, seconds))
        in_all = max(1e-6, sum([seconds for _, seconds in batches]))
        rows_in_all = sum([rows for rows, _ in batches])
        hope = min(_STEP, max(1.0, self.max_wait_s * len(batches) / (16 * in_all)))
        known.pace = hope * rows_in_all / in_all
        known.row_s = in_all / max(1, rows_in_all)


class _Known:
    """What the last batches of a version say.

    Attributes:
        batches: rows and seconds of each.
        pace: rows per second that one worker is expected to answer; 0 before the first.
        row_s: seconds that a row took of them.
        held_up: eight for each batch that did not count, less one for each that did since.
    """

    __slots__ = ("batches", "held_up", "pace", "row_s")

    def __init__(self) -> None:
        self.batches: deque[tuple[int, float]] = deque(maxlen=_BATCHES)
        self.pace, self.row_s, self.held_up = 0.0, math.inf, 0.0


_NOTHING = _Known()
