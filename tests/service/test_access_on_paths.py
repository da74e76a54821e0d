"""Keys, scopes and limits on every path, in both lanes."""

import hashlib
import time

import pytest

from service.access.gate import Gate
from service.settings import Settings
from tests.service.test_fast_lane import GOOD, LINE, ask, both, request

KEYS = {
    "shop": '["predict"]',
    "prometheus": '["metrics"]',
    "operator": '["admin"]',
    "liner": '["predict"]\nmodels = ["line"]',
}


@pytest.fixture
def keys(front, limits, tmp_path):
    """Four keys, each the name of its client; and a limit too high to be met."""
    file = tmp_path / "keys.toml"
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in KEYS}
    file.write_text(
        "".join(
            f'[[key]]\nname = "{name}"\nsha256 = "{digests[name]}"\nscopes = {rest}\n' for name, rest in KEYS.items()
        )
    )
    front.gate = Gate(Settings(api_keys_file=file), limits)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("method", "path", "name", "outcome"),
    [
        ("POST", LINE, "shop", 200),
        ("POST", LINE, "prometheus", (403, "forbidden")),
        ("POST", LINE, "nobody", (401, "unauthorized")),
        ("POST", LINE, "liner", 200),
        ("POST", "/v1/models/pair:predict", "liner", (403, "forbidden")),
        ("POST", "/v1/models/nothing:predict", "liner", (403, "forbidden")),
        ("POST", "/v2/models/pair/infer", "liner", (403, "forbidden")),
        ("GET", "/v1/models/pair", "liner", (403, "forbidden")),
        ("GET", "/v1/models/line", "liner", 200),
        ("GET", "/metrics", "prometheus", 200),
        ("GET", "/metrics", "shop", (403, "forbidden")),
        ("POST", "/v2/repository/models/line/load", "shop", (403, "forbidden")),
        ("POST", "/v2/repository/models/line/load", "operator", (403, "control_off")),
        ("POST", "/v2/repository/models/line/unload", "shop", (403, "forbidden")),
        ("PUT", "/v1/models/line/labels/stable", "shop", (403, "forbidden")),
        ("PUT", "/v1/models/line/labels/stable", "operator", (403, "control_off")),
        ("DELETE", "/v1/models/line/labels/stable", "shop", (403, "forbidden")),
        ("DELETE", "/v1/models/line/labels/stable", "operator", (403, "control_off")),
        ("GET", "/metrics%0A", "shop", (404, "not_found")),
        ("POST", "/v2/repository/models/line/unload%0A", "shop", (404, "not_found")),
        ("GET", "/health/ready", "nobody", 200),
        ("GET", "/ping", "nobody", 200),
    ],
)
def test_a_key_opens_what_it_is_for_and_nothing_else(client, method, path, name, outcome):
    content = b'{"instances": [[3]]}' if method == "POST" else b""
    answer = client.request(method, path, headers={"x-api-key": name}, content=content)
    assert outcome == (200 if answer.status_code == 200 else (answer.status_code, answer.json()["code"]))


@pytest.mark.usefixtures("keys")
def test_a_key_of_some_models_sees_the_counts_of_no_other(client):
    def models(name):
        return {
            one["name"] for one in client.get("/v2/models/stats", headers={"x-api-key": name}).json()["model_stats"]
        }

    assert models("liner") == {"line"}
    assert models("shop") == {"coin", "flowers", "line", "pair"}


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("name", [*KEYS, "nobody"])
@pytest.mark.parametrize("path", [LINE, "/v1/models/pair:predict", "/predict", "/v2/models/pair/infer"])
def test_both_lanes_let_the_same_pass(front, app, name, path):
    slow, fast, _ = both(front, app, request(GOOD, f"X-API-Key: {name}", "X-Request-Id: 1", path=path))
    assert fast == slow


