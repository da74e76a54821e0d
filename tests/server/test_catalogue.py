"""What operators change while a server serves: labels, shares, shadows, load and unload, over several processes."""

import os
import shutil
import signal
import tempfile
from collections import Counter

import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from models.repository import Repository
from tests.server.conftest import PATIENT, Server, until
from tests.service import hostile, tiny

pytestmark = pytest.mark.server

LABELS = "/v1/models/line/labels"


@pytest.fixture
def three(repository):
    """line 1, 2 and 3; version n adds n - 1 to 2x + 1."""
    for shift in (1, 2):
        tiny.publish(repository, "line", shift=shift)
    return repository


@pytest.fixture
def server(three, start):
    return start(three, api_processes=2, workers=2, control=True, poll_s=600)  # so that nothing is seen by a look


def served(server, keys=40):
    """How many routing keys each version answers, each over a connection of its own: every process is asked."""
    versions = Counter()
    for number in range(keys):
        server.connect_anew()
        headers = {"X-Routing-Key": f"user-{number}"}
        answer = server.client.post("/v1/models/line:predict", json={"instances": [[3]]}, headers=headers).json()
        version = answer.get("model_version", answer.get("code"))
        versions[version] += 1
        if "predictions" in answer:
            assert answer["predictions"] == [7.0 + int(version) - 1]
    return versions


def test_labels_and_shares_are_set_by_request_and_hold_in_every_process_at_once(server):
    assert served(server, 8) == {"3": 8}
    assert server.client.put(f"{LABELS}/stable", json={"version": 1}).json() == {
        "name": "line",
        "labels": {"stable": {"version": 1, "share": 0.0, "shadow": 0.0}},
    }
    assert served(server, 8) == {"1": 8}
    server.client.put(f"{LABELS}/canary", json={"version": 2, "share": 0.5})
    first = served(server)
    assert first.keys() == {"1", "2"}
    assert served(server) == first
    server.client.put(f"{LABELS}/canary", json={"version": 2, "share": 1})
    assert served(server) == {"2": 40}
    assert server.client.delete(f"{LABELS}/stable").json()["code"] == "bad_change"
    server.client.delete(f"{LABELS}/canary")
    assert server.client.delete(f"{LABELS}/stable").json()["labels"] == {}
    assert served(server, 8) == {"3": 8}


def test_the_open_inference_protocol_follows_the_shares_too(server):
    server.client.put(f"{LABELS}/stable", json={"version": 1})
    server.client.put(f"{LABELS}/canary", json={"version": 2, "share": 0.5})
    body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [3]}]}
    for number in range(20):
        headers = {"X-Routing-Key": f"user-{number}"}
        plain = server.client.post("/v1/models/line:predict", json={"instances": [[3]]}, headers=headers).json()
        oip = server.client.post("/v2/models/line/infer", json=body, headers=headers).json()
        assert oip["model_version"] == plain["model_version"]


def test_an_unloaded_model_stays_so_through_the_death_of_any_process(server, three):
    tiny.publish(three, "coin")
    unload, load = (f"/v2/repository/models/line/{what}" for what in ("unload", "load"))
    assert server.client.post(unload, json={"parameters": {"unload_dependents": False}}).status_code == 200
    assert served(server, 8) == {"not_ready": 8}
    assert server.client.get("/v2/models/line/ready").status_code == 503
    assert server.client.get("/v2/models/coin/ready").status_code == 200
    assert {"name": "line", "version": "", "state": "UNAVAILABLE", "reason": "unloaded"} in server.client.post(
        "/v2/repository/index"
    ).json()

    for victim in (server.apis[0], server.workers[0], server.main):
        dying = {victim, *(one.pid for one in server.children_of(victim))}  # they may answer for a moment yet
        os.kill(victim, signal.SIGKILL)
        until(lambda dying=dying: not dying & {one.pid for one in server.family()})
        server.connect_anew()
        until(server.is_ready)
        assert served(server, 4) == {"not_ready": 4}

    until(lambda: server.client.post(load, content=b'{"parameters": null}').status_code == 200)
    assert served(server, 8) == {"3": 8}


