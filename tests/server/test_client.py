"""service/client.py against real servers: every kind of rows, every kind of error, overload and restart."""

import asyncio
import json
import math
import os
import re
import select
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import trustme

from models.repository import Repository
from service.client import (
    AsyncClient,
    BadRequest,
    Client,
    NotServed,
    Overloaded,
    ServerFailed,
    Unauthorized,
    Unreachable,
)
from tests.server.conftest import CHECKOUT, HELD, PATIENT, START_S, Server, free_port, until
from tests.service import tiny
from tests.service.test_certainty import OF_PAIR, SETS

pytestmark = pytest.mark.server


def url_of(server):
    return f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server of all tiny models; line 2 adds 1 to what line 1 says, which is stable."""
    root = tmp_path_factory.mktemp("published")
    sure = {"pair": {"intervals": OF_PAIR}, "flowers": {"prediction_sets": SETS}}
    for name in ("line", "pair", "flowers", "coin"):
        tiny.publish(root, name, **sure.get(name, {}))
    tiny.publish(root, "line", shift=1.0)
    Repository(root).set_label("line", "stable", 1)
    Repository(root).set_label("line", "canary", 2)
    server = Server(root, tmp_path_factory.mktemp("log") / "server.log", **PATIENT)
    try:
        until(server.is_ready)
        yield server
    finally:
        server.close()


@pytest.fixture
def client(served):
    with Client(url_of(served)) as client:
        yield client


COLUMNS = {
    "width": [5.0, None, 0.5],
    "length": [2.0, 3.0, 0.25],
    "color": ["red", None, "green"],
    "wild": [True, False, None],
    "seen": [datetime(2024, 5, 31, 9, 30, tzinfo=UTC), None, datetime(2024, 6, 1, tzinfo=UTC)],
}
ARRAYS = {name: np.array(values) for name, values in COLUMNS.items() if name != "seen"}
MOMENTS = np.array(["2024-05-31T09:30:00", "NaT", "2024-06-01"], "M8[ns]")
TEXTS = COLUMNS | {"seen": ["2024-05-31T09:30:00Z", None, "2024-06-01"]}


@pytest.mark.parametrize(
    "rows",
    [
        COLUMNS,
        [dict(zip(TEXTS, row, strict=True)) for row in zip(*TEXTS.values(), strict=True)],
        [list(row) for row in zip(*TEXTS.values(), strict=True)],
        pl.DataFrame(COLUMNS),
        pd.DataFrame(COLUMNS),
        pd.DataFrame(COLUMNS).convert_dtypes(),
        pa.table(COLUMNS),
        {name: pd.Series(values) for name, values in COLUMNS.items()},
        ARRAYS | {"seen": MOMENTS},
        [dict(zip(TEXTS, row, strict=True)) for row in zip(*ARRAYS.values(), MOMENTS, strict=True)],
    ],
    ids=["columns", "records", "lists", "polars", "pandas", "pandas nullable", "arrow", "series", "arrays", "scalars"],
)
def test_rows_of_every_kind_get_the_same_answer(client, rows):
    said = client.predict("flowers", rows)
    assert said.predictions == ["rose", "tulip", "daisy"]
    assert said.classes == ["rose", "tulip", "daisy"]
    assert np.argmax(said.probabilities, axis=1).tolist() == [0, 1, 2]
    assert (said.model, said.version, len(said)) == ("flowers", 1, 3)


def test_an_array_one_record_and_no_rows_are_rows(client):
    assert client.predict("pair", np.array([[5, 2], [1, math.nan]])).predictions == [[7.0, 3.0], [1.0, 1.0]]
    assert client.predict("pair", {"a": 5, "b": np.float32(2)}).targets == ["sum", "difference"]
    assert client.predict("line", []).predictions == []
    assert client.predict("line", pl.DataFrame({"x": []}, schema={"x": pl.Float64})).predictions == []


def test_an_array_of_fields_is_read_by_their_names(client):
    rows = np.array([(2.0, 5.0), (1.0, 1.0)], [("b", "f8"), ("a", "f4")])
    assert client.predict("pair", rows).predictions == [[7.0, 3.0], [2.0, 0.0]]


@pytest.mark.parametrize("series", [pd.DataFrame({"x": [1.0]}).iloc[0], pl.Series([1.0])], ids=["pandas", "polars"])
def test_a_series_may_be_a_row_or_a_column_and_is_not_guessed_at(client, series):
    with pytest.raises(TypeError, match="a Series is a row or a column; give a frame"):
        client.predict("line", series)


def test_what_is_python_s_stays_what_it_is_in_numpy(client):
    """As a float, a large integer would be another category, and true would be 1."""
    with pytest.raises(BadRequest, match="'x' must be a number, got true"):
        client.predict("line", [{"x": np.bool_(True)}])
    with pytest.raises(BadRequest, match="got 1152921504606846977"):
        client.predict("flowers", tiny.ROWS["flowers"] | {"wild": np.int64(2**60 + 1)})


def test_a_name_is_no_path_and_a_version_no_label(client):
    for name in ("line?", "line#", "../line"):
        with pytest.raises(NotServed):
            client.predict(name, [[1.0]])
        with pytest.raises(NotServed):
            client.describe(name)
    with pytest.raises(ValueError, match="a version or a label, got 1 and 'canary'"):
        client.predict("line", [[1.0]], version=1, label="canary")


def test_a_table_goes_in_several_requests_that_one_version_answers_in_order(served):
    rows = pl.DataFrame({"x": np.arange(2500.0)})
    with Client(url_of(served), rows_per_request=1000) as client:
        before = served.metric("rowcast_requests_total")
        assert client.predict("line", rows).predictions == [2 * x + 1 for x in range(2500)]
        assert served.metric("rowcast_requests_total") == before + 3
        assert client.predict("line", rows, label="canary").predictions == [2 * x + 2 for x in range(2500)]
        assert client.predict("line", rows, version=2).version == 2


def test_async_sends_the_parts_together_and_keeps_their_order(served):
    async def ask():
        async with AsyncClient(url_of(served), rows_per_request=300) as client:
            many = await asyncio.gather(*(client.predict("line", np.full((1000, 1), x)) for x in range(4)))
            return many, await client.models(), (await client.describe("line"))["labels"]

    many, models, labels = asyncio.run(ask())
    assert [set(one.predictions) for one in many] == [{2 * x + 1} for x in range(4)]
    assert [len(one) for one in many] == [1000] * 4
    assert (models, labels) == (["coin", "flowers", "line", "pair"], {"canary": "2", "stable": "1"})


def test_how_sure_the_answers_are_can_be_asked(served, client):
    with Client(url_of(served), rows_per_request=2) as in_parts:
        pairs = in_parts.predict("pair", [[5, 2]] * 3, interval=0.5)
    assert pairs.intervals == [[[6.0, 8.0], [2.0, 8.0]]] * 3
    assert pairs.prediction_sets is None
    assert client.predict("flowers", tiny.ROWS["flowers"], interval=0.9).prediction_sets == [["rose"]]
    with pytest.raises(BadRequest, match="line/1 has no intervals"):
        client.predict("line", [[1.0]], interval=0.9)


def test_what_is_there_can_be_asked(client):
    assert client.models() == ["coin", "flowers", "line", "pair"]
    assert client.describe("line")["features"][0]["name"] == "x"


@pytest.mark.parametrize("in_async", [False, True])
def test_a_bad_row_is_named_by_its_place_in_the_whole_table(served, in_async):
    rows = [{"x": 1.0}] * 1500 + [{"x": "wide"}]

    async def ask():
        async with AsyncClient(url_of(served), rows_per_request=1000) as client:
            await client.predict("line", rows)

    def ask_and_wait():
        with Client(url_of(served), rows_per_request=1000) as client:
            client.predict("line", rows)

    with pytest.raises(BadRequest, match="row 1500: feature 'x' must be a number, got 'wide'") as caught:
        asyncio.run(ask()) if in_async else ask_and_wait()
    assert (caught.value.row, caught.value.feature, caught.value.status) == (1500, "x", 400)
    assert (caught.value.code, len(caught.value.request_id)) == ("bad_row", 32)


def test_each_problem_is_an_error_of_its_own(client):
    for whom in ({"model": "lime"}, {"model": "line", "version": 9}, {"model": "line", "label": "none"}):
        with pytest.raises(NotServed):
            client.predict(rows=[[1.0]], **whom)
    with pytest.raises(BadRequest, match="row 1: line/1 computes no finite number; feature 'x' is 3e") as caught:
        client.predict("line", [[1.0], [3e38]])
    assert (caught.value.code, caught.value.row, caught.value.feature) == ("not_computable", 1, "x")


def test_nobody_there_is_unreachable_after_as_much_patience_as_was_asked():
    with (
        Client(f"http://127.0.0.1:{free_port()}", patience_s=0) as client,
        pytest.raises(Unreachable, match="does not answer"),
    ):
        client.predict("line", [[1.0]])


def test_a_key_is_sent_and_never_shown(start):
    server = start(api_key="correct horse")
    with Client(url_of(server)) as client, pytest.raises(Unauthorized):
        client.predict("line", [[1.0]])
    with Client(url_of(server), key="correct horse\n") as client:  # as read from a file
        assert client.predict("line", [[1.0]]).predictions == [3.0]
        assert "horse" not in repr(client._options)


def test_what_is_shed_is_asked_again_when_the_server_says(start):
    server = start(max_rows=10, max_waiting_rows=10, **HELD)
    os.kill(server.workers[0], signal.SIGSTOP)
    with ThreadPoolExecutor(8) as pool, Client(url_of(server), patience_s=START_S) as client:
        asked = [pool.submit(client.predict, "line", [[float(x)]] * 10) for x in range(8)]
        until(lambda: server.metric("rowcast_requests_total") >= 4, what="requests are shed")
        with Client(url_of(server), patience_s=0) as hasty, pytest.raises(Overloaded) as caught:
            hasty.predict("line", [[0.0]] * 10)
        assert (caught.value.code, caught.value.status) == ("overloaded", 503)
        os.kill(server.workers[0], signal.SIGCONT)
        assert [one.result().predictions for one in asked] == [[2.0 * x + 1] * 10 for x in range(8)]


def test_a_restart_is_waited_out(start):
    first = start()
    with Client(url_of(first), patience_s=START_S) as client, ThreadPoolExecutor(1) as pool:
        assert client.predict("line", [[1.0]]).predictions == [3.0]
        os.kill(first.pid, signal.SIGTERM)
        assert first.ended() == 0
        asked = pool.submit(client.predict, "line", [[2.0]])
        start(port=first.port)
        assert asked.result().predictions == [5.0]


class Proxy(BaseHTTPRequestHandler):
    """A proxy for whom every server is the one on port `server.port`, and who remembers what it was asked."""

    def do_POST(self):
        self.server.asked.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = httpx.post(
            f"http://127.0.0.1:{self.server.port}{httpx.URL(self.path).path}", content=body, trust_env=False
        )
        self.send_response(answer.status_code)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def do_CONNECT(self):
        self.server.asked.append(f"CONNECT {self.path}")
        with socket.create_connection(("127.0.0.1", self.server.port)) as there:
            self.connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            ways = {self.connection: there, there: self.connection}
            while True:
                for one in select.select(list(ways), [], [])[0]:
                    if not (data := one.recv(65536)):
                        return
                    ways[one].sendall(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def proxy(monkeypatch):
    """It runs, and the environment names it for HTTP and HTTPS."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever)
        server.asked, server.port = [], 0
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://me:secret@127.0.0.1:{server.server_port}")
        monkeypatch.setenv("no_proxy", "inside.test")
        try:
            yield server
        finally:
            server.shutdown()


