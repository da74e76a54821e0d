"""What LitServe runs in its inference workers. This file and service/lit_server.py are the two that know it.

No `from __future__ import annotations` here: LitServe reads the annotations of the hooks, and text instead of types
turns every request into a 500.
"""

import logging
import math
import mmap
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from litserve import LitAPI
from litserve.loops import LitLoop
from litserve.specs.base import LitSpec
from litserve.utils import WorkerSetupStatus

from models.proof import Session
from models.repository import Repository, Version
from service.processes import process
from service.processes.cores import cores
from service.processes.scheduling import FullShare, Hunger, Share
from service.processes.yielding import InlineRate
from service.settings import Settings
from service.versions.control import Unloaded
from service.workers import worker
from service.workers.checking import Checker
from service.workers.engine import Engine, NothingToServe, OpenSession, OpenSpread
from service.workers.turns import Company, Turns

log = logging.getLogger(__name__)


class NoRoute(LitSpec):  # type: ignore[misc]  # LitServe ships no types
    """A spec without endpoints: LitServe adds no route of its own, ours stand beside its /health."""

    def __init__(self) -> None:
        super().__init__()
        self.api_path = "/predict"  # LitServe keys its queues and the status of workers by it

    def decode_request(self, request: Any, context_kwargs: Any = None) -> Any:  # noqa: ARG002 - never called
        return request

    def encode_response(self, output: Any, context_kwargs: Any = None) -> Any:  # noqa: ARG002 - never called
        return output


class Loop(LitLoop):  # type: ignore[misc]  # LitServe ships no types
    """Instead of taking requests off LitServe's queue, answer batches on the worker's own socket."""

    def run(self, lit_api: "Rowcast", *_: Any) -> None:
        """Serve until LitServe ends the worker, then end the process: LitServe would call this again."""
        end = worker.End()
        end.on_sigterm()
        path = worker.socket_path(lit_api.runtime, worker_number())
        new_share = partial(Share, lit_api.hunger, lit_api.inline_rate) if lit_api.is_on_cpu else FullShare
        worker.serve(lit_api.engine, path, lit_api.settings.poll_s, end, new_share)
        sys.exit(0)


class Rowcast(LitAPI):  # type: ignore[misc]  # LitServe ships no types
    """One API for all models: they come and go without a restart.

    Workers are forks of the process that makes it, so it holds settings and paths; what lives in a worker is made in
    `setup`.
    """

    engine: Engine
    is_on_cpu: bool

    def __init__(self, settings: Settings, runtime: Path, inline_rate: InlineRate) -> None:
        super().__init__(loop=Loop(), spec=NoRoute())
        self.settings = settings
        self.runtime = runtime
        self.inline_rate = inline_rate
        self.hunger = Hunger()  # all workers know of it
        self.company = Company(settings.workers, inline_rate, self.hunger)
        self._device = _device_of(settings.repository)

    def setup(self, device: str) -> None:
        """Open and prove every version.

        What stops the worker from serving is told in one sentence and never raised: LitServe would wait for ever.
        """
        parent = multiprocessing.parent_process()
        process.end_with(parent.pid if parent else None)
        process.leave_the_network()
        process.call_this(f"worker-{worker_number()}")
        process.start_logging(self.settings.log_level, self.settings.log_format)
        process.die_before_others(500)  # it is replaced, and what it had is computed elsewhere
        process.take_short_turns()
        self.is_on_cpu = device == "cpu"
        try:
            repository = Repository(self.settings.repository.absolute())
            self._check_that_it_is_there(repository)
            _stand_where_nothing_is(self.runtime / "nothing")
            on_cpu = opener(self.settings.model_copy(update={"device": "cpu"}), "cpu")

            def serve_shadows() -> None:
                worker.serve(Engine(repository, on_cpu), worker.shadow_path(self.runtime), 60.0, worker.End())

            process.share_what_is_there()
            checker = Checker(on_cpu, self.runtime / "verdicts", serve_shadows=serve_shadows)
            self.engine = Engine(
                repository,
                opener(self.settings, device),
                checker.check,
                checker.start_shadow,
                checker.expect,
                max_batch_rows=self.settings.max_batch_rows,
                turns=self._turns(),
                open_spread=spreader(self.settings, device),
            )
            self.engine.open_all(self.settings.keep_versions, Unloaded(self.runtime)())
            checker.give_way()
        except (NothingToServe, BadDevice, OSError) as error:
            log.error("%s", _sentence(error))  # noqa: TRY400 - one sentence, no traceback
            sys.exit(process.CANNOT_SERVE)
        except Exception:
            log.exception("the worker could not be set up")
            sys.exit(process.FAILED)

    def _check_that_it_is_there(self, repository: Repository) -> None:
        """Raise where a volume was taken away: a worker without versions would fail what another one answers."""
        root = repository.root
        if self._device is not None and not repository.names() and _device_of(root) != self._device:
            raise FileNotFoundError(f"{root}: the repository that was there is gone")

    def _turns(self) -> Turns:
        if not self.is_on_cpu:
            return Turns()
        return Turns(math.ceil(cores() / self.settings.workers), company=self.company, worker=worker_number())

    def health(self) -> bool:
        """True: LitServe's /health says whether workers are ready, /health/ready whether predictions are."""
        return True


