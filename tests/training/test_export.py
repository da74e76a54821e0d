import copy
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, NumberFeature
from models.manifest import Task
from models.schema import Schema
from training.network.encoders import Preprocessing
from training.network.expansions import Steps, Waves
from training.network.linear import Corrected, ask_linear
from training.network.net import Net, make_member
from training.plan import NetPlan
from training.publishing.export import (
    EXPORTED,
    ONNX,
    TORCHSCRIPT,
    NoParity,
    OnnxSession,
    awkward_rows,
    check_parity,
    export,
)

CITIES = tuple(f"city {number}" for number in range(12))
OUTPUTS = {"regression": 2, "binary": 1, "multiclass": 3}


def schema_of(datatype: str) -> Schema:
    return Schema.model_validate(
        {
            "datatype": datatype,
            "features": (
                NumberFeature(name="size"),
                CategoryFeature(name="color", categories=("blue", "red")),
                CategoryFeature(name="city", categories=CITIES),
                BooleanFeature(name="is_new"),
                DatetimeFeature(name="day"),
            ),
        }
    )


def matrix_of(schema: Schema) -> np.ndarray:
    rng, rows = np.random.default_rng(0), 40
    columns = {
        "size": rng.normal(1e9 if schema.datatype == "FP64" else 0, 1, rows),
        "color": rng.choice(["blue", "red"], rows).tolist(),
        "city": rng.choice(CITIES, rows).tolist(),
        "is_new": rng.choice([True, False], rows).tolist(),
        "day": np.datetime64("2024-01-01T08:00", "us") + rng.integers(0, 10**13, rows).astype("timedelta64[us]"),
    }
    columns["size"][3] = np.nan
    columns["city"][4] = None
    return schema.encode_columns(columns)


def net_of(task: Task, datatype: str = "FP32", members: int = 1, *, linear: bool = False) -> tuple[Net, np.ndarray]:
    schema = schema_of(datatype)
    matrix = matrix_of(schema)
    preprocessing = Preprocessing(schema, matrix)
    torch.manual_seed(0)
    nets: list[torch.nn.Module] = [
        make_member(NetPlan(hidden=(8, 8)), preprocessing.width, preprocessing.sizes, OUTPUTS[task])
        for _ in range(members)
    ]
    if linear:
        x = preprocessing(torch.from_numpy(matrix)).numpy()
        y = np.arange(40) % max(2, OUTPUTS[task]) if task != "regression" else x[:, :2]
        nets.append(ask_linear(x, y, preprocessing.sizes, task, outputs=OUTPUTS[task])())
    scale = torch.tensor([10.0, 1000.0]) if task == "regression" else None
    net = Net(
        preprocessing,
        nets,
        task,
        centre=None if scale is None else -scale,
        scale=scale,
        temperature=1.0 if task == "regression" else 1.3,
    )
    return net, awkward_rows(schema, matrix)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_every_file_answers_as_the_network_does(tmp_path: Path, task, datatype, members):
    net, matrix = net_of(task, datatype, members)
    export(net, matrix, tmp_path, program=True)  # checks parity for none, one and many rows
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ONNX, TORCHSCRIPT, EXPORTED])
    session = OnnxSession((tmp_path / ONNX).read_bytes())
    width = OUTPUTS[task] if task != "binary" else 2
    outputs = {"probabilities": ("FP32", width), "label": ("INT64", None)}
    if task == "regression":
        outputs = {"prediction": ("FP32", 2)}
    assert session.signature == {"features": (datatype, matrix.shape[1]), **outputs}


def test_the_hard_rows_of_thousands_of_features_are_hundreds():
    features = [
        NumberFeature(name=f"x{n}") if n % 9 else CategoryFeature(name=f"x{n}", categories=("a",)) for n in range(3000)
    ]
    schema = Schema.model_validate({"datatype": "FP32", "features": tuple(features)})
    matrix = np.zeros((2, 3000), np.float32)
    rows = awkward_rows(schema, matrix)
    assert len(rows) <= 2 + 1 + 2 * 512
    hard = rows[3:]
    assert np.isnan(hard).any(0).all()  # each is missing in one that has others
    assert ((hard == 1).any(0) == (np.arange(3000) % 9 == 0)).all()
    assert np.isfinite(hard).any(1).all()


@pytest.mark.parametrize("members", [0, 1, 2])
@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_a_linear_member_is_exported_alone_and_with_others(tmp_path: Path, task, members):
    net, matrix = net_of(task, members=members, linear=True)
    export(net, matrix, tmp_path, program=True)


