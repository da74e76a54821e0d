"""The server as its clients meet it: real processes, real sockets."""

import concurrent.futures
import contextlib
import json
import random
import socket
import time
from collections import Counter

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.conftest import PATIENT, START_S, Server, until
from tests.service import tiny

pytestmark = pytest.mark.server

LINE = "/v1/models/line:predict"


@contextlib.contextmanager
def running(repository, log, **settings):
    """The address of a server that is ready."""
    server = Server(repository, log, default_model="line", **PATIENT | settings)
    try:
        until(server.is_ready, what="ready")
        yield f"http://127.0.0.1:{server.port}"
        server.process.terminate()
        assert server.ended() == 0, server.said()
    finally:
        server.close()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    for name in ("line", "pair", "flowers", "coin"):
        tiny.publish(root, name)
    return root


@pytest.fixture(scope="module")
def address(repository, tmp_path_factory):
    """A server of two API processes that takes bodies up to 1 MB and 1000 rows."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    with running(repository, log, api_processes=2, max_body_bytes=1_000_000, max_rows=1000) as address:
        yield address
    assert "Traceback" not in log.read_text()


@pytest.fixture
def client(address):
    with httpx.Client(base_url=address, timeout=START_S) as client:
        yield client


@pytest.fixture
def wire(address):
    """A connection whose bytes are written by hand."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=START_S) as wire:
        yield wire


def read_answers(wire, count):
    """Status, headers and body of so many answers that come one after the other."""
    stream = wire.makefile("rb")
    answers = []
    for _ in range(count):
        status = int(stream.readline().split()[1])
        headers = {}
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        answers.append((status, headers, stream.read(int(headers.get("content-length", 0)))))
    return answers


def counted(client):
    """Requests by model, version and code, and rows by model, as the metrics page has them."""
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    requests = Counter()
    for sample in families["rowcast_requests"].samples:
        requests[sample.labels["model"], sample.labels["version"], sample.labels["code"]] += sample.value
    rows = Counter()
    for sample in families["rowcast_rows"].samples:
        rows[sample.labels["model"]] += sample.value
    batches = (
        families["rowcast_batch_rows"].samples if "rowcast_batch_rows" in families else ()
    )  # none before the first
    batch_rows = sum(sample.value for sample in batches if sample.name == "rowcast_batch_rows_sum")
    return requests, rows, batch_rows


def settled(client):
    """What is counted once no process has more to say."""

    def same_twice():
        before = counted(client)
        time.sleep(0.1)
        return before if counted(client) == before else None

    return until(same_twice)


# --------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("name", sorted(tiny.SCHEMAS))
def test_every_model_answers_what_its_graph_computes(client, name):
    rows = [tiny.ROWS[name], dict.fromkeys(tiny.ROWS[name])]
    answer = client.post(f"/v1/models/{name}:predict", json={"instances": rows}).json()
    right = tiny.answer(name, tiny.SCHEMAS[name].encode(rows))
    if tiny.CLASSES[name] is None:
        np.testing.assert_allclose(np.reshape(answer["predictions"], right["prediction"].shape), right["prediction"])
    else:
        np.testing.assert_allclose(answer["probabilities"], right["probabilities"], rtol=1e-6)
        assert answer["predictions"] == [tiny.CLASSES[name][index] for index in right["label"]]


@pytest.fixture
def unasked(repository, tmp_path):
    """The address of a server that nobody has asked for anything."""
    with running(repository, tmp_path / "log", api_processes=2) as address:
        yield address


def test_good_requests_are_untouched_by_bad_ones_beside_them_and_all_are_counted(unasked):
    ledger, rows = Counter(), Counter()
    dice = random.Random(0)
    jobs = [dice.choice(["good", "good", "many", "bad", "worse", "huge", "broken", "unknown"]) for _ in range(700)]
    bodies = {
        "good": ("line", b'{"instances": [[3]]}', 200, ("line", "1", "ok")),
        "many": ("pair", json.dumps({"instances": [[x, 1] for x in range(50)]}).encode(), 200, ("pair", "1", "ok")),
        "bad": ("line", b'{"instances": [["x"]]}', 400, ("line", "1", "bad_row")),
        "worse": ("line", b'{"instances": [[1], [3e38]]}', 422, ("line", "1", "not_computable")),
        "huge": ("line", b'{"instances": [[3e38]]}', 422, ("line", "1", "not_computable")),
        "broken": ("line", b'{"instances": [[1]', 400, ("line", "1", "bad_body")),
        "unknown": ("nobody", b'{"instances": [[1]]}', 404, ("", "", "unknown_model")),
    }

    def ask(job):
        name, body, status, _ = bodies[job]
        answer = asking.post(f"/v1/models/{name}:predict", content=body)
        assert answer.status_code == status, answer.text
        if job == "good":
            assert answer.json()["predictions"] == [7.0]
        if job == "many":
            assert answer.json()["predictions"] == [[x + 1, x - 1] for x in range(50)]

    with httpx.Client(base_url=unasked, timeout=START_S) as asking:
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            list(pool.map(ask, jobs))
        for job in jobs:
            ledger[bodies[job][3]] += 1
            rows[bodies[job][0]] += {"good": 1, "many": 50}.get(job, 0)
        # each process counts a request just after its answer is written
        until(lambda: counted(asking)[0].total() >= len(jobs))
        counted_requests, counted_rows, batch_rows = settled(asking)
    assert counted_requests == ledger
    assert +counted_rows == +rows
    computed_in_vain = 2 * jobs.count("worse") + jobs.count("huge")  # in the same batches, nothing computed twice
    assert batch_rows == rows.total() + computed_in_vain


