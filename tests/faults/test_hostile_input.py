"""Whatever a body is, the answer is a prediction or a short sentence about what is wrong with it, and soon."""

import asyncio
import gzip
import json
import math
import random
import subprocess
import sys
import time
import zlib
from collections import Counter

import pytest

from tests.faults.client import Client
from tests.faults.conftest import BODIES
from tests.faults.measured import memory_mb
from tests.server.conftest import START_S, Server, until
from tests.service import tiny

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    for name in tiny.SCHEMAS:
        tiny.publish(root, name)
    server = Server(root, tmp_path_factory.mktemp("log") / "server.log", workers=2, api_processes=2)
    until(server.is_ready, START_S)
    workers = set(server.workers)
    yield server
    assert set(server.workers) == workers
    assert "Traceback" not in server.said(), server.said()[-3000:]
    server.close()


# --------------------------------------------------------------------------------------------------- what nobody wrote

SCALARS = (
    *("null", "true", "false", "0", "-0", "1", "-1", "1.5", "1e5", "1e308", "1e309", "-1e400", "1e-400", "NaN"),
    *("Infinity", "-Infinity", "nan", '""', '"x"', '"1.5"', '"red"', '"2024-05-31"', '"9999-99-99"', '"\\u0000"'),
    *('"\\ud800"', "1" * 400, "0." + "1" * 400, "01", "+1", ".5", "1.", "0x10", '"' + "x" * 5000 + '"', "{}", "[]"),
    *("2147483648", "9223372036854775808", "340282350000000000000000000000000000000", "3.4e38"),
)
KEYS = (
    *("instances", "inputs", "rows", "model", "version", "label", "parameters", "signature_name", "x", "a", "b", ""),
    *("width", "length", "color", "wild", "seen", "name", "shape", "datatype", "data", "outputs", "id", "\\u0000"),
    *("binary_data_size", "classification", "timeout", "priority"),
)
WORDS = ("line", "pair", "flowers", "coin", "features", "FP32", "FP64", "INT64", "BYTES", "BOOL", "prediction", "1")
JUNK = (
    b"\xff",
    b"\x00",
    b"\xed\xa0\x80",
    b"\xc0\xaf",
    b"\xef\xbb\xbf",
    b"NaN",
    b",",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b"\\u",
)


def value(dice, depth=0):
    """The text of something that is nearly JSON."""
    kind = dice.random()
    if depth > 4 or kind < 0.45:
        return dice.choice(SCALARS) if dice.random() < 0.8 else json.dumps(dice.choice(WORDS))
    if kind < 0.75:
        return "[" + ",".join(value(dice, depth + 1) for _ in range(dice.randint(0, 4))) + "]"
    pairs = (f'"{dice.choice(KEYS)}":{value(dice, depth + 1)}' for _ in range(dice.randint(0, 4)))
    return "{" + ",".join(pairs) + "}"


def nearly_good(dice):
    """A request that a small thing may be wrong with."""
    name = dice.choice(list(tiny.ROWS))
    rows = [dict(tiny.ROWS[name]) for _ in range(dice.randint(0, 3))]
    for row in rows:
        if dice.random() < 0.5:
            row[dice.choice([*row, *KEYS])] = dice.choice(
                [None, True, 1, 1e300, "red", "x", [], {}, math.nan, math.inf]
            )
    body = {dice.choice(["instances", "inputs"]): rows if dice.random() < 0.5 else [list(row.values()) for row in rows]}
    if dice.random() < 0.2:
        body[dice.choice(KEYS)] = dice.choice([None, 1, "line", [], {}])
    return name, json.dumps(body).encode()


def tensors(dice):
    """A request of the Open Inference Protocol that something may be wrong with."""
    name = dice.choice(list(tiny.ROWS))
    shape = dice.choice(
        [[1, 1], [2, 1], [1, 2], [2], [], [0, 1], [-1, 1], [10**18, 10**18], [2**63, 1], ["1"], 1, None]
    )
    data = dice.choice([[1.0], [1, 2], [[1], [2]], [None], ["x"], [], [True], "x", 1, [1e39], [[[[1]]]]])
    tensor = {
        "name": dice.choice(["features", "x", "a", "width", ""]),
        "shape": shape,
        "datatype": dice.choice([*WORDS, "", 1, None]),
        "data": data,
    }
    if dice.random() < 0.3:
        tensor["parameters"] = {"binary_data_size": dice.choice([0, 4, -1, 2**63, "4", 1.5, None])}
    return name, json.dumps({"id": "1", "inputs": [tensor] * dice.randint(0, 2)}).encode()


