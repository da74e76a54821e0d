"""One request that the fast lane answers: what its body asks, and what its client is told."""

import time
from asyncio import TimerHandle
from typing import TYPE_CHECKING

from models.errors import RowcastError
from service.asking import (
    JSON,
    Question,
    allowed_s,
    check_model,
    find,
    may_be_urgent,
    oip_question,
    plain_question,
    whom,
)
from service.batching.batches import Batch, Job, WriteRows, own_matrix
from service.blame import blamed
from service.front import Front
from service.http.heads import Head
from service.http.same_turn import LONGEST, NOBODY
from service.ledger import Ledger
from service.problems import ModelFailed
from service.wire import oip, oip_row, plain
from service.wire.json_text import read_json
from service.wire.record_rows import RecordRows

if TYPE_CHECKING:
    from models.repository import Version
    from service.http.fast_lane import FastLane


class Exchange(Job, Ledger):
    """One request that the fast lane answers: the coalescer's job, its own ledger, and in uvicorn's eyes a cycle.

    Attributes:
        connection: the one it came on.
        response_complete, disconnected, message_event, keep_alive: what uvicorn looks at.
        give_up: at the deadline of its body, if that did not come at once.
        question: what it asks; None for one plain row, which is its `line`.
        write_rows: writes the answer to a `line`.
        stands_for: the job that is computed in its place; None where it is its own.
        oip_id: the id that comes back with the answer to a `line`; empty where there is none.
    """

    response_complete = False
    disconnected = False
    message_event = NOBODY
    is_prediction = True
    give_up: TimerHandle | None = None
    question: Question | None = None
    write_rows: WriteRows = staticmethod(plain.write_rows)
    oip_id = ""
    stands_for: Job | None = None

    def __init__(self, connection: "FastLane", head: Head, request_id: str, started: float) -> None:
        self.connection, self.head, self.keep_alive = connection, head, head.keep_alive
        self.id, self.started, self.path = request_id, started, head.target.text

    def ask(self, front: Front, body: bytes) -> None:
        """Have the coalescer compute what the body asks.

        Raises:
            RowcastError: the body or what it asks is refused.
        """
        self.read(front, body)
        front.coalescer.submit(self)

    def read(self, front: Front, body: bytes, version: "Version | None" = None) -> None:
        """Know what the body asks, of this version if it is computed already.

        Raises:
            RowcastError: it is refused.
        """
        target = self.head.target
        within_s = front.settings.deadline_s
        if target.is_oip:
            assert self.version is not None
            if self.head.oip_length is None and len(body) <= LONGEST and not front.catalog.has_shadows:
                found = oip_row.line_of(oip.read_whole(body), self.version)
                if found is not None:
                    self.oip_id, self.line = found
                    self.write_rows = oip_row.write_rows
            if self.line is None:
                self.question = oip_question(front.settings, self.version, body, self.head.oip_length)
        else:
            request = self._read_plain(front, body)
            if request is not None:
                self.version = version or find(front, whom(target.path, request), self.routing_key)
                self.question = plain_question(front.settings, self.version, request)
        is_urgent = self.head.is_urgent
        if self.question is None:
            self.rows = 1
        else:
            is_urgent = is_urgent or self.question.is_urgent
            self.matrix, within_s = self.question.matrix, self.question.within_s
            self.rows = len(self.matrix)
        if target.whom is None and self.version is not None:  # else the path has named the model
            check_model(self, self.version)
        self.is_urgent = is_urgent and may_be_urgent(self)
        self.encoded = self.arrived = time.perf_counter()
        self.within_s = within_s if self.timeout is None else allowed_s(self, within_s)
        self.deadline = self.started + self.within_s

    def _read_plain(self, front: Front, body: bytes) -> plain.Request | None:
        """What a plain body asks; None where it is one plain row, which is its `line` now."""
        request = plain.read_rows(body, self.version)
        if request is not None:
            if isinstance(request.rows, RecordRows) and request.key == "instances" and not front.catalog.has_shadows:
                self.line = request.rows.line()
            return request if self.line is None else None
        asked = read_json(body)
        row = None if front.catalog.has_shadows else plain.only_row(asked)  # a shadow encodes it by itself
        if row is not None:
            if self.version is None:
                self.version = find(front, self.head.target.path, self.routing_key)
            self.line = self.version.schema.line_of(row)
        return plain.read(asked) if self.line is None else None

    def answered(self, batch: Batch, start: int) -> None:
        """Write its part of the batch's answers."""
        self.sent, self.computed = batch.sent, batch.computed
        headers = JSON
        try:
            if self.question is not None:
                body, headers = self.question.write(batch.answers_of(start, self.rows))
            elif (written := batch.written(self.write_rows)) is not None:
                body = written[start]
            else:
                (body,) = self.write_rows(batch.version, batch.answers_of(start, 1))
            if self.oip_id:
                body = oip_row.with_id(batch.version, body, self.oip_id)
        except ModelFailed as error:
            self.connection.refuse(self, blamed(error, batch.version, own_matrix(self)))
        except Exception as error:  # noqa: BLE001 - whatever it was, the client gets a problem
            self.connection.refuse(self, error)
        else:
            self.connection.answer(self, headers, body)
            if self.question is not None:
                self.connection.tell_shadows(self, batch.answers_of(start, self.rows))

    def refused(self, problem: RowcastError) -> None:
        """Write the problem."""
        self.connection.refuse(self, problem)
