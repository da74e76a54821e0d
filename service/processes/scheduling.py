"""Who gets a core first, where API processes and inference workers want the same one.

A worker computes for milliseconds, an API process answers within a fraction of one. To the kernel both are alike, so
who woke for a request waits until the worker's slice is over. Here an API process asks for short slices, which begin
sooner, and a worker's thread for a small share of a core, that whoever wakes takes precedence over. Neither needs a
privilege. See docs/decisions/0033-who-gets-a-core-first.md.
"""

import contextlib
import ctypes
import math
import mmap
import os
import platform
import struct
import time

from service.processes.yielding import InlineRate, yielding

_NICE = 10  # about a tenth of a core beside a thread that never rests
_LOOK_S = 0.1  # of computing, before it is said whether a thread starves
_STARVES = 5.0  # times as long as it computed
_FULL_S = 10.0
_FIRST_FULL_S = 1.0  # what starves among the first batches after a start, when all come at once, soon does no more
_LONGEST_S = 0.25  # of a core for one batch: with a small share it could take as long as a batch that hangs

_SLICE_NS = 100_000  # the shortest that the kernel gives
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period


def take_short_slices() -> None:
    """Have the thread that calls run soon after it wakes: it gets what it got before, a little at a time.

    Linux from 6.12 on reads the slice of an ordinary thread from sched_setattr(2), others pass over it. Where that call
    is not allowed, or an operator has chosen another class for the process, all stays as it is.
    """
    _ask_for_slices(_SLICE_NS)


def take_ordinary_slices() -> None:
    """Have the thread that calls, whose slices are those of its parent, give way to threads that take short ones."""
    _ask_for_slices(0)


def _ask_for_slices(slice_ns: int) -> None:
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, slice_ns, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, attributes, 0)


class Hunger:
    """Until when threads have starved lately: in memory that the process which makes it and its forks share.

    Where one worker starves so do the others, and the one that is started in the place of a dead one: each would have
    to find it out on each of its connections, at the price of a batch that is held up. It lasts for a second, and for
    10 where threads starve again within 10 (docs/decisions/0081-what-is-beside-a-slow-model.md).
    """

    def __init__(self) -> None:
        """Nobody has."""
        self._until = memoryview(mmap.mmap(-1, 8)).cast("d")
        self._until[0] = -math.inf

    @property
    def lasts(self) -> bool:
        """Whether threads should ask for their full share."""
        return time.monotonic() < self._until[0]

    def begins(self) -> None:
        """A thread starves."""
        now, until = time.monotonic(), self._until[0]
        if now >= until:  # those that starved beside it tell nothing new
            self._until[0] = now + (_FULL_S if now < until + _FULL_S else _FIRST_FULL_S)


class Share:
    """How much of a core the thread of one connection to a worker asks for.

    A small one, since API processes rest most of the time, and what they leave is all that there is. Where they never
    rest, in a flood of requests or of refusals, or where others want the cores, the thread would starve. Then it must
    have its full share back, which no thread can give itself: another one takes over, with `next_share`. Where API
    processes compute a lot by themselves it yields meanwhile. Enter it for each batch.
    """

    next_share: "Share | None" = None
    _is_small = False

    def __init__(self, hunger: Hunger, inline_rate: InlineRate, full_until: float = 0.0) -> None:
        """Ask for as much as anybody until then, by `time.monotonic`, and in any case for the first batch."""
        self._hunger, self._inline_rate = hunger, inline_rate
        self._full_until = full_until
        self._is_short = False
        self._yields = contextlib.ExitStack()
        self._began = self._began_cpu = 0.0
        self._took_s = self._computed_s = 0.0

    def opens(self) -> None:
        """A version is about to be opened, on a connection on which nothing is computed: with less, for good."""
        if not self._is_small:
            _lower()
            self._is_small = True

    def __enter__(self) -> None:
        """A batch is about to be computed."""
        now = time.monotonic()
        if self._is_short and not self._is_small and now >= self._full_until and not self._hunger.lasts:
            _lower()
            self._is_small = True
        if self._inline_rate.is_high:
            self._yields.enter_context(yielding())
        self._began, self._began_cpu = now, time.thread_time()

    def __exit__(self, *_: object) -> None:
        """A batch was computed: say in `next_share` whether another thread should go on in the place of this one."""
        self._yields.close()
        self.next_share = self._next_share()

    def _next_share(self) -> "Share | None":
        now = time.monotonic()
        computed_s = time.thread_time() - self._began_cpu
        self._is_short = computed_s <= _LONGEST_S
        if not self._is_small:
            return None
        if not self._is_short:
            return Share(self._hunger, self._inline_rate, now + _FULL_S)
        took_s = now - self._began
        self._took_s += took_s
        self._computed_s += computed_s
        if _starves(took_s, computed_s) or _starves(self._took_s, self._computed_s):
            self._hunger.begins()
        if self._took_s >= _LOOK_S:
            self._took_s = self._computed_s = 0.0
        return Share(self._hunger, self._inline_rate) if self._hunger.lasts else None


def _starves(took_s: float, computed_s: float) -> bool:
    return took_s >= _LOOK_S and took_s > _STARVES * computed_s


class FullShare(Share):
    """For who computes where no API process does, such as on a GPU: as much as anybody."""

    def __init__(self) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def take_small_share() -> None:
    """Have the thread that calls, and those that it starts, ask for as little of a core as `Share` does, for good."""
    with contextlib.suppress(OSError):  # as below
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, os.getpid()) + _NICE)


def _lower() -> None:
    with contextlib.suppress(OSError):  # a system call that a container forbids
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + _NICE)  # of the calling thread alone
