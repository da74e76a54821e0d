"""`make reproduce`: the founding systems by their sources' recipes and by ours, side by side.

Every published recipe is trained by the same `recipe.train` as any plan, once for each of its seeds; a seed draws the
table as well as the weights. A reproduction fails when its median is worse than the published figure by more than

    the spread of its own seeds (largest less smallest), and half a unit in the published figure's last digit.

For the published figure is one draw too: of a table and weights that are not ours. Our recipes are trained as they ship
and have to pass their bar, `bar_of`, measured on rows that neither trained nor chose anything (`yields` has none).
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.manifest import Part, Scores
from training import plan as plans
from training import recipe
from training.fitting.course import Diverged
from training.fitting.processes import cores
from training.judging.evaluate import MAIN
from training.plan import PLANS, Plan, Published
from training.recipe import Fitted

# ------------------------------------------------------------------------------------------------ what must be reached


class Bar(NamedTuple):
    """What one of our recipes must reach.

    Attributes:
        words: what is measured.
        measure: the figure of a fitted network.
        limit: of the figure, as a function of the same network: some bars lie where the table puts them.
        higher_is_better: the limit is a least value.
    """

    words: str
    measure: Callable[[Fitted], float]
    limit: Callable[[Fitted], float]
    higher_is_better: bool = False


def _test(metric: str) -> Callable[[Fitted], float]:
    return lambda fitted: _known(fitted.scores["test"].metrics[metric])


def _largest_error(fitted: Fitted) -> float:
    test = fitted.parts["test"]
    return float(np.abs(fitted.predict(test.matrix)["prediction"] - test.y).max())


def _least_squares(fitted: Fitted) -> float:
    """The smallest mean squared error that any linear model has on the training rows."""
    train = fitted.parts["train"]
    x = np.column_stack([train.matrix.astype(np.float64), np.ones(len(train.y))])
    return float(((x @ np.linalg.lstsq(x, train.y, rcond=None)[0] - train.y) ** 2).mean())


BARS: Mapping[str, Bar] = {
    "square": Bar("mse of fresh points", _test("mse"), lambda _: 1e-5),
    "rings": Bar("accuracy of 200,000 fresh points", _test("accuracy"), lambda _: 0.9975, higher_is_better=True),
    "wave": Bar("mse of fresh points, 1.0 being noise", _test("mse"), lambda _: 1.05),
    "moons": Bar("accuracy of fresh points", _test("accuracy"), lambda _: 1.0, higher_is_better=True),
    "sum": Bar("largest error on fresh triples", _largest_error, lambda _: 0.01),
    "yields": Bar("mse of the training rows", lambda f: _known(f.scores["train"].metrics["mse"]), _least_squares),
}


def bar_of(name: str, fitted: Fitted) -> Bar:
    """The bar of a plan. A real table's is a linear model's loss on the test rows and the chance in so few of them.

    A hundred rows settle no second digit: the loss may be larger by one standard error of its own mean.
    """
    if name in BARS:
        return BARS[name]
    metric = "mse" if fitted.data.classes is None else "log_loss"

    def limit(fitted: Fitted) -> float:
        losses = _test_losses(fitted)
        chance = float(losses.std(ddof=1) / np.sqrt(len(losses)))
        return _known(fitted.scores["test"].baselines["linear"][metric]) + chance

    return Bar(f"{metric} of the test rows; a linear model's and chance", _test(metric), limit)


def _test_losses(fitted: Fitted) -> npt.NDArray[np.float64]:
    """The network's loss on each test row: squared error, or log loss."""
    test = fitted.parts["test"]
    answers = fitted.predict(test.matrix)
    if fitted.data.classes is None:
        return np.asarray(((answers["prediction"] - test.y) ** 2).mean(axis=1))
    of_class = answers["probabilities"][np.arange(len(test.y)), test.y].astype(np.float64)
    return np.asarray(-np.log(np.maximum(of_class, np.finfo(np.float32).tiny)))


# ------------------------------------------------------------------------------------------------ what came out


