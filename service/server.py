"""The story of serving, from settings to a server that runs.

`serve` reads top to bottom. Who starts whom:

    python -m service         service/supervisor.py: takes signals, starts the next line again if it dies
      LitServe's main         this file, and what LitServe lacks: service/lit_server.py, service/processes/watch.py
        API processes         service/api_process.py: service/front.py behind service/http/fast_lane.py and
                              service/app/routes.py
        inference workers     service/workers/worker.py, started by service/workers/lit_api.py
"""

import logging
import os
import socket
from functools import partial
from pathlib import Path

from service.access.tls import Tls
from service.api_process import add_what_is_ours, or_end, remove_what_hurts, why_no_room
from service.http.fast_lane import FastLane
from service.http.tls_lane import TlsLane
from service.lit_server import Server
from service.processes import process
from service.processes.watch import CannotServe
from service.settings import Settings

_BACKLOG = 65_535
"""Connections that the kernel may hold until they are accepted, at most what net.core.somaxconn allows. Beyond it a
client is not told anything: its kernel asks again after 1, 3, 7, 15, 31 s, long after the burst is over."""

log = logging.getLogger(__name__)


def serve(settings: Settings, runtime: Path, end: socket.socket) -> int:
    """Serve until `end` becomes readable, then drain; the exit status of the process.

    `runtime` is a private folder for the sockets of workers and the counts of metrics.
    """
    os.register_at_fork(after_in_child=lambda: process.end_with(None))
    server = Server(settings, runtime, end)
    remove_what_hurts(server.app)
    if (reason := why_no_room(server)) is not None:
        log.error(reason)
        return process.CANNOT_SERVE
    tls = Tls(settings) if settings.tls_certificate is not None else None
    front = add_what_is_ours(server, settings, tls)
    lane = FastLane if tls is None else TlsLane  # uvicorn's "httptools", answering predictions by itself
    process.share_what_is_there()
    try:
        server.run(
            host=settings.host,
            port=settings.port,
            num_api_servers=server.api_processes,
            log_level=_quieter(settings.log_level),
            generate_client_file=False,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=75,  # beyond the 60 s of usual load balancers: they must be the ones to hang up
            loop="service.http.accepting:Loop",  # uvloop, sharing the port evenly
            proxy_headers=False,  # it would believe whatever connects from 127.0.0.1; service/access/gate.py reads them
            http=partial(lane, front),
            lifespan="on",
            log_config=None,  # uvicorn's lines look as ours do
            ssl_context_factory=None if tls is None else lambda *_: or_end(tls.context),
        )
    except CannotServe as error:
        error.tell()
        return process.CANNOT_SERVE
    return server.exit_status


def _quieter(level: str) -> str:
    """LitServe's and uvicorn's own lines are of interest to those who debug."""
    return {"debug": "debug", "info": "warning"}.get(level, level)
