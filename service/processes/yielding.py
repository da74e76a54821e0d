"""A thread that computes, or opens versions, lets API processes run in between.

Beside threads that compute small batches all the time, a worker's gets its part of a core rarely, and then until the
kernel looks again whose turn it is: 4 ms where it looks 250 times a second. So it gives its core away every half
millisecond. It yields where it computes while API processes hardly rest (docs/decisions/0066-who-computes-yields.md),
and rests where it opens, for which nobody waits (docs/decisions/0073-who-opens-rests.md).
"""

import asyncio
import contextlib
import ctypes
import mmap
import signal
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from service.processes.waking import next_turn

_YIELD_EVERY_NS = 500_000
_REST_EVERY_NS = 530_000  # no part of a tick: who sleeps at every one is never seen to compute
_MANY_PER_S = 1000.0  # of batches of some 50 µs; where there are fewer, API processes rest enough to be let in at once
_TELL_S = 1.0

_SIGEVENT = struct.Struct("@Piii44x")  # value, signal, how, thread; on 64 bits, see sigevent(3type)
_TIMES = struct.Struct("@llll")  # every so many s and ns, and the first after s and ns
_YIELD = signal.SIGRTMIN + 6
_REST = signal.SIGRTMIN + 7
_CLOCK_MONOTONIC = 1
_SIGEV_THREAD_ID = 4

_c = ctypes.CDLL(None)


class InlineRate:
    """How often the API processes compute by themselves: in memory that the process which makes it and its forks share.

    How much of the cores they take would not do: to refuse what comes for a slow model takes much of them too, and
    whoever computes should not yield to that.
    """

    def __init__(self, processes: int) -> None:
        """Never, as long as nobody tells."""
        self._per_s = memoryview(mmap.mmap(-1, 8 * processes)).cast("d")

    @property
    def is_high(self) -> bool:
        """Whether who computes should yield."""
        return sum(self._per_s) > _MANY_PER_S

    @contextlib.asynccontextmanager
    async def told_by(self, slot: int, given: Callable[[], int]) -> AsyncIterator[None]:
        """Tell once a second how often the API process of that slot did, which counts them in `given`."""
        task = asyncio.create_task(self._tell(slot, given))
        try:
            yield
        finally:
            task.cancel()
            self._per_s[slot] = 0.0

    async def _tell(self, slot: int, given: Callable[[], int]) -> None:
        while True:
            began, before = time.monotonic(), given()
            await next_turn(_TELL_S)
            self._per_s[slot] = (given() - before) / (time.monotonic() - began)


@contextlib.contextmanager
def yielding() -> Iterator[None]:
    """Have the thread that calls, and no other, yield every half millisecond, whatever code it is in."""
    with _calling(_c.sched_yield, _YIELD, _YIELD_EVERY_NS):
        yield


@contextlib.contextmanager
def resting() -> Iterator[None]:
    """Have the thread that calls, and no other, sleep some 40 µs every 0.53 ms, whatever code it is in.

    Whoever waits has the core at once. One that yields gives up the rest of its turn beside that; this one does not.
    """
    with _calling(_c.usleep, _REST, _REST_EVERY_NS):  # a handler is given its signal's number, here as microseconds
        yield


@contextlib.contextmanager
def _calling(function: Any, number: int, every_ns: int) -> Iterator[None]:
    """Have this thread call a function of the C library again and again, by a signal of this number.

    A timer signals the thread, and what handles the signal is the function itself: no Python runs for it. Where there
    are no such timers, nothing is called.
    """
    timer = ctypes.c_void_p()
    event = _SIGEVENT.pack(0, number, _SIGEV_THREAD_ID, threading.get_native_id())
    _c.signal(number, function)
    try:
        failed = _c.timer_create(_CLOCK_MONOTONIC, event, ctypes.byref(timer))
    except AttributeError:  # a C library without it
        failed = True
    if failed:
        yield
        return
    _c.timer_settime(timer, 0, _TIMES.pack(0, every_ns, 0, every_ns), None)
    try:
        yield
    finally:
        _c.timer_delete(timer)
