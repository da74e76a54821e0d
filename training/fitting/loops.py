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
from training.fitting.course import Diverged, Epoch
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
        loss, results: those of the loop.
        state: as `torch.save` writes it; None before the loop has begun and once it has ended.
    """

    loss: float
    results: list[_Sent]
    state: bytes | None


class Loop:
    """Jobs that are fitted together; their fit begins when it is advanced, so that not all are in memory at once.

    Attributes:
        numbers: the jobs' places.
        results: of each, once it has ended.
        loss: the least of their validation losses until the share that was last advanced to; infinite where one
            diverged, and before.
        report: is told of each epoch, and which job it is of.
        is_large: whether a fit takes less time with more threads.
        seconds: what all its epochs take, roughly.
        half_way: the share of the plan's epochs after which half of its own are behind.
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
        self.seconds = self._jobs[0].until * seconds_of(plan, rows, weights)
        self.half_way = self._jobs[0].until / 2

    def advance(self, share: float) -> None:
        """Go on until this share of the epochs; after the last one the loop has ended."""
        try:
            self._here().advance(share)
            self.loss = self._here().loss(share)
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
        return Standing(self.loss, [_sent(result) for result in self.results], state)

    def go_on_from(self, standing: Standing) -> None:
        """Be where it is in another process."""
        self.loss, self._elsewhere = standing.loss, standing.state
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
