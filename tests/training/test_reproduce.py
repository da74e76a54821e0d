"""The rule by which a reproduction fails, and the table that says so."""

import io
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from models.manifest import Scores
from training import reproduce
from training.plan import PLANS, FitPlan, NetPlan, Plan, Published, names
from training.reproduce import Ours, Reproduction


def reproduction(published, figures, *, higher_is_better=False):
    recipe = Published(
        title="recipe",
        metric="mse",
        figure=published,
        higher_is_better=higher_is_better,
        net=NetPlan(hidden=()),
        fit=FitPlan(),
    )
    return Reproduction("square", recipe, figures)


def ours(figure, limit):
    return Ours("square", {"train": Scores(rows=1, metrics={"mse": figure})}, "mse", figure, limit, False, 1.0)


@pytest.mark.parametrize(
    ("published", "figures", "is_worse"),
    [
        (0.101, (0.08, 0.09, 0.10), False),  # better
        (0.101, (0.11, 0.12, 0.14), False),  # 0.02 worse, and 0.03 apart
        (0.101, (0.13, 0.14, 0.15), True),  # 0.04 worse, and 0.02 apart
        (6.954, (6.9544, 6.9544, 6.9544), False),  # rounds to what was published
        (6.954, (6.9546, 6.9546, 6.9546), True),
        (None, (1.0, 2.0, 3.0), False),  # nothing to be worse than
        (0.101, (0.09, 0.10, math.inf), False),  # one of three diverged
        (0.101, (0.09, math.inf, math.inf), True),
        (0.101, (0.09, math.nan, 0.10), True),
    ],
)
def test_a_reproduction_may_be_worse_by_the_spread_of_its_seeds(published, figures, is_worse):
    assert reproduction(published, figures).is_worse == is_worse


@pytest.mark.parametrize(("figures", "is_worse"), [((0.97, 0.98, 0.99), False), ((0.9, 0.91, 0.92), True)])
def test_an_accuracy_is_worse_when_it_is_lower(figures, is_worse):
    assert reproduction(0.98, figures, higher_is_better=True).is_worse == is_worse


@pytest.mark.parametrize(("figure", "half"), [(0.1012, 0.00005), (6.954, 0.0005), (5.77e-4, 5e-7), (57.0, 0.05)])
def test_a_figure_is_known_to_half_a_unit_in_its_last_digit(figure, half):
    assert reproduce.rounding(figure) == pytest.approx(half)


@pytest.mark.parametrize(
    ("higher_is_better", "figure", "is_worse"),
    [(False, 1.0, False), (False, 1.01, True), (True, 1.0, False), (True, 0.99, True), (True, math.nan, True)],
)
def test_a_bar_is_passed_when_it_is_met(higher_is_better, figure, is_worse):
    assert Ours("moons", {}, "accuracy", figure, 1.0, higher_is_better, 1.0).is_worse == is_worse


def test_the_table_shows_source_reproduction_and_ours():
    console = Console(file=io.StringIO(), width=200)
    console.print(reproduce.table([([reproduction(0.1, (0.2, 0.3, 0.25))], ours(1e-6, 1e-5))]))
    shown = console.file.getvalue()
    line = next(line for line in shown.splitlines() if "recipe" in line and "0.25" in line)
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [
        "square", "recipe", "mse, train", "0.1", "0.25 [0.2, 0.3]", "3", "1.00e-06", "worse",
    ]  # fmt: skip
    assert "at most 1.00e-05" in shown


@pytest.mark.parametrize(
    ("figure", "text"),
    [(0.98234, "0.9823"), (0.000577, "0.000577"), (2e-7, "2.00e-07"), (0.0, "0"), (math.inf, "diverged")],
)
def test_figures_are_shown_with_the_digits_that_count(figure, text):
    assert reproduce.shown(figure) == text


@pytest.mark.parametrize("name", names())
def test_a_published_recipe_becomes_a_plan_of_its_own(name):
    plan = Plan.read(PLANS / f"{name}.toml")
    for published in plan.published:
        source = reproduce.source_plan(plan, published, seed=3)
        assert (source.net, source.fit.epochs, source.fit.seed) == (published.net, published.fit.epochs, 3)
        assert (source.fit.members, source.fit.linear, source.published) == (1, False, ())
        assert Plan.of(source.model_dump(), name) == source


def test_every_founding_figure_is_there():
    figures = {name: [one.figure for one in Plan.read(PLANS / f"{name}.toml").published] for name in names()}
    assert figures["square"] == [0.01168, 0.0877, 0.0405, 0.0269, 0.00129, 5.77e-4, 6.17e-4]
    assert figures["rings"] == [0.9823, 0.9818]
    assert figures["sum"] == [0.1012]
    assert figures["yields"] == [6.954, None]
    assert len(figures["wave"]) == 6
    assert len(figures["moons"]) == 2
    assert len(figures["survival"]) == 1


def test_reproducing_a_system_trains_all_its_recipes_and_says_that_it_held(capsys):
    assert reproduce.reproduce(["sum"], ThreadPoolExecutor(1)) == 0
    printed = capsys.readouterr().out
    assert "9 fits by the sources' recipes, 1 by ours" in printed
    assert "0.1012" in printed
