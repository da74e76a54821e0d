import multiprocessing
import os
import socket
import threading
import time

import pytest

from service import process
from service.watch import CannotServe, Child, end_all, watch

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
def manager():
    """A process that lives."""
    manager = started(time.sleep, 60)
    yield manager
    end_all([manager], 5)


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


def test_a_child_that_does_not_come_up_is_started_again_after_ever_longer_waits(dying, manager, end, tmp_path):
    child, times = dying(1)
    (tmp_path / "served").touch()
    outcome = []
    began = time.monotonic()
    thread = threading.Thread(target=lambda: outcome.append(watch([child], manager, end, tmp_path / "served")))
    thread.start()
    while len(times) < 2:
        assert time.monotonic() < began + 10
        time.sleep(0.01)
    end_of(end)
    thread.join(5)
    assert outcome == [0]
    assert times[0] - began >= 0.4
    assert times[1] - times[0] >= 0.9


def end_of(end):
    end.shutdown(socket.SHUT_RDWR)


def test_a_child_that_was_up_is_started_again_at_once(dying, manager, end, tmp_path):
    child, times = dying(1)
    (tmp_path / "served").touch()
    child.up.touch()
    began = time.monotonic()
    thread = threading.Thread(target=watch, args=([child], manager, end, tmp_path / "served"))
    thread.start()
    while not times:
        assert time.monotonic() < began + 10
        time.sleep(0.005)
    end_of(end)
    thread.join(5)
    assert times[0] - began < 0.4
    assert not child.up.exists()


def test_a_child_that_dies_before_anything_was_served_ends_the_start(dying, manager, end, tmp_path):
    child, _ = dying(1)
    with pytest.raises(CannotServe, match="died with exit status 1 as it started"):
        watch([child], manager, end, tmp_path / "served")


def test_a_child_that_has_said_why_it_cannot_serve_is_not_talked_about(dying, manager, end, tmp_path):
    child, _ = dying(process.CANNOT_SERVE)
    with pytest.raises(CannotServe, match=r"^$"):
        watch([child], manager, end, tmp_path / "served")


def test_when_the_manager_dies_the_watch_gives_up(end, tmp_path):
    assert watch([], started(os._exit, 0), end, tmp_path / "served") == process.FAILED


def test_a_process_that_does_not_end_is_killed():
    stubborn = started(_ignore_sigterm)
    time.sleep(0.2)  # until it does
    end_all([stubborn], 0.2)
    assert stubborn.exitcode == -9


def _ignore_sigterm():
    import signal  # noqa: PLC0415 - in the child

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
