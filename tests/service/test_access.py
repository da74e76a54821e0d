"""Keys, scopes and limits, as one process applies them."""

import asyncio
import hashlib
import multiprocessing
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from service.access.gate import Caller, Gate, model_of, scope_of
from service.access.keys import ANYBODY, LONGEST_KEY, Keyring, make_key, read_keys
from service.access.limits import Limits, Rate
from service.problems import Forbidden, KeyExpired, RateLimited, Unauthorized
from service.settings import BadSettings, Settings
from tests.server.conftest import START_S

CHECKOUT = Path(__file__).parents[2]


def entry(secret, name="shop", scopes='["predict"]', *more):
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return "\n".join(["[[key]]", f'name = "{name}"', f'sha256 = "{digest}"', f"scopes = {scopes}", *more, ""])


@pytest.fixture
def file(tmp_path):
    """A file of one key, `open sesame` of `shop`, for predictions."""
    path = tmp_path / "keys.toml"
    path.write_text(entry("open sesame"))
    return path


def replace(file, text):
    """Write the file anew, as careful people do."""
    beside = file.with_suffix(".new")
    beside.write_text(text)
    beside.rename(file)


# --------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    "headers",
    [
        {b"x-api-key": b"open sesame"},
        {b"authorization": b"Bearer open sesame"},
        {b"authorization": b"bearer  open sesame "},
        {b"authorization": b"Basic eDp5", b"x-api-key": b"open sesame"},
    ],
)
def test_a_key_is_found_wherever_it_stands(file, headers):
    assert Keyring(file, None).find(headers).name == "shop"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"x-api-key": b""},
        {b"x-api-key": b"open sesamE"},
        {b"x-api-key": b"open sesame "},
        {b"x-api-key": "öffne dich".encode()},
        {b"authorization": b"Basic open sesame"},
        {b"authorization": b"Bearer"},
        {b"authorization": b"Bearer wrong", b"x-api-key": b"open sesame"},
        {b"x-api-key": hashlib.sha256(b"open sesame").hexdigest().encode()},
        {b"x-api-key": hashlib.sha256(b"open sesame").digest()},
    ],
)
def test_what_is_not_the_key_is_refused(file, headers):
    with pytest.raises(Unauthorized):
        Keyring(file, None).find(headers)


def test_an_endless_key_is_refused_without_being_digested(file):
    long = "x" * (LONGEST_KEY + 1)
    replace(file, entry(long))
    with pytest.raises(Unauthorized):
        Keyring(file, None).find({b"x-api-key": long.encode()})


@given(st.binary(max_size=600))
def test_no_other_key_is_taken(given_key):
    ring = Keyring(None, SecretStr("open sesame"))
    if given_key != b"open sesame":
        with pytest.raises(Unauthorized):
            ring.find({b"x-api-key": given_key})


def test_the_single_key_may_do_everything_and_stands_beside_those_of_the_file(file):
    ring = Keyring(file, SecretStr("correct horse"))
    assert ring.find({b"x-api-key": b"correct horse"}).scopes == ANYBODY.scopes
    assert ring.find({b"x-api-key": b"open sesame"}).scopes == {"predict"}


def test_an_expired_key_is_told_from_a_wrong_one(file):
    replace(file, entry("old", "shop", '["predict"]', "expires = 2020-01-01T00:00:00Z"))
    with pytest.raises(KeyExpired, match="expired at 2020-01-01T00:00:00"):
        Keyring(file, None).find({b"x-api-key": b"old"})


def test_keys_are_read_again_when_the_file_changes(file):
    ring = Keyring(file, None)
    replace(file, entry("new") + entry("second", "pump"))
    ring.refresh()
    assert ring.find({b"x-api-key": b"second"}).name == "pump"
    with pytest.raises(Unauthorized):
        ring.find({b"x-api-key": b"open sesame"})


def test_a_look_says_whether_a_key_is_changed_or_over(file, monkeypatch):
    over = time.time() + 1000
    expires = datetime.fromtimestamp(over, UTC).isoformat()
    replace(file, entry("short", "pump", '["predict"]', f"expires = {expires}") + entry("open sesame"))
    ring = Keyring(file, None)
    assert not ring.refresh()
    monkeypatch.setattr(time, "time", lambda: over + 1)
    assert [ring.refresh(), ring.refresh()] == [True, False]
    replace(file, entry("new"))
    assert [ring.refresh(), ring.refresh()] == [True, False]


