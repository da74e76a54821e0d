"""Watches the processes of a server: kills what hangs, starts again what died, with backoff, and ends all when told to.

It knows nothing of LitServe: a child is a process, a way to start it again, and a file that it makes once it is up.
"""

import contextlib
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from service.processes import process
from service.processes.busy import longest_s

_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 15.0
_LOOK_S = 1.0  # how often processes are looked at that may hang
_LOOK_AGAIN_S = 0.05  # and where one is stopped, which it may be for a moment
_OVERSLEPT_S = 2.0  # who sleeps for so much longer than he meant to was stopped himself

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
        busy: the file in which it says since when it does what, see service/processes/busy.py; None for one that does
            not.
        stopped: since when it has been seen to be stopped, by the monotonic clock; None while it runs.
        counts_from: what it did before, by the monotonic clock, is not held against it.
    """

    name: str
    process: BaseProcess
    start: Callable[[], BaseProcess]
    up: Path
    backoff_s: float = _FIRST_BACKOFF_S
    due: float | None = None
    busy: Path | None = None
    stopped: float | None = None
    counts_from: float = -math.inf


class CannotServe(Exception):
    """The server cannot start, or go on; the sentence is empty when a process has logged it already."""

    def tell(self) -> None:
        """Log the sentence, where there is one."""
        if str(self):
            log.error("%s", self)


def hear_of_children() -> socket.socket:
    """A socket that is readable once a child has been stopped, or ended; for the main thread to make, once."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # Python writes to the socket only where there is a handler
    signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_hear_nothing)
    return ours


def _hear_nothing() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def watch(children: list[Child], heard: socket.socket, end: socket.socket, served: Path, hang_s: float) -> None:
    """Keep the children alive until `end` is readable; `heard` is readable when something has happened to one.

    A child that computes one thing for longer than `hang_s`, or is stopped for a fiftieth of it, is killed. Time in
    which this process was stopped itself does not count: a paused container, or machine, stops all of them.

    Raises:
        CannotServe: a child died before anything was served, which is when `served` exists.
    """
    while end not in _sleep_until_something_happens(children, [heard, end]):
        with contextlib.suppress(BlockingIOError):
            heard.recv(4096)
        for child in children:
            _look_after(child, served, hang_s)


def drain(apis: list[Child], workers: list[Child], served: Path, hang_s: float, patience_s: float) -> int:
    """Let the API processes end with what they have, and keep the workers alive until then; how many were killed.

    A worker that dies now may hold what was accepted. Time in which this process was stopped itself does not count.
    """
    for api in apis:
        api.process.terminate()
    while patience_s > 0 and (left := [api.process.sentinel for api in apis if api.process.exitcode is None]):
        began = time.monotonic()
        _sleep_until_something_happens(workers, left, min(patience_s, _LOOK_S))
        patience_s -= min(time.monotonic() - began, _LOOK_S)
        for worker in workers:
            try:
                _look_after(worker, served, hang_s)
            except CannotServe:  # there was one that could: the others may
                log.warning("%s could not be started again", worker.name)
                worker.due = math.inf
    return end_all([api.process for api in apis], max(0.0, patience_s))


def _look_after(child: Child, served: Path, hang_s: float) -> None:
    """Kill it if it hangs, and start it again if it died and its backoff is over."""
    if child.due is None and child.process.exitcode is not None:
        _plan_a_start(child, served)
    if child.due is not None and child.due <= time.monotonic():
        child.up.unlink(missing_ok=True)
        if child.busy is not None:  # else the next one hangs from the start
            child.busy.unlink(missing_ok=True)
        try:
            child.process = child.start()
        except OSError as error:  # no memory for one more process, or more of them than there may be
            wait = _ever_longer(child)
            log.error("%s cannot be started: %s; it is tried again in %.1f s", child.name, error.strerror, wait)  # noqa: TRY400 - one sentence
            child.due = time.monotonic() + wait
        else:
            child.due = child.stopped = None
    if child.due is None and (reason := _why_it_hangs(child, hang_s)):
        log.error("%s %s; killed", child.name, reason)
        child.process.kill()
        child.process.join()


def end_all(processes: list[BaseProcess], patience_s: float) -> int:
    """Ask all at once to end, and kill those that have not after `patience_s`; how many were killed."""
    killed = 0
    for one in processes:
        one.terminate()
    deadline = time.monotonic() + patience_s
    for one in processes:
        one.join(max(0.0, deadline - time.monotonic()))
        if one.exitcode is None:
            log.warning("%s did not end within %.1f s; killed", one.name, patience_s)
            one.kill()
            one.join()
            killed += 1
    return killed


def check_that_all_live(processes: list[BaseProcess]) -> None:
    """Raise if one of them has died while the server starts.

    Raises:
        CannotServe: one has.
    """
    for one in processes:
        code = one.exitcode  # once: it may end between two looks
        if code == process.CANNOT_SERVE:
            raise CannotServe
        if code is not None:
            raise CannotServe(f"{one.name} died {_how(one)} as it started")


def _sleep_until_something_happens(
    children: list[Child], others: Sequence[socket.socket | int], longest_s: float = math.inf
) -> list[Any]:
    alive = [child.process.sentinel for child in children if child.due is None]
    due = min((child.due for child in children if child.due is not None), default=math.inf)
    is_stopped = any(child.stopped is not None for child in children)
    patience = min(longest_s, _LOOK_AGAIN_S if is_stopped else _LOOK_S, max(0.0, due - time.monotonic()))
    began = time.monotonic()
    happened = connection.wait([*others, *alive], patience)
    if (now := time.monotonic()) - began > patience + _OVERSLEPT_S:
        for child in children:
            child.stopped, child.counts_from = None, now
    return happened


def _why_it_hangs(child: Child, hang_s: float) -> str | None:
    """What is wrong with a child that lives; None when nothing is."""
    if not _is_stopped(child.process):
        child.stopped = None
    elif child.stopped is None:
        child.stopped = time.monotonic()
    elif time.monotonic() - child.stopped > hang_s / 50:  # a stopped process is one for sure, a slow one may be slow
        return "is stopped"
    seconds = min(longest_s(child.busy), time.monotonic() - child.counts_from) if child.busy is not None else 0.0
    return f"has been at one thing for {seconds:.1f} s" if seconds > hang_s else None


def _is_stopped(one: BaseProcess) -> bool:
    """Whether a signal stopped it; a debugger does not count."""
    assert one.pid is not None
    try:  # one call to the kernel; /proc/<pid>/stat costs thirty times as much
        return os.waitid(os.P_PID, one.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # it has ended
        return False


def _plan_a_start(child: Child, served: Path) -> None:
    if not served.exists():
        if not served.parent.exists():
            raise CannotServe(
                f"the server's temporary folder, {served.parent}, was removed, "
                f"so {child.name} cannot be started again; start the server again"
            )
        check_that_all_live([child.process])
    if child.up.exists():
        wait, child.backoff_s = 0.0, _FIRST_BACKOFF_S
    else:
        wait = _ever_longer(child)
    child.due = time.monotonic() + wait
    log.error("%s died %s; it is started again in %.1f s", child.name, _how(child.process), wait)


def _ever_longer(child: Child) -> float:
    """How long it waits this time."""
    wait, child.backoff_s = child.backoff_s, min(_LONGEST_BACKOFF_S, 2 * child.backoff_s)
    return wait


def _how(one: BaseProcess) -> str:
    code = one.exitcode
    return f"by signal {-code}" if code is not None and code < 0 else f"with exit status {code}"
