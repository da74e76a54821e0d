"""The Open Inference Protocol over HTTP, in one process."""

import gzip
import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.problems import STATUS, NotReady
from tests.service import tiny
from tests.service.test_oip_wire import BODY
from tests.service.test_routes import outcomes, problem

LINE = "/v2/models/line"
X = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [3]}
RAW = np.float32([[3], [4]]).tobytes()
RAW_X = {"name": "x", "datatype": "FP32", "shape": [2, 1], "parameters": {"binary_data_size": 8}}


def length_of(text):
    return {"inference-header-content-length": str(len(text))}


# --------------------------------------------------------------------------------------------------- inference


@pytest.mark.parametrize(
    ("path", "version"),
    [
        (LINE, "2"),
        (f"{LINE}/versions/1", "1"),
        (f"{LINE}/versions/2", "2"),
        (f"{LINE}/versions/stable", "1"),
        (f"{LINE}/versions/canary", "2"),
    ],
)
def test_a_path_names_the_version_that_answers(client, path, version):
    answer = client.post(f"{path}/infer", json={"inputs": [X], "id": "7"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {
        "model_name": "line",
        "model_version": version,
        "id": "7",
        "outputs": [{"name": "prediction", "datatype": "FP32", "shape": [1, 1], "data": [7.0]}],
    }


def test_a_number_names_a_version_even_where_a_label_is_called_so(client, front):
    front.catalog.labels = lambda _: {"1": 2, "old": 1}
    assert client.post(f"{LINE}/versions/1/infer", json={"inputs": [X]}).json()["model_version"] == "1"
    assert client.post(f"{LINE}/versions/old/infer", json={"inputs": [X]}).json()["model_version"] == "1"


def test_an_id_that_is_empty_or_absent_is_not_answered(client):
    for body in ({"inputs": [X]}, {"inputs": [X], "id": ""}):
        assert "id" not in client.post(f"{LINE}/infer", json=body).json()


def test_a_raw_request_has_a_raw_answer(client):
    text = json.dumps({"inputs": [RAW_X], "parameters": {"binary_data_output": True}}).encode()
    answer = client.post(f"{LINE}/infer", content=text + RAW, headers=length_of(text))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
    json_bytes = int(answer.headers["inference-header-content-length"])
    output = json.loads(answer.content[:json_bytes])["outputs"][0]
    assert output["parameters"] == {"binary_data_size": 8}
    np.testing.assert_array_equal(np.frombuffer(answer.content[json_bytes:], "<f4"), [7, 9])
    assert answer.headers["content-length"] == str(json_bytes + 8)


def test_a_body_of_nothing_but_the_matrix_is_answered_in_kind(client):
    answer = client.post(f"{LINE}/infer", content=RAW, headers={"inference-header-content-length": "0"})
    np.testing.assert_array_equal(np.frombuffer(answer.content[-8:], "<f4"), [7, 9])


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_the_length_of_json_counts_decompressed_bytes(client, encoding, compress):
    text = json.dumps({"inputs": [RAW_X]}).encode()
    headers = length_of(text) | {"content-encoding": encoding}
    answer = client.post(f"{LINE}/infer", content=compress(text + RAW), headers=headers)
    assert answer.json()["outputs"][0]["data"] == [7, 9]


def test_an_all_json_body_may_say_its_length(client):
    text = json.dumps({"inputs": [X]}).encode()
    assert client.post(f"{LINE}/infer", content=text, headers=length_of(text)).status_code == 200


def test_a_timeout_shortens_the_deadline_and_never_lengthens_it(client, front):
    waited = []
    answering = front.coalescer.predict

    async def predict(version, matrix, deadline_s, **_):
        waited.append(deadline_s)
        return await answering(version, matrix, 1, within_s=1)

    front.coalescer.predict = predict
    for microseconds in (200_000_000, 0, 10**15):
        assert (
            client.post(f"{LINE}/infer", json={"inputs": [X], "parameters": {"timeout": microseconds}}).status_code
            == 200
        )
    assert 100 < waited[0] <= 200
    assert all(900 < seconds <= 1000 for seconds in waited[1:])


def test_rows_answered_in_any_form_are_counted_once(client):
    client.post(f"{LINE}/infer", json={"inputs": [X]})
    client.post(f"{LINE}/infer", json={"inputs": []})
    client.post(f"{LINE}/infer", content=RAW, headers={"inference-header-content-length": "0"})
    client.post("/v2/models/nope/infer", json={"inputs": [X]})
    assert outcomes(client) == {
        ("line", "2", "ok"): 2,
        ("line", "2", "bad_body"): 1,
        ("", "", "unknown_model"): 1,
    }
    assert 'rowcast_rows_total{model="line",version="2"} 3.0' in client.get("/metrics").text


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("POST", "/v2/models/lin/infer", "unknown_model"),
        ("GET", "/v2/models/lin", "unknown_model"),
        ("GET", "/v2/models/lin/ready", "unknown_model"),
        ("GET", "/v2/models/lin/stats", "unknown_model"),
        ("GET", "/v2/models/lin/versions/1/config", "unknown_model"),
        ("POST", f"{LINE}/versions/9/infer", "unknown_version"),
        ("GET", f"{LINE}/versions/01", "unknown_version"),
        ("GET", f"{LINE}/versions/nightly", "unknown_version"),
        ("GET", f"{LINE}/infer", "method_not_allowed"),
        ("POST", LINE, "method_not_allowed"),
        ("GET", "/v2/repository/index", "method_not_allowed"),
        ("POST", "/v2/repository/models/line/load", "control_off"),
        ("POST", "/v2/repository/models/line/unload", "control_off"),
        ("POST", "/v2/repository/models/nope/load", "control_off"),
        ("GET", "/v2/systemsharedmemory/status", "not_found"),
        ("GET", "/v2/logging", "not_found"),
        ("GET", f"{LINE}/", "not_found"),
    ],
)
def test_what_is_not_there_is_a_problem(client, method, path, code):
    problem(client.request(method, path), STATUS[code], code)


