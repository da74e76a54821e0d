"""The fast lane gives the answers of the application, and keeps what a connection must keep."""

import asyncio
import gc
import json
import socket
import weakref
from collections import Counter

import numpy as np
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.asking import ASIDE_BYTES
from service.http import heads
from service.http.fast_lane import FastLane
from service.problems import DeadlinePassed, ModelFailed, Overloaded
from tests.server.conftest import START_S
from tests.service import tiny
from tests.service.own_time import run_in_own_time
from tests.service.test_plain import ANYTHING

LINE = "/v1/models/line:predict"
GOOD = b'{"instances": [[3]]}'


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.reading = True

    def write(self, data):
        assert not self.closed
        self.written += data

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True


class Connection:
    """A client's connection to the fast lane, or to the application alone."""

    def __init__(self, front, app, *, fast=True) -> None:
        self.asked_the_app = 0

        async def counting(scope, receive, send):
            self.asked_the_app += 1
            await app(scope, receive, send)

        config = Config(counting, lifespan="off", log_config=None, interface="asgi3")
        self.state = ServerState()
        known = {"config": config, "server_state": self.state, "app_state": {}}
        config.load()
        self.protocol = FastLane(lambda: front, **known) if fast else HttpToolsProtocol(**known)
        self.wire = Wire()
        self.protocol.connection_made(self.wire)

    async def send(self, *chunks):
        for chunk in chunks:
            self.protocol.data_received(chunk)
            await asyncio.sleep(0)

    async def answers(self, count=1):
        """Status, headers and body of so many answers."""
        async with asyncio.timeout(START_S):
            while len(found := list(parsed(self.wire.written))) < count:  # noqa: ASYNC110 - the wire is a string
                await asyncio.sleep(0.0005)
        self.wire.written = b""
        assert len(found) == count
        return found

    async def close(self):
        self.protocol.connection_lost(None)
        if self.protocol.timeout_keep_alive_task is not None:
            self.protocol.timeout_keep_alive_task.cancel()
        await asyncio.gather(*self.state.tasks)


def parsed(raw):
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        headers = dict(pairs)
        assert len(headers) == len(pairs)
        length = int(headers["content-length"])
        if len(rest) < length:
            return
        yield int(first.split()[1]), headers, rest[:length]
        raw = rest[length:]


def request(body=GOOD, *headers, path=LINE, method="POST", version="1.1", length=True):
    lines = [f"{method} {path} HTTP/{version}", "Host: rowcast", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def ask(front, app, *chunks, fast=True, count=1):
    """The answers, and how many requests went to the application."""

    async def talk():
        connection = Connection(front, app, fast=fast)
        await connection.send(*chunks)
        answers = await connection.answers(count)
        await connection.close()
        return answers, connection

    answers, connection = asyncio.run(talk())
    return answers, connection.asked_the_app


def counted(front):
    """Requests by model, version and code."""
    front.metrics.write_what_is_kept()
    samples = front.metrics._requests.collect()[0].samples
    total = Counter()
    for sample in samples:
        if sample.name.endswith("_total"):
            total[tuple(sample.labels.values())] += sample.value
    return total


def both(front, app, raw):
    """What the two lanes answer to the same bytes, whether fast or slow; and the fast lane's share."""
    before = counted(front)
    (slow,), _ = ask(front, app, raw, fast=False)
    between = counted(front)
    (fast,), handed_over = ask(front, app, raw)
    assert counted(front) - between == between - before
    slow[1].pop("date", None)
    fast[1].pop("date", None)
    return slow, fast, handed_over


# --------------------------------------------------------------------------------------------------- same answers

PATHS = [
    *(f"/v1/models/{name}:predict" for name in tiny.SCHEMAS),
    "/v1/models/line/versions/1:predict",
    "/v1/models/line/versions/01:predict",
    "/v1/models/line/versions/9:predict",
    "/v1/models/line/labels/canary:predict",
    "/v1/models/line/labels/nobody:predict",
    "/v1/models/nobody:predict",
    "/predict",
]
OIP_PATHS = [
    *(f"/v2/models/{name}/infer" for name in tiny.SCHEMAS),
    "/v2/models/line/versions/1/infer",
    "/v2/models/line/versions/canary/infer",
    "/v2/models/line/versions/9/infer",
]
TENSOR = st.fixed_dictionaries(
    {"name": st.sampled_from(["features", "x", "y"]), "datatype": st.sampled_from(["FP32", "FP64", "INT64", "NO"])},
    optional={"shape": st.sampled_from([[1, 1], [2, 1], [2], [0, 1], "x"]), "data": st.lists(ANYTHING, max_size=3)},
)
BODIES = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda value: json.dumps(value).encode(), ANYTHING),
    st.builds(
        lambda key, rows, more: json.dumps({key: rows, **more}).encode(),
        st.sampled_from(["instances", "inputs", "rows"]),
        st.one_of(
            ANYTHING,
            st.lists(st.lists(st.floats(-9, 9) | st.none(), min_size=1, max_size=2), max_size=4),
            st.lists(st.sampled_from([tiny.ROWS["flowers"], tiny.ROWS["line"], {"x": "y"}]), max_size=3),
        ),
        st.sampled_from([{}, {"model": "coin"}, {"version": 1}, {"label": "stable"}, {"more": 1}]),
    ),
    st.builds(lambda inputs: json.dumps({"id": "7", "inputs": inputs}).encode(), st.lists(TENSOR, max_size=2)),
)
ONCE = settings(max_examples=300)


