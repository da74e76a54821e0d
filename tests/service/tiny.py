"""A repository of four tiny models whose answers can be checked by eye.

line     regression, one feature x: 2x + 1
pair     regression, two targets: (a + b, a - b)
flowers  three classes by the largest of width, length and 1; also a color, a flag and a date that change nothing
coin     classes false and true, by the sign of x
Missing counts as 0.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, NumberFeature
from models.manifest import FileDigest, Manifest, Predictions, Provenance, Scores, Task
from models.proof import Proof
from models.repository import Repository, Version
from models.schema import Schema
from models.shapley import Background

ROWS = {
    "line": {"x": 3.0},
    "pair": {"a": 5.0, "b": 2.0},
    "flowers": {"width": 5.0, "length": 2.0, "color": "red", "wild": True, "seen": "2024-05-31"},
    "coin": {"x": 1.0},
}


def number(name: str) -> NumberFeature:
    return NumberFeature(name=name, unit="cm", quantiles=(-10.0, 0.0, 10.0), missing_share=0.1)


SCHEMAS = {
    "line": Schema(features=(number("x"),)),
    "pair": Schema(features=(number("a"), number("b"))),
    "flowers": Schema(
        features=(
            number("width"),
            number("length"),
            CategoryFeature(name="color", categories=("red", "blue")),
            BooleanFeature(name="wild"),
            DatetimeFeature(name="seen"),
        )
    ),
    "coin": Schema(features=(number("x"),)),
}
WEIGHTS: dict[str, tuple[list[list[float]], list[float]]] = {  # [F, K] and [K]
    "line": ([[2]], [1]),
    "pair": ([[1, 1], [1, -1]], [0, 0]),
    "flowers": ([[1, 0, 0], [0, 1, 0], *([[0, 0, 0]] * 6)], [0, 0, 1]),
    "coin": ([[-1, 1]], [0, 0]),
}
TASKS: dict[str, Task] = {"line": "regression", "pair": "regression", "flowers": "multiclass", "coin": "binary"}
TARGETS = {"line": ("y",), "pair": ("sum", "difference"), "flowers": ("species",), "coin": ("heads",)}
CLASSES: dict[str, tuple[Any, ...] | None] = {
    "line": None,
    "pair": None,
    "flowers": ("rose", "tulip", "daisy"),
    "coin": (False, True),
}
SCORES = {"test": Scores(rows=10, metrics={"rmse": 0.5}, baselines={"mean": {"rmse": 1.5}})}
PREDICTIONS = {
    "line": Predictions(quantiles=((-19.0, 1.0, 21.0),)),
    "pair": Predictions(quantiles=((-20.0, 0.0, 20.0),) * 2),
    "flowers": Predictions(shares=(0.4, 0.4, 0.2)),
    "coin": Predictions(shares=(0.5, 0.5)),
}


def answer(name: str, matrix: np.ndarray, shift: float = 0.0) -> dict[str, np.ndarray]:
    """What the model of this name answers for a matrix [N, F]."""
    weights, bias = (np.array(values, dtype=np.float32) for values in WEIGHTS[name])
    scores = np.nan_to_num(matrix).astype(np.float32) @ weights + (bias + np.float32(shift))
    if CLASSES[name] is None:
        return {"prediction": scores}
    likely = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
    return {"probabilities": likely / likely.sum(axis=1, keepdims=True), "label": scores.argmax(axis=1)}


def publish(
    root: Path,
    name: str,
    model: bytes | None = None,
    shift: float = 0.0,
    *,
    called: str | None = None,
    report: Mapping[str, bytes] | None = None,
    background: list[dict[str, Any]] | None = None,
    **said: Any,
) -> Version:
    """Publish one more version of a model, `called` otherwise if given.

    `model`, if given, stands instead of its graph; `shift` is added to its scores; `report` are files of its report,
    `said` more fields of its manifest.
    """
    schema, classes = SCHEMAS[name], CLASSES[name]
    rows = [ROWS[name], dict.fromkeys(ROWS[name])]
    answers = {output: values.tolist() for output, values in answer(name, schema.encode(rows), shift).items()}

    def fill(draft: Path) -> Any:
        (draft / "model.onnx").write_bytes(model or graph(name, shift).SerializeToString())
        (draft / "proof.json").write_bytes(Proof(rows=rows, answers=answers).to_json())
        for file, content in (report or {}).items():
            (draft / "report").mkdir(exist_ok=True)
            (draft / "report" / file).write_bytes(content)
        if background:
            (draft / "background.json").write_bytes(Background(rows=background).to_json())
        return describe

    def describe(version: int, files: dict[str, FileDigest]) -> Manifest:
        return Manifest(
            name=called or name,
            version=version,
            task=TASKS[name],
            input=schema,
            targets=TARGETS[name],
            classes=classes,
            weights="ab" * 32,
            files=files,
            predictions=PREDICTIONS.get(name),
            provenance=Provenance(
                plan={},
                data_sha256="0" * 64,
                data_rows=100,
                seed=0,
                commit=None,
                packages={},
                device="cpu",
                seconds=1.0,
            ),
            **({"scores": SCORES} | said),
        )

    return Repository(root).open(called or name, Repository(root).publish(called or name, fill))


def graph(name: str, shift: float = 0.0) -> onnx.ModelProto:
    weights, bias = (np.array(values, dtype=np.float32) for values in WEIGHTS[name])
    bias = bias + np.float32(shift)
    nodes = [
        helper.make_node("IsNaN", ["features"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "features"], ["filled"]),
        helper.make_node("Gemm", ["filled", "weights", "bias"], ["scores"]),
    ]
    width = len(bias)
    if CLASSES[name] is None:
        nodes.append(helper.make_node("Identity", ["scores"], ["prediction"]))
        outputs = [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["N", width])]
    else:
        nodes.append(helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1))
        nodes.append(helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0))
        outputs = [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", width]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        ]
    constants = {"weights": weights, "bias": bias, "zero": np.zeros((), dtype=np.float32)}
    whole = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", len(weights)])],
        outputs,
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
