"""Weights from rows: one member, several, and the choice between them.

`fit` is the loop. It prints nothing and saves nothing: it reports an `Epoch` after each pass and hands back a member
with the history of its fit. Everything random comes from the seed, so one seed gives one set of weights on one device.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.errors import RowcastError
from training.checkpoint import Checkpoint
from training.plan import FitPlan, Loss

Rows = tuple[Tensor, Tensor]
"""The preprocessed matrix [N, width] and the targets: float32 [N, K], or class codes int64 [N]."""

Objective = Callable[[Tensor, Tensor], Tensor]
"""Raw outputs and targets to their mean loss."""

LARGE = 1 << 30
"""Multiplications in one minibatch from which more threads than one are used.

Measured on 2 cores that others were using too, microseconds a step with one thread and with two: 1,020 and 5,600
(10-256-256-1, batch 32), 2,900 and 8,300 (2-100-100-1, batch 1000), 30,000 and 108,000 (30-256-256-1, batch 4096): each
barrier waits for the busiest core. One thread also gives the same weights on machines of any number of cores.
"""


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
    plan = plan.for_rows(len(train[0]))
    assert plan.epochs is not None
    assert plan.batch is not None
    seed = plan.seed if seed is None else seed
    checkpoint = checkpoint or Checkpoint()
    with _seeded(seed):
        net = make_net().to(train[0].device)
        optimizer = make_optimizer(plan, net)
        best = Epoch(0, math.inf, math.inf, 0.0)
        best_weights = net.state_dict()
        history: list[Epoch] = []
        if (kept := checkpoint.load(f"member-{seed}")) is not None:
            net.load_state_dict(kept["weights"])
            optimizer.load_state_dict(kept["optimizer"])
            history = [Epoch(**fields) for fields in kept["history"]]
            best, best_weights = Epoch(**kept["best"]), kept["best_weights"]
            torch.set_rng_state(kept["random"])
        is_over = bool(history) and _is_over(plan, history[-1], best)
        with _threads_for(net, min(plan.batch or len(train[0]), len(train[0]))):
            for number in range(len(history) + 1, plan.epochs + 1):
                if is_over:
                    break
                start = time.perf_counter()
                train_loss = _one_pass(net, train, optimizer, objective, plan=plan, number=number)
                seconds = time.perf_counter() - start
                epoch = Epoch(number, train_loss, mean_loss(net, validation, objective), len(train[0]) / seconds)
                history.append(epoch)
                report(epoch)
                _check(epoch)
                if epoch.validation_loss < best.validation_loss:
                    best, best_weights = epoch, copy.deepcopy(net.state_dict())
                is_over = _is_over(plan, epoch, best)
                checkpoint.save(
                    f"member-{seed}",
                    lambda best=best, best_weights=best_weights: {  # type: ignore[misc]  # mypy cannot infer these
                        "weights": net.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "history": [asdict(epoch) for epoch in history],
                        "best": asdict(best),
                        "best_weights": best_weights,
                        "random": torch.get_rng_state(),
                    },
                    is_final=is_over or number == plan.epochs,
                )
    if plan.keep == "best":
        net.load_state_dict(best_weights)
    chosen = best if plan.keep == "best" else history[-1]
    return Member(net.eval(), tuple(history), chosen.validation_loss)


def _is_over(plan: FitPlan, epoch: Epoch, best: Epoch) -> bool:
    return plan.patience > 0 and epoch.number - best.number >= plan.patience


def _one_pass(
    net: nn.Module, train: Rows, optimizer: torch.optim.Optimizer, objective: Objective, *, plan: FitPlan, number: int
) -> float:
    """One step per minibatch over all rows; their mean loss."""
    x, y = train
    batch = plan.batch or len(x)
    if plan.shuffle and batch < len(x):  # rows are gathered once, minibatches are slices of that
        order = torch.randperm(len(x), device=x.device)
        x, y = x[order], y[order]
    net.train()
    total = torch.zeros((), device=x.device)
    steps = math.ceil(len(x) / batch)
    for step, start in enumerate(range(0, len(x), batch)):
        if plan.schedule == "cosine":
            assert plan.epochs is not None
            _set_rate(optimizer, plan.learning_rate * _cosine((number - 1 + step / steps) / plan.epochs))
        rows = slice(start, start + batch)
        loss = objective(net(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        total += loss.detach() * len(x[rows])
    return float(total) / len(x)


def mean_loss(net: nn.Module, rows: Rows, objective: Objective, most: int = 1 << 16) -> float:
    """The loss over all rows with the weights at rest, `most` rows at a time."""
    x, y = rows
    net.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(x), most):
            part = slice(start, start + most)
            total += float(objective(net(x[part]), y[part])) * len(x[part])
    return total / max(len(x), 1)


def _check(epoch: Epoch) -> None:
    for name, loss in (("training loss", epoch.train_loss), ("validation loss", epoch.validation_loss)):
        if not math.isfinite(loss):
            raise Diverged(epoch.number, f"{name} is {loss}")


# ------------------------------------------------------------------------------------------------ many members


def fit_members(
    plan: FitPlan,
    make_net: Callable[[], nn.Module],
    train: Rows,
    validation: Rows,
    objective: Objective,
    *,
    report: Callable[[int, Epoch], object],
    checkpoint: Checkpoint | None = None,
) -> list[Member]:
    """As many members as the plan says, each from its own seed; `report` is given the member's number, from 0.

    Raises:
        Diverged: a member's loss is not finite.
    """
    plan = plan.for_rows(len(train[0]))
    assert plan.members is not None

    def one(number: int) -> Member:
        # member 0 has the plan's own seed; neighbouring plans share no other
        seed = plan.seed + 1_000_003 * number
        return fit(
            plan,
            make_net,
            train,
            validation,
            objective,
            report=lambda epoch: report(number, epoch),
            seed=seed,
            checkpoint=checkpoint,
        )

    return [one(number) for number in range(plan.members)]


def choose(
    members: Sequence[Member],
    linear: Sequence[Member],
    averaged: int,
    loss_of: Callable[[Sequence[Member]], float],
) -> list[Member]:
    """What is published, chosen on the validation rows: the best members, a linear model, or all of these averaged.

    `loss_of` is the validation loss of the average of some members.
    """
    best = sorted(members, key=lambda member: member.validation_loss)[:averaged]
    ways = [best]
    if linear:
        line = min(linear, key=lambda member: member.validation_loss)
        ways += [[line], [*best, line]]
    if len(ways) == 1:
        return best
    return min(ways, key=loss_of)


# ------------------------------------------------------------------------------------------------ losses


def objective_of(loss: Loss) -> Objective:
    """The loss as a function of raw outputs [N, outputs] and targets; binary nets have one output or two."""
    return _OBJECTIVES[loss]


def _binary_cross_entropy(raw: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(raw[:, 0], y.to(raw.dtype))


def _probability_l1(raw: Tensor, y: Tensor) -> Tensor:
    """Mean absolute error of the probabilities, as the source of `survival` has it."""
    if raw.shape[1] == 1:
        return (torch.sigmoid(raw[:, 0]) - y).abs().mean()
    return (torch.softmax(raw, 1) - functional.one_hot(y, raw.shape[1])).abs().mean()


_OBJECTIVES: dict[Loss, Objective] = {
    "mse": functional.mse_loss,
    "l1": functional.l1_loss,
    "cross_entropy": functional.cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "probability_l1": _probability_l1,
}


# ------------------------------------------------------------------------------------------------ how it runs


def choose_device() -> torch.device:
    """CUDA where there is a GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The GPU's name, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def make_optimizer(plan: FitPlan, net: nn.Module) -> torch.optim.Optimizer:
    """The plan's optimizer over all weights; weight decay is AdamW's and spares vectors, which are biases.

    Adam is the fused one: 1.02 ms a step of 10-256-256-1 with batch 32, against 1.27 (foreach) and 1.85 (a loop).
    """
    weights = list(net.parameters())
    rate = plan.learning_rate
    if plan.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=rate, momentum=plan.momentum)
    if plan.optimizer == "adam":
        return torch.optim.Adam(weights, lr=rate, fused=True)
    decayed = [weight for weight in weights if weight.ndim > 1]
    spared = [weight for weight in weights if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, fused=True)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let torch's generators begin at the seed, and put them back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _threads_for(net: nn.Module, batch: int) -> Iterator[None]:
    """One thread, or as many as torch has where the products are large."""
    before = torch.get_num_threads()
    weights = sum(weight.numel() for weight in net.parameters())
    if batch * weights < LARGE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
