"""A second port for /metrics and the health probes alone, for a network that predictions do not come from.

Every API process listens on the one socket that main opened, so any of them answers, and one that dies takes nothing
with it. It is plain HTTP, also where the other port speaks TLS: probes have no certificates. Keys are asked for as
on the other port.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.settings import Settings

_LOOK_S = 10.0  # so whoever asks nothing is cut off within 20
_MOST_CONNECTIONS = 128
_MOST_BYTES = 65536  # that come between two looks; a scrape takes 500
PATHS = frozenset({"/metrics", "/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})


def listen(settings: Settings) -> socket.socket | None:
    """The socket of the second port; None when none is asked for.

    Raises:
        OSError: it is taken.
    """
    if settings.metrics_port is None:
        return None
    address = (settings.host, settings.metrics_port)
    if ":" not in settings.host:
        return socket.create_server(address, backlog=128)
    both = socket.has_dualstack_ipv6()  # IPv4 as well, as the other port does
    return socket.create_server(address, family=socket.AF_INET6, dualstack_ipv6=both, backlog=128)


@asynccontextmanager
async def answering(listener: socket.socket | None, app: ASGIApp) -> AsyncIterator[None]:
    """Answer on the second port with what the application says there, for as long as this is open."""
    if listener is None:
        yield
        return
    config = Config(
        _only_metrics(app), lifespan="off", log_config=None, ws="none", access_log=False, proxy_headers=False
    )
    config.load()
    state = ServerState()

    def protocol() -> HttpToolsProtocol:
        return _Bounded(config=config, server_state=state, app_state={})

    server = await asyncio.get_running_loop().create_server(protocol, sock=listener.dup())
    try:
        yield
    finally:
        server.close()
        for connection in list(state.connections):
            connection.shutdown()


class _Bounded(HttpToolsProtocol):
    """One connection, with bounds that uvicorn lacks.

    It is cut off where nothing is asked or an answer is not over for a while, and where a head has no end.
    """

    _came = 0  # bytes since the last look
    _seen: object = None  # the request at the last look
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()
        else:
            self._timer = self.loop.call_later(_LOOK_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._came += len(data)
        if self._came > _MOST_BYTES:
            self.transport.abort()
        else:
            super().data_received(data)

    def _look(self) -> None:
        if self.cycle is self._seen:
            self.transport.abort()
        else:
            self._came, self._seen = 0, self.cycle
            self._timer = self.loop.call_later(_LOOK_S, self._look)


def _only_metrics(app: ASGIApp) -> ASGIApp:
    """The application, for which every other path is one that it does not have."""

    async def only_metrics(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in PATHS:
            scope = {**scope, "path": "/not-on-this-port" + scope["path"]}
        await app(scope, receive, send)

    return only_metrics
