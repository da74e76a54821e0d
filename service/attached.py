"""What stands beside a front for as long as it answers: it watches files and requests, where a setting asks for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.access.tls import Tls
from service.front import Front
from service.observing.access_log import AccessLog
from service.observing.log_stream import LogStream, stderr
from service.observing.metrics import Metrics
from service.processes.waking import next_turn
from service.settings import Settings

_LOOK_S = 1.0


@asynccontextmanager
async def attached(front: Front, settings: Settings, tls: Tls | None) -> AsyncIterator[None]:
    """Read keys and certificate again when they change; log and trace requests, and lose none of them at the end."""
    watches = [asyncio.create_task(front.gate.watch())]
    if tls is not None:
        watches.append(asyncio.create_task(tls.watch()))
    stream, ends = stderr(), []
    watches.append(asyncio.create_task(_count_lost(stream, front.metrics)))
    if settings.access_log:
        access_log = AccessLog(settings.log_format, settings.access_log, stream)
        front.observers.append(access_log)
        ends.append(access_log.flush)
    if settings.tracing == "otlp":
        from service.observing.telemetry import Telemetry  # noqa: PLC0415 - OpenTelemetry is imported where it is asked for

        telemetry = Telemetry()
        front.open_trace = telemetry.open_trace
        front.observers.append(telemetry)
        ends.append(telemetry.close)
    try:
        yield
    finally:
        for watch in watches:
            watch.cancel()
        for end in ends:
            end()
        stream.wait()


async def _count_lost(stream: LogStream, metrics: Metrics) -> None:
    """Count lines of the log that are lost; not where they are, since who counts may have something to log."""
    counted = 0
    while True:
        await next_turn(_LOOK_S)
        if stream.lost > counted:
            metrics.log_lines_lost(stream.lost - counted)
            counted = stream.lost