async def ask_both(url, **options):
    with Client(url, **options) as client:
        assert client.predict("line", [[1.0]]).predictions == [3.0]
    async with AsyncClient(url, **options) as client:
        assert (await client.predict("line", [[1.0]])).predictions == [3.0]


def test_it_asks_through_the_proxy_that_the_environment_names(proxy, served):
    proxy.port = served.port
    asyncio.run(ask_both("http://outside.test:8000"))
    assert proxy.asked == ["POST http://outside.test:8000/v1/models/line:predict"] * 2


def test_it_asks_over_tls_through_the_proxy(proxy, start, tmp_path, monkeypatch):
    authority = trustme.CA()
    authority.issue_cert("outside.test").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    server = start(wait=False, tls_certificate=tmp_path / "server.pem")
    until(lambda: "answers for" in server.said())
    proxy.port = server.port
    asyncio.run(ask_both("https://outside.test:8443"))
    assert proxy.asked == ["CONNECT outside.test:8443"] * 2


def test_it_asks_this_machine_and_whom_no_proxy_names_without_one(proxy, served):
    asyncio.run(ask_both(url_of(served)))
    asyncio.run(ask_both(f"http://localhost:{served.port}"))
    with Client("http://inside.test:8000", patience_s=0) as client, pytest.raises(Unreachable) as caught:
        client.predict("line", [[1.0]])
    assert "proxy" not in str(caught.value)
    assert not proxy.asked


