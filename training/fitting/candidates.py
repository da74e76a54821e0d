"""The networks that are tried where a plan names none, and the recipe that fits them.

Few and different: validation chooses between them and averages what it likes. What each setting gains is in
docs/decisions/0030-default-networks.md; the recipe follows RealMLP (Holzmüller et al. 2024) and the numeric
encodings of Gorishniy et al. 2022.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from models.manifest import Task
from training.plan import FEW_ROWS, FitPlan, NetPlan, Plan


@dataclass(frozen=True)
class Candidate:
    """A network and how it is fitted.

    Attributes:
        name: what notes call it.
    """

    name: str
    net: NetPlan
    fit: FitPlan


_RECIPE: Mapping[str, object] = {
    "learning_rate": 3e-3,
    "beta2": 0.95,
    "weight_decay": 0.01,
    "label_smoothing": 0.05,
}
_NET: Mapping[str, object] = {"init": "normal", "dropout": 0.1}
_PATIENCE = 0.45
"""The share of the epochs after which a fit without a better one ends: a better one has hardly ever come later."""
_LONGER = 1.5 * 63 / 31
"""Times as many epochs for a regression beyond `FEW_ROWS` as `FitPlan.for_rows` says. Only fits that gain by them spend
them: five waves of coslog6 are 1.5 times as many, and it ends most fits before the last (docs/decisions/0093, 0102)."""
_NARROW_ROWS = 5_000
"""Rows up to which narrow layers do as well, in a quarter of the time."""


def candidates_of(plan: Plan, task: Task, rows: int) -> list[Candidate]:
    """The plan's own network where it names one or says how many to fit, else the default ones for a task and its rows.

    What the plan says of the network or the fit goes before what a candidate says.
    """
    if plan.net.hidden is not None or plan.fit.members is not None or plan.net.preprocessing == "none":
        return [Candidate("perceptron", plan.net, plan.fit)]
    width = 128 if rows <= _NARROW_ROWS else 192
    epochs = plan.fit.for_rows(rows).epochs
    assert epochs is not None
    is_long = task == "regression" and rows > FEW_ROWS
    if is_long and plan.fit.epochs is None:
        epochs = round(_LONGER * epochs)
    schedule = "coslog4" if not is_long else "coslog5" if plan.fit.epochs is not None else "coslog6"
    recipe = {
        **_RECIPE,
        "schedule": schedule,
        "dropout_ends": task == "regression",
        "epochs": epochs,
        "patience": max(1, round(_PATIENCE * epochs)),
    }
    return [
        # numbers cut at their quantiles: for what jumps and bends, as trees see it
        _candidate(plan, recipe, "steps", {"hidden": (128, 128), "expansion": "steps", "pieces": 48}),
        # each number bent gently on its own: for what is nearly additive
        _candidate(plan, recipe, "waves", {"hidden": (128, 128), "expansion": "waves", "pieces": 16}),
        # numbers as they are: for what turns with many of them together
        _candidate(plan, recipe, "plain", {"hidden": (width,) * 3}),
    ]


def _candidate(plan: Plan, recipe: Mapping[str, object], name: str, net: Mapping[str, object]) -> Candidate:
    return Candidate(
        name,
        plan.net.model_copy(update=_unsaid({**_NET, **net}, plan.net.model_fields_set)),
        plan.fit.model_copy(update=_unsaid(recipe, plan.fit.model_fields_set)),
    )


def _unsaid(values: Mapping[str, object], said: set[str]) -> dict[str, object]:
    return {key: value for key, value in values.items() if key not in said}
