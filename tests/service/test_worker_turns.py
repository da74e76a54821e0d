"""What is read in one turn and computed by a worker gets the answers that each request would get by itself."""

import asyncio
import json

import numpy as np
import pytest

from service.batching.capacity import Capacity
from service.batching.coalescer import MOST_LOSSES, Coalescer
from service.batching.frames import Reply, Status
from service.batching.inline import Inline, InlineSession
from service.http.same_turn import TurnBatches
from tests.service import tiny
from tests.service.test_fast_lane import PLAIN_OIP, Connection, counted, request
from tests.service.test_same_turn import binary, close, plain, row, rows_of

FLOWERS, PAIR, PAIR_OIP = "/v1/models/flowers:predict", "/v1/models/pair:predict", "/v2/models/pair/infer"


class Worker:
    """Lanes to a worker that answers when it is told to."""

    def __init__(self) -> None:
        self.living = self.free = 4
        self.out, self.sent = [], []  # batches, and every matrix that ever went out
        self.failing = self.killing = lambda _: False

    def idle(self, together=None):  # noqa: ARG002 - one worker
        return self if len(self.out) < self.free else None

    def run(self, version, matrix, done):
        self.sent.append((version.name, matrix))
        self.out.append((version, matrix, done))

    def reply(self, *, spoil=lambda answers: answers):
        version, matrix, done = self.out.pop(0)
        if self.killing(matrix):
            done(None)
        elif self.failing(matrix):
            done(Reply(Status.FAILED, sentence="the session failed: RuntimeError"))
        else:
            done(Reply(Status.OK, 0.001, answers=spoil(tiny.answer(version.name, matrix))))

    async def work(self):
        """Answer whatever comes until nothing has come for a few turns of the event loop."""
        idle = 0
        while idle < 10:
            await asyncio.sleep(0)
            idle = 0 if self.out else idle + 1
            while self.out:
                self.reply()


@pytest.fixture
def worker(front):
    worker = Worker()
    front.coalescer = coalescer_of(front, worker, 8)
    return worker


def coalescer_of(front, worker, most_rows, inline=None):
    capacity, inline = Capacity(1000.0, 1000), inline or Inline(None, 0.0)
    return Coalescer(worker, inline, front.metrics.batch, max_batch_rows=most_rows, capacity=capacity)


async def known(front, app, worker, paths, fast=True):
    """Connections that have asked twice what they will ask again, by path and body."""
    connections = [Connection(front, app, fast=fast) for _ in paths]
    for connection, (path, body, *headers) in zip(connections, paths, strict=True):
        for _ in range(2):
            connection.protocol.data_received(request(body, *headers, path=path))
            await worker.work()
            await connection.answers()
    worker.sent.clear()
    return connections


def together(front, app, worker, asked, *, fast=True, meanwhile=None):
    """What connections are told that ask in one turn, each (path, body before, body now)."""

    async def talk():
        connections = await known(front, app, worker, [(path, before) for path, before, _ in asked], fast)
        for connection, (path, _, body) in zip(connections, asked, strict=True):
            connection.protocol.data_received(request(body, path=path))
        if meanwhile is not None:
            await meanwhile(connections)
        await worker.work()
        said = [(await connection.answers())[0] for connection in connections]
        await close(connections)
        return plain(said)

    return asyncio.run(talk())


LINES = [("/v1/models/line:predict", row(0), row(value)) for value in (1, 2.5, -3, 4)]


def test_rows_of_one_turn_are_one_batch_and_each_gets_its_answer(front, app, worker):
    said = together(front, app, worker, LINES)
    assert [(name, matrix.tolist()) for name, matrix in worker.sent] == [("line", [[1], [2.5], [-3], [4]])]
    assert [json.loads(body)["predictions"] for _, _, body in said] == [[3.0], [6.0], [-5.0], [9.0]]
    assert said == together(front, app, worker, LINES, fast=False)
    assert front.open_requests == 0


