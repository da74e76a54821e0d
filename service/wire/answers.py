"""What a session answered, checked before it may leave in any format."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.manifest import ClassLabel
from models.proof import Answers
from models.repository import Version
from service.problems import ModelFailed


def finite(version: Version, output: str, answers: Answers) -> npt.NDArray[Any]:
    """The values of one output [N, K], in C order.

    Raises:
        ModelFailed: a number is not finite; it names the first row.
    """
    values = np.ascontiguousarray(answers[output])
    is_finite = np.isfinite(values)
    if not is_finite.all():
        raise ModelFailed(str(version), f"{output} is not a finite number", int(np.argwhere(~is_finite)[0][0]))
    return values


def class_numbers(version: Version, classes: Sequence[ClassLabel], answers: Answers) -> list[int]:
    """The numbers of the classes in `label` [N].

    Raises:
        ModelFailed: one is the number of no class.
    """
    numbers: list[int] = answers["label"].tolist()
    if numbers and not 0 <= min(numbers) <= max(numbers) < len(classes):
        raise ModelFailed(str(version), f"its label is none of the {len(classes)} classes")
    return numbers
