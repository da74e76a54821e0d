"""Ids for requests that bring none."""

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENDS = [f"{number:03x}" for number in range(256)]

MOST_OF_A_BLOCK = 4096
"""Ids of one `RequestIds.block`; they end in three hexadecimal digits."""


class RequestIds:
    """The ids of one process: a start that no other process has, then a count."""

    def __init__(self) -> None:
        self._start, self._blocks = secrets.token_hex(10), 0
        self._left: Iterator[str] = iter(())

    def next(self) -> str:
        """The next one, 32 hexadecimal digits."""
        for prepared in self._left:
            return prepared
        start = self.block()  # in blocks, an id takes a third of the time
        self._left = iter([start + end for end in _ENDS])
        return next(self._left)

    def block(self) -> str:
        """What the next `MOST_OF_A_BLOCK` ids begin with, which nobody else is given."""
        self._blocks += 1
        return f"{self._start}{self._blocks:09x}"
