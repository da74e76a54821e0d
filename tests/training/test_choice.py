"""How rows are dealt to folds, what is tried on them, and how the candidates are weighed."""

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from training import recipe
from training.data.columns import Data, read_columns
from training.data.folds import Fold, deal_folds, fitted_on
from training.data.schema import encode, learn_schema
from training.data.split import Split, split_rows
from training.data.table import Table
from training.fitting.candidates import candidates_of
from training.fitting.choice import Unit, choose
from training.fitting.fit import Member
from training.fitting.problem import pose
from training.fitting.units import wants_linear
from training.judging.intervals import calibrated
from training.network.expansions import Steps, Waves
from training.plan import Plan


def data_of(frame: pl.DataFrame, **plan) -> tuple[Data, Plan]:
    made = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t"}, **plan}, "test")
    return read_columns(Table(frame, "0" * 64, "t"), made), made


def classes(rows: int = 300) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame({"x": rng.normal(size=rows), "y": rng.choice(["a", "b", "c"], rows, p=[0.6, 0.3, 0.1])})


def test_every_row_of_train_and_validation_is_held_out_once_and_the_test_part_never():
    data, plan = data_of(classes())
    split = split_rows(data, plan.split)
    folds = deal_folds(data, split, plan.split, 5)
    both = np.sort(np.concatenate([split.train, split.validation]))
    assert np.array_equal(np.sort(np.concatenate([fold.held_out for fold in folds])), both)
    for fold in folds:
        assert np.array_equal(np.union1d(fold.train, fold.held_out), both)
        assert not np.intersect1d(fold.train, fold.held_out).size
        for code in range(3):  # as even as whole rows allow
            assert abs((data.y[fold.held_out] == code).sum() - (data.y[both] == code).sum() / 5) < 1
    assert np.array_equal(fitted_on(folds), both)


def test_one_fold_is_the_split_itself():
    data, plan = data_of(classes())
    split = split_rows(data, plan.split)
    (fold,) = deal_folds(data, split, plan.split, 1)
    assert np.array_equal(fold.train, split.train)
    assert np.array_equal(fold.held_out, split.validation)


def test_equal_rows_and_rows_of_one_group_are_in_one_fold():
    frame = pl.concat([classes(100)] * 2).with_columns(g=pl.int_range(200) % 20)
    for names, plan in ((["x", "y"], {}), (["g"], {"split": {"group": "g"}})):
        data, made = data_of(frame.drop("g") if not plan else frame, **plan)
        split = Split(
            np.tile(np.arange(100) % 20 < 15, 2).nonzero()[0],
            np.tile(np.arange(100) % 20 > 14, 2).nonzero()[0],
            np.arange(0),
        )
        fold_of = np.empty(200, dtype=int)
        for number, fold in enumerate(deal_folds(data, split, made.split, 5)):
            fold_of[fold.held_out] = number
        spread = data.frame.with_columns(fold=pl.Series(fold_of)).group_by(names).agg(pl.col("fold").n_unique())
        assert spread["fold"].max() == 1


def test_crowds_of_equal_rows_are_dealt_to_all_folds_as_the_split_gives_them_to_all_parts():
    crowds = pl.DataFrame({"a": [0, 1] * 500, "b": ["x", "x", "y", "y"] * 250, "y": ["p", "q", "p", "p"] * 250})
    data, plan = data_of(crowds)
    for fold in deal_folds(data, split_rows(data, plan.split), plan.split, 5):
        assert data.frame[fold.held_out].n_unique() == data.frame[fold.train].n_unique() == 4


def test_a_class_of_one_row_is_always_fitted_on():
    frame = classes(60).with_columns(y=pl.when(pl.int_range(60) == 7).then(pl.lit("rare")).otherwise("y"))
    data, plan = data_of(frame)
    folds = deal_folds(data, Split(np.arange(40), np.arange(40, 60), np.arange(0)), plan.split, 5)
    assert all(7 in fold.train for fold in folds)