def mutated(dice, raw):
    """The same, cut, doubled or with something else inside."""
    raw = bytearray(raw)
    for _ in range(dice.randint(0, 3)):
        place = dice.randrange(len(raw) + 1)
        match dice.randrange(5):
            case 0:
                del raw[place : place + dice.randint(1, 8)]
            case 1:
                raw[place:place] = dice.choice(JUNK)
            case 2 if raw:
                raw[place % len(raw)] = dice.randrange(256)
            case 3:
                raw[place:place] = raw[: dice.randint(1, 30)]
            case _:
                raw[place:place] = dice.choice(SCALARS).encode()
    return bytes(raw)


def made(number):
    """Path, headers and body of one of them; the same number gives the same."""
    dice = random.Random(number)
    kind, headers = dice.random(), []
    if kind < 0.35:
        name, raw = nearly_good(dice)
        path = f"/v1/models/{name}:predict"
    elif kind < 0.6:
        name, raw = tensors(dice)
        path = f"/v2/models/{name}/infer"
        if dice.random() < 0.2:
            headers.append(f"Inference-Header-Content-Length: {dice.choice([0, len(raw), 1, 10**30, -1, 'x'])}")
    else:
        raw = value(dice).encode()
        path = dice.choice(
            ["/predict", "/v1/models/line:predict", "/v2/models/pair/infer", "/v1/models/flowers:predict"]
        )
    if dice.random() < 0.5:
        raw = mutated(dice, raw)
    if dice.random() < 0.05:
        raw, _ = mutated(dice, gzip.compress(raw)), headers.append("Content-Encoding: gzip")
    return path, headers, raw


def check(number, status, head, raw):
    """What is wrong with an answer; None when nothing is."""
    no_numbers = []
    answer = json.loads(raw, parse_constant=no_numbers.append) if b"json" in head else {}
    if status == 200:
        answer.pop("id", None)  # the client's own word, which may be NaN
        return f"{number}: {raw[:200]!r}" if no_numbers or "null" in json.dumps(answer) else None
    if len(raw) >= 4096 or not answer.get("error"):
        return f"{number}: {status} {raw[:200]!r}"
    return f"{number}: {status} {raw[:300]!r}" if status >= 500 else None


def test_no_body_gets_anything_but_an_answer_or_a_short_sentence(server):
    seen, wrong, seconds = Counter(), [], {}
    numbers = iter(range(BODIES))

    async def send():
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(Client, "127.0.0.1", server.port)
        for number in numbers:
            path, headers, raw = made(number)
            began = time.monotonic()
            status, head, answer = await asyncio.wait_for(client.ask(raw, path, *headers), 30)
            seconds[number] = time.monotonic() - began
            seen[status] += 1
            if problem := check(number, status, head, answer):
                wrong.append(problem)
            if b"connection: close" in head:
                _, client = await loop.create_connection(Client, "127.0.0.1", server.port)
        client.transport.close()

    async def send_all():
        await asyncio.gather(*(send() for _ in range(16)))

    before = memory_mb(server)
    asyncio.run(send_all())
    more, longest = memory_mb(server) - before, max(seconds.values())
    print(f"\n{BODIES} bodies: {dict(seen)}, the longest took {longest:.2f} s, {more:.0f} MB more")
    assert wrong == []
    assert seen[200] > BODIES / 100
    numbers = [number for number, took in seconds.items() if took > 0.5]  # again, alone: was it the machine?
    seconds.clear()
    asyncio.run(send())
    assert [number for number, took in seconds.items() if took > 0.5] == []


ODD = (
    b'{"instances": [{"x": 1, "x": 2}]}',  # a key twice
    b'{"instances": [{"x": 1, "x": "no number"}]}',
    b'{"instances": [[1]], "instances": [[2]]}',
    b'{"instances": [[NaN]]}',
    b'{"instances": [[-Infinity]]}',
    b'{"instances": [[3e38]]}',  # 2x + 1 is more than float32 holds
    b'{"instances": [["1"]]}',
    b'{"instances": [[true]]}',
    b'{"instances": [{"x": "\xff"}]}',
    b'{"instances": [{"\xed\xa0\x80": 1}]}',
    b'{"instances": [{"x": "\\ud800"}]}',
    b'\xef\xbb\xbf{"instances": [[1]]}',
    b'{"instances": 1}',
    b'{"instances": [[]]}',
    b"null",
    b"",
)


