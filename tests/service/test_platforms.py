"""What platforms tell a container, and their paths within the application."""

import json

import polars as pl
import pytest
from fastapi import FastAPI

from service.app.platforms import OtherPaths, as_settings
from service.app.routes import add_routes
from service.problems import Overloaded
from service.settings import BadSettings, Settings
from service.wire.arrow_stream import MEDIA_TYPE
from tests.service import tiny
from tests.service.conftest import Client
from tests.service.test_routes import outcomes, problem

VERTEX = {
    "AIP_HTTP_PORT": "8085",
    "AIP_HEALTH_ROUTE": "/v1/endpoints/7",
    "AIP_PREDICT_ROUTE": "/v1/endpoints/7:predict",
}


@pytest.mark.parametrize(
    ("environment", "arguments", "chosen"),
    [
        ({}, [], {}),
        ({"SAGEMAKER_BIND_TO_PORT": "9000", "AIP_STORAGE_URI": "", "AIP_HTTP_PORT": ""}, [], {}),
        ({"AIP_STORAGE_URI": "/tmp_cpr_local_model"}, [], {"ROWCAST_REPOSITORY": "/tmp_cpr_local_model"}),
        ({"ROWCAST_PORT": "8000"}, ["serve"], {"ROWCAST_PORT": "8080"}),
        ({"SAGEMAKER_BIND_TO_PORT": "9000"}, ["serve"], {"ROWCAST_PORT": "9000"}),
        (
            VERTEX,
            [],
            {
                "ROWCAST_PORT": "8085",
                "ROWCAST_HEALTH_PATH": "/v1/endpoints/7",
                "ROWCAST_PREDICT_PATH": "/v1/endpoints/7:predict",
            },
        ),
    ],
)
def test_what_a_platform_says_is_a_setting(environment, arguments, chosen):
    assert as_settings(environment, is_serve=bool(arguments)) == chosen


@pytest.mark.parametrize(
    ("environment", "arguments", "sentence"),
    [
        ({"AIP_STORAGE_URI": "gs://models/1"}, [], "AIP_STORAGE_URI is not read"),
    ],
)
def test_what_it_says_and_nobody_heeds_is_refused(environment, arguments, sentence):
    with pytest.raises(BadSettings) as error:
        as_settings(environment, is_serve=bool(arguments))
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(("health", "predict"), [("/v1/endpoints/7", "/v1/endpoints/7:predict"), ("/ping", "/a/b")])
def test_paths_of_a_platform_are_answered_as_our_own(front, health, predict):
    app = FastAPI()
    add_routes(app, lambda: front)
    settings = Settings(health_path=health, predict_path=predict)
    app.add_middleware(OtherPaths, settings=settings, routes=list(app.router.routes))
    client = Client(app)
    assert client.get(health).json() == {"ready": True}
    assert client.post(predict, json={"instances": [[3]]}).json() == {"predictions": [7.0]}
    assert client.post("/invocations", json={"instances": [[3]]}).json() == {"predictions": [7.0]}
    problem(client.post(predict, content=b"x"), 400, "bad_body")


def test_a_path_that_is_answered_anyway_stays_what_it_is(front):
    app = FastAPI()
    add_routes(app, lambda: front)
    settings = Settings(health_path="/health/live", predict_path="/v1/models/line:predict")
    app.add_middleware(OtherPaths, settings=settings, routes=list(app.router.routes))
    assert Client(app).get("/health/live").json() == {"live": True}
    answer = Client(app).post("/v1/models/line:predict", json={"instances": [[3]]})
    assert answer.json()["model_version"] == "2"


@pytest.mark.parametrize("both", ["/model", "/"])
def test_both_paths_may_be_the_same_and_hide_no_page(front, both):
    app = FastAPI()
    add_routes(app, lambda: front)
    settings = Settings(health_path=both, predict_path=both)
    app.add_middleware(OtherPaths, settings=settings, routes=list(app.router.routes))
    client = Client(app)
    assert [client.request(method, both).status_code for method in ("GET", "HEAD")] == [200, 200]
    assert client.post(both, json={"instances": [[3]]}).json() == {"predictions": [7.0]}


