"""Networks that nobody trained, published as versions: of any width, in any number, and one that takes its time."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from models.features import NumberFeature
from models.manifest import FileDigest, Manifest, Provenance, Scores
from models.proof import Proof
from models.repository import Repository
from models.schema import Schema

_SIDE = 512
_NOTHING = Provenance(
    plan={}, data_sha256="0" * 64, data_rows=1, seed=0, commit=None, packages={}, device="cpu", seconds=0.0
)


def publish(root: Path, name: str, features: int, hidden: int, products: int = 0) -> None:
    """A version with its graph and its proof; see `graph`."""
    raw = graph(features, hidden, products)
    schema = Schema(features=tuple(NumberFeature(name=f"x{place}") for place in range(features)))
    rows = [dict.fromkeys(schema.names, 0.25), dict.fromkeys(schema.names)]
    answers = ort.InferenceSession(raw).run(None, {"features": schema.encode(rows)})[0]

    def fill(draft: Path) -> partial[Manifest]:
        (draft / "model.onnx").write_bytes(raw)
        (draft / "proof.json").write_bytes(Proof(rows=rows, answers={"prediction": answers.tolist()}).to_json())
        return partial(_describe, name, schema)

    Repository(root).publish(name, fill)


def _describe(name: str, schema: Schema, number: int, files: dict[str, FileDigest]) -> Manifest:
    return Manifest(
        name=name,
        version=number,
        task="regression",
        input=schema,
        targets=("y",),
        weights="ab" * 32,
        files=files,
        scores={"test": Scores(rows=1, metrics={})},
        provenance=_NOTHING,
    )


def graph(features: int, hidden: int, products: int = 0) -> bytes:
    """F features, two hidden layers, one prediction; missing counts as 0.

    `products` are multiplications of matrices that take the same time for every batch, and add the same number to
    every prediction. They begin with a zero that comes from the rows, or the runtime would compute them once and for
    all when it opens the graph.
    """
    rng = np.random.default_rng(features)
    sides = [features, hidden, hidden, 1]
    constants = {"zero": np.zeros((), np.float32)}
    nodes = [
        helper.make_node("IsNaN", ["features"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "features"], ["layer0"]),
    ]
    for place, (inputs, outputs) in enumerate(pairwise(sides)):
        constants[f"w{place}"] = (rng.standard_normal((inputs, outputs)) / inputs**0.5).astype(np.float32)
        constants[f"b{place}"] = rng.standard_normal(outputs).astype(np.float32)
        is_last = place == len(sides) - 2
        nodes.append(helper.make_node("Gemm", [f"layer{place}", f"w{place}", f"b{place}"], [f"sum{place}"]))
        nodes.append(helper.make_node("Identity" if is_last else "Relu", [f"sum{place}"], [f"layer{place + 1}"]))
    if products:
        constants["turn"] = np.linalg.qr(rng.standard_normal((_SIDE, _SIDE)))[0].astype(np.float32)
        nodes += [
            helper.make_node("Abs", ["layer0"], ["sizes"]),
            helper.make_node("ReduceMax", ["sizes"], ["largest"], keepdims=0),
            helper.make_node("Min", ["largest", "zero"], ["nothing"]),
            helper.make_node("Add", ["turn", "nothing"], ["turned0"]),
            *(helper.make_node("MatMul", [f"turned{i}", "turn"], [f"turned{i + 1}"]) for i in range(products)),
            helper.make_node("ReduceMean", [f"turned{products}"], ["mean"], keepdims=0),
            helper.make_node("Add", [f"layer{len(sides) - 1}", "mean"], ["prediction"]),
        ]
    else:
        nodes.append(helper.make_node("Identity", [f"layer{len(sides) - 1}"], ["prediction"]))
    whole = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", features])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model: onnx.ModelProto = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()
