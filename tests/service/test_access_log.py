"""One line per request, that nobody can forge and that holds no secret."""

import asyncio
import json
import logging
import os
import re
import time
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.gate import Caller
from service.ledger import Ledger
from service.observing.access_log import AccessLog
from service.observing.log_lines import JsonLines, TextLines
from service.observing.log_stream import LogStream
from service.problems import BadBody, ModelFailed
from tests.server.conftest import START_S
from tests.service.test_fast_lane import GOOD, ask, request


@pytest.fixture
def pipe():
    """What is written, and the descriptor to write to."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)

    def read():
        try:
            return os.read(reading, 1_000_000).decode()
        except BlockingIOError:
            return ""

    yield read, writing
    os.close(reading)
    os.close(writing)


def note(log, *requests):
    """Note requests and write their lines."""

    async def run():
        for ledger, problem in requests:
            log(ledger, problem)
        log.flush()

    asyncio.run(run())


def ledger_of(path="/predict", request_id="1"):
    ledger = Ledger(request_id, time.perf_counter(), path)
    ledger.caller = Caller("192.0.2.1")
    return ledger


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("form", ["json", "text"])
def test_a_request_leaves_one_line_with_what_is_known_of_it(front, app, pipe, fast, form):
    read, descriptor = pipe
    log = AccessLog(form, 1.0, LogStream(descriptor))
    front.observers.append(log)
    trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    raw = request(GOOD, "X-Request-Id: mine", "X-API-Key: secret", trace)
    ask(front, app, raw, fast=fast)
    log.flush()
    (line,) = read().splitlines()
    assert "secret" not in line
    assert "instances" not in line
    known = json.loads(line) if form == "json" else dict(re.findall(r"(\w+)=(\S+)", line))
    expected = {"request_id": "mine", "status": 200, "code": "ok", "model": "line", "version": 2, "rows": 1}
    expected |= {"method": "POST", "path": "/v1/models/line:predict", "client": "unknown"}
    expected["trace_id"] = "0af7651916cd43dd8448eb211c80319c"
    for name, value in expected.items():
        assert known[name] == (value if form == "json" else str(value))
    parts = [float(known[name]) for name in ("read_s", "encode_s", "compute_s", "write_s")]
    assert float(known["seconds"]) == pytest.approx(sum(parts), abs=1e-5)


def test_probes_leave_no_line_and_refusals_do(front, client, pipe):
    read, descriptor = pipe
    log = AccessLog("json", 1.0, LogStream(descriptor))
    front.observers.append(log)
    for path in ("/health/live", "/health/ready", "/nothing", "/v1/models"):
        client.get(path)
    log.flush()
    lines = [json.loads(line) for line in read().splitlines()]
    assert [(line["path"], line["code"]) for line in lines] == [("/nothing", "not_found"), ("/v1/models", "ok")]


@given(st.text(max_size=300))
def test_nothing_that_a_client_sends_begins_a_line(text):
    for form in ("json", "text"):
        reading, writing = os.pipe()
        note(AccessLog(form, 1.0, LogStream(writing)), (ledger_of(path="/" + text), BadBody("x")))
        line = os.read(reading, 100_000).decode()
        os.close(reading)
        os.close(writing)
        assert line.count("\n") == 1
        assert line.endswith("\n")
        if form == "json":
            assert json.loads(line)["path"] == ("/" + text)[:200]
        else:
            assert line[:-1].isprintable()


def test_a_share_is_logged_and_every_failure_of_the_server(pipe):
    read, descriptor = pipe
    many = [(ledger_of(), None)] * 1000
    note(
        AccessLog("json", 0.1, LogStream(descriptor)),
        *many,
        (ledger_of(), ModelFailed("line/1")),
        (ledger_of(), BadBody("x")),
    )
    codes = [json.loads(line)["code"] for line in read().splitlines()]
    assert 40 < codes.count("ok") < 200
    assert codes.count("model_failed") == 1


def test_lines_are_written_by_themselves_and_whole(pipe):
    read, descriptor = pipe
    log = AccessLog("json", 1.0, LogStream(descriptor))

    async def run():
        for number in range(100):
            log(ledger_of(path="/" + "x" * 150, request_id=str(number)), None)
        async with asyncio.timeout(START_S):
            while not (found := read()):  # noqa: ASYNC110 - a pipe
                await asyncio.sleep(0.01)
        return found

    lines = asyncio.run(run()).splitlines()
    assert [json.loads(line)["request_id"] for line in lines] == [str(number) for number in range(100)]


def test_a_log_that_cannot_be_written_harms_no_request(front, app, caplog):
    reading, writing = os.pipe()
    os.close(reading)
    log = AccessLog("json", 1.0, LogStream(writing))
    front.observers[:] = [log, lambda *_: 1 / 0]
    for fast in (True, False):
        (answer,), _ = ask(front, app, request(), fast=fast)
        assert answer[0] == 200
    log.flush()
    os.close(writing)
    assert "could not be told of" in caplog.text


def test_all_lines_of_text_say_the_time_in_the_same_words(pipe):
    read, descriptor = pipe
    note(AccessLog("text", 1.0, LogStream(descriptor)), (ledger_of(), None))
    told = read()
    when = datetime.fromisoformat(told.split()[0])
    record = {"msg": "live: %s", "args": ("line/1",), "levelname": "INFO", "name": "service.x"}
    line = TextLines().format(logging.makeLogRecord({**record, "created": when.timestamp()}))
    assert line == f"{told.split()[0]} INFO service.x: live: line/1"


def test_a_line_of_the_log_is_json_whatever_it_says():
    def line(message, *arguments, **more):
        record = logging.LogRecord("service.x", logging.ERROR, "x.py", 1, message, arguments, more.get("error"))
        return json.loads(JsonLines().format(record))

    assert line("a %s\nb", "\ud800")["message"] == "a \ud800\nb"
    try:
        int("why")
    except ValueError as error:
        told = line("it failed", error=(ValueError, error, error.__traceback__))
    assert told["level"] == "error"
    assert told["exception"].endswith("ValueError: invalid literal for int() with base 10: 'why'")
    assert set(told) == {"time", "level", "logger", "message", "exception"}
