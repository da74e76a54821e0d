import math

import numpy as np
import polars as pl
import pytest
import torch

from models.errors import BadRow
from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, NumberFeature
from models.schema import Schema
from training.data.columns import Data, read_columns
from training.data.schema import encode, learn_schema, what_is_unknown
from training.data.table import Table
from training.network.encoders import Embedding, Preprocessing, known_rows, with_unseen_unknown
from training.plan import Plan, TablePlan


def data_of(frame: pl.DataFrame) -> Data:
    plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t"}}, "test")
    return read_columns(Table(frame.with_columns(y=pl.int_range(pl.len()) / 7), "0" * 64, "t"), plan)


def schema_of(frame: pl.DataFrame) -> tuple[Schema, np.ndarray]:
    data = data_of(frame)
    schema = learn_schema(data, np.arange(data.frame.height), TablePlan(path="t"))
    return schema, encode(data.frame, schema)


def numbers(values: list[float | None]) -> tuple[Schema, np.ndarray]:
    schema = Schema(features=(NumberFeature(name="x"),))
    return schema, np.array(values, dtype=np.float32)[:, None]


def test_a_number_is_scaled_by_its_quartiles_and_clipped_smoothly():
    schema, matrix = numbers([0, 1, 2, 3, 4])  # median 2, quartiles 1 and 3
    z = Preprocessing(schema, matrix)(torch.tensor([[2.0], [4.0], [2002.0], [math.nan]]))
    expected = [0, 1 / math.sqrt(1 + 1 / 9), 1000 / math.sqrt(1 + (1000 / 3) ** 2), 0]
    assert z[:, 0].tolist() == pytest.approx(expected)
    assert z.abs().max() < 3


def test_quartiles_that_meet_are_replaced_by_the_range_and_a_constant_says_nothing():
    schema, matrix = numbers([5, 5, 5, 5, 9])
    assert Preprocessing(schema, matrix)(torch.tensor([[7.0]])).item() == pytest.approx(1 / math.sqrt(1 + 1 / 9))
    schema, matrix = numbers([5, 5, 5])
    assert Preprocessing(schema, matrix)(torch.tensor([[7.0]])).item() == 0


def test_only_what_was_missing_in_training_has_an_indicator():
    schema = Schema(features=(NumberFeature(name="a"), NumberFeature(name="b")))
    train = np.array([[1, 1], [2, math.nan], [3, 3]], dtype=np.float32)
    z = Preprocessing(schema, train)(torch.tensor([[math.nan, math.nan], [2.0, 2.0]]))
    assert z.tolist() == [[0, 0, 1], [0, 0, 0]]


def test_a_small_category_is_one_hot_and_unknown_and_missing_are_zeros():
    schema = Schema(features=(CategoryFeature(name="c", categories=("a", "b", "c")),))
    rows = torch.tensor([[0.0], [2.0], [3.0], [math.nan]])
    z = Preprocessing(schema, rows[:2].numpy())(rows)
    assert z.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_larger_categories_share_one_embedding_table_with_rows_for_unknown_and_missing():
    names = tuple(f"c{number}" for number in range(10))
    schema = Schema(features=tuple(CategoryFeature(name=name, categories=names) for name in ("c", "d")))
    rows = torch.tensor([[0.0, 9.0], [10.0, math.nan]])  # 10 is unknown
    preprocessing = Preprocessing(schema, rows.numpy())
    assert preprocessing.sizes == [12, 12]
    x = preprocessing(rows)
    assert x.tolist() == [[0, 12 + 9], [10, 12 + 11]]
    embedded = Embedding(preprocessing.sizes, preprocessing.width)(x)
    assert embedded.shape == (2, 16)
    assert embedded[1].abs().sum() == 0  # nobody has trained these
    assert embedded[0].abs().min() > 0


def test_a_boolean_is_one_or_minus_one():
    schema = Schema(features=(BooleanFeature(name="b"),))
    rows = torch.tensor([[0.0], [1.0], [math.nan]])
    assert Preprocessing(schema, rows[:2].numpy())(rows)[:, 0].tolist() == pytest.approx([-0.9487, 0.9487, 0], abs=1e-4)


