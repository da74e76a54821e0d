"""Requests of one row, or of raw numbers, that are read and written together with all that came in their turn.

Most clients send one row after the other, each behind the very same head. For these a job, a queue and a deadline cost
more than the prediction. So a connection whose last request was such a row puts the next one here, and once all that
has come is read, the rows become one matrix, one run of the session in this process, and one write each.

Where a worker computes them, each of the rows becomes a job of the coalescer (`TurnJob`), and those that come back in
one batch are written at once.

Only what goes right is answered here. Whatever else a request may be or meet, it is given back and read again by the
fast lane, which has a place for everything; so nothing here tells one error from another.
"""

import logging
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, cast

import orjson

from models.errors import RowcastError
from models.repository import Version
from models.schema import Matrix
from service.batching.batches import Batch, Job, answer
from service.batching.inline import InlineSession
from service.http.openings import Opening
from service.wire.turn_forms import LastRequest, TurnForm

if TYPE_CHECKING:
    from service.front import Front
    from service.http.exchange import Exchange
    from service.http.fast_lane import FastLane

_log = logging.getLogger(__name__)

LONGEST = 16_000
"""Bytes of a body that may be one row; a longer one is not tried, since it would be read twice."""
_MOST_BATCHES = 1000  # that are remembered: of a client's raw tensors, every shape is one


class _Nobody:
    """In the place of the `asyncio.Event` by which uvicorn wakes the task that answers: here no task does."""

    def set(self) -> None:
        pass


NOBODY = _Nobody()


@dataclass(slots=True, eq=False)
class Pending:
    """A connection's request that this turn answers, in uvicorn's eyes a cycle; one object for all that it sends.

    Attributes:
        connection: whose request it is.
        write: writes to it.
        batch: of the next request, or of that which waits; None where the next one may not be answered so.
        head, body: of the request that waits; no head where none does.
        job: of the request that waits, once a worker is to compute it.
        started: when the turn began that brought it, by `time.perf_counter`.
        answered: when the last one was answered, by the event loop's clock.
        disconnected, message_event, keep_alive, response_complete: what uvicorn looks at.
    """

    connection: "FastLane"
    write: Callable[[bytes], None] = field(init=False)
    batch: "TurnBatch | None" = None
    head: bytes = b""
    body: bytes = b""
    job: "TurnJob | None" = None
    started: float = 0.0
    answered: float = 0.0
    disconnected: bool = False
    keep_alive: bool = True
    message_event: ClassVar = NOBODY

    @property
    def response_complete(self) -> bool:
        """Whether no request waits."""
        return not self.head

    def take(self, head: bytes, data: bytes) -> bool:
        """Have a request answered before the event loop looks at its sockets again; False where that may not be."""
        batch = self.batch
        if batch is None or not (batch.waiting or batch.begin(self.connection.loop)):
            return False
        self.head, self.body, self.started = head, data[len(head) :], batch.started
        batch.waiting.append(self)
        return True

    def withdraw(self) -> None:
        """Have it not answered: its client is gone, or sends more before it has its answer."""
        assert self.batch is not None
        self.batch.remove(self)


class TurnBatches:
    """Those of one API process."""

    def __init__(self, front: "Front") -> None:
        self._front = front
        self._batches: dict[tuple[str, Any], TurnBatch] = {}
        self._made_at = 0

    def is_watched(self) -> bool:
        """Whether somebody is to see each request: a log, a trace, a shadow."""
        return bool(self._front.observers) or self._front.catalog.has_shadows

    def of(self, last: LastRequest) -> "TurnBatch | None":
        """That of requests to a live version which are like the last one; None where there is none."""
        if self._made_at != self._front.catalog.changes:  # versions may be gone
            self._batches, self._made_at = {}, self._front.catalog.changes
        if self.is_watched():
            return None
        key = last.key()
        batch = self._batches.get(key)
        if batch is None or not batch.is_admitted():
            form = last.form() if batch is None else batch.form
            if form is None:
                return None
            if len(self._batches) >= _MOST_BATCHES:
                del self._batches[next(iter(self._batches))]
            batch = self._batches[key] = TurnBatch(self._front, self, last.version, form)
        return batch


