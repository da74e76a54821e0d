"""Where a network fails is found when it is there, and not when it is chance."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, NumberFeature
from models.schema import Schema
from training.judging.failures import errors_of, worst_kinds, worst_rows

ROWS = 400


def fitted_of(frame, y, answers, classes=None):
    """A network that gives these answers for the rows of this frame, whatever they are."""
    kinds = {pl.Float64: NumberFeature, pl.Boolean: BooleanFeature, pl.Datetime: DatetimeFeature}
    features = [
        CategoryFeature(name=name, categories=tuple(frame[name].drop_nulls().unique().sort()))
        if dtype == pl.String
        else next(kind for of, kind in kinds.items() if dtype == of)(name=name)
        for name, dtype in frame.schema.items()
    ]
    rows = SimpleNamespace(frame=frame, matrix=np.zeros((frame.height, 1)), y=y)
    return SimpleNamespace(
        schema=Schema(features=tuple(features)),
        data=SimpleNamespace(classes=classes),
        parts={"train": rows},
        predict=lambda _: answers,
    ), rows


@pytest.fixture
def frame():
    draw = np.random.default_rng(0)
    return pl.DataFrame({
        "size": draw.uniform(0, 100, ROWS),
        "place": draw.choice(["north", "south", "west"], ROWS),
        "new": draw.random(ROWS) < 0.5,
    }).with_columns(age=pl.when(pl.int_range(ROWS) % 5 == 0).then(None).otherwise(pl.col("size")))  # fmt: skip


def regression(frame, extra):
    draw = np.random.default_rng(1)
    y = draw.normal(size=(ROWS, 1))
    noise = draw.normal(scale=0.1, size=ROWS) * (1 + 9 * extra)
    return fitted_of(frame, y, {"prediction": y + noise[:, None]})


def test_chance_is_no_failure(frame):
    assert worst_kinds(*regression(frame, np.zeros(ROWS))) == []


@pytest.mark.parametrize(
    ("feature", "values", "condition"),
    [
        ("place", "south", pl.col("place") == "south"),
        ("new", "True", pl.col("new")),
        ("age", "missing", pl.col("age").is_null()),
        ("size", None, pl.col("size") > 75),
    ],
)
def test_rows_on_which_it_errs_ten_times_as_much_come_first(frame, feature, values, condition):
    extra = frame.select(condition).to_series().to_numpy()

    worst = worst_kinds(*regression(frame, extra))[0]

    assert worst.feature in ({"size", "age"} if feature == "size" else {feature})
    assert values is None or (worst.values, worst.rows) == (values, int(extra.sum()))
    assert worst.error > 5 * worst.rest


def test_too_few_rows_say_nothing(frame):
    few = frame.with_columns(place=pl.when(pl.int_range(ROWS) < 19).then(pl.lit("island")).otherwise("place"))
    extra = (few["place"] == "island").to_numpy()
    assert "island" not in [kind.values for kind in worst_kinds(*regression(few, extra))]


def test_the_rows_it_misses_most_are_named_with_what_it_said(frame):
    probabilities = np.tile([0.9, 0.1], (ROWS, 1))
    y = np.zeros(ROWS, dtype=np.int64)
    y[7] = 1
    answers = {"probabilities": probabilities, "label": probabilities.argmax(1)}
    fitted, rows = fitted_of(frame, y, answers, classes=("no", "yes"))

    (miss,) = worst_rows(fitted, rows)

    assert (miss.row, miss.predicted, miss.actual) == (7, "no (90%)", "yes")
    assert errors_of(fitted, rows)[7] == pytest.approx(0.9)


def test_a_regressions_worst_row_is_the_one_furthest_off(frame):
    fitted, rows = regression(frame, np.arange(ROWS) == 11)
    assert 11 in [miss.row for miss in worst_rows(fitted, rows)]
