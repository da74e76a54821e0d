"""What the server counts, and the page on which Prometheus reads it.

Each API process writes its counts to files of its own, and whichever process is asked adds all of them up. Files are
named after the process's slot ("api-0"), not its id: a process that takes a dead one's place goes on with its files,
so no counter goes down, and there are at most five files for each slot.

What is live is not counted but looked up when the page is read. docs/reference/metrics.md explains every name.
"""

import asyncio
import importlib.metadata
import os
import platform
import threading
import time
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import mark_process_dead
from prometheus_client.registry import Collector

from models.repository import Version
from service.observing.count_files import SlotFiles, Whose, make_room, value_class
from service.observing.counts import STAYS_S, WrittenCounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OK = "ok"

_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)

Times = tuple[float, int]
"""A value, and how many requests have it: those that come in one turn of the event loop are counted as one."""

STAGES = ("encode", "queue", "compute", "write", "whole", "failed")
"""What a request's time goes to; `queue` has a histogram of its own. See docs/reference/metrics.md."""

KEPT_BACK_S = 0.005
"""Counts are kept in plain memory and written at most this often: to write them costs 50 µs, four times a request.
After a pause they are written in the same turn of the event loop; so a process that is killed loses the counts of its
last 5 ms at most, and none of a request that came alone."""

_FORGOTTEN_S = 2 * STAYS_S
"""How long after it was live a version's counts are given up: by then it is on no process's page, where the sum over
processes would shrink as one after the other gives up its own."""

_slot = "main"


def counts_folder() -> Path:
    """Where all processes of this server write their counts."""
    return Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])


values.ValueClass = value_class(counts_folder, lambda: _slot)


def use_slot(slot: str) -> None:
    """Write from now on to the files of this slot, going on from what they hold.

    A process calls this as it starts. Of the processes alive, no two may have one slot.
    """
    global _slot  # noqa: PLW0603 - which files this process writes to is a fact about the process
    _slot = slot
    make_room(counts_folder(), slot)


def forget_process(slot: str) -> None:
    """Drop what only a living process has, its rows in flight. The parent calls this when a slot's process died."""
    mark_process_dead(slot)  # type: ignore[no-untyped-call]  # has no annotations


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
        self._changed: list[_OfVersion] = []  # since they were written
        self._written = 0.0  # when, by time.perf_counter
        self._outcomes: dict[tuple[str, str, str], Counter] = {}
        self._of_version: dict[str, _OfVersion] = {}

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

    def _changes(self, of_version: "_OfVersion") -> None:
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

    def totals(self) -> "Mapping[tuple[str, str], Totals]":
        """The counts of every version, by model and version, summed over all processes; none ever goes down."""
        with self._reading:
            counts = self._counts.totals()
        totals: dict[tuple[str, str], Totals] = {}
        for series, value in counts.items():
            if series.whose[1]:
                totals.setdefault(series.whose, Totals()).add(series.name, dict(series.labels), value)
        return totals

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
        for collector in (_State(live, refused, is_ready=is_ready, is_readable=is_readable), *more):
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

    def _children(self, version: Version) -> "_OfVersion":
        children = self._of_version.get(version.key)
        if children is None:
            labels = (version.name, str(version.number))
            children = self._of_version[version.key] = _OfVersion(
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


@dataclass(slots=True)
class Totals:
    """What one version did since the server started.

    Attributes:
        answered, failed: requests.
        rows: rows that were answered.
        batches: batches that were computed.
        last_batch: when the last one was computed, in Unix time; 0 before the first.
        seconds: by stage, added up over requests.
    """

    answered: int = 0
    failed: int = 0
    rows: int = 0
    batches: int = 0
    last_batch: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Take one sample of the metrics; one that does not matter here is passed over."""
        match name:
            case "rowcast_requests_total" if labels["code"] == OK:
                self.answered += int(value)
            case "rowcast_requests_total":
                self.failed += int(value)
            case "rowcast_rows_total":
                self.rows = int(value)
            case "rowcast_batch_rows_bucket":
                self.batches += int(value)
            case "rowcast_queue_duration_seconds_sum":
                self.seconds["queue"] = value
            case "rowcast_stage_seconds_total":
                self.seconds[labels["stage"]] = value
            case "rowcast_last_batch_time_seconds":
                self.last_batch = value
            case _:
                pass


@dataclass(slots=True, eq=False)
class _OfVersion:
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


class _State(Collector):
    """What is so now, in the process that was asked."""

    def __init__(self, live: Sequence[Version], refused: Sequence[str], *, is_ready: bool, is_readable: bool) -> None:
        self._live, self._refused, self._is_ready, self._is_readable = live, refused, is_ready, is_readable

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "rowcast_model_info", "1 for every live version", labels=["model", "version", "task", "weights"]
        )
        for version in self._live:
            manifest = version.manifest
            info.add_metric([version.name, str(version.number), manifest.task, manifest.weights[:12]], 1)
        yield info
        failures = GaugeMetricFamily(
            "rowcast_model_load_failures", "Published versions that were refused", labels=["model"]
        )
        for model, count in sorted(Counts(place.rsplit("/", 1)[0] for place in self._refused).items()):
            failures.add_metric([model], count)
        yield failures
        build = GaugeMetricFamily("rowcast_build_info", "Always 1", labels=["python", "litserve"])
        build.add_metric([platform.python_version(), importlib.metadata.version("litserve")], 1)
        yield build
        yield GaugeMetricFamily("rowcast_ready", "1 when the server is ready, else 0", value=float(self._is_ready))
        yield GaugeMetricFamily(
            "rowcast_repository_readable", "0 while the repository cannot be read", value=float(self._is_readable)
        )