@given(body=BODIES, path=st.sampled_from(PATHS + OIP_PATHS))
@ONCE
def test_both_lanes_answer_the_same_to_any_body(front, app, body, path):
    slow, fast, _ = both(front, app, request(body, "X-Request-Id: mine", path=path))
    assert fast == slow


def tensor(name, datatype, shape, *data):
    return {"name": name, "datatype": datatype, "shape": shape, "data": list(data)}


PLAIN_OIP = {
    "line": [
        [tensor("x", datatype, shape, value)]
        for datatype in ("FP32", "FP64", "INT64")
        for shape in ([1], [1, 1], [2], [1, 2])
        for value in (3.5, 4, 1e39, None, True, "3", 2**60, [3.5])
    ],
    "pair": [
        *([tensor("features", "FP32", [1, 2], a, 1.5)] for a in (2.5, 3, 1e39, -1e39, None, "x")),
        *([tensor("a", "FP32", [1], a), tensor("b", "FP64", [1, 1], 1.5)] for a in (2.5, 3, 1e39, None)),
        [tensor("b", "FP32", [1], 1.5), tensor("a", "FP32", [1], 2.5)],
        [tensor("a", "FP32", [1], 1.5)],
        *([tensor("features", "FP32", shape, 1.5, 2.5)] for shape in ([1.0, 2], [True, 2], [1, 2.0])),
    ],
    "coin": [[tensor("x", "FP32", [1, 1], value)] for value in (-2.5, 0.0, 7)],
}


@pytest.mark.parametrize("name", PLAIN_OIP)
@pytest.mark.parametrize(
    "more", [{}, {"id": "7"}, {"id": 'a"b'}, {"id": "é"}, {"id": ""}, {"id": 7}, {"parameters": {}}]
)
def test_both_lanes_answer_the_same_to_a_row_of_the_open_inference_protocol(front, app, name, more):
    for inputs in PLAIN_OIP[name]:
        raw = request(
            json.dumps({"inputs": inputs, **more}).encode(), "X-Request-Id: mine", path=f"/v2/models/{name}/infer"
        )
        slow, fast, handed_over = both(front, app, raw)
        assert fast == slow
        assert not handed_over


@given(matrix=st.lists(st.floats(-9, 9, width=32), max_size=5), claimed=st.sampled_from([None, "", "0", "7", "x"]))
@ONCE
def test_both_lanes_answer_the_same_to_binary_tensors(front, app, matrix, claimed):
    raw = np.array(matrix, "<f4").tobytes()
    head = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [len(matrix), 1]}]}
    head["inputs"][0]["parameters"] = {"binary_data_size": len(raw)}
    head["outputs"] = [{"name": "prediction", "parameters": {"binary_data": True}}]
    text = json.dumps(head).encode()
    length = str(len(text)) if claimed is None else claimed
    headers = [f"Inference-Header-Content-Length: {length}"] if length else []
    raw_request = request(text + raw, "X-Request-Id: mine", *headers, path="/v2/models/line/infer")
    slow, fast, handed_over = both(front, app, raw_request)
    assert fast == slow
    assert not handed_over


@pytest.mark.parametrize(
    "failure", [Overloaded(10, 3.2), DeadlinePassed(5.0), ModelFailed("line/1"), ZeroDivisionError()]
)
def test_both_lanes_answer_the_same_when_something_fails(front, app, failure):
    front.coalescer.failure = failure
    slow, fast, handed_over = both(front, app, request(GOOD, "X-Request-Id: mine"))
    assert fast == slow
    assert slow[0] >= 500
    assert not handed_over