@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_members_of_several_shapes_and_expansions_are_exported_with_their_weights(tmp_path: Path, task):
    schema = schema_of("FP64")
    matrix = matrix_of(schema)
    preprocessing = Preprocessing(schema, matrix)
    x = preprocessing(torch.from_numpy(matrix))
    numbers, embedded = len(preprocessing.numbers), len(preprocessing.sizes)
    torch.manual_seed(0)
    members = [
        make_member(plan, preprocessing.width, preprocessing.sizes, OUTPUTS[task], expansion)
        for plan, expansion in (
            (NetPlan(hidden=(8, 8), dropout=0.1), Steps(x, numbers, embedded, 7)),
            (NetPlan(hidden=(8, 8)), Waves(x, numbers, embedded, 5)),
            (NetPlan(hidden=(6, 6, 6), dropout=0.1), None),
        )
        for _ in range(2)
    ]
    weights = [0.4, 0.1, 0.05, 0.05, 0.2, 0.2]
    net = Net(preprocessing, members, task, weights=weights)
    export(net, awkward_rows(schema, matrix), tmp_path, program=True)
    alone = [Net(preprocessing, [member], task)(torch.from_numpy(matrix)) for member in members]
    answers = [answer if task == "regression" else answer[0] for answer in alone]
    together = net(torch.from_numpy(matrix))
    right = sum(weight * answer for weight, answer in zip(weights, answers, strict=True))
    torch.testing.assert_close(together if task == "regression" else together[0], right)


@pytest.mark.parametrize("count", [1, 3])
def test_perceptrons_with_their_lines_are_exported_as_one_line_and_one_stack(tmp_path: Path, count):
    schema = schema_of("FP32")
    matrix = matrix_of(schema)
    preprocessing = Preprocessing(schema, matrix)
    torch.manual_seed(0)
    x = preprocessing(torch.from_numpy(matrix)).numpy()
    plan, sizes, numbers = NetPlan(hidden=(8, 8)), preprocessing.sizes, len(preprocessing.numbers)
    members: list[torch.nn.Module] = []
    for number in range(count):
        y = x[:, :1] * number + x[:, 1:2]
        line = ask_linear(x, y, sizes, "regression", outputs=1, strength=0.1, numbers=numbers)()
        members.append(Corrected(line, make_member(plan, preprocessing.width, sizes, 1)))
    members.append(ask_linear(x, x[:, 1:2], sizes, "regression", outputs=1)())
    weights = [*range(1, count + 1), 4.0]
    net = Net(preprocessing, members, "regression", weights=weights)
    export(net, awkward_rows(schema, matrix), tmp_path, program=True)
    alone = [Net(preprocessing, [member], "regression")(torch.from_numpy(matrix)) for member in members]
    right = sum(weight * answer for weight, answer in zip(weights, alone, strict=True)) / sum(weights)
    torch.testing.assert_close(net(torch.from_numpy(matrix)), right)


@pytest.mark.parametrize(("task", "outputs"), [("binary", 1), ("binary", 2), ("multiclass", 3)])
@pytest.mark.parametrize("temperature", [1.0, 1.3])
def test_the_last_layer_of_a_single_perceptron_answers_calibrated_logits(task, outputs, temperature):
    schema = schema_of("FP32")
    matrix = matrix_of(schema)
    preprocessing = Preprocessing(schema, matrix)
    member = make_member(NetPlan(hidden=(8,)), preprocessing.width, preprocessing.sizes, outputs)
    before, luck = copy.deepcopy(member.state_dict()), torch.get_rng_state()
    net = Net(preprocessing, [member], task, temperature=temperature)
    assert torch.equal(torch.get_rng_state(), luck)
    raw = member(preprocessing(torch.from_numpy(matrix)))
    logits = torch.cat([torch.zeros_like(raw), raw], 1) if outputs == 1 else raw
    probabilities, label = net(torch.from_numpy(matrix))
    torch.testing.assert_close(probabilities, torch.softmax(logits / temperature, 1))
    assert torch.equal(label, probabilities.argmax(1))
    assert all(torch.equal(before[name], values) for name, values in member.state_dict().items())


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_members_that_are_certain_stay_finite(tmp_path: Path, task):
    net, matrix = net_of(task, members=3)
    with torch.no_grad():
        for weight in net.member.parameters():
            weight.mul_(20)  # logits in the thousands
    export(net, matrix, tmp_path)
    for name, answers in OnnxSession((tmp_path / ONNX).read_bytes()).run(matrix).items():
        assert np.isfinite(answers).all(), name


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize(("factor", "is_steep"), [(1.0, False), (20.0, True)])
def test_probabilities_that_float32_does_not_hold_are_computed_in_float64(tmp_path: Path, task, factor, is_steep):
    net, matrix = net_of(task)
    with torch.no_grad():
        for weight in net.member.parameters():
            weight.mul_(factor)
        right, label = net(torch.from_numpy(matrix))
    export(net, matrix, tmp_path)
    assert net.is_steep == is_steep == (float(right.min()) < 1e-38)
    nodes = onnx.load(tmp_path / ONNX).graph.node
    made_by = {name: node for node in nodes for name in node.output}
    (softmax,) = (node for node in nodes if node.op_type == "Softmax")
    before = made_by[softmax.input[0]]
    casts = [attribute.i for attribute in before.attribute] if before.op_type == "Cast" else []
    assert casts == ([onnx.TensorProto.DOUBLE] if is_steep else [])
    assert is_steep != (softmax.output[0] == "probabilities")
    answers = OnnxSession((tmp_path / ONNX).read_bytes()).run(matrix)
    np.testing.assert_allclose(answers["probabilities"], right.numpy(), atol=1e-6)
    np.testing.assert_array_equal(answers["label"], label.numpy())


