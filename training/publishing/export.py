"""The network as files: ONNX, TorchScript and, where a plan asks, torch.export; each answers as the eager network does.

TorchScript is deprecated since torch 2.11 and still asked for; its warnings are silenced here and nowhere else. The
ONNX graph comes from the exporter that traces TorchScript: measured on a network of each kind it takes 0.04 s where the
exporter on torch.export takes 1 s, and the two graphs run equally fast (22 and 23 microseconds a row). The day torch
removes it, `dynamo=True` in `to_onnx` is the way on.
"""

import contextlib
import io
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor
from torch.jit._trace import TracerWarning

from models.errors import RowcastError
from models.proof import INPUT
from models.schema import Datatype, Matrix, Schema
from training.collector import uncollected
from training.network.net import Net, answers_of

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # the wheel reports to its maker unless this is set before the import
import onnxruntime as ort

ONNX, TORCHSCRIPT, EXPORTED = "model.onnx", "model.torchscript.pt", "model.pt2"
OPSET = 20
"""Of ONNX 1.15 (2023): read by every runtime since, and the last that this exporter writes."""
STEEP = 0.1
"""Share of rows with a probability that is no normal float32, beyond which softmax takes less time in float64.

Each costs a processor some 0.1 µs in float32; float64 costs 7 ns a row and two nodes (docs/decisions/0047).
"""
TOLERANCE = 1e-5
"""How far the files may be from the eager network: of a probability, or of a prediction in standard deviations."""
MOST_ALONE = 512
"""Features of which each is missing in a row of its own, where the files are compared with the network."""

_DATATYPES: dict[str, Datatype | str] = {"tensor(float)": "FP32", "tensor(double)": "FP64", "tensor(int64)": "INT64"}


class NoParity(RowcastError):
    """A file does not answer as the network does.

    Attributes:
        file: which one.
        reason: which output, and by how much.
    """

    code = "no_parity"
    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file} does not answer as the network does: {self.reason}; nothing was published"


def export(net: Net, matrix: Matrix, folder: Path, *, program: bool = False) -> None:
    """Write ONNX and TorchScript into the folder, and check each against the eager network.

    `matrix` holds some rows, missing and unknown values among them; `program` asks for torch.export's file as well.

    Raises:
        NoParity: a file's answers for these rows, none, one or many differ.
    """
    net = net.cpu().eval()
    net.is_steep = net.task != "regression" and _is_steep(answers_of(net, matrix)["probabilities"])
    example = torch.from_numpy(matrix[: max(2, min(len(matrix), 4))])
    (folder / TORCHSCRIPT).write_bytes(to_torchscript(net, example))
    if program:
        (folder / EXPORTED).write_bytes(to_exported(net, example))
    (folder / ONNX).write_bytes(to_onnx(net, example))
    check_parity(net, matrix, folder)


def _is_steep(probabilities: npt.NDArray[np.float32]) -> bool:
    return bool((probabilities < np.finfo(np.float32).tiny).any(1).mean() > STEEP)


def output_names(net: Net) -> list[str]:
    """The outputs of the graph, in order."""
    return ["prediction"] if net.task == "regression" else ["probabilities", "label"]


def to_torchscript(net: Net, example: Tensor) -> bytes:
    """The network traced and frozen, as `torch.jit.load` reads it."""
    with _silenced():
        traced = torch.jit.trace(net, (example,), check_trace=False)  # type: ignore[no-untyped-call]
        frozen = torch.jit.freeze(traced)
    return _without_source_paths(frozen.save_to_buffer())


def to_exported(net: Net, example: Tensor) -> bytes:
    """The network as `torch.export.load` reads it."""
    rows = {"features": {0: torch.export.Dim.DYNAMIC}}
    with uncollected():  # its first call imports half of torch
        program = torch.export.export(net, (example,), dynamic_shapes=rows)
    for node in program.graph.nodes:
        for trace in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node"):
            node.meta.pop(trace, None)  # they hold the paths of this machine
    program._example_inputs = None  # noqa: SLF001 - rows of the table; no public way leaves them out
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def to_onnx(net: Net, example: Tensor) -> bytes:
    """The network as one ONNX file: input `features` [N, F], outputs as the manifest names them, any N from 0."""
    names = output_names(net)
    buffer = io.BytesIO()
    with _silenced():
        torch.onnx.export(
            net,
            (example,),
            buffer,  # type: ignore[arg-type]  # the older exporter writes to a buffer as well
            dynamo=False,
            input_names=[INPUT],
            output_names=names,
            dynamic_axes={name: {0: "N"} for name in (INPUT, *names)},
            opset_version=OPSET,
        )
    model = onnx.load_from_string(buffer.getvalue())
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", TracerWarning)
        yield


