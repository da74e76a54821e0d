"""How good the answers are, in the metrics of the task, beside baselines that need no network."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.manifest import Part, Scores, Task, finite
from models.proof import Answers
from models.schema import Matrix
from training.aside import asked
from training.judging.metrics import of_predictions, of_probabilities
from training.network.net import Net, answers_of

Predict = Callable[[Matrix], Answers]
"""What a network answers for a matrix [N, F]."""
Targets = npt.NDArray[Any]
"""float64 [N, K] of a regression, class codes int64 [N] of a classification."""

_MORE = "the columns say nothing of the target, or the rows are too few"
MAIN: dict[Task, str] = {"regression": "r2", "binary": "accuracy", "multiclass": "accuracy"}
"""The metric that a task is summed up by."""


def score(task: Task, y: Targets, answers: Answers) -> dict[str, float | None]:
    """Every metric of the task; None where it is undefined.

    regression: r2 (mean over the targets), rmse, mae, mse, in the targets' units
    classification: accuracy, balanced_accuracy, log_loss (nats), roc_auc (one against the rest, mean over classes),
        brier (mean squared error of the probability of two classes, of all of them summed up where there are more),
        calibration_error

    Shape:
        y: [N, K] of a regression, class codes [N] of a classification; N from 1
    """
    if task == "regression":
        return finite(asked(of_predictions, y, answers["prediction"]))
    return finite(asked(of_probabilities, y, answers["probabilities"]))


def doubts(scores: Mapping[Part, Scores]) -> tuple[str, ...]:
    """What a careful person would say of the scores on the rows that judge, a sentence; none of most networks."""
    part: Part = "test" if "test" in scores else "validation"
    got, (name, constant) = scores[part].metrics, next(iter(scores[part].baselines.items()))
    if name == "mean":
        r2, its = got["r2"], constant["r2"]
        if r2 is None or its is None or r2 > its:
            return ()
        return (
            f"on the {part} rows the answers are no better than always the mean of training (r2 {r2:.3f}); {_MORE}",
        )
    loss, its = got["log_loss"], constant["log_loss"]
    if loss is not None and its is not None and loss >= its:
        than = f"than always the shares of the classes (log loss {loss:.4f}, theirs {its:.4f})"
        return (f"on the {part} rows the probabilities are no better {than}; {_MORE}",)
    is_one_class = all(got[metric] == constant[metric] for metric in ("accuracy", "balanced_accuracy"))
    if is_one_class and got["roc_auc"] is not None:
        instead = f"judge by roc_auc ({got['roc_auc']:.3f}) and the probabilities, not by accuracy"
        return (f"the likeliest class is the most frequent one in every {part} row; {instead}",)
    return ()


# ------------------------------------------------------------------------------------------------ baselines


def make_baselines(net: Net, linear: nn.Module, train_y: Targets) -> dict[str, nn.Module]:
    """Nets that the published one is measured against: a constant ("mean" or "majority") and "linear".

    The linear model reads the same preprocessed matrix and answers in the same units.
    """
    name = "mean" if net.task == "regression" else "majority"
    linear = copy.deepcopy(linear).cpu()  # where the published one is, wherever networks are fitted
    same = Net(net.preprocessing, [linear], net.task, centre=net.centre, scale=net.scale)
    return {name: _Constant(net.task, train_y), "linear": same}


class _Constant(nn.Module):
    """The training mean, or the training shares of the classes, whatever the row."""

    def __init__(self, task: Task, y: Targets) -> None:
        super().__init__()
        self.is_regression = task == "regression"
        answer = y.mean(0) if self.is_regression else np.bincount(y) / len(y)
        self.register_buffer("answer", torch.tensor(answer, dtype=torch.float32))

    def forward(self, features: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        answers = self.get_buffer("answer").expand(len(features), -1)
        return answers if self.is_regression else (answers, answers.argmax(1))


def score_parts(
    net: Net, baselines: Mapping[str, nn.Module], parts: Mapping[Part, tuple[Matrix, Targets]]
) -> dict[Part, Scores]:
    """Scores of the net and its baselines on each part that has rows."""
    return {
        name: Scores(
            rows=len(y),
            metrics=score(net.task, y, answers_of(net, matrix)),
            baselines={
                baseline: score(net.task, y, answers_of(other, matrix)) for baseline, other in baselines.items()
            },
        )
        for name, (matrix, y) in parts.items()
        if len(y)
    }
