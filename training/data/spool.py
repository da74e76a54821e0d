"""Encoded rows on the disk: files of plain numbers, written once, from which minibatches are drawn block by block."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

BLOCK_ROWS = 4096
"""Rows that lie together in the file and are read together."""
BUFFER_BLOCKS = 16
"""Blocks from all over the file whose rows are shuffled together (CorgiPile: Xu et al. 2022, section 4)."""


class Spool:
    """Encoded rows and their targets, added a batch at a time and read a block at a time."""

    def __init__(self, folder: Path, columns: int, dtype: type[np.floating], y_shape: tuple[int, ...]) -> None:
        self._paths = folder / "x", folder / "y"
        self._columns, self._dtype, self._y_shape = columns, np.dtype(dtype), y_shape
        self._y_dtype = np.dtype(np.float64 if y_shape else np.int64)
        self.rows = 0

    def add(self, matrix: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
        """Write some more rows."""
        for path, values, dtype in zip(self._paths, (matrix, y), (self._dtype, self._y_dtype), strict=True):
            with path.open("ab") as file:
                file.write(np.ascontiguousarray(values, dtype=dtype).data)
        self.rows += len(y)

    @property
    def blocks(self) -> int:
        """How many blocks there are; the last may be shorter."""
        return math.ceil(self.rows / BLOCK_ROWS)

    def block(self, number: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The rows of one block: matrix [N, columns] and targets."""
        start = number * BLOCK_ROWS
        rows = min(BLOCK_ROWS, self.rows - start)
        width = math.prod(self._y_shape)
        x = _read(self._paths[0], self._dtype, start * self._columns, rows * self._columns)
        y = _read(self._paths[1], self._y_dtype, start * width, rows * width)
        return x.reshape(rows, self._columns), y.reshape(rows, *self._y_shape)


def _read(path: Path, dtype: "np.dtype[Any]", start: int, count: int) -> npt.NDArray[Any]:
    values = np.fromfile(path, dtype=dtype, count=count, offset=start * dtype.itemsize)
    if len(values) != count:
        raise OSError(f"{path} is shorter than what was written")
    return values


def minibatches(spool: Spool, batch: int, seed: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Every row once: how many rows came before, matrix and targets, in an order that the seed alone decides."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(spool.blocks)
    waiting: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None
    done = 0
    together = max(BUFFER_BLOCKS, math.ceil(batch / BLOCK_ROWS))
    for start in range(0, len(order), together):
        blocks = [spool.block(int(number)) for number in order[start : start + together]]
        x, y = (np.concatenate(column) for column in zip(*blocks, strict=True))
        shuffled = rng.permutation(len(x))
        x, y = x[shuffled], y[shuffled]
        if waiting is not None:
            x, y = np.concatenate([waiting[0], x]), np.concatenate([waiting[1], y])
        is_last = start + together >= len(order)
        whole = len(x) if is_last else len(x) - len(x) % batch
        for first in range(0, whole, batch):
            part = slice(first, min(first + batch, whole))
            yield done, torch.from_numpy(x[part]), torch.from_numpy(y[part])
            done += part.stop - part.start
        waiting = x[whole:], y[whole:]
