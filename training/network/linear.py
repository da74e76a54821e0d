"""Linear models on the preprocessed matrix: the baseline to beat, and a member that validation may choose.

They are solved for by scikit-learn, not fitted by minibatches: the optimum is known in moments, however badly scaled
the targets are.
"""

import itertools
import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.manifest import Task
from training.network.encoders import Preprocessing, unclipped

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


def solve_linear(
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.float32 | np.int64],
    sizes: list[int],
    task: Task,
    *,
    outputs: int,
    strength: float = 1.0,
    numbers: int = 0,
) -> LinearMember:
    """The ridge or logistic regression with the given penalty.

    The first `numbers` columns are numbers that it reads as they were before their smooth clipping.

    Shape:
        x: [N, width], the last `len(sizes)` columns are rows of the embedding table
        y: [N, K] of a regression, class codes [N] of a classification (every class among them)
    """
    from sklearn.compose import make_column_transformer  # noqa: PLC0415 - here and below: see training/later.py
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression, Ridge  # noqa: PLC0415
    from sklearn.preprocessing import OneHotEncoder  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    plain = x.shape[1] - len(sizes)
    if task != "regression":
        step = -(-len(x) // MOST_ROWS)
        kept = np.arange(len(x)) % step == 0
        kept[np.unique(y, return_index=True)[1]] = True  # each class keeps a row
        x, y = x[kept], y[kept]
    design = (unclipped(torch.from_numpy(x), numbers).numpy() if numbers else x).astype(np.float64)
    if sizes:
        starts = np.cumsum([0, *sizes])
        rows = [np.arange(low, high) for low, high in itertools.pairwise(starts)]
        encoder = OneHotEncoder(categories=rows)
        embedded = list(range(plain, x.shape[1]))
        # the one-hot columns come first, in the order of the embedding table
        design = make_column_transformer(
            (encoder, embedded), remainder="passthrough", sparse_threshold=1.0
        ).fit_transform(design)
    # 12,000 x 40 of two classes take 45 ms on two threads, and 15 on one, which also gives the same weights everywhere
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline that is not quite at its optimum is one still
        if task == "regression":
            model = Ridge(alpha=strength).fit(design, y)
            weight = np.asarray(model.coef_).reshape(outputs, -1)
            bias = np.asarray(model.intercept_).reshape(outputs)
        else:
            model = LogisticRegression(C=1 / strength, max_iter=300).fit(design, y)
            weight, bias = _for_outputs(model.coef_, model.intercept_, outputs)
    table_rows = sum(sizes)
    by_column = torch.tensor(
        np.ascontiguousarray(weight.T), dtype=torch.float32
    )  # [one-hot and plain columns, outputs]
    return LinearMember(
        by_column[table_rows:].clone(),
        torch.tensor(bias, dtype=torch.float32),
        by_column[:table_rows].clone() if sizes else None,
        numbers,
    ).eval()


def _for_outputs(
    weight: npt.NDArray[np.float64], bias: npt.NDArray[np.float64], outputs: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Two classes have one logit, that of the second; a net with two outputs gets a first logit of 0."""
    if len(weight) == outputs:
        return weight, bias
    return np.concatenate([np.zeros_like(weight), weight]), np.concatenate([np.zeros_like(bias), bias])
