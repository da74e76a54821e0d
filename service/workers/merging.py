"""Batches of several API processes that a worker computes in one run, where rows cost next to nothing.

Each API process makes batches of the requests that it has. Where twice the rows take no longer, two batches on two
cores are the same work done twice. So a batch that finds another one of its version being computed waits for its end,
and a moment more for those who were just answered to ask again; then one run has the rows of all. See
docs/decisions/0052-one-run-for-several-processes.md.
"""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from models.proof import Answers
from models.schema import Matrix
from service.batching.gathering import LONGEST_S, Line
from service.workers.turns import Turns

_WAIT_SHARE = 0.1
"""Of a run's time, that it waits for those who were just answered: an API process waits half as long for its own
(service/batching/gathering.py), and then sends what it has."""
_MOST_WAIT_S = 0.01

Run = Callable[[Matrix, bool], tuple[Answers, float | None]]
"""Computes a matrix, on several cores if it may; how many seconds they took together, None: it was one."""


class Computed(NamedTuple):
    """What became of a batch.

    Attributes:
        seconds: that it waited for its turn and was computed.
        core_s: the same if one core computes it.
    """

    answers: Answers
    seconds: float
    core_s: float


class _Part:
    """One batch that waits for a run.

    Attributes:
        is_out: another batch's thread computes it.
        computed: while there is nothing and it is not out, its own thread has to compute it.
    """

    __slots__ = ("arrived", "computed", "is_out", "matrix")

    def __init__(self, matrix: Matrix) -> None:
        self.matrix, self.is_out, self.arrived = matrix, False, time.perf_counter()
        self.computed: Computed | None = None


class Merging:
    """The batches of one version in one worker. Its methods may be called from several threads."""

    def __init__(self, most_rows: int, turns: Turns, longest_s: float = LONGEST_S) -> None:
        """A run of several batches has `most_rows` at most; nobody waits for runs that take longer than `longest_s`."""
        self._most_rows, self._turns, self._longest_s = most_rows, turns, longest_s
        self._line = Line()
        self._changed = threading.Condition()
        self._waiting: list[_Part] = []
        self._out = self._rows_out = 0
        self._expected_rows = 0
        self._returned = 0.0

    def run(self, matrix: Matrix, run: Run) -> Computed:
        """The answers for a matrix [N, F]. Either `run` is called here, or it was in the thread of another batch."""
        part = _Part(matrix)
        with self._changed:
            self._waiting.append(part)
            self._changed.notify_all()
            while not part.is_out and (wait_s := self._wait_s(part)) > 0:
                self._changed.wait(wait_s)
            self._changed.wait_for(lambda: not part.is_out)
            if part.computed is not None:
                return part.computed
            parts = self._take(part)
            rows = sum(len(one.matrix) for one in parts)
            least_s = self._line.least_s(rows)
        computed, core_s = None, 0.0
        try:
            with self._turns.turn(least_s) as turn:
                started = time.perf_counter()
                together = np.concatenate([one.matrix for one in parts]) if len(parts) > 1 else matrix
                answers, spread_s = run(together, turn.is_alone)
                computed_s = time.perf_counter() - started
            core_s = computed_s if spread_s is None else spread_s
            computed = Computed(answers, turn.waited_s + computed_s, turn.waited_s + core_s)
        finally:  # those who went along compute by themselves where it failed
            with self._changed:
                self._end(parts, rows, computed, core_s)
        return computed._replace(answers=_of(answers, 0, len(matrix)))

    def _wait_s(self, part: _Part) -> float:
        """How long a batch waits for others; it goes with all that wait, the first of them as soon as it need not."""
        rows = sum(len(one.matrix) for one in self._waiting)
        if self._line.seconds > self._longest_s or not self._line.is_free(min(self._most_rows, 2 * rows)):
            return 0.0
        now = time.perf_counter()
        if self._out:
            if rows + self._rows_out > self._most_rows:
                return 0.0
            return part.arrived + self._line.seconds - now
        if rows >= self._expected_rows:
            return 0.0
        return max(part.arrived, self._returned) + min(_WAIT_SHARE * self._line.seconds, _MOST_WAIT_S) - now

    def _take(self, first: _Part) -> list[_Part]:
        """A batch and those that go with it."""
        parts, rows = [first], len(first.matrix)
        for one in self._waiting if first in self._waiting else ():
            if one is not first and rows + len(one.matrix) <= self._most_rows and self._line.is_free(rows):
                parts.append(one)
                rows += len(one.matrix)
        for one in parts:
            one.is_out = one is not first
        self._waiting = [one for one in self._waiting if one not in parts]
        self._out += 1
        self._rows_out += rows
        return parts

    def _end(self, parts: list[_Part], rows: int, computed: Computed | None, core_s: float) -> None:
        self._out -= 1
        self._rows_out -= rows
        start = 0
        for one in parts:
            if computed is not None:
                one.computed = computed._replace(answers=_of(computed.answers, start, len(one.matrix)))
            one.is_out = False
            start += len(one.matrix)
        if computed is not None:
            self._line.learn(rows, core_s)
        self._returned = time.perf_counter()
        self._expected_rows = min(self._most_rows, rows + sum(len(one.matrix) for one in self._waiting))
        self._changed.notify_all()


def _of(answers: Answers, start: int, rows: int) -> Answers:
    if start == 0 and all(len(values) == rows for values in answers.values()):
        return answers  # as they are, whatever they are
    return {name: values[start : start + rows] for name, values in answers.items()}
