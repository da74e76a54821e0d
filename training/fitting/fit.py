"""Weights from rows: one network, or several in one loop.

`fit` is the loop. It prints nothing and saves nothing: it reports an `Epoch` after each pass and hands back a member
with the history of its fit. Everything random comes from the seed, so one seed gives one set of weights on one device.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from models.errors import RowcastError
from training.fitting.checkpoint import Checkpoint, State
from training.fitting.distributed import has_own_gpu
from training.fitting.graphs import Graph, GraphedStep
from training.fitting.losses import Objective
from training.fitting.step import Stepper
from training.network.expansions import Expansion
from training.plan import FitPlan

Rows = tuple[Tensor, Tensor]
"""The preprocessed matrix [N, width] and the targets: float32 [N, K], or class codes int64 [N]."""

MOST_EXPANDED = 1 << 26
"""Numbers of an expanded matrix (256 MiB) up to which it is kept for the whole fit; larger, each minibatch expands."""

WORTH_A_GPU_S = 5.0
"""Seconds of one core for a candidate's fits from which a GPU is quicker than a few cores (docs/decisions/0062)."""

BFLOAT16_FROM = 5_000_000
"""Multiplications of a product from which bfloat16 is quicker (docs/decisions/0082): smaller ones wait for oneDNN."""


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
    train: Rows
    validation: Rows
    seed: int
    key: str
    until: float = 1.0

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
        until: float = 1.0,
    ) -> Self:
        """A job whose network is drawn from its seed, by default the plan's."""
        seed = plan.seed if seed is None else seed
        with _seeded(seed):
            net = make_net().to(train[0].device)
        net = net if isinstance(net, nn.Sequential) else nn.Sequential(net)
        return cls(plan.for_rows(len(train[0])), net, train, validation, seed, key, until)


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

    Raises:
        Diverged: a loss is not finite.
    """
    fitting = Fitting(jobs, objective, report, checkpoint)
    fitting.advance()
    return fitting.members()


class Fitting:
    """Networks of one shape and one plan on their way, in one loop that can pause after any epoch.

    A step takes a minibatch of each. All see as many rows an epoch as the one with the fewest; the device is asked for
    figures once an epoch, never within one.
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
        self._checkpoint = checkpoint or Checkpoint()
        self._generators = [torch.Generator(job.train[0].device).manual_seed(job.seed) for job in jobs]
        self._learned, self._trains, self._validations = zip(*(_without_expansion(job) for job in jobs), strict=True)
        self._device = jobs[0].train[0].device
        large = bfloat16_from(self._device, min(self._plan.batch or self._rows, self._rows))
        self._step = Stepper(self._learned, self._plan, objective, self._generators[0], bfloat16_from=large)
        self._move: Move = self._step
        self._judged: Callable[[], Tensor] = self._validation_losses
        if self._device.type == "cuda":
            self._move = GraphedStep(self._step, self._generators[0])
        self._courses = [Course(self._plan) for _ in jobs]
        if (kept := self._checkpoint.load(jobs[0].key)) is not None:
            self.restore(kept)

    def advance(self, share: float = 1.0) -> None:
        """Go on until this share of the plan's epochs, or of the job's where it ends earlier, is behind.

        Raises:
            Diverged: a loss is not finite.
        """
        last = self._epochs(1.0)
        with _fast_arithmetic(self._device):
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
            course.restore(kept, self._step.weights.device)
        for generator, kept in zip(self._generators, state["random"], strict=True):
            generator.set_state(kept)

    def _epochs(self, share: float) -> int:
        assert self._plan.epochs is not None
        return max(1, round(min(share, self._jobs[0].until) * self._plan.epochs))

    def _one_epoch(self, number: int) -> None:
        start = time.perf_counter()
        drawn = [
            _drawn(train, self._rows, self._plan, own)
            for train, own in zip(self._trains, self._generators, strict=True)
        ]
        x, y = (_stacked(list(column)) for column in zip(*drawn, strict=True))  # [K, N, width], [K, N, ...]
        losses = _one_pass(self._move, x, y, self._plan, number)
        seconds = time.perf_counter() - start
        for k, validation_loss in enumerate(self._judge()):
            epoch = Epoch(number, losses[k], validation_loss, self._rows / seconds)
            self._report(k, epoch)
            self._courses[k].take(epoch, self._step.weights[k])

    def _judge(self) -> list[float]:
        """The loss of each network over its validation rows."""
        if self._device.type == "cuda" and not isinstance(self._judged, Graph):
            self._judged = Graph(self._validation_losses, (), self._device)
        return [float(loss) for loss in self._judged().tolist()]

    @torch.inference_mode()
    def _validation_losses(self) -> Tensor:
        pairs = zip(self._learned, self._validations, strict=True)
        return torch.stack([_mean_loss(net, rows, self._objective) for net, rows in pairs])


