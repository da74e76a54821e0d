"""Looking for the next request instead of sleeping, while a client or two send one after the other.

To sleep until a request comes and to wake for it takes some 50 µs, four times as long as to answer it. Where requests
have followed answers at once for a while, a process looks at its sockets again and again for as long as that took. It
takes of a core what nobody else wants then: with more connections there is always something to do, and with one core
the client needs it.
"""

import time
from typing import TYPE_CHECKING

from service.processes.cores import cores

if TYPE_CHECKING:
    from service.http.connection import Connection

_SHORT_GAPS = 8  # one after the other, before it spins
_MOST_CONNECTIONS = 2


class Spinning:
    """When an API process spins."""

    def __init__(self, longest_s: float) -> None:
        """For `longest_s` after an answer at most; 0: never."""
        self._longest_s = longest_s if cores() > 1 else 0.0
        self._short_gaps = 0
        self._answered = 0.0
        self._is_on = False

    def answered(self, came: float, connection: "Connection") -> None:
        """Requests were answered in one turn, of which the first came then, by `time.perf_counter`."""
        if not self._longest_s:
            return
        self._short_gaps = self._short_gaps + 1 if came - self._answered < self._longest_s else 0
        self._answered = time.perf_counter()
        if self._is_on or self._short_gaps < _SHORT_GAPS:
            return
        if len(connection.server_state.connections) <= _MOST_CONNECTIONS:
            self._is_on = True
            connection.loop.call_soon(self._spin, connection)

    def _spin(self, connection: "Connection") -> None:
        if time.perf_counter() - self._answered < self._longest_s:
            connection.loop.call_soon(self._spin, connection)  # the event loop looks at its sockets in between
        else:
            self._is_on, self._short_gaps = False, 0
