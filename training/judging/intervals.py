"""How far from the truth the answers are, learned on rows that trained nothing: split conformal calibration.

`models/intervals.py` says what the constants mean and applies them; docs/explanation/intervals.md says it to those who
ask for an interval.
"""

import math

import numpy as np
import numpy.typing as npt

from models.intervals import Intervals, PredictionSets
from models.proof import Answers
from training.judging.evaluate import Targets

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
ROWS_PER_BIN = 200
"""Rows that a bin of predictions has at least, so that its 2.5% tails rest on five rows or more."""
MOST_BINS = 10

Real = npt.NDArray[np.float64]


def rank(rows: int, share: float) -> int:
    """Which of the sorted scores of so many rows a new row's score exceeds with probability at most 1 - share.

    The finite-sample quantile ceil((n + 1) share), from 1 (Lei et al. 2018, section 2.2); above `rows` where so few
    rows cannot say.
    """
    return max(1, math.ceil((rows + 1) * share - 1e-9))


def fit_intervals(prediction: npt.NDArray[np.floating], y: Targets) -> Intervals | None:
    """Intervals for the levels that so few rows can say something about; None where that is none of them.

    Shape:
        prediction, y: [N, K] of rows that trained nothing
    """
    answers: Real = prediction.astype(np.float64)
    levels = [level for level in LEVELS if rank(len(y), (1 + level) / 2) <= len(y)]
    if not levels:
        return None
    edges, low, high = [], [], []
    for k in range(y.shape[1]):
        cuts = _edges(answers[:, k])
        error = y[:, k] - answers[:, k]
        bins = np.searchsorted(cuts, answers[:, k], side="right")
        of_bins = [np.sort(error[bins == number]) for number in range(len(cuts) + 1)]
        edges.append(tuple(cuts))
        low.append(tuple(tuple(-_upper(-sorted_[::-1], level) for level in levels) for sorted_ in of_bins))
        high.append(tuple(tuple(_upper(sorted_, level) for level in levels) for sorted_ in of_bins))
    return Intervals(rows=len(y), levels=tuple(levels), edges=tuple(edges), low=tuple(low), high=tuple(high))


def _edges(prediction: Real) -> list[float]:
    """Where to cut the predictions, so that every bin has enough rows for every level that all rows have together."""
    for count in range(min(MOST_BINS, len(prediction) // ROWS_PER_BIN), 1, -1):  # where many are equal, fewer bins
        cuts = np.unique(np.quantile(prediction, np.arange(1, count) / count))
        rows = np.bincount(np.searchsorted(cuts, prediction, side="right"), minlength=len(cuts) + 1)
        if rows.min() >= ROWS_PER_BIN - 1:  # a quantile that is itself a prediction leaves a bin one row short
            return [float(cut) for cut in cuts]
    return []


def _upper(errors: Real, level: float) -> float:
    """What a new row's error exceeds with probability at most (1 - level) / 2, of rising errors."""
    return float(errors[min(rank(len(errors), (1 + level) / 2), len(errors)) - 1])


def fit_prediction_sets(probabilities: npt.NDArray[np.floating], y: Targets) -> PredictionSets | None:
    """Prediction sets for the levels that so few rows can say something about; None where that is none of them.

    Shape:
        probabilities: [N, C]; y: [N], of rows that trained nothing
    """
    own = np.sort(probabilities[np.arange(len(y)), y].astype(np.float64))[::-1]  # falling
    levels = [level for level in LEVELS if rank(len(y), level) <= len(y)]
    if not levels:
        return None
    thresholds = tuple(float(own[rank(len(y), level) - 1]) for level in levels)
    return PredictionSets(rows=len(y), levels=tuple(levels), thresholds=thresholds)


def measured(intervals: Intervals, prediction: npt.NDArray[np.floating], y: Targets) -> Intervals:
    """The intervals with the coverage that they had on other rows.

    Shape:
        prediction, y: [N, K]
    """
    coverage = []
    for level in intervals.levels:
        lower, upper = intervals.bounds(prediction, level)
        coverage.append(float(((lower <= y) & (y <= upper)).mean()))
    return intervals.model_copy(update={"coverage": tuple(coverage)})


def measured_sets(sets: PredictionSets, probabilities: npt.NDArray[np.floating], y: Targets) -> PredictionSets:
    """The prediction sets with the coverage and the size that they had on other rows.

    Shape:
        probabilities: [N, C]; y: [N]
    """
    inside = [sets.members(probabilities, level) for level in sets.levels]
    coverage = tuple(float(members[np.arange(len(y)), y].mean()) for members in inside)
    return sets.model_copy(update={"coverage": coverage, "sizes": tuple(float(m.sum(1).mean()) for m in inside)})


def calibrated(
    is_regression: bool, held_out: tuple[Answers, Targets], test: tuple[Answers, Targets] | None
) -> tuple[Intervals | None, PredictionSets | None]:
    """What a version says of its certainty: calibrated on held-out rows, measured on test rows if there are some."""
    output = "prediction" if is_regression else "probabilities"
    answers, y = held_out[0][output], held_out[1]
    if is_regression:
        intervals = fit_intervals(answers, y)
        return (intervals and measured(intervals, test[0][output], test[1]) if test else intervals), None
    sets = fit_prediction_sets(answers, y)
    return None, (sets and measured_sets(sets, test[0][output], test[1]) if test else sets)