@pytest.mark.usefixtures("keys")
def test_a_model_that_only_the_body_names_is_checked_too(front, app):
    asks_pair = b'{"model": "pair", "instances": [[1, 2]]}'
    for fast in (True, False):
        (answer,), _ = ask(front, app, request(asks_pair, "X-API-Key: liner", path="/predict"), fast=fast)
        assert answer[0] == 403, answer
        (answer,), _ = ask(front, app, request(asks_pair, "X-API-Key: shop", path="/predict"), fast=fast)
        assert answer[0] == 200, answer


@pytest.mark.parametrize("fast", [True, False])
def test_a_request_takes_one_token_whatever_becomes_of_it(front, app, limits, fast, monkeypatch):
    now = time.monotonic_ns()
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)  # buckets do not fill meanwhile
    front.gate = Gate(Settings(rate_limit=0.01, rate_burst=5), limits)
    raws = [
        request(),
        request(b"{"),
        request(path="/v1/models/nothing:predict"),
        request(b"", path="/v1/models", method="GET"),
        request(GOOD, "Expect: 100-continue-not"),
    ]
    for left, raw in zip((4, 3, 2, 1, 0), raws, strict=True):
        (answer,), _ = ask(front, app, raw, fast=fast)
        assert answer[1]["ratelimit"] == f'"requests";r={left}'
        assert answer[1]["ratelimit-policy"] == '"requests";q=5;w=500'
    (answer,), _ = ask(front, app, request(), fast=fast)
    assert (answer[0], answer[1]["ratelimit"]) == (429, '"requests";r=0;t=100')
    assert answer[1]["retry-after"] == "100"
    (answer,), _ = ask(front, app, request(b"", path="/health/live", method="GET"), fast=fast)
    assert answer[0] == 200


@pytest.mark.parametrize("fast", [True, False])
def test_what_a_key_is_not_for_counts_against_its_own_limit(front, app, limits, fast, tmp_path):
    digest, file = hashlib.sha256(b"liner").hexdigest(), tmp_path / "keys.toml"
    said = f'[[key]]\nname = "liner"\nsha256 = "{digest}"\nscopes = ["predict"]\nmodels = ["line"]\n'
    file.write_text(said + "rate_limit = 0.01\nrate_burst = 2\n")
    front.gate = Gate(Settings(api_keys_file=file), limits)
    forbidden = request(GOOD, "X-API-Key: liner", path="/v1/models/pair:predict")
    answers = [ask(front, app, forbidden, fast=fast)[0][0] for _ in range(3)]
    assert [answer[0] for answer in answers] == [403, 403, 429]
    (answer,), _ = ask(front, app, request(GOOD, "X-API-Key: liner"), fast=fast)
    assert answer[0] == 429


@pytest.mark.parametrize("fast", [True, False])
def test_guessing_keys_is_limited_by_address(front, app, limits, fast):
    front.gate = Gate(Settings(api_key="correct horse", rate_limit=0.01, rate_burst=2), limits)
    statuses = []
    for _ in range(4):
        (answer,), _ = ask(front, app, request(GOOD, "X-API-Key: wrong"), fast=fast)
        statuses.append(answer[0])
    assert statuses == [401, 401, 429, 429]
    (answer,), _ = ask(front, app, request(GOOD, "X-API-Key: correct horse"), fast=fast)
    assert answer[0] == 200


def test_behind_proxies_that_add_a_line_each_every_client_has_its_own_limit(front, client, limits):
    front.gate = Gate(Settings(rate_limit=0.01, rate_burst=1, trusted_proxies="127.0.0.1, 10.0.0.0/8"), limits)

    def status_of(address):
        lines = ("1.1.1.1", address, "10.0.0.2")  # the first says the client itself
        return client.post(LINE, content=GOOD, headers=[("x-forwarded-for", line) for line in lines]).status_code

    assert [status_of(address) for address in ("203.0.113.1", "203.0.113.2", "203.0.113.1")] == [200, 200, 429]
