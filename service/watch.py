"""Watches the processes of a server: starts again what died, with backoff, and ends all when told to.

It knows nothing of LitServe: a child is a process, a way to start it again, and a file that it makes once it is up.
"""

import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from service import process

_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 15.0

log = logging.getLogger(__name__)


@dataclass
class Child:
    """A process that must live as long as the server.

    Attributes:
        name: as an operator reads it, such as "inference worker 0".
        start: starts it again.
        up: a file that exists once it has been up.
        backoff_s: how long the next start waits if this one does not come up.
        due: when to start it again, by the monotonic clock; None while it lives.
    """

    name: str
    process: BaseProcess
    start: Callable[[], BaseProcess]
    up: Path
    backoff_s: float = _FIRST_BACKOFF_S
    due: float | None = None


class CannotServe(Exception):  # noqa: N818 - it says what the matter is
    """The server cannot start; the sentence is empty when a process has logged it already."""


def watch(children: list[Child], manager: BaseProcess, end: socket.socket, served: Path) -> int:
    """Keep the children alive until `end` is readable; the exit status that the server should have.

    Raises:
        CannotServe: a child died before anything was served, which is when `served` exists.
    """
    while True:
        happened = _sleep_until_something_happens(children, manager, end)
        if end in happened:
            return 0
        if manager.sentinel in happened:
            manager.join()
            log.error("LitServe's manager died %s; all processes are started again", _how(manager))
            return process.FAILED
        for child in children:
            if child.due is None and child.process.exitcode is not None:
                _plan_a_start(child, served)
            if child.due is not None and child.due <= time.monotonic():
                child.up.unlink(missing_ok=True)
                child.process, child.due = child.start(), None


def end_all(processes: list[BaseProcess], patience_s: float) -> None:
    """Ask all at once to end, and kill those that have not after `patience_s`."""
    for one in processes:
        one.terminate()
    deadline = time.monotonic() + patience_s
    for one in processes:
        one.join(max(0.0, deadline - time.monotonic()))
        if one.exitcode is None:
            log.warning("%s did not end within %.1f s; killed", one.name, patience_s)
            one.kill()
            one.join()


def check_that_all_live(processes: list[BaseProcess]) -> None:
    """Raise if one of them has died while the server starts.

    Raises:
        CannotServe: one has.
    """
    for one in processes:
        if one.exitcode == process.CANNOT_SERVE:
            raise CannotServe
        if one.exitcode is not None:
            raise CannotServe(f"{one.name} died {_how(one)} as it started")


def _sleep_until_something_happens(children: list[Child], manager: BaseProcess, end: socket.socket) -> list[Any]:
    alive = [child.process.sentinel for child in children if child.due is None]
    due = min((child.due for child in children if child.due is not None), default=None)
    patience = None if due is None else max(0.0, due - time.monotonic())
    return connection.wait([end, manager.sentinel, *alive], patience)


def _plan_a_start(child: Child, served: Path) -> None:
    if not served.exists():
        check_that_all_live([child.process])
    if child.up.exists():
        wait, child.backoff_s = 0.0, _FIRST_BACKOFF_S
    else:
        wait, child.backoff_s = child.backoff_s, min(_LONGEST_BACKOFF_S, 2 * child.backoff_s)
    child.due = time.monotonic() + wait
    log.error("%s died %s; it is started again in %.1f s", child.name, _how(child.process), wait)


def _how(one: BaseProcess) -> str:
    code = one.exitcode
    return f"by signal {-code}" if code is not None and code < 0 else f"with exit status {code}"
