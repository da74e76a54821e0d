"""Which tensors a model reads and answers, in the words of the Open Inference Protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from models.features import NumberFeature
from models.manifest import Manifest
from models.proof import INPUT
from models.repository import Version
from models.schema import Schema
from service.wire.oip_tensors import DATATYPES

PACKED = INPUT
"""The tensor that is the whole matrix."""

CLASS = "class"
"""The output that names the likeliest class; `label`, which is an output of the graph, numbers it."""

Kind = Literal["number", "category", "boolean", "datetime"]
_ANY_NUMBER = tuple(name for name in DATATYPES if name not in ("BOOL", "BYTES"))

ACCEPTED: Mapping[Kind, tuple[str, ...]] = {
    "number": _ANY_NUMBER,
    "category": ("BYTES", "BOOL", *_ANY_NUMBER),
    "boolean": ("BOOL", *_ANY_NUMBER),
    "datetime": ("BYTES",),
}
"""The datatypes in which a feature of each kind may come."""

ACCEPTED_PACKED = _ANY_NUMBER


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor as metadata lists it.

    Attributes:
        width: length of the second axis; None where there are rows only.
    """

    name: str
    datatype: str
    width: int | None

    @property
    def shape(self) -> list[int]:
        """The shape with -1 for the rows."""
        return [-1] if self.width is None else [-1, self.width]


def inputs_of(schema: Schema) -> tuple[TensorSpec, ...]:
    """What metadata lists: the matrix where every feature is a number, else one tensor per feature.

    Either form is always accepted. A generator of random requests fills whatever is listed: a matrix of random
    numbers is a request, and so are random texts for categories; a random index of a category is none.
    """
    if all(isinstance(feature, NumberFeature) for feature in schema.features):
        return (TensorSpec(PACKED, schema.datatype, len(schema.columns)),)
    own: Mapping[Kind, str] = {"number": schema.datatype, "category": "BYTES", "boolean": "BOOL", "datetime": "BYTES"}
    return tuple(TensorSpec(feature.name, own[feature.kind], 1) for feature in schema.features)


@lru_cache(maxsize=256)
def outputs_by_name(version: Version) -> Mapping[str, TensorSpec]:
    """The outputs of a version by their names, in their order."""
    return {spec.name: spec for spec in outputs_of(version.manifest)}


def outputs_of(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The outputs of the graph, and the class's name where there are classes."""
    if manifest.classes is None:
        return (TensorSpec("prediction", "FP32", len(manifest.targets)),)
    return (
        TensorSpec("probabilities", "FP32", len(manifest.classes)),
        TensorSpec("label", "INT64", None),
        TensorSpec(CLASS, "BYTES", None),
    )
