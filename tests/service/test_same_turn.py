"""What is answered in the turn in which it came is what the application would have answered."""

import asyncio
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from service.access.gate import Gate
from service.batching.inline import InlineSession
from service.http import same_turn
from service.settings import Settings
from tests.service import tiny
from tests.service.test_fast_lane import BODIES, GOOD, LINE, ONCE, PLAIN_OIP, Connection, ask, counted, request


class Sessions:
    """Sessions in this process, as `Inline` has them; `runs` are the matrices that they were given."""

    def __init__(self) -> None:
        self.runs, self.most_rows, self.spoil = [], 100, lambda answers: answers

    def session(self, version):
        def run(matrix):
            self.runs.append(matrix)
            return self.spoil(tiny.answer(version.name, matrix))

        return InlineSession(run, self.most_rows)


@pytest.fixture
def sessions(front):
    sessions = Sessions()
    front.inline = sessions
    return sessions


def row(*values):
    return json.dumps({"instances": [list(values)]}).encode()


def plain(answers):
    """Answers without what differs from one request to the next."""
    said = []
    for status, headers, body in answers:
        identity = headers["x-request-id"].encode()
        kept = {name: value for name, value in headers.items() if name not in ("date", "x-request-id")}
        said.append((status, kept, body.replace(identity, b"")))
    return said


def one_after_the_other(front, app, *requests, fast=True):
    """The answers to requests of which each is sent when the one before it is answered."""

    async def talk():
        connection, said = Connection(front, app, fast=fast), []
        for raw in requests:
            await connection.send(raw)
            said += await connection.answers()
        await connection.close()
        return said

    return asyncio.run(talk())


def runs_of(front, app, sessions, raw):
    """What the sessions here are given of requests that follow each other; answers and counts are the application's."""
    before = counted(front)
    slow = one_after_the_other(front, app, *raw, fast=False)
    between, runs = counted(front), len(sessions.runs)
    assert plain(one_after_the_other(front, app, *raw)) == plain(slow)
    assert counted(front) - between == between - before
    assert front.open_requests == 0
    return sessions.runs[runs:]


def in_one_turn(front, app, before, sent, *, fast=True, between=lambda: None):
    """What several connections are told that send one request each in one turn, after some before it."""

    async def talk():
        connections, said = [Connection(front, app, fast=fast) for _ in sent], []
        for connection in connections:
            for raw in before:
                await connection.send(raw)
                await connection.answers()
        between()
        for connection, raw in zip(connections, sent, strict=True):
            connection.protocol.data_received(raw)
        for connection in connections:
            said += await connection.answers()
        await close(connections)
        return plain(said)

    return asyncio.run(talk())


def test_a_request_like_the_one_before_it_is_answered_in_its_turn(front, app, sessions):
    first, second, third = one_after_the_other(front, app, *[request(row(value)) for value in (3, 4, 5)])
    assert [matrix.tolist() for matrix in sessions.runs] == [[[4.0]], [[5.0]]]
    assert [json.loads(body)["predictions"] for _, _, body in (first, second, third)] == [[7.0], [9.0], [11.0]]
    assert first[1].keys() == second[1].keys()
    assert len({headers["x-request-id"] for _, headers, _ in (first, second, third)}) == 3
    assert counted(front) == {("line", "2", "ok"): 3}
    assert front.open_requests == 0


@pytest.mark.parametrize("second", [{"x": 4}, {"x": None}, {"x": 4.0, "y": 1}, {"x": "4"}])
def test_a_record_is_answered_in_its_turn_as_the_application_answers_it(front, app, sessions, second):
    bodies = [request(json.dumps({"instances": [record]}).encode()) for record in ({"x": 3}, second)]
    is_right = second["x"] in (4, None) and len(second) == 1
    assert len(runs_of(front, app, sessions, bodies)) == is_right


def test_bodies_may_be_of_any_length(front, app, sessions):
    values = (3, 44, 5.25, -1e-7, 12345.678)
    said = one_after_the_other(front, app, *[request(row(value), "Accept: */*") for value in values])
    assert [json.loads(body)["predictions"] for _, _, body in said] == [[np.float32(2 * value + 1)] for value in values]
    assert len(sessions.runs) == 4


def test_bodies_may_be_of_any_length_wherever_it_stands_among_the_headers(front, app, sessions):
    first, *others = (
        request(row(value)).replace(b"\r\n\r\n", b"\r\nContent-Type: application/json\r\n\r\n")
        for value in (3, 44, 5.25, -1e-7, 12345.678)
    )
    assert [status for status, _, _ in one_after_the_other(front, app, first, *others)] == [200] * 5
    assert len(sessions.runs) == 4


