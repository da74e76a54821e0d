"""Long runs of a worker go one after the other, as many at a time as it has cores.

Two that share a core take longer than one after the other, since each empties the core's caches of what the other has
there; and the first of them would be answered in half the time. See docs/decisions/0067-long-runs-take-turns.md.
"""

import contextlib
import math
import threading
import time
from collections.abc import Iterator

from service.batching.gathering import LONGEST_S

_LONG_S = 0.005
_PATIENCE = 2.0
"""Enough for runs that are alike, while one that is short beside another, or behind one that hangs, soon begins."""


class Turns:
    """The long runs of one worker. Its methods may be called from several threads."""

    def __init__(self, at_once: float = math.inf, patience: float = _PATIENCE) -> None:
        """Have `at_once` of them at a time; by default as many as come.

        Nobody waits longer than `patience` times what its own run takes.
        """
        self._free = None if math.isinf(at_once) else threading.Semaphore(int(at_once))
        self._patience = patience

    @contextlib.contextmanager
    def turn(self, seconds: float) -> Iterator[float]:
        """Begin a run that takes about so many seconds once it is its turn: how long it waited.

        One that is short does not wait, and nobody waits for it; nor one that takes so long that it might hang.
        """
        if self._free is None or not _LONG_S <= seconds <= LONGEST_S:
            yield 0.0
            return
        waited_s, has_turn = 0.0, self._free.acquire(blocking=False)
        if not has_turn:
            began = time.perf_counter()
            has_turn = self._free.acquire(timeout=self._patience * seconds)
            waited_s = time.perf_counter() - began
        try:
            yield waited_s
        finally:
            if has_turn:
                self._free.release()
