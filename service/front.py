"""What one API process has, made once after LitServe forked it; the routes get it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import RowcastError
from models.repository import Repository, Version
from service.access.gate import Gate
from service.batching.capacity import Capacity
from service.batching.coalescer import Coalescer
from service.batching.inline import Inline, OpenSession
from service.batching.lanes import Lanes
from service.batching.shadow import Counts, Shadows
from service.http.connections import Connections
from service.http.request_ids import RequestIds
from service.http.same_turn import TurnBatches
from service.http.spinning import Spinning
from service.observing.drift import Drift
from service.observing.metrics import Metrics
from service.observing.slot import counts_folder
from service.observing.tracing import Trace, read_trace
from service.observing.vitals import Vitals
from service.settings import Settings
from service.versions import control
from service.versions.alone import alone
from service.versions.catalog import Catalog
from service.workers.worker import shadow_path

if TYPE_CHECKING:
    from service.ledger import Ledger

_FOLD_S = 2.0  # how often sampled rows are counted; a scrape comes every 15 s or so

Observer = Callable[["Ledger", RowcastError | None], None]
"""Told of every request that is no probe, once its answer is written, and of its problem."""


@dataclass
class Front:
    """The parts of an API process.

    Attributes:
        runtime: the server's private folder, the same for all its processes.
        gate: who may ask.
        open_trace: the trace of a request with these headers.
        observers: the access log and OpenTelemetry, where they are on.
        draining: the server is ending: requests in flight are finished, new ones go elsewhere.
        open_requests: those that have begun and are not answered; both lanes count them.
    """

    settings: Settings
    catalog: Catalog
    coalescer: Coalescer
    lanes: Lanes
    metrics: Metrics
    shadows: Shadows
    runtime: Path
    drift: Drift
    vitals: Vitals
    gate: Gate
    connections: Connections
    inline: Inline
    open_trace: Callable[[Mapping[bytes, bytes]], Trace | None] = read_trace
    observers: list[Observer] = field(default_factory=list)
    draining: bool = False
    open_requests: int = 0
    ids: RequestIds = field(default_factory=RequestIds)
    turn_batches: TurnBatches = field(init=False)
    spinning: Spinning = field(init=False)

    @property
    def changes(self) -> int:
        """How often keys, or versions and labels, have changed: who was admitted before is to be looked at again."""
        return self.gate.looks + self.catalog.changes

    def not_ready(self) -> str | None:
        """Why this process cannot predict now, in one sentence; None when it can."""
        return self.cannot_compute() or self.catalog.why_not_ready()

    def cannot_compute(self) -> str | None:
        """Why no version at all can be asked now; None when those that are live can."""
        if self.draining:
            return "the server is ending"
        if not self.lanes.living:
            return "no inference worker is up; one is being started"
        if not self.lanes.answering(self.settings.hang_s / 2):
            return f"no inference worker has answered for {self.settings.hang_s / 2:g} s"
        return None


@asynccontextmanager
async def open_front(
    settings: Settings,
    sockets: list[Path],
    runtime: Path,
    slot: int,
    *,
    gate: Gate,
    open_session: OpenSession | None,
    vitals: Vitals,
) -> AsyncIterator[Front]:
    """A front whose catalogue has been read once and is watched from now on.

    `runtime` is the server's private folder, `slot` what tells this API process from the others.
    `open_session` opens a session in this process; None: all batches are computed by workers.
    """
    metrics = Metrics()
    drift = Drift(counts_folder(), f"api-{slot}", settings.drift_rows)
    capacity = Capacity(settings.max_wait_s, settings.max_waiting_rows)
    lanes = Lanes(sockets, capacity.know)
    inline = Inline(open_session, settings.inline_s, capacity.know)
    coalescer = Coalescer(
        lanes,
        inline,
        metrics.batch,
        max_batch_rows=settings.max_batch_rows,
        capacity=capacity,
        say_in_flight=metrics.rows_in_flight,
        sample=drift.sample,
        observe_urgent=metrics.urgent,
    )
    lanes.start(coalescer.wake)
    await lanes.someone_is_up()

    def retire(version: Version) -> None:
        inline.retire(version)
        lanes.retire(version)
        shadows.retire(version)
        metrics.forget_gone({(name, str(number)) for name, versions in catalog.live().items() for number in versions})

    catalog = Catalog(
        Repository(settings.repository),
        lanes.open,
        settings.default_model,
        keep=settings.keep_versions,
        unloaded=control.Unloaded(runtime),
        retire=retire,
        alone=lambda: alone(runtime / "alone"),
        says_what_is_live=slot == 0,
    )
    shadows = Shadows(
        catalog.shadow_of,
        lanes.start_shadow,
        shadow_path(runtime),
        Counts(metrics.registry),
        settings.hang_s,
    )
    async with control.listen(runtime, slot, catalog.refresh):
        await catalog.refresh()
        connections = Connections(settings)
        front = Front(
            settings, catalog, coalescer, lanes, metrics, shadows, runtime, drift, vitals, gate, connections, inline
        )
        front.turn_batches = TurnBatches(front)
        front.spinning = Spinning(settings.spin_s)
        watches = (catalog.watch(settings.poll_s), front.connections.watch(), drift.keep_up(_FOLD_S))
        tasks = [asyncio.create_task(watch) for watch in watches]
        try:
            yield front
        finally:
            front.draining = True
            for task in tasks:
                task.cancel()
            await shadows.stop()
            await lanes.stop()
            metrics.write_what_is_kept()