def test_a_proxy_that_is_not_there_is_named_without_its_password(monkeypatch):
    nobody = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("http_proxy", f"me:secret@{nobody}")
    with (
        Client("http://outside.test", patience_s=0) as client,
        pytest.raises(Unreachable, match=f"http://outside.test does not answer through the proxy {nobody}: "),
    ):
        client.models()


def test_it_needs_nothing_of_the_server():
    code = (
        "import sys, service.client; print(sorted(name for name in sys.modules if name.split('.')[0] in "
        "{'litserve', 'onnxruntime', 'torch', 'numpy', 'pydantic', 'fastapi', 'models', 'narwhals', 'uvicorn'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (500, b"<html>", ServerFailed),
        (503, b"null", Overloaded),
        (404, b'{"status": 404, "error": "Not Found", "sentence": "x", "path": "/v1"}', NotServed),
        (422, b'{"error": "wrong", "row": "first"}', BadRequest),
        (302, b"", BadRequest),
        (200, b"<html>", BadRequest),
        (200, b'{"predictions": [1]}', BadRequest),
    ],
)
def test_an_answer_of_something_else_is_an_error_too(status, body, kind):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()
        writer.close()

    async def ask():
        other = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}"
        async with other, AsyncClient(url, patience_s=0) as client:
            for asked in (client.predict("line", [[1.0]]), client.describe("line"), client.models()):
                with pytest.raises(kind, match=f"answered {status}, and not as Rowcast does") as caught:
                    await asked
                assert (caught.value.status, caught.value.code) == (status, "")

    asyncio.run(ask())