def test_an_answer_that_is_not_finite_fails_in_both_lanes(front, app):
    front.coalescer.answer = lambda _, matrix: {"prediction": matrix * np.inf}
    slow, fast, _ = both(front, app, request(GOOD, "X-Request-Id: mine"))
    assert fast == slow
    assert slow[0] == 500


@pytest.mark.parametrize("path", ["/predict", LINE, "/v2/models/line/infer"])
def test_a_row_that_overflows_is_named_in_both_lanes(front, app, path):
    front.coalescer.answer = lambda _, matrix: {"prediction": np.where(matrix > 1e30, np.nan, matrix)}
    body = json.dumps({"inputs": [tensor("x", "FP32", [1, 1], 1e38)]}).encode()
    body = body if "infer" in path else b'{"instances": [[1e38]]}'
    slow, fast, handed_over = both(front, app, request(body, "X-Request-Id: mine", path=path))
    assert fast == slow
    assert slow[0] == 422
    assert not handed_over


# --------------------------------------------------------------------------------------------------- who answers


@pytest.mark.parametrize("path", ["/predict", LINE, "/v1/models/line/versions/1:predict", "/v2/models/line/infer"])
def test_a_plain_prediction_never_reaches_the_application(front, app, path):
    body = GOOD
    if path.startswith("/v2"):
        body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [3]}]}'
    ((status, headers, _),), handed_over = ask(front, app, request(body, path=path))
    assert (status, handed_over) == (200, 0)
    assert len(headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request(method="GET", path="/v1/models", body=b""), 200),
        (request(method="PUT"), 405),
        (request(version="1.0"), 200),
        (
            request(GOOD, "Transfer-Encoding: chunked", length=False)[: -len(GOOD)]
            + b"14\r\n"
            + GOOD
            + b"\r\n0\r\n\r\n",
            200,
        ),
        (request(GOOD, "Content-Encoding: identity"), 200),
        (request(GOOD, "X-Request-Id: a", "X-Request-Id: b"), 200),
        (request(b"", length=False), 400),
        (request(b" " * 100_001), 413),
        (request(path=LINE + "?x=1"), 200),
        (request(path="/v1/models/l%69ne:predict"), 200),
        (request(path="/v1/models/nobody:predict"), 404),
        (request(path=f"/v1/models/{'x' * 1000}:predict"), 404),
    ],
)
def test_what_is_not_plainly_a_prediction_is_the_applications(front, app, raw, status):
    answers, handed_over = ask(front, app, raw)
    assert (answers[0][0], handed_over) == (status, 1)


def test_long_paths_are_not_kept(front, app):
    kept = heads._target_of.cache_info().currsize
    answers, _ = ask(
        front, app, *(request(path=f"/v1/models/{'x' * 1000}{number}:predict") for number in range(3)), count=3
    )
    assert [status for status, _, _ in answers] == [404] * 3
    assert heads._target_of.cache_info().currsize == kept


def test_a_large_body_is_the_applications_which_reads_it_in_a_thread(front, app):
    front.settings.max_body_bytes = 10 * ASIDE_BYTES
    for size, expected in ((ASIDE_BYTES - 1, 0), (ASIDE_BYTES, 1)):
        answers, handed_over = ask(front, app, request(GOOD + b" " * (size - len(GOOD))))
        assert (answers[0][0], handed_over) == (200, expected)


def test_without_the_key_nothing_is_answered_in_either_lane(front, app, key):
    (answer,), handed_over = ask(front, app, request())
    assert (answer[0], handed_over) == (401, 1)
    (answer,), handed_over = ask(front, app, request(GOOD, f"Authorization: Bearer {key}"))
    assert (answer[0], handed_over) == (200, 0)


# --------------------------------------------------------------------------------------------------- the connection


@given(data=st.data())
@ONCE
def test_a_request_may_come_in_any_pieces(front, app, data):
    raw = request() + request(b"broken")
    cuts = sorted(data.draw(st.lists(st.integers(1, len(raw) - 1), max_size=6)))
    chunks = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True) if end > start]
    answers, _ = ask(front, app, *chunks, count=2)
    assert [status for status, _, _ in answers] == [200, 400]


