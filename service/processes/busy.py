"""Since when each batch of a worker is being computed: a small file that the worker writes and its watch reads.

The worker maps the file, so a batch costs two stores to memory; whoever reads it needs nothing of the worker, which may
be stopped or hang.
"""

import asyncio
import contextlib
import logging
import mmap
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.processes.waking import next_turn

log = logging.getLogger(__name__)

_BEAT_S = 1.0
_PLACES = 512  # three connections of each API process, and those that it has lost and the worker not yet noticed


class Busy:
    """The worker's side. Its methods may be called from several threads."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # of a worker that died
        self._since = np.zeros(_PLACES)  # a place holds 0 while nothing is computed
        try:
            with path.open("w+b") as file:
                os.posix_fallocate(file.fileno(), 0, 8 * _PLACES)  # a mapped page without room kills the process
                self._since = np.frombuffer(mmap.mmap(file.fileno(), 0))
        except OSError as error:
            path.unlink(missing_ok=True)
            log.error("this worker is not watched for batches that hang: %s: %s", path, error.strerror)  # noqa: TRY400 - it says all
        self._free = list(range(_PLACES))

    @contextlib.contextmanager
    def place(self) -> Iterator["Place"]:
        """A place for the batches of one connection, which come one after the other."""
        try:
            number = self._free.pop()
        except IndexError:  # nobody has so many connections; what is not watched is computed all the same
            yield Place(np.zeros(1), 0)
            return
        try:
            yield Place(self._since, number)
        finally:
            self._free.append(number)


class Place:
    """Where one connection says that it computes. Use it as a context."""

    __slots__ = ("_number", "_since")

    def __init__(self, since: npt.NDArray[np.float64], number: int) -> None:
        self._since, self._number = since, number

    def __enter__(self) -> None:
        self._since[self._number] = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._since[self._number] = 0.0


@contextlib.asynccontextmanager
async def beating(path: Path) -> AsyncIterator[None]:
    """Say in the file at `path` that the event loop turns; `longest_s` is how long it has not."""

    async def beat() -> None:
        with Busy(path).place() as place:
            while True:
                with place:
                    await next_turn(_BEAT_S)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()


def busy_path(socket: Path) -> Path:
    """Where the worker that listens on `socket` writes."""
    return socket.with_suffix(".busy")


def longest_s(path: Path) -> float:
    """How long the oldest batch is being computed; 0 when there is none."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # the worker is starting
        return 0.0
    try:
        raw = os.read(file, 8 * _PLACES)
    finally:
        os.close(file)
    if not raw.strip(b"\0"):
        return 0.0
    since = np.frombuffer(raw)
    return time.monotonic() - float(since[since > 0].min())