def test_a_datetime_turns_only_where_it_varied():
    schema = Schema(features=(DatetimeFeature(name="t"),))
    matrix = schema.encode([{"t": "2024-01-01"}, {"t": "2024-01-02"}, {"t": "2024-01-03"}])
    z = Preprocessing(schema, matrix)(torch.from_numpy(matrix))
    assert z.shape == (3, 1 + 2 * 2)  # day, and sine and cosine of weekday and yearday; the hour was always 0
    assert z[0, 1].item() == 0  # a Monday
    hourly = schema.encode([{"t": "2024-01-01T00:00"}, {"t": "2024-01-01T06:00"}])
    z = Preprocessing(schema, hourly)(torch.from_numpy(hourly))
    assert z[1].tolist() == pytest.approx([0, 1, 0], abs=1e-6)  # a quarter turn


def test_a_row_becomes_the_same_alone_and_among_others():
    rng = np.random.default_rng(0)
    kinds = ("n", "m", "few", "many", "b", "t")
    frame = pl.DataFrame(
        {
            "n": rng.normal(3, 2, 50),
            "m": rng.normal(size=50) * 1e30,
            "few": rng.choice(["a", "b", "c"], 50),
            "many": rng.choice([f"c{number}" for number in range(30)], 50),
            "b": rng.choice([True, False], 50),
            "t": rng.integers(10**15, 10**16, 50).astype("datetime64[us]"),
        }
    ).with_columns(pl.when(pl.int_range(pl.len()) % 7 != place).then(pl.col(kinds[place])) for place in range(5))
    schema, matrix = schema_of(frame)
    hard = [np.full((1, matrix.shape[1]), np.nan, matrix.dtype)]
    for value in (np.finfo(matrix.dtype).max, -np.finfo(matrix.dtype).max):
        row = matrix[-1:].copy()
        row[:, schema.columns.index("n")] = row[:, schema.columns.index("m")] = value
        hard.append(row)
    rows = torch.from_numpy(np.concatenate([matrix, *hard]))
    preprocessing = Preprocessing(schema, matrix)
    together = preprocessing(rows)
    assert together.shape == (53, preprocessing.width)
    assert together.is_contiguous()
    assert torch.isfinite(together).all()
    assert torch.equal(together, torch.cat([preprocessing(row[None]) for row in rows]))


def test_without_preprocessing_numbers_pass_and_missing_is_zero():
    schema = Schema(features=(NumberFeature(name="a"), CategoryFeature(name="c", categories=("u", "v"))))
    rows = torch.tensor([[1e6, 1.0], [math.nan, 2.0]])
    assert Preprocessing(schema, rows.numpy(), learned=False)(rows).tolist() == [[1e6, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("values", "datatype"),
    [
        ([0.1 * i for i in range(200)], "FP32"),
        ([1000 + 0.5 * i for i in range(200)], "FP32"),
        ([1_000_000_000 + i for i in range(200)], "FP64"),  # ids that FP32 would merge
        ([1e9 + 0.001 * i for i in range(200)], "FP64"),  # a tiny spread around a large mean
        ([1e300 * i for i in range(200)], "FP64"),  # beyond FP32
        ([16_777_216 * i for i in range(200)], "FP32"),  # large, and exact in FP32
    ],
)
def test_the_matrix_is_fp64_where_fp32_would_round_the_table_away(values, datatype):
    schema, matrix = schema_of(pl.DataFrame({"x": values}))
    assert schema.datatype == datatype
    z = Preprocessing(schema, matrix)(torch.from_numpy(matrix))
    assert z.dtype == torch.float32
    assert len(z.unique()) == 200


def test_the_schema_says_what_training_rows_hold():
    frame = pl.DataFrame({"n": [1.0, 3.0, None, 5.0], "c": ["b", "a", "b", None], "b": [True, True, False, None]})
    schema, _ = schema_of(frame)
    number, category, boolean = schema.features
    assert isinstance(number, NumberFeature)
    assert (number.missing_share, number.quantiles[0], number.quantiles[10], number.quantiles[-1]) == (0.25, 1, 3, 5)
    assert isinstance(category, CategoryFeature)
    assert (category.categories, category.shares) == (("a", "b"), (1 / 3, 2 / 3))
    assert isinstance(boolean, BooleanFeature)
    assert boolean.true_share == 2 / 3


def test_a_category_that_no_training_row_has_reads_what_is_embedded_for_unknown():
    sizes = [4, 3]  # categories, unknown, missing
    train = torch.tensor([[0.5, 1.0, 5.0], [0.5, 3.0, 6.0]])
    assert known_rows(train, sizes).tolist() == [2, 1, 2, 3, 5, 5, 6]
    asked = with_unseen_unknown(torch.tensor([[7.5, 0.0, 4.0], [8.5, 1.0, 6.0]]), train, sizes)
    assert asked.tolist() == [[7.5, 2, 5], [8.5, 1, 6]]
    assert with_unseen_unknown(train, train, []) is train


def test_where_they_are_few_categories_of_fewer_than_four_training_rows_are_unknown_beyond_nine_and_said_so():
    towns = [f"t{k:02}" for k in range(12) for _ in range(50)] + ["rare"] * 3 + ["once"]
    data = data_of(pl.DataFrame({"town": towns, "few": ["a", "b"] + ["c"] * 602}))
    train = np.arange(604)
    schema = learn_schema(data, train, TablePlan(path="t"))
    town, few = schema.features
    assert isinstance(town, CategoryFeature)
    assert isinstance(few, CategoryFeature)
    assert town.categories == tuple(f"t{k:02}" for k in range(12))
    assert few.categories == ("a", "b", "c")  # one-hot, of which nothing is learned by heart
    assert schema.encode([{"town": "rare", "few": "c"}]).tolist() == [[12, 2]]
    told = "the 12 most frequent are told apart, the others, 0.7% of the training rows, count as unknown"
    assert what_is_unknown(data, train, schema) == [f"column 'town' has 14 categories: {told}"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([3] * 200, 200),  # persons who came three times
        ([2] * 300, 300),
        ([50] * 12 + [3] * 3 + [2] * 2, 15),  # 2.1% of the rows are of fewer than four, 0.6% of fewer than three
        ([2] * 270 + [1] * 60, 270),
        ([300] + [1] * 250, 9),
    ],
)
def test_where_many_rows_are_of_rare_categories_only_the_rarest_are_unknown(rows, told):
    towns = [f"t{k:03}" for k, count in enumerate(rows) for _ in range(count)]
    (town,) = schema_of(pl.DataFrame({"town": towns}))[0].features
    assert isinstance(town, CategoryFeature)
    assert len(town.categories) == told


