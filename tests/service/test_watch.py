import contextlib
import errno
import math
import multiprocessing
import os
import re
import signal
import socket
import threading
import time

import pytest

from service.processes import process
from service.processes.busy import Busy, longest_s
from service.processes.watch import (
    _LOOK_S,
    _OVERSLEPT_S,
    CannotServe,
    Child,
    _sleep_until_something_happens,
    _why_it_hangs,
    drain,
    end_all,
    hear_of_children,
    watch,
)
from tests.server.conftest import until

HANG_S = 1.0
PATIENCE_S = 60.0  # for what comes at once on a machine that does nothing else
FORK = multiprocessing.get_context("fork")


def started(target, *arguments):
    child = FORK.Process(target=target, args=arguments)
    child.start()
    return child


@pytest.fixture
def end():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


@pytest.fixture
def heard():
    with hear_of_children() as heard:
        theirs = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
        yield heard
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.close(theirs)


@pytest.fixture
def dying(tmp_path):
    """A child whose process has ended with a status; `times` says when it was started again."""

    def make(status):
        times = []

        def start():
            times.append(time.monotonic())
            return started(os._exit, status)

        return Child("inference worker 0", started(os._exit, status), start, tmp_path / "up"), times

    return make


def test_a_child_that_does_not_come_up_is_started_again_after_ever_longer_waits(dying, heard, end, tmp_path):
    child, times = dying(1)
    (tmp_path / "served").touch()
    began = time.monotonic()
    thread = threading.Thread(target=watch, args=([child], heard, end, tmp_path / "served", HANG_S))
    thread.start()
    until(lambda: len(times) == 2)
    end_of(end)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert times[0] - began >= 0.4
    assert times[1] - times[0] >= 0.9


def end_of(end):
    end.shutdown(socket.SHUT_RDWR)


def test_a_child_that_was_up_is_started_again_at_once(dying, heard, end, tmp_path, caplog):
    child, times = dying(1)
    thread = watching(child, heard, end, tmp_path)
    until(lambda: times)
    end_of(end)
    thread.join(PATIENCE_S)
    assert caplog.messages[0] == "inference worker 0 died with exit status 1; it is started again in 0.0 s"
    assert not child.up.exists()


def test_a_child_for_which_there_is_no_memory_is_tried_again_and_harms_no_other(dying, heard, end, tmp_path, caplog):
    child, times = dying(1)
    start, failures = child.start, [OSError(errno.ENOMEM, "Cannot allocate memory")] * 2

    def start_at_last():
        if failures:
            raise failures.pop()
        return start()

    child.start = start_at_last
    thread = watching(child, heard, end, tmp_path)
    until(lambda: times)
    end_of(end)
    thread.join(PATIENCE_S)
    assert caplog.messages[1:3] == [
        "inference worker 0 cannot be started: Cannot allocate memory; it is tried again in 0.5 s",
        "inference worker 0 cannot be started: Cannot allocate memory; it is tried again in 1.0 s",
    ]


def test_a_child_that_dies_before_anything_was_served_ends_the_start(dying, heard, end, tmp_path):
    child, _ = dying(1)
    with pytest.raises(CannotServe, match="died with exit status 1 as it started"):
        watch([child], heard, end, tmp_path / "served", HANG_S)


def test_where_the_temporary_folder_was_removed_the_end_says_so(dying, heard, end, tmp_path):
    child, times = dying(1)
    with pytest.raises(CannotServe, match=r"temporary folder, .*/gone, was removed, so inference worker 0 cannot be"):
        watch([child], heard, end, tmp_path / "gone" / "served", HANG_S)
    assert times == []


def test_a_child_that_has_said_why_it_cannot_serve_is_not_talked_about(dying, heard, end, tmp_path):
    child, _ = dying(process.CANNOT_SERVE)
    with pytest.raises(CannotServe, match=r"^$"):
        watch([child], heard, end, tmp_path / "served", HANG_S)


def test_a_worker_that_cannot_be_started_again_while_the_server_ends_is_told_of_once(dying, tmp_path, caplog):
    """As where somebody has removed the temporary folder: it seems that nothing was ever served."""
    child, times = dying(1)
    child.process.join()
    ignores = FORK.Event()
    api = Child("API process 0", started(_ignore_sigterm, ignores), lambda: None, tmp_path / "api")
    assert ignores.wait(PATIENCE_S)
    drain([api], [child], tmp_path / "served", HANG_S, 2.0)
    assert caplog.messages.count("inference worker 0 could not be started again") == 1
    assert times == []


def watching(child, heard, end, tmp_path):
    (tmp_path / "served").touch()
    child.up.touch()
    thread = threading.Thread(target=watch, args=([child], heard, end, tmp_path / "served", HANG_S))
    thread.start()
    return thread


@pytest.fixture
def sleeping(tmp_path):
    """A child that lives and does nothing; its file of what it computes is `busy`."""
    path = tmp_path / "worker.busy"
    child = Child(
        "inference worker 0", started(time.sleep, 60), lambda: started(time.sleep, 60), tmp_path / "up", busy=path
    )
    yield child
    end_all([child.process], 5)


