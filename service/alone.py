"""One API process after the other takes over many new versions, so that requests find a core that is free.

Each reads them and has workers open them. All at once, and the workers too, they would want every core there is.
See docs/decisions/0048-many-versions-beside-requests.md.
"""

import contextlib
import fcntl
from collections.abc import AsyncIterator
from pathlib import Path

from service.waking import next_turn

_LOOK_S = 0.02


@contextlib.asynccontextmanager
async def alone(lock: Path) -> AsyncIterator[None]:
    """While this lasts, nobody else who names the same file is here; one who dies is here no longer."""
    with lock.open("wb") as file:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await next_turn(_LOOK_S)
        yield