@pytest.mark.parametrize(
    "second",
    [
        request().replace(b"Content-Length: 20", b"Content-Length: 19") + b" ",
        request().replace(b"Content-Length: 20", b"Content-Length: 21"),
        request().replace(b"Content-Length: 20", b"Content-Length: +20"),
        request().replace(b"Content-Length: 20", b"Content-Length: 20, 20"),
        request().replace(b"Content-Length: 20", b"Content-Length: 20\r\nContent-Length: 20"),
        request().replace(b"Content-Length: 20", b"Content-Length: 20\r\nTransfer-Encoding: chunked"),
        request().replace(b"Content-Length: 20", b"Content-Length: "),
        request().replace(b"Host: rowcast", b"Host: rowcasT"),
        request() + request(),
        b" " + request(),
    ],
)
def test_a_head_that_is_another_is_read_by_the_parser(front, app, sessions, second):
    assert b"Content-Length: 20\r\n" in request()

    async def talk():
        (connection,) = await known(front, app, 1)
        connection.protocol.data_received(second)
        await asyncio.sleep(0.01)
        await connection.close()

    asyncio.run(talk())
    assert sessions.runs == []


@given(body=BODIES, path=st.sampled_from([LINE, "/v1/models/flowers:predict", "/v2/models/pair/infer"]))
@ONCE
def test_any_body_is_answered_as_the_application_answers_it(front, app, sessions, body, path):
    known = {
        LINE: GOOD,
        "/v1/models/flowers:predict": json.dumps({"instances": [tiny.ROWS["flowers"]]}).encode(),
        "/v2/models/pair/infer": json.dumps({"inputs": PLAIN_OIP["pair"][0]}).encode(),
    }[path]
    raw = [request(one, path=path) for one in (known, body, known, known)]
    assert runs_of(front, app, sessions, raw) or "flowers" in path  # a date is read by the slow way alone


@pytest.mark.parametrize("more", [{}, {"id": "7"}, {"id": 'a"b'}])
def test_a_row_of_the_open_inference_protocol_is_answered_in_its_turn_and_its_id_comes_back(front, app, sessions, more):
    raw = request(json.dumps({"inputs": PLAIN_OIP["pair"][0], **more}).encode(), path="/v2/models/pair/infer")
    first, second = one_after_the_other(front, app, raw, raw)
    assert len(sessions.runs) == 1
    assert plain([first]) == plain([second])


MIDDLES = st.one_of(
    st.lists(st.floats(width=32) | st.integers() | st.none() | st.booleans() | st.text(max_size=2), max_size=3).map(
        lambda values: json.dumps(values).encode()[1:-1]
    ),
    st.sampled_from([b"1e999,2", b"3e38,4e38", b"01,2", b"1,2 ", b"", b",", b"[1],2", b'1],"data":[1,2', b"1,2]}]} "]),
)


@given(middle=MIDDLES, shape=st.sampled_from([b"[1,2]", b"[2,1]", b"[2]"]), data_first=st.booleans())
@ONCE
def test_any_data_between_what_is_always_the_same_are_answered_as_the_application_answers_them(  # noqa: PLR0917
    front, app, sessions, middle, shape, data_first
):
    def body(data, shape=b"[1,2]"):
        fields = [b'"shape":' + shape, b'"data":[' + data + b"]"]
        fields = fields[::-1] if data_first else fields
        return b'{"inputs":[{"name":"features","datatype":"FP32",' + b",".join(fields) + b"}]}"

    bodies = [body(b"2.5,3"), body(b"1.5,-4.25"), body(b"1,2"), body(middle), body(b"1,2", shape), body(middle, shape)]
    raw = [request(one, path="/v2/models/pair/infer") for one in bodies]
    assert runs_of(front, app, sessions, raw)