def test_a_model_is_ready_when_that_very_version_is(server, three):
    tiny.publish(three, "line", hostile.nan_weights())
    tiny.publish(three, "line")
    Repository(three).set_label("line", "stable", 2)
    loaded = server.client.post("/v2/repository/models/line/load")
    assert loaded.status_code == 200
    ready = {path: server.client.get(f"/v2/models/line{path}/ready").status_code for path in ("", "/versions/3")}
    assert ready == {"": 200, "/versions/3": 200}
    refused = server.client.get("/v2/models/line/versions/4/ready")
    assert (refused.status_code, "not finite" in refused.json()["error"]) == (503, True)
    assert server.client.get("/v2/models/line/versions/9/ready").status_code == 404


def test_a_load_of_a_bad_version_is_an_error_and_what_served_serves_on(server, three):
    tiny.publish(three, "line", hostile.nan_weights())
    answer = server.client.post("/v2/repository/models/line/load")
    assert (answer.status_code, answer.json()["code"]) == (500, "bad_version")
    assert served(server, 8) == {"3": 8}
    answer = server.client.put(f"{LABELS}/stable", json={"version": 4})
    assert (answer.status_code, answer.json()["code"]) == (500, "bad_version")
    assert "names version 4, which is not live" in answer.json()["error"]


@pytest.mark.parametrize(
    ("order", "refusal"),
    [
        (("POST", "/v2/repository/models/nope/load", b""), (404, "unknown_model")),
        (("POST", "/v2/repository/models/..%2fx/load", b""), (404, "not_found")),
        (("POST", "/v2/repository/models/line/load", b'{"parameters": {"config": "{}"}}'), (400, "bad_body")),
        (("POST", "/v2/repository/models/line/load", b'{"parameters": {"file:1/model.onnx": "x"}}'), (400, "bad_body")),
        (("POST", "/v2/repository/models/line/unload", b"[]"), (400, "bad_body")),
        (("PUT", f"{LABELS}/stable", b'{"version": 9}'), (404, "unknown_version")),
        (("PUT", f"{LABELS}/a%20b", b'{"version": 1}'), (400, "bad_name")),
        (("DELETE", f"{LABELS}/never-set", b""), (404, "unknown_label")),
        (("PUT", f"{LABELS}/canary", b'{"version": 1, "share": 2}'), (400, "bad_body")),
        (("PUT", f"{LABELS}/canary", b'{"version": 1, "shares": 1}'), (400, "bad_body")),
        (("PUT", f"{LABELS}/canary", b'{"version": 1, "share": 0.1}'), (409, "bad_change")),
        (("PUT", f"{LABELS}/canary", b""), (400, "bad_body")),
    ],
)
def test_an_order_that_cannot_be_is_refused(shared, order, refusal):
    method, path, body = order
    answer = shared.client.request(method, path, content=body)
    assert (answer.status_code, answer.json()["code"]) == refusal, answer.text


def test_an_order_that_is_no_object_is_told_so(shared):
    for method, path in (("PUT", f"{LABELS}/canary"), ("POST", "/v2/repository/models/line/load")):
        answer = shared.client.request(method, path, content=b"[1]")
        assert answer.json()["error"].startswith("the body must be a JSON object, got "), answer.text


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One server for many refusals."""
    folder = tmp_path_factory.mktemp("shared")
    tiny.publish(folder / "published", "line")
    server = Server(folder / "published", folder / "log", control=True, **PATIENT)
    try:
        until(server.is_ready)
        yield server
    finally:
        server.close()


def test_a_repository_that_may_only_be_read_refuses_labels_in_one_sentence(start, three):
    server = start(three, control=True)
    (three / "line/.lock").unlink()
    (three / "line/.lock").mkdir()  # the superuser of a test may write whatever its mode says
    answer = server.client.put(f"{LABELS}/stable", json={"version": 1})
    assert (answer.status_code, answer.json()["error"]) == (503, "the repository cannot be written: Is a directory")


@pytest.fixture
def empty_volume():
    """A folder on a file system of its own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield folder