def _sentence(error: Exception) -> str:
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    whom = f" for user {os.geteuid()}" if isinstance(error, PermissionError) else ""
    return f"{error.filename}: {error.strerror}{whom}"


def _device_of(folder: Path) -> int | None:
    """The file system on which a folder is; None when there is no such folder."""
    try:
        return folder.stat().st_dev if folder.is_dir() else None
    except OSError:
        return None


class Statuses(Mapping[str, str]):
    """How far the workers are, by LitServe's names for them: in memory that this process and its forks share."""

    _WORDS: tuple[str, ...] = (WorkerSetupStatus.STARTING, WorkerSetupStatus.READY, WorkerSetupStatus.ERROR)

    def __init__(self, workers: int) -> None:
        """All are starting."""
        self._places = {f"predict_{number}": number for number in range(workers)}  # of NoRoute's path
        self._words = mmap.mmap(-1, workers)

    def __getitem__(self, worker: str) -> str:
        return self._WORDS[self._words[self._places[worker]]]

    def __setitem__(self, worker: str, word: str) -> None:
        self._words[self._places[worker]] = self._WORDS.index(word)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class BadDevice(Exception):
    """The device or the backend that was asked for is not there."""


def _stand_where_nothing_is(folder: Path) -> None:
    """Work in an empty folder: ONNX Runtime reads tensors that a graph keeps elsewhere from beside it."""
    folder.mkdir(exist_ok=True)
    os.chdir(folder)


def worker_number() -> int:
    """Which of the workers this process is, from 0; LitServe says so in the environment before it calls `setup`."""
    return int(os.environ["LITSERVE_WORKER_ID"])


def opener(settings: Settings, device: str) -> OpenSession:
    """What opens a session of a version on LitServe's device, by the backend that the settings name.

    Raises:
        BadDevice: this installation cannot do it.
    """
    if settings.backend == "torchscript":
        try:
            from service.sessions.torchscript import TorchScriptSession, check_device  # noqa: PLC0415 - loads torch
        except ImportError:
            raise BadDevice("ROWCAST_BACKEND is torchscript, and torch is not installed") from None
        reason = check_device(device)
        if reason is not None:
            raise BadDevice(reason)
        return lambda version: TorchScriptSession(version, device)

    from service.sessions.onnx import OnnxSession, cuda_is_offered  # noqa: PLC0415 - not with the other backend

    if device != "cpu" and not cuda_is_offered():
        if settings.device == "cuda":
            raise BadDevice("ROWCAST_DEVICE is cuda, and this ONNX Runtime has no CUDA; install onnxruntime-gpu")
        device = "cpu"

    def open_session(version: Version) -> Session:
        session = OnnxSession(version, device)
        if settings.device == "cuda" and not session.is_on_gpu:
            raise BadDevice("ROWCAST_DEVICE is cuda, and no GPU or no CUDA libraries are there")
        return session

    return open_session


def spreader(settings: Settings, device: str) -> OpenSpread | None:
    """What opens a second session of a version, whose runs several cores share; None where there is but one."""
    if settings.backend != "onnx" or device != "cpu" or cores() == 1:
        return None
    from service.sessions.onnx import open_spread  # noqa: PLC0415 - as above

    return partial(open_spread, cores=cores())
