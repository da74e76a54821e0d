"""Linear models on the preprocessed matrix: the baseline to beat, and a member that validation may choose.

They are solved for, not fitted by minibatches: the optimum is known in moments, however badly scaled the targets are.
Small problems are solved here, by Newton's method: the import of scikit-learn, which solves the others, would take
longer than they and a small table's fit together.
"""

import itertools
import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from models.manifest import Task
from training.net import LinearMember

STRENGTHS = (0.01, 1.0, 100.0)
"""Penalties on the squared weights among which validation chooses; 1 is scikit-learn's default."""
MOST_ROWS = 50_000
"""Rows that a logistic regression is solved on; more hardly move its few weights, and cost minutes."""
SMALL = 1 << 27
"""Multiplications up to which a second derivative, rows times the square of the weights, takes some milliseconds."""

_STEPS = 50  # it takes five to fifteen
_ENOUGH = 1e-12  # of the loss of a row that a step would still gain
_SHORTEST = 1e-6

Solution = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Weights [K, columns], the one-hot columns of the embedding table before the plain ones, and biases [K]."""


def solve_linear(
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.float32 | np.int64],
    sizes: list[int],
    task: Task,
    *,
    outputs: int,
    strength: float = 1.0,
) -> LinearMember:
    """The ridge or logistic regression with the given penalty.

    Shape:
        x: [N, width], the last `len(sizes)` columns are rows of the embedding table
        y: [N, K] of a regression, class codes [N] of a classification (every class among them)
    """
    if task != "regression":
        step = -(-len(x) // MOST_ROWS)
        kept = np.arange(len(x)) % step == 0
        kept[np.unique(y, return_index=True)[1]] = True  # each class keeps a row
        x, y = x[kept], y[kept]
    table_rows = sum(sizes)
    weights = (1 + table_rows + x.shape[1] - len(sizes)) * (outputs if task == "multiclass" else 1)
    solve = solve_small if len(x) * weights**2 <= SMALL else solve_large
    weight, bias = solve(x, y, sizes, task, strength)
    if len(weight) < outputs:  # two classes have one logit, that of the second: a first one is 0
        weight, bias = (np.concatenate([np.zeros_like(values), values]) for values in (weight, bias))
    by_column = torch.tensor(np.ascontiguousarray(weight.T), dtype=torch.float32)
    return LinearMember(
        by_column[table_rows:].clone(),
        torch.tensor(bias, dtype=torch.float32),
        by_column[:table_rows].clone() if sizes else None,
    ).eval()


# ------------------------------------------------------------------------------------------------ small problems


def solve_small(
    x: npt.NDArray[np.float32], y: npt.NDArray[np.float32 | np.int64], sizes: list[int], task: Task, strength: float
) -> Solution:
    """The least of the summed loss (half a square, or the log loss) and strength / 2 |weights|^2; biases go free.

    Newton's method with Armijo's rule (Nocedal and Wright 2006, chapter 3); a regression needs one step.
    """
    plain = x.shape[1] - len(sizes)
    numbers = torch.from_numpy(x[:, :plain]).double()
    means, spread = numbers.mean(0), numbers.std(0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    one_hot = torch.zeros(len(x), sum(sizes), dtype=torch.float64)
    one_hot.scatter_(1, torch.from_numpy(x[:, plain:]).to(torch.int64), 1.0)
    design = torch.cat([one_hot, (numbers - means) / spread, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    units = torch.cat([spread.new_ones(sum(sizes)), spread])[:, None]
    # in units of the columns' spreads, so that float64 holds the large and the small; the penalty moves with them
    penalty = torch.cat([strength / units.square(), units.new_zeros(1, 1)])
    targets = torch.from_numpy(y)
    if task == "regression":
        weights = _solved(design.T @ design + penalty.diagflat(), design.T @ targets.double())
    else:
        weights = _least_log_loss(design, targets, penalty)
    weight, bias = weights[:-1] / units, weights[-1]
    return weight.T.numpy(), (bias - means @ weight[one_hot.shape[1] :]).numpy()


def _least_log_loss(design: Tensor, y: Tensor, penalty: Tensor) -> Tensor:
    """The weights [columns, C] of a logistic regression, or [columns, 1] of one of two classes."""
    classes = int(y.max()) + 1
    outputs = 1 if classes == 2 else classes
    right = functional.one_hot(y, classes).double()[:, -outputs:]
    weights = torch.zeros(design.shape[1], outputs, dtype=torch.float64)
    steady = penalty.expand_as(weights).clone()
    steady[-1] = 1e-9 * len(y)  # the biases of several classes are known but for what all have in common
    for _ in range(_STEPS):
        p = _probabilities(design @ weights)
        gradient = design.T @ (p - right) + penalty * weights
        curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]  # [N, K, K]
        hessian = torch.einsum("ni,nkl,nj->ikjl", design, curvature, design).reshape(gradient.numel(), -1)
        step = -_solved(hessian + steady.flatten().diagflat(), gradient.view(-1, 1)).view_as(weights)
        slope = float((gradient * step).sum())
        if -slope <= _ENOUGH * len(y):
            break
        loss, share = _log_loss(design, right, penalty, weights), 1.0
        while share > _SHORTEST:
            if _log_loss(design, right, penalty, weights + share * step) <= loss + 1e-4 * share * slope:
                break
            share /= 2
        weights = weights + share * step
    return weights


def _probabilities(z: Tensor) -> Tensor:
    return torch.sigmoid(z) if z.shape[1] == 1 else torch.softmax(z, 1)


def _log_loss(design: Tensor, right: Tensor, penalty: Tensor, weights: Tensor) -> float:
    z = design @ weights
    ways = functional.softplus(z)[:, 0] if z.shape[1] == 1 else torch.logsumexp(z, 1)
    return float((ways - (z * right).sum(1)).sum() + (penalty * weights.square()).sum() / 2)


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """The solution; where columns are so large and alike that float64 tells no penalty, the shortest of the nearest."""
    solution: Tensor
    solution, failed = torch.linalg.solve_ex(matrix, right)
    if bool(failed) or not bool(torch.isfinite(solution).all()):
        solution = torch.linalg.lstsq(matrix, right, driver="gelsd").solution
    return solution


# ------------------------------------------------------------------------------------------------ large problems


def solve_large(
    x: npt.NDArray[np.float32], y: npt.NDArray[np.float32 | np.int64], sizes: list[int], task: Task, strength: float
) -> Solution:
    """The same by scikit-learn, which stops a little before the optimum."""
    from sklearn.compose import make_column_transformer  # noqa: PLC0415 - 0.7 s of CPU time
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression, Ridge  # noqa: PLC0415
    from sklearn.preprocessing import OneHotEncoder  # noqa: PLC0415

    design = x.astype(np.float64)
    if sizes:
        starts = np.cumsum([0, *sizes])
        rows = [np.arange(low, high) for low, high in itertools.pairwise(starts)]
        embedded = list(range(x.shape[1] - len(sizes), x.shape[1]))
        # the one-hot columns come first, in the order of the embedding table
        design = make_column_transformer(
            (OneHotEncoder(categories=rows), embedded), remainder="passthrough", sparse_threshold=1.0
        ).fit_transform(design)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline that is not quite at its optimum is one still
        if task == "regression":
            model = Ridge(alpha=strength).fit(design, y)
        else:
            model = LogisticRegression(C=1 / strength, max_iter=300).fit(design, y)
    weight = np.asarray(model.coef_)
    return weight.reshape(-1, design.shape[1]), np.asarray(model.intercept_).reshape(-1)