Move = Callable[[Tensor, Tensor, float], Tensor]
"""Takes a step: minibatches of K networks and a rate -> their rows' losses [K, 1 or outputs, N]."""


def _drawn(train: Rows, rows: int, plan: FitPlan, generator: torch.Generator) -> Rows:
    """The rows of one epoch in their order: gathered once, so that minibatches are slices."""
    x, y = train
    if not plan.shuffle or plan.batch == 0 or rows <= (plan.batch or rows):
        return x[:rows], y[:rows]
    order = torch.randperm(len(x), generator=generator, device=x.device)[:rows]
    return x.index_select(0, order), y.index_select(0, order)  # a third of the time of x[order]


def _stacked(column: list[Tensor]) -> Tensor:
    return torch.stack(column) if len(column) > 1 else column[0].unsqueeze(0)  # one network's rows need no copy


@torch.inference_mode()  # a step needs nothing that autograd does for each of its operators
def _one_pass(step: Move, x: Tensor, y: Tensor, plan: FitPlan, number: int) -> list[float]:
    """One step per minibatch over all rows; the mean loss of each network."""
    assert plan.epochs is not None
    rows = x.shape[1]
    batch = min(plan.batch or rows, rows)
    minibatches = list(zip(torch.split(x, batch, 1), torch.split(y, batch, 1), strict=True))
    losses = []
    for count, (some_x, some_y) in enumerate(minibatches):
        rate = plan.learning_rate * SCHEDULES[plan.schedule]((number - 1 + count / len(minibatches)) / plan.epochs)
        losses.append(step(some_x, some_y, rate))
    return [float(loss) for loss in torch.cat(losses, 2).mean((1, 2)).tolist()]


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    # four cosine waves, each twice as long as the last (RealMLP, Holzmüller et al. 2024, section 3)
    "coslog4": lambda share: 0.5 * (1 - math.cos(2 * math.pi * math.log2(1 + 15 * share))),
}
"""The share of the learning rate after a share of the fit."""

CYCLES: dict[str, tuple[float, ...]] = {"coslog4": (1 / 15, 3 / 15, 7 / 15, 1.0)}
"""The shares of the fit at which a schedule's rate is back at zero: the weights are at rest and can be compared."""


def worth(plan: FitPlan, member: Member) -> float:
    """The share of the fit whose last cycle had the member's best epoch: what came after it was in vain."""
    best = min(member.history, key=lambda epoch: epoch.validation_loss).number
    shares = CYCLES.get(plan.schedule, (1.0,))
    return next(share for share, end in zip(shares, cycle_ends(plan), strict=True) if best <= end)


def cycle_ends(plan: FitPlan) -> tuple[int, ...]:
    """The epochs that end a cycle of the schedule, the last among them."""
    assert plan.epochs is not None
    return tuple(max(1, round(share * plan.epochs)) for share in CYCLES.get(plan.schedule, (1.0,)))


def mean_loss(net: nn.Module, rows: Rows, objective: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The loss over all rows with the weights at rest."""
    with torch.no_grad():
        return float(_mean_loss(net, rows, objective))


def _mean_loss(net: nn.Module, rows: Rows, objective: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The same as a number on the device, float64."""
    x, y = rows
    most = 1 << 16 if x.device.type == "cuda" else 1 << 11  # on a CPU so many as its cache holds the activations of
    net.eval()
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for start in range(0, len(x), most):
        part = slice(start, start + most)
        total += objective(net(x[part]), y[part]).double() * len(x[part])
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
        """Whether the patience is at its end, or a whole cycle of the schedule has brought nothing better."""
        patience, done = self._plan.patience, len(self.history)
        if patience == 0:
            return False
        earlier = [end for end in cycle_ends(self._plan) if end < done]
        brought_nothing = done in cycle_ends(self._plan) and bool(earlier) and self._best.number <= earlier[-1]
        return brought_nothing or done - self._best.number >= patience

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


def choose_device(seconds: float = math.inf) -> torch.device:
    """CUDA where there is a GPU and fits of so many seconds of one core are worth its start, else the CPU."""
    return torch.device("cuda" if seconds >= WORTH_A_GPU_S and has_own_gpu() else "cpu")


def bfloat16_from(device: torch.device, rows: int) -> float:
    """Weights of a layer from which minibatches of so many rows take less time in bfloat16; infinite where none do.

    A CPU without instructions for it would emulate them; a GPU has TF32 (docs/decisions/0062).
    """
    has_instructions = device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16")
    return BFLOAT16_FROM / rows if has_instructions else math.inf


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


@contextlib.contextmanager
def _fast_arithmetic(device: torch.device) -> Iterator[None]:
    """No denormals on a CPU, products in TF32 on a GPU.

    Adam's moments of dead units become numbers so small that a CPU handles each of them in microcode. TF32 keeps 10
    bits of each factor and sums in float32: half of a wide network's time, and losses agree (docs/decisions/0062).
    """
    precision = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_float32_matmul_precision(precision)
