"""Many networks become one: candidates are fitted on the folds, and what they answer for rows they never saw chooses.

The held-out answers serve three times: to stop each network at its best epoch, to weigh the candidates, and to fit the
temperature. Each use has few degrees of freedom (an epoch, a handful of weights, one number), so what they flatter is
small; the test part, used for none, says how small.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.fitting.fit import Member

Answers = npt.NDArray[np.float64]
"""Of R held-out rows: predictions [R, K] in the units of the fit, or probabilities [R, C]."""

ROUNDS = 12
"""How often the average grows: shares are then whole twelfths at the finest."""


@dataclass(frozen=True)
class Unit:
    """What is chosen as a whole: the networks of one candidate, or the linear model.

    Attributes:
        name: what notes call it.
        members: the networks, which count alike.
        answers: of the held-out rows, each by networks that were not fitted on it.
    """

    name: str
    members: list[Member]
    answers: Answers


@dataclass(frozen=True)
class Choice:
    """What is published.

    Attributes:
        shares: how much each unit counts, by name.
        members, weights: the networks of these units, and how much each counts.
        answers: of the held-out rows, by the weighted average.
    """

    shares: dict[str, float]
    members: list[Member]
    weights: list[float]
    answers: Answers

    def __str__(self) -> str:
        told = ", ".join(f"{share:.0%} {name}" for name, share in self.shares.items())
        return f"chosen by the held-out rows: {told}"


def choose(units: Sequence[Unit], y: npt.NDArray[np.float32 | np.int64]) -> Choice:
    """The average of some units, weighted, with the smallest loss on the held-out rows.

    Greedy forward selection with replacement (Caruana et al. 2004, section 2): the average grows by the unit that makes
    its loss smallest, `ROUNDS` times, and the best average on the way is taken. The loss is the mean squared error of
    predictions, the log loss of probabilities.

    Shape:
        y: targets [R, K] of predictions, class codes [R] of probabilities
    """
    counts = np.zeros(len(units))
    total = np.zeros_like(units[0].answers)
    best, best_counts = np.inf, counts
    for size in range(1, ROUNDS + 1):
        losses = [loss_of((total + unit.answers) / size, y) for unit in units]
        place = int(np.argmin(losses))
        total = total + units[place].answers
        counts = counts + (np.arange(len(units)) == place)
        if losses[place] < best:
            best, best_counts = losses[place], counts
    shares = {unit.name: count / best_counts.sum() for unit, count in zip(units, best_counts, strict=True) if count}
    counted = [unit for unit in units if unit.name in shares]
    return Choice(
        shares,
        [member for unit in counted for member in unit.members],
        [shares[unit.name] / len(unit.members) for unit in counted for _ in unit.members],
        np.sum([shares[unit.name] * unit.answers for unit in counted], axis=0),
    )


def loss_of(answers: Answers, y: npt.NDArray[np.float32 | np.int64]) -> float:
    """The mean squared error of predictions [R, K], the log loss of probabilities [R, C]."""
    if y.ndim == 2:
        return float(np.square(answers - y).mean())
    return float(-np.log(np.maximum(answers[np.arange(len(y)), y], 1e-12)).mean())
