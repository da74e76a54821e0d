"""How fast each client may ask: token buckets in a table that all API processes share.

A bucket is one number, the time at which it will be full again: the generic cell rate algorithm (ITU-T I.371, annex
A). The table is a file of a fixed size in the server's private folder, mapped by every process. A client's place is
found by a keyed digest of its name, so nobody can choose an address that shares a place with another's.

What is guaranteed: however many processes answer, a client gets at most its burst and its rate together, for a change
is made under a lock on the bytes that change. The kernel opens the lock of a process that dies. One that is stopped
within the microsecond in which it holds the lock is not waited for: then two changes may count as one.
"""

import fcntl
import hashlib
import math
import mmap
import os
import secrets
import struct
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

from service.problems import RateLimited

_SETS = 4096
_WAYS = 8  # clients that share a set; beyond them the one that asked least is forgotten, which gives it a full bucket
_SET = struct.Struct(f"={2 * _WAYS}Q")
_WAY = struct.Struct("=2Q")
_TRIES = 50


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a client may ask.

    Attributes:
        interval_ns: nanoseconds between two requests of a client that asks steadily.
        burst: requests that may come at once after a pause.
        policy: the same as the header RateLimit-Policy says it.
    """

    interval_ns: int
    burst: int
    policy: str

    @classmethod
    def of(cls, per_s: float, burst: int | None = None) -> Self:
        """So many requests per second; `burst`, if not given, is what one second allows."""
        burst = max(1, math.ceil(per_s)) if burst is None else burst
        return cls(round(1e9 / per_s), burst, f'"requests";q={burst};w={math.ceil(burst / per_s)}')


class Limits:
    """The table of buckets: 32,768 clients in half a megabyte."""

    @staticmethod
    def make(path: Path) -> None:
        """Make an empty table, unless there is one.

        Raises:
            OSError: the disk has no room for it.
        """
        if not path.exists():
            with path.open("wb") as file:
                file.write(secrets.token_bytes(_SET.size))  # the key of the digests
                file.flush()
                os.posix_fallocate(file.fileno(), 0, _SET.size * (1 + _SETS))  # a mapped page without room is SIGBUS

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._table = mmap.mmap(self._file, 0)
        self._place_of = lru_cache(maxsize=4096)(self._place)

    def _place(self, who: str) -> tuple[int, int]:
        """A client's number, never 0, and where its set begins."""
        digest = hashlib.blake2b(who.encode(), digest_size=8, key=self._table[:64]).digest()
        number = int.from_bytes(digest, "little") or 1
        return number, _SET.size * (1 + number % _SETS)

    def spend(self, who: str, rate: Rate) -> int:
        """Take one token from a client's bucket; how many are left.

        Raises:
            RateLimited: there was none.
        """
        number, start = self._place_of(who)
        is_locked = self._lock(start)
        try:
            found = _SET.unpack_from(self._table, start)
            now = time.monotonic_ns()
            way = _way_of(found, number)
            full_at = max(found[2 * way + 1], now) if found[2 * way] == number else now
            whole = rate.burst * rate.interval_ns
            after = full_at + rate.interval_ns - now
            if after > whole:
                raise RateLimited((after - whole) / 1e9, rate.policy)
            _WAY.pack_into(self._table, start + way * _WAY.size, number, now + after)
        finally:
            if is_locked:
                fcntl.lockf(self._file, fcntl.LOCK_UN, _SET.size, start)
        return (whole - after) // rate.interval_ns

    def _lock(self, start: int) -> bool:
        for _ in range(_TRIES):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, _SET.size, start)
            except OSError:
                os.sched_yield()
            else:
                return True
        return False

    def close(self) -> None:
        """Let go of the table."""
        self._table.close()
        os.close(self._file)


def _way_of(found: tuple[int, ...], number: int) -> int:
    """The client's own way in its set; else the one whose bucket is nearest to being full."""
    numbers = found[::2]
    if number in numbers:
        return numbers.index(number)
    times = found[1::2]
    return times.index(min(times))
