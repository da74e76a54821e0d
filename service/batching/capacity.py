"""How much can be answered soon enough: whether one more request is let in to the queue, and how large batches may be.

A queue that is bounded by rows alone is minutes long for a slow model and refuses bursts to a fast one. So it is
bounded in time: rows that wait, by the pace at which the last batches went.

A batch has a cost of its own beside that of its rows, so the few rows of an idle server say little about the many of a
burst. While batches are short beside the longest wait, rows are taken to go up to eight times as fast as those before
them did, and a batch may be eight times as large: if that was too kind, the next batch knows it soon.

Where an urgent request came lately, batches have no more rows than most of the best pace needs
(`service/batching/costs.py`): the next one would have to wait for the batch that is out.

What a batch takes beside the computing, to be sent and to wait for a core on a busy machine, it takes for one row as
for many. So for batches of few rows it counts as for those that they may become. Before somebody is refused, so does
what a batch computes without a row, as far as batches of several sizes have told.

A batch that was held up, by a worker that was stopped or a machine that starts another, says nothing about those behind
it: one that took eight times as long for its rows as those before it does not count, unless there are more than two of
sixteen.
"""

import math
from collections import deque

from service.batching.costs import Costs
from service.problems import Overloaded

_BATCHES = 16  # that say how fast rows go
_STEP = 8.0
_FIRST_ROWS = 64  # of a batch before anything is known
_URGENT_LATELY_S = 10.0  # after an urgent request another one is likely, and would wait for the batch that is out
_NEARLY_ALL = 0.9  # of the best pace, that batches keep meanwhile
_HALF = 0.5  # that one with urgent rows is filled up to: then it takes at most twice as long as without a row
_MOST_VERSIONS = 1000  # whose pace is remembered


class Capacity:
    """What can be answered soon enough of each version, and so who is let in, for one API process."""

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
        known = self._known.get(key, _NOTHING)
        pace = known.pace * at_once
        if pace and waiting / pace > min(self.max_wait_s, within_s):
            wait_s = waiting / (known.pace_of_larger() * at_once)
            if wait_s > min(self.max_wait_s, within_s):
                raise Overloaded(waiting, wait_s)
        if waiting_in_all + rows > self._max_rows:
            raise Overloaded(waiting_in_all, min(60.0, waiting_in_all / pace) if pace else 1.0)

    def sure(self, key: str) -> int:
        """As long as so many rows wait in all, `check` lets in whoever can wait `max_wait_s`."""
        return int(min(self._known.get(key, _NOTHING).pace * self.max_wait_s, self._max_rows))

    def urgent_came(self, key: str, now: float) -> None:
        """Keep batches of a version short for a while; `now`, here and below, is that of `time.perf_counter`."""
        self._of(key).short_until = now + _URGENT_LATELY_S

    def most_rows(self, key: str, now: float, urgent_rows: int = 0) -> int:
        """How many rows a batch of several requests may have: not many more than one that came back.

        Where somebody urgent may come, no more than most of the pace needs, see `Costs.rows_for`; and beside urgent
        rows, of which so many wait, only ordinary ones that cost little beside what the batch costs anyway.
        """
        known = self._known.get(key, _NOTHING)
        most = int(max(_FIRST_ROWS, _STEP * max((rows for rows, _, _ in known.batches), default=0)))
        known.short_rows = known.costs.rows_for(_NEARLY_ALL) if now < known.short_until else 0
        if not known.short_rows:
            return most
        enough = max(urgent_rows, known.costs.rows_for(_HALF)) if urgent_rows else most
        return min(most, known.short_rows, enough)

    def know(self, key: str, rows: int, seconds: float) -> None:
        """A batch of so many rows would take so many seconds, as a trial has shown.

        Two trials of different sizes are a pace until the first batch has come back.
        """
        known = self._of(key)
        known.costs.learn(rows, seconds)
        known.larger_pace = None
        if not known.batches:
            known.pace = known.larger_pace = known.costs.pace_of(int(_STEP * _FIRST_ROWS))

    def learn(self, key: str, rows: int, seconds: float, computed_s: float | None = None) -> None:
        """A batch of so many rows came back after so many seconds; `computed_s`: of which it was computed, else all."""
        known = self._of(key)
        if seconds > _STEP * known.row_s * rows and known.held_up < 2 * _STEP:
            known.held_up += _STEP
            return
        known.held_up = max(0.0, known.held_up - 1)
        known.costs.learn(rows, seconds)
        batches = known.batches
        batches.append((rows, seconds, 0.0 if computed_s is None else max(0.0, seconds - computed_s)))
        in_all = max(1e-6, sum([seconds for _, seconds, _ in batches]))
        beside_s = sum([beside_s for _, _, beside_s in batches])
        rows_in_all = sum([rows for rows, _, _ in batches])
        mean_rows = max(1, rows_in_all) / len(batches)
        growth = min(_STEP, _FIRST_ROWS / mean_rows)
        hope = min(_STEP, self.max_wait_s * len(batches) / (16 * in_all))
        if known.short_rows:
            growth, hope = min(growth, known.short_rows / mean_rows), min(hope, known.short_rows / mean_rows)
        known.hope, known.growth = max(1.0, hope), max(1.0, hope, growth)
        known.rows, known.computed_s, known.beside_s = rows_in_all, in_all - beside_s, beside_s
        known.pace, known.larger_pace = known.pace_if(0.0), None
        known.row_s = in_all / max(1, rows_in_all)

    def _of(self, key: str) -> "_Known":
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_VERSIONS:
                del self._known[next(iter(self._known))]
            known = self._known[key] = _Known()
        return known


