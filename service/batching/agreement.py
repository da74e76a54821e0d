"""How far two versions agree: whether they read rows alike, and what of their answers is equal."""

from dataclasses import dataclass

import numpy as np

from models.features import CategoryFeature
from models.proof import Answers
from models.repository import Version
from models.schema import Schema

_RTOL, _ATOL = 1e-4, 1e-5  # within them two numbers count as equal, as in a proof


def encodes_alike(one: Schema, other: Schema) -> bool:
    """Whether two schemas make the same matrix of every row."""
    return (one.datatype, _encoding(one)) == (other.datatype, _encoding(other))


def _encoding(schema: Schema) -> list[tuple[str, str, tuple[str, ...]]]:
    return [
        (feature.name, feature.kind, feature.categories if isinstance(feature, CategoryFeature) else ())
        for feature in schema.features
    ]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two versions agree on some rows.

    Attributes:
        rows: how many were compared; 0 when the two do not predict the same thing.
        equal: rows with the same class, or with numbers that are equal within the tolerance of a proof.
        difference: the absolute difference of predictions or probabilities, mean of each row, added up over rows.
    """

    rows: int
    equal: int
    difference: float


def agreement(version: Version, answers: Answers, shadow: Version, theirs: Answers) -> Agreement:
    """How far a shadow agrees with the version that answered."""
    one, other = version.manifest, shadow.manifest
    if one.targets != other.targets or (one.classes is None) != (other.classes is None):
        return Agreement(0, 0, 0.0)
    if one.classes is None or other.classes is None:
        ours, shadows = answers["prediction"], theirs["prediction"]
        equal = np.all(np.isclose(shadows, ours, rtol=_RTOL, atol=_ATOL), axis=1)
    else:
        known = [(type(name), name) for name in one.classes]  # true, 1 and "1" are three classes
        place = [known.index(name) if name in known else -1 for name in ((type(c), c) for c in other.classes)]
        equal = np.equal(np.array(place)[theirs["label"]], answers["label"])
        if -1 in place or len(place) != len(known):
            return Agreement(len(equal), int(equal.sum()), 0.0)
        ours, shadows = answers["probabilities"][:, place], theirs["probabilities"]
    with np.errstate(all="ignore"):
        differences = np.abs(shadows.astype(np.float64) - ours).mean(axis=1)
    return Agreement(len(equal), int(equal.sum()), float(differences[np.isfinite(differences)].sum()))
