"""What one API process has, made once after LitServe forked it; the routes get it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import RowcastError
from models.repository import Repository
from service.access.gate import Gate
from service.admission import Admission
from service.catalog import Catalog
from service.coalescer import Coalescer
from service.connections import Connections
from service.inline import Inline, OpenSession
from service.lanes import Lanes
from service.metrics import Metrics
from service.observing.tracing import Trace, read_trace
from service.request_ids import RequestIds
from service.settings import Settings

if TYPE_CHECKING:
    from service.ledger import Ledger

Observer = Callable[["Ledger", RowcastError | None], None]
"""Told of every request that is no probe, once its answer is written, and of its problem."""


@dataclass
class Front:
    """The parts of an API process.

    Attributes:
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
    gate: Gate
    connections: Connections
    open_trace: Callable[[Mapping[bytes, bytes]], Trace | None] = read_trace
    observers: list[Observer] = field(default_factory=list)
    draining: bool = False
    open_requests: int = 0
    ids: RequestIds = field(default_factory=RequestIds)

    def not_ready(self) -> str | None:
        """Why this process cannot predict now, in one sentence; None when it can."""
        if self.draining:
            return "the server is ending"
        if not self.lanes.living:
            return "no inference worker is up; one is being started"
        if not self.lanes.answering(self.settings.hang_s / 2):
            return f"no inference worker has answered for {self.settings.hang_s / 2:g} s"
        return self.catalog.why_not_ready()


@asynccontextmanager
async def open_front(
    settings: Settings, sockets: list[Path], gate: Gate, open_session: OpenSession | None
) -> AsyncIterator[Front]:
    """A front whose catalogue has been read once and is watched from now on.

    `open_session` opens a session in this process; None: all batches are computed by workers.
    """
    metrics = Metrics()
    lanes = Lanes(sockets)
    coalescer = Coalescer(
        lanes,
        Inline(open_session, settings.inline_s),
        metrics.batch,
        max_batch_rows=settings.max_batch_rows,
        admission=Admission(settings.max_wait_s, settings.max_waiting_rows),
        say_in_flight=metrics.rows_in_flight,
    )
    lanes.start(coalescer.wake)
    await lanes.someone_is_up()
    catalog = Catalog(Repository(settings.repository), lanes.open, settings.default_model)
    await catalog.refresh()
    watch = asyncio.create_task(catalog.watch(settings.poll_s))
    front = Front(settings, catalog, coalescer, lanes, metrics, gate, Connections(settings))
    bounds = asyncio.create_task(front.connections.watch())
    try:
        yield front
    finally:
        front.draining = True
        watch.cancel()
        bounds.cancel()
        await lanes.stop()
        metrics.write_what_is_kept()
