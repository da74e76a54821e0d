"""Whether one more request is let in to the queue: only if its turn is likely to come soon enough.

A queue that is bounded by rows alone is minutes long for a slow model and refuses bursts to a fast one. So it is
bounded in time: rows that wait, by the pace at which the last batches went. The pace is the best of a few batches, as
congestion control takes the bandwidth of a link (BBR, Cardwell et al. 2016, section "Characterizing the bottleneck"):
a batch is slow for many reasons, and fast for one. A small batch goes at a worse pace than the large one that a burst
becomes, so a burst is judged too strictly, never too kindly, until its first batch is back.
"""

from collections import deque

from service.problems import Overloaded

_BATCHES = 16  # whose pace counts
_MOST_VERSIONS = 1000  # whose pace is remembered


class Admission:
    """Says who is let in, for one API process."""

    def __init__(self, max_wait_s: float, max_rows: int) -> None:
        self._max_wait_s = max_wait_s
        self._max_rows = max_rows
        self._paces: dict[str, deque[float]] = {}  # rows per second of the last batches, by version

    def check(self, key: str, rows: int, *, waiting: int, waiting_in_all: int, within_s: float, at_once: int) -> None:
        """Let `rows` in, or not: behind `waiting` rows of the same version, `at_once` of whose batches go at a time.

        Whoever finds nobody waiting is let in. While no worker lives (`at_once` is 0), the pace says nothing.

        Raises:
            Overloaded: their turn would come too late, or too many rows wait already, whatever they are for.
        """
        if not waiting_in_all:
            return
        pace = max(self._paces.get(key, ()), default=0.0) * at_once
        wait_s = waiting / pace if pace else 0.0
        if wait_s > min(self._max_wait_s, within_s):
            raise Overloaded(waiting, wait_s)
        if waiting_in_all + rows > self._max_rows:
            raise Overloaded(waiting_in_all, min(60.0, waiting_in_all / pace) if pace else 1.0)

    def learn(self, key: str, rows: int, seconds: float) -> None:
        """A batch of so many rows came back after so many seconds."""
        paces = self._paces.get(key)
        if paces is None:
            if len(self._paces) >= _MOST_VERSIONS:
                del self._paces[next(iter(self._paces))]
            paces = self._paces[key] = deque(maxlen=_BATCHES)
        paces.append(rows / max(seconds, 1e-6))