@pytest.mark.parametrize("in_async", [False, True])
def test_an_answer_that_breaks_off_is_asked_for_again(in_async):
    body = b'{"model_name": "line", "model_version": "1", "predictions": [3.0]}'
    asked = []

    class Breaking(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if len(asked) > 1 else body[:-5])

    async def ask(url):
        async with AsyncClient(url) as client:
            return await client.predict("line", [[1.0]])

    with ThreadingHTTPServer(("127.0.0.1", 0), Breaking) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever)
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            if in_async:
                said = asyncio.run(ask(url))
            else:
                with Client(url) as client:
                    said = client.predict("line", [[1.0]])
        finally:
            server.shutdown()
    assert (said.predictions, len(asked)) == ([3.0], 2)


def test_a_fork_asks_over_connections_of_its_own():
    class Ports(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            answer = {"model_name": "line", "model_version": "1", "predictions": [self.client_address[1]]}
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    code = (
        "import os, sys; from service.client import Client; client = Client(sys.argv[1])\n"
        "def ask(): print(client.predict('line', [[1]]).predictions[0], flush=True)\n"
        "ask(); ask()\n"
        "if os.fork(): os.wait(); ask()\n"
        "else: ask(); ask()"
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), Ports) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever)
        url = f"http://127.0.0.1:{server.server_port}"
        done = subprocess.run(
            [sys.executable, "-c", code, url], cwd=CHECKOUT, capture_output=True, text=True, check=True
        )
        server.shutdown()
    first, second, child, again, parent = done.stdout.split()
    assert first == second == parent
    assert child == again != parent


def test_columns_of_different_lengths_are_refused_wherever_they_end(served):
    for most in (1, 2):
        with Client(url_of(served), rows_per_request=most) as client, pytest.raises(BadRequest):
            client.predict("pair", {"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]})


def test_no_more_of_an_array_is_made_into_lists_than_goes_in_a_request(served):
    made = []

    class Rows(np.ndarray):
        def tolist(self):
            made.append(len(self))
            return super().tolist()

    with Client(url_of(served), rows_per_request=1000) as client:
        assert client.predict("line", np.zeros((2500, 1)).view(Rows)).predictions == [1.0] * 2500
    assert made == [1000, 1000, 500]


def test_no_more_of_a_table_is_made_into_json_than_is_on_its_way():
    made, answered = [], []

    class Column(list):
        def __getitem__(self, part):
            made.append(len(answered))
            return super().__getitem__(part)

    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = re.findall(rb"content-length: ([0-9]+)", head, re.IGNORECASE)
        await reader.readexactly(int(length))
        answered.append(length)
        body = b'{"model_name": "line", "model_version": "1", "predictions": [0.0]}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    async def ask():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, AsyncClient(url, at_once=2, rows_per_request=1) as client:
            return await client.predict("line", {"x": Column(range(10))})

    assert len(asyncio.run(ask())) == 10
    assert max(parts - answers for parts, answers in enumerate(made)) <= 2