@pytest.mark.parametrize(
    ("site", "code"), [("cross-site", "foreign_page"), ("same-site", "foreign_page"), ("same-origin", "bad_name")]
)
def test_no_order_is_taken_from_a_page_of_another_site(client, front, site, code):
    front.settings.control = True
    order = client.request("POST", "/v2/repository/models/a%20b/unload", headers={"Sec-Fetch-Site": site})
    problem(order, STATUS[code], code)


def test_a_bad_value_says_where_it_is(client):
    row = {
        name: {"name": name, "datatype": "BYTES", "shape": [1], "data": [value]}
        for name, value in (("color", "red"), ("seen", "yesterday"))
    }
    inputs = [
        {"name": "width", "datatype": "FP32", "shape": [1], "data": [1]},
        {"name": "length", "datatype": "FP32", "shape": [1], "data": [1]},
        {"name": "wild", "datatype": "BOOL", "shape": [1], "data": [True]},
    ]
    body = problem(client.post("/v2/models/flowers/infer", json={"inputs": [*row.values(), *inputs]}), 400, "bad_row")
    assert (body["row"], body["feature"], body["got"]) == (0, "seen", "'yesterday'")


def test_hostile_sizes_are_refused_at_once(client):
    huge = X | {"shape": [2**62, 1]}
    problem(client.post(f"{LINE}/infer", json={"inputs": [huge]}), 413, "too_large")
    problem(
        client.post(f"{LINE}/infer", content=b"{}", headers={"inference-header-content-length": "3"}), 400, "bad_body"
    )
    bomb = gzip.compress(b" " * 10_000_000)
    problem(client.post(f"{LINE}/infer", content=bomb, headers={"content-encoding": "gzip"}), 413, "too_large")
    problem(client.post(f"{LINE}/infer", content=b"x", headers={"content-encoding": "br"}), 415, "unsupported_encoding")


LENGTHS = st.integers(-1, 90).map(str) | st.text(st.characters(codec="ascii", exclude_categories=["C"]))
HEADERS = st.fixed_dictionaries(
    {"content-encoding": st.sampled_from(["identity"] * 5 + ["gzip", "deflate", "br"])},
    optional={"inference-header-content-length": LENGTHS},
)


@settings(max_examples=150)
@given(
    model=st.sampled_from(["flowers", "pair", "coin"]),
    text=st.binary(max_size=80) | BODY.map(json.dumps).map(str.encode),
    raw=st.binary(max_size=20),
    headers=HEADERS,
)
def test_any_request_is_an_answer_or_a_problem_of_the_client(client, model, text, raw, headers):
    answer = client.post(f"/v2/models/{model}/infer", content=text + raw, headers=headers)
    assert answer.status_code in (200, 400, 413, 415), answer.text
    if answer.status_code != 200:
        problem(answer, answer.status_code, answer.json()["code"])


# --------------------------------------------------------------------------------------------------- health


def test_probes_say_live_and_ready(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"live": True, "ready": True}
    for path in (LINE, f"{LINE}/versions/1", f"{LINE}/versions/stable"):
        assert client.get(f"{path}/ready").json() == {"name": "line", "ready": True}


def test_probes_say_why_not(client, front):
    front.not_ready = front.cannot_compute = lambda: "no inference worker is up; one is being started"
    for path in ("/v2/health/ready", f"{LINE}/ready"):
        assert "no inference worker" in problem(client.get(path), 503, "not_ready")["error"]
    assert client.get("/v2/health/live").status_code == 200
    assert [code for *_, code in outcomes(client)] == ["not_ready"]  # a model's, whose counts are a model's


def test_a_model_that_was_refused_is_not_ready(client, front):
    def find(name, *_):
        raise NotReady(f"no version of '{name}' could be opened")

    front.catalog.find = find
    problem(client.get(f"{LINE}/ready"), 503, "not_ready")


def test_with_a_key_set_only_probes_answer_without_it(client, key):
    assert client.get("/v2/health/live").status_code == client.get("/v2/health/ready").status_code == 200
    for method, path in (("GET", "/v2"), ("GET", LINE), ("POST", f"{LINE}/infer"), ("GET", f"{LINE}/ready")):
        problem(client.request(method, path), 401, "unauthorized")
    assert client.get("/v2", headers={"authorization": f"Bearer {key}"}).status_code == 200


