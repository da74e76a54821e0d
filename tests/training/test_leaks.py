"""Each suspicion: a table that deserves it, and one that does not."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from training.data.columns import Data, read_columns
from training.data.split import split_rows
from training.data.table import Table
from training.judging.leaks import find_leaks
from training.plan import Plan

RNG = np.random.default_rng(0)


N = 400
HONEST = {"x": RNG.normal(size=N), "z": RNG.normal(size=N), "c": RNG.choice(list("pqr"), N)}
PRICE = 2 * HONEST["x"] + HONEST["z"] + RNG.normal(0, 0.5, N)
GRADE = np.where(PRICE > 0, "high", "low")


def leaks(y, split=None, **columns) -> tuple[str, ...]:
    frame = pl.DataFrame(HONEST | columns | {"y": y})
    fields = {"name": "m", "target": ["y"], "table": {"path": "t.parquet"}, "split": split or {}}
    plan = Plan.of(fields, "test")
    data: Data = read_columns(Table.of(frame, "t.parquet"), plan)
    return find_leaks(data, split_rows(data, plan.split), plan.split)


def few(sentences):
    """Without the sentence about the size of the test part, which tables of 400 rows all get."""
    return [sentence for sentence in sentences if not sentence.startswith("only")]


@pytest.mark.parametrize("y", [PRICE, GRADE])
def test_an_honest_table_is_not_suspected(y):
    assert few(leaks(y)) == []


@pytest.mark.parametrize(
    ("y", "leak"),
    [
        (PRICE, PRICE * 1.2 + 3),
        (PRICE, -(PRICE**3)),
        (np.exp(3 * PRICE), PRICE),  # the last of the bins alone misses most of this variance
        (GRADE, np.where(GRADE == "high", "A", "B")),
        (GRADE, np.where(GRADE == "high", 1.0, 0.0)),
        (GRADE, PRICE),
    ],
)
def test_a_feature_that_is_the_target_in_other_words_is_suspected(y, leak):
    (sentence,) = few(leaks(y, leak=leak))
    assert sentence.startswith("feature 'leak' alone explains ")
    assert sentence.endswith("--drop leak leaves it out")


def test_a_number_that_counts_the_rows_is_suspected():
    (sentence,) = few(leaks(PRICE, customer=np.arange(N) + 1000))
    assert sentence == "feature 'customer' counts the rows; if it is an id, --drop customer leaves it out"


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("customer", RNG.permutation(N) + 1000), ("customerId", RNG.choice(10**9, N, replace=False).astype(float))],
)
def test_a_whole_number_that_no_two_rows_share_is_suspected(name, numbers):
    (sentence,) = few(leaks(PRICE, **{name: numbers}))
    assert sentence == f"feature '{name}' is another number in every row; if it is an id, --drop {name} leaves it out"
    assert few(leaks(PRICE, amount=RNG.choice(10**9, N, replace=False), paid=numbers // 2)) == []


def test_numbers_whose_squares_overflow_are_looked_at_without_a_word():
    huge = RNG.choice([-1.7e308, 1.0, 1.7e308], N)  # warnings are errors
    assert few(leaks(PRICE, huge=huge, other=huge[::-1])) == []


def test_what_is_suspected_of_many_columns_alike_is_told_of_a_few():
    far = {f"x{number}": np.where(np.arange(N) % 9, RNG.normal(size=N), -999.0) for number in range(20)}
    *told, more = few(leaks(PRICE, **far))
    assert [sentence.split("'")[1] for sentence in told] == ["x0", "x1", "x2", "x3", "x4"]
    assert more == "the same is true of 15 more columns"


def test_numbers_that_add_up_to_the_target_are_named():
    net, tax = RNG.gamma(2, 10, N).round(2), RNG.gamma(2, 3, N).round(2)
    (sentence,) = few(leaks((net + tax).round(2), net=net, tax=tax))
    assert sentence.startswith("target 'y' is a weighted sum of 'net', 'tax' to the last digits")
    assert few(leaks(net + tax + RNG.normal(0, 0.1, N), net=net, tax=tax)) == []


@pytest.mark.parametrize("power", [1, -1])
def test_numbers_that_multiply_to_the_target_are_named(power):
    price, number = RNG.gamma(2, 10, N) + 1, RNG.integers(0, 40, N).astype(float)
    number[:20], number[20:] = 0.0, number[20:] + 1  # where nothing was sold there is no logarithm
    total = np.divide(price, number, out=np.zeros(N), where=number > 0) if power < 0 else (price * number).round(2)
    (sentence,) = few(leaks(total, price=price, number=number))
    assert sentence.startswith("target 'y' is a product of powers of 'price', 'number' to the last digits")
    assert few(leaks(total * RNG.normal(1, 0.05, N), price=price, number=number)) == []


def test_a_number_that_may_stand_for_a_missing_value_is_said():
    age = RNG.integers(18, 90, N).astype(float)
    age[::7] = -999
    (sentence,) = few(leaks(PRICE, age=age))
    assert sentence.startswith("feature 'age' is -999 in 58 rows and from 18 to 89 in the others")
    share = np.where(np.arange(N) % 7 == 0, 99, RNG.integers(0, 99, N))
    assert few(leaks(PRICE, share=share, flag=np.where(PRICE > 0, -1, RNG.integers(0, 2, N)))) == []


def test_texts_that_differ_in_capitals_alone_are_said():
    answer = np.where(GRADE == "high", RNG.choice(["Yes", "yes"], N), "no")
    (sentence,) = few(leaks(answer, colour=RNG.choice(["red", "blue"], N)))
    assert sentence == "target 'y' has 'Yes' and 'yes', which are two; write one of them if they are not"
    (sentence,) = few(leaks(PRICE, colour=RNG.choice(["red", "Red", "blue"], N)))
    assert sentence.startswith("feature 'colour' has 'Red' and 'red'")


def test_a_yes_that_is_written_in_several_ways_is_said():
    (sentence,) = few(leaks(PRICE, garden=RNG.choice(["TRUE", "1", "yes", "0", "no"], N)))
    assert sentence == "feature 'garden' has '1' and 'TRUE', which are two; write one of them if they are not"
    assert few(leaks(PRICE, garden=RNG.choice(["yes", "no"], N))) == []
    assert few(leaks(PRICE, size=RNG.choice(["1", "y", "other"], N))) == []


def test_rows_that_stand_on_both_sides_of_the_split_are_counted():
    twice = {name: np.concatenate([values[: N // 2]] * 2) for name, values in HONEST.items()}
    sentences = few(leaks(PRICE, **twice))
    assert len(sentences) == 2
    assert "test rows (" in sentences[1]
    assert "have the very features of a training row" in sentences[1]


def test_a_class_that_is_too_rare_is_named():
    y = np.where(np.arange(N) < 3, "rare", GRADE)
    first, *_ = few(leaks(y))
    assert first.startswith("too few training rows to learn from, of class 'rare' (")


def test_categories_that_training_did_not_see_are_said():
    sentences = few(leaks(PRICE, city=[f"city {number // 2}" for number in range(N)]))
    assert any(sentence.startswith("feature 'city' has a category that training did not see") for sentence in sentences)


def test_a_time_that_is_split_at_random_is_said():
    day = [dt.datetime(2024, 1, 1) + dt.timedelta(hours=int(hour)) for hour in RNG.permutation(N)]  # noqa: DTZ001
    (sentence,) = few(leaks(PRICE, day=day))
    assert sentence.startswith("'day' is a time and rows are split at random")
    assert few(leaks(PRICE, day=day, split={"time": "day"})) == []


def test_a_time_that_is_sorted_by_its_letters_is_said():
    named = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct"]
    said = leaks(PRICE, month=[f"{month} 2024" for month in named] * (N // 10), split={"time": "month"})
    sorted_from = "whose texts are sorted letter by letter, from 'Apr 2024' to 'Sep 2024'"
    assert any(sentence.startswith(f"rows are split by the time 'month', {sorted_from}") for sentence in said)
    assert few(leaks(PRICE, month=[number % 12 for number in range(N)], split={"time": "month"})) == []


def test_a_small_test_part_and_none_are_said():
    assert any(sentence.startswith("only ") for sentence in leaks(PRICE))
    none = leaks(PRICE, split={"train": 0.7, "validation": 0.3, "test": 0.0})
    assert any(sentence.startswith("no rows are kept for the test") for sentence in none)


@pytest.mark.parametrize(("tests", "told"), [(1, "only 1 row tests: "), (2, "only 2 rows test: ")])
def test_few_rows_that_test_are_counted(tests, told):
    part = ["test"] * tests + ["train", "validation"] * 200
    assert any(sentence.startswith(told) for sentence in leaks(PRICE, {"column": "part"}, part=part[:N]))
