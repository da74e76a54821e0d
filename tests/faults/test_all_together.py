"""Everything that can be turned on is, and clients of every kind ask at once while versions change and workers die.

Each keeps its own books; the metrics and the access log must say the same, request for request.
"""

import gzip
import io
import json
import os
import random
import shutil
import signal
import ssl
import threading
import time
from collections import Counter
from contextlib import contextmanager

import httpx
import numpy as np
import polars as pl
import pytest
import tritonclient.http as triton
import trustme

from models.repository import Repository
from tests.faults.conftest import FAULT_S
from tests.server.conftest import START_S, until
from tests.server.test_security import make_key
from tests.service import tiny

__all__ = ["make_key"]

pytestmark = pytest.mark.faults

VERTEX = "/v1/endpoints/7:predict"
ARROW = "application/vnd.apache.arrow.stream"
MAY_BE_REFUSED = {"unknown_version", "not_ready", "rate_limited", "unauthorized", "forbidden", "bad_row"}


class Books:
    """What clients were told: by code, and of right answers the requests and rows by version."""

    def __init__(self):
        self.codes, self.requests, self.rows, self.wrong = Counter(), Counter(), Counter(), []
        self._writing = threading.Lock()

    def refused(self, code):
        with self._writing:
            self.codes[code] += 1

    def answered(self, version, got, right):
        """`right` are the numbers of version 0; `version` adds its own number to each."""
        with self._writing:
            self.codes["ok"] += 1
            self.requests[str(version)] += 1
            self.rows[str(version)] += len(right)
            if not np.array_equal(np.float32(got), np.float32(right) + int(version)):
                self.wrong.append((version, got, right))


