"""Many small requests become few batches: whatever arrived while the last batch was out goes as the next one.

No timer and no waiting: a lone request goes out in the same turn of the event loop. The queue is bounded in rows and
in time. A batch whose worker is lost goes to another one, since a prediction may be repeated; a batch that fails is
repeated job by job, so that only the guilty one fails.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from models.errors import RowcastError
from models.proof import Answers
from models.repository import Version
from models.schema import Matrix
from service.frames import Reply, Status, key_of
from service.lanes import Done
from service.problems import DeadlinePassed, ModelFailed, Overloaded

MOST_LOSSES = 3
"""How many workers may be lost under one job before it is blamed for it."""

Tell = Callable[[Answers | RowcastError], None]
"""Told of the answers, or of the problem that there is in their place."""

Observer = Callable[[Version, int, float, list[float]], None]
"""Told of every batch: version, rows, seconds that the session ran, seconds that each job had waited."""


@dataclass(slots=True, eq=False)
class Job:
    """One request's rows, encoded for one version.

    Attributes:
        key: the version's, see `key_of`.
        tell: called once with what became of it; None as soon as nobody waits for it any more.
        arrived: by the event loop's clock, in seconds.
        alarm: goes off at its deadline.
        is_alone: it goes without mates, since a batch with it was lost or failed.
        losses: how many workers were lost while they had it.
    """

    version: Version
    key: str
    matrix: Matrix
    tell: Tell | None
    arrived: float
    alarm: asyncio.TimerHandle | None = None
    is_alone: bool = False
    losses: int = 0

    def settle(self, outcome: Answers | RowcastError) -> None:
        """Tell whoever waits, if anybody still does."""
        tell, self.tell = self.tell, None
        if self.alarm is not None:
            self.alarm.cancel()
        if tell is not None:
            tell(outcome)


Sampler = Callable[[list["Job"], Answers], None]
"""Shown every batch of one version with its answers, of which it may keep copies."""


class Lane(Protocol):
    """What carries a batch to a session and back."""

    def run(self, version: Version, matrix: Matrix, done: Done) -> None:
        """Send a batch; call `done` later, never from here."""
        ...


class Lanes(Protocol):
    """Where lanes come from."""

    @property
    def living(self) -> int:
        """How many workers are up."""
        ...

    def idle(self) -> Lane | None:
        """A lane that carries nothing; None when all are busy."""
        ...


@dataclass(slots=True)
class _Queue:
    """The jobs of one version that wait, and how many of its batches are out."""

    again: deque[Job] = field(default_factory=deque)
    jobs: dict[Job, None] = field(default_factory=dict)  # a dict is an ordered set: a job may leave from the middle
    batches_out: int = 0


class Coalescer:
    """Makes batches of jobs of one version and sends them over whichever lane is free."""

    def __init__(
        self,
        lanes: Lanes,
        observe: Observer,
        max_batch_rows: int,
        max_waiting_rows: int,
        sample: Sampler = lambda _batch, _answers: None,
    ) -> None:
        self._lanes = lanes
        self._observe = observe
        self._sample = sample
        self._max_batch_rows = max_batch_rows
        self._max_waiting_rows = max_waiting_rows
        self._queues: dict[str, _Queue] = {}  # of versions with jobs waiting or out, whose turn it is first
        self._is_scheduled = False
        self._rows_per_s = 1000.0  # smoothed; a first guess that the first batches correct
        self.rows_waiting = 0

    async def predict(self, version: Version, matrix: Matrix, deadline_s: float) -> Answers:
        """The answers for a matrix [N, F]; `deadline_s` is how long the caller wants to wait.

        Raises:
            Overloaded: the queue is full.
            DeadlinePassed: it waited too long; it was not and will not be computed, unless it was out already.
            ModelFailed: the session failed on these very rows.
        """
        answers: asyncio.Future[Answers] = asyncio.get_running_loop().create_future()
        job = self.submit(version, matrix, deadline_s, partial(_resolve, answers))
        try:
            return await answers
        finally:
            self.withdraw(job)  # no-op unless its client left

    def submit(self, version: Version, matrix: Matrix, deadline_s: float, tell: Tell) -> Job:
        """Have a matrix [N, F] answered; `tell` hears, later and once, what `predict` returns or raises.

        Raises:
            Overloaded: the queue is full; `tell` hears nothing.
        """
        if self.rows_waiting and self.rows_waiting + len(matrix) > self._max_waiting_rows:
            raise Overloaded(self.rows_waiting, min(60.0, self.rows_waiting / self._rows_per_s))
        loop = asyncio.get_running_loop()
        now = loop.time()
        job = Job(version, key_of(version), matrix, tell, now)
        job.alarm = loop.call_at(now + deadline_s, self._expire, job, deadline_s)
        self._enqueue(job)
        return job

    def withdraw(self, job: Job) -> None:
        """Nobody waits for the job any more: it is not computed unless it is out already, and nobody is told."""
        job.tell = None
        if job.alarm is not None:
            job.alarm.cancel()
        self._leave(job)

    def wake(self) -> None:
        """Send what waits; called whenever a lane may have become free."""
        if self._queues and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._send_all)

    def _enqueue(self, job: Job) -> None:
        queue = self._queues.get(job.key)
        if queue is None:
            queue = self._queues[job.key] = _Queue()
        if job.is_alone:
            queue.again.append(job)
        else:
            queue.jobs[job] = None
        self.rows_waiting += len(job.matrix)
        self.wake()

    def _expire(self, job: Job, deadline_s: float) -> None:
        self._leave(job)
        job.settle(DeadlinePassed(deadline_s))

    def _leave(self, job: Job) -> None:
        queue = self._queues.get(job.key)
        if queue is not None and job in queue.jobs:
            del queue.jobs[job]
            self.rows_waiting -= len(job.matrix)

    def _send_all(self) -> None:
        self._is_scheduled = False
        at_once = max(1, self._lanes.living)  # a version may keep each worker busy once
        for key, queue in list(self._queues.items()):
            while queue.batches_out < at_once and (queue.again or queue.jobs):
                lane = self._lanes.idle()
                if lane is None:
                    return
                if batch := self._take(queue):
                    queue.batches_out += 1
                    self._queues[key] = self._queues.pop(key)  # its next turn comes after the others'
                    self._send(lane, queue, batch)
            if not queue.batches_out and not queue.again and not queue.jobs:
                del self._queues[key]

    def _take(self, queue: _Queue) -> list[Job]:
        """The next batch; empty when nobody waits for the jobs any more."""
        if queue.again:
            job = queue.again.popleft()
            self.rows_waiting -= len(job.matrix)
            return [] if job.tell is None else [job]
        batch: list[Job] = []
        rows = 0
        for job in queue.jobs:
            if batch and rows + len(job.matrix) > self._max_batch_rows:
                break
            batch.append(job)
            rows += len(job.matrix)
        for job in batch:
            del queue.jobs[job]
        self.rows_waiting -= rows
        return [job for job in batch if job.tell is not None]

    def _send(self, lane: Lane, queue: _Queue, batch: list[Job]) -> None:
        matrix = batch[0].matrix if len(batch) == 1 else np.concatenate([job.matrix for job in batch])
        sent = asyncio.get_running_loop().time()
        lane.run(batch[0].version, matrix, lambda reply: self._receive(queue, batch, sent, reply))

    def _receive(self, queue: _Queue, batch: list[Job], sent: float, reply: Reply | None) -> None:
        queue.batches_out -= 1
        if reply is None:
            self._lost(batch)
        elif reply.status is not Status.OK or not _fits(reply.answers, batch):
            self._failed(batch, reply)
        else:
            assert reply.answers is not None
            _scatter(batch, reply.answers)
            self._sample(batch, reply.answers)
            rows = sum(len(job.matrix) for job in batch)
            self._observe(batch[0].version, rows, reply.seconds, [sent - job.arrived for job in batch])
            elapsed = asyncio.get_running_loop().time() - sent
            self._rows_per_s += 0.1 * (rows / max(elapsed, 1e-6) - self._rows_per_s)
        self.wake()

    def _lost(self, batch: list[Job]) -> None:
        for job in batch:
            job.losses += 1
            if job.losses < MOST_LOSSES:
                self._again(job)
            else:
                job.settle(ModelFailed(str(job.version), "inference workers die under these rows"))

    def _failed(self, batch: list[Job], reply: Reply) -> None:
        if len(batch) > 1:
            for job in batch:
                self._again(job)
        else:
            batch[0].settle(ModelFailed(str(batch[0].version), reply.sentence or _MISFIT))

    def _again(self, job: Job) -> None:
        if job.tell is not None:
            job.is_alone = True
            self._enqueue(job)


_MISFIT = "the session gave another number of answers than rows"


def _resolve(answers: asyncio.Future[Answers], outcome: Answers | RowcastError) -> None:
    if answers.done():  # its client left
        return
    if isinstance(outcome, RowcastError):
        answers.set_exception(outcome)
    else:
        answers.set_result(outcome)


def _fits(answers: Answers | None, batch: list[Job]) -> bool:
    rows = sum(len(job.matrix) for job in batch)
    return answers is not None and all(len(values) == rows for values in answers.values())


def _scatter(batch: list[Job], answers: Answers) -> None:
    start = 0
    for job in batch:
        end = start + len(job.matrix)
        if job.tell is not None:
            job.settle({name: values[start:end] for name, values in answers.items()})
        start = end