def test_a_child_that_computes_one_batch_for_too_long_is_killed_and_replaced(sleeping, heard, end, tmp_path, caplog):
    first = sleeping.process
    with Busy(sleeping.busy).place() as place, place:
        sleeping.began = time.monotonic()
        thread = watching(sleeping, heard, end, tmp_path)
        until(lambda: first.exitcode is not None)
        assert time.monotonic() - sleeping.began > HANG_S - 0.1
    until(lambda: sleeping.process is not first)
    time.sleep(0.5)  # what the first one did is not held against it
    assert sleeping.process.exitcode is None
    end_of(end)
    thread.join(PATIENCE_S)
    assert re.search(r"inference worker 0 has been at one thing for \d+\.\d s; killed", caplog.text)


@pytest.fixture
def _look_seldom(monkeypatch):
    monkeypatch.setattr("service.processes.watch._LOOK_S", 3600.0)


@pytest.mark.usefixtures("_look_seldom")  # the kernel tells
def test_a_child_that_is_stopped_is_killed_and_replaced(sleeping, heard, end, tmp_path, caplog):
    first = sleeping.process
    thread = watching(sleeping, heard, end, tmp_path)
    os.kill(first.pid, signal.SIGSTOP)
    until(lambda: sleeping.process is not first)
    end_of(end)
    thread.join(PATIENCE_S)
    assert "inference worker 0 is stopped; killed" in caplog.text


def test_a_child_that_is_stopped_again_and_again_is_not_one_that_stays_so(sleeping):
    hang_s = 50_000.0  # a fiftieth of it is more than this test takes
    for _ in range(4):
        os.kill(sleeping.process.pid, signal.SIGSTOP)
        until(lambda: _why_it_hangs(sleeping, hang_s) or sleeping.stopped)
        sleeping.stopped -= 900
        assert _why_it_hangs(sleeping, hang_s) is None
        os.kill(sleeping.process.pid, signal.SIGCONT)
        until(lambda: _why_it_hangs(sleeping, hang_s) or not sleeping.stopped)
    os.kill(sleeping.process.pid, signal.SIGSTOP)
    until(lambda: _why_it_hangs(sleeping, hang_s) or sleeping.stopped)
    sleeping.stopped -= 1100
    assert _why_it_hangs(sleeping, hang_s) == "is stopped"


def test_time_in_which_the_watch_was_stopped_as_well_is_held_against_nobody(tmp_path):
    """A container that is paused and goes on, or a virtual machine: nobody in it has hung."""
    hang_s = 500.0  # less than all of this seems to take, and more than it does
    busy = Busy(tmp_path / "busy")
    with busy.place() as place, place:
        busy._since[busy._since > 0] -= 2 * hang_s
        looking = started(_look_until_it_was_stopped, tmp_path / "busy", hang_s)
        while looking.exitcode is None:
            time.sleep(0.5)  # it sleeps in between, which is when it has to be stopped
            os.kill(looking.pid, signal.SIGSTOP)
            time.sleep(_LOOK_S + _OVERSLEPT_S + 0.5)
            os.kill(looking.pid, signal.SIGCONT)
            looking.join(0.5)
    assert looking.exitcode == 0


def _look_until_it_was_stopped(busy, hang_s):
    child = Child("inference worker 0", started(time.sleep, 60), lambda: None, busy.with_name("up"), busy=busy)
    child.stopped = -math.inf
    hung = _why_it_hangs(child, hang_s) is not None
    while child.counts_from == -math.inf:
        child.stopped = -math.inf
        _sleep_until_something_happens([child], [])
    child.process.kill()
    os._exit(0 if hung and child.stopped is None and _why_it_hangs(child, hang_s) is None else 1)


def test_many_short_batches_are_not_a_long_one(tmp_path):
    busy = Busy(tmp_path / "busy")
    with busy.place() as place:
        for _ in range(10):
            began = time.monotonic()
            with place:
                time.sleep(0.02)
                longest = longest_s(tmp_path / "busy")
            assert 0.02 <= longest <= time.monotonic() - began
        assert longest_s(tmp_path / "busy") == 0


def test_connections_beyond_all_places_are_served_unwatched(tmp_path):
    busy = Busy(tmp_path / "busy")
    with contextlib.ExitStack() as connections:
        places = [connections.enter_context(busy.place()) for _ in range(600)]
        with places[-1]:
            assert longest_s(tmp_path / "busy") == 0
    with busy.place() as place, place:
        assert longest_s(tmp_path / "busy") > 0


def test_a_process_that_does_not_end_is_killed():
    ignores = FORK.Event()
    stubborn = started(_ignore_sigterm, ignores)
    assert ignores.wait(PATIENCE_S)
    end_all([stubborn], 0.2)
    assert stubborn.exitcode == -9


def _ignore_sigterm(ignores):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ignores.set()
    time.sleep(60)
