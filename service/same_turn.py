"""Requests of one row, or of raw numbers, that are read, computed and written in the turn that brought them.

Most clients send one row after the other, each behind the very same head. For these a job, a queue and a deadline cost
more than the prediction. So a connection whose last request was such a row puts the next one here, and once all that
has come is read, the rows become one matrix, one run of the session in this process, and one write each.

Only what goes right is answered here. Whatever else a request may be or meet, it is given back and read again by the
fast lane, which has a place for everything; so nothing here tells one error from another.
"""

import logging
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from models.repository import Version
from service.inline import Inline, InlineSession
from service.wire.row_forms import RowForm, form_of

if TYPE_CHECKING:
    from service.fast_lane import FastLane
    from service.front import Front

_log = logging.getLogger(__name__)

LONGEST = 16_000
"""Bytes of a body that may be one row; a longer one is not tried, since it would be read twice."""
_MOST_BATCHES = 1000  # that are remembered: of a client's raw tensors, every shape is one


@lru_cache(4096)
def _length(size: int) -> bytes:
    """What stands between `opening` and a request's id: to format it anew takes as long as to join all of them."""
    return b"%d\r\nx-request-id: " % size


class _Nobody:
    """Whom uvicorn wakes when something happened to a cycle: no task waits for an answer that is on its way."""

    def set(self) -> None:
        pass


NOBODY = _Nobody()


class Pending:
    """A connection's request that this turn answers, in uvicorn's eyes a cycle; one object for all that it sends.

    Attributes:
        lane: the connection.
        batch: where the request is.
        head, body: of the request.
        started: when it came, by `time.perf_counter`.
        response_complete, disconnected, message_event, keep_alive: what uvicorn looks at.
    """

    __slots__ = ("batch", "body", "disconnected", "head", "keep_alive", "lane", "response_complete", "started")
    message_event = NOBODY

    def __init__(self, lane: "FastLane") -> None:
        self.lane, self.head, self.body, self.started = lane, b"", b"", 0.0
        self.batch: TurnBatch | None = None
        self.response_complete, self.disconnected, self.keep_alive = True, False, True


class TurnBatches:
    """Those of one API process."""

    def __init__(self, front: "Front", inline: Inline) -> None:
        """Have no batch yet; `inline` has the sessions."""
        self._front, self._inline = front, inline
        self._batches: dict[tuple[str, Any], TurnBatch] = {}
        self._made_at = 0

    def of(
        self, version: Version, body: bytes, *, is_oip: bool, oip_length: str | None, begin: int | None
    ) -> "TurnBatch | None":
        """That of requests to a live version which are like this one; None where there is none.

        `begin` is where its numbers begin, if it is many rows in JSON.
        """
        if self._made_at != self._front.catalog.changes:  # versions may be gone
            self._batches, self._made_at = {}, self._front.catalog.changes
        if not self._inline.has(version):  # each request would be read twice
            return None
        end = begin if oip_length is None else int(oip_length)
        key = version.key, is_oip if end is None else body[:end]
        batch = self._batches.get(key)
        if batch is None:
            form = form_of(version, body, is_oip=is_oip, oip_length=oip_length, begin=begin)
            if form is None:
                return None
            if len(self._batches) >= _MOST_BATCHES:
                del self._batches[next(iter(self._batches))]
            batch = self._batches[key] = TurnBatch(self._front, self._inline, version, form)
        return batch


