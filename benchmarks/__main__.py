"""`make bench`: Rowcast beside other servers on this machine, the same small network behind each.

Every server is started by itself, asked once to see that its answers are right, warmed up and measured by wrk; all of
them in turn, several rounds, because a machine drifts. What is printed are medians over the rounds, and in brackets
Rowcast's multiple of each, the median of the multiples within a round.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from benchmarks.environments import make_environment

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "bench"
PUBLISHED = BUILD / "published"
GRAPH = PUBLISHED / "bench" / "1" / "model.onnx"
PORT = 8790
KEY = "a key that is asked for"
START_S = 60.0

PACKAGES = {
    "mosec": ["mosec==0.9.8", "onnxruntime==1.31.1", "numpy", "orjson"],
    "litserve": ["litserve==0.2.19", "onnxruntime==1.31.1", "numpy", "orjson", "uvloop", "httptools"],
}


@dataclass(frozen=True)
class Body:
    """One kind of request, as a server takes it."""

    raw: bytes
    type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


KINDS = {"1 row JSON": 1, "1000 rows JSON": 1000, "1000 rows binary": 1000}


def rows_of(kind: str) -> np.ndarray:
    """The rows that a kind of request carries, float32 [N, 2]."""
    dice = random.Random(1)
    rows = [[round(dice.uniform(-1, 1), 4) for _ in range(2)] for _ in range(KINDS[kind])]
    return np.array(rows, dtype=np.float32)


class Peer:
    """A server that Rowcast is compared with: an environment of its own, a file of peers/."""

    def __init__(self, name: str, environment: str, *arguments: str, **settings: object) -> None:
        self.name, self.environment, self.arguments, self.settings = name, environment, arguments, settings

    def command(self) -> list[str]:
        return [str(BUILD / self.environment / "bin" / "python"), f"{self.name}_server.py", *self.arguments]

    def variables(self, kind: str, connections: int) -> dict[str, str]:
        chosen = {"PORT": PORT, "MODEL": GRAPH, "WORKERS": 2, "APIS": 2, "BATCH": 64} | self.settings
        if self.name == "mosec":
            chosen["BATCH"] = _mosec_batch(kind, connections)
        if "binary" in kind:
            chosen["BINARY"] = 1
        return {name: str(value) for name, value in chosen.items()}

    def path(self, kind: str) -> str:  # noqa: ARG002 - the same for all kinds
        return "/predict"

    def body(self, kind: str) -> Body:
        rows = rows_of(kind)
        if "binary" in kind:
            return Body(rows.tobytes(), "application/octet-stream")
        return Body(_json({"instances": _texts(rows)}))

    def folder(self) -> Path:
        return HERE / "peers"


class Rowcast(Peer):
    """Ourselves, with all that production needs: key, limits, deadlines, metrics, request ids."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "service"]

    def variables(self, kind: str, connections: int) -> dict[str, str]:  # noqa: ARG002 - nothing is tuned
        return {
            "ROWCAST_REPOSITORY": str(PUBLISHED),
            "ROWCAST_HOST": "127.0.0.1",
            "ROWCAST_PORT": str(PORT),
            "ROWCAST_API_PROCESSES": "2",
            "ROWCAST_WORKERS": "1",
            "ROWCAST_API_KEY": KEY,
            "ROWCAST_LOG_LEVEL": "warning",
        }

    def path(self, kind: str) -> str:
        return "/v2/models/bench/infer" if "binary" in kind else "/v1/models/bench:predict"

    def body(self, kind: str) -> Body:
        rows, key = rows_of(kind), {"X-API-Key": KEY}
        if "binary" not in kind:
            return Body(_json({"instances": _texts(rows)}), headers=key)
        tensor = {"name": "features", "datatype": "FP32", "shape": rows.shape}
        wanted = [{"name": "probabilities", "parameters": {"binary_data": True}}]
        head = _json(
            {"inputs": [tensor | {"parameters": {"binary_data_size": rows.nbytes}}], "outputs": wanted},
        )
        headers = key | {"Inference-Header-Content-Length": str(len(head))}
        return Body(head + rows.tobytes(), "application/octet-stream", headers)

    def folder(self) -> Path:
        return HERE.parent


def _mosec_batch(kind: str, connections: int) -> int:
    """Mosec's best batch for this load, tried out: it has to be told."""
    if "binary" in kind:
        return 1
    if KINDS[kind] > 1:
        return 4
    return 1 if connections == 1 else 64 if connections > 64 else 16


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _texts(rows: np.ndarray) -> list[list[float]]:
    return [[round(float(value), 4) for value in row] for row in rows]


