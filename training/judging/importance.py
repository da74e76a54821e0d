"""What the network's answers rest on: how much worse they get when one feature's values are shuffled among the rows.

Permutation importance (Breiman 2001, section 10; Fisher, Rudin, Dominici 2019, section 3) on rows that neither trained
nor chose anything. It says what this network uses, not what causes the target: of two features that say the same, each
may look dispensable.
"""

import math

import numpy as np
import numpy.typing as npt

from models.manifest import Importance, Task
from models.proof import Answers
from models.schema import Matrix, Schema
from models.shapley import column_groups
from training.judging.evaluate import Predict, Targets

MOST_FEATURES = 1000
"""Beyond, the rows that can be asked about in seconds are too few for each feature, and none is measured."""
_MOST_ROWS = 25_000  # rows asked about in all; at one or two million multiplications each, a second or two
_FEWEST, _MOST_SHUFFLES = 100, 5
_NORMAL_95 = 1.96


def measure_importances(
    task: Task, schema: Schema, predict: Predict, matrix: Matrix, y: Targets
) -> tuple[Importance, ...]:
    """The importance of every feature, the largest first; empty where there are more than a thousand or no two rows.

    Its interval is that of a mean over rows: what other rows of the same population would have given.

    Shape:
        matrix: [N, F] of rows that were not trained on; y: as in `evaluate.score`
    """
    groups = column_groups(schema)
    if len(groups) > MOST_FEATURES or len(y) < 2:
        return ()
    each = max(_FEWEST, _MOST_ROWS // len(groups))
    rng = np.random.default_rng(0)
    if len(y) > each:
        kept = np.sort(rng.permutation(len(y))[:each])
        matrix, y = matrix[kept], y[kept]
    shuffles = min(_MOST_SHUFFLES, each // len(y))
    before = row_losses(task, y, predict(matrix))
    found = []
    for feature, columns in zip(schema.features, groups, strict=True):
        shuffled = np.tile(matrix, (shuffles, 1))
        for start in range(0, len(shuffled), len(y)):
            shuffled[start : start + len(y), columns] = matrix[rng.permutation(len(y)), columns]
        after = row_losses(task, np.concatenate([y] * shuffles), predict(shuffled))
        added = after.reshape(shuffles, -1).mean(0) - before  # [N]
        value, error = float(added.mean()), float(added.std(ddof=1)) / math.sqrt(len(added))
        reach = _NORMAL_95 * error
        found.append(Importance(feature=feature.name, value=value, low=value - reach, high=value + reach))
    return tuple(sorted(found, key=lambda one: -one.value))


def row_losses(task: Task, y: Targets, answers: Answers) -> npt.NDArray[np.float64]:
    """What each row adds to 1 - R2 (mean over the targets), or to the log loss, times the number of rows; [N]."""
    if task == "regression":
        spread = y.var(0)
        squares = (answers["prediction"].astype(np.float64) - y) ** 2 / np.where(spread > 0, spread, 1.0)
        return np.asarray(squares.mean(1))
    own = answers["probabilities"][np.arange(len(y)), y].astype(np.float64)
    return -np.log(np.maximum(own, 1e-12))
