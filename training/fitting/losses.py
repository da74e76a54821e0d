"""The losses: what they are, and how they change with the raw outputs.

Each is the mean over the rows. `Objective.gradients` works on K networks at once, as `step.py` needs it; the
derivatives are those that `training/scratch.py` explains.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.manifest import Task
from training.plan import Loss

LOSSES: dict[Task, Loss] = {"regression": "mse", "binary": "binary_cross_entropy", "multiclass": "cross_entropy"}
"""The loss of a task where a plan names none."""
Gradients = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Objective:
    """A loss of raw outputs and targets.

    Attributes:
        mean: raw [N, outputs] and targets -> the mean loss.
        gradients: raw [K, outputs, N], targets [K, N, ...] and label smoothing -> the losses whose mean is that of a
            network, [K, 1 or outputs, N], and the derivative of each network's mean loss, [K, outputs, N].
    """

    mean: Callable[[Tensor, Tensor], Tensor]
    gradients: Gradients

    def __call__(self, raw: Tensor, y: Tensor) -> Tensor:
        """The mean loss over the rows: raw outputs [N, outputs], targets [N, K] or class codes [N]."""
        return self.mean(raw, y)


def objective_of(loss: Loss) -> Objective:
    """The loss by its name; binary nets have one output or two."""
    return _OBJECTIVES[loss]


# ------------------------------------------------------------------------------------------------ their means


def _binary_cross_entropy(raw: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(raw[:, 0], y.to(raw.dtype))


def _probability_l1(raw: Tensor, y: Tensor) -> Tensor:
    """Mean absolute error of the probabilities, as the source of `survival` has it."""
    if raw.shape[1] == 1:
        return (torch.sigmoid(raw[:, 0]) - y).abs().mean()
    return (torch.softmax(raw, 1) - functional.one_hot(y, raw.shape[1])).abs().mean()


# ------------------------------------------------------------------------------------------------ their derivatives


def _mse_gradients(raw: Tensor, y: Tensor, _: float) -> tuple[Tensor, Tensor]:
    error = raw - y.mT
    return error.square(), error.mul_(2 / error[0].numel())


def _l1_gradients(raw: Tensor, y: Tensor, _: float) -> tuple[Tensor, Tensor]:
    error = raw - y.mT
    return error.abs(), error.sign_().div_(error[0].numel())


def _cross_entropy_gradients(raw: Tensor, y: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    log_p = torch.log_softmax(raw, 1)
    codes = y.unsqueeze(1)
    losses = -log_p.gather(1, codes)
    d = log_p.exp_()
    if smoothing:
        d.sub_(smoothing / raw.shape[1])
    d.scatter_(1, codes, smoothing - 1, reduce="add")
    return losses, d.div_(raw.shape[2])


def _binary_cross_entropy_gradients(raw: Tensor, y: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    target = y.unsqueeze(1).to(raw.dtype)
    losses = functional.softplus(raw) - raw * target
    target = target * (1 - smoothing) + smoothing / 2
    return losses, (torch.sigmoid(raw) - target) / raw.shape[2]


def _probability_l1_gradients(raw: Tensor, y: Tensor, _: float) -> tuple[Tensor, Tensor]:
    if raw.shape[1] == 1:
        p = torch.sigmoid(raw)
        error = p - y.unsqueeze(1)
        return error.abs(), error.sign() * p * (1 - p) / raw.shape[2]
    p = torch.softmax(raw, 1)
    error = p - functional.one_hot(y, raw.shape[1]).mT
    d = error.sign() / error[0].numel()
    return error.abs(), p * (d - (p * d).sum(1, keepdim=True))


_OBJECTIVES: dict[Loss, Objective] = {
    "mse": Objective(functional.mse_loss, _mse_gradients),
    "l1": Objective(functional.l1_loss, _l1_gradients),
    "cross_entropy": Objective(functional.cross_entropy, _cross_entropy_gradients),
    "binary_cross_entropy": Objective(_binary_cross_entropy, _binary_cross_entropy_gradients),
    "probability_l1": Objective(_probability_l1, _probability_l1_gradients),
}
