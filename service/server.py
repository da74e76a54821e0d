"""The story of serving, from settings to a server that runs: LitServe's main process, under our supervision.

`serve` reads top to bottom. Who starts whom:

    python -m service         service/supervisor.py: takes signals, starts the next line again if it dies
      LitServe's main         this file
        API processes         service/front.py behind service/http/fast_lane.py and service/app/routes.py
        inference workers     service/workers/worker.py, started by service/workers/lit_api.py

What LitServe lacks stands in `Server` and in service/processes/watch.py.
"""

import asyncio
import contextlib
import copy
import logging
import multiprocessing
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI
from litserve import LitServer
from litserve.connector import check_cuda_with_nvidia_smi
from litserve.loops import inference_worker
from litserve.utils import WorkerSetupStatus
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.gate import Gate
from service.access.limits import Limits
from service.access.tls import Tls
from service.app.platforms import OtherPaths
from service.app.routes import add_routes
from service.attached import attached
from service.batching.inline import OpenSession
from service.front import Front, open_front
from service.http import accepting
from service.http.connections import most_accepted
from service.http.fast_lane import FastLane
from service.http.metrics_port import answering, listen
from service.http.patient import NoQueue, PatientServer
from service.http.tls_lane import TlsLane
from service.observing import metrics
from service.observing.count_files import make_room
from service.processes import process
from service.processes.busy import beating, busy_path
from service.processes.cores import cores
from service.processes.scheduling import take_short_slices
from service.processes.watch import CannotServe, Child, check_that_all_live, drain, end_all, hear_of_children, watch
from service.processes.yielding import InlineRate
from service.settings import BadSettings, Settings
from service.workers import worker
from service.workers.lit_api import Rowcast, Statuses, opener

LIMITS = "limits"
"""File in the runtime folder that all API processes count their clients in."""

_BACKLOG = 65_535
"""Connections that the kernel may hold until they are accepted, at most what net.core.somaxconn allows. Beyond it a
client is not told anything: its kernel asks again after 1, 3, 7, 15, 31 s, long after the burst is over."""

_T = TypeVar("_T")

log = logging.getLogger(__name__)


def serve(settings: Settings, runtime: Path, end: socket.socket) -> int:
    """Serve until `end` becomes readable, then drain; the exit status of the process.

    `runtime` is a private folder for the sockets of workers and the counts of metrics.
    """
    os.register_at_fork(after_in_child=lambda: process.end_with(None))
    server = Server(settings, runtime, end)
    _remove_what_hurts(server.app)
    if (reason := _has_no_room(server)) is not None:
        log.error(reason)
        return process.CANNOT_SERVE
    tls = Tls(settings) if settings.tls_certificate is not None else None
    front = _add_what_is_ours(server, settings, tls)
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
            ssl_context_factory=None if tls is None else lambda *_: _or_end(tls.context),
        )
    except CannotServe as error:
        _tell(error)
        return process.CANNOT_SERVE
    return server.exit_status


def _has_no_room(server: "Server") -> str | None:
    """Why what API processes map could not be made, all of it now; None when it is there."""
    try:
        Limits.make(server.runtime / LIMITS)
        for slot in range(server.api_processes):
            make_room(metrics.counts_folder(), f"api-{slot}")
    except OSError as error:
        needed = "2 MB for each API process and one more"
        return f"no room for counts in {server.runtime}: {error.strerror}; it takes {needed}; name another in TMPDIR"
    return None


def _remove_what_hurts(app: FastAPI) -> None:
    """LitServe compresses every body over 1000 bytes at level 9: for numbers all cost, no gain."""
    gzip: Any = GZipMiddleware
    app.user_middleware = [kept for kept in app.user_middleware if kept.cls is not gzip]


def _add_what_is_ours(server: "Server", settings: Settings, tls: Tls | None) -> Callable[[], Front]:
    """Routes, and in each API process a front that is open before the port is; what comes back finds it."""
    fronts: list[Front] = []  # one, made after the fork
    open_session = _inline_opener(settings)
    litserves = server.app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        up = server.api_is_up(server.slot)
        metrics.use_slot(f"api-{server.slot}")
        process.take_short_turns()
        take_short_slices()
        server.tally.join(server.slot)
        gate = _or_end(lambda: Gate(settings, server.runtime / LIMITS))
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
    server.app.add_middleware(CountOpen, front=front)
    return front