@pytest.mark.parametrize("spoil", [lambda file: replace(file, "[[key]]\nname ="), lambda file: file.unlink()])
def test_a_file_that_is_spoilt_leaves_the_keys_that_there_were(file, spoil, caplog):
    ring = Keyring(file, None)
    spoil(file)
    ring.refresh()
    ring.refresh()
    assert ring.find({b"x-api-key": b"open sesame"}).name == "shop"
    (record,) = caplog.records
    assert record.message.endswith("; the keys that were read before stay")


GOOD = entry("a long secret")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[key]", "is no TOML"),
        ("[[keys]]\n", "keys: extra inputs are not permitted"),
        (GOOD.replace('name = "shop"', ""), "key 1, name: field required"),
        (GOOD.replace("shop", "a shop"), "key 1, name: string should match"),
        (GOOD + GOOD.replace("predict", "perdict"), "key 2, scopes: input should be 'predict', 'metrics' or 'admin'"),
        (GOOD.replace('["predict"]', "[]"), "key 1, scopes: "),
        (GOOD.replace('sha256 = "', 'sha256 = "g'), "key 1, sha256: string should match"),
        (GOOD + "expires = 2027-01-01", "key 1, expires: "),
        (GOOD + "secret = 1", "key 1, secret: extra inputs"),
        (GOOD + "rate_limit = 0", "key 1, rate_limit: "),
        (GOOD + "rate_burst = 5", "the key of 'shop' has a rate_burst and no rate_limit"),
        (GOOD + GOOD.replace("shop", "pump"), "the keys of 'shop' and 'pump' are the same"),
        ("key = 1", "key: "),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_place_and_without_its_contents(file, text, sentence):
    file.write_text(text)
    with pytest.raises(BadSettings) as caught:
        read_keys(file)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("ROWCAST_API_KEYS_FILE '")
    assert hashlib.sha256(b"a long secret").hexdigest()[:8] not in str(caught.value)


def test_a_file_that_is_absent_or_no_text_is_refused(file):
    with pytest.raises(BadSettings, match="cannot be read: No such file"):
        read_keys(file.with_name("nothing"))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(BadSettings, match="it is not UTF-8"):
        read_keys(file)


def test_the_command_makes_a_key_that_the_file_takes(file):
    command = [sys.executable, "-m", "service", "key", "pump", "--scope", "predict", "--scope", "metrics"]
    command += ["--model", "line", "--rate-limit", "2.5", "--rate-burst", "7", "--expires", "2099-01-31"]
    made = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    secret = made.stderr.splitlines()[0]
    assert secret not in made.stdout
    replace(file, entry("open sesame") + made.stdout)
    client = Keyring(file, None).find({b"x-api-key": secret.encode()})
    assert (client.name, client.scopes, client.models) == ("pump", {"predict", "metrics"}, {"line"})
    assert client.rate == Rate.of(2.5, 7)
    assert client.expires > time.time()


@pytest.mark.parametrize(
    "arguments",
    [
        ["a shop"],
        ["shop", "--scope", "all"],
        ["shop", "--model", 'a"b'],
        ["shop", "--rate-burst", "5"],
        ["shop", "--expires", "2001-01-31"],
        [],
    ],
)
def test_the_command_refuses_what_the_file_would(arguments):
    command = [sys.executable, "-m", "service", "key", *arguments]
    refused = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "sha256" not in refused.stdout
    assert "Traceback" not in refused.stderr


def test_no_two_keys_are_alike():
    keys = {make_key()[0] for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) == len("rowcast_") + 43 for key in keys)


# --------------------------------------------------------------------------------------------------- limits


def spent(limits, who, rate, times):
    """How many of so many requests are taken."""
    taken = 0
    for _ in range(times):
        try:
            limits.spend(who, rate)
        except RateLimited:
            continue
        taken += 1
    return taken


@pytest.fixture
def table(limits):
    table = Limits(limits)
    yield table
    table.close()


