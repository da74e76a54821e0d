"""A request of the Open Inference Protocol V2: bytes to what they ask for.

    {"id": "1", "inputs": [{"name": "features", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}],
     "outputs": [{"name": "prediction", "parameters": {"binary_data": true}}]}

A body is such a JSON, or with the header Inference-Header-Content-Length so many bytes of it, then the raw bytes of
every input that has `parameters.binary_data_size` in place of `data`. docs/reference/oip.md says all of it to those who
send requests. https://github.com/kserve/open-inference-protocol is the specification; where it is silent, Triton's
protocol extensions are followed. oip_matrix.py makes the matrix of what is asked for, oip_answer.py the answer's bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from models.errors import shown
from service.problems import BadBody
from service.wire.json_text import read_json
from service.wire.oip_tensors import DATATYPES, Tensor, shape_shown

_MOST_TIMEOUT_US = 10**12
_LONGEST_KNOWN = 1000  # bytes of JSON before raw tensors


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output that a request asks for.

    Attributes:
        binary: as raw bytes; None where it does not say.
        classification: the most likely so many classes as texts, instead of numbers; 0: numbers.
    """

    name: str
    binary: bool | None = None
    classification: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """What a body asks for.

    Attributes:
        id: comes back with the answer; "" where there is none.
        inputs: empty for a raw matrix.
        raw_matrix: the whole body, where it is nothing but the bytes of the matrix.
        wanted: the outputs in the order of the answer; empty for all.
        binary: outputs that do not say otherwise go as raw bytes.
        timeout_s: how long the client will wait; None where it does not say.
        parameters: those of the request, as they came.
    """

    id: str
    inputs: Sequence[Tensor]
    raw_matrix: memoryview | None
    wanted: Sequence[Wanted]
    binary: bool
    timeout_s: float | None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_urgent(self) -> bool:
        """Whether it asks to go before others: 1 is the protocol's highest priority, and all others are ordinary."""
        priority = self.parameters.get("priority")
        return type(priority) is int and priority == 1


def read(raw: bytes, header_length: str | None) -> Request:
    """What a body asks for; `header_length` is the value of Inference-Header-Content-Length. No tensor is read yet.

    Raises:
        BadBody: it is no request of this protocol, or its tensors take more or fewer bytes than there are.
    """
    length = len(raw) if header_length is None else _header_length(header_length, len(raw))
    if length == 0 and raw:
        return Request("", (), memoryview(raw), (), binary=True, timeout_s=None)
    whole = memoryview(raw)
    # what stands before raw tensors says nothing of their values, so most requests say the same
    if length < len(raw) and length <= _LONGEST_KNOWN:
        head = _known_head(raw[:length])
    else:
        head = _head(read_whole(raw) if header_length is None else read_json(whole[:length]))
    tensors = _tensors(head.inputs, whole[length:])
    return Request(head.id, tensors, None, head.wanted, head.binary, head.timeout_s, head.parameters)