def test_the_categories_of_a_small_table_are_all_told_apart():
    towns = [f"t{k:02}" for k in range(20) for _ in range(2)]
    (town,) = schema_of(pl.DataFrame({"town": towns}))[0].features
    assert isinstance(town, CategoryFeature)
    assert len(town.categories) == 20


def test_of_more_than_a_thousand_categories_the_most_frequent_are_told_apart():
    data = data_of(pl.DataFrame({"c": [f"c{k % 1500}" for k in range(6000)]}))
    schema = learn_schema(data, np.arange(6000), TablePlan(path="t"))
    told = "the 1000 most frequent are told apart, the others, 33.3% of the training rows, count as unknown"
    assert what_is_unknown(data, np.arange(6000), schema) == [f"column 'c' has 1500 categories: {told}"]


def test_a_frame_and_its_rows_as_json_give_one_matrix(mixed):
    frame = mixed.drop("price", "grade")
    schema, matrix = schema_of(frame)
    rows = frame.with_columns(pl.col("day").cast(pl.String)).rows(named=True)
    np.testing.assert_array_equal(schema.encode(rows), matrix)


def test_rows_that_are_encoded_together_are_each_encoded_as_if_alone():
    rng = np.random.default_rng(0)
    rows = 9001  # more than two of the pieces that columns are turned into rows in
    frame = pl.DataFrame(
        {
            "x": rng.normal(size=rows),
            "c": rng.choice(["a", "b", "new", None], rows),
            "b": pl.Series(rng.integers(0, 2, rows)).cast(pl.Boolean),
            "t": rng.integers(-6 * 10**16, 10**17, rows).astype("datetime64[us]"),
        }
    ).with_columns(pl.when(pl.int_range(pl.len()) % 7 != 3).then(pl.all()))  # every seventh row is missing
    features = (NumberFeature(name="x"), CategoryFeature(name="c", categories=("a", "b")), BooleanFeature(name="b"))
    schema = Schema(features=(*features, DatetimeFeature(name="t")))
    np.testing.assert_array_equal(encode(frame, schema), schema.encode(frame.rows()))


def test_a_number_beyond_the_matrix_is_named():
    schema = Schema(features=(CategoryFeature(name="c", categories=()), NumberFeature(name="x")))
    with pytest.raises(BadRow, match=r"row 1: feature 'x' must lie within 3.4e\+38 of zero, the range of FP32"):
        encode(pl.DataFrame({"c": ["a", "b"], "x": [1.0, 1e39]}), schema)
