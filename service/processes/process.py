"""What the processes of a server agree on: exit statuses, log lines, and that none outlives the one that started it."""

import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Literal

from service.observing.log_lines import JsonLines, TextLines
from service.observing.log_stream import stderr

FAILED = 1
BAD_SETTINGS = 2
CANNOT_SERVE = 3
"""Exit status of a process that will not do better when it is started again; it has logged why."""

OWN_FILES = 256
"""Descriptors that an API process keeps for sockets of workers, counts, logs and the repository."""

READY = "ready"
"""File in the runtime folder that appears when the first API process is about to answer."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def start_logging(level: str, form: Literal["text", "json"] = "text") -> None:
    """Log to stderr, one line per event; what libraries say only from warnings on, unless someone debugs."""
    level_of_all = level.upper() if level != "info" else logging.WARNING
    logging.basicConfig(level=level_of_all, force=True, stream=stderr())
    logging.getLogger().handlers[0].setFormatter(JsonLines() if form == "json" else TextLines())
    logging.getLogger("service").setLevel(level.upper())
    log_like_the_rest("litserve")


def log_like_the_rest(library: str) -> None:
    """Take away the handlers that a library gave itself, so that its lines are written as all others are."""
    logger = logging.getLogger(library)
    logger.handlers.clear()
    logger.propagate = True


def take_short_turns() -> None:
    """Let a thread that opens a version hold the interpreter for 0.5 ms while requests wait for it, not for 5."""
    sys.setswitchinterval(0.0005)


def end_with(parent: int | None) -> None:
    """Let the kernel kill this process when the thread that started it ends; end now if `parent` has died already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        sys.exit(FAILED)


def may_open_many_files() -> None:
    """Raise the limit of open files to what is allowed: a connection is one, and 1024 is the usual limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def too_few_files() -> str | None:
    """Why so few files may be open that nobody could be answered; None when there are enough."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most > OWN_FILES:
        return None
    return f"a process may have {most} files open and needs {OWN_FILES} beside its connections; raise ulimit -n"


def die_before_others(score: int) -> None:
    """Have the kernel, when memory ends, kill this process rather than those with a lower score (0 to 1000)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(score))


def call_this(name: str) -> None:
    """Have `ps -e` and `top` show this process by a name, of which they keep 15 bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def leave_the_network() -> None:
    """Give up what a fork has of its parent's sockets: who opens strange files has no use for a port."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError):  # it is none
            one = socket.socket(fileno=descriptor)
            if one.family in {socket.AF_INET, socket.AF_INET6}:
                os.dup2(nothing, descriptor)  # not closed: the parent's object would close whatever has its number then
            one.detach()
    os.close(nothing)


def inherit_orphans() -> None:
    """Become the parent of grandchildren whose parent died, as PID 1 is."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def share_what_is_there() -> None:
    """Call it before a fork: let the garbage collector look no more at what is there, so that both go on sharing it.

    To look at an object it writes to it, and a page that is written to is copied.
    """
    gc.collect()
    gc.freeze()


def keep_what_is_there() -> None:
    """Let the garbage collector look no more at what the imports left, hundreds of thousands of objects, nor as often.

    A request leaves no cycles; one with 1000 rows makes as many lists, and would be held up by a collection or two.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
