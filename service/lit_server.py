"""LitServe's main process, with what LitServe lacks: which processes there are, who starts them, and how they end.

This file and service/workers/lit_api.py are the two that know LitServe.
"""

import contextlib
import copy
import logging
import multiprocessing
import os
import socket
import threading
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import uvicorn
from litserve import LitServer
from litserve.connector import check_cuda_with_nvidia_smi
from litserve.loops import inference_worker
from litserve.utils import WorkerSetupStatus

from service.http import accepting
from service.http.connections import most_accepted
from service.http.metrics_port import listen
from service.http.patient import NoQueue, PatientServer
from service.observing.slot import forget_process
from service.processes import process
from service.processes.busy import busy_path
from service.processes.cores import cores
from service.processes.watch import CannotServe, Child, check_that_all_live, drain, end_all, hear_of_children, watch
from service.processes.yielding import InlineRate
from service.settings import Settings
from service.workers import worker
from service.workers.lit_api import Rowcast, Statuses

log = logging.getLogger(__name__)


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
        self.supervisor = os.getppid()
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
            forget_process(f"api-{slot}")
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
            error.tell()
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