def _inline_opener(settings: Settings) -> OpenSession | None:
    """What opens a session in an API process, on its CPU; None where workers compute everything.

    To reach a GPU and come back takes longer than such a session does, so only who names a GPU has everything there.
    """
    if not settings.inline_s or settings.backend != "onnx" or settings.device == "cuda":
        return None
    return opener(settings, "cpu")


def _or_end(make: Callable[[], _T]) -> _T:
    """What `make` gives. A file that has become wrong ends this process in one sentence, and it is tried again."""
    try:
        return make()
    except BadSettings as error:
        log.error("%s", error)  # noqa: TRY400 - one sentence
        os._exit(process.CANNOT_SERVE)


def _open_front(
    server: "Server", settings: Settings, gate: Gate, open_session: OpenSession | None
) -> AbstractAsyncContextManager[Front]:
    return open_front(
        settings,
        server.worker_sockets,
        server.runtime,
        server.slot,
        gate=gate,
        open_session=open_session,
        waiting_rows_limit=settings.max_waiting_rows * server.api_processes,
    )


class CountOpen:
    """The outermost layer of the application: it knows which requests did not get their answer."""

    def __init__(self, app: ASGIApp, front: Callable[[], Front]) -> None:
        self._app, self._front = app, front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._front().open_requests += 1
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:  # uvicorn has waited for drain_s: it stays open
            self._front().open_requests += 1
            raise
        finally:
            self._front().open_requests -= 1


def _say_ready(server: "Server", settings: Settings, front: Front) -> None:
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


def _quieter(level: str) -> str:
    """LitServe's and uvicorn's own lines are of interest to those who debug."""
    return {"debug": "debug", "info": "warning"}.get(level, level)


