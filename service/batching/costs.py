"""What batches of a version cost: a fixed part, and a part for each of their rows.

Some networks take as long for one row as for many, others twice as long for twice the rows. Which it is says how few
rows a batch may have before the fixed part is what a worker mostly does.
"""

import math

import numpy as np

_FORGET = 0.999  # a better time of the past counts so much less with each batch of its size
_SURE = 16  # batches of a size, from which on it counts in full
_ANY = 1 << 30


class Costs:
    """The best time of each size, 1 row, 2 or 3, 4 to 7 and so on: what else a machine does only ever adds to one."""

    def __init__(self) -> None:
        self._sizes: dict[int, tuple[float, float, int]] = {}  # rows and batches per second, how many are known

    def learn(self, rows: int, seconds: float) -> None:
        """A batch of so many rows came back after so many seconds."""
        size, seconds = rows.bit_length(), max(1e-6, seconds)
        pace, rate, number = self._sizes.get(size, (0.0, 0.0, 0))
        pace, rate = max((_FORGET * pace, _FORGET * rate), (rows / seconds, 1 / seconds))
        self._sizes[size] = pace, rate, min(_SURE, number + 1)

    def rows_for(self, share: float) -> int:
        """The fewest rows with which batches have this share of the rows per second that the largest would have.

        With a fixed part a and b for a row, n rows take a + bn, and n / (a + bn) is that share of 1 / b. While there is
        but one size both parts count: so other sizes are tried.
        """
        if not self._sizes:
            return 1
        fixed_s, row_s = self._line()
        if row_s <= 0:
            return _ANY
        return max(1, min(_ANY, math.ceil(share / (1 - share) * fixed_s / row_s)))

    def pace_beyond(self, rows: float) -> float:
        """The best rows per second of batches with more rows than so many; 0 where none is known."""
        return max((pace for size, (pace, _, _) in self._sizes.items() if 1 << size > 2 * rows), default=0.0)

    def pace_of(self, rows: int) -> float:
        """Rows per second of batches of so many rows; 0 while there is but one size."""
        if len(self._sizes) < 2:
            return 0.0
        fixed_s, row_s = self._line()
        return rows / max(1e-6, fixed_s + row_s * rows)

    def best_s(self, rows: int) -> float:
        """The least seconds of a batch of this size, of which one is known."""
        return 1 / self._sizes[rows.bit_length()][1]

    def fixed_share(self, rows: float) -> float:
        """The part of what a batch of so many rows takes that it takes without a row; 0 while there is but one size."""
        if len(self._sizes) < 2:
            return 0.0
        fixed_s, row_s = self._line()
        return fixed_s / (fixed_s + max(0.0, row_s) * rows) if fixed_s > 0 else 0.0

    def _line(self) -> tuple[float, float]:
        """The fixed part and that of a row: least squares through the best times, by relative errors.

        With one size it is the shortest of all solutions.
        """
        known = np.array(list(self._sizes.values()))
        weights = np.sqrt(known[:, 2])
        row_s, fixed_s = map(float, np.linalg.lstsq(known[:, :2] * weights[:, None], weights)[0])
        return fixed_s, row_s
