"""Whether a graph's time and memory depend on how many rows it is given and not on what stands in them.

Only such a graph may be computed where nothing could end it, in an API process (service/batching/inline.py): a loop
that runs as often as a feature says, or a tensor as large as one, would take the process with it. A worker is watched
and replaced, so it takes every graph that proved itself.

The file is read as what it is, protocol buffers (onnx.proto3, ModelProto), so that the service needs no onnx package.
"""

from collections.abc import Iterator

_OF_ROWS = frozenset(
    """
    Abs Add And ArgMax ArgMin Cast CastLike Ceil Celu Clip Concat Constant Cos CumSum Div Elu Equal Erf Exp Flatten
    Floor Gather GatherElements Gelu Gemm Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max Mean Min Mish Mod Mul Neg Not Or PRelu
    Pow Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare Relu Round Selu Shape Sigmoid Sign Sin Size Slice Softmax Softplus Softsign Split Sqrt
    Squeeze Sub Sum Tan Tanh ThresholdedRelu Transpose Unsqueeze Where Xor
    """.split()  # noqa: SIM905 - a page of words, not of quotation marks
)
"""Operators whose output is no larger than their inputs allow, and that end."""

_SHAPED = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Tile": 1}
"""Operators whose output is as large as one of their inputs says, and which; it must come from shapes alone."""

# operators whose output comes from shapes alone where their inputs do
_SHAPES = frozenset(["Cast", "Concat", "Gather", "Identity", "Mul", "Slice", "Squeeze", "Unsqueeze", "Where", "Equal"])

# numbers of fields in onnx.proto3
_OF_MODEL_GRAPH, _OF_MODEL_FUNCTIONS = 7, 25
_OF_GRAPH_NODE, _OF_GRAPH_INITIALIZER = 1, 5
_OF_TENSOR_NAME = 8
_OF_NODE_INPUT, _OF_NODE_OUTPUT, _OF_NODE_TYPE, _OF_NODE_DOMAIN = 1, 2, 4, 7


def is_bounded(model: bytes) -> bool:
    """Whether the graph of a model file consists of operators that are known to be bounded by the rows."""
    try:
        return _is_bounded(memoryview(model))
    except (IndexError, ValueError):  # no protocol buffer
        return False


def _is_bounded(model: memoryview) -> bool:
    graphs = _values(model, _OF_MODEL_GRAPH)
    if len(graphs) != 1 or _values(model, _OF_MODEL_FUNCTIONS):
        return False
    constants = _values(graphs[0], _OF_GRAPH_INITIALIZER)
    from_shapes = {name for constant in constants for name in _texts(constant, _OF_TENSOR_NAME)[-1:]}  # the last counts
    nodes = _values(graphs[0], _OF_GRAPH_NODE)
    for node in nodes:
        inputs, outputs = _texts(node, _OF_NODE_INPUT), _texts(node, _OF_NODE_OUTPUT)
        kind = "".join(_texts(node, _OF_NODE_TYPE)[-1:])
        if any(_texts(node, _OF_NODE_DOMAIN)):  # operators that are not ONNX's own
            return False
        if kind in _SHAPED:
            if len(inputs) <= _SHAPED[kind] or inputs[_SHAPED[kind]] not in from_shapes:
                return False
        elif kind not in _OF_ROWS:
            return False
        if kind in ("Shape", "Size", "Constant") or (kind in _SHAPES and set(inputs) <= from_shapes | {""}):
            from_shapes |= set(outputs)
    return bool(nodes)


def _texts(message: memoryview, wanted: int) -> list[str]:
    return [str(value, "utf-8") for value in _values(message, wanted)]


def _values(message: memoryview, wanted: int) -> list[memoryview]:
    return [value for number, value in _fields(message) if number == wanted]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field; of a field that is a number, nothing."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        match tag & 7:
            case 0:
                _, end = _varint(message, place)
                place = end
            case 1:
                end = place + 8
                place = end
            case 2:
                size, place = _varint(message, place)
                end = place + size
            case 5:
                end = place + 4
                place = end
            case kind:
                raise ValueError(kind)
        if end > len(message):
            raise ValueError(end)
        yield tag >> 3, message[place:end]
        place = end


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError(shift)
