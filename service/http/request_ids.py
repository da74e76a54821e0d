"""Ids for requests that bring none."""

import secrets


class RequestIds:
    """The ids of one process: a start that no other process has, then a count."""

    def __init__(self) -> None:
        self._start, self._blocks = secrets.token_hex(10), 0

    def next(self) -> str:
        """The next one, 32 hexadecimal digits."""
        return self.block() + "000"

    def block(self) -> str:
        """What ids begin with that are given to nobody else; each ends in three digits that tell it from the others."""
        self._blocks += 1
        return f"{self._start}{self._blocks:09x}"
