"""Ids for requests that bring none."""

import secrets


class RequestIds:
    """The ids of one process: a start that no other process has, then a count."""

    def __init__(self) -> None:
        self._start, self._count = secrets.token_hex(10), 0

    def next(self) -> str:
        """The next one, 32 hexadecimal digits."""
        self._count += 1
        return f"{self._start}{self._count:012x}"