SERVERS = (
    Rowcast("rowcast", ""),
    Peer(
        "mosec", "mosec", "--address", "127.0.0.1", "--port", str(PORT), "--timeout", "10000", "--log-level", "warning"
    ),
    Peer("asgi", "litserve"),
    Peer("litserve", "litserve", WORKERS=1, APIS=1, BATCH=1),
)


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--seconds", type=int, default=4, help="of each measurement, after one of warming up")
    asked.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 256])
    asked.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    asked.add_argument("--servers", nargs="+", default=[server.name for server in SERVERS])
    plan = asked.parse_args()
    if shutil.which("wrk") is None:
        print(
            "wrk makes the load and is not there; on Debian and Ubuntu: apt-get install wrk; on macOS: brew install wrk"
        )
        return 2
    set_up()
    servers = [server for server in SERVERS if server.name in plan.servers]
    measured: dict[tuple[str, int, str], list[dict[str, float]]] = defaultdict(list)
    for number in range(plan.rounds):
        for kind in plan.kinds:
            for connections in plan.connections:
                for server in servers:
                    with running(server, kind, connections):
                        one = measure(server, kind, connections, plan.seconds)
                    measured[kind, connections, server.name].append(one)
                    print(f"round {number + 1}  {kind}  c={connections}  {server.name}: {one}")
    (BUILD / "results.json").write_text(json.dumps([[*key, runs] for key, runs in measured.items()], indent=1))
    show(measured, [server.name for server in servers])
    return 0


def set_up() -> None:
    """Environments, network and bodies, as far as they are not there."""
    for name, packages in PACKAGES.items():
        make_environment(BUILD / name, packages)
    if not GRAPH.exists():
        command = [sys.executable, "-m", "training", HERE / "bench.toml"]
        subprocess.run(command, check=True, env=os.environ | {"ROWCAST_REPOSITORY": str(PUBLISHED)})


@contextlib.contextmanager
def running(server: Peer, kind: str, connections: int) -> Iterator[None]:
    """A server that has given a right answer."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROWCAST_")}
    variables = kept | {"OMP_NUM_THREADS": "1"} | server.variables(kind, connections)
    with (BUILD / f"{server.name}.log").open("wb") as log:
        process = subprocess.Popen(
            server.command(), cwd=server.folder(), env=variables, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_S
        while not _answers_right(server, kind):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{server.name} does not answer; see {log.name}")
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # plain LitServe leaves its children behind
        process.wait()
        time.sleep(0.3)


def _answers_right(server: Peer, kind: str) -> bool:
    body = server.body(kind)
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{server.path(kind)}", body.raw)
    for name, value in {"Content-Type": body.type, **body.headers}.items():
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            raw = answer.read()
    except OSError:
        return False
    session = ort.InferenceSession(GRAPH, providers=["CPUExecutionProvider"])
    right = session.run(["probabilities"], {"features": rows_of(kind)})[0]
    if "binary" in kind:
        got = np.frombuffer(raw[-right.nbytes :], np.float32).reshape(right.shape)
    else:
        got = np.array(json.loads(raw)["probabilities"], np.float32)
    np.testing.assert_allclose(got, right, atol=1e-5)
    return True


def measure(server: Peer, kind: str, connections: int, seconds: int) -> dict[str, float]:
    """Requests per second and milliseconds, as wrk saw them."""
    body = server.body(kind)
    (BUILD / "body").write_bytes(body.raw)
    headers = "\n".join(f"{name}: {value}" for name, value in body.headers.items())
    variables = os.environ | {"BODY": str(BUILD / "body"), "TYPE": body.type, "HEADERS": headers}
    url = f"http://127.0.0.1:{PORT}{server.path(kind)}"
    for length in (1, seconds):
        command = ["wrk", "-t1", f"-c{connections}", f"-d{length}s", "--timeout", "10s", "-s", HERE / "post.lua", url]
        said = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout
    seen = json.loads(said.partition("\n@")[2])
    return {
        "rps": round(seen["requests"] / seen["us"] * 1e6, 1),
        "p50_ms": seen["p50_us"] / 1e3,
        "p99_ms": seen["p99_us"] / 1e3,
        "failed": seen["failed"],
    }


def show(measured: Mapping[tuple[str, int, str], list[dict[str, float]]], names: list[str]) -> None:
    """Medians over the rounds, and in brackets how many times as much Rowcast does."""
    table = Table("request", "connections", *names, title="requests/s (Rowcast's are so many times as many); p50 in ms")
    for kind, connections in dict.fromkeys(key[:2] for key in measured):
        cells = []
        for name in names:
            runs = measured[kind, connections, name]
            ours = measured.get((kind, connections, "rowcast"))
            rps, p50 = (statistics.median(run[what] for run in runs) for what in ("rps", "p50_ms"))
            cell = f"{rps:,.0f}"
            if ours and name != "rowcast":  # servers of one round are pairs: the machine drifts from round to round
                ratio = statistics.median(mine["rps"] / its["rps"] for mine, its in zip(ours, runs, strict=True))
                cell += f" ({ratio:.2f} x)"
            failed = sum(run["failed"] for run in runs)
            cells.append(cell + f"; {p50:.2f}" + (f"; {failed:.0f} failed" if failed else ""))
        table.add_row(kind, str(connections), *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(main())
