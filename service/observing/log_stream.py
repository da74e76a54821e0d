"""Where lines of the log go: to stderr, and nobody ever waits for whoever reads it.

A pipe fills up when its reader is stuck, be it a log shipper or a terminal after Ctrl-S. A write then takes until it
reads on, and an event loop that writes answers nobody. Here a line is written at once where there is room, so that it
is there whatever happens next. Where there is none it is kept, and a thread waits with it. What is more than may be
kept is lost, counted, and told once somebody reads again.
"""

import atexit
import contextlib
import functools
import logging
import os
import select
import socket
import stat
import threading
from collections.abc import Callable

_MOST_KEPT = 1 << 21  # bytes: twice the lines of 40,000 requests/s that the access log writes at once
_AT_ONCE = 4096  # bytes that a pipe takes whole (PIPE_BUF), whoever else writes to it
_LAST_WORDS_S = 0.5  # how long the end of a process waits for whoever reads

log = logging.getLogger(__name__)


class LogStream:
    """A descriptor that is written to without waiting, by any thread and in every fork.

    Attributes:
        lost: how many lines of this process nobody will read.
    """

    def __init__(self, descriptor: int, most_kept: int = _MOST_KEPT) -> None:
        self._descriptor, self._write_some = _without_waiting(descriptor)
        self._most_kept = most_kept
        self._begin()
        os.register_at_fork(after_in_child=self._begin)  # what is kept is the parent's to write

    def _begin(self) -> None:
        self._lock = threading.RLock()  # a signal's handler may log, too
        self._kept = bytearray()
        self._writer: threading.Thread | None = None
        self.lost = self._untold = 0

    def write(self, text: str) -> None:
        """Write whole lines; what `logging` calls."""
        self.write_lines(text.encode(errors="backslashreplace"))

    def write_lines(self, lines: bytes) -> None:
        """Write whole lines now, or as soon as somebody reads; or lose them."""
        with self._lock:
            if len(self._kept) + len(lines) > self._most_kept:
                self._lose(lines)
                return
            self._kept += lines
            if self._writer is None and not self._has_written():
                writer = threading.Thread(target=self._write_on, name="log", daemon=True)
                with contextlib.suppress(RuntimeError):  # there may be no more threads: the next line tries again
                    writer.start()
                    self._writer = writer

    def wait(self) -> None:
        """Let somebody read what is kept, for a moment; before a process ends."""
        writer = self._writer
        if writer is not None:
            writer.join(_LAST_WORDS_S)

    def _has_written(self) -> bool:
        """Write as much as there is room for; whether that was all."""
        while self._kept:
            end = self._kept.rfind(b"\n", 0, _AT_ONCE) + 1 or self._kept.find(b"\n") + 1 or len(self._kept)
            try:
                written = self._write_some(self._kept[:end])
            except BlockingIOError:
                return False
            except OSError:  # nobody will ever read it, or its disk is full
                self._lose(bytes(self._kept))
                self._kept.clear()
            else:
                del self._kept[:written]
        return True

    def _lose(self, lines: bytes) -> None:
        count = lines.count(b"\n")
        self.lost += count
        self._untold += count

    def _write_on(self) -> None:
        """What the thread does: wait for room until nothing is kept."""
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        while True:
            room.poll()
            with self._lock:
                if not self._has_written():
                    continue
                self._writer, untold, self._untold = None, self._untold, 0
            if untold:
                log.warning("%d lines of the log were lost, since nobody read it", untold)
            return


@functools.cache
def stderr() -> LogStream:
    """This process's; forks share it."""
    stream = LogStream(2)
    atexit.register(stream.wait)
    return stream


def _without_waiting(descriptor: int) -> tuple[int, Callable[[bytearray], int]]:
    """A descriptor of the same file, and what writes some bytes to it and never waits for a reader.

    To say O_NONBLOCK of the one that is there would say it of everybody's who has it, such as the shell's.
    """
    own = descriptor
    with contextlib.suppress(OSError):
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):  # such as journald's
            channel = socket.socket(fileno=os.dup(descriptor))
            return channel.fileno(), lambda some: channel.send(some, socket.MSG_DONTWAIT)
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return own, functools.partial(os.write, own)
