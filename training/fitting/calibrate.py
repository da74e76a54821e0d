"""One number that makes probabilities mean what they say: the temperature."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from models.manifest import Calibration

_GOLDEN = (math.sqrt(5) - 1) / 2
_BOUNDS = (math.log(0.1), math.log(10.0))
_PRIOR_ROWS = 2.0
"""Weight of the belief that nothing needs to change: without it, thirty rows without an error ask for certainty."""


def calibrate(probabilities: npt.NDArray[np.floating], y: npt.NDArray[Any]) -> Calibration:
    """The calibration of a classification on rows that trained nothing.

    Shape:
        probabilities: [N, C]; y: class codes [N]
    """
    temperature = fit_temperature(probabilities, y.astype(np.int64))
    return Calibration(method="temperature", temperature=temperature, rows=len(y))


def fit_temperature(probabilities: npt.NDArray[np.floating], y: npt.NDArray[np.int64]) -> float:
    """The temperature that the logits are divided by for the smallest log loss (Guo et al. 2017, section 4.2).

    Shape:
        probabilities: [N, C] of rows that trained nothing; y: class codes [N]
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-12))  # [N, C]

    def cost(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        scaled -= scaled.max(1, keepdims=True)
        log_loss = np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(y)), y]
        return float(log_loss.sum()) + _PRIOR_ROWS * log_temperature**2

    return math.exp(_lowest(cost, *_BOUNDS))


def _lowest(cost: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is lowest, by golden section, to a hundred-thousandth of the interval."""
    for _ in range(25):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, right) if cost(left) < cost(right) else (left, high)
    return (low + high) / 2
