"""Which rows a network is fitted on, and which say how good it is.

With one fold these are the training and the validation part. With more, the rows of both parts are dealt together, and
each network leaves one fold out: every row teaches most networks and still gets an answer of one that never saw it. On
the same rows that is a third more to learn from than a validation part kept aside leaves.
"""

from dataclasses import dataclass

import numpy as np

from training.data.columns import Data
from training.data.split import Rows, Split, row_hashes
from training.plan import SplitPlan


@dataclass(frozen=True)
class Fold:
    """Rows of the table by number.

    Attributes:
        train: what a network is fitted on.
        held_out: what it is judged by.
    """

    train: Rows
    held_out: Rows


def deal_folds(data: Data, split: Split, plan: SplitPlan, folds: int) -> list[Fold]:
    """As many folds as asked for, of equal size where rows are distinct; the test part is in none of them.

    Classes are spread evenly, equal rows stay together, and so do those of one group. A class with a single distinct
    row is in every `train`.
    """
    if folds == 1:
        return [Fold(split.train, split.validation)]
    rows = np.sort(np.concatenate([split.train, split.validation]))
    columns = [*data.kinds, *data.targets] if plan.group is None else [plan.group]
    hashes = row_hashes(data.frame[rows].select(columns))
    strata = data.y[rows] if data.classes is not None and plan.group is None else np.zeros(len(rows), dtype=np.int64)
    dealt = np.full(len(rows), -1)
    offset = 0
    for stratum in np.unique(strata):
        inside = strata == stratum
        distinct, places = np.unique(hashes[inside], return_inverse=True)
        if len(distinct) > 1 or len(np.unique(strata)) == 1:
            dealt[inside] = (places + offset) % folds
            offset += len(distinct)  # the next class goes on where this one ended
    return [Fold(rows[dealt != fold], rows[dealt == fold]) for fold in range(folds) if (dealt == fold).any()]


def fitted_on(folds: list[Fold]) -> Rows:
    """The rows that some network is fitted on, rising."""
    rows: Rows = np.unique(np.concatenate([fold.train for fold in folds]))
    return rows
