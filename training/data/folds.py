"""Which rows a network is fitted on, and which say how good it is.

With one fold these are the training and the validation part. With more, the rows of both parts are dealt together, and
each network leaves one fold out: every row teaches most networks and still gets an answer of one that never saw it. On
the same rows that is a third more to learn from than a validation part kept aside leaves.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data.columns import Data
from training.data.split import Rows, Split, deciding_columns, row_hashes, with_twins_told_apart
from training.plan import SplitPlan

SHARED = 0.25
"""Share of judging rows with a twin in training from which a split counts as one that tells equal rows apart."""


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

    Classes are spread evenly, and rows of one group stay together. So do equal rows, unless the split tells them apart:
    rows that are held out are to be for a network what the test rows are for all. A class with a single distinct row is
    in every `train`.
    """
    if folds == 1:
        return [Fold(split.train, split.validation)]
    rows = np.sort(np.concatenate([split.train, split.validation]))
    frame = data.frame.select(deciding_columns(data, plan))
    hashes = row_hashes(frame)
    if plan.group is None and _parts_share_rows(hashes, split):
        hashes = row_hashes(with_twins_told_apart(frame))
    hashes = hashes[rows]
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


def _parts_share_rows(hashes: npt.NDArray[np.uint64], split: Split) -> bool:
    """Whether the rows that judge have twins among those that train, as in crowds of equal rows."""
    judging = split.test if len(split.test) else split.validation
    return bool(np.isin(hashes[judging], hashes[split.train]).mean() > SHARED)


def fitted_on(folds: list[Fold]) -> Rows:
    """The rows that some network is fitted on, rising."""
    rows: Rows = np.unique(np.concatenate([fold.train for fold in folds]))
    return rows
