import numpy as np
import pytest
from sklearn import metrics

from models.manifest import Scores
from training.fitting.calibrate import fit_temperature
from training.judging.evaluate import doubts, score


def test_the_metrics_of_a_regression_are_those_of_a_page_of_arithmetic():
    y = np.array([[1.0], [2.0], [3.0], [4.0]])
    got = score("regression", y, {"prediction": np.array([[1.0], [2.0], [3.0], [6.0]], dtype=np.float32)})
    assert got == {"r2": pytest.approx(1 - 4 / 5), "rmse": 1.0, "mae": 0.5, "mse": 1.0}


def test_the_metrics_of_a_classification_are_those_of_a_page_of_arithmetic():
    y = np.array([0, 0, 0, 1])
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    got = score("binary", y, {"probabilities": p, "label": p.argmax(1)})
    assert got["accuracy"] == 0.75
    assert got["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert got["log_loss"] == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.7]).mean())
    assert got["roc_auc"] == 1.0
    assert got["brier"] == pytest.approx(np.mean([0.1**2, 0.2**2, 0.6**2, 0.3**2]))
    assert got["calibration_error"] == pytest.approx((0.1 + 0.2 + 0.6 + 0.3) / 4)  # each row has a bin of its own


def test_what_is_undefined_is_none():
    p = np.array([[0.9, 0.1], [0.8, 0.2]])
    assert score("binary", np.array([0, 0]), {"probabilities": p})["roc_auc"] is None
    assert score("regression", np.array([[1.0]]), {"prediction": np.array([[1.0]])})["r2"] is None


def test_the_auc_of_many_classes_is_the_mean_over_those_present():
    p = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1]])
    assert score("multiclass", np.array([0, 1, 0]), {"probabilities": p})["roc_auc"] == 1.0


@pytest.mark.parametrize("classes", [2, 3, 30])
def test_the_auc_is_that_of_scikit_learn_for_each_class_also_where_rows_tie(classes):
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, classes, 40), rng.multinomial(64, [1 / classes] * classes, 40) / 64
    ones = [1] if classes == 2 else [code for code in range(classes) if code in y]
    right = np.mean([metrics.roc_auc_score(y == code, p[:, code]) for code in ones])
    assert score("multiclass", y, {"probabilities": p})["roc_auc"] == pytest.approx(right, abs=1e-12)


def scores_of(task, y, answers, constant):
    name = "mean" if task == "regression" else "majority"
    one = Scores(rows=len(y), metrics=score(task, y, answers), baselines={name: score(task, y, constant)})
    return {"validation": one, "test": one}


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([1.1, 2.2, 2.9], ()),
        ([3.0, 2.0, 1.0], ("no better than always the mean of training (r2 -3.000)",)),
        ([2.0, 2.0, 2.0], ("no better than always the mean of training (r2 0.000)",)),
    ],
)
def test_a_regression_that_is_no_better_than_the_mean_is_said_to_be(answers, told):
    y, constant = np.array([[1.0], [2.0], [3.0]]), {"prediction": np.full((3, 1), 2.0)}
    said = doubts(scores_of("regression", y, {"prediction": np.array(answers)[:, None]}, constant))
    assert len(said) == len(told)
    assert all(part in sentence for part, sentence in zip(told, said, strict=True))


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ([0.1, 0.2, 0.3, 0.8], ()),
        (
            [0.1, 0.2, 0.1, 0.4],
            ("the likeliest class is the most frequent one in every test row; judge by roc_auc (1",),
        ),
        ([0.4, 0.3, 0.4, 0.1], ("on the test rows the probabilities are no better than always the shares",)),
    ],
)
def test_a_classification_that_is_no_better_than_the_majority_is_said_to_be(second, told):
    y, shares = np.array([0, 0, 0, 1]), {"probabilities": np.tile([0.75, 0.25], (4, 1))}
    said = doubts(scores_of("binary", y, {"probabilities": np.array([[1 - p, p] for p in second])}, shares))
    assert len(said) == len(told)
    assert all(sentence.startswith(start) for start, sentence in zip(told, said, strict=True))


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_too_much_or_too_little_confidence(factor):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 3))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = (honest.cumsum(1) > rng.random((20_000, 1))).argmax(1)
    told = np.exp(factor * logits)
    assert fit_temperature((told / told.sum(1, keepdims=True)).astype(np.float32), y) == pytest.approx(factor, rel=0.05)


def test_a_few_rows_without_an_error_do_not_ask_for_certainty():
    p = np.full((10, 2), 0.1, dtype=np.float32)
    p[:, 0] = 0.9
    assert 0.3 < fit_temperature(p, np.zeros(10, dtype=np.int64)) < 1
