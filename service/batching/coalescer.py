"""Many small requests become few batches: whatever arrived while the last batch was out goes as the next one.

No waiting when idle: a lone request goes out in the same turn of the event loop. A batch that is computed faster than
it is sent is computed right here, see service/batching/inline.py; every other one goes over a lane to a worker. The
queue is bounded in rows and in time. Urgent jobs go before ordinary ones (docs/decisions/0025-priorities.md). A batch
whose worker is lost goes to another one, since a prediction may be repeated; a batch that fails is repeated job by job,
so that only the guilty one fails.
"""

import asyncio
import math
import time
from collections.abc import Callable

from models.errors import RowcastError
from models.proof import Answers
from models.repository import Version
from models.schema import Matrix
from service.batching.batches import Batch, Job, refuse, settle, version_of
from service.batching.capacity import Capacity
from service.batching.frames import Reply, Status
from service.batching.gathering import Gathering
from service.batching.inline import Inline
from service.batching.lanes import Lane, Lanes
from service.batching.queues import Queue
from service.problems import DeadlinePassed, ModelFailed, NotReady, Overloaded

MOST_LOSSES = 3
"""How many workers may be lost under one job before it is blamed for it."""

_SWEEP_S = 0.05
"""How often deadlines are looked at: a timer for each job would cost as much as its encoding. Only a job that has
less time than this gets a timer of its own."""

Observer = Callable[[Version, int, float, list[float]], None]
"""Told of every batch: version, rows, seconds that the session ran, seconds that each job had waited."""


UrgentObserver = Callable[[Version, float | None], None]
"""Told of every urgent job: None when it is let in, and how long it had waited, in seconds, when its batch goes out."""

Sampler = Callable[[Version, Matrix, Answers], None]
"""Shown every batch with its answers, of which it may keep copies."""