class _Known:
    """What the last batches of a version say.

    Attributes:
        batches: of each its rows, its seconds, and those of them in which it was not computed.
        costs: what these and others before them say of their size.
        pace: rows per second that one worker is expected to answer; 0 before the first.
        larger_pace: what `pace_of_larger` found, None when it has to look again.
        rows, computed_s, beside_s: of all batches.
        hope, growth: how many times as fast rows may go, and as many a batch may have.
        row_s: seconds that a row took of them.
        held_up: eight for each batch that did not count, less one for each that did since.
        short_until, short_rows: when batches need no longer be short; how many rows they have until then, else 0.
    """

    __slots__ = (
        "batches",
        "beside_s",
        "computed_s",
        "costs",
        "growth",
        "held_up",
        "hope",
        "larger_pace",
        "pace",
        "row_s",
        "rows",
        "short_rows",
        "short_until",
    )

    def __init__(self) -> None:
        self.rows, self.computed_s, self.beside_s = 0, 0.0, 0.0
        self.hope = self.growth = 1.0
        self.larger_pace: float | None = None
        self.batches: deque[tuple[int, float, float]] = deque(maxlen=_BATCHES)
        self.costs = Costs()
        self.pace, self.row_s, self.held_up = 0.0, math.inf, 0.0
        self.short_until, self.short_rows = 0.0, 0

    def pace_of_larger(self) -> float:
        """The pace of batches that are as large as they may become."""
        if self.larger_pace is None:
            rows, costs = self.rows / len(self.batches), self.costs
            best_s = sum([costs.best_s(rows) for rows, _, _ in self.batches])
            known = costs.pace_beyond(_STEP * rows) * best_s / (self.computed_s + self.beside_s)
            self.larger_pace = max(self.pace_if(costs.fixed_share(rows)), known)
        return self.larger_pace

    def pace_if(self, fixed_share: float) -> float:
        """The pace if that part of what was computed would be the same for larger batches."""
        fixed_s = fixed_share * self.computed_s
        return self.rows / ((self.computed_s - fixed_s) / self.hope + (self.beside_s + fixed_s) / self.growth)


_NOTHING = _Known()
