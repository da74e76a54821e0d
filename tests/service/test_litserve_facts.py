"""What the service leans on in LitServe 0.2.19, each by its number in the list of facts that the design stands on.

An upgrade may change any of them; then the test says which, and service/lit_server.py and service/workers/lit_api.py
are the two files to look at. Facts about processes and signals are in tests/server/, where real ones run.
"""

import inspect
import multiprocessing
import re

import pytest
import uvicorn
from litserve import LitServer
from litserve import server as litserves
from litserve.loops import inference_worker
from starlette.middleware.gzip import GZipMiddleware

from service.api_process import remove_what_hurts
from service.lit_server import Server
from service.settings import Settings
from service.workers import lit_api


@pytest.fixture
def server(tmp_path):
    return Server(Settings(device="cpu", workers=2), tmp_path, None)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("verify_worker_status", []),
        ("_start_server", ["port", "num_uvicorn_servers", "log_level", "sockets", "uvicorn_worker_type", "kwargs"]),
        ("_start_worker_monitoring", ["manager", "uvicorn_workers"]),
        ("_perform_graceful_shutdown", ["manager", "uvicorn_workers", "shutdown_reason"]),
        ("launch_inference_worker", ["lit_api"]),
        ("launch_single_inference_worker", ["lit_api", "worker_id"]),
        ("_init_manager", ["num_api_servers"]),
    ],
)
def test_litserve_has_the_methods_that_server_overrides_or_calls(method, parameters):
    """Facts 1, 2, 3, 20, 26: what happens without the overrides."""
    assert list(inspect.signature(getattr(LitServer, method)).parameters)[1:] == parameters


def test_run_waits_for_the_event_that_its_own_shutdown_page_sets():
    """Fact 22: setting the shutdown event drains well."""
    source = inspect.getsource(LitServer.run)
    assert source.index("verify_worker_status()") < source.index("_start_server(")
    assert source.index("_start_worker_monitoring(") < source.index("self._shutdown_event.wait()")
    assert source.index("self._shutdown_event.wait()") < source.index("self._perform_graceful_shutdown(")


def test_litserve_adds_gzip_and_we_take_it_out(server):
    """Fact 14."""
    assert GZipMiddleware in [one.cls for one in server.app.user_middleware]
    remove_what_hurts(server.app)
    assert GZipMiddleware not in [one.cls for one in server.app.user_middleware]


def test_litserve_registers_no_predict_of_its_own_beside_a_spec(server):
    """Facts 5, 17, 24: its handler answers bad input 500 and coerces what it reads."""
    paths = [route.path for route in server.app.routes]
    assert "/predict" not in paths
    assert "/health" in paths


def test_a_worker_knows_its_number_before_its_setup():
    source = inspect.getsource(inference_worker)
    assert source.index('os.environ["LITSERVE_WORKER_ID"]') < source.index("lit_api.setup(device)")


def test_what_the_workers_say_is_seen_by_whoever_was_there_before(tmp_path):
    """Fact 20: LitServe has a process for this, and hangs without it."""
    server = Server(Settings(device="cpu", workers=2), tmp_path, None)
    server._init_manager(1)
    assert dict(server.workers_setup_status) == {"predict_0": "starting", "predict_1": "starting"}
    source = inspect.getsource(inference_worker)
    assert 'workers_setup_status[f"{endpoint}_{worker_id}"] = WorkerSetupStatus.READY' in source

    def say():
        server.workers_setup_status["predict_1"] = "ready"

    worker = multiprocessing.get_context("fork").Process(target=say)
    worker.start()
    worker.join()
    assert list(server.workers_setup_status.values()) == ["starting", "ready"]


def test_annotations_are_types_where_litserve_reads_them():
    """Fact 17: with `from __future__ import annotations` every request is a 500."""
    assert not hasattr(lit_api, "annotations")


def test_hosts_are_the_three_that_litserve_takes():
    """Fact 16."""
    source = inspect.getsource(LitServer.run)
    assert '["0.0.0.0", "127.0.0.1", "::"]' in source


def test_the_accelerator_is_never_left_to_litserve(server):
    """Fact 16: "auto" imports torch where it is installed."""
    assert server.devices == ["cpu"]
    assert [path.name for path in server.worker_sockets] == ["worker-0.sock", "worker-1.sock"]


def test_an_api_process_is_uvicorns_server_on_a_copy_of_the_application():
    """`Server._start_server` does the same, with a server that is told to end and need not look ten times a second."""
    source = inspect.getsource(LitServer._start_server)
    assert "app: FastAPI = copy.copy(self.app)" in source
    assert "self._prepare_app_run(app)" in source
    assert "timeout_graceful_shutdown=self.uvicorn_graceful_timeout" in source
    assert "asyncio.sleep(0.1)" in inspect.getsource(uvicorn.Server.main_loop)


def test_litserve_asks_for_answers_once_a_second_and_of_one_object():
    source = inspect.getsource(LitServer.lifespan)
    assert "transport = self._transport" in source
    assert set(re.findall(r"transport\.(\w+)", inspect.getsource(litserves.response_queue_to_buffer))) == {"areceive"}
