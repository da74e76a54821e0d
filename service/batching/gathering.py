"""Whether a batch waits for more rows before it goes to a worker.

It gains nothing where rows cost what they cost, and delays a lone request. But a batch of some networks takes as long
for one row as for many (a deep one on a GPU, a slow start of each run), and those who were just answered mostly ask
again within moments. Sent at once, the first of them would take a worker's whole turn, and the same few rows would go
together for ever after. So for such a version, and for no other, a batch that has fewer rows than those before it waits
a twentieth of a batch's time for more; or, while another batch of it is out, for that one's return, and at most for the
time that a batch takes.
"""

import math
from collections import deque

_BATCHES = 16
_GENERATION = 128
"""Batches after which the shortest of those before the last so many is forgotten."""
_WORTH_S = 0.005  # of a batch; a shorter one is not worth waiting for
_SHARE = 0.05
_LITTLE = 0.25  # of what a batch takes without rows
_MOST_S = 0.01
_MOST_VERSIONS = 1000
LONGEST_S = 0.25
"""Of a batch that those of other API processes may wait for: the watch might take who waits for one that hangs."""


class Gathering:
    """What the last batches of each version say of it, for one API process."""

    def __init__(self) -> None:
        self._known: dict[str, Line] = {}

    def learn(self, key: str, rows: int, seconds: float) -> None:
        """A batch of so many rows took a session so many seconds."""
        known = self._known.get(key)
        if known is None:
            if seconds < _WORTH_S:
                return
            if len(self._known) >= _MOST_VERSIONS:
                del self._known[next(iter(self._known))]
            known = self._known[key] = Line()
        known.learn(rows, seconds)

    def is_merged(self, key: str, rows: int) -> bool:
        """Whether a worker computes so many rows together with those of other API processes."""
        known = self._known.get(key)
        return known is not None and known.seconds <= LONGEST_S and known.is_free(rows)

    def wait_s(self, key: str, rows: int, most_rows: int, *, is_out: bool, since_s: float, returned_s: float) -> float:
        """How long a batch should wait for more rows, in seconds; 0: it goes now.

        `rows` wait, the first of them `since_s` seconds ago, and a batch may have `most_rows`; `is_out`: another batch
        of the version is out, else the last one came back `returned_s` seconds ago.
        """
        known = self._known.get(key)
        if known is None or not known.is_flat or rows >= min(most_rows, known.most_rows):
            return 0.0
        if is_out:
            return max(0.0, known.seconds - since_s)
        return max(0.0, min(_SHARE * known.seconds, _MOST_S) - min(since_s, returned_s))


class Line:
    """What the last batches of a version took.

    Attributes:
        most_rows: of one of them.
        seconds: what one took, the mean.
        row_s: what a row adds to that: by the shortest batches of the least and of the most rows, since whatever else a
            machine does only adds to one. While all have about as many rows, it is what was known before.
    """

    __slots__ = ("_batches", "_learned", "_least", "_shortest", "mean_rows", "most_rows", "row_s", "seconds")

    def __init__(self) -> None:
        self._batches: deque[tuple[int, float]] = deque(maxlen=_BATCHES)
        self.most_rows, self.mean_rows, self.seconds, self.row_s = 0, 0.0, 0.0, math.inf
        self._least = 0.0, 0  # seconds of the shortest batch of the least rows, and these
        self._learned = 0
        # the shortest of 1 row, of 2 or 3, of 4 to 7 and so on, in this generation and the one before
        self._shortest: tuple[dict[int, tuple[float, int]], dict[int, tuple[float, int]]] = {}, {}

    def learn(self, rows: int, seconds: float) -> None:
        """A batch of so many rows took so long."""
        self._batches.append((rows, seconds))
        number = len(self._batches)
        self.most_rows = max(rows for rows, _ in self._batches)
        self.seconds = sum(seconds for _, seconds in self._batches) / number
        self.mean_rows = sum(rows for rows, _ in self._batches) / number
        self._learned += 1
        if self._learned % _GENERATION == 0:
            self._shortest = {}, self._shortest[0]
        now, before = self._shortest
        size = rows.bit_length()
        now[size] = min(now.get(size, (math.inf, 0)), (seconds, rows))
        sizes = now.keys() | before.keys()
        few_s, few = self._least = self._shortest_of(min(sizes))
        if len(sizes) > 1:
            many_s, many = self._shortest_of(max(sizes))
            self.row_s = (many_s - few_s) / (many - few)

    def _shortest_of(self, size: int) -> tuple[float, int]:
        return min(each[size] for each in self._shortest if size in each)

    def least_s(self, rows: int) -> float:
        """What so many rows take where nothing holds them up; 0 before the first batch."""
        few_s, few = self._least
        return few_s if math.isinf(self.row_s) else max(0.0, few_s + self.row_s * (rows - few))

    @property
    def is_flat(self) -> bool:
        """Whether a batch takes long, and less than half of that is its rows'."""
        return self.seconds >= _WORTH_S and self.row_s * self.mean_rows < self.seconds / 2

    def is_free(self, rows: int) -> bool:
        """Whether so many rows take little beside what a batch takes without rows, which is long."""
        fixed_s = self.seconds - self.row_s * self.mean_rows
        return self.seconds >= _WORTH_S and self.row_s * rows < _LITTLE * fixed_s
