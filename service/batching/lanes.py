"""The API process's side of the unix sockets: a lane carries one batch at a time to an inference worker and back.

Each worker has two lanes per API process, so that a slow model leaves one for the others, and a third connection on
which versions are opened. A lane that breaks says so to whoever waits on it and connects again when the worker is back.
"""

import asyncio
import contextlib
import time
import zlib
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from models.repository import Version
from models.schema import Matrix
from service.batching.frames import (
    LENGTH,
    SECONDS,
    TRIED_ROWS,
    BadFrame,
    Reply,
    Status,
    What,
    read_reply,
    request_bytes,
)

LANES_PER_WORKER = 2
_TRY_AGAIN_S = 0.05
_NO_ROWS = np.empty((0, 0), dtype=np.float32)

Done = Callable[[Reply | None], None]
"""Called once with the reply; with None when the worker was lost before it replied."""


class Opened(NamedTuple):
    """What a worker says of a version: why it cannot serve it, "" if it can, and seconds of runs with TRIED_ROWS."""

    refused: str
    seconds: Sequence[float] = ()  # none of who is refused, 0 of what was not tried


class Lane(asyncio.Protocol):
    """One connection, over which requests go one at a time."""

    def __init__(self, worker: int, on_idle: Callable[[], None]) -> None:
        self.worker = worker
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_idle = on_idle
        self._transport: asyncio.Transport | None = None
        self._done: Done | None = None
        self._received = bytearray()
        self._sent = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether it is connected and carries nothing."""
        return self._transport is not None and self._done is None

    @property
    def is_connected(self) -> bool:
        """Whether a worker is at the other end."""
        return self._transport is not None

    @property
    def waits_s(self) -> float:
        """How long it has been waiting for a reply; 0 when it is not."""
        return 0.0 if self._done is None else time.monotonic() - self._sent

    def run(self, version: Version, matrix: Matrix, done: Done) -> None:
        """Send a batch [N, F]; `done` is called later, never from here."""
        self._send(What.PREDICT, version.key, matrix, done)

    async def open(self, versions: Sequence[Version]) -> list[Opened] | None:
        """What the worker says of each of new versions; None when it was lost or could not say so."""
        reply = await self._ask(What.OPEN, "\n".join(version.key for version in versions))
        if reply is None or reply.status is Status.FAILED:  # of all together, which says nothing of each
            return None
        if reply.status is Status.REFUSED:
            return [Opened(sentence) for sentence in reply.sentence.split("\n")]
        assert reply.answers is not None
        return [Opened("", seconds.tolist()) for seconds in reply.answers[SECONDS]]

    async def greet(self) -> bool:
        """Whether the worker lives: Linux closes a dead one's connections before the socket on which it listened."""
        return await self._ask(What.GREET, "") is not None

    def retire(self, version: Version) -> None:
        """Say that a version is no longer given to requests, whatever else is under way; there is no reply."""
        if self._transport is not None:
            self._transport.writelines(request_bytes(What.RETIRE, version.key, _NO_ROWS))

    def start_shadow(self) -> None:
        """Say that a process is wanted that computes shadows; there is no reply."""
        if self._transport is not None:
            self._transport.writelines(request_bytes(What.SHADOW, "", _NO_ROWS))

    def close(self) -> None:
        """Hang up; it is not idle from now on."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    async def _ask(self, what: What, key: str) -> Reply | None:
        reply: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self._send(what, key, _NO_ROWS, lambda answer: None if reply.done() else reply.set_result(answer))
        return await reply

    def _send(self, what: What, key: str, matrix: Matrix, done: Done) -> None:
        assert self._transport is not None
        assert self._done is None
        self._done = done
        self._sent = time.monotonic()
        self._transport.writelines(request_bytes(what, key, matrix))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._on_idle()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) < LENGTH.size:
            return
        (length,) = LENGTH.unpack_from(self._received)
        if len(self._received) < LENGTH.size + length:
            return
        frame, self._received = bytes(memoryview(self._received)[LENGTH.size :]), bytearray()
        done, self._done = self._done, None
        try:
            reply = read_reply(frame)
        except BadFrame:  # the other side is broken: what it holds goes elsewhere
            self._done = done
            self.close()
            return
        if done is not None:
            done(reply)
        self._on_idle()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self._transport = None
        done, self._done = self._done, None
        if not self.lost.done():
            self.lost.set_result(None)
        if done is not None:
            done(None)


class Lanes:
    """All lanes of one API process. Its methods are called on the event loop that `start` ran on."""

    def __init__(self, sockets: list[Path], tell: Callable[[str, int, float], None] = lambda *_: None) -> None:
        """`tell` is told of versions that are opened, by key, how many seconds so many rows take."""
        self._sockets = sockets
        self._tell = tell
        self._lanes: set[Lane] = set()
        self._openers: dict[int, Lane] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._on_idle: Callable[[], None] = lambda: None
        self._someone_is_up = asyncio.Event()

    def start(self, on_idle: Callable[[], None]) -> None:
        """Connect to every worker, and again whenever a connection is lost; `on_idle` hears of each free lane."""
        self._on_idle = on_idle
        for worker, path in enumerate(self._sockets):
            for _ in range(LANES_PER_WORKER):
                self._keep(self._keep_lane(worker, path))
            self._keep(self._keep_opener(worker, path))

    async def stop(self) -> None:
        """Hang up everywhere."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lane in [*self._lanes, *self._openers.values()]:
            lane.close()

    @property
    def living(self) -> int:
        """How many inference workers are connected."""
        return len(self._openers)

    def answering(self, within_s: float) -> int:
        """How many inference workers are connected and owe no batch for longer than `within_s`."""
        silent = {lane.worker for lane in self._lanes if lane.waits_s > within_s}
        return len(self._openers.keys() - silent)

    async def someone_is_up(self) -> None:
        """Return once a worker is connected."""
        await self._someone_is_up.wait()

    def idle(self, together: str | None = None) -> Lane | None:
        """A lane that carries nothing, of the worker with the fewest batches out; None when all are busy.

        Whoever names the same `together` gets the same worker where that is possible.
        """
        idle = [lane for lane in self._lanes if lane.is_idle]
        if together is not None and self._openers:
            workers = sorted(self._openers)
            worker = workers[zlib.crc32(together.encode()) % len(workers)]
            idle = [lane for lane in idle if lane.worker == worker] or idle
        if len(idle) <= 1:
            return idle[0] if idle else None
        busy = [lane.worker for lane in self._lanes if not lane.is_idle]
        return min(idle, key=lambda lane: busy.count(lane.worker))

    async def open(self, versions: Sequence[Version]) -> list[str | None]:
        """Have every worker open and prove versions: for each None when it can be asked, else why not.

        Half of the workers do so at a time, so that there are cores left for what is asked meanwhile.

        Raises:
            ConnectionError: no worker was there to say so; ask again later.
        """
        openers = [opener for opener in self._openers.values() if opener.is_connected]
        half = (len(openers) + 1) // 2
        said: list[list[Opened]] = []
        for some in (openers[:half], openers[half:]):
            replies = await asyncio.gather(*(opener.open(versions) for opener in some if opener.is_connected))
            said += [opened for opened in replies if opened is not None]
        if not said:
            raise ConnectionError
        refused: list[str | None] = []
        for version, of_one in zip(versions, zip(*said, strict=True), strict=True):
            refused.append(next((opened.refused for opened in of_one if opened.refused), None))
            for opened in of_one:
                for rows, seconds in zip(TRIED_ROWS, opened.seconds, strict=False):
                    if seconds:
                        self._tell(version.key, rows, seconds)
        return refused

    def start_shadow(self) -> None:
        """Have the first worker start the process that computes shadows, if it is not there."""
        if 0 in self._openers:
            self._openers[0].start_shadow()

    def retire(self, version: Version) -> None:
        """Tell every worker that a version is no longer given to requests; it closes it once nobody asks it."""
        for opener in self._openers.values():
            opener.retire(version)

    def _keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(coroutine))

    async def _keep_lane(self, worker: int, path: Path) -> None:
        while True:
            lane = await self._connect(worker, path, self._on_idle)
            self._lanes.add(lane)
            self._on_idle()
            await lane.lost
            self._lanes.discard(lane)
            for sibling in self._lanes:  # the worker died: what goes over its other lane would be lost as well
                if sibling.worker == worker:
                    sibling.close()
            await asyncio.sleep(_TRY_AGAIN_S)

    async def _keep_opener(self, worker: int, path: Path) -> None:
        while True:
            opener = await self._connect(worker, path, lambda: None)
            self._openers[worker] = opener
            self._someone_is_up.set()
            await opener.lost
            del self._openers[worker]
            await asyncio.sleep(_TRY_AGAIN_S)

    async def _connect(self, worker: int, path: Path, on_idle: Callable[[], None]) -> Lane:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(OSError):
                _, lane = await loop.create_unix_connection(lambda: Lane(worker, on_idle), str(path))
                try:
                    if lane.is_connected and await lane.greet():
                        return lane
                except asyncio.CancelledError:
                    lane.close()
                    raise
            await asyncio.sleep(_TRY_AGAIN_S)
