"""The two ways to a linear model lead to the same one."""

import itertools

import numpy as np
import pytest

from training import linear
from training.linear import solve_large, solve_small


def table_of(task, sizes, rows=300):
    """Rows of which the last columns are codes into the embedding table."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 4)) @ rng.normal(size=(4, 4)) + 5
    z = x @ rng.normal(size=(4, 3)) + rng.normal(size=(rows, 3))
    starts = np.cumsum([0, *sizes])
    codes = [rng.integers(low, high, rows) for low, high in itertools.pairwise(starts)]
    for code in codes:
        z[:, 1] += code % 3
    x = np.column_stack([x, *codes]).astype(np.float32)
    if task == "regression":
        return x, z[:, :2].astype(np.float32)
    return x, ((z - z.mean(0)).argmax(1) if task == "multiclass" else z[:, 1] > np.median(z[:, 1])).astype(np.int64)


@pytest.mark.parametrize("strength", linear.STRENGTHS)
@pytest.mark.parametrize("sizes", [[], [12, 10]])
@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_a_small_problem_has_the_solution_that_scikit_learn_comes_near(task, sizes, strength):
    x, y = table_of(task, sizes)
    small, large = (solve(x, y, sizes, task, strength) for solve in (solve_small, solve_large))
    assert [values.shape for values in small] == [values.shape for values in large]
    codes = x[:, 4:].astype(int)
    design = np.column_stack([np.eye(sum(sizes))[codes].sum(1) if sizes else np.empty((len(x), 0)), x[:, :4]])

    def penalised(weight, bias):
        z = design @ weight.T + bias
        penalty = strength / 2 * (weight**2).sum()
        if task == "regression":
            return ((z - y) ** 2).sum() / 2 + penalty
        z = np.column_stack([np.zeros(len(z)), z]) if task == "binary" else z
        return (np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]).sum() + penalty

    least = penalised(*small)
    assert least <= penalised(*large) * (1 + 1e-9)  # scikit-learn ends a little earlier
    np.testing.assert_allclose(least, penalised(*large), rtol=2e-3)
    answers = [design @ weight.T + bias for weight, bias in (small, large)]
    if task == "multiclass":
        answers = [z - z.mean(1, keepdims=True) for z in answers]
    np.testing.assert_allclose(*answers, atol=0.1 * answers[1].std())


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_classes_that_a_line_tells_apart_have_finite_weights(task):
    x = np.linspace(-1, 1, 30, dtype=np.float32)[:, None]
    y = (x[:, 0] > 0).astype(np.int64) if task == "binary" else np.digitize(x[:, 0], [-0.3, 0.3])
    weight, bias = solve_small(x, y, [], task, 0.01)
    z = x @ weight.T + bias
    assert np.array_equal(z[:, 0] > 0 if task == "binary" else z.argmax(1), y)
    assert np.isfinite(weight).all()


def test_columns_that_say_nothing_or_the_same_have_a_solution():
    x = np.zeros((20, 3), np.float32)
    x[:, 1] = x[:, 2] = np.arange(20)
    for task, y in (("regression", np.arange(20, dtype=np.float32)[:, None]), ("binary", np.arange(20) % 2)):
        weight, bias = solve_small(x, y, [], task, 0.01)
        assert np.isfinite(weight).all()
        assert np.isfinite(bias).all()
        assert weight[0, 0] == 0


def test_large_columns_that_are_alike_have_a_solution():
    x = np.full((20, 2), 1e9, np.float32) * np.arange(20, dtype=np.float32)[:, None]
    y = np.arange(20, dtype=np.float32)[:, None]
    weight, bias = solve_small(x, y, [], "regression", 0.01)
    np.testing.assert_allclose(x @ weight.T + bias, y, atol=1e-3)
    weight, bias = solve_small(x, (y[:, 0] > 9).astype(np.int64), [], "binary", 0.01)
    assert np.isfinite(x @ weight.T + bias).all()