@pytest.mark.parametrize("path", ["/v1/models/line:predict", "/predict"])
@pytest.mark.parametrize("raw", ODD)
def test_what_is_nearly_right_gets_a_finite_number_or_a_short_sentence(server, raw, path):
    answer = server.client.post(path, content=raw)
    assert check(0, answer.status_code, b"json", answer.content) is None
    if answer.status_code == 200:
        assert all(isinstance(one, float) and math.isfinite(one) for one in answer.json()["predictions"])


# --------------------------------------------------------------------------------------------------- what somebody did


def oip(**tensor):
    whole = {"name": "features", "datatype": "FP32", "shape": [1, 1]} | tensor
    return json.dumps({"inputs": [whole]}).encode()


ZERO_GB = zlib.compressobj(9, zlib.DEFLATED, 31)
BOMB = b"".join([*(ZERO_GB.compress(b"\0" * 2**20) for _ in range(1024)), ZERO_GB.flush()])
LINE, OIP = "/v1/models/line:predict", "/v2/models/line/infer"
HOSTILE = {
    "50,000 wrong cells": (LINE, json.dumps({"instances": [["x"]] * 50_000}).encode(), ()),
    "50,000 unknown features": (LINE, json.dumps({"instances": [{f"f{x}": 1 for x in range(50_000)}]}).encode(), ()),
    "50,000 unknown keys": (LINE, json.dumps({f"f{x}": 1 for x in range(50_000)}).encode(), ()),
    "a bomb of a gigabyte": (LINE, BOMB, ("Content-Encoding: gzip",)),
    "a thousand members": (LINE, gzip.compress(b"{}") * 1000, ("Content-Encoding: gzip",)),
    "a million lists in lists": (LINE, b"[" * 1_000_000, ()),
    "a million lists in lists, with NaN": (LINE, b"[" * 1_000_000 + b"NaN", ()),
    "a million objects in objects": (LINE, b'{"instances":' * 100_000, ()),
    "16 MB of empty lists": (LINE, b'{"instances":[' + b"[]," * 5_600_000 + b"[]]}", ()),
    "16 MB of empty objects": (LINE, b'{"instances":[' + b"{}," * 5_600_000 + b"{}]}", ()),
    "32 MB of numbers in a row": (LINE, b'{"instances":[[' + b"1.5," * 8_000_000 + b"1]]}", ()),
    "16 MB of commas in NaN": (LINE, b'{"instances":[[NaN' + b",1" * 8_000_000 + b"]]}", ()),
    "a number of a million digits": (LINE, b'{"instances":[[' + b"1" * 1_000_000 + b"]]}", ()),
    "a name of a megabyte": (LINE, b'{"model":"' + b"x" * 1_000_000 + b'","instances":[[1]]}', ()),
    "a key of a megabyte": (LINE, b'{"' + b"x" * 1_000_000 + b'":[[1]]}', ()),
    "a shape of a quintillion": (OIP, oip(shape=[10**18, 10**18], data=[1]), ()),
    "a shape of a million": (OIP, oip(shape=[1] * 1_000_000, data=[1]), ()),
    "100,000 tensors": (OIP, json.dumps({"inputs": [{"name": "x"}] * 100_000}).encode(), ()),
    "a body of 60 MB of spaces": (LINE, b" " * 60_000_000, ()),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_was_made_to_hurt_is_refused_in_a_short_sentence(server, what):
    """Half a second of the clock or, where the machine has others to serve, of the server's own processor time."""
    path, raw, headers = HOSTILE[what]
    before, most, took, cost = memory_mb(server), 0.0, math.inf, math.inf
    for _ in range(2):
        began, began_cpu = time.monotonic(), cpu_s(server)
        pairs = dict(header.split(": ") for header in headers)
        answer = server.client.post(path, content=raw, headers=pairs)
        took, cost = min(took, time.monotonic() - began), min(cost, cpu_s(server) - began_cpu)
        most = max(most, memory_mb(server) - before)
    code = answer.json()["code"]
    print(f"\n{what}: {answer.status_code} {code} in {took:.2f} s, {cost:.2f} s of a core, {most:.0f} MB more")
    assert 400 <= answer.status_code < 500
    assert len(answer.content) < 4096
    assert min(took, cost) < 0.5 + len(raw) / 50e6  # and what it takes to send so much
    assert most < 400
    assert server.answers()


def cpu_s(server):
    """Processor time of all its processes, in seconds."""
    return sum(one.cpu_s for one in server.family())


def test_schemathesis_finds_nothing(server):
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{server.port}/openapi.json"]
    command += ["--max-examples=40", "--seed=1", "--no-color", "--phases=examples,coverage,fuzzing"]
    checks = (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
    )
    done = subprocess.run(
        [*command, f"--checks={','.join(checks)}"], check=False, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