class TurnBatch:
    """Requests of this turn for one version, in one form, which were all admitted since keys and versions last changed.

    Attributes:
        form: how rows come and answers go.
        waiting: what this turn has brought.
        started: when that began, by `time.perf_counter`: all that a turn brings has been there since.
    """

    __slots__ = ("_admitted_at", "_batches", "_front", "_late", "_opening", "_version", "form", "started", "waiting")

    def __init__(self, front: "Front", batches: TurnBatches, version: Version, form: TurnForm) -> None:
        """Hold no request yet."""
        self._front, self._batches, self._version, self.form = front, batches, version, form
        self._admitted_at = front.changes
        self.waiting: list[Pending] = []
        self.started = 0.0
        self._late: list[Pending] = []  # for whom the turn before this one had no room
        self._opening = Opening(form.headers + b"x-request-id: ")

    def is_admitted(self) -> bool:
        """Whether those who were admitted still are."""
        return self._admitted_at == self._front.changes

    def begin(self, loop: AbstractEventLoop) -> bool:
        """Wait for requests of this turn, which will all be answered in the next; False where they may not be."""
        if not self.is_admitted():
            return False
        self.started = time.perf_counter()
        if not self._late:
            loop.call_soon(self.answer)
        return True

    def remove(self, pending: Pending) -> None:
        """Leave it to somebody else."""
        (self._late if pending in self._late else self.waiting).remove(pending)

    def answer(self) -> None:
        """Answer all that are here, or have a worker compute them; the fast lane reads the others again."""
        waiting = [*self._late, *self.waiting]
        self._late, self.waiting = [], []
        others: Sequence[Pending] = waiting
        if waiting and not self._batches.is_watched():
            session = self._front.inline.session(self._version)
            if session is None or session.most_rows < self.form.rows:
                others = self._send(waiting)
            else:
                others = self._answer(session, waiting)
        for pending in others:
            pending.connection.read_again(pending)

    def _answer(self, session: InlineSession, waiting: list[Pending]) -> Sequence[Pending]:
        """Compute requests here and answer them; return those that are not answered."""
        front, form, settings = self._front, self.form, self._front.settings
        most = min(session.together_rows, settings.max_batch_rows) // form.rows
        first, began = waiting[0], time.perf_counter()
        if not most or began - first.started > min(settings.deadline_s / 2, settings.max_wait_s):
            return waiting  # too many rows for this process, or too late: the coalescer decides who is refused
        if len(waiting) > most:
            self._late, waiting = waiting[most:], waiting[:most]
            first.connection.loop.call_soon(self.answer)  # after the event loop has looked at its sockets once more
        try:
            taken, oip_ids, matrix, others = self._read(waiting)
            if matrix is None:
                return others
            encoded = time.perf_counter()
            answers = session.run(matrix)
            computed = time.perf_counter()
            if any(len(values) != len(matrix) for values in answers.values()):
                return waiting
            texts = form.write(answers)
        except Exception:  # noqa: BLE001 - the coalescer finds out what it is, and whose
            return waiting
        self._write(taken, oip_ids, texts)
        front.spinning.answered(first.started, first.connection)
        front.drift.sample(self._version, matrix, answers)
        self._count(taken, began, encoded, computed)
        return others

    def _send(self, waiting: list[Pending]) -> Sequence[Pending]:
        """Have a worker compute requests, see `answered`; return those that could not be read."""
        front, began = self._front, time.perf_counter()
        try:
            taken, oip_ids, matrix, others = self._read(waiting)
        except Exception:  # noqa: BLE001 - whoever reads it again finds out what it is, and whose
            return waiting
        if matrix is None:
            return others
        now, rows, deadline_s = time.perf_counter(), self.form.rows, front.settings.deadline_s
        encode_s = (now - began) / len(taken)
        for place, pending in enumerate(taken):
            job = pending.job = TurnJob(self, pending, matrix[place * rows : (place + 1) * rows], self._version)
            job.encode_s, job.arrived = encode_s, now
            job.within_s, job.deadline = deadline_s, pending.started + deadline_s
            if oip_ids:
                job.oip_id = oip_ids[place]
            try:
                front.coalescer.submit(job)
            except RowcastError as error:
                job.refused(error)
        return others

    def answered(self, batch: Batch, told: Sequence[tuple[Job, int]]) -> None:
        """Answer requests that a worker has computed."""
        jobs = [cast("TurnJob", job) for job, _ in told]
        try:
            texts = self.form.write(batch.answers_from([start for _, start in told], self.form.rows))
        except Exception:  # noqa: BLE001 - each finds out whether it is its own
            for job, start in told:
                answer(job, batch, start)
            return
        self._write([job.pending for job in jobs], [job.oip_id for job in jobs], texts)
        now = time.perf_counter()
        for job in jobs:
            job.pending.job = None
        seconds = [(now - started, len(list(some))) for started, some in groupby(job.started for job in jobs)]
        encode_s, write_s = sum(job.encode_s for job in jobs), len(jobs) * (now - batch.computed)
        self._front.metrics.answered_together(self._version, len(jobs) * self.form.rows, seconds, encode_s, write_s)

    def _read(
        self, waiting: Sequence[Pending]
    ) -> tuple[Sequence[Pending], Sequence[str], Matrix | None, Sequence[Pending]]:
        """The requests that could be read, their ids, none if none has one, their matrix, and those that could not."""
        matrix = self.form.together([pending.body for pending in waiting])
        if matrix is not None:
            return waiting, (), matrix, ()
        taken, oip_ids, lines, others = [], [], [], []
        for pending in waiting:
            try:
                found = self.form.read(pending.body)
            except orjson.JSONDecodeError:
                found = None
            if found is None:
                others.append(pending)
            else:
                taken.append(pending)
                lines.append(found[0])
                oip_ids.append(found[1])
        return taken, oip_ids, self.form.matrix(lines) if lines else None, others

    def _write(self, taken: Sequence[Pending], oip_ids: Sequence[str], texts: Sequence[bytes]) -> None:
        if any(oip_ids):
            with_id = self.form.with_id
            texts = [with_id(text, one) if one else text for text, one in zip(texts, oip_ids, strict=True)]
        connection = taken[0].connection
        opening = self._opening.text(connection.server_state.default_headers) + self._front.ids.block().encode()
        now = connection.loop.time()
        for number, (pending, text) in enumerate(zip(taken, texts, strict=True)):
            try:
                pending.write(b"%b%03x\r\ncontent-length: %d\r\n\r\n%b" % (opening, number, len(text), text))
            except Exception:  # noqa: BLE001 - the others have their answers
                _log.exception("an answer could not be written")
            pending.head = b""
            pending.answered = now
        connection.server_state.total_requests += len(taken)

    def _count(self, taken: Sequence[Pending], began: float, encoded: float, computed: float) -> None:
        """Count what was answered: a request waited while others were read, and until all of them were written."""
        now, requests, started = time.perf_counter(), len(taken), taken[0].started
        if started == taken[-1].started:  # they came in one turn
            seconds = [(now - started, requests)]
        else:
            seconds = [(now - pending.started, 1) for pending in taken]
        rows, encode_s = requests * self.form.rows, encoded - began
        metrics = self._front.metrics
        metrics.answered_together(self._version, rows, seconds, encode_s, requests * (now - computed))
        outside_s = now - encoded + encode_s / requests
        waited_s = [(one - outside_s, times) for one, times in seconds]
        metrics.batch_together(self._version, rows, computed - encoded, waited_s)


class TurnJob(Job):
    """A request that was read with the others of its turn, and is computed by a worker.

    What answers it with others is `together`, a `TurnBatch`. Whatever else becomes of it is an exchange's part, which
    then stands in for it.

    Attributes:
        pending: where it waits.
        started: when its turn began, by `time.perf_counter`.
        encode_s: its part of the time that it took to read its turn.
        oip_id: the id that comes back with its answer; empty where there is none.
    """

    stand_in: "Exchange | None" = None
    oip_id = ""
    encode_s = 0.0

    def __init__(self, together: TurnBatch, pending: Pending, matrix: Matrix, version: Version) -> None:
        """A request whose rows are the matrix [N, F]."""
        self.together, self.pending, self.started = together, pending, pending.started
        self.matrix, self.rows, self.version = matrix, len(matrix), version

    def answered(self, batch: Batch, start: int) -> None:
        """Have its own part of the batch's answers written."""
        self._exchange().answered(batch, start)

    def refused(self, problem: RowcastError) -> None:
        """Have the problem written."""
        self._exchange().refused(problem)

    def _exchange(self) -> "Exchange":
        return self.stand_in or self.pending.connection.take_out(self)
