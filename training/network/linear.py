"""Linear models on the preprocessed matrix: the baseline to beat, and a member that validation may choose.

They are solved for by scikit-learn, not fitted by minibatches: the optimum is known in moments, however badly scaled
the targets are.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.manifest import Task
from training.aside import ask
from training.network.encoders import Preprocessing, unclipped
from training.network.solving import solve

STRENGTHS = (0.01, 1.0, 100.0)
"""Penalties on the squared weights among which validation chooses; 1 is scikit-learn's default."""
MOST_ROWS = 50_000
"""Rows that a logistic regression is solved on; more hardly move its few weights, and cost minutes."""


class LinearMember(nn.Module):
    """A linear model: a weight for each number, and one for each row of the embedding table.

    Shape:
        [N, inputs] -> [N, outputs]
    """

    def __init__(self, weight: Tensor, bias: Tensor, table: Tensor | None, numbers: int = 0) -> None:
        """`weight` is [inputs without the embedded, outputs], `table` [rows of the embedding table, outputs].

        The first `numbers` inputs are numbers that are read as they were before their smooth clipping.
        """
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.table = None if table is None else nn.Parameter(table)
        self.numbers = numbers

    def forward(self, x: Tensor) -> Tensor:
        if self.numbers:
            x = unclipped(x, self.numbers)
        if self.table is None:
            return torch.addmm(self.bias, x, self.weight)
        plain = len(self.weight)
        rows = self.table[x[:, plain:].to(torch.int64)]  # [N, S, outputs]
        return torch.addmm(self.bias, x[:, :plain], self.weight) + rows.sum(1)


class Corrected(nn.Module):
    """A line, and a perceptron that was fitted on what the line leaves: their sum.

    Where a number is beyond nearly all that training showed, the perceptron levels off and the line goes on.

    Shape:
        [N, inputs] -> [N, outputs]
    """

    def __init__(self, line: LinearMember, perceptron: nn.Sequential) -> None:
        super().__init__()
        self.line, self.perceptron = line, perceptron

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.line(x) + self.perceptron(x)
        return answers


def readings(task: Task, preprocessing: Preprocessing) -> tuple[int, ...]:
    """How many numbers a linear model may read as they were before their smooth clipping: validation chooses.

    None, and, for a regression, all: many a target is a sum, which clipped numbers of heavy tails do not add up to.
    Logistic regressions gain nothing by it, and lose where a tail is long.
    """
    numbers = len(preprocessing.numbers)
    return (0, numbers) if task == "regression" and preprocessing.clips and numbers else (0,)


def ask_linear(
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.float32 | np.int64],
    sizes: list[int],
    task: Task,
    *,
    outputs: int,
    strength: float = 1.0,
    numbers: int = 0,
) -> Callable[[], LinearMember]:
    """The ridge or logistic regression with the given penalty, once it is called for (`training/aside.py`).

    The first `numbers` columns are numbers that it reads as they were before their smooth clipping.

    Shape:
        x: [N, width], the last `len(sizes)` columns are rows of the embedding table
        y: [N, K] of a regression, class codes [N] of a classification (every class among them)
    """
    if task != "regression":
        step = -(-len(x) // MOST_ROWS)
        kept = np.arange(len(x)) % step == 0
        kept[np.unique(y, return_index=True)[1]] = True  # each class keeps a row
        x, y = x[kept], y[kept]
    design = unclipped(torch.from_numpy(x), numbers).numpy() if numbers else x
    solved, table_rows = ask(solve, design, y, sizes, task, strength), sum(sizes)

    def member() -> LinearMember:
        weight, bias = solved()
        if len(weight) < outputs:  # two classes have one logit, that of the second; the first is 0
            weight = np.concatenate([np.zeros_like(weight), weight])
            bias = np.concatenate([np.zeros_like(bias), bias])
        by_column = torch.tensor(np.ascontiguousarray(weight.T), dtype=torch.float32)  # [one-hot and plain, outputs]
        table = by_column[:table_rows].clone() if sizes else None
        constant = torch.tensor(bias, dtype=torch.float32)
        return LinearMember(by_column[table_rows:].clone(), constant, table, numbers).eval()

    return member
