"""Real servers: each runs in a session of its own, and nothing of that session lives when the test is over."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service import tiny

CHECKOUT = Path(__file__).resolve().parents[2]
START_S = 180.0  # a cold start takes 2 s here, and a minute where ten others want the two cores
PATIENT = {"deadline_s": 120, "max_wait_s": 60, "hang_s": 60, "receive_s": 60}
"""Settings of a server that gives nothing up because the machine is busy."""
HELD = {"hang_s": 100_000, "inline_s": 0}
"""Settings of a server whose requests wait for its worker, also for one that a test has stopped."""


def until(condition: Callable[[], Any], seconds: float = START_S, what: str = "") -> Any:
    """What `condition` returns, once it is true."""
    deadline = time.monotonic() + seconds
    while not (outcome := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.02)
    return outcome


@dataclass
class Process:
    """One process of the machine, from /proc."""

    pid: int
    parent: int
    group: int
    session: int
    started: int
    state: str

    @property
    def name(self) -> str:
        """As `ps -e` shows it; empty for one that has ended since it was seen."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/comm").read_text().strip()
        return ""

    @property
    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def processes() -> Iterator[Process]:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            yield Process(int(entry.name), *map(int, fields[1:4]), int(fields[19]), fields[0])


class Server:
    """`python -m service` on a port of its own; `before` is what starts it, such as `unshare`."""

    def __init__(self, repository: Path, log: Path, before: Sequence[str] = (), **settings: Any) -> None:
        self.port = int(settings.pop("port", 0)) or free_port()
        self.log = log
        arguments = settings.pop("arguments", ())
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROWCAST_", "PROMETHEUS_"))}
        chosen = {"repository": repository, "host": "127.0.0.1", "port": self.port, "poll_s": 0.1, "api_processes": 1}
        chosen |= settings
        self.api_processes = int(chosen["api_processes"] or 1)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-m", "service", *arguments],
                cwd=CHECKOUT,
                env=kept | {f"ROWCAST_{name.upper()}": str(value) for name, value in chosen.items()},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.connect_anew()

    def connect_anew(self) -> None:
        """Ask over new connections from now on."""
        if hasattr(self, "client"):
            self.client.close()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=START_S, trust_env=False)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def pid_1(self) -> int:
        """Who is PID 1 in the namespace that it was started in; 0 before it is there."""
        return int(subprocess.run(["pgrep", "-P", str(self.pid)], check=False, capture_output=True).stdout or 0)

    def family(self) -> list[Process]:
        """Every process of this server that has not ended."""
        return [one for one in processes() if one.session == self.pid and one.state != "Z"]

    def children_of(self, parent: int) -> list[Process]:
        """From the oldest on; their numbers say nothing, as those begin again at some point."""
        return sorted((one for one in self.family() if one.parent == parent), key=lambda one: one.started)

    @property
    def main(self) -> int:
        """LitServe's main process, which leads a group; orphans are below the same parent for a moment."""
        (main,) = (one for one in self.children_of(self.pid) if one.group == one.pid)
        return main.pid

    @property
    def workers(self) -> list[int]:
        return [one.pid for one in self.children_of(self.main) if one.name.startswith("worker-")]

    @property
    def apis(self) -> list[int]:
        """API processes, oldest first."""
        return [one.pid for one in self.children_of(self.main) if one.name.startswith("api-")]

    def ask(self, x: float) -> httpx.Response:
        return self.client.post("/v1/models/line:predict", json={"instances": [{"x": x}]})

    def answers(self, x: float = 3.0) -> bool:
        """Whether `line` is served, 2x + 1."""
        try:
            return self.ask(x).json()["predictions"] == [2 * x + 1]
        except (httpx.TransportError, KeyError, ValueError):
            return False

    def is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended:\n{self.said()}")
        try:
            return self.client.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def is_whole(self) -> bool:
        """Whether it is ready and every one of its API processes is there; the first makes it ready."""
        return self.is_ready() and sum(one.name.startswith("api-") for one in self.family()) >= self.api_processes

    def is_live(self) -> bool:
        try:
            return self.client.get("/health/live").status_code == 200
        except httpx.TransportError:
            return False

    def listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's values, of those with these labels."""
        told = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in self.client.get("/metrics").text.splitlines() if all(one in line for one in told)]
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")))

    def ended(self, seconds: float = START_S) -> int:
        """The exit status."""
        return self.process.wait(seconds)

    def said(self) -> str:
        """The log."""
        return self.log.read_text()

    def close(self) -> None:
        """Kill what is left of it."""
        self.client.close()
        while left := self.family():
            for one in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)
            self.process.poll()
        self.process.wait()


def takes_signals(pid: int) -> bool:
    """Whether a server's first process, 0 for none, has come as far as its first line."""
    if not pid:
        return False
    (blocked,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigBlk:")]
    return bool(int(blocked.split()[1], 16) & 1 << (signal.SIGTERM - 1))


def pid_namespace() -> Sequence[str]:
    """What starts a server as PID 1."""
    command = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine makes no PID namespaces")
    return command


def free_port() -> int:
    """A port that the kernel gives to nobody who asks for any: it stays taken, and may be listened on all the same."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as every server sets it; only one may listen
    holder.bind(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    _held.append(holder.detach())
    if len(_held) > MOST_PORTS:
        os.close(_held.popleft())
    return port


MOST_PORTS = 100  # far more than a test uses
_held: deque[int] = deque()


@pytest.fixture
def repository(tmp_path) -> Path:
    """line 1: 2x + 1."""
    root = tmp_path / "published"
    tiny.publish(root, "line")
    return root


@pytest.fixture
def folders(monkeypatch):
    """Where servers keep what is temporary: empty when they have ended."""
    with tempfile.TemporaryDirectory(prefix="rowcast-") as folder:  # a short path: sockets are in it
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture
def start(repository, tmp_path):
    """Starts patient servers of `repository`, or of another; each is ready, or `wait=False`."""
    yield from starting(repository, tmp_path, PATIENT)


def starting(repository: Path, tmp_path: Path, usual: Mapping[str, Any]) -> Iterator[Callable[..., Server]]:
    """What a fixture that starts servers yields; `usual` are their settings where a test says nothing else."""
    started = []

    def start(root: Path = repository, *, wait: bool = True, **settings: Any) -> Server:
        server = Server(root, tmp_path / f"server-{len(started)}.log", **usual | settings)
        started.append(server)
        if wait:
            until(server.is_whole, what="ready")
        return server

    yield start
    for server in started:
        server.close()


def serving(folder: Path, *names: str, **settings: Any) -> Iterator[Server]:
    """A patient server of these tiny models for the tests of a module, which has told of no failure of its own."""
    for name in names:
        tiny.publish(folder / "published", name)
    server = Server(folder / "published", folder / "server.log", **settings, **PATIENT)
    try:
        until(server.is_whole, what="ready")
        yield server
        assert "Traceback" not in server.said()
    finally:
        server.close()
