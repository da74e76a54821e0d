import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from service.batching.bounded import is_bounded
from tests.service import hostile, tiny


@pytest.mark.parametrize("name", sorted(tiny.SCHEMAS))
def test_what_is_made_of_rows_alone_is_bounded(name):
    assert is_bounded(tiny.graph(name).SerializeToString())


@pytest.mark.parametrize(
    "graph",
    [hostile.endless, hostile.slow_for_large_x, hostile.costly, hostile.greedy_for_large_x, hostile.gigabytes],
    ids=lambda graph: graph.__name__,
)
def test_loops_and_sizes_that_values_say_are_not(graph):
    bounded = is_bounded(graph())
    assert not bounded or graph is hostile.gigabytes  # its size is a constant: it is refused when it is opened


def test_functions_are_not():
    assert not is_bounded(hostile.deep(3))


def test_a_size_that_comes_from_a_shape_is_bounded_and_one_from_a_value_is_not():
    shape = helper.make_node("Shape", ["features"], ["shape"])
    zeros = helper.make_node("ConstantOfShape", ["shape"], ["zeros"])
    add = helper.make_node("Add", ["line", "zeros"], ["prediction"])
    assert is_bounded(hostile.model([shape, zeros, add]))
    value = helper.make_node("Cast", ["line"], ["shape"], to=onnx.TensorProto.INT64)
    assert not is_bounded(hostile.model([value, zeros, add]))
    constant = numpy_helper.from_array(np.array([1]), "one")
    repeated = helper.make_node("Tile", ["line", "one"], ["prediction"])
    assert is_bounded(hostile.model([repeated], [constant]))


def test_a_constant_whose_name_comes_in_two_parts_is_not_named_by_both():
    """The last one counts to every reader of protocol buffers, and a value may have the name of both."""
    value = helper.make_node("Cast", ["line"], ["size"], to=onnx.TensorProto.INT64)
    zeros = helper.make_node("ConstantOfShape", ["size"], ["zeros"])
    add = helper.make_node("Add", ["line", "zeros"], ["prediction"])
    raw = hostile.model([value, zeros, add], [numpy_helper.from_array(np.array([1]), "single")])
    assert raw.count(b"\x42\x06single") == 1
    assert not is_bounded(raw.replace(b"\x42\x06single", b"\x42\x02si\x42\x02ze"))


@given(st.binary(max_size=300))
def test_what_is_no_graph_is_not(raw):
    assert not is_bounded(raw)


@given(st.data())
def test_a_damaged_graph_is_judged_without_a_crash(data):
    raw = bytearray(tiny.graph("flowers").SerializeToString())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    assert is_bounded(bytes(raw)) in (True, False)
