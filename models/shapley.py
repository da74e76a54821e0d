"""Why a row has its answer: the Shapley value of each of its features.

The answer for the row less the mean answer for some background rows is shared out among the features: a feature's value
is what it adds when it takes the row's value in place of a background row's, averaged over every order in which the
features could do so (Shapley 1953; Lundberg and Lee 2017, in its interventional form: Janzing, Minorics, Blöbaum 2020).
With few features every coalition is asked. With many, random orders are (Štrumbelj and Kononenko 2014), each together
with its reverse, which cancels much of the noise (Mitchell et al. 2022, section 4.1).

Nothing here knows what answers: `rows` says which rows to ask about, `share_out` makes the values of the answers. So
training asks the network, and the server its workers in batches like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import comb
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field, JsonValue

from models.record import RecordFile
from models.schema import Matrix, Schema

FILE = "background.json"
MOST_ROWS = 4096
"""Rows asked about to explain one, as long as every feature can be asked about at all."""
MOST_CELLS = 1 << 25
"""Values in these rows. A wider table cannot be explained row by row."""

Real = npt.NDArray[np.float64]


class Background(RecordFile):
    """Rows against which a row's answer is explained.

    Attributes:
        rows: JSON objects as a client would send them.
    """

    FILE = FILE
    A_WHAT = "a list of rows"

    rows: Annotated[list[dict[str, JsonValue]], Field(min_length=1)]


@dataclass(frozen=True)
class Explanation:
    """One row explained, for each of O outputs.

    Attributes:
        base: the mean answer for the background, [O].
        values: what each feature adds to it, [F, O]; base and values add up to the answer for the row.
        errors: the standard error of each value, [F, O]; 0 where every coalition was asked.
    """

    base: Real
    values: Real
    errors: Real


def column_groups(schema: Schema) -> list[slice]:
    """The matrix columns of each feature."""
    ends = np.cumsum([len(feature.columns) for feature in schema.features]).tolist()
    return [slice(start, end) for start, end in pairwise([0, *ends])]


class Shapley:
    """What to ask to explain a row, and what follows from the answers."""

    def __init__(self, groups: Sequence[slice], background: Matrix, most_rows: int = MOST_ROWS) -> None:
        """Choose coalitions or orders for these features, by the number of rows that may be asked about.

        Shape:
            background: [B, columns], B from 1
        """
        self._players, self._background = len(groups), background
        self._player_of = np.concatenate([np.full(group.stop - group.start, i) for i, group in enumerate(groups)])
        count = len(background)
        self.is_exact = self._players < 16 and 2**self._players * count <= most_rows
        if self.is_exact:
            codes = np.arange(2**self._players)
            coalitions = (codes[:, None] >> np.arange(self._players) & 1).astype(bool)  # [2^F, F]
            self._taken = np.repeat(coalitions, count, axis=0)
            self._from = np.tile(np.arange(count), len(coalitions))
        else:
            self._orders, self._from = self._draw_orders(count, most_rows)
            ranks = np.argsort(self._orders, axis=1)  # [M, F]: when each feature takes the row's value
            steps = np.arange(self._players + 1)
            self._taken = (ranks[:, None, :] < steps[:, None]).reshape(-1, self._players)  # [M (F + 1), F]

    def _draw_orders(self, count: int, most_rows: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Orders [M, F] and the background row of each of their M (F + 1) steps; each background row as often."""
        pairs = max(1, most_rows // (2 * (self._players + 1)))
        used = min(pairs, count)
        pairs -= pairs % used
        rng = np.random.default_rng(0)  # the same row has the same explanation
        forth = rng.permuted(np.tile(np.arange(self._players), (pairs, 1)), axis=1)
        orders = np.stack([forth, forth[:, ::-1]], axis=1).reshape(-1, self._players)
        spread = np.linspace(0, count - 1, used).astype(np.int64)
        return orders, np.repeat(np.tile(spread, pairs // used), 2 * (self._players + 1))

    @property
    def count(self) -> int:
        """How many rows are asked about to explain one."""
        return len(self._taken)

    def rows(self, row: npt.NDArray[np.floating]) -> Matrix:
        """The rows to ask about: this one's values where a feature has joined, a background row's elsewhere.

        Shape:
            row: [columns] -> [count, columns]
        """
        return np.where(self._taken[:, self._player_of], row, self._background[self._from])

    def share_out(self, answers: npt.NDArray[np.floating]) -> Explanation:
        """The explanation that follows from the answers to `rows`.

        Shape:
            answers: [count, O]
        """
        exact: Real = answers.astype(np.float64)
        return self._exact(exact) if self.is_exact else self._sampled(exact)

    def _exact(self, answers: Real) -> Explanation:
        coalitions = 2**self._players
        worth = answers.reshape(coalitions, len(self._background), -1).mean(1)  # [2^F, O]
        taken = self._taken[:: len(self._background)]
        weights = np.array([1 / (self._players * comb(self._players - 1, size)) for size in range(self._players)])
        values = []
        for player in range(self._players):
            without = np.flatnonzero(~taken[:, player])
            gain = worth[without | (1 << player)] - worth[without]
            values.append((weights[taken[without].sum(1)][:, None] * gain).sum(0))
        return Explanation(worth[0], np.stack(values), np.zeros((self._players, answers.shape[1])))

    def _sampled(self, answers: Real) -> Explanation:
        path = answers.reshape(len(self._orders), self._players + 1, -1)  # [M, F + 1, O]
        gains = np.empty((len(self._orders), self._players, path.shape[2]))
        np.put_along_axis(gains, self._orders[:, :, None], np.diff(path, axis=1), axis=1)
        pairs = gains.reshape(-1, 2, *gains.shape[1:]).mean(1)  # [M / 2, F, O]
        spread = pairs.std(0, ddof=1) if len(pairs) > 1 else np.full(pairs.shape[1:], np.inf)
        return Explanation(path[:, 0].mean(0), pairs.mean(0), spread / np.sqrt(len(pairs)))


def rows_for(schema: Schema) -> int | None:
    """How many rows explaining one may ask about; None where the table is too wide for it."""
    players, columns = len(schema.features), len(schema.columns)
    least = 2 * 8 * (players + 1)  # eight orders and their reverses
    wanted = max(MOST_ROWS, least)
    return wanted if wanted * columns <= MOST_CELLS else None
