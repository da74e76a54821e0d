"""Whether a batch waits for more rows before it goes to a worker.

It gains nothing where rows cost what they cost, and delays a lone request. But a batch of some networks takes as long
for one row as for many (a deep one on a GPU, a slow start of each run), and those who were just answered mostly ask
again within moments. Sent at once, the first of them would take a worker's whole turn, and the same few rows would go
together for ever after. So for such a version, and for no other, a batch that has fewer rows than those before it waits
a twentieth of a batch's time for more; or, while another batch of it is out, for that one's return, and at most for the
time that a batch takes.
"""

from collections import deque

_BATCHES = 16
_WORTH_S = 0.005  # of a batch; a shorter one is not worth waiting for
_SHARE = 0.05
_MOST_S = 0.01
_MOST_VERSIONS = 1000


class Gathering:
    """What the last batches of each version say of it, for one API process."""

    def __init__(self) -> None:
        """Know of no batch yet."""
        self._known: dict[str, _Known] = {}

    def learn(self, key: str, rows: int, seconds: float) -> None:
        """A batch of so many rows took a session so many seconds."""
        known = self._known.get(key)
        if known is None:
            if seconds < _WORTH_S:
                return
            if len(self._known) >= _MOST_VERSIONS:
                del self._known[next(iter(self._known))]
            known = self._known[key] = _Known()
        known.learn(rows, seconds)

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


class _Known:
    """The last batches of a version.

    Attributes:
        most_rows: of one of them.
        seconds: what one took, the mean.
        is_flat: what a batch takes is mostly not its rows'.
    """

    __slots__ = ("_batches", "is_flat", "most_rows", "seconds")

    def __init__(self) -> None:
        self._batches: deque[tuple[int, float]] = deque(maxlen=_BATCHES)
        self.most_rows, self.seconds, self.is_flat = 0, 0.0, False

    def learn(self, rows: int, seconds: float) -> None:
        self._batches.append((rows, seconds))
        number = len(self._batches)
        self.most_rows = max(rows for rows, _ in self._batches)
        self.seconds = sum(seconds for _, seconds in self._batches) / number
        mean_rows = sum(rows for rows, _ in self._batches) / number
        spread = sum((rows - mean_rows) ** 2 for rows, _ in self._batches)
        if self.seconds < _WORTH_S:
            self.is_flat = False
        elif spread:  # the line through them by least squares; where all have the same rows, there is none
            row_s = sum((rows - mean_rows) * seconds for rows, seconds in self._batches) / spread
            self.is_flat = row_s * mean_rows < self.seconds / 2
