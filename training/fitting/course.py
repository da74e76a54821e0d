"""The course of a fit, epoch by epoch: how its learning rate falls, which epoch was best, and when to end.

A schedule is a function of how much of the fit is behind, from 0 to 1. Those with several waves bring the rate back to
zero at the end of each: the weights are at rest there, so that fits can be compared, ended, or gone on with.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from models.errors import RowcastError
from training.plan import FitPlan


def _coslog(waves: int, share: float) -> float:
    """Cosine waves, each twice as long as the last (RealMLP, Holzmüller et al. 2024, section 3, which has four)."""
    return 0.5 * (1 - math.cos(2 * math.pi * math.log2(1 + (2**waves - 1) * share)))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "coslog4": functools.partial(_coslog, 4),
    "coslog5": functools.partial(_coslog, 5),
    "coslog6": functools.partial(_coslog, 6),
}
"""The share of the plan's learning rate after a share of the fit."""

WAVES: dict[str, tuple[float, ...]] = {
    "coslog4": (1 / 15, 3 / 15, 7 / 15, 1.0),
    "coslog5": (1 / 31, 3 / 31, 7 / 31, 15 / 31, 1.0),
    "coslog6": (1 / 63, 3 / 63, 7 / 63, 15 / 63, 31 / 63, 1.0),
}
"""The shares of the fit at which a wave of the schedule ends, its rate at zero; other schedules are one wave."""

WORTH: Mapping[str, tuple[float, ...]] = {"coslog5": (0.01,), "coslog6": (0.01, 0.05)}
"""Shares of the loss that a wave must take off for the next one, which is as long as all before it: for each of the
schedule's last waves (docs/decisions/0093, 0102)."""

STEEP = 0.2
"""Share of the loss that a wave must take off for a last one without dropout, where a plan says so."""


class Diverged(RowcastError):
    """A loss is no longer a number.

    Attributes:
        epoch: the pass in which it happened.
        loss: which loss, and what it is.
    """

    code = "fit_diverged"
    epoch: int
    loss: str

    def __str__(self) -> str:
        return f"the fit diverged: the {self.loss} in epoch {self.epoch}; lower fit.learning_rate or scale the targets"


@dataclass(frozen=True)
class Epoch:
    """One pass over the training rows.

    Attributes:
        number: from 1.
        train_loss: mean over the pass, while the weights moved.
        validation_loss: after it.
        rows_per_second: of the pass.
    """

    number: int
    train_loss: float
    validation_loss: float
    rows_per_second: float


class Course:
    """The epochs of one network: which was best and with what weights, and whether there is hope of a better one.

    Attributes:
        history: every epoch so far.
    """

    def __init__(self, plan: FitPlan) -> None:
        """Nothing has been fitted yet."""
        self._plan = plan
        self.history: list[Epoch] = []
        self._best = Epoch(0, math.inf, math.inf, 0.0)
        self._best_weights: Tensor | None = None

    def take(self, epoch: Epoch, weights: Tensor) -> None:
        """Take note of an epoch, and of the weights [P] that it ended with.

        Raises:
            Diverged: a loss is not finite.
        """
        for name, loss in (("training loss", epoch.train_loss), ("validation loss", epoch.validation_loss)):
            if not math.isfinite(loss):
                raise Diverged(epoch.number, f"{name} is {loss}")
        self.history.append(epoch)
        if epoch.validation_loss < self._best.validation_loss:
            self._best = epoch
            self._best_weights = weights.clone() if self._plan.keep == "best" else None

    @property
    def is_over(self) -> bool:
        """Whether the patience is at its end, or a wave of the schedule has brought too little for another one."""
        patience, done = self._plan.patience, len(self.history)
        if patience == 0:
            return False
        return self._has_brought_little() or done - self._best.number >= patience

    def _has_brought_little(self) -> bool:
        """Whether a wave ends here that brought nothing better, or too little for one of the schedule's last waves."""
        ends, done = wave_ends(self._plan), len(self.history)
        earlier = [end for end in ends if end < done]
        if done not in ends or not earlier:
            return False
        worth = dict(zip(reversed(ends[:-1]), reversed(WORTH.get(self._plan.schedule, ())), strict=False))
        return self._least(done) >= (1 - worth.get(done, 0.0)) * self._least(earlier[-1])

    @property
    def drops(self) -> bool:
        """Whether the dropout of the network is at work in the next epoch.

        Where it ends, it does so with a steep wave: the last but one of coslog4 and coslog5, either of the two before
        the last of coslog6. Targets whose loss falls that far are nearly a function of the features, and what dropout
        keeps from being fitted is that function (docs/decisions/0101).
        """
        ends, schedule = wave_ends(self._plan), self._plan.schedule
        if not self._plan.dropout_ends or schedule not in WAVES:
            return True
        last = range(-1 - max(1, len(WORTH.get(schedule, ()))), -1)
        behind = [wave for wave in last if ends[wave] <= len(self.history)]
        return all(self._least(ends[wave]) > (1 - STEEP) * self._least(ends[wave - 1]) for wave in behind)

    def _least(self, epochs: int) -> float:
        """The least validation loss of the first epochs."""
        return min(epoch.validation_loss for epoch in self.history[:epochs])

    @property
    def kept(self) -> Epoch:
        """The epoch whose weights are kept."""
        return self._best if self._plan.keep == "best" else self.history[-1]

    def weights(self, last: Tensor) -> Tensor:
        """The weights that are kept, given the last."""
        return last if self._best_weights is None else self._best_weights

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {"history": [asdict(e) for e in self.history], "best": asdict(self._best), "weights": self._best_weights}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from a state."""
        self.history = [Epoch(**fields) for fields in state["history"]]
        self._best = Epoch(**state["best"])
        self._best_weights = None if state["weights"] is None else state["weights"].to(device)


def wave_ends(plan: FitPlan) -> tuple[int, ...]:
    """The epochs that end a wave of the schedule, the last epoch among them."""
    assert plan.epochs is not None
    return tuple(max(1, round(share * plan.epochs)) for share in wave_shares(plan))


def useful_share(plan: FitPlan, history: Sequence[Epoch]) -> float:
    """How much of a fit was worth its time: until the end of the wave that had the best epoch."""
    best = min(history, key=lambda epoch: epoch.validation_loss).number
    return next(share for share, end in zip(wave_shares(plan), wave_ends(plan), strict=True) if best <= end)


def wave_shares(plan: FitPlan) -> tuple[float, ...]:
    """The shares of the epochs that end a wave of the schedule, 1 the last."""
    return WAVES.get(plan.schedule, (1.0,))
