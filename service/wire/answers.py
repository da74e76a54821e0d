"""What a session answered, checked before it may leave in any format."""

from collections.abc import Sized
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from models.manifest import ClassLabel
from models.proof import Answers
from models.repository import Version
from service.problems import ModelFailed

_BEYOND = 2**63  # the first integer that is too large for an array of them


def finite(version: Version, output: str, answers: Answers) -> npt.NDArray[Any]:
    """The values of one output [N, K], in C order.

    Raises:
        ModelFailed: a number is not finite; it names the first row.
    """
    values = np.ascontiguousarray(answers[output])
    is_finite = np.isfinite(values)
    if np.count_nonzero(is_finite) != is_finite.size:  # which takes half the time of `all`
        raise ModelFailed(str(version), f"{output} is not a finite number", int(np.argwhere(~is_finite)[0][0]))
    return values


def class_numbers(version: Version, classes: Sized, answers: Answers) -> npt.NDArray[np.int64]:
    """The numbers of the classes in `label` [N].

    Raises:
        ModelFailed: one is the number of no class.
    """
    numbers: npt.NDArray[np.int64] = answers["label"]
    if len(numbers) and numbers.view(np.uint64).max() >= len(classes):  # read so, one below 0 is large
        raise ModelFailed(str(version), f"its label is none of the {len(classes)} classes")
    return numbers


def json_labels(version: Version, answers: Answers) -> list[ClassLabel] | npt.NDArray[Any]:
    """The labels in `label` [N] for orjson, which writes an array of integers or booleans in a third of a list's time.

    Raises:
        ModelFailed: as `class_numbers` does.
    """
    classes = _classes(version)
    labels: npt.NDArray[Any] = classes[class_numbers(version, classes, answers)]
    return labels.tolist() if labels.dtype == object else labels


@lru_cache(maxsize=256)
def _classes(version: Version) -> npt.NDArray[Any]:
    """The labels as an array, which picks a thousand of them in a fifth of a tuple's time."""
    classes = version.manifest.classes or ()
    kinds = set(map(type, classes))
    if kinds == {bool} or (kinds == {int} and all(abs(int(label)) < _BEYOND for label in classes)):
        return np.array(classes)
    objects = np.empty(len(classes), object)
    objects[:] = classes
    return objects
