"""Made tests/data/format-1, the example of format 1 that must load for ever.

Its bytes are the promise, so nobody runs this again; it says how they came to be: `python tests/data/make_format_1.py`
from the root of the project writes them into a folder that must not exist yet.

`house`, versions 1 and 2: a regression whose every weight is a round number; a missing value counts as 0.
    price = 2 * size + 10 * place + 100 * garden + sold.day + sold.second + sold.weekday + sold.yearday + 5
    version 2 reads FP64 and also gives tax = size
`fruit`, version 1: three classes; probabilities = softmax(0, weight, 2 * skin), a missing value counting as 0
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.manifest import FileDigest, Manifest, Provenance, Scores
from models.proof import Proof
from models.repository import Repository
from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, NumberFeature
from models.schema import Schema

HOUSE_FEATURES = (
    NumberFeature(name="size", unit="m²", quantiles=(20.0, 80.5, 300.0), missing_share=0.25),
    CategoryFeature(name="place", categories=("Köln", "true", "3"), shares=(0.5, 0.25, 0.25)),
    BooleanFeature(name="garden", true_share=0.5),
    DatetimeFeature(name="sold", quantiles=(0.0, 19874.5)),
)
HOUSE_ROWS = [
    {"size": 100, "place": "Köln", "garden": True, "sold": "1970-01-02T00:00:03"},
    {"size": 50.5, "place": True, "garden": 0, "sold": "1970-01-01T01:00:00+01:00"},
    {"size": None, "place": 3, "garden": None, "sold": None},
    {"size": 1, "place": "unheard of", "garden": False, "sold": "1972-12-31"},
]
HOUSE_PRICES = [
    200 + 0 + 100 + 1 + 3 + 4 + 2 + 5,  # day 1 is a Friday, the second of its year
    101 + 10 + 0 + 0 + 0 + 3 + 1 + 5,  # midnight in UTC of day 0, a Thursday
    0 + 20 + 0 + 0 + 5,
    2 + 30 + 0 + 1095 + 0 + 6 + 366 + 5,  # a Sunday, the last of a leap year
]
FRUIT_FEATURES = (NumberFeature(name="weight"), CategoryFeature(name="skin", categories=("smooth", "rough")))
FRUIT_ROWS = [
    {"weight": -1.0, "skin": "smooth"},
    {"weight": 3.5, "skin": "rough"},
    {"weight": None, "skin": "rough"},
    {"weight": 0.5, "skin": "glowing"},
    {"weight": 9, "skin": None},
]


def linear(weights, bias, datatype, tail, outputs):
    """The graph `features -> NaN to 0 -> features @ weights + bias -> tail`."""
    real = np.float32 if datatype == "FP32" else np.float64
    number = helper.np_dtype_to_tensor_dtype(np.dtype(real))
    weights = np.array(weights, dtype=real)  # [F, K]
    nodes = [
        helper.make_node("IsNaN", ["features"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "features"], ["known"]),
        helper.make_node("MatMul", ["known", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        *tail,
    ]
    constants = {"zero": np.zeros(1, dtype=real), "weights": weights, "bias": np.array(bias, dtype=real)}
    graph = helper.make_graph(
        nodes,
        "rowcast",
        [helper.make_tensor_value_info("features", number, ["N", weights.shape[0]])],
        outputs,
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="rowcast")
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def regression(weights, bias, datatype):
    tail = [helper.make_node("Cast", ["sum"], ["prediction"], to=TensorProto.FLOAT)]
    output = helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["N", len(bias)])
    return linear(weights, bias, datatype, tail, [output])


def classification(weights, bias):
    tail = [
        helper.make_node("Softmax", ["sum"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(bias)]),
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
    ]
    return linear(weights, bias, "FP32", tail, outputs)


def publish(repository, name, graph, proof, **fields):
    def fill(folder: Path):
        (folder / "model.onnx").write_bytes(graph)
        (folder / "proof.json").write_bytes(proof.to_json())
        (folder / "report").mkdir()
        (folder / "report/card.html").write_text(f"<!doctype html>\n<title>{name}</title>\n", "utf-8")

        def describe(number: int, files: dict[str, FileDigest]) -> Manifest:
            provenance = PROVENANCE.model_copy(update={"plan": {**PROVENANCE.plan, "target": fields["targets"][0]}})
            return Manifest(name=name, version=number, files=files, weights="ab" * 32, provenance=provenance, **fields)

        return describe

    return repository.publish(name, fill)


PROVENANCE = Provenance(
    plan={"fit": {"epochs": 100, "rate": 1.0, "widths": [10, 10], "note": None}},
    data_sha256="cd" * 32,
    data_rows=4,
    seed=0,
    commit=None,
    packages={"python": "3.11.2", "torch": "2.13.0"},
    device="cpu",
    seconds=1.0,
)
REGRESSION_SCORES = {
    "train": Scores(rows=3, metrics={"rmse": 0.0}, baselines={"mean": {"rmse": 512.25}}),
    "test": Scores(rows=1, metrics={"rmse": 0.0, "r2": None}, baselines={"mean": {"rmse": 600.0, "r2": None}}),
}


def main(root: Path) -> None:
    root.mkdir()
    repository = Repository(root)
    price = [[2], [10], [100], [1], [1], [1], [1]]
    publish(
        repository,
        "house",
        regression(price, [5], "FP32"),
        Proof(rows=HOUSE_ROWS, answers={"prediction": [[float(value)] for value in HOUSE_PRICES]}),
        task="regression",
        input=Schema(features=HOUSE_FEATURES),
        targets=("price",),
        scores=REGRESSION_SCORES,
    )
    taxes = [float(row["size"] or 0) for row in HOUSE_ROWS]
    publish(
        repository,
        "house",
        regression(np.hstack([price, np.eye(7, 1)]), [5, 0], "FP64"),
        Proof(rows=HOUSE_ROWS, answers={"prediction": [list(pair) for pair in zip(HOUSE_PRICES, taxes, strict=True)]}),
        task="regression",
        input=Schema(datatype="FP64", features=HOUSE_FEATURES),
        targets=("price", "tax"),
        scores=REGRESSION_SCORES,
    )
    scores = np.array([[0, row[0] or 0, 2 * row[1]] for row in ((-1, 0), (3.5, 1), (None, 1), (0.5, 2), (9, 0))])
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    publish(
        repository,
        "fruit",
        classification([[0, 1, 0], [0, 0, 2]], [0, 0, 0]),
        Proof(
            rows=FRUIT_ROWS,
            answers={"probabilities": probabilities.tolist(), "label": probabilities.argmax(axis=1).tolist()},
        ),
        task="multiclass",
        input=Schema(features=FRUIT_FEATURES),
        targets=("kind",),
        classes=("apple", "pear", "lychee"),
        scores={"test": Scores(rows=5, metrics={"accuracy": 0.8}, baselines={"majority": {"accuracy": 0.4}})},
    )
    repository.set_label("house", "stable", 1)
    repository.set_label("house", "canary", 2)
    for lock in root.glob("*/.lock"):  # empty, and made again by the next publish
        lock.unlink()


if __name__ == "__main__":
    sys.path.insert(0, ".")
    main(Path(__file__).parent / "format-1")
