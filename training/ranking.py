"""How well a score ranks the rows of a class before all others: the curves of a model card, and the areas below them.

The definitions are scikit-learn's, whose import takes longer than a small table's fit;
`tests/training/test_ranking.py` holds all four against it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def roc_curve(is_class: npt.NDArray[np.bool_], score: npt.NDArray[Any]) -> Curve:
    """False and true positive rate at every threshold, from the highest, behind (0, 0); some rows are of the class.

    Shape:
        is_class, score: [N], both kinds of rows among them -> two [thresholds + 1]
    """
    false, true = _positives(is_class, score)
    return _from(0.0, false / false[-1]), _from(0.0, true / true[-1])


def precision_recall_curve(is_class: npt.NDArray[np.bool_], score: npt.NDArray[Any]) -> Curve:
    """Precision and recall at every threshold, from the highest, behind (1, 0).

    Shape:
        is_class, score: [N], a row of the class among them -> two [thresholds + 1]
    """
    false, true = _positives(is_class, score)
    return _from(1.0, true / (true + false)), _from(0.0, true / true[-1])


def roc_auc(is_class: npt.NDArray[np.bool_], score: npt.NDArray[Any]) -> float:
    """The area below the receiver operating characteristic, by trapezoids."""
    false_rate, true_rate = roc_curve(is_class, score)
    return float(np.trapezoid(true_rate, false_rate))


def average_precision(is_class: npt.NDArray[np.bool_], score: npt.NDArray[Any]) -> float:
    """The mean of the precision over the recall, a step at each threshold."""
    precision, recall = precision_recall_curve(is_class, score)
    return float((precision[1:] * np.diff(recall)).sum())


def _positives(is_class: npt.NDArray[np.bool_], score: npt.NDArray[Any]) -> Curve:
    """Rows that each threshold lets pass, those of other classes and those of the class; equal scores pass together."""
    order = np.argsort(-score, kind="stable")
    passing = score[order]
    last = np.append(passing[1:] != passing[:-1], True)
    true = np.cumsum(is_class[order], dtype=np.float64)[last]
    return np.arange(1, len(score) + 1)[last] - true, true


def _from(first: float, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.concatenate([[first], values])
