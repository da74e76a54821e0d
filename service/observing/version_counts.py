"""What a process counts of one version, kept in plain memory until it is written all at once."""

import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import Counter, Gauge, Histogram

OK = "ok"

Times = tuple[float, int]
"""A value, and how many requests have it: those that come in one turn of the event loop are counted as one."""

STAGES = ("encode", "queue", "compute", "write", "whole", "failed")
"""What a request's time goes to; `queue` has a histogram of its own. See docs/reference/metrics.md."""


@dataclass(slots=True, eq=False)
class VersionCounts:
    """The series of one version, looked up once, and what is not written to them yet.

    Attributes:
        answered: seconds of requests that were answered.
        failed: code and seconds of each request that was not.
        batches: rows, seconds to compute, seconds that each job had waited.
    """

    labels: tuple[str, str]
    rows: Counter
    request: Histogram
    queue: Histogram
    compute: Histogram
    batch: Histogram
    last_batch: Gauge
    stages: Mapping[str, Counter]
    is_changed: bool = False
    answered: list[Times] = field(default_factory=list)
    rows_answered: int = 0
    encode_s: float = 0.0
    write_s: float = 0.0
    failed: list[tuple[str, float]] = field(default_factory=list)
    batches: list[tuple[int, float, Sequence[Times]]] = field(default_factory=list)

    def write(self) -> None:
        """Write all but the outcomes."""
        answered, failed, batches = self.answered, [(seconds, 1) for _, seconds in self.failed], self.batches
        self.answered, self.failed, self.batches = [], [], []
        if answered:
            self.rows.inc(self.rows_answered)
            _observe_all(self.request, answered)
            self._add("whole", _total(answered))
            self._add("encode", self.encode_s)
            self._add("write", self.write_s)
            self.rows_answered, self.encode_s, self.write_s = 0, 0.0, 0.0
        if failed:
            _observe_all(self.request, failed)
            self._add("failed", _total(failed))
        if batches:
            self.last_batch.set(time.time())
            _observe_all(self.batch, [(rows, 1) for rows, _, _ in batches])
            _observe_all(self.compute, [(compute_s, 1) for _, compute_s, _ in batches])
            queued = [(batch, one) for batch in batches for one in batch[2]]
            _observe_all(self.queue, [one for _, one in queued])
            # each request of a batch waited for all of it
            self._add("compute", sum([batch[1] * times for batch, (_, times) in queued]))

    def _add(self, stage: str, seconds: float) -> None:
        if seconds:
            self.stages[stage].inc(seconds)


def _observe_all(histogram: Histogram, seen: Sequence[Times]) -> None:
    """Observe many values at the cost of a few: each of a histogram's series is written once."""
    if not seen:
        return
    bounds, buckets = histogram._upper_bounds, histogram._buckets  # noqa: SLF001 - nothing public takes many values
    places: dict[int, int] = {}
    for value, times in seen:  # numpy would do it in less only for hundreds
        place = bisect_left(bounds, value)
        places[place] = places.get(place, 0) + times
    for place, times in places.items():
        buckets[place].inc(times)
    histogram._sum.inc(_total(seen))  # noqa: SLF001


def _total(seen: Iterable[Times]) -> float:
    return sum([value * times for value, times in seen])