def test_several_models_and_forms_in_one_turn_get_the_answers_of_the_application(front, app, worker):
    flowers = json.dumps({"instances": [tiny.ROWS["flowers"]]}).encode()
    oip = json.dumps({"inputs": PLAIN_OIP["pair"][0]}).encode()
    named = json.dumps({"inputs": PLAIN_OIP["pair"][0], "id": "mine"}).encode()
    few = (PAIR, rows_of([[1, 2], [3, 4]]), rows_of([[5, 6], [7, 8]]))
    asked = [*LINES, (FLOWERS, flowers, flowers), (PAIR_OIP, oip, named), few, (PAIR_OIP, oip, oip), *LINES, few]
    before = counted(front)
    slow = together(front, app, worker, asked, fast=False)
    between = counted(front)
    assert together(front, app, worker, asked) == slow
    assert counted(front) - between == between - before
    assert [status for status, _, _ in slow] == [200] * len(asked)


@pytest.mark.parametrize("wrong", [row("x"), row(1, 2), b"{broken", b'{"instances": [[1e999]]}', rows_of([[1], ["x"]])])
def test_a_wrong_request_among_those_of_a_turn_is_refused_and_the_others_are_answered(front, app, worker, wrong):
    asked = [*LINES[:2], ("/v1/models/line:predict", row(0), wrong), *LINES[2:]]
    before = counted(front)
    slow = together(front, app, worker, asked, fast=False)
    between = counted(front)
    assert together(front, app, worker, asked) == slow
    assert counted(front) - between == between - before
    assert [status == 200 for status, _, _ in slow] == [True, True, False, True, True]


def test_a_row_that_fails_takes_nobody_along(front, app, worker):
    worker.failing = lambda matrix: bool((matrix == 2.5).any())
    said = together(front, app, worker, LINES)
    assert [status for status, _, _ in said] == [200, 500, 200, 200]
    assert said == together(front, app, worker, LINES, fast=False)


def test_rows_under_which_workers_die_are_refused_and_nobody_else_is(front, app, worker):
    worker.killing = lambda matrix: bool((matrix == 2.5).any())
    assert [status for status, _, _ in together(front, app, worker, LINES)] == [200, 500, 200, 200]
    assert sum(worker.killing(matrix) for _, matrix in worker.sent) == MOST_LOSSES


def test_an_answer_that_cannot_be_written_is_its_own_requests_concern(front, app, worker):
    def spoil(answers):
        values = answers["prediction"].copy()
        values[1] = np.nan
        return {"prediction": values}

    async def reply(_):
        await asyncio.sleep(0.001)
        worker.reply(spoil=spoil)

    said = together(front, app, worker, LINES, meanwhile=reply)
    assert [status for status, _, _ in said] == [200, 500, 200, 200]
    assert said == together(front, app, worker, LINES, fast=False, meanwhile=reply)


def test_more_rows_than_a_batch_may_have_go_in_full_batches(front, app, worker):
    asked = [("/v1/models/line:predict", row(0), row(value)) for value in range(20)]
    said = together(front, app, worker, asked)
    assert [len(matrix) for _, matrix in worker.sent] == [8, 8, 4]
    assert [json.loads(body)["predictions"] for _, _, body in said] == [[2.0 * value + 1] for value in range(20)]


def test_a_client_that_leaves_before_its_batch_goes_is_not_computed(front, app, worker):
    before = counted(front)

    async def talk():
        connections = await known(front, app, worker, [(path, body) for path, body, _ in LINES])
        worker.free = 0
        for connection, (path, _, body) in zip(connections, LINES, strict=True):
            connection.protocol.data_received(request(body, path=path))
        await asyncio.sleep(0.001)
        await connections[1].close()
        worker.free = 4
        front.coalescer.wake()
        await worker.work()
        said = [(await connections[place].answers())[0] for place in (0, 2, 3)]
        await close([connections[place] for place in (0, 2, 3)])
        return said

    said = asyncio.run(talk())
    assert [matrix.tolist() for _, matrix in worker.sent] == [[[1], [-3], [4]]]
    assert [json.loads(body)["predictions"] for _, _, body in said] == [[3.0], [-5.0], [9.0]]
    assert (counted(front) - before)["line", "2", "client_gone"] == 1
    assert front.open_requests == front.coalescer.rows_waiting == 0


