import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.csv_file import BadTable
from training.data.columns import Data, read_columns
from training.data.split import row_hashes, split_rows
from training.data.table import Table
from training.plan import Plan, SplitPlan


def data_of(frame: pl.DataFrame, **split: object) -> tuple[Data, SplitPlan]:
    plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t"}, "split": split}, "test")
    return read_columns(Table(frame, "0" * 64, "t"), plan), plan.split


def numbers(rows: int, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame({"x": rng.normal(size=rows), "c": rng.choice(["a", "b"], rows), "y": rng.normal(size=rows)})


def test_new_rows_never_move_old_ones():
    few, many = numbers(500), pl.concat([numbers(300, seed=1), numbers(500), numbers(300, seed=2)])
    old, new = split_rows(*data_of(few)), split_rows(*data_of(many))
    for part in ("train", "validation", "test"):
        moved = getattr(new, part) - 300
        assert set(getattr(old, part)) == {row for row in moved if 0 <= row < 500}


def test_the_shares_hold():
    split = split_rows(*data_of(numbers(5000), train=0.7, validation=0.1, test=0.2))
    assert [len(split.train), len(split.validation), len(split.test)] == pytest.approx([3500, 500, 1000], rel=0.1)
    everything = np.concatenate([split.train, split.validation, split.test])
    assert sorted(everything) == list(range(5000))


def test_rows_that_stand_twice_stand_in_one_part():
    frame = numbers(200)
    split = split_rows(*data_of(pl.concat([frame, frame])))
    for part in (split.train, split.validation, split.test):
        assert {row % 200 for row in part} == {row % 200 for row in part if row < 200}


def test_a_crowd_of_equal_rows_is_spread_over_the_parts_and_stays_when_rows_are_added():
    crowds = pl.DataFrame({"a": [0, 1] * 500, "b": ["x", "x", "y", "y"] * 250, "y": [0.0, 1.0] * 500})
    first = split_rows(*data_of(crowds))
    assert [len(first.train), len(first.validation), len(first.test)] == pytest.approx([600, 200, 200], rel=0.2)
    second = split_rows(*data_of(pl.concat([crowds, crowds])))
    for before, after in zip((first.train, first.validation), (second.train, second.validation), strict=True):
        assert set(before) == {row for row in after if row < 1000}


@given(seed=st.integers(0, 5))
@settings(max_examples=6)
def test_a_hash_depends_on_the_row_alone(seed):
    frame = numbers(50, seed)
    order = np.random.default_rng(seed).permutation(50)
    hashes = row_hashes(frame)
    assert (row_hashes(frame[order]) == hashes[order]).all()
    assert (row_hashes(frame.select("y", "c", "x")) == hashes).all()
    assert len(set(hashes)) == 50


def test_a_number_has_one_hash_however_it_is_read():
    whole = pl.DataFrame({"x": [3, 0, None]}, schema={"x": pl.Int64})
    real = pl.DataFrame({"x": [3.0, -0.0, float("nan")]})
    assert (row_hashes(whole) == row_hashes(real)).all()
    assert row_hashes(whole).tolist()[0] == 11489752668238815472  # the same on every machine, for ever


def test_time_splits_the_oldest_from_the_newest():
    frame = numbers(100).with_columns(t=pl.Series(np.random.default_rng(0).permutation(100)))
    data, plan = data_of(frame, time="t")
    split = split_rows(data, plan)
    t = frame["t"].to_numpy()
    assert t[split.train].max() < t[split.validation].min() <= t[split.validation].max() < t[split.test].min()
    assert [len(split.train), len(split.validation), len(split.test)] == [60, 20, 20]


def test_a_group_stays_together_and_is_no_feature():
    frame = numbers(2000).with_columns(g=pl.Series([f"g{i % 100}" for i in range(2000)]))
    data, plan = data_of(frame, group="g")
    split = split_rows(data, plan)
    parts = [{row % 100 for row in part} for part in (split.train, split.validation, split.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 100
    assert "g" not in data.kinds


@pytest.mark.parametrize(
    ("way", "values"),
    [("time", list(range(100))), ("group", list(range(50)) * 2), ("column", ["train", "validation"] * 50)],
)
def test_a_column_that_splits_may_be_dropped_as_a_feature(way, values):
    frame = numbers(100).with_columns(s=pl.Series(values))
    plan = {"name": "m", "target": ["y"], "table": {"path": "t", "drop": ["s"]}, "split": {way: "s"}}
    data = read_columns(Table(frame, "0" * 64, "t"), Plan.of(plan, "test"))

    split = split_rows(data, SplitPlan(**{way: "s"}))

    assert list(data.kinds) == ["x", "c"]
    assert len(split.train) > 0


def test_a_column_says_the_part_itself():
    frame = numbers(4).with_columns(part=pl.Series(["train", "test", "train", "validation"]))
    split = split_rows(*data_of(frame, column="part"))
    assert (split.train.tolist(), split.validation.tolist(), split.test.tolist()) == ([0, 2], [3], [1])
    frame = frame.with_columns(part=pl.Series(["train", "test", "tarin", "validation"]))
    with pytest.raises(BadTable, match=r"split column 'part' must say .* got 'tarin'$"):
        split_rows(*data_of(frame, column="part"))


def test_a_class_that_training_would_lack_is_moved_there():
    for seed in range(20):
        frame = numbers(60, seed).with_columns(y=pl.Series(["a", "b"] * 29 + ["rare", "a"]))
        data, plan = data_of(frame)
        split = split_rows(data, plan)
        assert 58 in split.train
        assert set(data.y[split.train]) == {0, 1, 2}


def test_many_classes_that_training_would_lack_are_one_sentence():
    y = ["a"] * 60 + [f"rare {number}" for number in range(40)]
    split = split_rows(*data_of(numbers(100).with_columns(y=pl.Series(y))))
    (note,) = split.notes
    assert note.startswith("classes 'rare ")
    assert note.endswith(" more have only 1 to 1 rows, none in the training part; moved there")
    assert set(range(60, 100)) <= set(split.train.tolist())


def test_every_part_of_a_tiny_table_has_rows():
    for seed in range(20):
        split = split_rows(*data_of(numbers(12, seed)))
        assert min(len(split.train), len(split.validation), len(split.test)) >= 1


def test_too_few_rows_and_an_empty_part_are_refused():
    with pytest.raises(BadTable, match="has 9 rows with a target; training needs at least 10"):
        split_rows(*data_of(numbers(9)))
    with pytest.raises(BadTable, match="the validation part is empty"):
        split_rows(*data_of(numbers(4).with_columns(part=pl.lit("train")), column="part"))