def unit(name: str, answers: list[float]) -> Unit:
    return Unit(name, [Member(nn.Identity(), (), 0.0)] * 2, np.array(answers)[:, None])


def test_units_that_err_in_opposite_directions_are_averaged_and_a_useless_one_is_left_out():
    y = np.zeros((4, 1), dtype=np.float32)
    choice = choose([unit("high", [1, 1, 1, 1]), unit("low", [-1, -1, -1, -1]), unit("wild", [9, -9, 9, -9])], y)
    assert choice.shares == {"high": 0.5, "low": 0.5}
    assert choice.weights == [0.25] * 4
    assert np.allclose(choice.answers, 0)
    assert str(choice) == "chosen by the held-out rows: 50% high, 50% low"


def test_the_best_unit_alone_is_chosen_where_no_average_is_better():
    sure = Unit("sure", [Member(nn.Identity(), (), 0.0)], np.array([[0.9, 0.1], [0.1, 0.9]]))
    wrong = Unit("wrong", [Member(nn.Identity(), (), 0.0)], np.array([[0.1, 0.9], [0.9, 0.1]]))
    assert choose([wrong, sure], np.array([0, 1])).shares == {"sure": 1.0}


def test_pieces_are_the_way_through_each_interval_between_quantiles():
    x = torch.tensor([[0.0, 5, 7], [1, 5, 8], [2, 5, 9], [10, 5, 7], [20, 5, 8]])  # numbers: 2; the last is a code
    expansion = Steps(x, 2, 1, 4)
    assert expansion.pieces == 4  # the constant column has none
    out = expansion(torch.tensor([[-1.0, 5, 7], [1.5, 5, 8], [6, 5, 9], [99, 5, 7]]))
    assert out[:, 2:-1].tolist() == [[0, 0, 0, 0], [1, 0.5, 0, 0], [1, 1, 0.5, 0], [1, 1, 1, 1]]
    assert out[:, -1].tolist() == [7, 8, 9, 7]


def test_pieces_of_a_number_that_is_mostly_one_value_are_between_the_others():
    x = torch.tensor([0.0] * 95 + [1, 2, 3, 4, 5])[:, None]  # of all values, only the last quantile is above 0
    expansion = Steps(x, 1, 0, 8)
    assert 5 <= expansion.pieces <= 8
    assert (expansion(torch.tensor([[1.5], [4.5]]))[:, 1:].sum(1).diff() > 2).all()


def test_waves_are_cosines_of_each_number_the_same_every_time():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    waves = Waves(x, 2, 1, 4)
    assert waves.pieces == 8
    out = waves(x)
    assert torch.equal(out, Waves(x, 2, 1, 4)(x))
    assert torch.equal(out[:, [0, 1, -1]], x)
    torch.testing.assert_close(out[:, 2:6], torch.cos(x[:, :1] * waves.frequencies[:4] + waves.phases[:4]))


def test_what_a_plan_says_goes_before_what_a_candidate_says():
    fields = {"name": "m", "target": ["y"], "table": {"path": "t"}}
    both = candidates_of(
        Plan.of(fields | {"fit": {"learning_rate": 0.5}, "net": {"dropout": 0.3}}, "test"), "binary", 1000
    )
    assert len(both) == 3
    assert {(one.net.dropout, one.fit.learning_rate, one.fit.schedule) for one in both} == {(0.3, 0.5, "coslog4")}
    (own,) = candidates_of(Plan.of(fields | {"net": {"hidden": [7]}}, "test"), "binary", 1000)
    assert own.net.hidden == (7,)


def test_dropout_ends_in_regressions_alone():
    plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t"}}, "test")
    for task in ("regression", "binary", "multiclass"):
        assert {one.fit.dropout_ends for one in candidates_of(plan, task, 500)} == {task == "regression"}


