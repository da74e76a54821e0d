import asyncio
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import values
from pydantic import SecretStr

from models.repository import Repository
from service.access.gate import Gate
from service.access.limits import Limits
from service.app.routes import add_routes
from service.batching.batches import Batch
from service.batching.inline import Inline
from service.front import Front
from service.http.connections import Connections
from service.http.same_turn import TurnBatches
from service.http.spinning import Spinning
from service.observing import metrics
from service.observing.count_files import value_class
from service.observing.drift import Drift
from service.observing.slot import counts_folder
from service.observing.vitals import Vitals
from service.problems import UnknownLabel, UnknownModel, UnknownVersion
from service.settings import Settings
from tests.service import tiny


class Shelf:
    """A catalogue of everything in a repository, live at once."""

    def __init__(self, root: Path) -> None:
        self.repository = Repository(root)
        self.failures = {}
        self.unreadable = None
        self.has_shadows = False
        self.changes = 0
        self.versions = {
            name: {number: self.repository.open(name, number) for number in self.repository.versions(name)}
            for name in self.repository.names()
        }

    def live(self):
        return self.versions

    def labels(self, name):
        return self.repository.labels(name)

    def routes(self, name):
        return self.repository.routes(name)

    def unloaded(self):
        return frozenset()

    def is_drawn(self, name):
        assert name in self.versions
        return False

    def find(self, name, number=None, label=None, key=None):  # noqa: ARG002 - no shares here
        name = "line" if name is None else name
        if name not in self.versions:
            raise UnknownModel(name, sorted(self.versions))
        if label is not None:
            if label not in self.labels(name):
                raise UnknownLabel(name, label, sorted(self.labels(name)))
            number = self.labels(name)[label]
        number = max(self.versions[name]) if number is None else number
        if number not in self.versions[name]:
            raise UnknownVersion(name, number, sorted(self.versions[name]))
        return self.versions[name][number]


class Answering:
    """A coalescer that answers at once; `failure`, if set, is raised instead."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.answer = tiny.answer
        self.matrices = []
        self.urgent = []
        self.within_s = []
        self.tasks = {}

    async def predict(self, version, matrix, deadline_s, *, within_s, is_urgent=False):
        assert deadline_s <= within_s
        self.matrices.append(matrix)
        self.urgent.append(is_urgent)
        self.within_s.append(within_s)
        if self.failure is not None:
            raise self.failure
        assert deadline_s > 0
        return self.answer(version.name, matrix)

    def submit(self, job):
        """What `predict` returns or raises, told in a later turn of the event loop."""
        matrix = job.version.schema.stack([job.line]) if job.matrix is None else job.matrix

        def settle(task):
            self.tasks.pop(job, None)
            if task.cancelled():
                return
            if task.exception() is not None:
                job.refused(task.exception())
                return
            batch = Batch(job.version, [job], job.rows)
            batch.answers, batch.computed = task.result(), time.perf_counter()
            job.answered(batch, 0)

        self.tasks[job] = asyncio.ensure_future(
            self.predict(
                job.version, matrix, job.deadline - job.arrived, within_s=job.within_s, is_urgent=job.is_urgent
            )
        )
        self.tasks[job].add_done_callback(settle)

    def withdraw(self, job):
        if job in self.tasks:
            self.tasks[job].cancel()


@pytest.fixture
def sockets():
    """A folder for sockets, whose paths must be short: pytest's own may be too deep."""
    with tempfile.TemporaryDirectory(prefix="rowcast-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """A repository: line 1 and 2 (labels stable and canary), pair 1, flowers 1, coin 1."""
    root = tmp_path_factory.mktemp("published")
    for name in ("line", "line", "pair", "flowers", "coin"):
        tiny.publish(root, name)
    Repository(root).set_label("line", "stable", 1)
    Repository(root).set_label("line", "canary", 2)
    return root


@pytest.fixture(scope="session")
def versions(root):
    """The latest version of each model, by name."""
    return {name: of_name[max(of_name)] for name, of_name in Shelf(root).live().items()}


@pytest.fixture
def counts(tmp_path, monkeypatch):
    """An empty folder of counts, and this process in a slot of its own."""
    folder = tmp_path / "counts"
    folder.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    monkeypatch.setattr(values, "ValueClass", value_class(counts_folder, lambda: "api-0"))
    return folder


@pytest.fixture
def limits(tmp_path):
    """An empty table of limits."""
    path = tmp_path / "limits"
    Limits.make(path)
    return path


@pytest.fixture
def front(root, counts, limits):
    assert counts.is_dir()
    settings = SimpleNamespace(
        max_body_bytes=100_000,
        max_rows=1000,
        max_batch_rows=100,
        max_connections=100,
        deadline_s=1000.0,
        max_wait_s=0.5,
        receive_s=5.0,
        page=True,
        default_model=None,
        control=False,
    )
    front = Front(
        settings,
        catalog=Shelf(root),
        coalescer=Answering(),
        lanes=None,
        metrics=metrics.Metrics(),
        shadows=None,
        runtime=None,
        drift=Drift(counts, "api-0", 0),
        vitals=Vitals(1000, []),
        gate=Gate(Settings(), limits),
        connections=Connections(settings),
        inline=Inline(None, 0.0),
    )
    front.not_ready = front.cannot_compute = lambda: None
    front.turn_batches = TurnBatches(front)
    front.spinning = Spinning(0.0)
    return front


@pytest.fixture
def app(front):
    app = FastAPI()
    add_routes(app, lambda: front)
    return app


@pytest.fixture
def client(app):
    """A client inside the process; ask it with `get` and `post`, or with `request`."""
    return Client(app)


class Client:
    """httpx over ASGI, for tests that are not async."""

    def __init__(self, app) -> None:
        self.app = app

    def request(self, method, path, **kwargs):
        async def ask():
            transport = httpx.ASGITransport(self.app)  # raises what the application raises
            async with httpx.AsyncClient(transport=transport, base_url="http://rowcast") as client:
                return await client.request(method, path, **kwargs)

        return asyncio.run(ask())

    def get(self, path, **kwargs):
        return self.request("GET", path, **kwargs)

    def post(self, path, **kwargs):
        return self.request("POST", path, **kwargs)


@pytest.fixture
def key(front, limits):
    """The server's key, set."""
    front.gate = Gate(Settings(api_key=SecretStr("correct horse")), limits)
    return "correct horse"