def binary(values, outputs, rows=1, **parameters):
    """Rows of raw numbers, and the outputs that they ask for, each as raw bytes or not; none: all."""
    raw = np.array(values, "<f4").tobytes()
    tensor = {"name": "features", "datatype": "FP32", "shape": [rows, len(values) // rows]}
    tensor["parameters"] = {"binary_data_size": len(raw)}
    wanted = [{"name": name, "parameters": {"binary_data": is_binary}} for name, is_binary in outputs.items()]
    head = json.dumps({"inputs": [tensor], **({"outputs": wanted} if wanted else {}), **parameters}).encode()
    return head + raw, f"Inference-Header-Content-Length: {len(head)}"


ANY_FLOAT = st.floats(width=32)


@given(values=st.lists(st.tuples(ANY_FLOAT, ANY_FLOAT), min_size=3, max_size=3))
@ONCE
def test_rows_of_raw_numbers_are_answered_as_the_application_answers_them(front, app, sessions, values):
    raw = [
        request(body, head, path="/v2/models/pair/infer")
        for body, head in (binary(row, {"prediction": True}) for row in [(1.0, 2.0), *values, (3.0, 4.0), (5.0, 6.0)])
    ]
    assert runs_of(front, app, sessions, raw)


@given(st.lists(st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3), min_size=2, max_size=5))
@ONCE
def test_many_rows_of_raw_numbers_are_answered_as_the_application_answers_them(front, app, sessions, values):
    bodies = (binary(three, {"label": True, "probabilities": True}, rows=3) for three in [[1.0, 2.0, 3.0], *values])
    raw = [request(body, head, path="/v2/models/coin/infer") for body, head in bodies]
    assert [matrix.shape for matrix in runs_of(front, app, sessions, raw)] == [(3, 1)] * len(values)


def listed(values, rows, **parameters):
    """Rows as one list of numbers in JSON."""
    tensor = {"name": "features", "datatype": "FP32", "shape": [rows, len(values) // rows], "data": values}
    return json.dumps({"inputs": [tensor], **parameters}).encode()


ANY_JSON = st.one_of(st.floats(width=32), st.floats(), st.integers(), st.sampled_from([None, True, "1", [2.0]]))


@given(st.lists(st.lists(ANY_JSON, min_size=6, max_size=6), min_size=1, max_size=3))
@ONCE
def test_many_rows_in_one_list_are_answered_as_the_application_answers_them(front, app, sessions, lists):
    fine = listed([1.0, 2, -3.5, 4, 5, 6e-9], 3)
    bodies = [fine, fine, *(listed(values, 3) for values in lists), fine, listed([1, 2, 3, 4], 2), fine]
    raw = [request(body, path="/v2/models/pair/infer") for body in bodies]
    assert runs_of(front, app, sessions, raw)


@pytest.mark.parametrize(
    ("parameters", "in_its_turn"),
    [
        ({}, True),
        ({"outputs": [{"name": "label"}, {"name": "class"}]}, True),
        ({"outputs": [{"name": "probabilities", "parameters": {"classification": 1}}]}, True),
        ({"outputs": [{"name": "label", "parameters": {"binary_data": True}}]}, False),
        ({"parameters": {"binary_data_output": True}}, False),
        ({"parameters": {"timeout": 1000000}}, False),
        ({"id": "7"}, False),
    ],
)
def test_a_list_of_rows_is_answered_in_its_turn_where_that_is_all_there_is(
    front, app, sessions, parameters, in_its_turn
):
    raw = [
        request(listed(values, 3, **parameters), path="/v2/models/coin/infer")
        for values in ([1, 2, 3], [-1.5, 2e5, 0], [4, 5, 6])
    ]
    assert [matrix.shape for matrix in runs_of(front, app, sessions, raw)] == ([(3, 1)] * 2 if in_its_turn else [])


def test_what_clients_put_around_their_numbers_is_not_remembered_without_end(front, app, sessions, monkeypatch):
    monkeypatch.setattr(same_turn, "_MOST_BATCHES", 3)
    bodies = [binary([1.0], {"prediction": True}, note=f"{number}") for number in range(8)]
    requests = [request(body, head, path="/v2/models/line/infer") for body, head in bodies for _ in range(2)]
    assert [status for status, _, _ in one_after_the_other(front, app, *requests)] == [200] * 16
    assert len(sessions.runs) == 8  # each second one: forms that are new take the place of the oldest
    assert len(front.turn_batches._batches) == 3

    long = binary([1.0], {"prediction": True}, note="x" * 5000)
    lists = [listed([1, 2], 2, note="x" * 5000), b'{"note": "%b", ' % (b"x" * 5000) + listed([1, 2], 2)[1:]]
    requests = [request(*long, path="/v2/models/line/infer")] * 2
    requests += [request(body, path="/v2/models/line/infer") for body in lists for _ in range(2)]
    assert [status for status, _, _ in one_after_the_other(front, app, *requests)] == [200] * 6
    assert len(sessions.runs) == 8


NO_ROWS = [
    "", " ", "1", "1,2,3", "1 2", "1,", ",1", "--1", "1.", ".5", "+1", "01", "1e", "-", "1e999", "9" * 400,
    "12345678901234567890", "]],[[", "1]],[[2", "null", "NaN", '"1"', "[1]", "1,2]],[[3,4", "true",
]  # fmt: skip


@pytest.mark.parametrize(
    "inside",
    [
        *((text, "1,2") for text in NO_ROWS),
        *((f"{text},{text}", "1") for text in NO_ROWS),
        *((text, text) for text in ("-0.0", "1 , 2e-3", "9007199254740993")),
        *(("1", "1,2,3"), ("1,2,3", "1"), ("", "1,2"), ("1,2", "")),  # together as many as two rows have
    ],
)
@pytest.mark.parametrize("form", ["line", "pair", "pair of Open Inference"])
def test_what_stands_between_known_brackets_is_nobody_elses_matter(front, app, sessions, form, inside):
    """The numbers of requests that come together are read together: no text may move another's."""

    def raw(numbers):
        if form == "pair of Open Inference":
            tensor = PLAIN_OIP["pair"][0][0] | {"data": ["?"]}
            body = json.dumps({"inputs": [tensor]}).replace('"?"', numbers)
            return request(body.encode(), path="/v2/models/pair/infer")
        return request(b'{"instances": [[%b]]}' % numbers.encode(), path=f"/v1/models/{form}:predict")

    def good(first):
        return raw(f"{first}" if form == "line" else f"{first},{first + 1}")

    before, sent = [good(0), good(1)], [good(3), *map(raw, inside), good(5)]
    assert in_one_turn(front, app, before, sent) == in_one_turn(front, app, before, sent, fast=False)
    assert sessions.runs


def rows_of(lists, separators=(",", ":")):
    return json.dumps({"instances": lists}, separators=separators).encode()


@given(
    st.lists(st.lists(ANY_JSON, min_size=4, max_size=4), min_size=1, max_size=3),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,", ":")]),
    st.sampled_from(["pair", "coin"]),
)
@ONCE
def test_a_few_rows_are_answered_as_the_application_answers_them(front, app, sessions, lists, separators, model):  # noqa: PLR0917
    def body(values):
        table = [values[:2], values[2:]] if model == "pair" else [[value] for value in values]
        return rows_of(table, separators)

    fine = body([1.0, 2, -3.5, 6e-9])
    raw = [request(one, path=f"/v1/models/{model}:predict") for one in [fine, fine, fine, *map(body, lists), fine]]
    assert [len(matrix) for matrix in runs_of(front, app, sessions, raw)][:1] == [2 if model == "pair" else 4]


@given(
    st.lists(st.tuples(st.integers(0, 79), st.lists(ANY_JSON, min_size=2, max_size=2)), min_size=1, max_size=3),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,", ":")]),
    st.sampled_from(["pair", "coin"]),
    st.sampled_from(["instances", "inputs"]),
)
@ONCE
def test_many_rows_are_answered_as_the_application_answers_them(front, app, sessions, changes, separators, model, key):  # noqa: PLR0917
    width = 2 if model == "pair" else 1

    def body(rows, place=0, values=(1.5, -2)):
        table = [[number / 8, -number][:width] for number in range(rows)]
        table[place] = list(values[:width])
        return json.dumps({key: table}, separators=separators).encode()

    bodies = [body(80), body(80), body(80), *(body(80, *change) for change in changes), body(80), body(79), body(80)]
    raw = [request(one, path=f"/v1/models/{model}:predict") for one in bodies]
    assert {len(matrix) for matrix in runs_of(front, app, sessions, raw)} <= {80}


def test_many_rows_are_answered_in_their_turn_once_two_requests_had_as_many(front, app, sessions):
    raw = [request(rows_of([[number / 8, -number] for number in range(80)]), path="/v1/models/pair:predict")] * 4
    assert [status for status, _, _ in one_after_the_other(front, app, *raw)] == [200] * 4
    assert [matrix.shape for matrix in sessions.runs] == [(80, 2)] * 2


NO_TABLES = [
    b"1,]2,[3,4", b"1,2],3[,4", b"1,2]3,[4", b"1],[2,3,4", b"1,2,3],[4", b"1,2],[3,4],[5,6", b"1,2", b"1,2]],[[3,4",
    b"1,2],[3", b"1,2],[3,", b"1,2],[,4", b"1,2],[],[3,4", b"1,2],[null,4", b"1,2] ,[3,4", b"1,2],\n[3,4",
    b"1,2],[3,1e999", b'1,2],"x",[3,4', b"",
]  # fmt: skip


@pytest.mark.parametrize("inside", NO_TABLES)
@pytest.mark.parametrize("size", [2, 3])
def test_what_stands_between_the_brackets_of_a_few_rows_is_nobody_elses_matter(front, app, sessions, inside, size):
    def raw(numbers):
        return request(b'{"instances":[[%b]]}' % numbers, path="/v1/models/pair:predict")

    def good(first):
        return raw(b"],[".join(b"%d,2" % number for number in range(first, first + size)))

    before, sent = [good(0), good(1), good(2)], [good(3), raw(inside), good(4), good(5)]
    assert in_one_turn(front, app, before, sent) == in_one_turn(front, app, before, sent, fast=False)
    assert sessions.runs


@pytest.mark.parametrize(
    ("most_rows", "most_of_a_batch", "runs"),
    [(3, 4096, [12, 3]), (3, 7, [6, 6, 3]), (2, 4096, [])],
    ids=["four times as many as of one request", "a batch may have fewer", "one has too many"],
)
def test_rows_of_many_requests_are_computed_together_and_no_more_than_the_session_computes_in_time(  # noqa: PLR0917
    front, app, sessions, most_rows, most_of_a_batch, runs
):
    front.settings.max_batch_rows = most_of_a_batch
    before = [request(rows_of([[0], [0], [0]]))] * 2
    sent = [request(rows_of([[value], [-value], [0]])) for value in range(5)]
    said = in_one_turn(front, app, before, sent, between=lambda: setattr(sessions, "most_rows", most_rows))
    predictions = [json.loads(body)["predictions"] for _, _, body in said]
    assert predictions == [[2.0 * value + 1, -2.0 * value + 1, 1.0] for value in range(5)]
    assert [len(matrix) for matrix in sessions.runs] == runs


WHOLE = b'{"instances": [[%b]]}'


@pytest.mark.parametrize(
    ("bodies", "statuses"),
    [
        ([b'{"instances": [[1,2,', WHOLE % b"5,6", b"3,4]]}"], [400, 200, 400]),  # two halves
        ([b'{"instances": [[1,2,', b"3,4]]}", WHOLE % b"5,6"], [400, 400, 200]),
        ([WHOLE % b"1,2\n3,4", WHOLE % b"5,6", WHOLE % b"7,8"], [400, 200, 200]),
        ([WHOLE % b"1,2" + b"\n" + WHOLE % b"3,4", b"", WHOLE % b"7,8"], [400, 400, 200]),  # three rows in all
        ([WHOLE % b"1,2", b"\n" + WHOLE % b"3,4\n", WHOLE % b"7,8" + b"\n"], [200, 200, 200]),
        ([WHOLE % b"1,2", b'{"instances": [[3,4]] }', b'{"instances":[[7,8]]}'], [200, 200, 200]),
    ],
)
def test_a_body_ends_where_its_request_ends(front, app, sessions, bodies, statuses):
    before, *sent = [request(body, path="/v1/models/pair:predict") for body in (WHOLE % b"1.5,2.5", *bodies)]
    fast = in_one_turn(front, app, [before, before], sent)
    assert [status for status, _, _ in fast] == statuses
    assert fast == in_one_turn(front, app, [before, before], sent, fast=False)
    assert sessions.runs


def test_lines_between_the_parts_of_a_body_are_no_lines_between_bodies(front, app, sessions):
    text = b'{\n  "instances": [\n    [\n      %b\n    ]\n  ]\n}\n'
    raw = [request(text % value, path="/v1/models/pair:predict") for value in (b"1, 2", b"3,\n4", b"5, 6", b"7")]
    assert len(runs_of(front, app, sessions, raw)) == 2


def test_a_head_is_known_with_as_many_lengths_as_have_room(front, app, sessions):
    raw = [request(row(0).ljust(size)) for size in (*range(30, 300), *range(30, 60))]

    async def talk():
        connection = Connection(front, app)
        for one in raw:
            await connection.send(one)
            ((status, _, _),) = await connection.answers()
            assert status == 200
        texts = connection.protocol._known.texts
        assert sum(map(len, texts.values())) <= 8000
        assert all(one.startswith(texts[len(one)]) for one in raw[-20:])
        await connection.close()

    asyncio.run(talk())
    assert len(sessions.runs) == len(raw) - 1


@pytest.mark.parametrize("is_waiting", [True, False])
def test_a_connection_is_kept_for_a_while_after_its_last_answer(front, app, sessions, is_waiting):
    async def talk():
        (connection,) = await known(front, app, 1)
        protocol = connection.protocol
        for _ in range(2):
            connection.protocol.data_received(request())
            await connection.answers()
        if is_waiting:
            connection.protocol.data_received(request())
        protocol.timeout_keep_alive_task.cancel()
        protocol._idle_since -= 1000  # of the answer to the first request
        protocol.timeout_keep_alive_handler()
        assert not connection.wire.closed
        assert protocol.timeout_keep_alive_task is not None
        if not is_waiting:
            protocol.timeout_keep_alive_task.cancel()
            protocol._pending.answered -= 1000
            protocol._idle_since -= 1000
            protocol.timeout_keep_alive_handler()
            assert connection.wire.closed
        await connection.close()

    asyncio.run(talk())
    assert len(sessions.runs) >= 2


def in_raw_bytes(first):
    body, head = binary([first, first + 1], {"label": True, "probabilities": True}, rows=2)
    return request(body, head, path="/v2/models/coin/infer")


def in_a_list(first):
    return request(listed([first, first + 1], 2), path="/v2/models/coin/infer")


@pytest.mark.parametrize("raw", [in_raw_bytes, in_a_list])
def test_requests_of_many_rows_that_come_together_get_their_own_answers(front, app, sessions, raw):
    sent = [raw(3.0 * number - 4) for number in range(3)]
    fast = in_one_turn(front, app, [raw(0)], sent)
    assert fast == in_one_turn(front, app, [raw(0)], sent, fast=False)
    assert [matrix.shape for matrix in sessions.runs] == [(6, 1)]
    front.metrics.write_what_is_kept()
    assert front.metrics._rows.collect()[0].samples[0].value == 2 * 6 * 2


@pytest.mark.parametrize(
    ("model", "outputs", "parameters", "in_its_turn"),
    [
        ("line", {"prediction": True}, {}, True),
        ("line", {}, {"parameters": {"binary_data_output": True}}, True),
        ("coin", {"label": True, "probabilities": True}, {}, True),
        ("coin", {"probabilities": True}, {"parameters": {"binary_data_output": False}}, True),
        ("coin", {"probabilities": True, "label": False}, {}, False),
        ("coin", {"class": True}, {}, False),
        ("coin", {}, {"parameters": {"binary_data_output": True}}, False),
        ("line", {"prediction": True}, {"id": "7"}, False),
        ("line", {"prediction": True}, {"parameters": {"timeout": 1000000}}, False),
        ("line", {"prediction": True}, {"parameters": {"priority": 1}}, False),
        ("line", {"prediction": True}, {"parameters": {"interval": 0.9}}, False),
    ],
)
def test_raw_numbers_are_answered_in_their_turn_where_that_is_all_there_is(  # noqa: PLR0917
    front, app, sessions, model, outputs, parameters, in_its_turn
):
    bodies = (binary([value], outputs, **parameters) for value in (3, -4, 5))
    raw = [request(body, head, path=f"/v2/models/{model}/infer") for body, head in bodies]
    assert len(runs_of(front, app, sessions, raw)) == (2 if in_its_turn else 0)


async def known(front, app, number):
    """Connections whose next request may be answered in its turn."""
    connections = [Connection(front, app) for _ in range(number)]
    for connection in connections:
        await connection.send(request(row(0)))
        await connection.answers()
    return connections


async def close(connections):
    for connection in connections:
        await connection.close()


def test_what_comes_in_one_turn_is_computed_together_and_whoever_sends_nonsense_is_told_so(front, app, sessions):
    bodies = [row(1), row(2), row("x"), row(3), b'{"instances":[1]]'.ljust(len(row(1)))]
    said = in_one_turn(front, app, [request(row(0))], [request(body) for body in bodies])
    assert [status for status, _, _ in said] == [200, 200, 400, 200, 400]
    assert [json.loads(said[place][2])["predictions"] for place in (0, 1, 3)] == [[3.0], [5.0], [7.0]]
    assert [matrix.tolist() for matrix in sessions.runs] == [[[1.0], [2.0], [3.0]]]


def explode(_):
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "spoil",
    [
        explode,
        lambda answers: {"prediction": answers["prediction"] * np.nan},
        lambda answers: {"prediction": answers["prediction"][:-1]},
    ],
    ids=["it raises", "not finite", "too few"],
)
def test_what_the_session_here_cannot_answer_the_coalescer_is_asked(front, app, sessions, spoil):
    sessions.spoil = spoil
    first, second = one_after_the_other(front, app, request(), request())
    assert len(sessions.runs) == 1
    assert plain([first]) == plain([second])
    assert len(front.coalescer.matrices) == 2
    assert counted(front) == {("line", "2", "ok"): 2}


def test_a_row_that_no_graph_can_read_is_named(front, app, sessions):
    raw = [request(row(value)) for value in (1e38, 1e39)]
    (good, _, _), (bad, _, body) = one_after_the_other(front, app, *raw)
    assert (good, bad) == (200, 400)
    assert json.loads(body)["code"] == "bad_row"
    assert sessions.runs == []


def test_no_more_are_taken_than_the_session_computes_in_time(front, app, sessions):
    def lower():
        sessions.most_rows, front.settings.max_batch_rows = 2, 2

    sent = [request(row(value)) for value in range(5)]
    said = in_one_turn(front, app, [request(row(0))], sent, between=lower)
    assert [json.loads(body)["predictions"] for _, _, body in said] == [[2.0 * value + 1] for value in range(5)]
    assert [len(matrix) for matrix in sessions.runs] == [2, 2, 1]
    assert front.open_requests == 0


def test_whoever_would_wait_for_too_long_asks_the_coalescer_which_may_refuse(front, app, sessions):
    def lower():
        sessions.most_rows, front.settings.max_wait_s = 1, -1.0

    said = in_one_turn(front, app, [request(row(0))], [request(row(4))] * 3, between=lower)
    assert [status for status, _, _ in said] == [200, 200, 200]
    assert sessions.runs == []


def test_a_client_that_leaves_is_not_answered_and_is_counted(front, app, sessions):
    async def talk():
        leaving, staying = connections = await known(front, app, 2)
        for connection in connections:
            connection.protocol.data_received(request(row(4)))
        leaving.protocol.connection_lost(None)
        ((status, _, _),) = await staying.answers()
        assert (status, leaving.wire.written) == (200, b"")
        await staying.close()

    asyncio.run(talk())
    assert [len(matrix) for matrix in sessions.runs] == [1]
    assert counted(front) == {("line", "2", "ok"): 3, ("line", "2", "client_gone"): 1}
    assert front.open_requests == 0


@pytest.mark.usefixtures("sessions")
def test_draining_waits_for_the_answer_and_says_that_it_is_the_last(front, app):
    async def talk():
        (connection,) = await known(front, app, 1)
        connection.protocol.data_received(request())
        connection.protocol.shutdown()
        assert front.open_requests == 1
        assert not connection.wire.closed
        ((status, headers, _),) = await connection.answers()
        assert (status, headers["connection"]) == (200, "close")
        assert connection.wire.closed
        await connection.close()

    asyncio.run(talk())


def test_a_key_that_is_taken_away_is_heeded(front, app, sessions, limits):
    front.gate = Gate(Settings(api_key=SecretStr("the first")), limits)

    async def talk():
        connection, said = Connection(front, app), []
        for _ in range(2):
            await connection.send(request(GOOD, "X-API-Key: the first"))
            said += await connection.answers()
        front.gate = Gate(Settings(api_key=SecretStr("the second")), limits)
        front.gate.looks = 1
        await connection.send(request(GOOD, "X-API-Key: the first"))
        said += await connection.answers()
        await connection.close()
        return [status for status, _, _ in said]

    assert asyncio.run(talk()) == [200, 200, 401]
    assert len(sessions.runs) == 1


def test_another_version_answers_as_soon_as_it_is_live(front, app, sessions):
    async def talk():
        connection, said = Connection(front, app), []
        for _ in range(4):
            await connection.send(request())
            said += await connection.answers()
            if len(said) == 2:
                del front.catalog.versions["line"][2]
                front.catalog.changes += 1
        await connection.close()
        return [json.loads(body)["model_version"] for _, _, body in said]

    assert asyncio.run(talk()) == ["2", "2", "1", "1"]
    assert len(sessions.runs) == 2


@pytest.mark.parametrize("why", ["shares", "shadow", "log"])
def test_the_coalescer_is_asked_where_more_is_to_be_done(front, app, sessions, why):
    told = []
    if why == "shares":
        front.catalog.is_drawn = lambda _: True
    elif why == "shadow":
        front.catalog.has_shadows = True
        front.shadows = type("Shadows", (), {"saw": lambda *_: told.append(1)})()
    else:
        front.observers = [lambda ledger, _: told.append(ledger.answered_rows)]
    answers = one_after_the_other(front, app, request(), request(), request())
    assert [status for status, _, _ in answers] == [200, 200, 200]
    assert sessions.runs == []
    assert told == ([] if why == "shares" else [1, 1, 1])


@pytest.mark.parametrize(
    "header",
    ["X-Request-Id: mine", "X-Routing-Key: me", f"traceparent: 00-{'a' * 32}-{'b' * 16}-01", "X-Priority: urgent"],
)
def test_a_request_with_something_of_its_own_goes_the_longer_way(front, app, sessions, header):
    one_after_the_other(front, app, request(GOOD, header), request(GOOD, header))
    assert sessions.runs == []


def test_whoever_reads_no_answers_gets_none_in_the_turn(front, app, sessions):
    async def talk():
        (connection,) = await known(front, app, 1)
        connection.protocol.pause_writing()  # the transport's buffer is full
        await connection.send(request())
        assert connection.wire.written == b""
        connection.protocol.resume_writing()
        await connection.answers()
        await connection.close()

    asyncio.run(talk())
    assert sessions.runs == []


def test_stages_add_up_to_the_whole(front, app, sessions):
    one_after_the_other(front, app, *[request()] * 20)
    front.metrics.write_what_is_kept()
    stages = {
        sample.labels["stage"]: sample.value
        for sample in front.metrics._stages.collect()[0].samples
        if sample.name.endswith("_total")
    }
    queued = sum(sample.value for sample in front.metrics._queue.collect()[0].samples if sample.name.endswith("_sum"))
    assert len(sessions.runs) == 19
    assert 0 < queued + stages["encode"] + stages["compute"] + stages["write"] <= stages["whole"]


def test_ids_are_never_given_twice(front, app, sessions):
    answers = one_after_the_other(front, app, *[request()] * 600)
    assert len({headers["x-request-id"] for _, headers, _ in answers}) == 600
    assert len(sessions.runs) == 599


def test_pipelined_requests_go_the_longer_way(front, app, sessions):
    answers, _ = ask(front, app, request(), request() + request(), count=3)
    assert [status for status, _, _ in answers] == [200, 200, 200]
    assert sessions.runs == []


@pytest.mark.usefixtures("sessions")
@pytest.mark.parametrize("cut", [0, 5, 70])
@pytest.mark.parametrize("body", [row(4), b"{broken}".ljust(len(row(4)))])
def test_what_comes_behind_it_in_the_same_turn_is_answered_behind_it(front, app, body, cut):
    async def talk():
        (connection,) = await known(front, app, 1)
        second = request(row(5))
        connection.protocol.data_received(request(body))
        connection.protocol.data_received(second[: len(second) - cut])
        connection.protocol.data_received(second[len(second) - cut :])
        said = await connection.answers(2)
        await connection.close()
        return said

    first, second = asyncio.run(talk())
    assert first[0] == (400 if body.startswith(b"{b") else 200)
    assert json.loads(second[2])["predictions"] == [11.0]


@pytest.mark.parametrize("first", [b"{broken}", row(4)])
@pytest.mark.parametrize("second", [row(123.5), row(5)])
@pytest.mark.parametrize("cut", [0, 5, 40])
def test_a_request_of_another_length_may_come_behind_one_that_is_not_answered_yet(  # noqa: PLR0917
    front, app, sessions, first, second, cut
):
    async def talk():
        connections = await known(front, app, 2)
        # the second connection waits for another turn of the event loop
        sessions.most_rows = front.settings.max_batch_rows = 1
        raw = request(second)
        for connection in connections:
            connection.protocol.data_received(request(first))
        await asyncio.sleep(0)
        for connection in connections:
            connection.protocol.data_received(raw[: len(raw) - cut])
            connection.protocol.data_received(raw[len(raw) - cut :])
        said = [await connection.answers(2) for connection in connections]
        await close(connections)
        return said

    for one, other in asyncio.run(talk()):
        assert one[0] == (400 if first.startswith(b"{b") else 200)
        assert json.loads(other[2])["predictions"] == [2 * json.loads(second)["instances"][0][0] + 1]
    assert front.open_requests == 0


def test_a_connection_that_cannot_be_written_to_takes_nothing_from_the_others(front, app, sessions):
    async def talk():
        broken, good = connections = await known(front, app, 2)
        for connection in connections:
            connection.protocol.data_received(request())
        broken.wire.closed = True  # its next write raises
        ((status, _, _),) = await good.answers()
        assert status == 200
        await close(connections)

    asyncio.run(talk())
    assert len(sessions.runs) == 1
