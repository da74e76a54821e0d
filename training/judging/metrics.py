"""What the metrics of a task are, most of them as scikit-learn computes them.

Nothing is imported here that the process of `training/aside.py` would have to wait for.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]

BINS = 15
"""Equal bins of confidence in the calibration error, as in Guo et al. 2017, section 4."""


def of_predictions(y: Numbers, prediction: Numbers) -> dict[str, float]:
    """The metrics of a regression, as `evaluate.score` names them; nan where one is undefined.

    Shape:
        y, prediction: [N, K]
    """
    from sklearn import metrics  # noqa: PLC0415 - see training/later.py

    prediction = np.asarray(prediction, dtype=np.float64)
    mse = float(metrics.mean_squared_error(y, prediction))
    varies = bool((y.max(0) > y.min(0)).all())
    return {
        "r2": float(metrics.r2_score(y, prediction)) if varies else np.nan,
        "rmse": mse**0.5,
        "mae": float(metrics.mean_absolute_error(y, prediction)),
        "mse": mse,
    }


def of_probabilities(y: Numbers, probabilities: Numbers) -> dict[str, float]:
    """The metrics of a classification, likewise.

    Shape:
        y: class codes [N]; probabilities: [N, C]
    """
    from sklearn import metrics  # noqa: PLC0415 - see training/later.py

    probabilities = np.asarray(probabilities, dtype=np.float64)
    probabilities = probabilities / probabilities.sum(1, keepdims=True)  # float32 sums to 1 within 1e-7
    classes = np.arange(probabilities.shape[1])
    label = probabilities.argmax(1)
    present = np.unique(y)
    return {
        "accuracy": float((label == y).mean()),
        "balanced_accuracy": float(np.mean([(label[y == code] == code).mean() for code in present])),
        "log_loss": float(metrics.log_loss(y, probabilities, labels=classes)),
        "roc_auc": _roc_auc(y, probabilities),
        "brier": float(metrics.brier_score_loss(y, probabilities, labels=classes)),
        "calibration_error": _calibration_error(y, probabilities),
    }


def _roc_auc(y: Numbers, probabilities: Numbers) -> float:
    """Mean over the classes that some rows have and others have not.

    The area under each curve by itself, since `roc_auc_score` looks at its arguments for as long again.
    """
    from sklearn.metrics import auc, roc_curve  # noqa: PLC0415 - see training/later.py

    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    curves = [
        roc_curve(y == code, probabilities[:, code], drop_intermediate=False)
        for code in classes
        if 0 < (y == code).sum() < len(y)
    ]
    return float(np.mean([auc(false, true) for false, true, _ in curves])) if curves else np.nan


def _calibration_error(y: Numbers, probabilities: Numbers) -> float:
    """Mean distance between confidence and accuracy over the bins of confidence, weighted by their rows."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == y
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(y))


Curve = tuple[Numbers, Numbers, float]
"""Points from left to right or back, their x and their y, and what the curve comes to: its area, or its mean."""


def curves_of(is_class: Numbers, score: Numbers) -> tuple[Curve, Curve]:
    """The receiver operating characteristic and its area, and precision over recall and its mean.

    Shape:
        is_class: bool [N], some true and others not; score: [N]
    """
    from sklearn import metrics  # noqa: PLC0415 - see training/later.py

    false_rate, true_rate, _ = metrics.roc_curve(is_class, score)
    precision, recall, _ = metrics.precision_recall_curve(is_class, score)
    area, mean = metrics.roc_auc_score(is_class, score), metrics.average_precision_score(is_class, score)
    return (false_rate, true_rate, float(area)), (recall, precision, float(mean))
