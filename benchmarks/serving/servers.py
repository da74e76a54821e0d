"""The servers that are compared: Rowcast with all that production needs, and its peers in environments of their own."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.kinds import Body, Kind, numbers, oip_binary, oip_json, plain_json, rows_of
from benchmarks.serving.published import BUILD, HERE, ROOT, SERVED, graph_of, manifest_of

KEY = "a key that is asked for"
START_S = 60.0

Choice = Mapping[str, int]
"""Options of a peer, by the variable that its script reads."""


@dataclass(frozen=True)
class Peer:
    """A server that Rowcast is compared with: an environment of its own, a script of peers/.

    Attributes:
        models: those it serves.
        choices: the options that are tried for a kind of request and a number of connections.
    """

    name: str
    script: str
    environment: str
    choices: Callable[[Kind, int], list[Choice]]
    models: tuple[str, ...] = ("bench",)

    def takes(self, kind: Kind) -> bool:
        """Whether it is measured with such requests."""
        return kind.model in self.models and kind.form != "oip" and (kind.like is None or kind.rows > 1)

    def command(self, port: int) -> list[str]:
        python = str(BUILD / self.environment / "bin" / "python")
        mosecs = ["--address", "127.0.0.1", "--port", str(port), "--timeout", "10000", "--log-level", "warning"]
        return [python, f"{self.script}.py", *(mosecs if self.script == "mosec_server" else [])]

    def variables(self, kind: Kind, choice: Choice, port: int) -> dict[str, str]:
        chosen: dict[str, Any] = {"PORT": port, "MODEL": graph_of(kind.model), **choice}
        if kind.form == "binary":
            chosen["BINARY"] = 1
        if kind.model == "mixed":
            chosen |= {"MANIFEST": manifest_of(kind.model), "PYTHONPATH": ROOT}
        return {name: str(value) for name, value in chosen.items()}

    def path(self, kind: Kind) -> str:  # noqa: ARG002 - the same for all kinds
        return "/predict"

    def body(self, kind: Kind) -> Body:
        if kind.form == "binary":
            return Body(numbers(kind.rows).tobytes(), "application/octet-stream")
        return plain_json(rows_of(kind))

    def folder(self) -> Path:
        return HERE / "peers"


class Rowcast(Peer):
    """Ourselves, with a key, limits, deadlines, metrics, request ids; nothing is tuned to the request."""

    def takes(self, kind: Kind) -> bool:  # noqa: ARG002 - all
        return True

    def command(self, port: int) -> list[str]:  # noqa: ARG002 - a variable says it
        return [sys.executable, "-m", "service"]

    def variables(self, kind: Kind, choice: Choice, port: int) -> dict[str, str]:  # noqa: ARG002
        return settings(SERVED, port)

    def path(self, kind: Kind) -> str:
        return f"/v1/models/{kind.model}:predict" if kind.form == "plain" else f"/v2/models/{kind.model}/infer"

    def body(self, kind: Kind) -> Body:
        if kind.form == "plain":
            return with_key(plain_json(rows_of(kind)))
        return with_key((oip_json if kind.form == "oip" else oip_binary)(numbers(kind.rows)))

    def folder(self) -> Path:
        return ROOT


def settings(repository: Path, port: int, **more: object) -> dict[str, str]:
    """How Rowcast serves in all parts of the benchmark."""
    chosen = {"repository": repository, "host": "127.0.0.1", "port": port, "api_processes": 2, "workers": 1}
    chosen |= {"api_key": KEY, "log_level": "warning"} | more
    return {f"ROWCAST_{name.upper()}": str(value) for name, value in chosen.items()}


def with_key(body: Body) -> Body:
    return Body(body.raw, body.type, {**body.headers, "X-API-Key": KEY})


def _mosecs(kind: Kind, connections: int) -> list[Choice]:
    """Two workers and a batch: the one size that is best depends on the load, and mosec has to be told."""
    if connections == 1:  # a single client gains nothing from waiting for others
        return [{"WORKERS": 2, "BATCH": 1}]
    return [{"WORKERS": 2, "BATCH": batch} for batch in ((1, 16, 64) if kind.rows == 1 else (1, 4, 16))]


def _litserves_best(kind: Kind, connections: int) -> list[Choice]:  # noqa: ARG001
    """Processes and batches, the documented ways to more throughput; `fast_queue` does nothing in this release."""
    batch = 64 if kind.rows == 1 else 4
    tried = ((1, 1, 1), (1, 2, batch), (2, 2, 1), (2, 2, batch))
    return [{"WORKERS": workers, "APIS": apis, "BATCH": most} for workers, apis, most in tried]


SERVERS = {
    server.name: server
    for server in (
        Rowcast("rowcast", "", "", lambda *_: [{}]),
        Peer("mosec", "mosec_server", "mosec", _mosecs, models=("bench", "mixed")),
        Peer("asgi", "asgi_server", "litserve", lambda *_: [{"WORKERS": 2}]),
        Peer("litserve, best options", "litserve_server", "litserve", _litserves_best),
        Peer("litserve, plain", "litserve_server", "litserve", lambda *_: [{"WORKERS": 1, "APIS": 1, "BATCH": 1}]),
    )
}


@contextlib.contextmanager
def running(
    name: str,
    command: list[str],
    folder: Path,
    variables: Mapping[str, str],
    answers_right: Callable[[], bool],
    *,
    start_s: float = START_S,
) -> Iterator[int]:
    """A server that has given a right answer: the number of its first process.

    Raises:
        SystemExit: it ended, or gave none in time.
        AssertionError: an answer was wrong.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ROWCAST_")}
    environment = kept | {"OMP_NUM_THREADS": "1"} | dict(variables)
    with (BUILD / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + start_s
        while not answers_right():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} does not answer; see {log.name}")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # plain LitServe leaves its children behind
        process.wait()
        time.sleep(0.3)


@contextlib.contextmanager
def rowcast(
    repository: Path, port: int, path: str, body: Body, *, start_s: float = START_S, **more: object
) -> Iterator[int]:
    """Rowcast serving a repository, once it has answered this request."""

    def answers() -> bool:
        return ask(port, path, body)[0] == 200

    command = [sys.executable, "-m", "service"]
    with running("rowcast", command, ROOT, settings(repository, port, **more), answers, start_s=start_s) as process:
        yield process


def ask(port: int, path: str, body: Body | None = None) -> tuple[int, bytes]:
    """Status and body of one answer; status 0 where there is none."""
    headers = {"X-API-Key": KEY} if body is None else {"Content-Type": body.type, **body.headers}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body and body.raw, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""
