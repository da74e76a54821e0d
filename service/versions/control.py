"""What an operator orders by request, and how all API processes of a server come to obey.

Which models are unloaded stands in one file of the server's private folder. So it holds for every process, also for one
that takes a dead one's place, and is forgotten when the server as a whole is started again. Labels stand in the
repository. Whoever changes either of them tells every API process to look at once, and waits until each has.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from models.files import locked
from service.problems import NotReady

_PATIENCE_S = 60.0  # for one process to open what is new
_LONGEST_NAME = 200

log = logging.getLogger(__name__)


class Unloaded:
    """The models that are not served because somebody said so, the same for every process of a server."""

    def __init__(self, runtime: Path) -> None:
        """Keep the file in `runtime`, which outlives every process but the supervising one."""
        self._path = runtime / "unloaded.json"
        self._stamp: tuple[int, int] | None = None
        self._names: frozenset[str] = frozenset()

    def __call__(self) -> frozenset[str]:
        """The names; the file is read again only when it was replaced."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return frozenset()
        stamp = (status.st_ino, status.st_mtime_ns)
        if stamp != self._stamp:
            self._names, self._stamp = frozenset(json.loads(self._path.read_bytes())), stamp
        return self._names

    def change(self, name: str, *, is_unloaded: bool) -> None:
        """Unload a model, or take that back."""
        with locked(self._path.with_suffix(".lock")):
            names = {*self(), name} if is_unloaded else {*self()} - {name}
            beside = self._path.with_suffix(".new")
            beside.write_text(json.dumps(sorted(names)))
            beside.replace(self._path)


@asynccontextmanager
async def listen(runtime: Path, slot: int, look: Callable[[str | None], Awaitable[None]]) -> AsyncIterator[None]:
    """Call `look` whenever some process says so, with the model that it names, and tell it when that is done."""

    async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            await look(line.decode().strip() or None)
            writer.write(b"\n")
            await writer.drain()
        except Exception:
            log.exception("an order to look at the repository could not be obeyed")
        finally:
            writer.close()

    path = runtime / f"look-{slot}.sock"
    path.unlink(missing_ok=True)  # of a process that died
    server = await asyncio.start_unix_server(obey, path, limit=_LONGEST_NAME)
    try:
        yield
    finally:
        server.close()


async def tell_all(runtime: Path, again: str = "") -> None:
    """Have every API process look at the repository now, and at what it refused of the model `again` once more.

    Raises:
        NotReady: one of them lives and has not done so in time; it will, by itself.
    """
    processes = await asyncio.to_thread(lambda: list(runtime.glob("look-*.sock")))
    told = await asyncio.gather(*(_tell(path, again) for path in processes))
    if not all(told):
        raise NotReady("the change is made, and not every process of this server has taken it over yet")


async def _tell(path: Path, again: str) -> bool:
    """Whether a process has looked, or is not there to."""
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError:  # it died; the one that takes its place reads everything as it starts
        return True
    try:
        async with asyncio.timeout(_PATIENCE_S):
            writer.write(again.encode() + b"\n")
            return await reader.readline() == b"\n"
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