# --------------------------------------------------------------------------------------------------- the paths


def test_ping_tells_whether_predictions_are_answered_and_needs_no_key(client, front, key):
    assert key
    assert client.get("/ping").json() == {"ready": True}
    front.not_ready = lambda: "no inference worker is up"
    assert client.get("/ping").status_code == 503
    assert client.get("/ping").headers["retry-after"] == "1"
    problem(client.post("/invocations", json={"instances": [[3]]}), 401, "unauthorized")


FORMS = {
    "text/csv": (b"x\n3\n4\n", lambda raw: [float(cell) for cell in raw.split()]),
    "application/jsonlines": (b"[3]\n4\n", lambda raw: [json.loads(line)["prediction"] for line in raw.splitlines()]),
    MEDIA_TYPE: (
        pl.DataFrame({"x": [3, 4]}).write_ipc_stream(None).getvalue(),
        lambda raw: pl.read_ipc_stream(raw)["prediction"].to_list(),
    ),
    "application/json": (b'{"instances": [[3], [4]]}', lambda raw: json.loads(raw)["predictions"]),
}
PATHS = {
    "/v1/models/line:predict": "2",
    "/v1/models/line/versions/1:predict": "1",
    "/v1/models/line/labels/stable:predict": "1",
    "/predict": "2",
    "/invocations": "2",
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("given", FORMS)
@pytest.mark.parametrize("wanted", FORMS)
def test_every_path_takes_and_gives_every_form(client, path, given, wanted):
    answer = client.post(path, content=FORMS[given][0], headers={"content-type": given, "accept": wanted})
    assert (answer.status_code, answer.headers["content-type"]) == (200, wanted)
    assert FORMS[wanted][1](answer.content) == [7.0, 9.0]
    if wanted != "application/json":
        assert (answer.headers["x-model-name"], answer.headers["x-model-version"]) == ("line", PATHS[path])


def test_a_request_in_any_form_is_counted(client):
    for given, (body, _) in FORMS.items():
        client.post("/v1/models/line:predict", content=body, headers={"content-type": given})
        client.post("/invocations", content=body, headers={"content-type": given})
    assert outcomes(client) == {("line", "2", "ok"): 8}


@pytest.mark.parametrize("given", FORMS)
def test_limits_hold_for_every_form(client, front, given):
    front.settings.max_rows = 1
    problem(client.post("/invocations", content=FORMS[given][0], headers={"content-type": given}), 413, "too_large")
    front.settings.max_body_bytes = 5
    problem(client.post("/invocations", content=FORMS[given][0], headers={"content-type": given}), 413, "too_large")
    front.settings.max_rows = front.settings.max_body_bytes = 1000
    front.coalescer.failure = Overloaded(5000)
    answer = client.post("/invocations", content=FORMS[given][0], headers={"content-type": given, "accept": "text/csv"})
    problem(answer, 503, "overloaded")


def test_an_invocation_may_ask_for_probabilities(client, front, monkeypatch):
    monkeypatch.setattr(front.catalog, "find", lambda *_: front.catalog.versions["coin"][1])
    likely = tiny.answer("coin", tiny.SCHEMAS["coin"].encode([[3]]))["probabilities"].tolist()
    body = {"instances": [[3]]}
    for key in ("params", "parameters"):
        answer = client.post("/invocations", json=body | {key: {"output": "probabilities"}})
        assert answer.json()["predictions"] == [pytest.approx(likely[0])]
    answer = client.post("/invocations", json=body, headers={"accept": "application/json; output=probabilities"})
    assert answer.json()["predictions"] == [pytest.approx(likely[0])]
    assert client.post("/invocations", json=body).json() == {"predictions": [True]}


def test_probabilities_of_a_regression_are_refused_before_anything_is_computed(client, front):
    body = {"instances": [[3]], "params": {"output": "probabilities"}}
    problem(client.post("/invocations", json=body), 400, "bad_body")
    headers = {"accept": "text/csv; output=probabilities"}
    problem(client.post("/v1/models/line:predict", json={"instances": [[3]]}, headers=headers), 400, "bad_body")
    assert front.coalescer.matrices == []
