"""What is asked is what is covered: on rows that calibrated nothing, over many draws."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import recipe
from training.judging.findings import examine
from training.judging.intervals import (
    LEVELS,
    fit_intervals,
    fit_prediction_sets,
    measured,
    measured_sets,
    rank,
)
from training.plan import Plan

SEEDS = 60


def truth_and_guess(rows, seed):
    """Two targets with errors that grow with the prediction and lean to one side."""
    rng = np.random.default_rng(seed)
    guess = rng.uniform(0, 10, (rows, 2))
    return guess, guess + (rng.exponential(1, (rows, 2)) - 1) * (0.1 + guess / 5)


def classes_and_guess(rows, seed):
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(rows, 5))
    y = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    wrong = np.exp(2 * logits)  # a network that is too sure of itself
    return (wrong / wrong.sum(1, keepdims=True)).astype(np.float32), y


@pytest.mark.parametrize("rows", [60, 1000, 5000])
def test_intervals_cover_what_was_asked(rows):
    coverage = []
    for seed in range(SEEDS):
        intervals = fit_intervals(*truth_and_guess(rows, seed))
        assert intervals is not None
        coverage.append(measured(intervals, *truth_and_guess(4000, seed + 1000)).coverage)
    means = dict(zip(intervals.levels, np.mean(coverage, axis=0), strict=True))
    assert 0.88 < means[0.9] < (0.96 if rows == 60 else 0.92)
    for level, mean in means.items():
        assert level - 0.02 < mean < level + 0.06


@pytest.mark.parametrize("rows", [60, 1000])
def test_prediction_sets_cover_what_was_asked_however_sure_the_network_is(rows):
    coverage, sizes = [], []
    for seed in range(SEEDS):
        sets = fit_prediction_sets(*classes_and_guess(rows, seed))
        assert sets is not None
        sets = measured_sets(sets, *classes_and_guess(4000, seed + 1000))
        coverage.append(sets.coverage)
        sizes.append(sets.sizes)
    means = dict(zip(sets.levels, np.mean(coverage, axis=0), strict=True))
    assert 0.88 < means[0.9] < 0.92
    assert (np.diff(np.mean(sizes, axis=0)) > 0).all()


def test_intervals_are_wider_where_errors_are_larger():
    intervals = fit_intervals(*truth_and_guess(5000, 0))
    assert intervals is not None
    lower, upper = intervals.bounds(np.array([[1.0, 1.0], [9.0, 9.0]]), 0.9)
    widths = upper - lower
    assert (widths[1] > 3 * widths[0]).all()
    assert len(intervals.edges[0]) == 9


def test_few_rows_promise_no_more_than_they_can():
    of_rows = {rows: fit_intervals(*truth_and_guess(rows, 0)) for rows in (2, 3, 20, 39, 200)}
    assert of_rows[2] is None
    levels = {rows: intervals.levels[-1] for rows, intervals in of_rows.items() if intervals}
    assert levels == {3: 0.5, 20: 0.9, 39: 0.95, 200: 0.99}
    sets = fit_prediction_sets(*classes_and_guess(9, 0))
    assert sets is not None
    assert sets.levels[-1] == 0.9


def test_the_rank_is_that_of_the_finite_sample():
    assert [rank(9, 0.9), rank(10, 0.9), rank(99, 0.9), rank(19, 0.95)] == [9, 10, 90, 19]


def test_equal_predictions_are_one_bin():
    intervals = fit_intervals(np.ones((2000, 1)), np.arange(2000.0)[:, None])
    assert intervals is not None
    assert intervals.edges == ((),)


@given(equal=st.integers(0, 600), others=st.integers(400, 2500), place=st.floats(0, 1))
def test_every_bin_has_rows_enough_for_every_level_however_many_predictions_are_equal(equal, others, place):
    prediction = np.concatenate([np.linspace(0, 1, others), np.full(equal, place)])
    intervals = fit_intervals(prediction[:, None], np.zeros((equal + others, 1)))
    assert intervals is not None
    rows = np.bincount(np.searchsorted(intervals.edges[0], prediction, side="right"))
    assert rank(rows.min(), (1 + intervals.levels[-1]) / 2) <= rows.min()


@pytest.mark.parametrize("task", ["regression", "multiclass"])
def test_a_fitted_network_covers_what_was_asked(task, tmp_path: Path):
    """Validation rows also chose epochs and temperature: their errors are a little small, which must not show."""
    coverage = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rows = 5600
        x = rng.normal(size=(rows, 3))
        signal = 2 * x[:, 0] + np.sin(3 * x[:, 1])
        y = signal + rng.normal(0, 0.7, rows)
        if task == "multiclass":
            noise = rng.gumbel(size=(rows, 3))
            y = (np.stack([signal, -signal, x[:, 2]], axis=1) + noise).argmax(1)
        part = np.where(np.arange(rows) < 1000, "train", np.where(np.arange(rows) < 1600, "validation", "test"))
        path = tmp_path / f"{seed}.parquet"
        pl.DataFrame({f"x{i}": x[:, i] for i in range(3)} | {"y": y, "part": part}).write_parquet(path)
        fit = {"epochs": 15, "members": 1}
        fields = {"name": "m", "target": ["y"], "table": {"path": str(path)}, "split": {"column": "part"}, "fit": fit}
        found = examine(recipe.train(Plan.of(fields, "test")))
        sure = found.intervals or found.prediction_sets
        assert sure is not None
        assert sure.levels == LEVELS
        assert sure.coverage is not None
        coverage.append(sure.coverage[LEVELS.index(0.9)])
    assert 0.88 < np.mean(coverage) < 0.92