def test_a_client_that_leaves_while_its_batch_is_out_takes_no_answer_from_another(front, app, worker):
    async def talk():
        connections = await known(front, app, worker, [(path, body) for path, body, _ in LINES])
        for connection, (path, _, body) in zip(connections, LINES, strict=True):
            connection.protocol.data_received(request(body, path=path))
        await asyncio.sleep(0.001)
        await close(connections[1:3])
        await worker.work()
        said = [(await connections[place].answers())[0] for place in (0, 3)]
        await close([connections[0], connections[3]])
        return said

    assert [json.loads(body)["predictions"] for _, _, body in asyncio.run(talk())] == [[3.0], [9.0]]
    assert front.open_requests == 0


def test_a_deadline_that_passes_within_a_batch_is_answered_and_what_comes_late_is_for_nobody(front, app, worker):
    async def talk():
        connections = await known(front, app, worker, [(path, body) for path, body, _ in LINES[:2]])
        front.settings.deadline_s = 0.02
        for connection, (path, _, body) in zip(connections, LINES[:2], strict=True):
            connection.protocol.data_received(request(body, path=path))
        late = [(await connection.answers())[0][0] for connection in connections]
        front.settings.deadline_s = 1000.0
        connections[0].protocol.data_received(request(row(7)))
        await asyncio.sleep(0.001)
        worker.reply()  # to the two whose time was over
        await asyncio.sleep(0.001)
        assert connections[0].wire.written == b""
        await worker.work()
        ((_, _, body),) = await connections[0].answers()
        await close(connections)
        return late, json.loads(body)["predictions"]

    assert asyncio.run(talk()) == ([504, 504], [15.0])
    assert counted(front)["line", "2", "deadline_passed"] == 2


class OnlyPair:
    """Sessions in this process: that of one model."""

    given = 0

    def session(self, version):
        if version.name == "pair":
            self.given += 1
            return InlineSession(lambda matrix: tiny.answer("pair", matrix), 100)
        return None


def test_between_the_answers_to_a_large_batch_others_are_answered_and_clients_may_leave(front, app, worker):
    inline = OnlyPair()
    front.coalescer, front.turn_batches = coalescer_of(front, worker, 20, inline), TurnBatches(front, inline)
    before = counted(front)

    async def talk():
        lines = await known(front, app, worker, [LINES[0][:2]] * 20)
        (small,) = await known(front, app, worker, [(PAIR, row(1, 2))])
        for value, line in enumerate(lines):
            line.protocol.data_received(request(row(value)))
        await asyncio.sleep(0.001)
        small.protocol.data_received(request(row(1, 2), path=PAIR))
        await small.answers()
        worker.reply()
        small.protocol.data_received(request(row(3, 4), path=PAIR))
        await lines[-1].close()
        await asyncio.sleep(0)
        is_written = [bool(connection.wire.written) for connection in (lines[0], small, lines[8], lines[-2])]
        said = [(await connection.answers())[0] for connection in lines[:-1]]
        await close([*lines[:-1], small])
        return is_written, said

    is_written, said = asyncio.run(talk())
    assert is_written == [True, True, False, False]
    assert [json.loads(body)["predictions"] for _, _, body in said] == [[2.0 * value + 1] for value in range(19)]
    assert (counted(front) - before)["line", "2", "client_gone"] == 1
    assert front.open_requests == 0


@pytest.mark.parametrize("cut", [0, 5, 70])
def test_what_comes_behind_a_request_that_is_out_is_answered_behind_it_and_nothing_is_computed_twice(
    front, app, worker, cut
):
    async def talk():
        (connection,) = await known(front, app, worker, [LINES[0][:2]])
        second = request(row(5))
        connection.protocol.data_received(request(row(4)))
        await asyncio.sleep(0.001)
        connection.protocol.data_received(second[: len(second) - cut])
        connection.protocol.data_received(second[len(second) - cut :])
        await worker.work()
        said = await connection.answers(2)
        await connection.close()
        return [json.loads(body)["predictions"] for _, _, body in said]

    assert asyncio.run(talk()) == [[9.0], [11.0]]
    assert [matrix.tolist() for _, matrix in worker.sent] == [[[4.0]], [[5.0]]]
    assert front.open_requests == 0


def test_a_request_that_is_out_when_the_server_ends_is_answered_and_told_that_it_is_the_last(front, app, worker):
    async def talk():
        (connection,) = await known(front, app, worker, [LINES[0][:2]])
        connection.protocol.data_received(request(row(4)))
        await asyncio.sleep(0.001)
        connection.protocol.shutdown()
        assert front.open_requests == 1
        assert not connection.wire.closed
        await worker.work()
        ((status, headers, body),) = await connection.answers()
        assert connection.wire.closed
        await connection.close()
        return status, headers["connection"], json.loads(body)["predictions"]

    assert asyncio.run(talk()) == (200, "close", [9.0])
    assert len(worker.sent) == 1
    assert front.open_requests == 0


