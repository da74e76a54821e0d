import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time

import pytest

from service import process
from service.busy import Busy, longest_s
from service.watch import CannotServe, Child, end_all, watch

HANG_S = 4.0
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
def dying(tmp_path):
    """A child whose process has ended with a status; `times` says when it was started again."""

    def make(status):
        times = []

        def start():
            times.append(time.monotonic())
            return started(os._exit, status)

        return Child("inference worker 0", started(os._exit, status), start, tmp_path / "up"), times

    return make


def test_a_child_that_does_not_come_up_is_started_again_after_ever_longer_waits(dying, end, tmp_path):
    child, times = dying(1)
    (tmp_path / "served").touch()
    began = time.monotonic()
    thread = threading.Thread(target=watch, args=([child], end, tmp_path / "served", HANG_S))
    thread.start()
    while len(times) < 2:
        assert time.monotonic() < began + 10
        time.sleep(0.01)
    end_of(end)
    thread.join(5)
    assert not thread.is_alive()
    assert times[0] - began >= 0.4
    assert times[1] - times[0] >= 0.9


def end_of(end):
    end.shutdown(socket.SHUT_RDWR)


def test_a_child_that_was_up_is_started_again_at_once(dying, end, tmp_path):
    child, times = dying(1)
    (tmp_path / "served").touch()
    child.up.touch()
    began = time.monotonic()
    thread = threading.Thread(target=watch, args=([child], end, tmp_path / "served", HANG_S))
    thread.start()
    while not times:
        assert time.monotonic() < began + 10
        time.sleep(0.005)
    end_of(end)
    thread.join(5)
    assert times[0] - began < 0.4
    assert not child.up.exists()


def test_a_child_that_dies_before_anything_was_served_ends_the_start(dying, end, tmp_path):
    child, _ = dying(1)
    with pytest.raises(CannotServe, match="died with exit status 1 as it started"):
        watch([child], end, tmp_path / "served", HANG_S)


def test_a_child_that_has_said_why_it_cannot_serve_is_not_talked_about(dying, end, tmp_path):
    child, _ = dying(process.CANNOT_SERVE)
    with pytest.raises(CannotServe, match=r"^$"):
        watch([child], end, tmp_path / "served", HANG_S)


def watching(child, end, tmp_path):
    (tmp_path / "served").touch()
    child.up.touch()
    thread = threading.Thread(target=watch, args=([child], end, tmp_path / "served", HANG_S))
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


def until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_child_that_computes_one_batch_for_too_long_is_killed_and_replaced(sleeping, end, tmp_path, caplog):
    first = sleeping.process
    with Busy(sleeping.busy).place() as place, place:
        sleeping.began = time.monotonic()
        thread = watching(sleeping, end, tmp_path)
        until(lambda: first.exitcode is not None, HANG_S + 2)
        assert time.monotonic() - sleeping.began > HANG_S - 0.1
    until(lambda: sleeping.process is not first, 2)
    time.sleep(0.5)  # what the first one did is not held against it
    assert sleeping.process.exitcode is None
    end_of(end)
    thread.join(5)
    assert "inference worker 0 has been at one thing for 4." in caplog.text


def test_a_child_that_is_stopped_is_killed_and_replaced_and_one_that_goes_on_is_not(sleeping, end, tmp_path):
    first = sleeping.process
    thread = watching(sleeping, end, tmp_path)
    for _ in range(4):  # never for a fiftieth of HANG_S, yet for more of it in all
        os.kill(first.pid, signal.SIGSTOP)
        time.sleep(0.03)
        os.kill(first.pid, signal.SIGCONT)
        time.sleep(0.25)
    assert first.exitcode is None
    os.kill(first.pid, signal.SIGSTOP)
    until(lambda: sleeping.process is not first, 1)
    end_of(end)
    thread.join(5)


def test_many_short_batches_are_not_a_long_one(tmp_path):
    busy = Busy(tmp_path / "busy")
    with busy.place() as place:
        for _ in range(10):
            with place:
                time.sleep(0.02)
                assert 0.015 < longest_s(tmp_path / "busy") < 0.1
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
    stubborn = started(_ignore_sigterm)
    time.sleep(0.2)  # until it does
    end_all([stubborn], 0.2)
    assert stubborn.exitcode == -9


def _ignore_sigterm():
    import signal  # noqa: PLC0415 - in the child

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
