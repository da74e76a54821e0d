"""Whose fault it is that a network computed no finite number: that of the row, or its own.

A version has proven itself before it is asked, so a row with values of the kind that it was trained on has an answer.
Values far beyond (1e38, where the training rows had 10) may overflow on their way through a network, and no service can
know before which of them will. Whoever sent them is told which value it was, and nobody else is.
"""

from collections.abc import Iterator

import numpy as np

from models.errors import RowcastError
from models.features import DatetimeFeature, NumberFeature
from models.repository import Version
from models.schema import Matrix, Schema
from service.problems import ModelFailed, NotComputable


def blamed(error: ModelFailed, version: Version, matrix: Matrix, row: int | None = None) -> RowcastError:
    """The same problem as the request's fault, where one of its values is outside of what the training rows had.

    Shape:
        matrix: the rows of the request, [N, F]

    `row`: which row of the request it was about, if the error counts other ones.
    """
    if error.row is None:
        return error
    number = error.row if row is None else row
    outside = list(_outside(version.schema, matrix[number if row is None else 0]))
    if not outside:
        return error
    _, feature, got, usual = max(outside)
    return NotComputable(str(version), number, feature, got, usual)


def _outside(schema: Schema, line: Matrix) -> Iterator[tuple[float, str, str, str]]:
    """Values of a row [F] outside of their training range: by how many of its widths, the feature, value and range."""
    at = 0
    for feature in schema.features:
        value, at = float(line[at]), at + len(feature.columns)
        if not isinstance(feature, NumberFeature | DatetimeFeature) or np.isnan(value):
            continue
        low, high = (feature.quantiles[0], feature.quantiles[-1]) if feature.quantiles else (0.0, 0.0)
        beyond = max(low - value, value - high)
        if beyond > 0:
            show = _day if isinstance(feature, DatetimeFeature) else "{:g}".format
            usual = f"from {show(low)} to {show(high)}" if feature.quantiles else "always missing"
            yield beyond / ((high - low) or 1.0), feature.name, show(value), usual


def _day(days: float) -> str:
    return str(np.datetime64(int(days), "D"))
