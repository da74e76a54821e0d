"""What the connections of one API process may cost together; service/http/connection.py bounds each one."""

import resource
import time
from typing import TYPE_CHECKING

from service.processes.process import OWN_FILES
from service.processes.waking import next_turn
from service.settings import Settings

if TYPE_CHECKING:
    from service.http.connection import Connection

_LOOK_S = 1.0
_MOST_REFUSED = 128  # connections that are told so at a time; more are closed without a word, before descriptors end


def most_open(settings: Settings) -> int:
    """How many connections one API process may have and answer."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(settings.max_connections, files - OWN_FILES))


def most_accepted(settings: Settings) -> int:
    """How many it accepts, with those that it refuses and those that have not said yet how they are encrypted."""
    return most_open(settings) + _MOST_REFUSED


class Connections:
    """The connections of one API process."""

    def __init__(self, settings: Settings) -> None:
        self.most = most_open(settings)
        self.receive_s = settings.receive_s
        self.most_held = 4 * settings.max_body_bytes
        self.held = 0  # at most so many bytes of bodies that are not answered yet
        self._open: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: "Connection") -> bool:
        """Whether there is room for one more; it is looked at from now on in any case."""
        self._open.add(connection)
        return len(self._open) <= self.most

    def remove(self, connection: "Connection") -> None:
        """It is closed."""
        self._open.discard(connection)
        self.held -= connection.held

    def hold(self, size: int) -> bool:
        """Whether there is room for so many bytes more of bodies."""
        self.held += size
        if self.held > self.most_held:  # a connection does not say when it was answered
            self.held = sum(connection.recount() for connection in self._open)
        return self.held <= self.most_held

    async def watch(self) -> None:
        """Look at all of them for ever."""
        while True:
            await next_turn(_LOOK_S)
            now = time.monotonic()
            for connection in list(self._open):
                connection.look(now)