def test_refusals_for_want_of_room_are_those_of_requests_by_themselves(front, app, worker):
    front.coalescer._capacity = Capacity(1000.0, 2)

    async def full(_):
        worker.free = 0
        await asyncio.sleep(0.001)
        worker.free = 4
        front.coalescer.wake()

    said = together(front, app, worker, LINES, meanwhile=full)
    assert [status for status, _, _ in said] == [200, 200, 503, 503]
    assert front.open_requests == 0


def test_raw_numbers_of_many_rows_are_computed_together(front, app, worker):
    raw = [binary([first, first + 1.0, first - 5.0], {"label": True, "probabilities": True}, 3) for first in range(3)]
    path = "/v2/models/coin/infer"

    async def talk(fast):
        connections = await known(front, app, worker, [(path, *raw[0])] * 3, fast)
        for connection, (body, head) in zip(connections, raw, strict=True):
            connection.protocol.data_received(request(body, head, path=path))
        await worker.work()
        said = [(await connection.answers())[0] for connection in connections]
        await close(connections)
        return plain(said)

    fast = asyncio.run(talk(fast=True))
    assert [len(matrix) for _, matrix in worker.sent] == [6, 3]  # eight rows are the most
    assert fast == asyncio.run(talk(fast=False))


@pytest.mark.parametrize("why", ["log", "shadow"])
def test_whoever_watches_each_request_sees_each(front, app, worker, why):
    told = []
    if why == "log":
        front.observers = [lambda ledger, _: told.append((ledger.answered_rows, ledger.id))]
    else:
        front.catalog.has_shadows = True
        front.shadows = type("Shadows", (), {"saw": lambda *_: told.append((1, len(told)))})()
    said = together(front, app, worker, LINES)
    assert [status for status, _, _ in said] == [200] * 4
    assert len(told) == len(set(told)) == 12  # two before, for each connection
    assert {rows for rows, _ in told} == {1}


def test_a_log_that_begins_while_requests_are_out_is_told_of_the_next_ones_only(front, app, worker):
    told = []

    async def look(_):
        await asyncio.sleep(0.001)
        front.observers = [lambda ledger, _: told.append(ledger.id)]

    said = together(front, app, worker, LINES, meanwhile=look)
    assert [status for status, _, _ in said] == [200] * 4
    assert told == []


def test_counts_are_those_of_requests_by_themselves(front, app, worker):
    together(front, app, worker, LINES)
    front.metrics.write_what_is_kept()

    def value(metric, end):
        return sum(sample.value for sample in metric.collect()[0].samples if sample.name.endswith(end))

    metrics = front.metrics
    assert value(metrics._rows, "_total") == 12
    assert value(metrics._request, "_count") == value(metrics._queue, "_count") == 12
    assert value(metrics._batch, "_sum") == 12
    stages = {
        sample.labels["stage"]: sample.value
        for sample in metrics._stages.collect()[0].samples
        if sample.name.endswith("_total")
    }
    queued = value(metrics._queue, "_sum")
    assert 0 < stages["encode"] + queued + stages["write"] <= stages["whole"]


@pytest.mark.parametrize("bodies", [(row(0), row(4)), (rows_of([[0], [0]]), rows_of([[4], [4]]))])
def test_a_version_that_is_replaced_while_it_computes_answers_what_it_was_asked(front, app, worker, bodies):
    async def talk():
        (connection,) = await known(front, app, worker, [("/v1/models/line:predict", bodies[0])])
        connection.protocol.data_received(request(bodies[1]))
        await asyncio.sleep(0.001)
        del front.catalog.versions["line"][2]
        front.catalog.changes += 1
        connection.protocol.shutdown()  # so it is answered by itself
        await worker.work()
        ((_, _, body),) = await connection.answers()
        await connection.close()
        return json.loads(body)

    said = asyncio.run(talk())
    assert (said["model_version"], set(said["predictions"])) == ("2", {9.0})
    assert len(worker.sent) == 1
