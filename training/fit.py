"""Weights from rows: one network, several in one loop, and many on all the cores.

`fit` is the loop. It prints nothing and saves nothing: it reports an `Epoch` after each pass and hands back a member
with the history of its fit. Everything random comes from the seed, so one seed gives one set of weights on one device.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from models.errors import RowcastError
from training.checkpoint import Checkpoint, State
from training.expansions import Expansion
from training.losses import Objective
from training.plan import FitPlan
from training.step import Stepper

Rows = tuple[Tensor, Tensor]
"""The preprocessed matrix [N, width] and the targets: float32 [N, K], or class codes int64 [N]."""

LARGE = 1 << 30
"""Multiplications in one minibatch from which a single fit uses more threads than one.

Measured on 2 cores that others were using too, microseconds a step with one thread and with two: 1,020 and 5,600
(10-256-256-1, batch 32), 2,900 and 8,300 (2-100-100-1, batch 1000), 30,000 and 108,000 (30-256-256-1, batch 4096): each
barrier waits for the busiest core. One thread also gives the same weights on machines of any number of cores.
"""
MOST_EXPANDED = 1 << 26
"""Numbers of an expanded matrix (256 MiB) up to which it is kept for the whole fit; larger, each minibatch expands."""


class Diverged(RowcastError):  # noqa: N818 - it says what the fit did
    """A loss is no longer a number.

    Attributes:
        epoch: the pass in which it happened.
        loss: which loss, and what it is.
    """

    code = "fit_diverged"

    def __init__(self, epoch: int, loss: str) -> None:
        super().__init__(epoch, loss)
        self.epoch, self.loss = epoch, loss

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
    """

    plan: FitPlan
    net: nn.Sequential
    train: Rows
    validation: Rows
    seed: int
    key: str

    @classmethod
    def of(
        cls,
        plan: FitPlan,
        make_net: Callable[[], nn.Module],
        train: Rows,
        validation: Rows,
        seed: int | None = None,
        *,
        key: str = "alone",
    ) -> Self:
        """A job whose network is drawn from its seed, by default the plan's."""
        seed = plan.seed if seed is None else seed
        with _seeded(seed):
            net = make_net().to(train[0].device)
        net = net if isinstance(net, nn.Sequential) else nn.Sequential(net)
        return cls(plan.for_rows(len(train[0])), net, train, validation, seed, key)