def test_numbers_are_not_compressed(client):
    answer = client.post(LINE, json={"instances": [[1]] * 1000}, headers={"accept-encoding": "gzip, deflate, br"})
    assert "content-encoding" not in answer.headers
    assert len(answer.json()["predictions"]) == 1000


def test_what_the_openapi_document_gives_as_example_is_answered(client):
    posts = {path: one["post"] for path, one in client.get("/openapi.json").json()["paths"].items() if "post" in one}
    posts = {path: post for path, post in posts.items() if path.endswith(":predict")}
    for path in posts:
        example = posts[path]["requestBody"]["content"]["application/json"]["example"]
        assert client.post(path, json=example).status_code == 200


# --------------------------------------------------------------------------------------------------- the wire


def request(body, *headers, path=LINE, method="POST"):
    lines = [f"{method} {path} HTTP/1.1", "Host: rowcast", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_pipelined_requests_are_answered_in_order(wire):
    bodies = [json.dumps({"instances": [[x]]}).encode() for x in range(20)]
    wire.sendall(b"".join(request(body, f"Content-Length: {len(body)}") for body in bodies))
    answers = read_answers(wire, 20)
    assert [json.loads(body)["predictions"] for _, _, body in answers] == [[2.0 * x + 1] for x in range(20)]


def test_a_body_may_come_in_chunks(client):
    def chunks():
        yield b'{"instances"'
        yield b": [[1]"
        yield b"]}"

    assert client.post(LINE, content=chunks()).json()["predictions"] == [3.0]


def test_too_large_a_body_is_answered_cleanly_however_it_comes(client):
    def chunks():
        for _ in range(300):
            yield b"x" * 10_000

    for content in (b"x" * 3_000_000, chunks()):
        answer = client.post(LINE, content=content)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert client.post(LINE, json={"instances": [[1]]}).status_code == 200


def test_a_client_that_asks_first_is_told_to_go_on(wire):
    body = b'{"instances": [[1]]}'
    wire.sendall(request(b"", f"Content-Length: {len(body)}", "Expect: 100-continue"))
    assert wire.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.sendall(body)
    assert read_answers(wire, 1)[0][0] == 200


def test_a_client_that_asks_first_is_spared_sending_too_much(wire):
    wire.sendall(request(b"", "Content-Length: 1000001", "Expect: 100-continue"))
    assert read_answers(wire, 1)[0][0] == 413


def test_head_has_the_headers_of_get_and_no_body(wire, client):
    wire.sendall(request(b"", path="/v1/models", method="HEAD") + request(b"", path="/v1/models", method="GET"))
    stream = wire.makefile("rb")
    head = []
    while (line := stream.readline()) != b"\r\n":
        head.append(line)
    assert head[0].startswith(b"HTTP/1.1 200")
    expected = f"content-length: {len(client.get('/v1/models').content)}\r\n".encode()
    assert expected in head
    assert stream.readline().startswith(b"HTTP/1.1 200")


def test_a_client_that_hangs_up_in_the_middle_is_counted_and_harms_nobody(client, address):
    host, port = address.removeprefix("http://").split(":")
    gone = ("line", "1", "client_gone")
    before = counted(client)[0][gone]
    with socket.create_connection((host, int(port))) as wire:
        wire.sendall(request(b'{"inst', "Content-Length: 100"))
    until(lambda: counted(client)[0][gone] == before + 1)
    assert client.post(LINE, json={"instances": [[1]]}).status_code == 200


@pytest.mark.parametrize("raw", [b"\x16\x03\x01\x02\x00\r\n\r\n", b"NONSENSE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
def test_what_is_no_http_is_refused(wire, raw):
    wire.sendall(raw)
    assert read_answers(wire, 1)[0][0] == 400


def test_health_of_litserve_stays(client):
    answer = client.get("/health")
    assert (answer.status_code, answer.text) == (200, "ok")


# --------------------------------------------------------------------------------------------------- key, deadline


@pytest.fixture(scope="module")
def strict(repository, tmp_path_factory):
    """A server with a key that does not wait for bodies."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    with running(repository, log, api_key="correct horse", receive_s=4) as address:
        yield address
    assert "correct horse" not in log.read_text()


def test_with_a_key_set_probes_alone_answer_without_it(strict):
    with httpx.Client(base_url=strict, timeout=START_S) as client:
        for path in ("/health", "/health/live", "/health/ready"):
            assert client.get(path).status_code == 200
        for path in ("/", "/metrics", "/v1/models", "/info", "/openapi.json"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert client.get(path, headers={"x-api-key": "correct horse"}).status_code == 200
        with_key = {"authorization": "Bearer correct horse"}
        assert client.post(LINE, json={"instances": [[1]]}).status_code == 401
        assert client.post(LINE, json={"instances": [[1]]}, headers=with_key).status_code == 200


def test_a_client_that_never_sends_its_body_is_let_go(strict):
    host, port = strict.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=START_S) as wire:
        wire.sendall(request(b"{", "Content-Length: 100", "X-API-Key: correct horse"))
        status, _, body = read_answers(wire, 1)[0]
        assert (status, json.loads(body)["code"]) == (408, "too_slow")
        assert wire.recv(1) == b""