REQUESTS = st.builds(
    lambda body, path, headers: request(body, *headers, path=path),
    st.sampled_from([GOOD, b'{"instances": [[4]]}', b'{"instances": [{"x": 5}]}', b"broken", b'{"instances": [[""]]}']),
    st.sampled_from(["/predict", LINE, "/v1/models/coin:predict", "/v1/models/nobody:predict"]),
    st.sampled_from([(), ("X-Request-Id: mine",), ("X-Request-Id: yours",)]),
)


@given(st.lists(REQUESTS, min_size=2, max_size=6), st.data())
@ONCE
def test_a_head_that_comes_again_is_read_as_it_was_the_first_time(front, app, requests, data):
    async def talk(fast):
        connection, said = Connection(front, app, fast=fast), []
        for raw in requests:
            cut = data.draw(st.integers(1, len(raw))) if fast else len(raw)
            await connection.send(*filter(None, (raw[:cut], raw[cut:])))
            ((status, headers, body),) = await connection.answers()
            if status == 200:
                said.append((status, body))
            else:
                answer = json.loads(body)
                said.append((status, answer["code"], answer["error"]))
            said.append(headers["x-request-id"] in ("mine", "yours"))
        await connection.close()
        return said

    assert asyncio.run(talk(fast=True)) == asyncio.run(talk(fast=False))


def test_ids_are_never_given_twice(front, app):
    answers, _ = ask(front, app, *[request()] * 5, count=5)
    assert len({headers["x-request-id"] for _, headers, _ in answers}) == 5


def test_pipelined_requests_are_answered_in_order_whoever_answers_them(front, app):
    raw = request(b'{"instances": [[1]]}') + request(b"", method="GET", path="/v1/models") + request(b"broken")
    raw += request(b'{"instances": [[2]]}') + request(b'{"instances": [[3]]}', "Connection: close") + request()
    answers, _ = ask(front, app, raw, count=5)
    assert [status for status, _, _ in answers] == [200, 200, 400, 200, 200]
    assert [json.loads(answers[place][2])["predictions"] for place in (0, 3, 4)] == [[3], [5], [7]]


def test_nothing_is_answered_after_a_request_that_closes(front, app):
    async def talk():
        connection = Connection(front, app)
        await connection.send(request(b"broken", "Connection: close") + request())
        answers = await connection.answers()
        assert connection.wire.closed
        await connection.close()
        return answers

    ((status, headers, _),) = asyncio.run(talk())
    assert (status, headers["connection"]) == (400, "close")
    assert counted(front).total() == 1


def test_an_idle_connection_is_closed_and_one_that_is_used_is_not(front, app, monkeypatch):
    async def talk():
        connection = Connection(front, app)
        connection.protocol.timeout_keep_alive = 0.5
        for _ in range(4):
            await connection.send(request())
            await connection.answers()
            await asyncio.sleep(0.15)
            assert not connection.wire.closed
        async with asyncio.timeout(20):
            while not connection.wire.closed:  # noqa: ASYNC110 - the wire is a string
                await asyncio.sleep(0.01)
        await connection.close()

    run_in_own_time(talk(), monkeypatch)


IN_OIP = json.dumps({"inputs": PLAIN_OIP["line"][0]}).encode()


@pytest.mark.parametrize(
    ("body", "path"),
    [(GOOD, LINE), (GOOD, "/predict"), (IN_OIP, "/v2/models/line/infer"), (GOOD, "/invocations")],
)
@pytest.mark.parametrize(
    ("timeout", "within_s"),
    [("250000", 250), ("999999999", 1000), *((wrong, None) for wrong in ("0", "-1", "1.5", "", "1e3", "1234567890"))],
)
def test_a_client_may_say_how_long_the_answer_may_take(front, app, body, path, timeout, within_s):  # noqa: PLR0917
    front.settings.deadline_s = 1000
    slow, fast, _ = both(front, app, request(body, f"X-Timeout-Ms: {timeout}", "X-Request-Id: 1", path=path))
    assert fast == slow
    status, _, said = fast
    if within_s is None:
        assert (status, json.loads(said)["code"]) == (400, "bad_body")
        assert b"X-Timeout-Ms" in said
    else:
        assert (status, front.coalescer.within_s) == (200, [within_s] * 2)


def test_a_client_that_never_sends_its_body_is_let_go(front, app):
    async def talk():
        front.settings.deadline_s = 0.05
        connection = Connection(front, app)
        await connection.send(request(b"{", "Content-Length: 100", length=False))
        ((status, headers, body),) = await connection.answers()
        assert (status, headers["connection"], json.loads(body)["code"]) == (408, "close", "too_slow")
        assert connection.wire.closed
        await connection.close()

    asyncio.run(talk())
    assert counted(front) == {("line", "2", "too_slow"): 1}


