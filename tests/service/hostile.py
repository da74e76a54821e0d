"""Graphs that no trainer wrote. Each has the input and output of `line`; facts about ONNX Runtime say what they do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LINE = [
    helper.make_node("IsNaN", ["features"], ["missing"]),
    helper.make_node("Where", ["missing", "zero", "features"], ["filled"]),
    helper.make_node("Gemm", ["filled", "weights", "bias"], ["line"]),
]


def model(nodes: Sequence[onnx.NodeProto], constants: Sequence[onnx.TensorProto] = (), **more: Any) -> bytes:
    """2x + 1 as `line`, and `nodes` that make `prediction` of it."""
    weights = {"weights": [[2.0]], "bias": [1.0], "zero": 0.0}
    whole = helper.make_graph(
        [*LINE, *nodes],
        "line",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["N", 1])],
        [*(numpy_helper.from_array(np.array(value, np.float32), key) for key, value in weights.items()), *constants],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("deep", 1)]
    return helper.make_model(whole, opset_imports=imports, ir_version=10, **more).SerializeToString()


def _loop(count: str) -> onnx.NodeProto:
    """So many turns that change nothing."""
    true, value = (TensorProto.BOOL, []), (TensorProto.FLOAT, None)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Abs", ["before"], ["after"])],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", *true),
            helper.make_tensor_value_info("before", *value),
        ],
        [helper.make_tensor_value_info("go_on", *true), helper.make_tensor_value_info("after", *value)],
    )
    return helper.make_node("Loop", [count, "", "zero"], ["nothing"], body=body)


def endless() -> bytes:
    """It never comes to an end, whatever it is asked."""
    most = numpy_helper.from_array(np.array(2**62), "most")
    return model([_loop("most"), helper.make_node("Add", ["line", "nothing"], ["prediction"])], [most])


def slow_for_large_x() -> bytes:
    """It is `line`, and takes x / 1e6 turns for it: for ever where x is 1e18."""
    nodes = [
        helper.make_node("ReduceMax", ["filled"], ["largest"], keepdims=0),
        helper.make_node("Div", ["largest", "million"], ["share"]),
        helper.make_node("Cast", ["share"], ["turns"], to=TensorProto.INT64),
        _loop("turns"),
        helper.make_node("Add", ["line", "nothing"], ["prediction"]),
    ]
    return model(nodes, [numpy_helper.from_array(np.array(1e6, np.float32), "million")])


def costly(turns_per_row: int = 4000, turns: int = 0) -> bytes:
    """It is `line`, and takes so many turns for each row, some milliseconds, and so many for a batch."""
    nodes = [
        helper.make_node("Shape", ["features"], ["rows"], start=0, end=1),
        helper.make_node("Squeeze", ["rows"], ["count"]),
        helper.make_node("Mul", ["count", "per_row"], ["of_rows"]),
        helper.make_node("Add", ["of_rows", "of_batch"], ["turns"]),
        _loop("turns"),
        helper.make_node("Add", ["line", "nothing"], ["prediction"]),
    ]
    constants = {"per_row": np.array(turns_per_row), "of_batch": np.array(turns)}
    return model(nodes, [numpy_helper.from_array(value, key) for key, value in constants.items()])


def greedy_for_large_x() -> bytes:
    """It is `line`, and fills max(0, x - 1e6) numbers of four bytes with zero."""
    nodes = [
        helper.make_node("ReduceMax", ["filled"], ["largest"], keepdims=0),
        helper.make_node("Sub", ["largest", "million"], ["more"]),
        helper.make_node("Relu", ["more"], ["wanted"]),
        helper.make_node("Cast", ["wanted"], ["many"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["many", "first"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["much"]),
        helper.make_node("ReduceSum", ["much"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["line", "nothing"], ["prediction"]),
    ]
    constants = {"million": np.array(1e6, np.float32), "first": np.array([0])}
    return model(nodes, [numpy_helper.from_array(value, key) for key, value in constants.items()])


def raises_for_large_x() -> bytes:
    """It is `line`, and looks up what is not there, where x is above a million: the session raises."""
    nodes = [
        helper.make_node("ReduceMax", ["filled"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "million"], ["is_large"]),
        helper.make_node("Cast", ["is_large"], ["place"], to=TensorProto.INT64),
        helper.make_node("Gather", ["only_one", "place"], ["nothing"]),
        helper.make_node("Add", ["line", "nothing"], ["prediction"]),
    ]
    constants = {"million": np.array(1e6, np.float32), "only_one": np.zeros(1, np.float32)}
    return model(nodes, [numpy_helper.from_array(value, key) for key, value in constants.items()])


def deep(levels: int = 3000) -> bytes:
    """Functions that call one another, each the next."""
    opset = [helper.make_opsetid("", 20), helper.make_opsetid("deep", 1)]
    functions = [
        helper.make_function(
            "deep",
            f"f{level}",
            ["x"],
            ["y"],
            [helper.make_node(f"f{level + 1}", ["x"], ["y"], domain="deep")]
            if level < levels
            else [helper.make_node("Identity", ["x"], ["y"])],
            opset,
        )
        for level in range(levels + 1)
    ]
    return model([helper.make_node("f0", ["line"], ["prediction"], domain="deep")], functions=functions)


def gigabytes() -> bytes:
    """A file of a few hundred bytes that wants four gigabytes."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["much"]),
        helper.make_node("ReduceMax", ["much"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["line", "nothing"], ["prediction"]),
    ]
    return model(nodes, [numpy_helper.from_array(np.array([2**30]), "shape")])


def elsewhere(location: str) -> bytes:
    """Its last constant is in another file."""
    tensor = TensorProto(name="nothing", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return model([helper.make_node("Add", ["line", "nothing"], ["prediction"])], [tensor])


def nan_weights() -> bytes:
    """A constant that is no number."""
    nothing = numpy_helper.from_array(np.array([np.nan], np.float32), "nothing")
    return model([helper.make_node("Add", ["line", "nothing"], ["prediction"])], [nothing])


def beside(folder: Path) -> str:
    """A file of one constant, and its name."""
    (folder / "constant.bin").write_bytes(np.zeros(1, np.float32).tobytes())
    return "constant.bin"
