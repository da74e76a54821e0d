"""Tables by name: generated from a seed, or read from installed packages."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data import datasets
from training.plan import PLANS, BadPlan, Plan, names

generated = ["square", "rings", "wave", "moons", "sum"]
real = ["auto-mpg", "breast-cancer", "diabetes", "penguins", "survival", "wine"]


def part(frame, name):
    return frame.filter(pl.col("part") == name)


@pytest.mark.parametrize("name", generated)
def test_a_generated_table_is_a_function_of_its_rows_and_seed(name):
    assert datasets.load(name, 50, 3).equals(datasets.load(name, 50, 3))
    assert not datasets.load(name, 50, 3).equals(datasets.load(name, 50, 4))


@pytest.mark.parametrize("name", generated)
def test_no_test_row_was_ever_trained_on(name):
    frame = datasets.load(name)
    seen = frame.filter(pl.col("part") != "test").drop("part")
    assert part(frame, "test").drop("part").join(seen, on=seen.columns, how="semi").height == 0


@pytest.mark.parametrize("name", generated)
def test_test_rows_stay_when_the_number_of_others_changes(name):
    few, many = datasets.load(name, 50), datasets.load(name, 80)
    assert part(few, "test").equals(part(many, "test"))
    assert few.height - part(few, "test").height == 50


@pytest.mark.parametrize(
    ("name", "train", "validation"),
    [("square", 10_000, 4_000), ("rings", 10_000, 5_000), ("wave", 300, 75), ("moons", 160, 40), ("sum", 1_600, 400)],
)
def test_parts_have_the_sizes_of_the_founding_systems(name, train, validation):
    frame = datasets.load(name)
    assert (part(frame, "train").height, part(frame, "validation").height) == (train, validation)


def test_rings_are_told_apart_by_the_square_of_the_radius():
    rows = datasets.load("rings", 3000)
    r2 = rows["x1"] ** 2 + rows["x2"] ** 2
    assert r2.filter(rows["ring"] == 1).min() >= 1
    assert r2.filter(rows["ring"] == 2).max() < 0.25
    assert r2.filter(rows["ring"] == 0).is_between(0.25, 1, closed="left").all()


def test_the_wave_is_two_sines_about_a_line_in_noise_of_one():
    rows = part(datasets.load("wave"), "test")
    noise = (rows["y"] - rows["x"] - 2 * rows["x"].sin()).to_numpy()
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert rows["x"].min() >= 0
    assert rows["x"].max() <= 20


def test_squares_and_sums_are_exact():
    square, total = datasets.load("square", 50), datasets.load("sum", 50)
    np.testing.assert_array_equal(square["y"], square["x"].to_numpy() ** 2)
    np.testing.assert_allclose(total["total"], total["a"] + total["b"] + total["c"], rtol=1e-15)
    assert total.select(pl.max_horizontal("a", "b", "c").max()).item() <= 10


def test_moons_are_two_half_circles_of_equal_size():
    rows = part(datasets.load("moons"), "test")
    assert rows["moon"].mean() == 0.5
    upper = rows.filter(pl.col("moon") == 0)
    assert abs((upper["x1"] ** 2 + upper["x2"] ** 2).sqrt().mean() - 1) < 0.01


def test_yields_are_five_fields_three_times_over():
    train = part(datasets.load("yields"), "train")
    assert train.height == 15
    assert train.unique().height == 5
    assert train.row(0)[:5] == (73, 67, 43, 56, 70)


def test_the_source_of_sum_has_three_rows():
    assert part(datasets.load("three-sums"), "train")["total"].to_list() == [6, 9, 12]


@pytest.mark.parametrize(
    ("name", "rows", "target", "distinct"),
    [
        ("auto-mpg", 392, "mpg", 127),
        ("breast-cancer", 569, "diagnosis", 2),
        ("diabetes", 442, "progression", 214),
        ("penguins", 344, "species", 3),
        ("survival", 1313, "survived", 2),
        ("wine", 178, "grower", 3),
    ],
)
def test_a_real_table_is_whole(name, rows, target, distinct):
    frame = datasets.load(name)
    assert frame.height == rows
    assert frame[target].n_unique() == distinct
    assert frame[target].null_count() == 0


def test_what_is_missing_in_a_file_is_missing_in_the_table():
    assert datasets.load("penguins").null_count().row(0) == (0, 0, 2, 2, 2, 2, 11)
    survival = datasets.load("survival")
    assert survival["age"].null_count() == 557
    assert survival["class"].drop_nulls().unique().sort().to_list() == ["1st", "2nd", "3rd"]


@pytest.mark.parametrize("name", real)
def test_a_real_table_refuses_another_number_of_rows(name):
    with pytest.raises(BadPlan, match="has its own rows"):
        datasets.load(name, 10)


@given(st.text(max_size=30).filter(lambda name: name not in datasets.names()))
def test_an_unknown_name_is_refused_with_a_suggestion(name):
    with pytest.raises(BadPlan, match=r"is not a table; (did you mean|there are) "):
        datasets.load(name)


def test_a_misspelt_name_is_guessed():
    with pytest.raises(BadPlan, match="did you mean moons"):
        datasets.load("mons")


@pytest.mark.parametrize("rows", [1, 2])
def test_too_few_rows_for_two_parts_are_refused(rows):
    with pytest.raises(BadPlan, match=f"needs more than {rows} rows"):
        datasets.load("wave", rows)


def test_a_table_whose_package_is_absent_names_it(monkeypatch):
    monkeypatch.setattr(datasets, "find_spec", lambda _: None)
    with pytest.raises(BadPlan, match=r"penguins\.csv comes with the package bokeh-sampledata"):
        datasets.load("penguins")


@pytest.mark.parametrize("name", names())
def test_every_plan_reads_a_table_that_has_its_target(name):
    plan = Plan.read(PLANS / f"{name}.toml")
    assert plan.name == name
    assert plan.about
    columns = datasets.load(plan.table.dataset, plan.table.rows).columns
    assert set(plan.target) <= set(columns)
    for published in plan.published:
        assert set(plan.target) <= set(datasets.load(published.dataset or plan.table.dataset, published.rows).columns)