@pytest.mark.parametrize("sent", [request(), request()[:-5]], ids=["waiting for its answer", "sending its body"])
def test_a_client_that_leaves_takes_its_job_along(front, app, sent):
    async def talk():
        connection = Connection(front, app)
        connection.protocol.data_received(sent)
        connection.protocol.connection_lost(None)
        await asyncio.sleep(0.01)
        assert connection.wire.written == b""

    asyncio.run(talk())
    assert counted(front) == {("line", "2", "client_gone"): 1}
    assert front.coalescer.matrices == []
    assert front.metrics._in_flight._value.get() == 0


class Holding:
    """A coalescer whose batches never come back."""

    def __init__(self) -> None:
        self.asked, self.given_up = asyncio.Event(), 0

    async def predict(self, *_, **__):
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.given_up += 1


OIP_BODY = b'{"inputs": [{"name": "features", "shape": [1, 1], "datatype": "FP32", "data": [3]}]}'


@pytest.mark.parametrize(
    "sent",
    [
        request(b"3\n", "Content-Type: text/csv"),
        request(path="/invocations"),
        request(OIP_BODY, path="/v2/models/line/infer", version="1.0"),
    ],
    ids=["csv", "invocations", "oip"],
)
def test_a_client_that_leaves_takes_its_job_out_of_the_application_too(front, app, sent):
    async def talk():
        front.coalescer = Holding()
        connection = Connection(front, app)
        await connection.send(sent)
        await asyncio.wait_for(front.coalescer.asked.wait(), START_S)
        connection.protocol.connection_lost(None)
        await asyncio.wait_for(asyncio.gather(*connection.state.tasks), START_S)
        assert (connection.asked_the_app, connection.wire.written, front.coalescer.given_up) == (1, b"", 1)

    asyncio.run(talk())
    assert counted(front) == {("line", "2", "client_gone"): 1}


def test_draining_waits_for_the_answer_and_says_that_it_is_the_last(front, app):
    async def talk():
        connection = Connection(front, app)
        connection.protocol.data_received(request())
        connection.protocol.shutdown()
        assert not connection.wire.closed
        ((status, headers, _),) = await connection.answers()
        assert (status, headers["connection"]) == (200, "close")
        assert connection.wire.closed
        await connection.close()
        idle = Connection(front, app)
        idle.protocol.shutdown()
        assert idle.wire.closed
        await idle.close()

    asyncio.run(talk())


def test_a_client_that_reads_no_answers_is_not_read_from_for_ever(front, app):
    async def talk():
        connection = Connection(front, app)
        connection.protocol.pause_writing()  # the transport's buffer is full
        await connection.send(request(), request(), request())
        await asyncio.sleep(0.02)
        assert connection.wire.written == b""
        assert not connection.wire.reading
        connection.protocol.resume_writing()
        assert [status for status, _, _ in await connection.answers(3)] == [200, 200, 200]
        await connection.close()

    asyncio.run(talk())


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [request()],
        [request()] * 3,
        [request(path="/v1/models/nobody:predict")],
        [request(method="GET", path="/v1/models", body=b"")],
        [request(GOOD, "Content-Encoding: identity")] * 2,
        [request()[:-4]],
        [b"no HTTP"],
    ],
)
def test_a_connection_that_is_closed_leaves_nothing_to_the_garbage_collector(front, app, chunks):
    """A collection of what a thousand connections left would hold up all others."""
    lanes, config = [], Config(app, lifespan="off", log_config=None, interface="asgi3")
    config.load()

    def lane():
        one = FastLane(lambda: front, config=config, server_state=ServerState(), app_state={})
        lanes.append(weakref.ref(one))
        return one

    def ask(port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            for chunk in chunks:
                client.sendall(chunk)
                if chunk.endswith(GOOD):
                    assert client.recv(65536)

    async def serve():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lane, "127.0.0.1", 0)
        await asyncio.to_thread(ask, server.sockets[0].getsockname()[1])
        async with asyncio.timeout(START_S):
            while not lanes or lanes[0]() is not None:  # noqa: ASYNC110 - there is nothing to wait on
                await asyncio.sleep(0.001)
        server.close()

    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())
    finally:
        gc.enable()
