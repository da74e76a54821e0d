"""What the server counts, and the page on which Prometheus reads it.

Each API process writes its counts to files of its own (`slot.py`), and whichever process is asked adds all of them up.
What is live is not counted but looked up when the page is read (`state.py`).

docs/reference/metrics.md explains every name.
"""

import asyncio
import threading
import time
from collections import Counter as Counts
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.registry import Collector

from models.repository import Version
from service.observing.count_files import SlotFiles, Whose
from service.observing.counts import STAYS_S, WrittenCounts
from service.observing.slot import counts_folder
from service.observing.state import State
from service.observing.totals import Totals, totals_of_versions
from service.observing.version_counts import OK, STAGES, Times, VersionCounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)

KEPT_BACK_S = 0.005
"""Counts are kept in plain memory and written at most this often: to write them costs 50 µs, four times a request.
After a pause they are written in the same turn of the event loop; so a process that is killed loses the counts of its
last 5 ms at most, and none of a request that came alone."""

_FORGOTTEN_S = 2 * STAYS_S
"""How long after it was live a version's counts are given up: by then it is on no process's page, where the sum over
processes would shrink as one after the other gives up its own."""


class Metrics:
    """The counts of one process.

    PROMETHEUS_MULTIPROC_DIR must name the folder of the counts, the same for all processes of a server.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._files: SlotFiles = values.ValueClass.files
        self._gone: dict[Whose, float] = {}  # since when
        self.registry = CollectorRegistry()

        def counter(name: str, what: str, *more: str) -> Counter:
            return Counter(name, what, ["model", "version", *more], registry=self.registry)

        def histogram(name: str, what: str, buckets: Sequence[float] = _SECONDS) -> Histogram:
            return Histogram(name, what, ["model", "version"], registry=self.registry, buckets=buckets)

        said = "Prediction requests by outcome ('ok' or an error code), and every other request that ended in an error"
        self._requests = counter("rowcast_requests", said, "code")
        self._rows = counter("rowcast_rows", "Rows answered with a prediction")
        self._request = histogram("rowcast_request_duration_seconds", "From the request's headers to its whole answer")
        self._queue = histogram("rowcast_queue_duration_seconds", "From an encoded request to the batch it goes in")
        self._compute = histogram("rowcast_compute_duration_seconds", "From sending a batch to having its answers")
        self._batch = histogram("rowcast_batch_rows", "Rows per batch", _ROWS)
        self._stages = counter(
            "rowcast_stage_seconds", "Seconds of requests by what they went to, added up over requests", "stage"
        )
        self._last_batch = Gauge(
            "rowcast_last_batch_time_seconds",
            "When the last batch was computed, in Unix time",
            ["model", "version"],
            registry=self.registry,
            multiprocess_mode="max",
        )
        self._urgent = counter("rowcast_urgent_requests", "Urgent requests that were let in")
        self._urgent_queue = histogram(
            "rowcast_urgent_queue_duration_seconds", "From an encoded urgent request to the batch it goes in"
        )
        self._in_flight = Gauge(
            "rowcast_rows_in_flight",
            "Rows encoded and not yet answered",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        lost = Counter("rowcast_log_lines_lost", "Lines of API processes that nobody read", registry=self.registry)
        self.log_lines_lost = lost.inc
        started = Gauge(
            "rowcast_process_start_time_seconds",
            "When each API process started, in Unix time; pid is its slot, which outlives it",
            registry=self.registry,
            multiprocess_mode="liveall",
        )
        started.set(time.time())
        self._in_flight.set(0)  # the slot's last process may have died with rows in flight
        self._counts = WrittenCounts(counts_folder(), clock)
        self._reading = threading.Lock()
        self._is_scheduled = False
        self._changed: list[VersionCounts] = []  # since they were written
        self._written = 0.0  # when, by time.perf_counter
        self._outcomes: dict[tuple[str, str, str], Counter] = {}
        self._of_version: dict[str, VersionCounts] = {}

    def answered(self, version: Version, rows: int, seconds: float, encode_s: float = 0, write_s: float = 0) -> None:
        """Count one request that was answered with so many rows.

        `seconds` from headers to answer, among them `encode_s` from the body to its matrix and `write_s` from the
        network's answers to the end.
        """
        self.answered_together(version, rows, ((seconds, 1),), encode_s, write_s)

    def answered_together(
        self, version: Version, rows: int, seconds: Sequence[Times], encode_s: float, write_s: float
    ) -> None:
        """Count requests with so many rows in all; `seconds` are those of each request, the others are added up."""
        kept = self._of_version.get(version.key) or self._children(version)
        kept.answered.extend(seconds)
        kept.rows_answered += rows
        kept.encode_s += encode_s
        kept.write_s += write_s
        if not kept.is_changed:
            self._changes(kept)

    def failed(self, version: Version | None, code: str, seconds: float, *, model: str = "") -> None:
        """Count one request that ended in an error after so many seconds.

        `version` is None where none was found; then `model` may name a live model, and nothing else.
        """
        if version is None:
            self._outcome((model, "", code)).inc()
            return
        kept = self._children(version)
        kept.failed.append((code, seconds))
        if not kept.is_changed:
            self._changes(kept)

    def batch(self, version: Version, rows: int, compute_s: float, queue_s: Iterable[float]) -> None:
        """Count one batch: its rows, the time to compute it, and how long each of its requests had waited."""
        self.batch_together(version, rows, compute_s, [(one, 1) for one in queue_s])

    def batch_together(self, version: Version, rows: int, compute_s: float, queue_s: Sequence[Times]) -> None:
        """The same, where many have waited for as long."""
        of_version = self._of_version.get(version.key) or self._children(version)
        of_version.batches.append((rows, compute_s, queue_s))
        if not of_version.is_changed:
            self._changes(of_version)

    def urgent(self, version: Version, waited_s: float | None) -> None:
        """Count an urgent request; with `waited_s`, how long one had waited when its batch went out."""
        labels = (version.name, str(version.number))
        if waited_s is None:
            self._urgent.labels(*labels).inc()
        else:
            self._urgent_queue.labels(*labels).observe(waited_s)

    def rows_in_flight(self, rows: int) -> None:
        """So many rows are waiting for their batch or out with it."""
        self._in_flight.set(rows)

    def write_what_is_kept(self) -> None:
        """Write all that this process has kept back. Called where requests are counted, not in a thread."""
        self._written = time.perf_counter()
        self._is_scheduled = False
        changed, self._changed = self._changed, []
        for of_version in changed:
            codes = Counts([code for code, _ in of_version.failed])
            if of_version.answered:
                codes[OK] = sum(times for _, times in of_version.answered)
            for code, times in codes.items():
                self._outcome((*of_version.labels, code)).inc(times)
            of_version.write()
            of_version.is_changed = False

    async def written_by_all(self) -> None:
        """Return once every process has written what it had kept back."""
        self.write_what_is_kept()
        await asyncio.sleep(2 * KEPT_BACK_S)

    def _changes(self, of_version: VersionCounts) -> None:
        """Have what is counted of a version written, now or soon."""
        of_version.is_changed = True
        self._changed.append(of_version)
        if self._is_scheduled:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no loop, no later
            self.write_what_is_kept()
            return
        self._is_scheduled = True
        left_s = self._written + KEPT_BACK_S - time.perf_counter()
        if left_s > 0:
            loop.call_later(left_s, self.write_what_is_kept)
        else:
            loop.call_soon(self.write_what_is_kept)

    def totals(self) -> Mapping[Whose, Totals]:
        """The counts of every version, by model and version, summed over all processes; none ever goes down."""
        with self._reading:
            return totals_of_versions(self._counts.totals())

    def page(
        self,
        live: Sequence[Version],
        refused: Sequence[str],
        *,
        is_ready: bool,
        is_readable: bool = True,
        more: Sequence[Collector] = (),
    ) -> bytes:
        """The page in Prometheus' text format: counts summed over all processes, and what is so in this one.

        `live` are the live versions, `refused` the places, `<model>/<version>`, of those that could not be opened;
        `more` is what else stands on the page.
        """
        for version in live:  # a rate needs its zero before the first request
            self._outcome((version.name, str(version.number), OK))
            self._rows.labels(version.name, str(version.number))
        with self._reading:
            counts = self._counts.page([(version.name, str(version.number)) for version in live])
        registry = CollectorRegistry()
        for collector in (State(live, refused, is_ready=is_ready, is_readable=is_readable), *more):
            registry.register(collector)
        return counts + bytes(generate_latest(registry))

    def forget_gone(self, live: Collection[Whose]) -> None:
        """Give up the counts of versions that are none of `live`, once they have left the page of every process.

        Called where requests are counted, whenever a version has gone. One that comes back later begins at 0.
        """
        now = self._clock()
        alive = {("", ""), *live, *((model, "") for model, _ in live)}
        self._gone = {whose: self._gone.get(whose, now) for whose in self._files.whose() - alive}
        self._counts.last_live(self._gone)
        long_gone = {whose for whose, since in self._gone.items() if now - since > _FORGOTTEN_S}
        if not long_gone:
            return
        self.write_what_is_kept()
        for metric in self._of_versions():
            for labels in list(metric._metrics):  # noqa: SLF001 - a copy, since a page may add to it in its thread
                if labels[:2] in long_gone:
                    del metric._metrics[labels]  # noqa: SLF001 - `remove` warns that prometheus_client's files cannot
        self._outcomes = {key: one for key, one in list(self._outcomes.items()) if key[:2] not in long_gone}
        self._of_version = {key: one for key, one in self._of_version.items() if one.labels not in long_gone}
        self._files.forget(long_gone)

    def _of_versions(self) -> list[Any]:
        """The metrics that are counted by model and version, and by more."""
        metrics: list[Any] = list(self.registry._collector_to_names)  # noqa: SLF001 - nothing public names them
        return [one for one in metrics if getattr(one, "_labelnames", ())[:2] == ("model", "version")]

    def _outcome(self, key: tuple[str, str, str]) -> Counter:
        outcome = self._outcomes.get(key)
        if outcome is None:
            outcome = self._outcomes[key] = self._requests.labels(*key)
        return outcome

    def _children(self, version: Version) -> VersionCounts:
        children = self._of_version.get(version.key)
        if children is None:
            labels = (version.name, str(version.number))
            children = self._of_version[version.key] = VersionCounts(
                labels,
                rows=self._rows.labels(*labels),
                request=self._request.labels(*labels),
                queue=self._queue.labels(*labels),
                compute=self._compute.labels(*labels),
                batch=self._batch.labels(*labels),
                last_batch=self._last_batch.labels(*labels),
                stages={stage: self._stages.labels(*labels, stage) for stage in STAGES if stage != "queue"},
            )
        return children
