"""From the tensors of an Open Inference Protocol request to the matrix that the graph reads.

Either one tensor per feature, which `Schema` encodes as it encodes the columns of any other request, or the matrix
itself in one tensor, which is only checked.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from models import moments
from models.errors import BadRow, nearest, shown
from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, Feature, NumberFeature
from models.repository import Version
from models.schema import Matrix, Schema
from service.problems import BadBody
from service.wire.oip import Request
from service.wire.oip_signature import ACCEPTED, ACCEPTED_PACKED, PACKED
from service.wire.oip_tensors import NUMBERS, Tensor, Values


@np.errstate(over="ignore", invalid="ignore")  # what does not fit is named; a NaN may be a signalling one
def encode(request: Request, version: Version, most_rows: int) -> Matrix:
    """The inputs as the matrix that the graph reads, [N, F]; it may be read-only, and lie in the request's body.

    Raises:
        TooLarge: N is above `most_rows`; no value was read.
        BadBody: an input is not the model's, or not of the shape, datatype or size that it must be.
        BadRow: a value is of the wrong kind or not finite.
    """
    schema = version.schema
    if request.raw_matrix is not None:
        return _packed(_whole_body(request.raw_matrix, version), version, most_rows)
    if len(request.inputs) == 1 and request.inputs[0].name == PACKED and schema.names != (PACKED,):
        return _packed(request.inputs[0], version, most_rows)
    return schema.encode_columns(_columns(request.inputs, version, most_rows))


def _columns(inputs: Sequence[Tensor], version: Version, most_rows: int) -> dict[str, Values]:
    """Feature to its values, from one tensor per feature."""
    schema, model = version.schema, version.name
    features = _features(version)
    columns: dict[str, Values] = {}
    rows = 0
    for tensor in inputs:
        feature = features.get(tensor.name)
        if feature is None and tensor.name == PACKED:
            raise BadBody(f"input '{PACKED}' must be the only one", f"{len(inputs)} inputs")
        if feature is None:
            raise BadBody(
                f"unexpected inference input {shown(tensor.name)} for model '{model}'; {_hint(tensor, schema)}"
            )
        if tensor.name in columns:
            raise BadBody(f"input {shown(tensor.name)} must stand once")
        _check_datatype(tensor, ACCEPTED[feature.kind], model)
        own_rows = tensor.check_rows(1, most_rows, model)
        if columns and own_rows != rows:
            raise BadBody(f"input {shown(tensor.name)} must have {rows} rows like the inputs before it", str(own_rows))
        rows = own_rows
        columns[tensor.name] = _as_read(feature, tensor)
    if len(columns) < len(features):
        absent = next(name for name in schema.names if name not in columns)
        expected = f"expected {len(features)} inputs but got {len(columns)} inputs for model '{model}'"
        raise BadBody(f"{expected}; input {shown(absent)} is absent")
    return columns


@lru_cache(maxsize=256)
def _features(version: Version) -> Mapping[str, Feature]:
    return {feature.name: feature for feature in version.schema.features}


def _hint(tensor: Tensor, schema: Schema) -> str:
    near = nearest(tensor.name, (*schema.names, PACKED))
    return f"did you mean {shown(near)}?" if near is not None else f"it reads one per feature, or '{PACKED}' alone"


def _check_datatype(tensor: Tensor, accepted: Sequence[str], model: str) -> None:
    if tensor.datatype not in accepted:
        what = f"inference input {shown(tensor.name)} data-type is '{tensor.datatype}'"
        raise BadBody(f"{what}, but model '{model}' expects {' or '.join(accepted)}")


def _as_read(feature: Feature, tensor: Tensor) -> Values:
    """The values as `Schema.encode_columns` reads them fastest; in BYTES an empty text is a missing value."""
    values = tensor.values()
    if isinstance(feature, NumberFeature):
        return values
    if isinstance(values, np.ndarray):
        listed: list[Any] = values.tolist()
        return listed
    if tensor.datatype == "BYTES" and not (isinstance(feature, CategoryFeature) and "" in feature.categories):
        return [text or None for text in values]
    return values


def _whole_body(raw: memoryview, version: Version) -> Tensor:
    datatype, width = version.schema.datatype, len(version.schema.columns)
    row_bytes = NUMBERS[datatype].itemsize * width
    if len(raw) % row_bytes:
        raise BadBody(f"a body without JSON must be rows of {width} {datatype}, {row_bytes} bytes each", str(len(raw)))
    return Tensor(PACKED, datatype, (len(raw) // row_bytes, width), raw)


def _packed(tensor: Tensor, version: Version, most_rows: int) -> Matrix:
    """The matrix itself, as `Schema.encode` would have made it."""
    schema = version.schema
    width = len(schema.columns)
    _check_datatype(tensor, ACCEPTED_PACKED, version.name)
    rows = tensor.check_rows(width, most_rows, version.name)
    values = tensor.values()
    if isinstance(values, list) or values.dtype.kind != "f":
        values = np.array(values, np.float64)  # as `encode_columns` does: an integer is rounded to FP64 first
    matrix: Matrix = values.astype(NUMBERS[schema.datatype], copy=False).reshape(rows, width)
    if np.count_nonzero(np.isinf(matrix)):
        row, column = np.argwhere(np.isinf(matrix))[0].tolist()
        expected = f"must be a finite number within the range of {schema.datatype}"
        raise BadRow(row, schema.columns[column], expected, shown(float(values.reshape(rows, width)[row, column])))
    _check_codes(matrix, version)
    return matrix


def _check_codes(matrix: Matrix, version: Version) -> None:
    """Columns in which `Schema.encode` puts certain numbers alone must hold such, or NaN: a graph may rely on it."""
    columns, least, most, is_whole = _codes(version)
    if not len(columns):
        return
    codes = matrix[:, columns]
    is_code = np.isnan(codes) | ((codes >= least) & (codes <= most) & ((codes == np.floor(codes)) | (is_whole == 0)))
    if not is_code.all():
        row, place = np.argwhere(~is_code)[0].tolist()
        expected = f"must be NaN or a {'whole ' * is_whole[place]}number from {least[place]} to {most[place]}"
        raise BadRow(row, version.schema.columns[columns[place]], expected, shown(float(codes[row, place])))


@lru_cache(maxsize=256)
def _codes(version: Version) -> npt.NDArray[np.int64]:
    """The columns of the matrix that hold indices, bits and parts of a moment.

    Four lines: their places, the least and the largest value of each, and 1 where only whole numbers are such.
    """
    found: list[tuple[int, int, int, int]] = []
    column = 0
    for feature in version.schema.features:
        match feature:
            case CategoryFeature(categories=categories):
                found.append((column, 0, len(categories), 1))
            case BooleanFeature():
                found.append((column, 0, 1, 1))
            case DatetimeFeature():
                parts = zip(moments.PARTS, moments.BOUNDS, strict=True)
                found += [(column + at, *ends, int(part != "second")) for at, (part, ends) in enumerate(parts)]
        column += len(feature.columns)
    return np.array(found, np.int64).reshape(-1, 4).T
