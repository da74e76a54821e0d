"""What an API process is: LitServe's application with our routes and without what hurts, and a front behind them.

The main process prepares it, and each fork makes its own front before its port is open.
"""

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware

from service.access.gate import Gate
from service.access.limits import Limits
from service.access.tls import Tls
from service.app.platforms import OtherPaths
from service.app.routes import add_routes
from service.attached import attached
from service.batching.inline import OpenSession
from service.front import Front, open_front
from service.http.metrics_port import answering
from service.lit_server import Server
from service.observing.count_files import make_room
from service.observing.slot import counts_folder, use_slot
from service.observing.vitals import Vitals
from service.processes import process
from service.processes.busy import beating, busy_path
from service.processes.scheduling import take_short_slices
from service.settings import BadSettings, Settings
from service.workers.lit_api import opener

_LIMITS = "limits"
"""File in the runtime folder that all API processes count their clients in."""

_T = TypeVar("_T")

log = logging.getLogger(__name__)


def why_no_room(server: Server) -> str | None:
    """Why what API processes map could not be made, all of it now; None when it is there."""
    try:
        Limits.make(server.runtime / _LIMITS)
        for slot in range(server.api_processes):
            make_room(counts_folder(), f"api-{slot}")
    except OSError as error:
        needed = "2 MB for each API process and one more"
        return f"no room for counts in {server.runtime}: {error.strerror}; it takes {needed}; name another in TMPDIR"
    return None


def remove_what_hurts(app: FastAPI) -> None:
    """LitServe compresses every body over 1000 bytes at level 9: for numbers all cost, no gain."""
    gzip: Any = GZipMiddleware
    app.user_middleware = [kept for kept in app.user_middleware if kept.cls is not gzip]


def add_what_is_ours(server: Server, settings: Settings, tls: Tls | None) -> Callable[[], Front]:
    """Routes, and in each API process a front that is open before the port is; what comes back finds it."""
    fronts: list[Front] = []  # one, made after the fork
    open_session = _inline_opener(settings)
    litserves = server.app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        up = server.api_is_up(server.slot)
        use_slot(f"api-{server.slot}")
        process.take_short_turns()
        take_short_slices()
        server.tally.join(server.slot)
        gate = or_end(lambda: Gate(settings, server.runtime / _LIMITS))
        process.call_this(f"api-{server.slot}")
        async with (
            litserves(app),
            _open_front(server, settings, gate, open_session) as front,
        ):
            fronts.append(front)
            async with attached(front, settings, tls), answering(server.metrics_listener, app):
                process.keep_what_is_there()
                async with (
                    server.inline_rate.told_by(server.slot, lambda: front.inline.given),
                    beating(busy_path(up)),
                ):  # not before: a start takes long on a busy machine, and hangs nobody
                    _say_ready(server, settings, front)
                    yield
            if front.open_requests:  # uvicorn waits for them no longer
                (server.runtime / f"{server.slot}.cut").write_text(str(front.open_requests))

    server.app.router.lifespan_context = lifespan

    def front() -> Front:
        return fronts[0]

    add_routes(server.app, front)
    server.app.add_middleware(OtherPaths, settings=settings, routes=list(server.app.router.routes))
    return front


def _inline_opener(settings: Settings) -> OpenSession | None:
    """What opens a session in an API process, on its CPU; None where workers compute everything.

    To reach a GPU and come back takes longer than such a session does, so only who names a GPU has everything there.
    """
    if not settings.inline_s or settings.backend != "onnx" or settings.device == "cuda":
        return None
    return opener(settings, "cpu")


def or_end(make: Callable[[], _T]) -> _T:
    """What `make` gives. A file that has become wrong ends this process in one sentence, and it is tried again."""
    try:
        return make()
    except BadSettings as error:
        log.error("%s", error)  # noqa: TRY400 - one sentence
        os._exit(process.CANNOT_SERVE)


def _open_front(
    server: Server, settings: Settings, gate: Gate, open_session: OpenSession | None
) -> AbstractAsyncContextManager[Front]:
    ups = [server.api_is_up(slot) for slot in range(server.api_processes)]
    return open_front(
        settings,
        server.worker_sockets,
        server.runtime,
        server.slot,
        gate=gate,
        open_session=open_session,
        vitals=Vitals(settings.max_waiting_rows * server.api_processes, server.worker_sockets, ups, server.supervisor),
    )


def _say_ready(server: Server, settings: Settings, front: Front) -> None:
    """The one line of a start, by the first API process that is ready; the supervisor looks for the file."""
    server.api_is_up(server.slot).touch()
    with contextlib.suppress(FileExistsError):
        (server.runtime / process.READY).touch(exist_ok=False)
        live = [f"{name}/{number}" for name, versions in front.catalog.live().items() for number in versions]
        what = "answers for " + ", ".join(live[:8]) + (f" and {len(live) - 8} more" if len(live) > 8 else "")
        host = "127.0.0.1" if settings.host == "127.0.0.1" else "localhost"
        scheme = "http" if settings.tls_certificate is None else "https"
        if settings.host != "127.0.0.1" and not front.gate.needs_key:
            log.warning(
                "there are no API keys: whoever reaches port %d may ask; docs/how-to/securing.md", settings.port
            )
        reason = front.not_ready()
        log.info("%s://%s:%d %s", scheme, host, settings.port, what if reason is None else f"is not ready: {reason}")
