"""What one API process has, made once after LitServe forked it; the routes get it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from models.repository import Repository, Version
from service import control
from service.catalog import Catalog
from service.coalescer import Coalescer
from service.lanes import Lanes
from service.metrics import Metrics
from service.settings import Settings
from service.shadow import Counts, Shadows
from service.worker import shadow_path


@dataclass
class Front:
    """The parts of an API process.

    Attributes:
        runtime: the server's private folder, the same for all its processes.
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
    draining: bool = False
    open_requests: int = 0

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
async def open_front(settings: Settings, sockets: list[Path], runtime: Path, slot: int) -> AsyncIterator[Front]:
    """A front whose catalogue has been read once and is watched from now on.

    `runtime` is the server's private folder, `slot` what tells this API process from the others.
    """
    metrics = Metrics()
    lanes = Lanes(sockets)
    coalescer = Coalescer(lanes, metrics.batch, settings.max_batch_rows, settings.max_waiting_rows)
    lanes.start(coalescer.wake)
    await lanes.someone_is_up()

    def retire(version: Version) -> None:
        lanes.retire(version)
        shadows.retire(version)

    catalog = Catalog(
        Repository(settings.repository),
        lanes.open,
        settings.default_model,
        keep=settings.keep_versions,
        unloaded=control.Unloaded(runtime),
        retire=retire,
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
        watch = asyncio.create_task(catalog.watch(settings.poll_s))
        front = Front(settings, catalog, coalescer, lanes, metrics, shadows, runtime)
        try:
            yield front
        finally:
            front.draining = True
            watch.cancel()
            await shadows.stop()
            await lanes.stop()
