"""What one API process has, made once after LitServe forked it; the routes get it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from models.repository import Repository
from service.catalog import Catalog
from service.coalescer import Coalescer
from service.inline import Inline, OpenSession
from service.lanes import Lanes
from service.metrics import Metrics
from service.request_ids import RequestIds
from service.settings import Settings


@dataclass
class Front:
    """The parts of an API process.

    Attributes:
        draining: the server is ending: requests in flight are finished, new ones go elsewhere.
        open_requests: those that have begun and are not answered; both lanes count them.
    """

    settings: Settings
    catalog: Catalog
    coalescer: Coalescer
    lanes: Lanes
    metrics: Metrics
    draining: bool = False
    open_requests: int = 0
    ids: RequestIds = field(default_factory=RequestIds)

    @cached_property
    def key(self) -> bytes | None:
        """The key that every request must carry; None when none is asked for."""
        key = self.settings.api_key
        return None if key is None else key.get_secret_value().encode()

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
async def open_front(settings: Settings, sockets: list[Path], open_session: OpenSession | None) -> AsyncIterator[Front]:
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
        max_waiting_rows=settings.max_waiting_rows,
        say_in_flight=metrics.rows_in_flight,
    )
    lanes.start(coalescer.wake)
    await lanes.someone_is_up()
    catalog = Catalog(Repository(settings.repository), lanes.open, settings.default_model)
    await catalog.refresh()
    watch = asyncio.create_task(catalog.watch(settings.poll_s))
    front = Front(settings, catalog, coalescer, lanes, metrics)
    try:
        yield front
    finally:
        front.draining = True
        watch.cancel()
        await lanes.stop()
        metrics.write_what_is_kept()