class Coalescer:
    """Makes batches of jobs of one version, and computes them here or sends them over whichever lane is free."""

    def __init__(
        self,
        lanes: Lanes,
        inline: Inline,
        observe: Observer,
        *,
        max_batch_rows: int,
        capacity: Capacity,
        say_in_flight: Callable[[int], None] = lambda _: None,
        sample: Sampler = lambda _version, _matrix, _answers: None,
        observe_urgent: UrgentObserver = lambda _version, _waited_s: None,
    ) -> None:
        """Hold no job yet. `say_in_flight` is told whenever another number of rows is waiting or out."""
        self._lanes = lanes
        self._inline = inline
        self._observe = observe
        self._sample = sample
        self._observe_urgent = observe_urgent
        self._urgent_waiting = 0  # rows
        self._max_batch_rows = max_batch_rows
        self._capacity = capacity
        self._gathering = Gathering()
        self._say_in_flight = say_in_flight
        self._said_in_flight = 0
        self._queues: dict[str, Queue] = {}  # of versions with jobs waiting or out, whose turn it is first
        self._is_scheduled = False
        self._sweep_at: asyncio.TimerHandle | None = None
        self._rows_out = 0
        self.rows_waiting = 0

    async def predict(
        self,
        version: Version,
        matrix: Matrix,
        deadline_s: float,
        *,
        within_s: float | None = None,
        is_urgent: bool = False,
    ) -> Answers:
        """The answers for a matrix [N, F]; `deadline_s` is how long the caller wants to wait.

        `within_s` is what it had to begin with, if that was more.

        Raises:
            Overloaded: as `Capacity.check` says.
            DeadlinePassed: it waited too long; it was not and will not be computed, unless it was out already.
            ModelFailed: the session failed on these very rows.
        """
        now = time.perf_counter()
        job = _Awaited()
        job.version, job.matrix, job.rows = version, matrix, len(matrix)
        job.arrived, job.deadline = now, now + deadline_s
        job.within_s = deadline_s if within_s is None else within_s
        job.is_urgent = is_urgent
        self.submit(job)
        try:
            return await job.outcome
        finally:
            self.withdraw(job)  # no-op unless its client left

    def submit(self, job: Job) -> None:
        """Have a job computed; later, and once, it is told what became of it.

        Raises:
            DeadlinePassed: no time is left; the job is told nothing.
            Overloaded: as `Capacity.check` says; neither here.
        """
        left_s = job.deadline - job.arrived
        if left_s <= 0:
            raise DeadlinePassed(job.within_s)
        key = job.version.key  # type: ignore[union-attr]  # it has one by now
        queue = self._queues.get(key)
        sure_rows = 0 if queue is None else queue.sure_rows
        if job.is_urgent:
            self._let_in_urgent(job, queue, left_s)
        elif self.rows_waiting + job.rows > sure_rows or left_s < self._capacity.max_wait_s:
            waiting = 0 if queue is None else queue.rows
            self._capacity.check(key, job.rows, waiting, self.rows_waiting, left_s, self._lanes.living)
        if left_s < _SWEEP_S:
            job.alarm = asyncio.get_running_loop().call_later(left_s, self._expire, job)
        if queue is None:
            queue = self._begin(key)
        queue.add(job)
        self.rows_waiting += job.rows
        if not self._is_scheduled:
            self.wake()

    def _let_in_urgent(self, job: Job, queue: Queue | None, left_s: float) -> None:
        """Let an urgent job in, in the place of ordinary ones where the queue is full, unless urgent ones fill it."""
        key, check, living = version_of(job).key, self._capacity.check, self._lanes.living
        waiting, urgent_waiting = (0, 0) if queue is None else (queue.rows, queue.urgent_rows)
        check(key, job.rows, urgent_waiting, self._urgent_waiting, left_s, living)
        try:
            check(key, job.rows, waiting, self.rows_waiting, math.inf, living)
        except Overloaded as full:
            self._make_room(queue, job.rows, full)
        self._urgent_waiting += job.rows
        self._capacity.urgent_came(key, job.arrived)
        self._observe_urgent(version_of(job), None)

    def _make_room(self, queue: Queue | None, rows: int, full: Overloaded) -> None:
        """Refuse ordinary jobs of so many rows, the latest first: those of this queue, then those of others."""
        while rows > 0:
            fullest = queue if queue and queue.jobs else max(self._queues.values(), key=lambda one: len(one.jobs))
            if not fullest.jobs:
                return
            last = next(reversed(fullest.jobs))
            rows -= last.rows
            self._leave(last)
            if not settle(last):
                asyncio.get_running_loop().call_soon(last.refused, full)

    def withdraw(self, job: Job) -> None:
        """Nobody waits for the job any more: it is not computed unless it is out already, and it is told nothing."""
        settle(job)
        self._leave(job)

    def wake(self) -> None:
        """Send what waits; called whenever a lane may have become free."""
        if self._queues and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._send_all)

    def _begin(self, key: str) -> Queue:
        """The queue of a version that had none."""
        if self._sweep_at is None:
            self._sweep_at = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
        queue = self._queues[key] = Queue(self._capacity.sure(key))
        return queue

    def _sweep(self) -> None:
        """Settle whose deadline has passed; look again as long as there are jobs."""
        self._sweep_at = None
        now = time.perf_counter()
        for queue in list(self._queues.values()):
            waiting = [*queue.again, *queue.urgent, *queue.jobs, *(job for batch in queue.out for job in batch.jobs)]
            for job in waiting:
                if now >= job.deadline and not job.is_settled:
                    self._expire(job)
        if self._queues:
            self._sweep_at = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def _expire(self, job: Job) -> None:
        self._leave(job)
        refuse(job, DeadlinePassed(job.within_s))

    def _leave(self, job: Job) -> None:
        queue = self._queues.get(job.version.key) if job.version is not None else None
        if queue is not None and queue.remove(job):
            self.rows_waiting -= job.rows
            if job.is_urgent:
                self._urgent_waiting -= job.rows
            self._say()

    def _say(self) -> None:
        in_flight = self.rows_waiting + self._rows_out
        if in_flight != self._said_in_flight:
            self._said_in_flight = in_flight
            self._say_in_flight(in_flight)

    def _send_all(self) -> None:
        self._is_scheduled = False
        turns = list(self._queues.items())
        if self._urgent_waiting:
            turns.sort(key=lambda turn: not turn[1].urgent)
        for key, queue in turns:
            if self._send_of(queue):
                self._queues[key] = self._queues.pop(key)  # its next turn comes after the others'
            if queue.is_empty and not queue.out:
                del self._queues[key]
        self._say()

    def _send_of(self, queue: Queue) -> bool:
        """Send what waits of one version, as far as that can be; whether anything was sent."""
        has_sent = False
        while not queue.is_empty:
            first = queue.first
            session = self._inline.session(version_of(first))
            if session is not None and first.rows <= session.most_rows:
                batch = self._take(queue, min(session.together_rows, self._max_batch_rows))
                if batch is not None:
                    self._compute(batch, session.run)
                    return True  # the turn of the others, and of the event loop
                continue
            if len(queue.out) >= max(1, self._lanes.living):  # a version may keep each worker busy once
                break
            lane = self._lanes.idle(self._together(queue, first))
            if lane is None:
                break
            # every second batch of many with urgent rows is filled up, or their own cost would be most of what is done
            urgent_rows = queue.urgent_rows if first.is_urgent and queue.urgent_in_a_row % 2 == 0 else 0
            most_rows = self._capacity.most_rows(version_of(first).key, time.perf_counter(), urgent_rows)
            most_rows = min(most_rows, self._max_batch_rows)
            if self._waits_for_more(queue, first, most_rows):
                break
            batch = self._take(queue, most_rows)
            if batch is not None:
                self._send(lane, queue, batch)
                has_sent = True
        return has_sent

    def _together(self, queue: Queue, first: Job) -> str | None:
        """What batches are named after that should meet in a worker, since it computes them in one run."""
        key, rows = version_of(first).key, min(queue.rows, self._max_batch_rows)
        if queue.out or 2 * rows > self._max_batch_rows or not self._gathering.is_merged(key, 2 * rows):
            return None
        return key

    def _waits_for_more(self, queue: Queue, first: Job, most_rows: int) -> bool:
        """Whether a batch that could go now had better wait; it is looked at again in time."""
        if queue.again or queue.urgent:
            return False
        now, key = time.perf_counter(), version_of(first).key
        since_s, returned_s = now - first.arrived, now - queue.returned
        wait_s = self._gathering.wait_s(
            key, queue.rows, most_rows, is_out=bool(queue.out), since_s=since_s, returned_s=returned_s
        )
        if not wait_s or first.deadline - now < 2 * wait_s + _SWEEP_S:
            return False
        if queue.look is None or queue.look_at > now + wait_s:
            if queue.look is not None:
                queue.look.cancel()
            queue.look, queue.look_at = asyncio.get_running_loop().call_later(wait_s, self._look, queue), now + wait_s
        return True

    def _look(self, queue: Queue) -> None:
        queue.look = None
        self.wake()

    def _take(self, queue: Queue, most_rows: int) -> Batch | None:
        """The next batch; None when nobody waits for its job any more."""
        rows, urgent_rows = queue.rows, queue.urgent_rows
        takes_urgent = bool(queue.urgent) and not queue.again
        batch = queue.take(most_rows)
        self.rows_waiting -= rows - queue.rows
        if batch is not None and takes_urgent:
            self._urgent_waiting -= urgent_rows - queue.urgent_rows
            now = time.perf_counter()
            for job in batch.jobs:
                if job.is_urgent:
                    self._observe_urgent(batch.version, now - job.arrived)
        return batch

    def _compute(self, batch: Batch, run: Callable[[Matrix], Answers]) -> None:
        """Compute a batch in this very process."""
        matrix = batch.make_matrix()
        if matrix is None:
            self.wake()
            return
        batch.sent = time.perf_counter()
        try:
            answers = run(matrix)
            reply = Reply(Status.OK, time.perf_counter() - batch.sent, answers=answers)
        except Exception as error:  # noqa: BLE001 - a session may raise anything; one job fails, not the process
            reply = Reply(Status.FAILED, sentence=f"the session failed: {type(error).__name__}")
        self._receive(batch, reply)

    def _send(self, lane: Lane, queue: Queue, batch: Batch) -> None:
        matrix = batch.make_matrix()
        if matrix is None:
            self.wake()
            return
        queue.out.append(batch)
        self._rows_out += batch.rows
        batch.sent = time.perf_counter()

        def done(reply: Reply | None) -> None:
            queue.out.remove(batch)
            queue.returned = time.perf_counter()
            if reply is not None:
                self._gathering.learn(batch.version.key, batch.rows, reply.core_s)
            self._rows_out -= batch.rows
            self._receive(batch, reply)

        lane.run(batch.version, matrix, done)

    def _receive(self, batch: Batch, reply: Reply | None) -> None:
        if reply is None:
            self._lost(batch)
        elif reply.status is not Status.OK or not batch.fits(reply.answers):
            self._failed(batch, reply)
        else:
            assert reply.answers is not None
            batch.answers = reply.answers
            batch.computed = time.perf_counter()
            batch.scatter()
            assert batch.matrix is not None
            self._sample(batch.version, batch.matrix, batch.answers)
            waited_s = [batch.sent - job.arrived for job in batch.jobs]
            self._observe(batch.version, batch.rows, reply.seconds, waited_s)
            self._learn(batch, reply.seconds)
        self._say()
        self.wake()

    def _learn(self, batch: Batch, computed_s: float) -> None:
        key = batch.version.key
        self._capacity.learn(key, batch.rows, batch.computed - batch.sent, computed_s)
        queue = self._queues.get(key)
        if queue is not None:
            queue.sure_rows = self._capacity.sure(key)

    def _lost(self, batch: Batch) -> None:
        for job in batch.jobs:
            job.losses += 1
            if job.losses < MOST_LOSSES:
                self._again(job)
            else:
                refuse(job, ModelFailed(str(job.version), "inference workers die under these rows"))

    def _failed(self, batch: Batch, reply: Reply) -> None:
        if len(batch.jobs) > 1:
            for job in batch.jobs:
                self._again(job)
        else:
            refuse(batch.jobs[0], _problem(batch, reply))

    def _again(self, job: Job) -> None:
        if not job.is_settled:
            key = version_of(job).key
            queue = self._queues.get(key) or self._begin(key)
            job.is_alone = True
            queue.add(job)
            self.rows_waiting += job.rows


def _problem(batch: Batch, reply: Reply) -> RowcastError:
    """Why the only job of a batch has no answer."""
    if reply.status is Status.REFUSED:  # deleted or damaged while it was live, and the worker is a new one
        return NotReady(reply.sentence)
    return ModelFailed(str(batch.version), reply.sentence or _MISFIT)


_MISFIT = "the session gave another number of answers than rows"


class _Awaited(Job):
    """A job whose outcome somebody awaits."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Answers] = asyncio.get_running_loop().create_future()

    def answered(self, batch: Batch, start: int) -> None:
        if not self.outcome.done():  # its client left
            self.outcome.set_result(batch.answers_of(start, self.rows))

    def refused(self, problem: RowcastError) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(problem)
