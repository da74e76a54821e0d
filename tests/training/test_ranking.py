"""The areas and curves are scikit-learn's, and so are the other metrics."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from training.evaluate import score
from training.ranking import average_precision, precision_recall_curve, roc_auc, roc_curve

seeds = st.integers(0, 2**32 - 1)


def rows_of(seed, classes):
    """Few distinct probabilities among them, so that rows tie, and zeros and ones."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(2, 60))
    raw = rng.integers(0, 5, (rows, classes)) if rng.random() < 0.5 else rng.gamma(0.3, size=(rows, classes))
    raw = raw + 0.0
    raw[raw.sum(1) == 0] = 1
    p = (raw / raw.sum(1, keepdims=True)).astype(rng.choice([np.float32, np.float64]))
    y = rng.integers(0, classes, rows)
    y[0] = (y[1] + 1) % classes  # two classes at least
    return y, p


@given(seeds)
@settings(deadline=None)
def test_areas_and_curves_are_those_of_scikit_learn(seed):
    y, p = rows_of(seed, 2)
    is_class, of_class = y == 1, p[:, 1]
    np.testing.assert_allclose(roc_auc(is_class, of_class), metrics.roc_auc_score(is_class, of_class), atol=1e-12)
    mean = metrics.average_precision_score(is_class, of_class)
    np.testing.assert_allclose(average_precision(is_class, of_class), mean, atol=1e-12)
    false_rate, true_rate, _ = metrics.roc_curve(is_class, of_class, drop_intermediate=False)
    np.testing.assert_allclose(roc_curve(is_class, of_class), [false_rate, true_rate], atol=1e-12)
    precision, recall, _ = metrics.precision_recall_curve(is_class, of_class)
    np.testing.assert_allclose(precision_recall_curve(is_class, of_class), [precision[::-1], recall[::-1]], atol=1e-12)


@given(seeds, st.integers(2, 5))
@settings(deadline=None)
def test_the_scores_of_a_classification_are_those_of_scikit_learn(seed, classes):
    y, p = rows_of(seed, classes)
    got = score("binary" if classes == 2 else "multiclass", y, {"probabilities": p})
    p = p.astype(np.float64) / p.astype(np.float64).sum(1, keepdims=True)
    codes = range(classes)
    ranked = [1] if classes == 2 else [code for code in codes if 0 < (y == code).sum() < len(y)]
    right = {
        "accuracy": metrics.accuracy_score(y, p.argmax(1)),
        "balanced_accuracy": metrics.recall_score(y, p.argmax(1), labels=np.unique(y), average="macro"),
        "log_loss": metrics.log_loss(y, p, labels=codes),
        "brier": metrics.brier_score_loss(y, p, labels=codes),
        "roc_auc": np.mean([metrics.roc_auc_score(y == code, p[:, code]) for code in ranked]),
    }
    for name, value in right.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-12, atol=1e-12, err_msg=name)


@given(seeds, st.integers(1, 3))
@settings(deadline=None)
def test_the_scores_of_a_regression_are_those_of_scikit_learn(seed, targets):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(int(rng.integers(2, 60)), targets)) * 10.0 ** rng.integers(-5, 6) + rng.normal()
    answers = (y + rng.normal(size=y.shape)).astype(np.float32)
    got = score("regression", y, {"prediction": answers})
    right = {
        "r2": metrics.r2_score(y, answers),
        "mse": metrics.mean_squared_error(y, answers),
        "rmse": metrics.mean_squared_error(y, answers) ** 0.5,
        "mae": metrics.mean_absolute_error(y, answers),
    }
    for name, value in right.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-10, err_msg=name)
