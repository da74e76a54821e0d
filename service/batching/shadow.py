"""Shadows: a version computes what another one answers, nobody is told, and the difference is counted.

None of it touches the path of an answer. What is to be computed is noted after the answer was written, in a queue that
is bounded and drops what it cannot take. It goes out in batches, twenty times a second at most, to a process of
its own (see `Checker.start_shadow`), the least important one of the machine, which may hang or crash without harm.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry, Counter

from models.errors import RowcastError
from models.proof import Answers
from models.repository import Version
from models.schema import Matrix
from service.batching.agreement import Agreement, agreement, encodes_alike
from service.batching.frames import Reply, Status
from service.batching.lanes import Lane

if TYPE_CHECKING:
    from service.asking import Question

KEPT_ROWS = 256
"""Of one request. Larger requests are dropped: to encode them again would be felt."""

_BATCH_ROWS = 1024
_MOST_WAITING_ROWS = 2048
_PAUSE_S = 0.05
_START_S = 10.0
_BACKOFF_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A request that was answered, with its answers."""

    shadow: Version
    question: "Question"
    answers: Answers


class Counts:
    """What shadows did, counted by model and version of the shadow."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"rowcast_shadow_{name}", what, ["model", "version", *labels], registry=registry)

        self._requests = counter("requests", "Requests that a shadow was to compute, by outcome", "outcome")
        self._rows = counter("rows", "Rows of a shadow that were compared with the answer")
        self._equal = counter("equal_rows", "Rows for which a shadow gave the answer that was given")
        self._difference = counter("difference", "Absolute differences from the answers, mean of a row, added up")
        self._seconds = counter("compute_seconds", "Seconds that a shadow computed")

    def requests(self, shadow: Version, outcome: str, times: int = 1) -> None:
        """Count requests as "ok", "dropped" or "failed"."""
        self._requests.labels(shadow.name, str(shadow.number), outcome).inc(times)

    def compared(self, shadow: Version, agreement: Agreement) -> None:
        """Count rows."""
        labels = (shadow.name, str(shadow.number))
        self._rows.labels(*labels).inc(agreement.rows)
        self._equal.labels(*labels).inc(agreement.equal)
        self._difference.labels(*labels).inc(agreement.difference)

    def computed(self, shadow: Version, seconds: float) -> None:
        """Count the time of a batch."""
        self._seconds.labels(shadow.name, str(shadow.number)).inc(seconds)


class Shadows:
    """The shadows of one API process. Its methods are called on one event loop."""

    def __init__(
        self,
        shadow_of: Callable[[Version, str], Version | None],
        start: Callable[[], None],
        path: Path,
        counts: Counts,
        patience_s: float,
    ) -> None:
        """`start` has a process come up that answers at `path`; one that takes `patience_s` for a batch is killed."""
        self._shadow_of = shadow_of
        self._start = start
        self._path = path
        self._counts = counts
        self._patience_s = patience_s
        self._queue: deque[_Seen] = deque()
        self._rows_waiting = 0
        self._lane: Lane | None = None
        self._pid = 0
        self._task: asyncio.Task[None] | None = None

    def saw(self, question: "Question", key: str, answers: Answers) -> None:
        """Note a request that was just answered, if it has a shadow."""
        shadow = self._shadow_of(question.version, key)
        if shadow is None:
            return
        rows = len(question.matrix)
        if rows > KEPT_ROWS or self._rows_waiting + rows > _MOST_WAITING_ROWS:
            self._counts.requests(shadow, "dropped")
            return
        self._queue.append(_Seen(shadow, question, answers))
        self._rows_waiting += rows
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._compute_all())

    def retire(self, version: Version) -> None:
        """Have a version closed that is live no longer."""
        if self._lane is not None:
            self._lane.retire(version)

    async def stop(self) -> None:
        """Compute no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._lane is not None:
            self._lane.close()

    async def _compute_all(self) -> None:
        while self._queue:
            await asyncio.sleep(_PAUSE_S)
            shadow = self._queue[0].shadow
            batch, matrix = self._take(shadow)
            if not batch:
                continue
            try:
                reply = await self._run(shadow, matrix)
                compare(self._counts, shadow, batch, reply)
            except Exception:
                log.exception("the shadow %s could not be computed", shadow)
                self._counts.requests(shadow, "failed", len(batch))

    def _take(self, shadow: Version) -> tuple[list[_Seen], Matrix]:
        """The next requests of one shadow, and their rows as it reads them."""
        batch, parts, rows = [], [], 0
        while self._queue and self._queue[0].shadow is shadow:
            if rows and rows + len(self._queue[0].question.matrix) > _BATCH_ROWS:
                break
            seen = self._queue.popleft()
            self._rows_waiting -= len(seen.question.matrix)
            try:
                parts.append(_matrix_for(shadow, seen.question))
            except RowcastError:  # the shadow's schema does not take these rows
                self._counts.requests(shadow, "failed")
                continue
            batch.append(seen)
            rows += len(parts[-1])
        return batch, np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)

    async def _run(self, shadow: Version, matrix: Matrix) -> Reply | None:
        """The shadow's answers; None when its process was not there or did not answer."""
        lane = await self._connected()
        if lane is None:
            return None
        reply: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        lane.run(shadow, matrix, lambda answer: None if reply.done() else reply.set_result(answer))
        try:
            async with asyncio.timeout(self._patience_s):
                answered = await reply
        except TimeoutError:
            log.warning("the shadow %s computes one batch for %g s; killed", shadow, self._patience_s)
            answered = None
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        if answered is None:
            lane.close()
            await asyncio.sleep(_BACKOFF_S)
        return answered

    async def _connected(self) -> Lane | None:
        """A lane to the process of shadows, which is started if it is not there."""
        if self._lane is not None and self._lane.is_idle:
            return self._lane
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                transport, self._lane = await loop.create_unix_connection(
                    lambda: Lane(-1, lambda: None), str(self._path)
                )
                peer = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                self._pid = struct.unpack("3i", peer)[0]
                return self._lane
            self._start()
            await asyncio.sleep(0.2)
        return None


def _matrix_for(shadow: Version, question: "Question") -> Matrix:
    """The rows of a request as a shadow reads them.

    Raises:
        RowcastError: it does not take them.
    """
    if encodes_alike(question.version.schema, shadow.schema):
        return question.matrix
    assert question.encode is not None
    return question.encode(shadow)


def compare(counts: Counts, shadow: Version, batch: list[_Seen], reply: Reply | None) -> None:
    """Count what became of a batch."""
    if reply is None or reply.status is not Status.OK or reply.answers is None:
        counts.requests(shadow, "failed", len(batch))
        return
    counts.requests(shadow, "ok", len(batch))
    counts.computed(shadow, reply.seconds)
    start = 0
    for seen in batch:
        end = start + len(seen.question.matrix)
        theirs = {name: values[start:end] for name, values in reply.answers.items()}
        counts.compared(shadow, agreement(seen.question.version, seen.answers, shadow, theirs))
        start = end