def test_the_average_of_members_is_the_mean_of_their_probabilities():
    schema = schema_of("FP32")
    matrix = torch.from_numpy(matrix_of(schema))
    preprocessing = Preprocessing(schema, matrix.numpy())
    for task, outputs in (("binary", 1), ("binary", 2), ("multiclass", 3)):
        plan = NetPlan(hidden=(8,))
        members = [make_member(plan, preprocessing.width, preprocessing.sizes, outputs) for _ in range(3)]
        alone = [Net(preprocessing, [member], task)(matrix)[0] for member in members]
        together, label = Net(preprocessing, members, task)(matrix)
        torch.testing.assert_close(together, torch.stack(alone).mean(0))
        assert torch.equal(label, together.argmax(1))
        torch.testing.assert_close(together.sum(1), torch.ones(len(matrix)))


def test_the_files_tell_nothing_of_this_machine(tmp_path: Path):
    net, matrix = net_of("multiclass", members=2)
    export(net, matrix, tmp_path, program=True)
    parts = {ONNX: (tmp_path / ONNX).read_bytes()}
    for name in (TORCHSCRIPT, EXPORTED):
        with zipfile.ZipFile(tmp_path / name) as archive:
            parts |= {f"{name}/{member}": archive.read(member) for member in archive.namelist()}
    checkout = str(Path(__file__).parents[2]).encode()
    for name, content in parts.items():
        for word in (checkout, b"site-packages", b"/training/", b"net.py"):
            assert word not in content, f"{name} holds {word!r}"


def test_the_graph_is_one_file_of_standard_operators(tmp_path: Path):
    net, matrix = net_of("binary", members=2)
    export(net, matrix, tmp_path)
    model = onnx.load(tmp_path / ONNX)
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    assert not {"Loop", "If", "Scan"} & {node.op_type for node in model.graph.node}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert len(model.graph.node) < 100


def test_the_graph_reads_features_as_lines(tmp_path: Path):
    net, matrix = net_of("multiclass")  # a category among them
    export(net, matrix, tmp_path)
    nodes = onnx.load(tmp_path / ONNX).graph.node
    picks = [node for node in nodes if node.op_type == "Gather" and "preprocessing" in node.name]
    assert picks
    assert all(attribute.i == 0 for node in picks for attribute in node.attribute if attribute.name == "axis")
    made = {name: node.op_type for node in nodes for name in node.output}
    assert not {"Shape", "ConstantOfShape", "Expand"} & set(made.values())


@pytest.mark.parametrize("has_codes", [False, True])
def test_the_graph_tells_numbers_again_as_lines(tmp_path: Path, has_codes):
    schema = schema_of("FP32")
    if not has_codes:
        schema = Schema(features=tuple(one for one in schema.features if one.name in ("size", "day")))
    matrix = np.random.default_rng(0).normal(size=(40, len(schema.columns))).astype(np.float32)
    if has_codes:
        matrix[:, schema.columns.index("city")] = np.arange(40) % len(CITIES)
    preprocessing = Preprocessing(schema, matrix)
    x = preprocessing(torch.from_numpy(matrix))
    assert bool(preprocessing.sizes) == has_codes
    expansion = Steps(x, len(preprocessing.numbers), len(preprocessing.sizes), 7)
    members = [
        make_member(NetPlan(hidden=(8,)), preprocessing.width, preprocessing.sizes, 2, expansion) for _ in range(2)
    ]
    export(Net(preprocessing, members, "regression"), matrix, tmp_path)
    nodes = onnx.load(tmp_path / ONNX).graph.node
    (told,) = (node for node in nodes if node.op_type == "Gather" and node.input[1].endswith("columns"))
    assert {attribute.name: attribute.i for attribute in told.attribute}["axis"] in (0, -2)
    assert sum(node.op_type == "Slice" for node in nodes) == (4 if has_codes else 0)  # two around, two of an embedding


def test_a_file_with_other_answers_is_refused(tmp_path: Path):
    net, matrix = net_of("regression")
    export(net, matrix, tmp_path)
    model = onnx.load(tmp_path / ONNX)
    bias = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [2] and tensor.data_type == 1)
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.1), bias.name))
    onnx.save(model, tmp_path / ONNX)
    with pytest.raises(NoParity, match=r"model.onnx does not answer as the network does: .*; nothing was published"):
        check_parity(net, matrix, tmp_path)
