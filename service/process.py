"""What the processes of a server agree on: exit statuses, log lines, and that none outlives the one that started it."""

import ctypes
import logging
import os
import signal
import sys

FAILED = 1
BAD_SETTINGS = 2
CANNOT_SERVE = 3
"""Exit status of a process that will not do better when it is started again; it has logged why."""

READY = "ready"
"""File in the runtime folder that appears when the first API process is about to answer."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def start_logging(level: str) -> None:
    """Log to stderr, one line per event; what libraries say only from warnings on, unless someone debugs."""
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=level.upper() if level != "info" else logging.WARNING, format=form, force=True)
    for ours in ("service", "rowcast"):
        logging.getLogger(ours).setLevel(level.upper())


def take_short_turns() -> None:
    """Let a thread that opens a version hold the interpreter for 0.5 ms while requests wait for it, not for 5."""
    sys.setswitchinterval(0.0005)


def end_with(parent: int | None) -> None:
    """Let the kernel kill this process when the thread that started it ends; end now if `parent` has died already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        sys.exit(FAILED)


def inherit_orphans() -> None:
    """Become the parent of grandchildren whose parent died, as PID 1 is."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
