"""Tensors of the Open Inference Protocol: JSON or raw bytes to values, and values to raw bytes.

Raw bytes are little-endian and in C order; each text of a BYTES tensor is its length as uint32 and its UTF-8.
A shape is checked before anything is made of it.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from models.errors import shown
from service.problems import BadBody, TooLarge

NUMBERS: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # the upper half of an FP32; numpy has no such type
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""How each datatype but BYTES lies in a body."""

DATATYPES = (*NUMBERS, "BYTES")
_BINARY_ONLY = ("FP16", "BF16")
_LENGTH = struct.Struct("<I")
_NONE = type(None)

Values = npt.NDArray[Any] | list[Any]
"""Row by row: an array of numbers, or a list where there are texts or missing values among them."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input of a request, its form checked, its values not read yet.

    Attributes:
        data: a JSON list, flat or nested, or the raw bytes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | memoryview

    def check_rows(self, width: int, most: int, model: str) -> int:
        """The number of rows; the shape must be [N, width], or [N] where the width is 1.

        Raises:
            BadBody: it is another shape.
            TooLarge: N is above `most`.
        """
        if self.shape[1:] != (width,) and not (width == 1 and len(self.shape) == 1):
            expected = f"unexpected shape for input {shown(self.name)} for model '{model}'. Expected [-1,{width}]"
            raise BadBody(expected, shape_shown(self.shape))
        if self.shape[0] > most:
            raise TooLarge(most, self.shape[0], "rows")
        return self.shape[0]

    def values(self) -> Values:
        """The values, one after the other; their number is the product of the shape. Call `check_rows` first.

        Shape:
            an array or a list [N * width]. An array may be read-only, and lie in the body it was sent in

        Raises:
            BadBody: a value is none of the datatype's, or there are more or fewer than the shape says.
        """
        count = math.prod(self.shape)
        if isinstance(self.data, list):
            return self._from_json(_flat(self.name, self.data, self.shape, count))
        return self._texts(self.data, count) if self.datatype == "BYTES" else self._from_raw(self.data, count)

    def _from_raw(self, raw: memoryview, count: int) -> npt.NDArray[Any]:
        dtype = NUMBERS[self.datatype]
        if len(raw) != count * dtype.itemsize:
            expected = f"input byte size mismatch for input {shown(self.name)}. Expected {count * dtype.itemsize}"
            raise BadBody(expected, str(len(raw)))
        if self.datatype == "BOOL":
            bits: npt.NDArray[np.bool_] = np.frombuffer(raw, np.uint8) != 0  # as C does: perf_analyzer sends any byte
            return bits
        values = np.frombuffer(raw, dtype)
        if self.datatype == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values if values.flags.aligned else values.copy()

    def _texts(self, raw: memoryview, count: int) -> list[str | None]:
        texts: list[str | None] = []
        place, end, take = 0, len(raw), _LENGTH.unpack_from
        try:
            for _ in range(count):
                (length,) = take(raw, place)
                start = place + 4
                place = start + length
                texts.append(str(raw[start:place], "utf-8"))
        except struct.error:
            place = end + 1
        except UnicodeDecodeError:
            raise BadBody(f"input {shown(self.name)}, element {len(texts)}: its bytes must be UTF-8") from None
        if place != end:
            size = "more" if place < end else "fewer"
            raise BadBody(f"input {shown(self.name)}: its bytes must be those of {count} texts", f"{size} bytes")
        return texts

    def _from_json(self, values: list[Any]) -> Values:
        if self.datatype in _BINARY_ONLY:
            instead = "Please use the binary data format, or FP32"
            raise BadBody(f"receiving {self.datatype} data via JSON is not supported. {instead}")
        types = set(map(type, values)) - {_NONE}
        if self.datatype == "BYTES":
            return values if types <= {str} else self._refuse(values, "a text", (str,))
        if self.datatype == "BOOL":
            return values if types <= {bool} else [self._bit(at, value) for at, value in enumerate(values)]
        dtype = NUMBERS[self.datatype]
        if dtype.kind == "f":
            return self._floats(values, types, dtype)
        whole = values if types <= {int} else [self._whole(at, value) for at, value in enumerate(values)]
        has_missing = _NONE in set(map(type, whole))
        try:  # numpy says when one does not fit
            integers = np.array([value for value in whole if value is not None] if has_missing else whole, dtype)
        except OverflowError:
            ends = np.iinfo(dtype)
            self._refuse_range(whole, int(ends.min), int(ends.max))
        return whole if has_missing else integers

    def _floats(self, values: list[Any], types: set[type], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        if not types <= {float, int}:
            self._refuse(values, "a number", (float, int))
        try:
            doubles = np.array(values, np.float64)  # None is NaN
        except OverflowError:  # an integer beyond 1.8e308
            self._refuse_range(values, float(np.finfo(dtype).min), float(np.finfo(dtype).max))
        floats = doubles.astype(dtype, copy=False)
        if np.isinf(floats).any() and not np.isinf(doubles[np.isinf(floats)]).all():
            self._refuse_range(values, float(np.finfo(dtype).min), float(np.finfo(dtype).max))
        return floats

    def _bit(self, at: int, value: object) -> bool | None:
        if value is None or isinstance(value, bool):
            return value
        if type(value) in (int, float) and value in (0, 1):
            return bool(value)
        raise BadBody(f"input {shown(self.name)}, element {at}: must be true or false", shown(value))

    def _whole(self, at: int, value: object) -> int | None:
        if value is None or type(value) is int:
            return value
        if type(value) is float and value.is_integer():
            return int(value)
        raise BadBody(f"input {shown(self.name)}, element {at}: must be a whole number", shown(value))

    def _refuse(self, values: list[Any], what: str, types: tuple[type, ...]) -> NoReturn:
        at = next(at for at, value in enumerate(values) if value is not None and type(value) not in types)
        raise BadBody(f"input {shown(self.name)}, element {at}: must be {what}", shown(values[at]))

    def _refuse_range(self, values: list[Any], least: float, most: float) -> NoReturn:
        among = (
            (at, value) for at, value in enumerate(values) if value is not None and (value < least or value > most)
        )
        at, value = next((at, value) for at, value in among if value not in (math.inf, -math.inf))
        raise BadBody(
            f"input {shown(self.name)}, element {at}: must lie within {self.datatype}, {least:.5g} to {most:.5g}",
            shown(value),
        )


def texts_to_bytes(texts: Sequence[str]) -> list[bytes]:
    """Each text as an element of a raw BYTES tensor."""
    return [_LENGTH.pack(len(raw)) + raw for raw in (text.encode() for text in texts)]


def _flat(name: str, data: list[Any], shape: tuple[int, ...], count: int) -> list[Any]:
    """The elements of a JSON list, which may be nested as the shape is."""
    if len(shape) == 2 and data and type(data[0]) is list:
        if len(data) != shape[0] or set(map(type, data)) != {list} or set(map(len, data)) != {shape[1]}:
            raise BadBody(f"input {shown(name)}: its nested data must be of shape {shape_shown(shape)}")
        data = list(chain.from_iterable(data))
    if len(data) != count:
        raise BadBody(f"input {shown(name)}: its data must have {count} elements, as its shape says", str(len(data)))
    return data


def shape_shown(shape: Sequence[object]) -> str:
    """A shape as messages have it, or what stands in its place."""
    return f"[{','.join(shown(size) for size in shape[:8])}{',...' if len(shape) > 8 else ''}]"
