"""Ridge and logistic regressions, as scikit-learn solves for them.

Nothing is imported here that the process of `training/aside.py` would have to wait for.
"""

import itertools
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt


def solve(
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.float32 | np.int64],
    sizes: list[int],
    task: str,
    strength: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The weights of a ridge regression, or of a logistic regression, and their biases.

    Shape:
        x: [N, width], the last `len(sizes)` columns are rows of the embedding table, of which each has `sizes`
        y: [N, K] of a regression, class codes [N] of a classification (every class among them)
        -> [outputs, rows of the embedding table, then other columns], [outputs]; of two classes there is one output
    """
    from sklearn.compose import make_column_transformer  # noqa: PLC0415 - here and below: see training/later.py
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression, Ridge  # noqa: PLC0415
    from sklearn.preprocessing import OneHotEncoder  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    design: Any = x.astype(np.float64)
    if sizes:
        starts = np.cumsum([0, *sizes])
        encoder = OneHotEncoder(categories=[np.arange(low, high) for low, high in itertools.pairwise(starts)])
        embedded = list(range(x.shape[1] - len(sizes), x.shape[1]))
        # the one-hot columns come first, in the order of the embedding table
        design = make_column_transformer(
            (encoder, embedded), remainder="passthrough", sparse_threshold=1.0
        ).fit_transform(design)
    # 12,000 x 40 of two classes take 45 ms on two threads, and 15 on one, which also gives the same weights everywhere
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline that is not quite at its optimum is one still
        warnings.filterwarnings(
            "ignore", "The number of unique classes is greater than 50%", UserWarning
        )  # leaks.py says so
        if task == "regression":
            ridge = Ridge(alpha=strength).fit(design, y)
            return np.asarray(ridge.coef_).reshape(y.shape[1], -1), np.asarray(ridge.intercept_).reshape(y.shape[1])
        logistic = LogisticRegression(C=1 / strength, max_iter=300).fit(design, y)
        return logistic.coef_, logistic.intercept_
