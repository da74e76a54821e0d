"""A model that takes 50 ms for a batch, however many rows it has, asked by 64 connections, and a small model beside it.

The ideal is what ONNX Runtime alone does with full batches on both cores; a batch is full when it has as many rows as
the setting allows, or, where it allows more than there are, half of the 64 that are asked at any time. There a server
can be beyond it: one run of all 64 on both cores is done sooner than two of half of them, one on each. The small model
is measured by itself, then while the 64 connections keep the slow one busy. Nothing is refused for having to wait: by
default a request must not wait for longer than 0.5 s, and 64 in batches of 8 may. Rows are counted from a second after
wrk begins, since connections that come one after the other begin with batches of a row or two, until before it ends.
wrk counts a pause once for each request that would have come in it. So p99 is of time, and a machine's own pauses count
(docs/decisions/0081-what-is-beside-a-slow-model.md).
"""

import statistics
import time
from typing import Any

import numpy as np

from benchmarks.serving.alone import runs_alone
from benchmarks.serving.kinds import numbers, plain_json, texts
from benchmarks.serving.load import WARM_UP_S, Wrk, measure
from benchmarks.serving.published import BESIDE, graph_of
from benchmarks.serving.servers import ask, rowcast, with_key

CONNECTIONS = 64
BATCHES = (8, 16, 4096)
"""The most rows in a batch, as the setting says; the last is its default."""
BESIDE_CONNECTIONS = (1, 16)
_SLOW, _SMALL = "/v1/models/slow:predict", "/v1/models/bench:predict"


def measure_once(port: int, seconds: int) -> dict[str, list[dict[str, Any]]]:
    """Throughput for each size of batch, and the small model's latency."""
    row = with_key(plain_json(texts(numbers(1))))
    batches, beside = [], []
    for most in BATCHES:
        with rowcast(BESIDE, port, _SLOW, row, workers=2, max_batch_rows=most, max_wait_s=10) as process:
            batches.append({"most_rows": most} | _throughput(port, most, 2 * seconds))
            print(f"slow, at most {most} rows: {batches[-1]}")
            if most == BATCHES[-1]:
                for connections in BESIDE_CONNECTIONS:
                    beside.append({"connections": connections} | _latency(process, port, connections, seconds))
                    print(f"small beside slow: {beside[-1]}")
    return {"batches": batches, "beside": beside}


def _throughput(port: int, most: int, seconds: int) -> dict[str, Any]:
    full = min(most, CONNECTIONS // 2)

    def alone() -> dict[str, float]:
        return runs_alone(graph_of("slow", BESIDE), numbers(full), seconds / 4, processes=2)

    around = [alone()]  # and afterwards: the machine drifts
    row = with_key(plain_json(texts(numbers(1))))
    wrk = Wrk(port, [_SLOW], row, connections=CONNECTIONS, seconds=seconds + 2 * WARM_UP_S)
    time.sleep(WARM_UP_S)
    before, began = _rows_and_batches(port), time.perf_counter()
    time.sleep(seconds)
    (rows, batches), took_s = np.subtract(_rows_and_batches(port), before), time.perf_counter() - began
    seen = wrk.seen()
    around.append(alone())
    ideal = statistics.mean(one["rps"] for one in around) * full
    return seen | {
        "rps": round(float(rows) / took_s, 1),
        "ideal": round(ideal, 1),
        "batch_ms": round(statistics.mean(one["p50_ms"] for one in around), 1),
        "share": round(float(rows) / took_s / ideal, 3),
        "rows_in_batch": round(float(rows / max(1, batches)), 1),
    }


def _latency(process: int, port: int, connections: int, seconds: int) -> dict[str, Any]:
    """Of the small model, alone and while the slow one is kept busy."""
    row = with_key(plain_json(texts(numbers(1))))
    alone = measure(process, port, [_SMALL], row, connections=connections, seconds=seconds)
    busy = Wrk(port, [_SLOW], row, connections=CONNECTIONS, seconds=seconds + 2 * WARM_UP_S)
    beside = measure(process, port, [_SMALL], row, connections=connections, seconds=seconds)
    failed = busy.seen()["failed"]
    return {
        "alone": alone,
        "beside": beside,
        "slow_failed": failed,
        "p99": round(beside["p99_ms"] / alone["p99_ms"], 2),
    }


def _rows_and_batches(port: int) -> tuple[float, float]:
    """Of the slow model, since the server started."""
    page = ask(port, "/metrics")[1].decode()
    names = ("rowcast_batch_rows_sum", "rowcast_batch_rows_count")
    lines = [line for line in page.splitlines() if 'model="slow"' in line]
    rows, batches = (sum(float(line.split()[-1]) for line in lines if line.startswith(name)) for name in names)
    return rows, batches
