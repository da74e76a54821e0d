"""A fit that can be advanced by shares, in this process or, from where it is, in another."""

import functools
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from training.fitting.checkpoint import Checkpoint
from training.fitting.course import Diverged, Epoch, wave_shares
from training.fitting.fit import Fitting, Job, Member
from training.fitting.losses import Objective
from training.plan import FitPlan

LARGE = 1 << 30
"""Multiplications in one minibatch from which a single fit uses more threads than one.

Measured on 2 cores that others were using too, microseconds a step with one thread and with two: 1,020 and 5,600
(10-256-256-1, batch 32), 2,900 and 8,300 (2-100-100-1, batch 1000), 30,000 and 108,000 (30-256-256-1, batch 4096): each
barrier waits for the busiest core. One thread also gives the same weights on machines of any number of cores.
"""
STEP_S, WEIGHT_S = 1.5e-4, 8e-11
"""Seconds that a step takes beside its products, and a row with each weight: enough to say which fit takes longer."""


def seconds_of(plan: FitPlan, rows: int, weights: int) -> float:
    """What a fit takes on one core, roughly."""
    plan = plan.for_rows(rows)
    assert plan.epochs is not None
    return plan.epochs * (rows / (plan.batch or rows) * STEP_S + rows * weights * WEIGHT_S)


_Sent = tuple[list[npt.NDArray[np.float32]], tuple[Epoch, ...], float] | Diverged
"""A member's weights, history and loss, or what became of it."""


@dataclass(frozen=True)
class Standing:
    """Where a loop is, as it travels between processes: nothing in it runs.

    Attributes:
        loss, behind, useful, results: those of the loop.
        state: as `torch.save` writes it; None before the loop has begun and once it has ended.
    """

    loss: float
    behind: float
    useful: float
    results: list[_Sent]
    state: bytes | None


class Loop:
    """Jobs that are fitted together; their fit begins when it is advanced, so that not all are in memory at once.

    Attributes:
        numbers: the jobs' places.
        results: of each, once it has ended.
        loss: the least of their validation losses until the share that was last advanced to; infinite where one
            diverged, and before.
        until: the share of the plan's epochs after which it ends.
        behind: the share that it was last advanced to.
        useful: the share that has been of use so far.
        report: is told of each epoch, and which job it is of.
        is_large: whether a fit takes less time with more threads.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        numbers: list[int],
        objective: Objective,
        report: Callable[[int, Epoch], object],
        checkpoint: Checkpoint | None,
    ) -> None:
        """Nothing has been fitted yet; `numbers` say which of the jobs are this loop's."""
        self._jobs = [jobs[number] for number in numbers]
        self.numbers, self.report, self.loss = numbers, report, math.inf
        self.results: list[Member | Diverged] = []

        def told(number: int, epoch: Epoch) -> None:
            self.report(numbers[number], epoch)

        self._begin = functools.partial(Fitting, self._jobs, objective, told, checkpoint)
        self._fitting: Fitting | None = None
        self._elsewhere: bytes | None = None
        plan, rows = self._jobs[0].plan, len(self._jobs[0].train[0])
        weights = sum(weight.numel() for weight in self._jobs[0].net.parameters())
        self.is_large = (plan.batch or rows) * weights >= LARGE
        self.until, self.behind, self.useful = self._jobs[0].until, 0.0, 0.0
        self._seconds = seconds_of(plan, rows, weights)

    @property
    def seconds(self) -> float:
        """What the epochs take, roughly, that are not behind."""
        return (self.until - self.behind) * self._seconds

    @property
    def half_way(self) -> float:
        """The share after which half of these are behind."""
        return (self.behind + self.until) / 2

    @property
    def useful_waves(self) -> list[float]:
        """The shares that end the waves of its schedule as far as these are of use, but for the first, a short one."""
        return [share for share in wave_shares(self._jobs[0].plan)[1:] if share <= self.useful]

    def advance(self, share: float) -> None:
        """Go on until this share of the plan's epochs; after its own last one the loop has ended."""
        self.behind = min(share, self.until)
        try:
            fitting = self._here()
            fitting.advance(self.behind)
            self.loss, self.useful = fitting.loss(self.behind), fitting.useful()
        except Diverged as error:
            self.results, self.loss, self._fitting = [error] * len(self.numbers), math.inf, None
            return
        if share == 1.0:
            self.end()

    def end(self) -> None:
        """Keep the best weights so far."""
        if not self.results:
            self.results, self._fitting = list(self._here().members()), None

    def _here(self) -> Fitting:
        """The fit, in this process and as far as it has come in any."""
        self._fitting = self._fitting or self._begin()
        if self._elsewhere is not None:
            self._fitting.restore(torch.load(io.BytesIO(self._elsewhere), weights_only=True))
            self._elsewhere = None
        return self._fitting

    def standing(self) -> Standing:
        """Where it is, for another process."""
        state = self._elsewhere
        if self._fitting is not None:
            torch.save(dict(self._fitting.state()), file := io.BytesIO())
            state = file.getvalue()
        sent = [_sent(result) for result in self.results]
        return Standing(self.loss, self.behind, self.useful, sent, state)

    def go_on_from(self, standing: Standing) -> None:
        """Be where it is in another process."""
        self.loss, self.behind, self.useful = standing.loss, standing.behind, standing.useful
        self._elsewhere = standing.state
        self.results = [_received(*both) for both in zip(self._jobs, standing.results, strict=False)]  # all or none


def _sent(result: Member | Diverged) -> _Sent:
    if isinstance(result, Diverged):
        return result
    return [own.detach().numpy() for own in result.net.parameters()], result.history, result.validation_loss


def _received(job: Job, sent: _Sent) -> Member | Diverged:
    if isinstance(sent, Diverged):
        return sent
    weights, history, loss = sent
    for own, weight in zip(job.net.parameters(), weights, strict=True):
        own.data = torch.from_numpy(weight)
    return Member(job.net.eval(), history, loss)