def fit(
    plan: FitPlan,
    make_net: Callable[[], nn.Module],
    train: Rows,
    validation: Rows,
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

    A step takes a minibatch of each. All see as many rows an epoch as the one with the fewest; the device is asked for
    figures once an epoch, never within one.

    Raises:
        Diverged: a loss is not finite.
    """
    plan, rows = jobs[0].plan, min(len(job.train[0]) for job in jobs)
    assert plan.epochs is not None
    checkpoint = checkpoint or Checkpoint()
    generators = [torch.Generator(job.train[0].device).manual_seed(job.seed) for job in jobs]
    learned, trains, validations = zip(*(_without_expansion(job) for job in jobs), strict=True)
    step = Stepper(learned, plan, objective, generators[0])
    courses = [Course(plan) for _ in jobs]
    if (kept := checkpoint.load(jobs[0].key)) is not None:
        _restore(kept, step, courses, generators)
    with _flushing_denormals():
        for number in range(len(courses[0].history) + 1, plan.epochs + 1):
            if all(course.is_over for course in courses):
                break
            start = time.perf_counter()
            drawn = [_drawn(train, rows, plan, own) for train, own in zip(trains, generators, strict=True)]
            x, y = (torch.stack(column) for column in zip(*drawn, strict=True))  # [K, N, width], [K, N, ...]
            losses = _one_pass(step, x, y, plan, number)
            seconds = time.perf_counter() - start
            for k, (net, validation) in enumerate(zip(learned, validations, strict=True)):
                epoch = Epoch(number, losses[k], mean_loss(net, validation, objective), rows / seconds)
                report(k, epoch)
                courses[k].take(epoch, step.weights[k])
            is_final = number == plan.epochs or all(course.is_over for course in courses)
            checkpoint.save(jobs[0].key, lambda: _state(step, courses, generators), is_final=is_final)
    for k, course in enumerate(courses):
        step.weights[k] = course.weights(step.weights[k])
    return [
        Member(job.net.eval(), tuple(course.history), course.kept.validation_loss)
        for job, course in zip(jobs, courses, strict=True)
    ]


def _state(step: Stepper, courses: Sequence["Course"], generators: Sequence[torch.Generator]) -> State:
    return {
        "step": step.state(),
        "courses": [course.state() for course in courses],
        "random": [generator.get_state() for generator in generators],
    }


def _restore(state: State, step: Stepper, courses: Sequence["Course"], generators: Sequence[torch.Generator]) -> None:
    step.restore(state["step"])
    for course, kept in zip(courses, state["courses"], strict=True):
        course.restore(kept, step.weights.device)
    for generator, kept in zip(generators, state["random"], strict=True):
        generator.set_state(kept)


def _drawn(train: Rows, rows: int, plan: FitPlan, generator: torch.Generator) -> Rows:
    """The rows of one epoch in their order: gathered once, so that minibatches are slices."""
    x, y = train
    if not plan.shuffle or plan.batch == 0 or rows <= (plan.batch or rows):
        return x[:rows], y[:rows]
    order = torch.randperm(len(x), generator=generator, device=x.device)[:rows]
    return x.index_select(0, order), y.index_select(0, order)  # a third of the time of x[order]


@torch.inference_mode()  # a step needs nothing that autograd does for each of its operators
def _one_pass(step: Stepper, x: Tensor, y: Tensor, plan: FitPlan, number: int) -> list[float]:
    """One step per minibatch over all rows; the mean loss of each network."""
    assert plan.epochs is not None
    rows = x.shape[1]
    batch = min(plan.batch or rows, rows)
    total = torch.zeros(len(x), device=x.device)
    steps = math.ceil(rows / batch)
    for count, start in enumerate(range(0, rows, batch)):
        rate = plan.learning_rate * SCHEDULES[plan.schedule]((number - 1 + count / steps) / plan.epochs)
        part = slice(start, start + batch)
        total += step(x[:, part], y[:, part], rate) * min(batch, rows - start)
    return [float(loss) for loss in (total / rows).tolist()]


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    # four cosine waves, each twice as long as the last (RealMLP, Holzmüller et al. 2024, section 3)
    "coslog4": lambda share: 0.5 * (1 - math.cos(2 * math.pi * math.log2(1 + 15 * share))),
}
"""The share of the learning rate after a share of the fit."""


def mean_loss(net: nn.Module, rows: Rows, objective: Callable[[Tensor, Tensor], Tensor], most: int = 1 << 16) -> float:
    """The loss over all rows with the weights at rest, `most` rows at a time."""
    x, y = rows
    net.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(x), most):
            part = slice(start, start + most)
            total += float(objective(net(x[part]), y[part])) * len(x[part])
    return total / max(len(x), 1)


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

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {"history": [asdict(e) for e in self.history], "best": asdict(self._best), "weights": self._best_weights}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from a state."""
        self.history = [Epoch(**fields) for fields in state["history"]]
        self._best = Epoch(**state["best"])
        self._best_weights = None if state["weights"] is None else state["weights"].to(device)

    @property
    def is_over(self) -> bool:
        """Whether the patience is at its end."""
        patience = self._plan.patience
        return patience > 0 and len(self.history) - self._best.number >= patience

    @property
    def kept(self) -> Epoch:
        """The epoch whose weights are kept."""
        return self._best if self._plan.keep == "best" else self.history[-1]

    def weights(self, last: Tensor) -> Tensor:
        """The weights that are kept, given the last."""
        return last if self._best_weights is None else self._best_weights


def _without_expansion(job: Job) -> tuple[nn.Sequential, Rows, Rows]:
    """The layers that learn, and the rows as those read them: no weight changes what an expansion answers."""
    first, *others = job.net
    if not isinstance(first, Expansion) or len(job.train[0]) * (first.plain + first.pieces) > MOST_EXPANDED:
        return job.net, job.train, job.validation
    with torch.no_grad():
        train, validation = ((first(x), y) for x, y in (job.train, job.validation))
    return nn.Sequential(*others), train, validation


# ------------------------------------------------------------------------------------------------ many fits


def fit_all(
    jobs: Sequence[Job],
    objective: Objective,
    *,
    report: Callable[[int, Epoch], object],
    checkpoint: Checkpoint | None = None,
) -> list[Member | Diverged]:
    """Fit every job in the way that suits the device; `report` is told which, from 0.

    On a GPU jobs of one plan and shape go together, which a single small network could not fill. On a CPU they go side
    by side, one thread each: 8 networks in one loop took longer there than 8 loops (docs/decisions).
    """
    if jobs and jobs[0].train[0].device.type == "cuda":
        return _fit_stacked(jobs, objective, report, checkpoint)
    threads = torch.get_num_threads()
    given_up = threading.Event()

    def one(number: int) -> Member | Diverged:
        def told(_: int, epoch: Epoch) -> None:
            if given_up.is_set():
                raise CancelledError
            report(number, epoch)

        try:
            (member,) = fit_together([jobs[number]], objective, report=told, checkpoint=checkpoint)
        except Diverged as error:
            return error
        except BaseException:
            given_up.set()
            raise
        return member

    if len(jobs) == 1:
        with _threads(threads if _is_large(jobs[0]) else 1):
            return [one(0)]
    with _threads(1), ThreadPoolExecutor(min(threads, max(len(jobs), 1))) as pool:
        fits = [pool.submit(one, number) for number in range(len(jobs))]
        try:
            wait(fits)
        except BaseException:  # an interrupt: no fit goes on for longer than its epoch
            given_up.set()
            raise
    errors = [error for fit in fits if (error := fit.exception()) is not None]
    # what ended the others comes first
    for error in sorted(
        errors, key=lambda error: isinstance(error, CancelledError)
    ):  # what ended the others comes first
        raise error
    return [fit.result() for fit in fits]


def _fit_stacked(
    jobs: Sequence[Job],
    objective: Objective,
    report: Callable[[int, Epoch], object],
    checkpoint: Checkpoint | None,
) -> list[Member | Diverged]:
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, job in enumerate(jobs):
        shape = tuple((name, weight.shape) for name, weight in job.net.named_parameters())
        groups.setdefault((job.plan, shape), []).append(number)
    fitted: dict[int, Member | Diverged] = {}
    for numbers in groups.values():
        try:
            members: Sequence[Member | Diverged] = fit_together(
                [jobs[number] for number in numbers],
                objective,
                report=lambda k, epoch, numbers=numbers: report(numbers[k], epoch),  # type: ignore[misc]
                checkpoint=checkpoint,
            )
        except Diverged as error:
            members = [error] * len(numbers)
        fitted |= dict(zip(numbers, members, strict=True))
    return [fitted[number] for number in range(len(jobs))]


def choose_device() -> torch.device:
    """CUDA where there is a GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The GPU's name, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


# ------------------------------------------------------------------------------------------------ what stays as it was


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let torch's generators begin at the seed, and put them back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _is_large(job: Job) -> bool:
    weights = sum(weight.numel() for weight in job.net.parameters())
    return (job.plan.batch or len(job.train[0])) * weights >= LARGE


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _flushing_denormals() -> Iterator[None]:
    """Adam's moments of dead units become numbers so small that a CPU handles each of them in microcode."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
