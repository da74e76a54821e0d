"""Who may ask to go before others, and how it is said, in both lanes."""

import json

import pytest
from pydantic import SecretStr

from service.access.gate import Gate
from service.access.keys import make_key
from service.settings import Settings
from tests.service.test_fast_lane import GOOD, LINE, both, request, tensor

INFER = "/v2/models/line/infer"


def body(priority):
    parameters = {} if priority is None else {"parameters": {"priority": priority}}
    return json.dumps({"inputs": [tensor("x", "FP32", [1, 1], 3.0)]} | parameters).encode()


@pytest.mark.parametrize(
    ("raw", "is_urgent"),
    [
        (request(GOOD), False),
        (request(GOOD, "X-Priority: urgent"), True),
        (request(b'{"instances": [[3], [4]]}', "X-Priority: urgent", path="/predict"), True),
        (request(GOOD, "X-Priority: high"), False),
        (request(GOOD, "X-Priority: 1"), False),
        (request(body(1), path=INFER), True),
        *((request(body(priority), path=INFER), False) for priority in (None, 0, 2, -1, True, "1", 1.5)),
        (request(body(None), "X-Priority: urgent", path=INFER), False),
    ],
)
def test_a_request_says_that_it_is_urgent(front, app, raw, is_urgent):
    slow, fast, handed_over = both(front, app, raw)
    assert (slow[0], fast[0], handed_over) == (200, 200, 0)
    assert front.coalescer.urgent == [is_urgent, is_urgent]


@pytest.mark.parametrize("content_type", ["text/csv", "application/json"])
@pytest.mark.parametrize("path", [LINE, "/invocations"])
def test_it_says_so_in_every_form(client, front, content_type, path):
    raw = "3\n" if content_type == "text/csv" else '{"instances": [[3]]}'
    headers = {"content-type": content_type, "accept": "text/csv", "x-priority": "urgent"}
    assert client.post(path, content=raw, headers=headers).text == "7.0\n"
    assert front.coalescer.urgent == [True]


@pytest.mark.parametrize(("line", "is_urgent"), [("", False), ("urgent = false\n", False), ("urgent = true\n", True)])
def test_with_keys_those_may_that_are_marked_and_others_are_ordinary(front, app, limits, line, is_urgent):
    key, digest = make_key()
    file = limits.with_name("keys.toml")
    file.write_text(f'[[key]]\nname = "page"\nsha256 = "{digest}"\nscopes = ["predict"]\n{line}')
    front.gate = Gate(Settings(api_keys_file=file), limits)
    raw = request(GOOD, "X-Priority: urgent", f"X-API-Key: {key}")
    slow, fast, _ = both(front, app, raw)
    assert (slow[0], fast[0]) == (200, 200)
    assert front.coalescer.urgent == [is_urgent, is_urgent]


def test_the_one_key_of_a_server_may(front, app, limits):
    front.gate = Gate(Settings(api_key=SecretStr("correct horse")), limits)
    both(front, app, request(GOOD, "X-Priority: urgent", "X-API-Key: correct horse"))
    assert front.coalescer.urgent == [True, True]


def test_urgent_requests_and_their_waits_are_counted(client, front, versions):
    front.metrics.urgent(versions["line"], None)
    front.metrics.urgent(versions["line"], 0.003)
    page = client.get("/metrics").text
    assert 'rowcast_urgent_requests_total{model="line",version="2"} 1.0' in page
    assert 'rowcast_urgent_queue_duration_seconds_bucket{le="0.005",model="line",version="2"} 1.0' in page
    assert 'rowcast_urgent_queue_duration_seconds_bucket{le="0.0025",model="line",version="2"} 0.0' in page