@dataclass(frozen=True, slots=True)
class _Input:
    """One input as the JSON describes it: `data` is its list, or how many raw bytes it has."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | int


@dataclass(frozen=True, slots=True)
class _Head:
    """What the JSON of a request says."""

    id: str
    inputs: Sequence[_Input]
    wanted: Sequence[Wanted]
    binary: bool
    timeout_s: float | None
    parameters: Mapping[str, Any]


def read_whole(raw: bytes) -> Any:
    """The value of a body that is JSON and nothing else.

    Raises:
        BadBody, TooLarge: as `read_json` says; or raw tensors follow it, and something between dropped the header.
    """
    try:
        return read_json(raw)
    except BadBody:
        if b'"binary_data_size"' not in raw:
            raise
        expected = "Inference-Header-Content-Length must say how many bytes of the body are JSON, before raw tensors"
        raise BadBody(expected, "no such header") from None


def _head(body: object) -> _Head:
    if not isinstance(body, dict):
        raise BadBody('the body must be a JSON object with "inputs"', shown(body))
    parameters = _parameters(body, "the request")
    return _Head(
        _id(body.get("id")),
        _inputs(body.get("inputs")),
        [_wanted(output) for output in _objects(body, "outputs")],
        _bool(parameters, "binary_data_output") or False,
        _timeout_s(parameters.get("timeout")),
        parameters,
    )


@lru_cache(maxsize=256)
def _known_head(text: bytes) -> _Head:
    return _head(read_json(text))


def _header_length(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= most):
        raise BadBody(f"Inference-Header-Content-Length must be a number from 0 to {most}, the body's", shown(text))
    return int(text)


def _id(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadBody('"id" must be a text', shown(value))
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise BadBody('"id" must be Unicode; half of a surrogate pair is none')
    return value


def _objects(body: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    values = body.get(key)
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise BadBody(f'"{key}" must be a list of objects', shown(values))
    return values


def _inputs(values: object) -> list[_Input]:
    objects = _objects({"inputs": values}, "inputs")
    if not objects:
        raise BadBody('the body must have "inputs", a list with a tensor or more', "none")
    inputs = []
    for number, one in enumerate(objects):
        name, datatype, shape = _form(number, one)
        inputs.append(_Input(name, datatype, shape, _data(f"input {shown(name)}", one)))
    return inputs


def _tensors(inputs: Sequence[_Input], rest: memoryview) -> list[Tensor]:
    """The inputs; the raw bytes of those that are binary are taken off `rest` in their order."""
    tensors = []
    for one in inputs:
        data: list[Any] | memoryview
        if isinstance(one.data, int):
            data, rest = rest[: one.data], rest[one.data :]
            if len(data) < one.data:
                expected = f"binary_data_size of input {shown(one.name)} must be a whole number up to {len(data)}"
                raise BadBody(f"{expected}, the bytes that are left", str(one.data))
        else:
            data = one.data
        tensors.append(Tensor(one.name, one.datatype, one.shape, data))
    if len(rest):
        raise BadBody(f"unexpected additional input data: {len(rest)} bytes after those of the last input")
    return tensors


def _form(number: int, one: Mapping[str, Any]) -> tuple[str, str, tuple[int, ...]]:
    name, datatype, shape = one.get("name"), one.get("datatype"), one.get("shape")
    if not isinstance(name, str):
        raise BadBody(f'"name" of input {number} must be a text', shown(name))
    if datatype not in DATATYPES:
        raise BadBody(f"datatype of input {shown(name)} must be one of {', '.join(DATATYPES)}", shown(datatype))
    if not isinstance(shape, list) or not shape or not all(type(size) is int and size >= 0 for size in shape):
        got = shape_shown(shape) if isinstance(shape, list) else shown(shape)
        raise BadBody(f"shape of input {shown(name)} must be a list of whole numbers from 0", got)
    return name, datatype, tuple(shape)


def _data(what: str, one: Mapping[str, Any]) -> list[Any] | int:
    """What an input holds: its JSON list, or the number of its raw bytes."""
    parameters = _parameters(one, what)
    if "shared_memory_region" in parameters:
        raise BadBody(f"{what} must be in the body: shared memory is not served here")
    size = parameters.get("binary_data_size")
    if ("data" in one) == (size is not None):
        raise BadBody(f'{what} must have one of "data" and "parameters.binary_data_size"')
    if size is None:
        if not isinstance(one["data"], list):
            raise BadBody(f"data of {what} must be a list", shown(one["data"]))
        return one["data"]
    if type(size) is not int or size < 0:
        raise BadBody(f"binary_data_size of {what} must be a whole number from 0", shown(size))
    return size


def _wanted(output: Mapping[str, Any]) -> Wanted:
    name = output.get("name")
    if not isinstance(name, str):
        raise BadBody('"name" of an output must be a text', shown(name))
    parameters = _parameters(output, f"output {shown(name)}")
    if "shared_memory_region" in parameters:
        raise BadBody(f"output {shown(name)} can go into the answer alone: shared memory is not served here")
    classification = parameters.get("classification", 0)
    if type(classification) is not int or classification < 0:
        raise BadBody(f"classification of output {shown(name)} must be a whole number from 0", shown(classification))
    return Wanted(name, _bool(parameters, "binary_data"), classification)


def _parameters(owner: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadBody(f'"parameters" of {what} must be an object', shown(parameters))
    return parameters


def _bool(parameters: Mapping[str, Any], key: str) -> bool | None:
    value = parameters.get(key)
    if value is not None and not isinstance(value, bool):
        raise BadBody(f'"{key}" must be true or false', shown(value))
    return value


def _timeout_s(microseconds: object) -> float | None:
    if microseconds is None:
        return None
    if type(microseconds) is not int or microseconds < 0:
        raise BadBody('"timeout" must be a whole number of microseconds', shown(microseconds))
    return min(microseconds, _MOST_TIMEOUT_US) / 1e6 if microseconds else None