# --------------------------------------------------------------------------------------------------- pages


def test_the_server_names_its_extensions(client):
    for path in ("/v2", "/v2/"):
        about = client.get(path).json()
        assert about["name"] == "rowcast"
        assert {"binary_tensor_data", "classification", "statistics", "model_configuration"} <= set(about["extensions"])
        assert {"schedule_policy", "model_repository(unload_dependents)"} <= set(about["extensions"])


def test_metadata_lists_versions_and_tensors(client):
    assert client.get("/v2/models").json() == {"models": ["coin", "flowers", "line", "pair"]}
    assert client.get(f"{LINE}/versions/1").json() == {
        "name": "line",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, 1]}],
        "outputs": [{"name": "prediction", "datatype": "FP32", "shape": [-1, 1]}],
    }


@pytest.mark.parametrize("name", sorted(tiny.SCHEMAS))
def test_configuration_and_metadata_tell_of_the_same_tensors(client, name):
    about, config = client.get(f"/v2/models/{name}").json(), client.get(f"/v2/models/{name}/config").json()
    assert config["name"] == name
    assert config["max_batch_size"] == 1000
    assert config["version_policy"] == {"specific": {"versions": [int(number) for number in about["versions"]]}}
    for tensors, configured in ((about["inputs"], config["input"]), (about["outputs"], config["output"])):
        assert [one["name"] for one in tensors] == [one["name"] for one in configured]
        for one, other in zip(tensors, configured, strict=True):
            assert other["data_type"] == {"BYTES": "TYPE_STRING"}.get(one["datatype"], f"TYPE_{one['datatype']}")
            assert [-1, *other.get("reshape", {}).get("shape", other["dims"])] == one["shape"]


@pytest.mark.parametrize("name", sorted(tiny.SCHEMAS))
def test_a_request_with_what_metadata_lists_is_answered_with_what_it_lists(client, name):
    zeros = {"FP32": 0.0, "BYTES": "", "BOOL": False}
    about = client.get(f"/v2/models/{name}").json()
    inputs = [
        one | {"shape": [2, one["shape"][1]], "data": [zeros[one["datatype"]]] * 2 * one["shape"][1]}
        for one in about["inputs"]
    ]
    outputs = client.post(f"/v2/models/{name}/infer", json={"inputs": inputs}).json()["outputs"]
    assert [(one["name"], one["datatype"], [-1, *one["shape"][1:]]) for one in outputs] == [
        (one["name"], one["datatype"], one["shape"]) for one in about["outputs"]
    ]


def test_the_index_says_what_is_ready_and_why_the_rest_is_not(client, front):
    front.catalog.failures = {"pair/2": "pair/2: model.onnx is absent", "line/labels.json": "no JSON"}
    index = client.post("/v2/repository/index").json()
    assert {"name": "line", "version": "1", "state": "READY", "reason": ""} in index
    assert {"name": "pair", "version": "2", "state": "UNAVAILABLE", "reason": "pair/2: model.onnx is absent"} in index
    assert len(index) == 6
    assert len(client.post("/v2/repository/index", json={"ready": True}).json()) == 5
    assert len(client.post("/v2/repository/index", json={}).json()) == 6
    for body in ({"ready": "yes"}, []):
        problem(client.post("/v2/repository/index", json=body), 400, "bad_body")


def test_statistics_count_rows_requests_and_failures(client, front, versions):
    def stats(path):
        return {(one["name"], one["version"]): one for one in client.get(path).json()["model_stats"]}

    assert set(stats("/v2/models/stats")) == {
        ("coin", "1"),
        ("flowers", "1"),
        ("line", "1"),
        ("line", "2"),
        ("pair", "1"),
    }
    assert set(stats(f"{LINE}/stats")) == {("line", "1"), ("line", "2")}
    before = stats(f"{LINE}/versions/2/stats")["line", "2"]
    client.post(f"{LINE}/infer", content=RAW, headers={"inference-header-content-length": "0"})
    client.post(f"{LINE}/infer", json={"inputs": []})
    front.metrics.batch(versions["line"], 2, 0.003, [0.002])
    after = stats(f"{LINE}/versions/2/stats")["line", "2"]
    assert before["inference_count"] == before["last_inference"] == 0
    assert (after["inference_count"], after["execution_count"]) == (2, 1)
    assert after["last_inference"] > 1.6e12
    did = after["inference_stats"]
    assert set(did) == set(before["inference_stats"])
    assert (did["success"]["count"], did["fail"]["count"]) == (1, 1)
    assert did["queue"] == {"count": 1, "ns": 2_000_000}
    assert did["compute_infer"] == {"count": 1, "ns": 3_000_000}
    assert did["compute_input"]["count"] == did["compute_output"]["count"] == 1
    assert 0 < did["compute_input"]["ns"] < did["success"]["ns"]
    assert 0 < did["compute_output"]["ns"] < did["success"]["ns"]
