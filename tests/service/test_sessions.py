import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.serving import graphs
from models.errors import BadVersion
from models.proof import prove
from models.repository import Repository
from service.sessions import onnx as onnx_sessions
from service.sessions.onnx import OnnxSession, _providers, open_spread, ort
from tests.server.conftest import until
from tests.service import tiny

FORMAT_1 = Repository(Path("tests/data/format-1"))


@pytest.mark.parametrize("name", ["line", "pair", "flowers", "coin"])
def test_onnx_runtime_gives_the_answers_that_can_be_checked_by_eye(versions, name):
    version = versions[name]
    session = OnnxSession(version, "cpu")
    prove(version.manifest, version.proof(), session)
    matrix = version.schema.encode([tiny.ROWS[name]] * 3)
    for output, right in tiny.answer(name, matrix).items():
        np.testing.assert_allclose(session.run(matrix)[output], right, rtol=1e-6)


@pytest.mark.parametrize(("name", "number"), [("fruit", 1), ("house", 1), ("house", 2)])
def test_the_committed_example_of_format_1_is_proven(name, number):
    version = FORMAT_1.open(name, number)
    prove(version.manifest, version.proof(), OnnxSession(version, "cpu"))


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize(("name", "number"), [("fruit", 1), ("house", 1), ("house", 2)])
def test_runs_that_threads_share_give_the_same_bits(name, number, threads):
    version = FORMAT_1.open(name, number)
    one, several = OnnxSession(version, "cpu"), OnnxSession(version, "cpu", threads)
    proof = version.schema.encode(version.proof().rows)
    for rows in (1, 2, 7, 64, 1000):
        matrix = np.resize(proof, (rows, proof.shape[1]))
        for output, right in one.run(matrix).items():
            np.testing.assert_array_equal(several.run(matrix)[output], right)


@pytest.mark.parametrize("rows", [1, 2, 7, 64, 1000])
def test_so_do_products_that_are_worth_sharing(tmp_path, rows):
    graphs.publish(tmp_path, "slow", features=100, hidden=512, products=3)
    version = Repository(tmp_path).open("slow", 1)
    matrix = np.random.default_rng(0).normal(size=(rows, 100)).astype(np.float32)
    right = OnnxSession(version, "cpu").run(matrix)["prediction"]
    np.testing.assert_array_equal(open_spread(version, 3).run(matrix)["prediction"], right)


def test_threads_that_share_a_run_ask_for_a_small_part_of_a_core(tmp_path):
    def added():
        threads = [int(thread.name) for thread in Path("/proc/self/task").iterdir() if thread not in before]
        return [os.getpriority(os.PRIO_PROCESS, thread) for thread in threads]

    before = list(Path("/proc/self/task").iterdir())
    session = open_spread(tiny.publish(tmp_path, "line"), 3)
    until(lambda: len(added()) == 2)  # who opened it has ended
    assert added() == [min(19, os.getpriority(os.PRIO_PROCESS, os.getpid()) + 10)] * 2
    assert session is not None


def test_weights_that_take_much_memory_are_not_in_memory_twice(tmp_path, monkeypatch):
    version = tiny.publish(tmp_path, "line")
    monkeypatch.setattr(onnx_sessions, "_MOST_BYTES", version.manifest.files["model.onnx"].bytes - 1)
    assert open_spread(version, 2) is None


@pytest.mark.cuda
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="this machine has no NVIDIA GPU")
def test_products_on_a_gpu_keep_the_digits_of_float32():
    weights = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    matrix = np.random.default_rng(1).normal(size=(512, 256)).astype(np.float32)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [value("x", onnx.TensorProto.FLOAT, ["n", 256])],
        [value("y", onnx.TensorProto.FLOAT, ["n", 256])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=_providers("cuda:0"))
    assert "CUDAExecutionProvider" in session.get_providers()
    (products,) = session.run(None, {"x": matrix})
    np.testing.assert_allclose(products, matrix.astype(float) @ weights.astype(float), atol=1e-4)


@pytest.mark.parametrize("rows", [1023, 1024, 1025, 5000])
def test_as_many_rows_as_do_not_fit_into_a_cache_have_the_answers_of_each_alone(versions, rows):
    matrix = np.arange(rows, dtype=np.float32).reshape(-1, 1)
    np.testing.assert_array_equal(OnnxSession(versions["line"], "cpu").run(matrix)["prediction"], 2 * matrix + 1)


@pytest.mark.parametrize("name", ["pair", "flowers"])
def test_no_rows_have_no_answers(versions, name):
    matrix = versions[name].schema.encode([])
    answers = OnnxSession(versions[name], "cpu").run(matrix)
    right = tiny.answer(name, matrix)
    assert {k: (v.shape, v.dtype) for k, v in answers.items()} == {k: (v.shape, v.dtype) for k, v in right.items()}


def test_a_graph_that_onnx_runtime_cannot_open_is_refused_in_one_sentence(tmp_path):
    version = tiny.publish(tmp_path, "line", onnx.ModelProto(ir_version=10).SerializeToString())
    with pytest.raises(BadVersion) as refused:
        OnnxSession(version, "cpu")
    assert str(refused.value).startswith("line/1: ONNX Runtime cannot open model.onnx: ")
    assert "\n" not in str(refused.value)


def test_a_session_adds_no_thread_and_sends_no_telemetry(versions):
    """One intra-op thread, and ORT_DISABLE_TELEMETRY is set before the import."""
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    before = threading.active_count(), len(list(Path("/proc/self/task").iterdir()))
    sessions = [OnnxSession(versions["line"], "cpu") for _ in range(3)]
    sessions[0].run(np.ones((1, 1), dtype=np.float32))
    assert (threading.active_count(), len(list(Path("/proc/self/task").iterdir()))) == before


def test_serving_with_the_default_backend_imports_no_torch():
    code = "import sys, service.server, service.sessions.onnx; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
