"""Weights from rows: one network is fitted, or several of one shape side by side in one loop.

Read from the top: a `Job` says what is to be fitted, `fit` fits one, `Fitting` is the loop. One epoch of the loop puts
the training rows in a new order, moves the weights once for each minibatch (`step.py`), asks for the loss on the
validation rows, and gives both losses to the network's `Course` (`course.py`), which keeps the best weights and says
when to end.

`fit` prints nothing and saves nothing: it reports an `Epoch` after each pass and hands back a `Member` with the history
of its fit. Everything random comes from the seed, so one seed gives one set of weights on one device.

Shape:
    K networks, of which each has its own N training rows. A minibatch is n of them.
    x: [N, width] of one network, [K, n, width] in a step
    y: [N, outputs] of a regression, class codes [N] of a classification; [K, n, ...] in a step
    weights: [K, P], every parameter of a network in one line
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from training.fitting.checkpoint import Checkpoint, State
from training.fitting.course import SCHEDULES, Course, Epoch, useful_share
from training.fitting.device import bfloat16_from, fast_arithmetic, seeded
from training.fitting.graphs import Graph, GraphedStep
from training.fitting.losses import Objective
from training.fitting.step import Stepper
from training.network.expansions import Expansion
from training.plan import FitPlan

TensorRows = tuple[Tensor, Tensor]
"""The preprocessed matrix [N, width] and the targets: float32 [N, outputs], or class codes int64 [N]."""

MOST_EXPANDED = 1 << 26
"""Numbers of an expanded matrix (256 MiB) up to which it is kept for the whole fit; larger, each minibatch expands."""

Move = Callable[[Tensor, Tensor, float], Tensor]
"""Takes a step: minibatches x and y of K networks and a learning rate -> the losses of their rows."""


@dataclass(frozen=True)
class Member:
    """A fitted network.

    Attributes:
        net: the preprocessed matrix [N, width] to raw outputs [N, outputs].
        history: every epoch of the fit; empty where the weights were solved for.
        validation_loss: of the weights that were kept.
    """

    net: nn.Module
    history: tuple[Epoch, ...]
    validation_loss: float


@dataclass(frozen=True)
class Job:
    """A network to be fitted.

    Attributes:
        net: a perceptron with fresh weights, on the device of the rows.
        train: what it is fitted on.
        validation: what says which of its epochs was best.
        seed: of the order of the rows and of dropout.
        key: what its state is kept under; no other job of the run has it.
        until: the share of the plan's epochs after which it ends.
    """

    plan: FitPlan
    net: nn.Sequential
    train: TensorRows
    validation: TensorRows
    seed: int
    key: str
    until: float = 1.0

    @classmethod
    def of(
        cls,
        plan: FitPlan,
        make_net: Callable[[], nn.Module],
        train: TensorRows,
        validation: TensorRows,
        seed: int | None = None,
        *,
        key: str = "alone",
        until: float = 1.0,
    ) -> Self:
        """A job whose network is drawn from its seed, by default the plan's."""
        seed = plan.seed if seed is None else seed
        with seeded(seed):
            net = make_net().to(train[0].device)
        net = net if isinstance(net, nn.Sequential) else nn.Sequential(net)
        return cls(plan.for_rows(len(train[0])), net, train, validation, seed, key, until)


def fit(
    plan: FitPlan,
    make_net: Callable[[], nn.Module],
    train: TensorRows,
    validation: TensorRows,
    objective: Objective,
    *,
    report: Callable[[Epoch], object] = print,
    seed: int | None = None,
    checkpoint: Checkpoint | None = None,
) -> Member:
    """Fit one network, on the device that the rows are on; from where its checkpoint is, if there is one.

    Raises:
        Diverged: a loss is not finite.
    """
    job = Job.of(plan, make_net, train, validation, seed)
    (member,) = fit_together([job], objective, report=lambda _, epoch: report(epoch), checkpoint=checkpoint)
    return member


