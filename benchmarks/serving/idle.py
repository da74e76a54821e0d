"""What a server costs that nobody asks: processor time and memory of all its processes, after it has answered some."""

import time
from typing import Any

from benchmarks.serving import machine
from benchmarks.serving.kinds import numbers, plain_json, texts
from benchmarks.serving.load import measure
from benchmarks.serving.published import SERVED
from benchmarks.serving.servers import rowcast, with_key

_PATH = "/v1/models/bench:predict"
_SETTLE_S = 10  # Python's own allocator and the sampling of drift need a moment after the load


def measure_once(port: int, seconds: int) -> dict[str, Any]:
    """Share of a core and PSS in MB, process by process; two API processes and a worker."""
    row = with_key(plain_json(texts(numbers(1))))
    with rowcast(SERVED, port, _PATH, row) as server:
        measure(server, port, [_PATH], row, connections=64, seconds=2)
        time.sleep(_SETTLE_S)
        processes = machine.tree(server)
        before = {process: machine.processor_s([process]) for process in processes}
        started = time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - started
        each = [
            {
                "command": machine.command_of(process)[-60:],
                "core": (machine.processor_s([process]) - before[process]) / took,
                "pss_mb": machine.memory_mb(process),
            }
            for process in processes
        ]
    seen = {
        "seconds": seconds,
        "core": round(sum(one["core"] for one in each), 5),
        "pss_mb": round(sum(one["pss_mb"] for one in each), 1),
        "processes": each,
    }
    for one in each:
        print(f"idle: {one['core']:.3%} of a core, {one['pss_mb']:.1f} MB, {one['command']}")
    return seen