class TurnBatch:
    """Requests of this turn for one version, in one form."""

    def __init__(self, front: "Front", inline: Inline, version: Version, form: RowForm) -> None:
        """Hold no request yet."""
        self._front, self._inline, self._version, self._form = front, inline, version, form
        self._waiting: list[Pending] = []
        self._opening, self._opening_has = b"", [(b"", b"")]

    def add(self, pending: Pending) -> None:
        """Have it answered before the event loop looks at its sockets again."""
        pending.batch = self
        self._front.open_requests += 1
        self._waiting.append(pending)
        if len(self._waiting) == 1:
            pending.lane.loop.call_soon(self.answer)

    def remove(self, pending: Pending) -> None:
        """Its client is gone, or sends more before it has its answer."""
        self._waiting.remove(pending)
        self._front.open_requests -= 1

    def answer(self) -> None:
        """Answer all that are here."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        self._front.open_requests -= len(waiting)
        session = self._inline.session(self._version)
        if session is None or self._front.observers or self._front.catalog.has_shadows:
            left: Sequence[Pending] = waiting
        else:
            left = self._answer(session, waiting)
        for pending in left:
            pending.lane.read_again(pending)

    def _answer(self, session: InlineSession, waiting: list[Pending]) -> Sequence[Pending]:
        """Answer requests; return those that are not answered."""
        front, version = self._front, self._version
        most = min(session.most_rows, front.settings.max_batch_rows) // self._form.rows
        began = time.perf_counter()
        if not most or began - waiting[0].started > min(front.settings.deadline_s / 2, front.settings.max_wait_s):
            return waiting  # somebody must be refused, or a worker asked
        if len(waiting) > most:
            self._next_turn(waiting[most:])
        taken, lines, left = [], [], []
        read = self._form.read
        for pending in waiting[:most]:
            try:
                found = read(pending.body) if pending.keep_alive else None  # a connection that ends is another's matter
            except orjson.JSONDecodeError:
                found = None
            if found is None:
                left.append(pending)
            else:
                taken.append((pending, found[1]))
                lines.append(found[0])
        if not lines:
            return left
        try:
            matrix = self._form.matrix(lines)
            encoded = time.perf_counter()
            answers = session.run(matrix)
            computed = time.perf_counter()
            if any(len(values) != len(matrix) for values in answers.values()):
                return waiting[:most]
            texts = self._form.write(answers)
        except Exception:  # noqa: BLE001 - the coalescer finds out what it is, and whose
            return waiting[:most]
        self._write(taken, texts)
        front.spinning.answered(waiting[0].started, waiting[0].lane)
        front.drift.sample(version, matrix, answers)
        self._count([pending.started for pending, _ in taken], began, encoded, computed)
        return left

    def _next_turn(self, waiting: list[Pending]) -> None:
        """Answer these after the event loop has looked at its sockets once more."""
        self._front.open_requests += len(waiting)
        if not self._waiting:
            waiting[0].lane.loop.call_soon(self.answer)
        self._waiting[:0] = waiting

    def _write(self, taken: Sequence[tuple[Pending, str]], texts: Sequence[bytes]) -> None:
        first, _ = taken[0]
        next_id, opening, now = self._front.ids.next, self._opening_of(first.lane), first.lane.loop.time()
        for (pending, oip_id), text in zip(taken, texts, strict=True):
            lane = pending.lane
            if oip_id:
                text = self._form.with_id(text, oip_id)  # noqa: PLW2901
            try:
                lane.transport.write(b"".join((opening, _length(len(text)), next_id().encode(), b"\r\n\r\n", text)))
            except Exception:  # noqa: BLE001 - the others have their answers
                _log.exception("an answer could not be written")
            pending.response_complete = True
            lane.rests(now)

    def _opening_of(self, lane: "FastLane") -> bytes:
        headers = lane.server_state.default_headers
        if headers is not self._opening_has:  # uvicorn makes them anew every second
            self._opening_has, self._opening = headers, lane.opening(self._form.headers)
        return self._opening

    def _count(self, started: Sequence[float], began: float, encoded: float, computed: float) -> None:
        """Count what was answered: a request waited while others were read, and until all of them were written."""
        metrics, now, requests = self._front.metrics, time.perf_counter(), len(started)
        own_s = (encoded - began) / requests
        seconds = [now - one for one in started]
        rows = requests * self._form.rows
        metrics.answered_together(self._version, rows, seconds, encoded - began, requests * (now - computed))
        waited_s = [encoded - own_s - one for one in started]
        metrics.batch(self._version, rows, computed - encoded, waited_s)
