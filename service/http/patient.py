"""What LitServe and uvicorn wake for in an API process that nobody asks, and need not.

uvicorn looks ten times a second whether it should end, and LitServe once a second whether an answer has come by a
queue; none ever does.
"""

import asyncio
import contextlib
from types import FrameType
from typing import Any

import uvicorn

from service.processes.waking import next_turn

_TICK_S = 1.0  # how often uvicorn must set the date of its headers


class PatientServer(uvicorn.Server):
    """uvicorn's server, which sleeps until it is told to end."""

    _loop: asyncio.AbstractEventLoop | None = None
    _told: asyncio.Event

    async def main_loop(self) -> None:
        """Return once the server should end."""
        self._told = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        told = asyncio.ensure_future(self._told.wait())
        while not await self.on_tick(0):  # 0: a tick at which the date is set
            tick = asyncio.ensure_future(next_turn(_TICK_S))
            await asyncio.wait((told, tick), return_when=asyncio.FIRST_COMPLETED)
            tick.cancel()
        told.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take the signal, which may come at any moment."""
        super().handle_exit(sig, frame)
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._told.set)


class NoQueue:
    """Stands where LitServe would get answers from: all of ours come by sockets."""

    async def areceive(self, *_: Any) -> None:
        """Wait for ever."""
        await asyncio.get_running_loop().create_future()
