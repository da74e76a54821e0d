"""Requests of one row that are read, computed and written in the turn of the event loop that brought them.

Most clients send one row after the other, each behind the very same head. For these a job, a queue and a deadline cost
more than the prediction. So a connection whose last request was such a row puts the next one here, and once all that
has come is read, the rows become one matrix, one run of the session in this process, and one write each.

Only what goes right is answered here. Whatever else a request may be or meet, it is given back and read again by the
fast lane, which has a place for everything; so nothing here tells one error from another.
"""

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from models.repository import Version
from service.inline import Inline, InlineSession
from service.wire import oip_row, plain

if TYPE_CHECKING:
    from service.fast_lane import FastLane
    from service.front import Front

_log = logging.getLogger(__name__)

LONGEST = 16_000
"""Bytes of a body that may be one row; a longer one is not tried, since it would be read twice."""


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
        body: of the request.
        started: when it came, by `time.perf_counter`.
        oip_id: the id that comes back with its answer; empty where there is none.
        response_complete, disconnected, message_event, keep_alive: what uvicorn looks at.
    """

    __slots__ = ("batch", "body", "disconnected", "keep_alive", "lane", "oip_id", "response_complete", "started")
    message_event = NOBODY

    def __init__(self, lane: "FastLane") -> None:
        self.lane, self.body, self.oip_id, self.started = lane, b"", "", 0.0
        self.batch: TurnBatch | None = None
        self.response_complete, self.disconnected, self.keep_alive = True, False, True


class TurnBatches:
    """Those of one API process."""

    def __init__(self, front: "Front", inline: Inline) -> None:
        """Have no batch yet; `inline` has the sessions."""
        self._front, self._inline = front, inline
        self._batches: dict[tuple[str, bool], TurnBatch] = {}
        self._made_at = 0

    def of(self, version: Version, *, is_oip: bool) -> "TurnBatch":
        """That of a live version, for plain requests or for those of the Open Inference Protocol."""
        if self._made_at != self._front.catalog.changes:  # versions may be gone
            self._batches, self._made_at = {}, self._front.catalog.changes
        batch = self._batches.get((version.key, is_oip))
        if batch is None:
            batch = self._batches[version.key, is_oip] = TurnBatch(self._front, self._inline, version, is_oip=is_oip)
        return batch


class TurnBatch:
    """Requests of this turn for one version, in one protocol."""

    def __init__(self, front: "Front", inline: Inline, version: Version, *, is_oip: bool) -> None:
        """Hold no request yet."""
        self._front, self._inline, self._version, self._is_oip = front, inline, version, is_oip
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
        """Its client is gone."""
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
        most = min(session.most_rows, front.settings.max_batch_rows)
        began = time.perf_counter()
        if began - waiting[0].started > front.settings.deadline_s / 2:
            return waiting  # too late to be sure of it
        taken, left = [], waiting[most:]
        lines: list[list[Any]] = []
        for pending in waiting[:most]:
            line = self._read(pending)
            if line is None:
                left.append(pending)
            else:
                taken.append(pending)
                lines.append(line)
        if not lines:
            return left
        try:
            matrix = version.schema.stack(lines)
            encoded = time.perf_counter()
            answers = session.run(matrix)
            computed = time.perf_counter()
            if any(len(values) != len(lines) for values in answers.values()):
                return waiting
            texts = (oip_row if self._is_oip else plain).write_rows(version, answers)
        except Exception:  # noqa: BLE001 - the coalescer finds out what it is, and whose
            return waiting
        self._write(taken, texts)
        front.drift.sample(version, matrix, answers)
        self._count(taken, began, encoded, computed)
        return left

    def _read(self, pending: Pending) -> list[Any] | None:
        """Its row; None when it holds anything else than one plain row, or its connection is about to be closed."""
        if not pending.keep_alive:
            return None
        try:
            asked = orjson.loads(pending.body)
        except orjson.JSONDecodeError:
            return None
        if not self._is_oip:
            row = plain.only_row(asked)
            return None if row is None else self._version.schema.line_of(row)
        found = oip_row.line_of(asked, self._version)
        if found is None:
            return None
        pending.oip_id, line = found
        return line

    def _write(self, taken: Sequence[Pending], texts: Sequence[bytes]) -> None:
        version, next_id, opening = self._version, self._front.ids.next, self._opening_of(taken[0].lane)
        now = taken[0].lane.loop.time()
        for pending, text in zip(taken, texts, strict=True):
            lane = pending.lane
            if self._is_oip and pending.oip_id:
                text = oip_row.with_id(version, text, pending.oip_id)  # noqa: PLW2901
            head = b"%b%d\r\nx-request-id: %b\r\n\r\n" % (opening, len(text), next_id().encode())
            try:
                lane.transport.write(head + text)
            except Exception:  # noqa: BLE001 - the others have their answers
                _log.exception("an answer could not be written")
            pending.response_complete = True
            lane.rests(now)

    def _opening_of(self, lane: "FastLane") -> bytes:
        headers = lane.server_state.default_headers
        if headers is not self._opening_has:  # uvicorn makes them anew every second
            self._opening_has, self._opening = headers, lane.opening()
        return self._opening

    def _count(self, taken: Sequence[Pending], began: float, encoded: float, computed: float) -> None:
        """Count what was answered: a request waited while others were read, and until all of them were written."""
        metrics, now, requests = self._front.metrics, time.perf_counter(), len(taken)
        own_s = (encoded - began) / requests
        seconds = [now - pending.started for pending in taken]
        metrics.answered_together(self._version, seconds, encoded - began, requests * (now - computed))
        waited_s = [encoded - own_s - pending.started for pending in taken]
        metrics.batch(self._version, requests, computed - encoded, waited_s)