class Client:
    """Asks over TLS with a key; each kind of request is a method that takes some rows [N, 1]."""

    def __init__(self, port, context, key, books, **headers):
        self._books = books
        self._headers = {"authorization": f"Bearer {key}", **headers}
        self._http = httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=context, timeout=START_S)
        self._triton = triton.InferenceServerClient(
            f"127.0.0.1:{port}", ssl=True, ssl_context_factory=lambda: context, network_timeout=START_S
        )

    def close(self):
        self._http.close()
        self._triton.close()

    def _post(self, path, content, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self._http.post(path, content=content, headers=self._headers | headers)
        if answer.status_code == 200:
            return answer
        self._books.refused(answer.json()["code"])
        return None

    def _answered(self, answer, x):
        said = answer.json()
        version = answer.headers.get("x-model-version") or said["model_version"]
        self._books.answered(version, said["predictions"], 2 * x[:, 0] + 1)

    def plain(self, x, path="/v1/models/line:predict", **headers):
        content = json.dumps({"instances": x.tolist()}).encode()
        if (answer := self._post(path, content, **headers)) is not None:
            self._answered(answer, x)

    def packed(self, x):
        content = gzip.compress(json.dumps({"inputs": {"x": x[:, 0].tolist()}}).encode())
        if (answer := self._post("/v1/models/line:predict", content, content_encoding="gzip")) is not None:
            self._answered(answer, x)

    def pinned(self, x):
        self.plain(x, f"/v1/models/line/versions/{random.randrange(1, 40)}:predict")

    def labelled(self, x):
        self.plain(x, "/v1/models/line/labels/stable:predict")

    def urgent(self, x):
        self.plain(x, x_priority="urgent", x_timeout_ms="60000")

    def traced(self, x):
        self.plain(x, traceparent=f"00-{random.getrandbits(127) + 1:032x}-b7ad6b7169203331-01")

    def vertex(self, x):
        self.plain(x, VERTEX)

    def mlflow(self, x):
        content = json.dumps({"dataframe_split": {"columns": ["x"], "data": x.tolist()}}).encode()
        if (answer := self._post("/invocations", content, content_type="application/json")) is not None:
            self._answered(answer, x)

    def csv(self, x):
        content = "x\n" + "".join(f"{value!r}\n" for value in x[:, 0].tolist())
        answer = self._post("/invocations", content.encode(), content_type="text/csv", accept="text/csv")
        if answer is not None:
            got = [float(line) for line in answer.text.split()]
            self._books.answered(answer.headers["x-model-version"], got, 2 * x[:, 0] + 1)

    def arrow(self, x):
        stream = io.BytesIO()
        pl.DataFrame({"x": x[:, 0]}).write_ipc_stream(stream)
        answer = self._post("/v1/models/line:predict", stream.getvalue(), content_type=ARROW)
        if answer is not None:
            got = pl.read_ipc_stream(answer.content)["prediction"].to_list()
            self._books.answered(answer.headers["x-model-version"], got, 2 * x[:, 0] + 1)

    def oip(self, x):
        one = triton.InferInput("x", list(x.shape), "FP32")
        one.set_data_from_numpy(np.float32(x), binary_data=random.random() < 0.5)
        packing = random.choice([None, "gzip", "deflate"])
        try:
            headers = dict(self._headers)  # the client adds to them
            said = self._triton.infer("line", [one], headers=headers, request_compression_algorithm=packing)
        except triton.InferenceServerException as error:
            self._books.refused({"429": "rate_limited"}.get(error.status(), str(error)))
            return
        version = said.get_response()["model_version"]
        self._books.answered(version, said.as_numpy("prediction")[:, 0], 2 * x[:, 0] + 1)

    def bad(self, _):
        self._post("/v1/models/line:predict", b'{"instances": [["three"]]}')

    def other(self, _):
        """A model that this client's key may not ask."""
        self._post("/v1/models/coin:predict", b'{"instances": [[1]]}')

    def anonymous(self, _):
        self._post("/v1/models/line:predict", b'{"instances": [[1]]}', authorization="Bearer wrong")


KINDS = ["plain", "packed", "pinned", "labelled", "urgent", "traced", "vertex", "mlflow", "csv", "arrow", "oip"]
KINDS += ["bad", "other", "anonymous"]


@contextmanager
def asking(clients):
    """Let each client ask in a thread of its own, whatever comes next."""
    stop = threading.Event()
    failed = []

    def ask_on(number, client):
        dice = random.Random(number)
        try:
            while not stop.wait(0.01):
                rows = dice.choice([1, 1, 1, 2, 3, 40, 3000])
                x = np.array([[float(dice.randrange(10_000))] for _ in range(rows)])
                getattr(client, dice.choice(KINDS))(x)
            client.close()
        except Exception as error:  # noqa: BLE001 - it is raised below
            failed.append(repr(error))

    threads = [threading.Thread(target=ask_on, args=one) for one in enumerate(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []


def change(root, dice, good):
    """Publish, roll back, delete, corrupt, or route otherwise."""
    repository = Repository(root)
    what = dice.choice(["publish", "publish", "roll back", "delete", "corrupt", "canary", "shadow", "no canary"])
    if what in {"publish", "corrupt"}:
        number = 1 + int((root / "line/.last").read_text())
        version = tiny.publish(root, "line", shift=number)
        if what == "publish":
            good.append(number)
        else:
            graph = version.folder / "model.onnx"
            graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    elif what == "roll back":
        repository.set_label("line", "stable", dice.choice(good))
    elif what == "canary":
        repository.set_label("line", "canary", dice.choice(good), share=0.3)
    elif what == "shadow":
        repository.set_label("line", "next", dice.choice(good), shadow=0.5)
    elif what == "no canary":
        repository.remove_label("line", "canary")
    elif len(good) > 6:
        going = next(number for number in good if number not in repository.labels("line").values())
        good.remove(going)
        shutil.rmtree(root / "line" / str(going))


def counted(client, headers):
    """Requests by code, and of those that were answered requests and rows by version, as the server counts."""
    codes, requests, rows = Counter(), Counter(), Counter()
    for line in client.get("/metrics", headers=headers).text.splitlines():
        name, _, rest = line.partition("{")
        if name not in {"rowcast_requests_total", "rowcast_rows_total"}:
            continue
        said, _, value = rest.rpartition("} ")
        labels = dict(one.split("=", 1) for one in said.replace('"', "").split(","))
        if name == "rowcast_rows_total":
            rows[labels["version"]] += int(float(value))
        else:
            codes[labels["code"]] += int(float(value))
            if labels["code"] == "ok":
                requests[labels["version"]] += int(float(value))
    return +codes, +requests, +rows


@pytest.mark.parametrize("inline_s", [0.001, 0], ids=["inline", "workers"])
def test_with_everything_on_every_answer_is_right_and_counted(start, tmp_path, make_key, monkeypatch, inline_s):
    root, dice, books = tmp_path / "changing", random.Random(1), Books()
    tiny.publish(root, "line", shift=1)
    tiny.publish(root, "coin")
    Repository(root).set_label("line", "stable", 1)
    good = [1]
    authority = trustme.CA()
    pem = tmp_path / "server.pem"
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    monkeypatch.setenv("AIP_PREDICT_ROUTE", VERTEX)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")  # nobody is there
    shop, trial = make_key("shop", "--model", "line"), make_key("trial", "--model", "line", "--rate-limit", "5")
    admin = {"authorization": f"Bearer {make_key('boss', '--scope', 'metrics')}"}
    server = start(
        root,
        wait=False,
        workers=2,
        api_processes=2,
        inline_s=inline_s,
        default_model="line",
        control=True,
        api_keys_file=make_key.file,
        rate_limit=10_000,
        tls_certificate=pem,
        log_format="json",
        access_log=1,
        tracing="otlp",
        max_wait_s=60,  # a busy machine refuses nobody
    )
    server.client = httpx.Client(base_url=f"https://127.0.0.1:{server.port}", verify=context, timeout=START_S)
    until(server.is_whole, what="ready")
    clients = [Client(server.port, context, key, books) for key in [shop] * 6 + [trial]]
    with asking(clients):
        end = time.monotonic() + FAULT_S
        while time.monotonic() < end:
            change(root, dice, good)
            if dice.random() < 0.1:
                os.kill(dice.choice(until(lambda: server.workers)), dice.choice([signal.SIGKILL, signal.SIGSTOP]))
            time.sleep(0.1)
    print(f"\neverything at once: {dict(books.codes)}, {len(books.requests)} versions")
    assert books.wrong == []
    assert books.codes.keys() <= MAY_BE_REFUSED | {"ok"}
    told = (books.codes, books.requests, books.rows)
    until(lambda: counted(server.client, admin) == told, 10, "the metrics say what clients were told")
    server.process.terminate()
    assert server.ended() == 0
    lines = [json.loads(line) for line in server.said().splitlines()]
    logged = [line for line in lines if line.get("logger") == "access" and line["path"] != "/metrics"]
    assert Counter(line["code"] for line in logged) == books.codes
    answered = [line for line in logged if line["code"] == "ok"]
    assert Counter(str(line["version"]) for line in answered) == books.requests
    assert not [line for line in lines if "Traceback" in line.get("message", "")]