def fit_together(
    jobs: Sequence[Job],
    objective: Objective,
    *,
    report: Callable[[int, Epoch], object],
    checkpoint: Checkpoint | None = None,
) -> list[Member]:
    """Fit networks of one shape and one plan in one loop; `report` is told which, from 0.

    Raises:
        Diverged: a loss is not finite.
    """
    fitting = Fitting(jobs, objective, report, checkpoint)
    fitting.advance()
    return fitting.members()


class Fitting:
    """Networks of one shape and one plan on their way, in one loop that can pause after any epoch.

    A step takes a minibatch of each network. All see as many rows an epoch as the one with the fewest. The device is
    asked for figures once an epoch and never within one: a GPU would stand still while Python waits for them.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        objective: Objective,
        report: Callable[[int, Epoch], object],
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """At the first epoch, or where the checkpoint of the first job is; `report` is told which network, from 0."""
        self._jobs, self._objective, self._report = jobs, objective, report
        self._plan, self._rows = jobs[0].plan, min(len(job.train[0]) for job in jobs)
        self._batch = min(self._plan.batch or self._rows, self._rows)
        self._checkpoint = checkpoint or Checkpoint()
        self._device = jobs[0].train[0].device
        self._generators = [torch.Generator(self._device).manual_seed(job.seed) for job in jobs]
        self._learned, self._trains, self._validations = zip(*(_without_expansion(job) for job in jobs), strict=True)
        large = bfloat16_from(self._device, self._batch)
        self._step = Stepper(self._learned, self._plan, objective, self._generators[0], bfloat16_from=large)
        is_gpu = self._device.type == "cuda"
        self._move: Move = GraphedStep(self._step, self._generators[0]) if is_gpu else self._step
        self._validation_graph: Graph | None = None  # on a GPU
        self._courses = [Course(self._plan) for _ in jobs]
        if (kept := self._checkpoint.load(jobs[0].key)) is not None:
            self.restore(kept)

    def advance(self, share: float = 1.0) -> None:
        """Go on until this share of the plan's epochs, or of the job's where it ends earlier, is behind.

        Raises:
            Diverged: a loss is not finite.
        """
        last = self._epochs(1.0)
        with fast_arithmetic(self._device):
            for number in range(len(self._courses[0].history) + 1, self._epochs(share) + 1):
                if all(course.is_over for course in self._courses):
                    break
                self._one_epoch(number)
                is_final = number == last or all(course.is_over for course in self._courses)
                self._checkpoint.save(self._jobs[0].key, self.state, is_final=is_final)

    def loss(self, share: float) -> float:
        """The least validation loss of any network until then, also where a checkpoint was further than that."""
        epochs = self._epochs(share)
        return min(epoch.validation_loss for course in self._courses for epoch in course.history[:epochs])

    def useful(self) -> float:
        """The share of the plan's epochs that was of use so far to any network; it only grows."""
        return max(useful_share(self._plan, course.history) for course in self._courses)

    def members(self) -> list[Member]:
        """The networks with their best weights; the fit cannot go on."""
        for k, course in enumerate(self._courses):
            self._step.weights[k] = course.weights(self._step.weights[k])
        return [
            Member(job.net.eval(), tuple(course.history), course.kept.validation_loss)
            for job, course in zip(self._jobs, self._courses, strict=True)
        ]

    def state(self) -> State:
        """All that `restore` needs."""
        return {
            "step": self._step.state(),
            "courses": [course.state() for course in self._courses],
            "random": [generator.get_state() for generator in self._generators],
        }

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self._step.restore(state["step"])
        for course, kept in zip(self._courses, state["courses"], strict=True):
            course.restore(kept, self._device)
        for generator, kept in zip(self._generators, state["random"], strict=True):
            generator.set_state(kept)

    def _epochs(self, share: float) -> int:
        assert self._plan.epochs is not None
        return max(1, round(min(share, self._jobs[0].until) * self._plan.epochs))

    def _one_epoch(self, number: int) -> None:
        start = time.perf_counter()
        drawn = [self._drawn(*pair) for pair in zip(self._trains, self._generators, strict=True)]
        x, y = (_stacked(list(column)) for column in zip(*drawn, strict=True))  # [K, N, width], [K, N, ...]
        train_losses = self._one_pass(x, y, number)
        seconds = time.perf_counter() - start
        for k, validation_loss in enumerate(self._validation_losses()):
            epoch = Epoch(number, train_losses[k], validation_loss, self._rows / seconds)
            self._report(k, epoch)
            self._courses[k].take(epoch, self._step.weights[k])

    def _drawn(self, train: TensorRows, generator: torch.Generator) -> TensorRows:
        """The rows of one epoch in their order: gathered once, so that minibatches are slices."""
        x, y = train
        if not self._plan.shuffle or self._batch == self._rows:  # in one minibatch the order does not count
            return x[: self._rows], y[: self._rows]
        order = torch.randperm(len(x), generator=generator, device=x.device)[: self._rows]
        return x.index_select(0, order), y.index_select(0, order)  # a third of the time of x[order]

    @torch.inference_mode()  # a step needs nothing that autograd does for each of its operators
    def _one_pass(self, x: Tensor, y: Tensor, number: int) -> list[float]:
        """One step per minibatch over all rows; the mean loss of each network."""
        plan = self._plan
        assert plan.epochs is not None
        schedule = SCHEDULES[plan.schedule]
        self._step.drops = any(course.drops for course in self._courses)
        minibatches = list(zip(torch.split(x, self._batch, 1), torch.split(y, self._batch, 1), strict=True))
        losses = []
        for count, (some_x, some_y) in enumerate(minibatches):
            rate = plan.learning_rate * schedule((number - 1 + count / len(minibatches)) / plan.epochs)
            losses.append(self._move(some_x, some_y, rate))
        return [float(loss) for loss in torch.cat(losses, 2).mean((1, 2)).tolist()]

    def _validation_losses(self) -> list[float]:
        """The loss of each network over its validation rows."""
        if self._device.type == "cuda":
            self._validation_graph = self._validation_graph or Graph(self._validate, (), self._device)
            losses = self._validation_graph()
        else:
            losses = self._validate()
        return [float(loss) for loss in losses.tolist()]

    @torch.inference_mode()
    def _validate(self) -> Tensor:
        pairs = zip(self._learned, self._validations, strict=True)
        return torch.stack([_mean_loss(net, rows, self._objective) for net, rows in pairs])


