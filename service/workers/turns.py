"""Long runs of a worker go one after the other, as many at a time as it has cores; one that is alone may have more.

Two that share a core take longer than one after the other, since each empties the core's caches of what the other has
there; and the first of them would be answered in half the time. See docs/decisions/0067-long-runs-take-turns.md, and
0074-a-run-that-is-alone-has-more-cores.md.
"""

import contextlib
import math
import mmap
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from service.batching.gathering import LONGEST_S
from service.processes.scheduling import Hunger
from service.processes.yielding import InlineRate

_LONG_S = 0.005
_PATIENCE = 2.0
"""Enough for runs that are alike, while one that is short beside another, or behind one that hangs, soon begins."""
_LATELY = 3.0
"""Times what a run takes: who answered two runs at once will soon ask for the next two."""


def is_long(seconds: float) -> bool:
    """Whether runs that take so many seconds take turns; one that takes much longer might hang."""
    return _LONG_S <= seconds <= LONGEST_S


class Company:
    """The long runs of all workers of a server: in memory that the process which makes it and its forks share."""

    def __init__(self, workers: int, inline_rate: InlineRate, hunger: Hunger, lately: float = _LATELY) -> None:
        """There are none yet; company counts for `lately` times what a run takes."""
        self._runs = memoryview(mmap.mmap(-1, 8 * workers)).cast("d")
        self._kept_until = memoryview(mmap.mmap(-1, 8)).cast("d")
        self._inline_rate, self._hunger, self._lately = inline_rate, hunger, lately

    def tell(self, worker: int, runs: int) -> None:
        """Say how many a worker has, those that wait for their turn among them."""
        self._runs[worker] = runs

    def is_alone(self, seconds: float) -> bool:
        """Whether a run of so many seconds, which was told, has the cores for itself.

        No other one is there, nor was of late, API processes do not compute a lot by themselves, and nobody starves.
        """
        now = time.monotonic()
        if sum(self._runs) > 1:
            self._kept_until[0] = now + self._lately * seconds
            return False
        return now >= self._kept_until[0] and not self._inline_rate.is_high and not self._hunger.lasts


class Turn(NamedTuple):
    """How long a run waited for its turn, in seconds, and whether it may have more cores than one."""

    waited_s: float = 0.0
    is_alone: bool = False


class Turns:
    """The long runs of one worker. Its methods may be called from several threads."""

    def __init__(
        self, at_once: float = math.inf, patience: float = _PATIENCE, *, company: Company | None = None, worker: int = 0
    ) -> None:
        """Have `at_once` of them at a time; by default as many as come, and none is alone.

        Nobody waits longer than `patience` times what its own run takes. `company` is that of all workers, of which
        this is one.
        """
        self._free = None if math.isinf(at_once) else threading.Semaphore(int(at_once))
        self._patience = patience
        self._company, self._worker = company or Company(worker + 1, InlineRate(1), Hunger()), worker
        self._runs, self._counting = 0, threading.Lock()
        self._count(0)  # of a worker that died

    def _count(self, more: int) -> None:
        with self._counting:
            self._runs += more
            self._company.tell(self._worker, self._runs)

    @contextlib.contextmanager
    def turn(self, seconds: float) -> Iterator[Turn]:
        """Begin a run that takes about so many seconds once it is its turn.

        One that is short does not wait, and nobody waits for it; nor one that takes so long that it might hang.
        """
        if self._free is None or not is_long(seconds):
            yield Turn()
            return
        self._count(1)
        waited_s, has_turn = 0.0, self._free.acquire(blocking=False)
        if not has_turn:
            began = time.perf_counter()
            has_turn = self._free.acquire(timeout=self._patience * seconds)
            waited_s = time.perf_counter() - began
        try:
            yield Turn(waited_s, self._company.is_alone(seconds))
        finally:
            self._count(-1)
            if has_turn:
                self._free.release()
