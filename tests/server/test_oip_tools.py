"""KServe's client and Triton's perf_analyzer, unmodified, against a real server."""

import csv
import ctypes.util
import os
import platform
import subprocess
import zipfile

import pytest

from tests.server.conftest import CHECKOUT, START_S, serving
from tests.server.environments import environment_beside_ours, pip, said_by
from tests.service import tiny

pytestmark = pytest.mark.server

KSERVE = ["kserve==0.21.0"]  # it wants another protobuf than we do
ANALYZER = [
    "tritonclient==2.48.0",
    "nvidia-cuda-runtime-cu12==12.9.79",
]  # the last that brings it; what it is linked to
ANALYZER_FOLDER = CHECKOUT / "build" / "perf-analyzer"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    yield from serving(tmp_path_factory.mktemp("tools"), "line", "pair", "flowers")


@pytest.fixture(scope="session")
def python_of_kserve():
    return environment_beside_ours(CHECKOUT / "build" / "kserve-client", KSERVE)


@pytest.fixture(scope="session")
def perf_analyzer():
    """The program and its environment variables; unpacked once."""
    if platform.machine() != "x86_64":
        pytest.skip("Triton's wheels bring perf_analyzer for x86_64 alone")
    if ctypes.util.find_library("b64") is None:
        pytest.skip("perf_analyzer needs libb64.so.0d (Debian's libb64-0d)")
    made, said = ANALYZER_FOLDER / ".made", " ".join(ANALYZER)
    if not made.is_file() or made.read_text() != said:
        pip("download", "--no-deps", "--only-binary", ":all:", "--dest", ANALYZER_FOLDER, *ANALYZER)
        for wheel in ANALYZER_FOLDER.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(ANALYZER_FOLDER)
        made.write_text(said)
    (program,) = ANALYZER_FOLDER.glob("*/data/bin/perf_analyzer")
    program.chmod(0o755)
    return program, os.environ | {"LD_LIBRARY_PATH": str(ANALYZER_FOLDER / "nvidia" / "cuda_runtime" / "lib")}


def test_the_client_of_kserve_gets_the_right_answers_and_the_reason_of_a_refusal(server, python_of_kserve):
    got = said_by(python_of_kserve, "kserve_client.py", server.port)
    assert (got["live"], got["ready"], got["model"]) == (True, True, True)
    zeros, holes = (
        tiny.answer("pair", tiny.SCHEMAS["pair"].encode(rows))["prediction"].tolist()
        for rows in ([[1.5, -2.0], [0.0, 4.0]], [[1.5, -2.0], [None, 4.0]])
    )
    assert got["json"] == ["k-json", "pair", zeros]
    assert got["binary"] == ["k-binary", "pair", holes]
    assert "unexpected inference input 'depth' for model 'pair'" in got["refused"]
    assert got["v1"] == {"predictions": [7.0], "model_name": "line", "model_version": "1"}


@pytest.mark.parametrize(
    ("model", "arguments"), [("pair", ["-b", "4"]), ("flowers", ["-b", "1", "--string-data", "2024-05-31T09:30:00"])]
)
def test_perf_analyzer_measures_and_its_counts_are_the_servers(server, perf_analyzer, tmp_path, model, arguments):
    program, environment = perf_analyzer
    table = tmp_path / "measured.csv"
    url = f"127.0.0.1:{server.port}"
    before = counts_of(server, model)
    # a number of requests, not of seconds: a busy machine may answer none in a window
    many = ["--concurrency-range", "2", "--request-count", "500"]
    done = subprocess.run(
        [program, "-m", model, "-u", url, *many, *arguments, "-f", table],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=START_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (measured,) = csv.DictReader(table.read_text().splitlines())
    assert float(measured["Inferences/Second"]) > 0
    assert float(measured["Server Compute Infer"]) >= 0
    now = counts_of(server, model)
    assert now["success"] > before["success"]
    assert now["fail"] == before["fail"]


def counts_of(server, model):
    statistics = server.client.get(f"/v2/models/{model}/stats").json()["model_stats"][0]["inference_stats"]
    return {what: statistics[what]["count"] for what in ("success", "fail")}