def _without_source_paths(archive: bytes) -> bytes:
    """The archive without the tables that map its code to lines of source files, which name this machine's folders."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.infolist():
            if not member.filename.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(member.filename), old.read(member))
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------ parity


class OnnxSession:
    """A published graph in ONNX Runtime, as `models.proof.prove` asks for it."""

    def __init__(self, model: bytes) -> None:
        """Open the graph on one thread of the CPU."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    @property
    def signature(self) -> Mapping[str, tuple[str, int | None]]:
        """Input and outputs by name: datatype, and length of the second axis."""
        ends = [*self._session.get_inputs(), *self._session.get_outputs()]
        return {end.name: (_DATATYPES[end.type], end.shape[1] if len(end.shape) > 1 else None) for end in ends}

    def run(self, matrix: Matrix) -> dict[str, npt.NDArray[Any]]:
        """The answers for a matrix [N, F]."""
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, {INPUT: matrix}), strict=True))


def check_parity(net: Net, matrix: Matrix, folder: Path) -> None:
    """Compare the files with the eager network, for the rows given, none of them, the first, and all twice.

    Raises:
        NoParity: naming the file and the output.
    """
    with _silenced():
        script = torch.jit.load(str(folder / TORCHSCRIPT))  # type: ignore[no-untyped-call]
    program = torch.export.load(folder / EXPORTED).module() if (folder / EXPORTED).exists() else None
    session = OnnxSession((folder / ONNX).read_bytes())
    for rows in (matrix, matrix[:0], matrix[:1], np.concatenate([matrix, matrix])):
        right = answers_of(net, rows)
        _check_close(TORCHSCRIPT, net, right, answers_of(script, rows))
        if program is not None:
            _check_close(EXPORTED, net, right, answers_of(program, rows))
        _check_close(ONNX, net, right, session.run(rows))


def _check_close(
    file: str, net: Net, right: Mapping[str, npt.NDArray[Any]], got: Mapping[str, npt.NDArray[Any]]
) -> None:
    for name, values in right.items():
        if got[name].shape != values.shape or got[name].dtype != values.dtype:
            raise NoParity(file, f"{name} is {got[name].dtype} {list(got[name].shape)}, not {list(values.shape)}")
    if net.task == "regression":
        scale = 1.0 if net.scale is None else net.scale.numpy()
        # a prediction of any size is right to float32's own precision
        error = np.abs(right["prediction"] - got["prediction"]) / (scale + np.abs(right["prediction"]))
    else:
        error = np.abs(right["probabilities"] - got["probabilities"])
    if not (error <= TOLERANCE).all():  # NaN is no parity either
        raise NoParity(file, f"an answer is off by {error.max():.2g}")
    if net.task != "regression":
        best = np.sort(right["probabilities"], axis=1)[:, -2:]
        is_clear = best[:, 1] - best[:, 0] > 2 * TOLERANCE
        if (right["label"] != got["label"])[is_clear].any():
            raise NoParity(file, "a label differs")


def awkward_rows(schema: Schema, matrix: Matrix) -> Matrix:
    """The rows and what is hardest about them: all missing, and each feature missing or unknown in turn.

    Of more than `MOST_ALONE` features some share a row: a row for each would be a square of their number.
    """
    hard = [np.full((1, matrix.shape[1]), np.nan, matrix.dtype)]
    ends = np.cumsum([len(feature.columns) for feature in schema.features])
    for some in np.array_split(np.arange(len(ends)), min(len(ends), MOST_ALONE)):
        missing, unknown = matrix[:1].copy(), matrix[:1].copy()
        for number in some:
            feature, stop = schema.features[number], ends[number]
            missing[:, stop - len(feature.columns) : stop] = np.nan
            if feature.kind == "category":
                unknown[:, stop - 1] = len(feature.categories)
        hard += [missing, unknown] if any(schema.features[n].kind == "category" for n in some) else [missing]
    return np.concatenate([matrix, *hard])
