"""Ids for requests that bring none."""

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENDS = [f"{number:02x}" for number in range(256)]


class RequestIds:
    """The ids of one process: a start that no other process has, then a count."""

    def __init__(self) -> None:
        self._start, self._blocks = secrets.token_hex(10), 0
        self._left: Iterator[str] = iter(())

    def next(self) -> str:
        """The next one, 32 hexadecimal digits."""
        for prepared in self._left:
            return prepared
        self._blocks += 1  # in blocks, an id takes a third of the time
        start = f"{self._start}{self._blocks:010x}"
        self._left = iter([start + end for end in _ENDS])
        return next(self._left)
