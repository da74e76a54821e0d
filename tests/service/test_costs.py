import random

import pytest

from service.batching.costs import Costs


def costs_of(seconds, *sizes):
    costs = Costs()
    for rows in sizes:
        costs.learn(rows, seconds(rows))
    return costs


@pytest.mark.parametrize(
    ("fixed_ms", "row_ms", "needs"), [(0, 3, 1), (0.3, 3, 1), (1, 3, 3), (10, 1, 90), (5, 0.01, 4500)]
)
def test_the_rows_that_nine_tenths_of_the_pace_need(fixed_ms, row_ms, needs):
    costs = costs_of(lambda rows: (fixed_ms + row_ms * rows) / 1e3, 1, 4, 31, 200)
    assert costs.rows_for(0.9) == pytest.approx(needs, abs=1)
    assert costs.rows_for(0.5) == pytest.approx(max(1, needs / 9), abs=1)


def test_where_rows_cost_nothing_there_is_no_end():
    assert costs_of(lambda _: 0.01, 1, 100).rows_for(0.9) > 1e6


def test_what_delays_some_batches_does_not_mislead():
    draw = random.Random(0)
    sizes = [2 ** draw.randrange(7) for _ in range(500)]
    costs = costs_of(lambda rows: (10 + rows) / 1e3 * draw.choice([1, 1.02, 1.5, 3]), *sizes)
    assert costs.rows_for(0.9) == pytest.approx(90, rel=0.1)


def test_what_is_long_ago_is_forgotten():
    costs = costs_of(lambda rows: 0.003 * rows, 1, 8, 64)
    assert costs.rows_for(0.9) == 1
    for _ in range(3000):
        for rows in (1, 8, 64):
            costs.learn(rows, (10 + 3 * rows) / 1e3)
    assert costs.rows_for(0.9) == pytest.approx(30, abs=1)


def test_other_sizes_are_tried_where_there_is_but_one():
    assert Costs().rows_for(0.9) == 1  # nothing is known: the least that anybody waits for
    assert 1 < costs_of(lambda _: 0.003, 1).rows_for(0.9) < 20
    assert costs_of(lambda _: 0.1, 31).rows_for(0.9) == 1
