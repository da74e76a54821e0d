"""What the training rows look like, in counts that a server can compare with its own; see `models/reference.py`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from models.reference import Bins, Reference
from models.schema import BooleanFeature, CategoryFeature, Feature, Matrix, Schema
from models.shapley import column_groups
from training.evaluate import Answers

TENTHS = np.arange(1, 10) / 10
MOST_CATEGORIES = 20
"""Categories up to which each has a bin; more are put together, as many as make about a twentieth of the rows."""


def make_reference(schema: Schema, train: Matrix, targets: tuple[str, ...], answers: Answers) -> Reference:
    """The reference of these training rows, and of the answers for rows that trained nothing.

    Shape:
        train: [N, columns], N from 1
    """
    features = {
        feature.name: _bins(train[:, group.start], _edges(feature, train[:, group.start]))
        for feature, group in zip(schema.features, column_groups(schema), strict=True)
    }
    if "prediction" in answers:
        columns = dict(zip(targets, answers["prediction"].T, strict=True))
        of_targets = {name: _bins(values, _tenths(values)) for name, values in columns.items()}
        return Reference(rows=len(train), features=features, targets=of_targets)
    counts = np.bincount(answers["label"], minlength=answers["probabilities"].shape[1])
    return Reference(rows=len(train), features=features, classes=tuple((counts / max(1, counts.sum())).tolist()))


def _bins(values: npt.NDArray[Any], edges: list[float]) -> Bins:
    empty = Bins(edges=tuple(edges), shares=(0.0,) * (len(edges) + 2))
    return Bins(edges=tuple(edges), shares=tuple((empty.count(values) / len(values)).tolist()))


def _edges(feature: Feature, values: npt.NDArray[Any]) -> list[float]:
    match feature:
        case BooleanFeature():
            return [0.5]
        case CategoryFeature(categories=categories, shares=shares):
            unknown = len(categories)
            if unknown <= MOST_CATEGORIES:
                return [index - 0.5 for index in range(1, unknown + 1)]
            group = (np.cumsum(shares) * MOST_CATEGORIES).astype(np.int64)
            return [*(np.flatnonzero(np.diff(group)) + 0.5).tolist(), unknown - 0.5]
        case _:
            return _tenths(values)


def _tenths(values: npt.NDArray[Any]) -> list[float]:
    present = values[~np.isnan(values)].astype(np.float64)
    return np.unique(np.quantile(present, TENTHS)).tolist() if len(present) else []
