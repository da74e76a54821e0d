"""Shapley values against games whose values are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadVersion
from models.features import DatetimeFeature, NumberFeature
from models.schema import Schema
from models.shapley import Background, Shapley, column_groups, rows_for


def groups(features):
    return [slice(number, number + 1) for number in range(features)]


def explain(answer, row, background, most_rows=4096):
    shapley = Shapley(groups(len(row)), background, most_rows)
    return shapley.share_out(answer(shapley.rows(row)))


def additive(rows):
    """sum of i * sin(x_i): what feature i adds is its own term less the background's mean of it."""
    return (np.arange(1, rows.shape[1] + 1) * np.sin(rows)).sum(1, keepdims=True)


@pytest.mark.parametrize("features", [1, 5, 12, 40])
def test_an_additive_answer_is_shared_out_term_by_term_exactly(features):
    rng = np.random.default_rng(features)
    row, background = rng.normal(size=features), rng.normal(size=(16, features))
    found = explain(additive, row, background)
    terms = np.arange(1, features + 1) * (np.sin(row) - np.sin(background).mean(0))
    np.testing.assert_allclose(found.values[:, 0], terms, atol=1e-12)
    assert found.base[0] == pytest.approx(additive(background).mean())


def test_a_product_is_shared_equally():
    found = explain(lambda rows: rows[:, :1] * rows[:, 1:2], np.array([2.0, 3.0, 9.0]), np.zeros((1, 3)))
    np.testing.assert_allclose(found.values[:, 0], [3.0, 3.0, 0.0], atol=1e-12)


def curved(rows):
    return np.stack([rows[:, 0] * rows[:, 1] * rows[:, 2], np.tanh(rows).sum(1) ** 2], axis=1)


@given(st.integers(0, 10**6))
def test_base_and_values_add_up_to_the_answer(seed):
    rng = np.random.default_rng(seed)
    row, background = rng.normal(size=10), rng.normal(size=(4, 10))
    found = explain(curved, row, background, most_rows=200)
    np.testing.assert_allclose(found.base + found.values.sum(0), curved(row[None])[0], atol=1e-9)


def test_sampled_values_are_within_their_errors_of_the_exact_ones():
    rng = np.random.default_rng(1)
    row, background = rng.normal(size=7), rng.normal(size=(8, 7))
    exact = explain(curved, row, background, most_rows=2**7 * 8)
    sampled = explain(curved, row, background, most_rows=1000)
    assert (exact.errors == 0).all()
    assert (sampled.errors > 0).any()
    off = np.abs(sampled.values - exact.values) / (sampled.errors + 1e-9)
    assert off.max() < 4


def test_all_parts_of_a_datetime_join_together():
    schema = Schema(features=(NumberFeature(name="size"), DatetimeFeature(name="sold")))
    assert column_groups(schema) == [slice(0, 1), slice(1, 5)]
    shapley = Shapley(column_groups(schema), np.zeros((1, 5)))
    assert {tuple(row) for row in shapley.rows(np.ones(5))} == {
        (0, 0, 0, 0, 0),
        (1, 0, 0, 0, 0),
        (0, 1, 1, 1, 1),
        (1, 1, 1, 1, 1),
    }


@pytest.mark.parametrize(("features", "rows"), [(1, 4096), (500, 8016), (1000, 16016), (3000, None)])
def test_the_cost_of_one_explanation_is_bounded(features, rows):
    schema = Schema(features=tuple(NumberFeature(name=f"x{number}") for number in range(features)))
    assert rows_for(schema) == rows
    if rows is not None:
        assert Shapley(groups(features), np.zeros((32, features)), rows).count <= rows


def test_a_background_that_is_none_is_refused():
    assert Background.from_json(b'{"rows": [{"a": 1}]}', "m/1").rows == [{"a": 1}]
    for raw in (b"", b"{}", b'{"rows": []}', b'{"rows": [1]}'):
        with pytest.raises(BadVersion, match=r"m/1: background.json is not a list of rows"):
            Background.from_json(raw, "m/1")
