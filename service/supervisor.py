"""The process that `python -m service` is: small, and alive whatever happens to the others.

It takes the signals, starts LitServe's main process, starts it again when it dies, and leaves no process behind. It
imports neither LitServe nor a runtime, so its child may be forked from it at any time.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from service.observing import log_stream
from service.processes import process
from service.processes.run_folder import remove_what_killed_servers_left, run_folder
from service.settings import Settings

_ENDS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP}
_SIGNALS = {*_ENDS, signal.SIGCHLD}
_MEAN_NOTHING = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM}  # without a handler they would end a process
_GRACE_S = 3.0  # beyond drain_s, for the processes that hold no request
_LOOK_S = 0.5  # how often it looks whether it was stopped itself
_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 15.0
_KILLED_S = 5.0  # what is left of a process that was killed
_SETTLED_S = 60.0  # what has run for so long and dies has not died of its start

log = logging.getLogger(__name__)


def supervise(settings: Settings) -> int:
    """Serve until SIGTERM, SIGINT, SIGQUIT or SIGHUP; the exit status.

    0 after a drain; 3 when the server cannot start, and the log says why; 1 when it had to be ended by force.
    """
    _become_the_reaper()
    process.may_open_many_files()
    remove_what_killed_servers_left(Path(os.environ.get("TMPDIR") or "/tmp"))  # noqa: S108 - before one looks for room
    if (reason := process.too_few_files() or _cannot_be_temporary()) is not None:
        log.error(reason)
        return process.CANNOT_SERVE
    with run_folder() as runtime:
        if (reason := _has_no_sockets(runtime)) is not None:
            log.error(reason)
            return process.CANNOT_SERVE
        (runtime / "metrics").mkdir()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(runtime / "metrics")  # kept from one main process to the next
        try:
            return _keep_running(settings, runtime)
        finally:
            _end_everything()


def _cannot_be_temporary() -> str | None:
    """Why nothing can be written to the folder for temporary files; None when it can. Python would take another one."""
    named = os.environ.get("TMPDIR")
    try:
        found = tempfile.gettempdir()
    except FileNotFoundError:
        return "there is no folder for temporary files that can be written to; name one in TMPDIR"
    if named and Path(named).absolute() != Path(found):
        return f"TMPDIR names {named}, and nothing can be written there"
    return None


def _has_no_sockets(runtime: Path) -> str | None:
    """Why no process could listen in the folder; None when all can. The kernel takes paths of 107 bytes at most."""
    longest = runtime / "worker-1000.sock.new"
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(str(longest))
        except OSError as error:
            return f"no socket can be made in {runtime}: {error}; name another in TMPDIR, or one of a shorter path"
    longest.unlink()
    return None


def _keep_running(settings: Settings, runtime: Path) -> int:
    backoff = 0.0  # at once, unless it has just been started again
    while True:
        started = time.monotonic()
        try:
            main, order = _start_main(settings, runtime)
        except OSError as error:  # no memory for one more process, or as many of them as there may be
            backoff = _longer(backoff)
            log.error("the main process cannot be started: %s; it is tried again in %.1f s", error.strerror, backoff)  # noqa: TRY400 - one sentence
            if _sleep_or_signal(backoff):
                return 0
            continue
        status = _wait(main, None)
        if status is None:  # it is to end
            return _drain(main, order, settings.drain_s + _GRACE_S, (runtime / process.READY).exists())
        order.close()
        _end_everything()
        if not (runtime / process.READY).exists():  # it never served: to start it again would not help
            if status != process.CANNOT_SERVE:
                log.error("the main process ended with status %d before it could serve", status)
            return status or process.FAILED
        (runtime / process.READY).unlink()
        if time.monotonic() - started > _SETTLED_S:
            backoff = 0.0
        log.error("the main process ended with status %d; it is started again in %.1f s", status, backoff)
        if _sleep_or_signal(backoff):
            return 0
        backoff = _longer(backoff)


def _longer(backoff: float) -> float:
    return min(_LONGEST_BACKOFF_S, max(_FIRST_BACKOFF_S, 2 * backoff))


def _start_main(settings: Settings, runtime: Path) -> tuple[int, socket.socket]:
    """LitServe's main process, and the socket that is closed to end it.

    Raises:
        OSError: the kernel makes no process now.
    """
    ours, theirs = socket.socketpair()  # closed once nobody refers to them, if no process can be made
    parent = os.getpid()
    process.share_what_is_there()
    child = os.fork()
    if child:
        theirs.close()
        return child, ours
    status = 1
    try:
        ours.close()
        _become_main(parent)
        os.environ["TMPDIR"] = tempfile.tempdir = str(runtime)  # else what a killed process had in one stays
        from service import server  # noqa: PLC0415 - LitServe belongs to the child

        status = server.serve(settings, runtime, theirs)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        log.exception("the main process failed")
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        log_stream.stderr().wait()
        os._exit(status)  # nothing of the parent's is cleaned up by the child


def _become_main(parent: int) -> None:
    """End with the parent, and leave signals that reach every process of a group or container to the parent."""
    process.end_with(parent)
    for number in _ENDS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, which lets requests in flight finish


def _drain(main: int, order: socket.socket, patience_s: float, has_served: bool) -> int:
    if not has_served:  # nothing was accepted yet
        return 0
    log.info("ending: requests in flight are finished")
    os.kill(main, signal.SIGCONT)  # one that was stopped would not hear it
    order.close()
    status = _wait(main, patience_s)
    if status is None:
        log.error("not ended after %.0f s; killed", patience_s)
        return 1
    return status


def _wait(main: int, patience_s: float | None) -> int | None:
    """The exit status of the main process; None after `patience_s` or, when there is none, at a signal to end.

    Time in which this process was stopped does not count: a paused container stops those that it waits for, too.
    """
    while True:
        for child, status in _reap():
            if child == main:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        if patience_s is None:
            if signal.sigwait(_SIGNALS) != signal.SIGCHLD:
                return None
        elif patience_s <= 0:
            return None
        else:
            began = time.monotonic()
            signal.sigtimedwait(_SIGNALS, min(patience_s, _LOOK_S))
            patience_s -= min(time.monotonic() - began, _LOOK_S)


def _sleep_or_signal(seconds: float) -> bool:
    """Whether a signal to end came while sleeping."""
    deadline = time.monotonic() + seconds
    while (rest := deadline - time.monotonic()) > 0:
        came = signal.sigtimedwait(_SIGNALS, rest)
        if came is not None and came.si_signo != signal.SIGCHLD:
            return True
    return False


def _become_the_reaper() -> None:
    """Take signals one at a time and in order, even as PID 1, and inherit grandchildren whose parent died."""
    has_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    taken = _SIGNALS - {signal.SIGHUP} if has_nohup else _SIGNALS
    for number in taken:
        signal.signal(number, lambda *_: None)  # PID 1 never receives what has no handler
    for number in _MEAN_NOTHING:
        signal.signal(number, signal.SIG_IGN)  # in all processes, which are forks
    signal.pthread_sigmask(signal.SIG_SETMASK, taken)
    process.inherit_orphans()


def _reap() -> list[tuple[int, int]]:
    """Every child that has ended: process and status."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while (child := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            ended.append(child)
    return ended


def _end_everything() -> None:
    """Kill what is left below this process, and wait until it is gone."""
    deadline = time.monotonic() + _KILLED_S
    while children := _children():
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        _reap()
        if time.monotonic() > deadline:
            log.error("these processes could not be ended: %s", children)
            return
        signal.sigtimedwait({signal.SIGCHLD}, 0.05)


def _children() -> list[int]:
    """Children that have not been waited for. Grandchildren become children when their parent is killed."""
    try:
        return [int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:  # a kernel without this file: PR_SET_PDEATHSIG ends them all the same
        return []