@pytest.mark.parametrize("how", ["taken away", "a file in its place", "an empty volume in its place"])
def test_while_the_repository_is_away_an_order_says_so_and_what_is_live_can_be_unloaded(
    start, three, tmp_path, empty_volume, how
):
    server = start(three, control=True, poll_s=600)
    three.rename(tmp_path / "away")
    if how == "a file in its place":
        three.touch()
    elif how == "an empty volume in its place":
        three.symlink_to(empty_volume)
    for method, path, body in (
        ("POST", "/v2/repository/models/line/load", b""),
        ("POST", "/v2/repository/models/nope/unload", b""),
        ("PUT", f"{LABELS}/stable", b'{"version": 1}'),
        ("DELETE", f"{LABELS}/stable", b""),
    ):
        answer = server.client.request(method, path, content=body)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready"), answer.text
        assert answer.json()["error"].startswith(f"the repository cannot be read: {three}"), answer.text
    assert served(server, 1) == {"3": 1}
    assert server.client.post("/v2/repository/models/line/unload").status_code == 200
    assert server.ask(3.0).status_code == 503


def test_a_shadow_that_hangs_or_dies_touches_no_answer(start, three):
    tiny.publish(three, "line", hostile.slow_for_large_x())  # line 4: hangs for x = 1e18
    Repository(three).set_label("line", "stable", 1)
    Repository(three).set_label("line", "next", 4, shadow=1)
    server = start(three, hang_s=6.0)
    workers, asked = server.workers, []

    def ask(x):
        asked.append(x)
        assert server.answers(x)

    def counted(**outcome):
        return server.metric("rowcast_shadow_requests_total", **outcome)

    def shadow_answers():
        before = counted(outcome="ok")
        ask(3.0)
        until(lambda: counted() == len(asked), what="an outcome for each request")
        return counted(outcome="ok") > before

    until(shadow_answers, what="there is one")  # not in time for the first request where others want the cores
    before = counted(outcome="failed")
    ask(1e18)
    until(lambda: counted(outcome="failed") > before)
    assert "computes one batch for 6 s; killed" in server.said()
    for x in range(50):
        ask(float(x))
    until(shadow_answers, what="another process takes the place of the one that hung")
    assert server.workers == workers


def test_tritonclient_loads_and_unloads(server):
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=2) as client:
        client.unload_model("line")
        assert not client.is_model_ready("line")
        assert client.get_model_repository_index() == [
            {"name": "line", "version": "", "state": "UNAVAILABLE", "reason": "unloaded"}
        ]
        client.load_model("line")
        assert client.is_model_ready("line")
        assert client.is_model_ready("line", "3")
        with pytest.raises(InferenceServerException, match="no configuration and no files"):
            client.load_model("line", config="{}")


def test_a_version_that_is_copied_into_the_repository_is_served_once_it_is_whole(start, repository, tmp_path):
    """Its manifest may come first, as by rsync, and be refused for what is missing, by two processes that check it."""
    server = start(workers=2)
    version = tiny.publish(repository, "line", shift=1.0)
    away = version.folder.rename(tmp_path / "away")
    version.folder.mkdir()
    for path, reason in [
        ("manifest.json", "model.onnx is absent"),
        ("model.onnx", "proof.json is absent"),
        ("proof.json", ""),
    ]:
        shutil.copy(away / path, version.folder / path)
        until(lambda reason=reason: reason in str(server.client.get("/v1/models/line").json()))
        assert server.ask(3).json()["model_version"] in {"1", "2"}
    until(lambda: server.ask(3).json() == {"predictions": [8.0], "model_name": "line", "model_version": "2"})
    until(lambda: server.metric("rowcast_model_load_failures") == 0)