def test_a_burst_is_taken_and_no_more(table):
    slow = Rate.of(0.001, 5)
    assert [table.spend("a", slow) for _ in range(5)] == [4, 3, 2, 1, 0]
    with pytest.raises(RateLimited) as refused:
        table.spend("a", slow)
    assert 990 < refused.value.retry_after_s <= 1000
    assert table.spend("b", slow) == 4


def test_a_bucket_fills_at_its_rate(table, monkeypatch):
    now = time.monotonic_ns()
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    rate = Rate.of(2, 1)
    table.spend("a", rate)
    with pytest.raises(RateLimited) as refused:
        table.spend("a", rate)
    assert refused.value.retry_after_s == 0.5
    now += 500_000_000
    assert table.spend("a", rate) == 0


def test_a_full_table_forgets_who_asked_least(table):
    slow = Rate.of(0.001, 100)
    assert spent(table, "busy", slow, 200) == 100
    for number in range(60_000):  # more than the table holds
        table.spend(f"address {number}", slow)
    assert spent(table, "busy", slow, 10) == 0
    assert os.fstat(table._file).st_size < 600_000


def _spend(path, result):
    result.put(spent(Limits(path), "a", Rate.of(0.001, 1000), 800))


def test_processes_share_one_bucket_exactly(limits):
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    processes = [context.Process(target=_spend, args=(limits, result)) for _ in range(4)]
    for process in processes:
        process.start()
    taken = [result.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sum(taken) == 1000


def _die_with_the_lock(path):
    table = Limits(path)
    assert table._lock(table._place_of("a")[1])
    os.kill(os.getpid(), 9)


def test_a_process_that_dies_within_its_turn_blocks_nobody(limits):
    process = multiprocessing.get_context("spawn").Process(target=_die_with_the_lock, args=(limits,))
    process.start()
    process.join()
    table = Limits(limits)
    assert table._lock(table._place_of("a")[1])
    table.close()


# --------------------------------------------------------------------------------------------------- the gate


def gate_of(limits, **settings):
    return Gate(Settings(**settings), limits)


def admit(gate, headers, scope="predict", model=None, peer=("192.0.2.1", 5000)):
    caller = Caller(gate.address(headers, peer))
    gate.admit(caller, headers, scope, model)
    return caller


def test_without_keys_and_limits_everybody_may_do_everything(limits):
    caller = admit(gate_of(limits), {}, "admin")
    assert (caller.name, caller.headers) == ("192.0.2.1", None)


@pytest.mark.parametrize(
    ("asked", "scope", "model"),
    [
        ("POST /v1/models/line:predict", "predict", "line"),
        ("POST /v1/models/line/versions/2:predict", "predict", "line"),
        ("GET /v1/models/line", "predict", "line"),
        ("POST /v2/models/line/infer", "predict", "line"),
        ("GET /v2/models/stats", "predict", None),
        ("GET /v2/models/line/stats", "predict", "line"),
        ("GET /v1/models/stats", "predict", "stats"),
        ("POST /v2/models/stats/infer", "predict", "stats"),
        ("POST /v2/repository/models/line/load", "admin", "line"),
        ("POST /v2/repository/models/line/unload", "admin", "line"),
        ("POST /v2/repository/index", "predict", None),
        ("PUT /v1/models/line/labels/stable", "admin", "line"),
        ("DELETE /v1/models/line/labels/stable", "admin", "line"),
        ("GET /v1/models/line/labels/stable", "predict", "line"),
        ("POST /shutdown", "admin", None),
        ("GET /metrics", "metrics", None),
        ("GET /v1/models", "predict", None),
        ("GET /", "predict", None),
    ],
)
def test_a_request_needs_a_scope_and_its_path_may_name_a_model(asked, scope, model):
    method, path = asked.split()
    assert (scope_of(method, path), model_of(path)) == (scope, model)


def test_a_key_opens_what_it_is_for(file, limits):
    gate = gate_of(limits, api_keys_file=file)
    key = {b"x-api-key": b"open sesame"}
    assert admit(gate, key).name == "shop"
    for scope in ("metrics", "admin"):
        with pytest.raises(Forbidden, match=scope):
            admit(gate, key, scope)


def test_a_key_of_some_models_asks_no_other(file, limits):
    replace(file, entry("open sesame", "shop", '["predict"]', 'models = ["line", "pair"]'))
    gate = gate_of(limits, api_keys_file=file)
    key = {b"x-api-key": b"open sesame"}
    assert admit(gate, key, model="pair").client.models == {"line", "pair"}
    with pytest.raises(Forbidden, match="flowers"):
        admit(gate, key, model="flowers")


def test_each_client_has_its_own_limit_and_its_answers_say_it(file, limits):
    replace(file, entry("one", "shop") + entry("two", "shop") + entry("three", "pump", '["predict"]', "rate_limit = 9"))
    gate = gate_of(limits, api_keys_file=file, rate_limit=0.01, rate_burst=2)
    one, two, three = ({b"x-api-key": key} for key in (b"one", b"two", b"three"))
    assert admit(gate, one).headers == {"ratelimit-policy": '"requests";q=2;w=200', "ratelimit": '"requests";r=1'}
    admit(gate, two)  # another key of the same client
    with pytest.raises(RateLimited):
        admit(gate, one)
    assert admit(gate, three).headers["ratelimit"] == '"requests";r=8'


def test_requests_without_a_right_key_count_against_their_address(file, limits):
    gate = gate_of(limits, api_keys_file=file, rate_limit=0.01, rate_burst=2)
    stranger = Caller("192.0.2.1")
    gate.blame(stranger)
    gate.blame(stranger)
    with pytest.raises(RateLimited):
        gate.blame(stranger)
    gate.blame(Caller("192.0.2.2"))
    assert admit(gate, {b"x-api-key": b"open sesame"}).name == "shop"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
    ],
)
def test_an_ipv6_network_is_one_client(limits, one, other, same):
    gate = gate_of(limits, rate_limit=0.01, rate_burst=1)
    admit(gate, {}, peer=(one, 1))
    if same:
        with pytest.raises(RateLimited):
            admit(gate, {}, peer=(other, 2))
    else:
        admit(gate, {}, peer=(other, 2))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("198.51.100.9", b"203.0.113.1", "198.51.100.9"),  # whoever is no proxy is not believed
        ("10.0.0.1", b"203.0.113.1", "203.0.113.1"),
        ("10.0.0.1", b"1.1.1.1, 203.0.113.1", "203.0.113.1"),  # the client wrote 1.1.1.1 itself
        ("10.0.0.1", b"203.0.113.1, 10.0.0.2", "203.0.113.1"),
        ("::ffff:10.0.0.1", b"2001:db8::1", "2001:db8::1"),
        ("::1", b"203.0.113.1", "203.0.113.1"),
        ("10.0.0.1", b"nonsense", "10.0.0.1"),
        ("10.0.0.1", b"", "10.0.0.1"),
        ("10.0.0.1", b"10.0.0.3", "10.0.0.3"),
        ("10.0.0.1", b"203.0.113.1\xff", "10.0.0.1"),
    ],
)
def test_a_proxy_that_is_trusted_says_who_the_client_is(limits, peer, forwarded, address):
    gate = gate_of(limits, trusted_proxies="10.0.0.0/8, ::1")
    assert gate.address({b"x-forwarded-for": forwarded}, (peer, 1)) == address


def test_a_connection_without_an_address_is_somebody_all_the_same(limits):
    gate = gate_of(limits, rate_limit=0.01, rate_burst=1)
    admit(gate, {}, peer=None)
    with pytest.raises(RateLimited):
        admit(gate, {}, peer=None)


def test_the_gate_watches_its_file(file, limits, monkeypatch):
    monkeypatch.setattr("service.access.gate._LOOK_S", 0.01)
    gate = gate_of(limits, api_keys_file=file)

    async def watch():
        watching = asyncio.create_task(gate.watch())
        replace(file, entry("new"))
        async with asyncio.timeout(START_S):
            while True:
                await asyncio.sleep(0.01)
                try:
                    admit(gate, {b"x-api-key": b"new"})
                    break
                except Unauthorized:
                    continue
        watching.cancel()

    asyncio.run(watch())