class Server(LitServer):  # type: ignore[misc]  # LitServe ships no types
    """LitServe's server, with what it lacks. Each override says what LitServe does without it."""

    def __init__(self, settings: Settings, runtime: Path, end: socket.socket) -> None:
        gpus = _gpus() if settings.device != "cpu" else 0
        self.api_processes = settings.api_processes or min(4, cores())
        self.inline_rate = InlineRate(self.api_processes)
        super().__init__(
            Rowcast(settings, runtime, self.inline_rate),
            accelerator="cuda" if gpus or settings.device == "cuda" else "cpu",  # never "auto", which imports torch
            devices=max(1, gpus),
            workers_per_device=settings.workers,
            timeout=settings.deadline_s,
        )
        self.tally = accepting.tally = accepting.Tally(
            runtime / "connections", self.api_processes, most_accepted(settings)
        )
        self.uvicorn_graceful_timeout = settings.drain_s
        self.runtime = runtime
        self.slot = 0
        self.exit_status = 0
        self._drain_s = settings.drain_s
        self._hang_s = settings.hang_s
        self._end = end
        self._heard = hear_of_children()
        self._children: list[Child] = []
        self._is_drained = threading.Event()
        self._listeners: list[socket.socket] = []
        self.metrics_listener = listen(settings)

    @property
    def worker_sockets(self) -> list[Path]:
        """Where each inference worker listens."""
        per_device = self.workers_per_device
        assert isinstance(per_device, int)
        return [worker.socket_path(self.runtime, number) for number in range(len(self.devices) * per_device)]

    def api_is_up(self, slot: int) -> Path:
        """The file that an API process makes when it is about to answer."""
        return self.runtime / f"api-{slot}.up"

    def _init_manager(self, num_api_servers: int) -> None:  # noqa: ARG002 - LitServe passes it
        """What processes tell each other. LitServe starts one more for this; those that are forked share memory."""
        self.workers_setup_status = Statuses(len(self.worker_sockets))
        self._shutdown_event = threading.Event()
        self._transport = NoQueue()

    def launch_inference_worker(self, lit_api: Rowcast) -> list[BaseProcess]:
        """Start all of them."""
        return [self.launch_single_inference_worker(lit_api, number) for number in range(len(self.worker_sockets))]

    def launch_single_inference_worker(self, lit_api: Rowcast, worker_id: int) -> BaseProcess:
        """Start one as a fork, which shares what this process has imported; LitServe starts an interpreter of its own.

        This process has no session and has not touched a GPU, so there is nothing that a fork would break.
        """
        device = self._inference_workers_config_for_api(lit_api.api_path)[worker_id]
        if not isinstance(device, str):  # LitServe names a GPU by a list of one
            (device,) = device
        known = (lit_api, device, worker_id, None, self._transport, self.workers_setup_status, self._callback_runner)
        name = f"inference worker {worker_id}"
        started = multiprocessing.get_context("fork").Process(target=inference_worker, args=(*known, False), name=name)
        started.start()
        return started

    def verify_worker_status(self) -> None:
        """Wait until a worker is ready. LitServe waits for ever when all die before they report."""
        while WorkerSetupStatus.READY not in self.workers_setup_status.values():
            check_that_all_live(self.inference_workers)
            connection.wait([one.sentinel for one in self.inference_workers], 0.05)

    def _start_server(
        self,
        port: int,
        num_uvicorn_servers: int,
        log_level: str,
        sockets: list[socket.socket],
        kind: str,
        **kwargs: Any,
    ) -> dict[int, BaseProcess]:
        """Start the API processes, each in a slot of its own.

        LitServe never replaces one that died, and its processes wake ten times a second for nothing.
        """
        assert kind == "process"

        def start(slot: int) -> BaseProcess:
            metrics.forget_process(f"api-{slot}")
            self.tally.leave(slot)
            self.slot = slot  # the child finds it here
            self.app.response_queue_id = 0
            app = copy.copy(self.app)
            self._prepare_app_run(app)
            grace_s = self.uvicorn_graceful_timeout
            known = {"port": port, "log_level": log_level, "timeout_graceful_shutdown": grace_s, **kwargs}
            config = uvicorn.Config(app, **known)
            fork = multiprocessing.get_context("fork")
            started = fork.Process(target=PatientServer(config).run, args=(sockets,), name=f"API process {slot}")
            started.start()
            return started

        self._start_api_process = start
        self._listeners = [*sockets, self.metrics_listener] if self.metrics_listener else sockets
        accepting.shared[:] = sockets
        process.log_like_the_rest("litserve")  # `run` has given it a handler
        return {slot: start(slot) for slot in range(num_uvicorn_servers)}

    def _start_worker_monitoring(self, _: None, uvicorn_workers: dict[int, BaseProcess]) -> None:
        """Watch every process. LitServe's monitor sees workers alone, every 2 s, and restarts without backoff."""
        self._children = [
            Child(f"API process {slot}", one, partial(self._start_api_process, slot), up, busy=busy_path(up))
            for slot, one in uvicorn_workers.items()
            for up in [self.api_is_up(slot)]
        ]
        start_worker = partial(self.launch_single_inference_worker, self.litapi_connector.lit_apis[0])
        self._children += [
            Child(f"inference worker {number}", one, partial(start_worker, number), path, busy=busy_path(path))
            for number, (one, path) in enumerate(zip(self.inference_workers, self.worker_sockets, strict=True))
        ]
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def _watch(self) -> None:
        """What the watching thread does; `run` ends the rest once it is told.

        The thread itself stays until the end: the kernel ends with a thread what that thread started.
        """
        try:
            served = self.runtime / process.READY
            watch(self._children, self._heard, self._end, served, self._hang_s)
        except CannotServe as error:
            _tell(error)
            self.exit_status = process.CANNOT_SERVE
        except Exception:
            log.exception("the watch over the processes failed; they are all started again")
            self.exit_status = process.FAILED
        self._shutdown_event.set()  # what LitServe's own POST /shutdown sets
        self._is_drained.wait()

    def _perform_graceful_shutdown(self, *_: Any) -> None:
        """Let the API processes finish what they have, then end the rest.

        LitServe ends one process after the other, each worker after up to 5 s.
        """
        for listener in self._listeners:  # this process holds it open, and nobody would accept
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        apis = [child for child in self._children if child.up.suffix == ".up"]
        workers = [child for child in self._children if child not in apis]
        served = self.runtime / process.READY
        killed = drain(apis, workers, served, self._hang_s, self._drain_s + 1.5)  # uvicorn cuts off after drain_s
        cut_off = sum(int(file.read_text()) for file in self.runtime.glob("*.cut"))
        if cut_off:
            log.error("%d requests were cut off after %g s, ROWCAST_DRAIN_S", cut_off, self._drain_s)
        if cut_off or killed:
            self.exit_status = process.FAILED
        end_all([child.process for child in workers], 1.0)
        self._is_drained.set()


def _gpus() -> int:
    try:
        return int(check_cuda_with_nvidia_smi())
    except OSError:  # there may be one on a path that this user must not look into
        return 0


def _tell(error: CannotServe) -> None:
    if str(error):
        log.error("%s", error)
