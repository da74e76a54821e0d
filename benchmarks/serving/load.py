"""Load by wrk: one thread, so many connections, each asking again once it has its answer."""

import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving import machine
from benchmarks.serving.kinds import Body

_SCRIPT = Path(__file__).with_name("post.lua")
WARM_UP_S = 1


class Wrk:
    """One run of wrk, from when it is made."""

    def __init__(self, port: int, paths: Sequence[str], body: Body, *, connections: int, seconds: int) -> None:
        """Ask one path after the other, each connection all of them."""
        self._folder = tempfile.TemporaryDirectory()
        files = {"BODY": body.raw, "PATHS": "\n".join(paths).encode()}
        for name, content in files.items():
            (Path(self._folder.name) / name).write_bytes(content)
        variables = {name: str(Path(self._folder.name) / name) for name in files}
        headers = "\n".join(f"{name}: {value}" for name, value in body.headers.items())
        url = f"http://127.0.0.1:{port}"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(_SCRIPT), url]
        environment = os.environ | variables | {"TYPE": body.type, "HEADERS": headers}
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def seen(self) -> dict[str, Any]:
        """Requests per second, milliseconds, and how many answers were none; waits for the end."""
        said = self._process.communicate()[0]
        self._folder.cleanup()
        if self._process.returncode:
            raise SystemExit(f"wrk ended with {self._process.returncode}: {said}")
        seen = json.loads(said.partition("\n@")[2])
        return {
            "rps": round((seen["requests"] - seen["refused"]) / seen["us"] * 1e6, 1),
            "p50_ms": seen["p50_us"] / 1e3,
            "p99_ms": seen["p99_us"] / 1e3,
            "failed": seen["failed"],
        }


def measure(
    server: int, port: int, paths: Sequence[str], body: Body, *, connections: int, seconds: int
) -> dict[str, Any]:
    """What wrk saw, and which share of the machine was taken by others than wrk and the server, whose process it is."""
    Wrk(port, paths, body, connections=connections, seconds=WARM_UP_S).seen()
    before = _others_s(server)
    started = time.monotonic()
    seen = Wrk(port, paths, body, connections=connections, seconds=seconds).seen()
    cores = os.cpu_count() or 1
    others = (_others_s(server) - before) / (time.monotonic() - started) / cores
    return seen | {"others": round(max(0.0, others), 3)}


def _others_s(server: int) -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return machine.busy_s() - used.ru_utime - used.ru_stime - machine.processor_s(machine.tree(server))
