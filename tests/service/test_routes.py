import asyncio
import gzip
import json
import logging
import re
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from starlette.exceptions import HTTPException

from service.problems import STATUS, DeadlinePassed, ModelFailed, NotReady, Overloaded
from tests.service import tiny
from tests.service.test_plain import ANYTHING

LINE = "/v1/models/line:predict"
PAGE = Path(__file__).parents[2] / "docs/reference/http.md"


def problem(answer, status, code):
    """The body of an answer that must be this problem, with all that is true of every problem."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    body = answer.json()
    assert body["code"] == code, body
    assert body["request_id"] == answer.headers["x-request-id"]
    assert len(answer.content) < 4096
    assert "Traceback" not in body["error"]
    return body


def outcomes(client, **key):
    """The counted requests by model, version and code."""
    page = client.get("/metrics", headers=key).text
    families = {family.name: family for family in text_string_to_metric_families(page)}
    return {
        (s.labels["model"], s.labels["version"], s.labels["code"]): s.value
        for s in families["rowcast_requests"].samples
        if s.value
    }


# --------------------------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize(
    ("path", "version", "predictions"),
    [
        ("/v1/models/line:predict", "2", [7.0]),
        ("/v1/models/line/versions/1:predict", "1", [7.0]),
        ("/v1/models/line/labels/stable:predict", "1", [7.0]),
        ("/v1/models/line/labels/canary:predict", "2", [7.0]),
        ("/predict", "2", [7.0]),
        ("/v1/models/line%3Apredict", "2", [7.0]),
        ("/v1/models/l%69ne:predict", "2", [7.0]),
    ],
)
def test_a_path_names_the_version_that_answers(client, path, version, predictions):
    answer = client.post(path, json={"instances": [[3]]})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"predictions": predictions, "model_name": "line", "model_version": version}


@pytest.mark.parametrize(
    ("whom", "name", "version"),
    [
        ({}, "line", "2"),
        ({"model": "coin"}, "coin", "1"),
        ({"model": "line", "version": 1}, "line", "1"),
        ({"version": "1"}, "line", "1"),
        ({"model": "line", "label": "stable"}, "line", "1"),
    ],
)
def test_on_predict_the_body_names_the_version_that_answers(client, whom, name, version):
    answer = client.post("/predict", json={"instances": [[3]], **whom}).json()
    assert (answer["model_name"], answer["model_version"]) == (name, version)


def test_a_classification_answers_classes_beside_their_probabilities(client):
    answer = client.post("/v1/models/flowers:predict", json={"instances": [tiny.ROWS["flowers"]]}).json()
    assert answer["predictions"] == ["rose"]
    assert answer["classes"] == ["rose", "tulip", "daisy"]
    np.testing.assert_allclose(np.sum(answer["probabilities"], axis=1), [1], rtol=1e-6)


def test_a_body_needs_no_content_type_and_may_have_any(client):
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/json; charset=latin-1"}):
        assert client.post(LINE, content=b'{"instances": [[3]]}', headers=headers).status_code == 200


def test_a_path_and_a_body_that_disagree_are_refused(client):
    assert client.post(LINE, json={"instances": [[3]], "model": "line"}).status_code == 200
    for whom in ({"model": "pair"}, {"version": 1}, {"label": "stable"}):
        body = problem(client.post(LINE, json={"instances": [[3]], **whom}), 400, "bad_body")
        assert "must be absent or as in the path" in body["error"]


def test_a_large_body_is_answered_like_a_small_one(client, front):
    front.settings.max_body_bytes, front.settings.max_rows = 10_000_000, 200_000
    rows = [[float(x)] for x in range(100_000)]
    body = json.dumps({"instances": rows})
    assert len(body) > 500_000
    answer = client.post(LINE, content=body).json()
    assert answer["predictions"] == [2 * x + 1 for x in range(100_000)]


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("path", "code", "hint"),
    [
        ("/v1/models/lin:predict", "unknown_model", "did you mean 'line'?"),
        ("/v1/models/x:predict:predict", "unknown_model", "models: "),
        ("/v1/models/line/versions/9:predict", "unknown_version", "versions: 1, 2"),
        ("/v1/models/line/versions/01:predict", "unknown_version", "versions: 1, 2"),
        ("/v1/models/line/versions/" + "9" * 5000 + ":predict", "unknown_version", "versions: 1, 2"),
        ("/v1/models/lin/versions/x:predict", "unknown_model", "did you mean 'line'?"),
        ("/v1/models/line/labels/stabel:predict", "unknown_label", "did you mean 'stable'?"),
        ("/v1/models/%00%ff:predict", "unknown_model", "models: "),
        ("/v1/models/a%2Fb:predict", "not_found", "GET /"),
        ("/v1/models/line:classify", "method_not_allowed", "use GET"),
        ("/v1/models/../../etc/passwd", "not_found", "GET /"),
        ("/nope", "not_found", "GET /"),
        ("/predict/", "not_found", "GET /"),
        ("/v1/models/line:predict/", "not_found", "GET /"),
    ],
)
def test_a_path_that_leads_nowhere_says_what_is_there(client, path, code, hint):
    body = problem(client.post(path, json={"instances": [[1]]}), STATUS[code], code)
    assert hint in body["error"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", LINE, "POST"),
        ("DELETE", LINE, "POST"),
        ("PUT", "/predict", "POST"),
        ("POST", "/metrics", "GET, HEAD"),
        ("GET", "/v1/models/line/versions/1:predict", "POST"),
        ("BREW", "/health/live", "GET, HEAD"),
        ("POST", "/v1/models/line/labels/stable", "DELETE, GET, HEAD, PUT"),
    ],
)
def test_another_method_is_told_which_ones_there_are(client, method, path, allowed):
    answer = client.request(method, path)
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


def test_a_bad_row_says_which_feature_of_which_row(client):
    rows = [tiny.ROWS["flowers"], tiny.ROWS["flowers"] | {"width": "wide"}]
    body = problem(client.post("/v1/models/flowers:predict", json={"instances": rows}), 400, "bad_row")
    assert (body["row"], body["feature"], body["expected"], body["got"]) == (
        1,
        "width",
        "must be a number",
        "'wide'",
    )


def test_a_bad_row_never_reaches_the_model(client, front):
    client.post(LINE, json={"instances": [[1], ["x"]]})
    assert front.coalescer.matrices == []


def test_no_body_is_a_bad_body(client):
    problem(client.post(LINE), 400, "bad_body")


def test_a_body_over_the_limit_is_refused_by_its_announced_length_unread(client):
    body = problem(client.post(LINE, content=b"x", headers={"content-length": "100001"}), 413, "too_large")
    assert body["error"].startswith("a request may have at most 100000 bytes, got 100001")
    problem(client.post(LINE, content=b"x", headers={"content-length": "9" * 30}), 413, "too_large")


def test_a_body_of_unknown_length_is_refused_as_soon_as_it_is_over_the_limit(client):
    taken = []

    async def endless():
        while True:
            taken.append(1)
            yield b"x" * 40_000

    problem(client.post(LINE, content=endless()), 413, "too_large")
    assert len(taken) == 3


@pytest.mark.parametrize("path", [LINE, "/v1/models/line:explain"])
def test_a_body_that_comes_too_slowly_is_not_waited_for(client, front, path):
    front.settings.receive_s = 0.05

    async def stalling():
        yield b'{"instances": '
        await asyncio.Event().wait()
        yield b"[]}"

    answer = client.post(path, content=stalling())
    assert problem(answer, 408, "too_slow")["error"].startswith("the request was not whole within 0.05 s")
    assert answer.headers["connection"] == "close"


def test_too_many_rows_are_refused(client):
    problem(client.post(LINE, json={"instances": [[1]] * 1001}), 413, "too_large")


@pytest.mark.parametrize(("encoding", "window_bits"), [("gzip", 31), ("GZIP", 31), ("deflate", 15)])
def test_a_compressed_body_is_answered_like_the_body_itself(client, encoding, window_bits):
    stream = zlib.compressobj(wbits=window_bits)
    body = stream.compress(b'{"instances": [[3]]}') + stream.flush()
    assert client.post(LINE, content=body, headers={"content-encoding": encoding}).json()["predictions"] == [7.0]
    for damaged in (body[:-1], body + b"x", body + body, b"", b"{}"):
        problem(client.post(LINE, content=damaged, headers={"content-encoding": encoding}), 400, "bad_body")


def test_a_body_that_becomes_too_long_is_refused_before_it_is(client):
    bomb = gzip.compress(b" " * 50_000_000)
    tracemalloc.start()
    answer = client.post(LINE, content=bomb, headers={"content-encoding": "gzip"})
    problem(answer, 413, "too_large")
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_a_body_in_another_encoding_is_refused(client):
    answer = client.post(LINE, content=b"x", headers={"content-encoding": "br"})
    problem(answer, 415, "unsupported_encoding")
    assert answer.headers["accept-encoding"] == "gzip, deflate"
    assert client.post(LINE, json={"instances": [[1]]}, headers={"content-encoding": "identity"}).status_code == 200


@pytest.mark.parametrize(
    ("failure", "status", "headers"),
    [
        (Overloaded(5000, 1.2), 503, {"retry-after": "2"}),
        (NotReady("no inference worker is up"), 503, {"retry-after": "1"}),
        (DeadlinePassed(5), 504, {}),
        (ModelFailed("line/2"), 500, {}),
    ],
)
def test_what_the_coalescer_raises_is_answered_with_its_status(client, front, failure, status, headers):
    front.coalescer.failure = failure
    answer = client.post(LINE, json={"instances": [[1]]})
    assert problem(answer, status, failure.code)["error"] == str(failure)
    assert headers.items() <= answer.headers.items()


def test_an_answer_that_is_not_finite_names_its_row(client, front):
    front.coalescer.answer = lambda _, matrix: {"prediction": np.where(matrix > 1, np.inf, matrix)}
    body = problem(client.post(LINE, json={"instances": [[1], [2]]}), 500, "model_failed")
    assert body["error"] == "line/2: row 1: prediction is not a finite number"
    assert body["row"] == 1


def test_what_nobody_foresaw_is_logged_with_its_request_and_answered_without_a_trace(client, front, caplog):
    front.coalescer.failure = ZeroDivisionError("/secret/path.py")
    answer = client.post(LINE, json={"instances": [[1]]}, headers={"x-request-id": "mine"})
    body = problem(answer, 500, "internal")
    assert "secret" not in answer.text
    assert body["request_id"] == "mine"
    assert "request mine to '/v1/models/line:predict' failed" in caplog.text
    assert "ZeroDivisionError: /secret/path.py" in caplog.text


def test_other_statuses_of_the_framework_become_problems(client, app):
    async def teapot(_):
        raise HTTPException(418)

    app.router.add_route("/teapot", teapot)
    assert problem(client.get("/teapot"), 418, "refused")["error"] == "i'm a teapot"


def test_a_body_that_another_route_refuses_becomes_a_problem(client, app):
    @app.post("/other")
    async def other(number: int):
        return number

    problem(client.post("/other?number=x"), 400, "bad_body")


@settings(max_examples=200)
@given(raw=st.binary(max_size=200) | ANYTHING.map(lambda value: json.dumps({"instances": value}).encode()))
def test_any_body_is_an_answer_or_a_problem_of_the_client(client, raw):
    answer = client.post("/v1/models/flowers:predict", content=raw)
    assert answer.status_code in (200, 400)
    if answer.status_code != 200:
        problem(answer, 400, answer.json()["code"])


@settings(max_examples=100)
@given(path=st.text(st.characters(codec="utf-8"), max_size=30), method=st.sampled_from(["GET", "POST", "HEAD"]))
def test_any_path_is_an_answer_or_a_problem_of_the_client(app, path, method):
    status, headers = asyncio.run(ask_path(app, method, f"/v1/models/{path}"))
    assert status in (200, 400, 404, 405)
    assert headers[b"content-type"] == b"application/json"


async def ask_path(app, method, path):
    """One request whose path no client library has looked at."""
    sent = []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("rowcast", 80),
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


def test_a_client_that_hangs_up_is_counted_and_nothing_else(client, app):
    async def hang_up():
        async def receive():
            return {"type": "http.disconnect"}

        async def send(_):
            pass

        scope = {"type": "http", "method": "POST", "path": LINE, "headers": [], "query_string": b""}
        await app(scope, receive, send)

    asyncio.run(hang_up())
    assert outcomes(client) == {("line", "2", "client_gone"): 1}


# --------------------------------------------------------------------------------------------------- every answer


def test_a_request_id_comes_back_or_is_made(client):
    assert client.get("/", headers={"x-request-id": "order-7/3"}).headers["x-request-id"] == "order-7/3"
    made = {client.get("/").headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


@pytest.mark.parametrize("given_id", ["", "a b", "x" * 129, "a\tb", '"', "é"])
def test_a_request_id_that_could_do_harm_in_a_log_is_not_taken(client, given_id):
    answer = client.get("/", headers={b"x-request-id": given_id.encode()})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


@pytest.mark.parametrize("path", ["/", "/v1/models", LINE, "/predict", "/metrics", "/openapi.json", "/nope"])
def test_with_a_key_set_nothing_but_probes_answers_without_it(client, key, path):
    answer = client.get(path)
    problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    for headers in ({"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}, {"authorization": f"Basic {key}"}):
        problem(client.get(path, headers=headers), 401, "unauthorized")
    for headers in ({"authorization": f"Bearer {key}"}, {"authorization": f"bearer {key}"}, {"x-api-key": key}):
        assert client.get(path, headers=headers).status_code != 401


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_probes_need_no_key(client, key, path):
    assert key
    assert client.get(path).status_code == 200


def test_the_key_is_never_in_a_log_or_an_answer(client, key, caplog):
    with caplog.at_level(logging.DEBUG):
        answer = client.get("/nope", headers={"x-api-key": key})
    assert key not in caplog.text + answer.text


def test_head_is_answered_as_get_is(client):
    for path in ("/", "/v1/models", "/health/live", "/health/ready", "/metrics", "/openapi.json"):
        assert client.request("HEAD", path).status_code == 200


# --------------------------------------------------------------------------------------------------- other pages


def test_readiness_says_why_not(client, front):
    assert client.get("/health/ready").json() == {"ready": True}
    front.not_ready = lambda: "no inference worker is up; one is being started"
    answer = client.get("/health/ready")
    assert problem(answer, 503, "not_ready")["error"] == "no inference worker is up; one is being started"
    assert answer.headers["retry-after"] == "1"
    assert client.get("/health/live").json() == {"live": True}


def test_the_live_models_are_listed(client):
    assert client.get("/v1/models").json() == {"models": ["coin", "flowers", "line", "pair"]}


def test_a_model_tells_what_it_reads_and_how_good_it_is(client, front):
    front.catalog.failures = {"line/3": "line/3: model.onnx is absent; publish it again", "pair/2": "other"}
    about = client.get("/v1/models/line").json()
    assert about["features"] == [
        {"name": "x", "kind": "number", "missing_share": 0.1, "unit": "cm", "range": [-10, 10]}
    ]
    assert (about["task"], about["targets"], about["classes"]) == ("regression", ["y"], None)
    assert (about["version"], about["versions"]) == ("2", ["1", "2"])
    assert about["labels"] == {"canary": "2", "stable": "1"}
    assert about["traffic"] == {
        "canary": {"version": "2", "share": 0.0, "shadow": 0.0},
        "stable": {"version": "1", "share": 1.0, "shadow": 0.0},
    }
    assert about["refused"] == {"3": "line/3: model.onnx is absent; publish it again"}
    assert about["example"] == {"x": 3.0}
    assert about["scores"]["test"]["baselines"] == {"mean": {"rmse": 1.5}}
    assert [status["version"] for status in about["model_version_status"]] == ["1", "2"]


def test_a_model_tells_of_the_version_that_is_named(client):
    assert client.get("/v1/models/line/versions/1").json()["version"] == "1"
    assert client.get("/v1/models/line/labels/canary").json()["version"] == "2"
    kinds = [feature["kind"] for feature in client.get("/v1/models/flowers").json()["features"]]
    assert kinds == ["number", "number", "category", "boolean", "datetime"]
    problem(client.get("/v1/models/nope"), 404, "unknown_model")
    problem(client.get("/v1/models/line/versions/x"), 404, "unknown_version")


def test_an_example_that_a_model_gives_is_answered(client):
    for name in client.get("/v1/models").json()["models"]:
        row = client.get(f"/v1/models/{name}").json()["example"]
        assert client.post(f"/v1/models/{name}:predict", json={"instances": row}).status_code == 200


def test_the_index_lists_pages_that_are_there(client):
    index = client.get("/").json()
    for path in index["paths"]:
        assert client.get(path).status_code in (200, 405)


def test_every_path_is_on_a_page(app):
    paths = {route.path for route in app.router.routes if hasattr(route, "path")}
    page = PAGE.read_text() + (PAGE.parent / "oip.md").read_text()
    for path in paths:
        path = path.removesuffix("/report")  # noqa: PLW2901
        about_a_model = path.endswith(("/versions/{version}", "/labels/{label}"))  # in one line, shortened
        assert about_a_model or path.replace("{version}", "{number}") in page, path


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect"])
def test_pages_that_need_a_cdn_are_off(client, path):
    problem(client.get(path), 404, "not_found")


# --------------------------------------------------------------------------------------------------- counting


def test_every_prediction_request_is_counted_once_by_its_outcome(client, front):
    client.post(LINE, json={"instances": [[1], [2], [3]]})
    client.post("/predict", json={"instances": [[1]], "model": "coin"})
    client.post(LINE, json={"instances": [["x"]]})
    client.post(LINE, content=b"{")
    client.post("/predict", content=b"{")
    client.post("/v1/models/invented:predict", json={})
    client.post("/v1/models/line/versions/7:predict", json={})
    client.get("/nope")
    front.coalescer.failure = Overloaded(10)
    client.post(LINE, json={"instances": [[1]]})
    client.get("/v1/models")
    client.get("/health/ready")
    assert outcomes(client) == {
        ("line", "2", "ok"): 1,
        ("coin", "1", "ok"): 1,
        ("line", "2", "bad_row"): 1,
        ("line", "2", "bad_body"): 1,
        ("", "", "bad_body"): 1,
        ("", "", "unknown_model"): 1,
        ("line", "", "unknown_version"): 1,
        ("", "", "not_found"): 1,
        ("line", "2", "overloaded"): 1,
    }
    page = client.get("/metrics").text
    assert 'rowcast_rows_total{model="line",version="2"} 3.0' in page
    assert "rowcast_rows_in_flight 0.0" in page
    assert "invented" not in page


def test_a_probe_that_says_no_is_not_an_error(client, front):
    front.not_ready = lambda: "starting"
    client.get("/health/ready")
    assert outcomes(client) == {}
