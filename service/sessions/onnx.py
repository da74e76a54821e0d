"""ONNX Runtime behind the Session seam."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import; the PyPI wheel sends telemetry unless told not to

import numpy as np
import onnxruntime as ort  # the line above must come first

from models.errors import BadVersion
from models.manifest import Manifest
from models.proof import INPUT, Answers
from models.repository import Version
from models.schema import Matrix
from service.processes.scheduling import take_small_share

FILE = "model.onnx"
_DATATYPES = {"tensor(float)": "FP32", "tensor(double)": "FP64", "tensor(int64)": "INT64"}
_ROWS_AT_ONCE = 1024
"""What a CPU computes at once: with more rows, what is between two layers no longer stays in its cache
(docs/decisions/0019), and the memory that they need has no bound."""
_MOST_THREADS = 4
"""Of a run: each of its products ends when the last of them is done."""
_MOST_BYTES = 16 << 20
"""Of a graph that may be opened twice; its weights are in memory once for each session."""
_NUMPY = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64}


class OnnxSession:
    """The graph of one version, opened from bytes that matched their digest.

    Attributes:
        is_on_gpu: whether ONNX Runtime took the GPU that it was given.
    """

    def __init__(self, version: Version, device: str, threads: int = 1) -> None:
        """Open the graph on a device: "cpu", or "cuda:0" with the number of a GPU; `threads` share each run.

        Raises:
            BadVersion: ONNX Runtime cannot read the graph.
        """
        graph = version.read(FILE)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads  # small networks lose more by waking others than they win
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # an idle server costs nothing
        options.log_severity_level = 4  # what goes wrong is raised, and told in one sentence
        try:
            self._session = ort.InferenceSession(graph, options, providers=_providers(device))
        except Exception as error:  # noqa: BLE001 - ORT's errors share nothing narrower
            raise BadVersion(str(version), f"ONNX Runtime cannot open {FILE}: {_first_line(error)}") from None
        self._manifest = version.manifest
        # it falls back to the CPU without a word
        self.is_on_gpu = "CUDAExecutionProvider" in self._session.get_providers()
        self._outputs = [output.name for output in self._session.get_outputs()]

    @property
    def signature(self) -> Mapping[str, tuple[str, int | None]]:
        """Input and outputs by name: datatype, and length of the second axis (None: only rows)."""
        nodes = [*self._session.get_inputs(), *self._session.get_outputs()]
        return {
            node.name: (_DATATYPES.get(node.type, node.type), node.shape[1] if len(node.shape) > 1 else None)
            for node in nodes
        }

    def run(self, matrix: Matrix) -> Answers:
        """The answers for a matrix [N, F], N from 0."""
        if len(matrix) == 0:
            return no_answers(self._manifest)
        if len(matrix) <= _ROWS_AT_ONCE or self.is_on_gpu:
            values = self._session.run(self._outputs, {INPUT: matrix})
        else:
            pieces = (matrix[start : start + _ROWS_AT_ONCE] for start in range(0, len(matrix), _ROWS_AT_ONCE))
            parts = [self._session.run(self._outputs, {INPUT: piece}) for piece in pieces]
            values = [np.concatenate(part) for part in zip(*parts, strict=True)]
        return dict(zip(self._outputs, values, strict=True))


def open_spread(version: Version, cores: int) -> OnnxSession | None:
    """A session on a CPU, each of whose runs is spread over so many cores, of which it takes a few at most.

    None where its weights take much memory.

    Raises:
        BadVersion: as for `OnnxSession`.
    """
    if version.manifest.files[FILE].bytes > _MOST_BYTES:
        return None
    with ThreadPoolExecutor(1, initializer=take_small_share) as opening:  # the session's threads are as this one
        return opening.submit(OnnxSession, version, "cpu", min(cores, _MOST_THREADS)).result()


def no_answers(manifest: Manifest) -> Answers:
    """The answers for a matrix without rows."""
    return {
        output.name: np.empty((0,) if output.width is None else (0, output.width), dtype=_NUMPY[output.datatype])
        for output in manifest.outputs
    }


def cuda_is_offered() -> bool:
    """Whether this build of ONNX Runtime can use a GPU."""
    return "CUDAExecutionProvider" in ort.get_available_providers()


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    ort.set_default_logger_severity(3)  # errors: it warns that a plugin which nobody asked for is not there
    ort.preload_dlls()  # CUDA's libraries may have come as wheels
    number = device.partition(":")[2] or "0"
    options = {"device_id": number, "use_tf32": "0"}  # TF32 keeps 10 bits of 23: answers differ in the third digit
    return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