def _stacked(column: list[Tensor]) -> Tensor:
    return torch.stack(column) if len(column) > 1 else column[0].unsqueeze(0)  # one network's rows need no copy


def _without_expansion(job: Job) -> tuple[nn.Sequential, TensorRows, TensorRows]:
    """The layers that learn, and the rows as those read them: no weight changes what an expansion answers."""
    first, *others = job.net
    if not isinstance(first, Expansion) or len(job.train[0]) * (first.plain + first.pieces) > MOST_EXPANDED:
        return job.net, job.train, job.validation
    with torch.no_grad():
        train, validation = ((first(x), y) for x, y in (job.train, job.validation))
    return nn.Sequential(*others), train, validation


def mean_loss(net: nn.Module, rows: TensorRows, objective: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The loss over all rows with the weights at rest."""
    with torch.no_grad():
        return float(_mean_loss(net, rows, objective))


def _mean_loss(net: nn.Module, rows: TensorRows, objective: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The same as a number on the device, float64."""
    x, y = rows
    most = 1 << 16 if x.device.type == "cuda" else 1 << 11  # on a CPU so many as its cache holds the activations of
    net.eval()
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for start in range(0, len(x), most):
        part = slice(start, start + most)
        total += objective(net(x[part]), y[part]).double() * len(x[part])
    return total / max(len(x), 1)