def test_regressions_of_many_rows_have_epochs_for_two_more_waves_unless_a_plan_says_how_many():
    plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t"}}, "test")

    def epochs(plan, task, rows):
        ((schedule, number),) = {(one.fit.schedule, one.fit.epochs) for one in candidates_of(plan, task, rows)}
        return schedule, number

    assert epochs(plan, "regression", 2000) == ("coslog4", 64)
    assert epochs(plan, "regression", 2001) == ("coslog6", 146)
    assert epochs(plan, "multiclass", 2001) == ("coslog4", 48)
    said = plan.model_copy(update={"fit": plan.fit.model_copy(update={"epochs": 20})})
    assert epochs(said, "regression", 2001) == ("coslog5", 20)


@pytest.mark.parametrize("kind", ["number", "class", "classes"])
def test_with_defaults_the_validation_scores_are_of_rows_that_were_held_out(tmp_path, kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    noise = rng.normal(size=300)  # nothing of it can be learned, but everything can be remembered
    labels = {"number": noise, "class": np.where(noise > 0, "a", "b"), "classes": np.digitize(noise, [-0.5, 0.5])}
    frame = pl.DataFrame(x, schema=["a", "b", "c"]).with_columns(y=pl.Series(labels[kind]).cast(pl.String))
    frame.write_csv(tmp_path / "t.csv")
    plan = Plan.of(
        {"name": "m", "target": ["y"], "table": {"path": str(tmp_path / "t.csv")}, "fit": {"epochs": 20}}, ""
    )
    fitted = recipe.train(plan)
    assert fitted.plan.fit.folds == 5
    metric, chance = ("r2", 0.0) if kind == "number" else ("accuracy", 0.5 if kind == "class" else 0.4)
    value = fitted.scores["validation"].metrics[metric]
    assert value is not None
    assert value < chance + 0.25
    rows = len(fitted.parts["train"].y) + len(fitted.parts["validation"].y)  # each was held out of one fold
    assert {len(answers) for answers in (*fitted.held_out.values(), fitted.held_out_y)} == {rows}
    sure = calibrated(fitted.data.task == "regression", (fitted.held_out, fitted.held_out_y), None)
    assert {found.rows for found in sure if found} == {rows}
    assert sum(fitted.weights) == pytest.approx(1)


def test_a_line_is_let_in_by_its_loss_on_the_rows_that_judge_the_networks_too():
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    data, plan = data_of(pl.DataFrame({"x": x, "y": x + rng.normal(size=200)}))
    split = split_rows(data, plan.split)
    folds = deal_folds(data, split, plan.split, 5)
    schema = learn_schema(data, fitted_on(folds), plan.table)
    problem = pose(plan, data, schema, encode(data.frame, schema), folds)
    line = problem.baseline(Fold(split.train, split.validation))()
    lucky_on_the_first_fold = [Member(nn.Identity(), (), 1e-9)]
    no_better = Unit("steps", lucky_on_the_first_fold, problem.answers([line], problem.held_out))
    perfect = Unit("steps", lucky_on_the_first_fold, problem.held_out_y.astype(np.float64))
    assert wants_linear(problem, [no_better], line, split.validation)
    assert not wants_linear(problem, [perfect], line, split.validation)


def test_a_line_is_let_in_wherever_groups_or_times_are_held_out(tmp_path):
    rng = np.random.default_rng(1)
    groups = np.repeat([0, 1, 2], 100)
    x = rng.normal(size=(300, 3)) + np.outer(8 * groups, [1, 0, 0])  # each group lies elsewhere
    frame = pl.DataFrame(x, schema=["a", "b", "c"])
    frame = frame.with_columns(g=pl.Series(groups).cast(pl.String), y=2 * x[:, 0] + x[:, 1] + rng.normal(0, 0.3, 300))
    frame.write_csv(tmp_path / "t.csv")
    fields = {"name": "m", "target": ["y"], "table": {"path": str(tmp_path / "t.csv")}, "fit": {"epochs": 20}}
    fitted = recipe.train(Plan.of(fields | {"split": {"group": "g"}}, "test"))
    r2 = fitted.scores["test"].metrics["r2"]
    assert r2 is not None
    assert r2 > 0.95  # of the networks alone it is 0.57