@dataclass(frozen=True)
class Reproduction:
    """A published recipe and what it reached, seed by seed; a fit that diverged is infinitely bad."""

    system: str
    published: Published
    figures: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle figure of the seeds."""
        return float(np.median(self.figures))

    @property
    def is_worse(self) -> bool:
        """Whether the published figure is out of reach, by the rule at the head of this file."""
        if self.published.figure is None:
            return False
        lost = self.median - self.published.figure
        if self.published.higher_is_better:
            lost = -lost
        return not lost <= max(self.spread, rounding(self.published.figure))

    @property
    def spread(self) -> float:
        """How far apart the seeds are, largest less smallest; those that diverged do not widen it."""
        finite = [figure for figure in self.figures if np.isfinite(figure)]
        return max(finite) - min(finite) if finite else 0.0


@dataclass(frozen=True)
class Ours:
    """One of our recipes: its scores and whether it passes its bar."""

    system: str
    scores: Mapping[Part, Scores]
    words: str
    figure: float
    limit: float
    higher_is_better: bool
    seconds: float

    @property
    def is_worse(self) -> bool:
        """Whether the bar is missed."""
        return not (self.figure >= self.limit if self.higher_is_better else self.figure <= self.limit)


def rounding(figure: float) -> float:
    """Half a unit in the last digit that a figure was published with."""
    exponent = Decimal(repr(figure)).as_tuple().exponent
    assert isinstance(exponent, int)
    return 0.5 * 10.0**exponent


# ------------------------------------------------------------------------------------------------ training


def reproduce(names: Sequence[str] = (), pool: Executor | None = None) -> int:
    """Train, print the table, and give the exit status: 0, or 1 where a figure is worse than it has to be.

    Args:
        names: plans; none is all that ship.
        pool: what trains; None is one process per core, one thread each.

    Raises:
        RowcastError: a plan is bad.
    """
    start = time.perf_counter()
    chosen = [Plan.read(PLANS / f"{name}.toml") for name in names or plans.names()]
    jobs = {job.model_dump_json(): job for plan in chosen for job in _jobs(plan)}  # the same fit is run once
    with pool or ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as workers:
        ours = {plan.name: workers.submit(train_ours, plan) for plan in chosen}
        scores = {key: workers.submit(_scores, job) for key, job in jobs.items()}
        results = [
            (_reproductions(plan, {key: future.result for key, future in scores.items()}), ours[plan.name].result())
            for plan in chosen
        ]
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table(results))
    everything: list[Reproduction | Ours] = []
    for reproduced, own in results:
        everything += [*reproduced, own]
    failed = [one for one in everything if one.is_worse]
    console.print(
        f"{len(jobs)} fits by the sources' recipes, {len(ours)} by ours, {time.perf_counter() - start:.0f} s."
    )
    for one in failed:
        title = one.published.title if isinstance(one, Reproduction) else "ours"
        console.print(f"[bold red]{one.system}, {escape(title)}: worse than it has to be")
    return 1 if failed else 0


def train_ours(plan: Plan) -> Ours:
    """Train a plan as it ships and hold it to its bar."""
    torch.set_num_threads(1)
    fitted = recipe.train(plan)
    bar = bar_of(plan.name, fitted)
    figure, limit = bar.measure(fitted), bar.limit(fitted)
    return Ours(plan.name, fitted.scores, bar.words, figure, limit, bar.higher_is_better, fitted.seconds)


def source_plan(plan: Plan, published: Published, seed: int) -> Plan:
    """The plan that a published recipe is trained by: its own network and fit, a seed for table and weights."""
    table = {"dataset": published.dataset or plan.table.dataset, "rows": published.rows}
    return plan.model_copy(
        update={
            "table": plan.table.model_copy(update=table),
            "net": published.net,
            "fit": published.fit.model_copy(update={"seed": seed}),
            "published": (),
        }
    )


def _jobs(plan: Plan) -> Iterable[Plan]:
    return (source_plan(plan, one, seed) for one in plan.published for seed in range(one.seeds))


def _scores(plan: Plan) -> Mapping[Part, Scores] | None:
    """The scores of one fit; None where it diverged."""
    torch.set_num_threads(1)
    try:
        return recipe.train(plan).scores
    except Diverged:
        return None


def _reproductions(plan: Plan, scores: Mapping[str, Callable[[], Mapping[Part, Scores] | None]]) -> list[Reproduction]:
    done = []
    for published in plan.published:
        figures = []
        for seed in range(published.seeds):
            of_parts = scores[source_plan(plan, published, seed).model_dump_json()]()
            metric = published.metric or MAIN[plan.task or "regression"]
            worst = -np.inf if published.higher_is_better else np.inf
            figures.append(worst if of_parts is None else _known(of_parts[published.part].metrics[metric]))
        done.append(Reproduction(plan.name, published, tuple(figures)))
    return done


def _known(figure: float | None) -> float:
    return np.nan if figure is None else figure


# ------------------------------------------------------------------------------------------------ the table


def table(results: Iterable[tuple[Sequence[Reproduction], Ours]]) -> Table:
    """What was published, what its recipe gave here, and what ours gives in the same measure; then each bar."""
    drawn = Table(title="Founding systems: source, reproduction, ours")
    for column in ("system", "recipe", "measure"):
        drawn.add_column(column)
    for column in ("published", "reproduced: median \\[min, max]", "seeds", "ours"):
        drawn.add_column(column, justify="right")
    drawn.add_column("")
    for reproduced, own in results:
        for number, one in enumerate(reproduced):
            part, metric = one.published.part, one.published.metric
            drawn.add_row(
                one.system if number == 0 else "",
                escape(one.published.title),
                f"{metric}, {part}",
                "none" if one.published.figure is None else shown(one.published.figure),
                f"{shown(one.median)} \\[{shown(min(one.figures))}, {shown(max(one.figures))}]",
                str(len(one.figures)),
                shown(_known(own.scores[part].metrics.get(metric or ""))),
                _verdict(one),
            )
        limit = f"{'at least' if own.higher_is_better else 'at most'} {shown(own.limit)}"
        title = f"ours, {own.seconds:.1f} s"
        system = "" if reproduced else own.system
        drawn.add_row(system, title, own.words, limit, "", "1", shown(own.figure), _verdict(own), end_section=True)
    return drawn


def shown(figure: float) -> str:
    """A figure with four digits that count: 0.9823, 0.000577, 6.954."""
    if not np.isfinite(figure):
        return "diverged" if np.isinf(figure) else "undefined"
    return f"{figure:.4g}" if figure == 0 or abs(figure) >= 1e-4 else f"{figure:.2e}"


def _verdict(one: Reproduction | Ours) -> str:
    return "[bold red]worse" if one.is_worse else "[green]ok"


if __name__ == "__main__":
    sys.exit(reproduce(sys.argv[1:]))
