"""Unmodified clients of MLflow, SageMaker and Arrow, and the variables of platforms, against real servers."""

import random

import numpy as np
import polars as pl
import pytest

from service.wire.arrow_stream import MEDIA_TYPE
from tests.server.conftest import CHECKOUT, free_port, serving, until
from tests.server.environments import environment_beside_ours, said_by
from tests.service import tiny

pytestmark = pytest.mark.server

PACKAGES = ["mlflow-skinny==3.17.2", "boto3==1.44.5"]  # MLflow's client needs pandas, scipy and pyarrow, too
SETTINGS = {"default_model": "flowers", "predict_path": "/endpoints/flowers/invocations"}  # which boto3 asks for
ARROW = {"content-type": MEDIA_TYPE}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    yield from serving(tmp_path_factory.mktemp("platforms"), "line", "pair", "flowers", **SETTINGS)


@pytest.fixture(scope="session")
def python_of_clients():
    return environment_beside_ours(CHECKOUT / "build" / "scoring-clients", PACKAGES)


def stream(columns):
    return pl.DataFrame(columns).write_ipc_stream(None).getvalue()


# --------------------------------------------------------------------------------------------------- clients


def test_clients_of_mlflow_pandas_and_pyarrow_get_the_right_answers(server, python_of_clients):
    got = said_by(python_of_clients, "scoring_client.py", server.port)
    rows = [
        [5.0, 2, "red", True, "2024-05-31T09:30:00"],
        [None, 0, None, False, None],
        [0.0, 3, "a color that nobody saw", True, "1970-01-01"],
    ]
    likely = tiny.answer("flowers", tiny.SCHEMAS["flowers"].encode(rows))["probabilities"]
    classes = ["rose", "daisy", "tulip"]
    assert got["frame"] == got["bare csv"] == got["csv"]["predictions"] == got["arrow"]["prediction"] == classes
    assert got["array"] == ["rose"]
    np.testing.assert_allclose(got["probabilities"], likely, rtol=1e-6)
    np.testing.assert_allclose(got["arrow"]["probabilities"], likely, rtol=1e-6)
    assert "error code 400" in got["refused"]
    assert "feature 'width' is absent" in got["refused"]
    assert got["cut off"] == "bad_body"


def test_the_client_of_sagemaker_gets_the_right_answers(server, python_of_clients):
    """`invoke_endpoint` of boto3, which asks /endpoints/<name>/invocations; the platform takes that to /invocations."""
    assert said_by(python_of_clients, "sagemaker_client.py", server.port) == {
        "json": ["application/json", '{"predictions":["rose","daisy"]}'],
        "csv": ["text/csv", "rose\ndaisy\n"],
        "lines": ["application/json", '{"predictions":["rose","daisy"]}'],
        "refused": [400, "bad_row"],
    }


def test_a_hundred_thousand_rows_go_through_arrow_in_and_out(server):
    values = np.linspace(-1, 1, 100_000)
    raw = stream({"b": values[::-1], "a": values.astype(np.float32)})

    def chunks():
        for at in range(0, len(raw), 60_000):
            yield raw[at : at + 60_000]

    right = tiny.answer("pair", np.stack([values, values[::-1]], axis=1).astype(np.float32))["prediction"]
    for content in (raw, chunks()):
        answer = server.client.post("/v1/models/pair:predict", content=content, headers=ARROW | {"x-request-id": "a-1"})
        assert (answer.status_code, answer.headers["x-request-id"]) == (200, "a-1"), answer.text
        frame = pl.read_ipc_stream(answer.content)
        assert frame["prediction"].to_numpy().tobytes() == right.tobytes()


def test_small_bodies_in_other_forms_pass_the_fast_lane(server):
    path = "/v1/models/line:predict"
    for headers, body, right in (
        ({"content-type": "text/csv"}, b"x\n3\n", b'{"predictions":[7.0],"model_name":"line","model_version":"1"}'),
        ({"accept": "text/csv"}, b'{"instances": [[3]]}', b"7.0\n"),
        ({"Content-Type": "Text/CSV", "Accept": "application/jsonlines"}, b"3", b'{"prediction":7.0}\n'),
        ({"accept": "*/*"}, b'{"instances": [[3]]}', b'{"predictions":[7.0],"model_name":"line","model_version":"1"}'),
    ):
        for _ in range(3):  # on one connection, in turn with the fast lane's own
            assert server.client.post(path, content=body, headers=headers).content == right
            assert server.answers()
    refused = server.client.post(path, content=b"x\nwide\n", headers={"content-type": "text/csv"}).json()
    assert refused["error"] == "row 0: feature 'x' must be a number, got 'wide'"


def test_damaged_streams_are_refused_and_nothing_dies(server):
    raw = stream({"a": [1.0, None, 3.0] * 9, "b": [1, 2, 3] * 9})
    apis, dice = server.apis, random.Random(0)
    for _ in range(400):
        damaged = bytearray(raw)
        for _ in range(dice.choice([1, 2, 8])):
            damaged[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
        del damaged[dice.choice([len(raw), dice.randrange(len(raw))]) :]
        answer = server.client.post("/v1/models/pair:predict", content=bytes(damaged), headers=ARROW)
        assert answer.status_code in (200, 400, 413), answer.text
        if answer.status_code != 200:
            assert answer.json()["code"] in ("bad_body", "bad_row", "too_large")
    assert server.apis == apis
    assert server.answers()


# --------------------------------------------------------------------------------------------------- platforms


def at_port(server, port):
    """The server, once it is ready where the platform said."""
    server.port = port
    server.connect_anew()
    until(server.is_ready, what="ready")
    return server.client


def test_vertex_gives_the_port_and_the_paths(start, monkeypatch):
    port = free_port()
    monkeypatch.setenv("AIP_HTTP_PORT", str(port))
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "/v1/endpoints/7/deployedModels/8")
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/v1/endpoints/7/deployedModels/8:predict")
    monkeypatch.setenv("AIP_STORAGE_URI", "")
    client = at_port(start(wait=False, api_key="a key that is asked for"), port)
    assert client.get("/v1/endpoints/7/deployedModels/8").json() == {"ready": True}  # a probe, without the key
    body = {"instances": [{"x": 3}], "parameters": {}}
    path = "/v1/endpoints/7/deployedModels/8:predict"
    assert client.post(path, json=body).status_code == 401
    assert client.post(path, json=body, headers={"x-api-key": "a key that is asked for"}).json() == {
        "predictions": [7.0]
    }


def test_sagemaker_says_serve_and_the_port(start, monkeypatch):
    port = free_port()
    monkeypatch.setenv("SAGEMAKER_BIND_TO_PORT", str(port))
    client = at_port(start(wait=False, arguments=["serve"]), port)
    assert client.get("/ping").status_code == 200
    answer = client.post("/invocations", content=b"3\n4\n", headers={"content-type": "text/csv", "accept": "text/csv"})
    assert answer.text == "7.0\n9.0\n"


@pytest.mark.parametrize(
    ("arguments", "uri", "said"),
    [
        (["train"], "", 'Unknown command "train"'),
        ([], "gs://a/b", "AIP_STORAGE_URI is not read"),
    ],
)
def test_what_cannot_be_done_stops_the_start(start, monkeypatch, arguments, uri, said):
    monkeypatch.setenv("AIP_STORAGE_URI", uri)
    server = start(wait=False, arguments=arguments)
    assert server.ended() == 2
    assert said in server.said()
