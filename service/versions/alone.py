"""One API process after the other takes over many new versions, so that requests find a core that is free.

Each reads them and has workers open them. All at once, and the workers too, they would want every core there is.
See docs/decisions/0048-many-versions-beside-requests.md.
"""

import contextlib
import fcntl
import time
from collections.abc import AsyncIterator
from pathlib import Path

from service.processes.waking import next_turn

_LOOK_S = 0.05
_MOST_S = 5.0
"""Longer than all of a bulk takes: who is here still may be stopped, and new versions do not wait for that."""


@contextlib.asynccontextmanager
async def alone(lock: Path) -> AsyncIterator[None]:
    """While this lasts, nobody else who names the same file is here, unless somebody was for too long, or died."""
    until = time.monotonic() + _MOST_S
    with lock.open("wb") as file:
        while time.monotonic() < until:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await next_turn(_LOOK_S)
        yield
