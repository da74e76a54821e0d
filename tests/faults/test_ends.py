"""However a server is told to end: who was accepted is answered, nobody else is, and nothing is left behind."""

import contextlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.accounting import Load
from tests.faults.conftest import RUNS
from tests.server.conftest import START_S, pid_namespace, takes_signals, until

pytestmark = pytest.mark.faults

GRACE_S = 3.0  # where nothing is slow
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)


def to_main(server, number):
    os.kill(server.pid, number)


def to_everybody(server, number):
    for one in server.family():  # a container runtime, systemd and a terminal tell everybody
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.pid, number)


def twice(server, number):
    os.kill(server.pid, number)
    time.sleep(0.1)
    os.kill(server.pid, number)


def to_pid_1(server, number):
    os.kill(server.pid_1, number)


WAYS = {"main": to_main, "everybody": to_everybody, "twice": twice, "as PID 1": to_pid_1}


def leaves_nothing(server, folders, shared=frozenset()):
    assert server.family() == []
    assert not server.listens()
    assert list(folders.iterdir()) == []
    assert [file for file in shared if Path(file).exists()] == []


def shared_memory(server):
    """Whatever files of shared memory its processes have open or mapped."""
    found = set()
    for one in server.family():
        with contextlib.suppress(OSError):
            found |= {line.split()[-1] for line in Path(f"/proc/{one.pid}/maps").read_text().splitlines()}
            found |= {str(file.readlink()) for file in Path(f"/proc/{one.pid}/fd").iterdir()}
    return frozenset(name for name in found if name.startswith("/dev/shm/"))


def how_to_start(way):
    return pid_namespace() if way == "as PID 1" else ()


@SIGNALS
@pytest.mark.parametrize("way", WAYS)
def test_an_end_under_load_answers_who_was_accepted(start, folders, way, number):
    before = how_to_start(way)
    longest, broken = 0.0, 0
    for run in range(RUNS):
        server = start(before=before, api_processes=1 + run % 2, inline_s=0.001 * (run % 3 // 2))
        with Load(server, rate=(200, 1000)[run % 2], fresh=run % 2 == 0) as load:
            time.sleep(0.5 + 0.02 * run)
            shared = shared_memory(server)
            began = time.monotonic()
            WAYS[way](server, number)
            assert server.ended(10) == 0, server.said()
            longest = max(longest, time.monotonic() - began)
        assert (load.books.wrong, load.books.refused) == ([], {}), server.said()
        assert load.books.answered
        leaves_nothing(server, folders, shared)
        broken += sum(count for kind, count in load.books.broken.items() if kind != "ConnectionRefusedError")
        server.close()
    print(f"\n{way}, {number.name}, {RUNS} ends: the longest took {longest:.1f} s; {broken} connections were closed")
    assert longest < GRACE_S


@SIGNALS
@pytest.mark.parametrize("way", WAYS)
def test_an_end_during_the_start_leaves_nothing(start, folders, way, number):
    for run in range(2 * RUNS):
        server = start(wait=False, before=how_to_start(way))
        until(lambda server=server: takes_signals(server.pid_1 if way == "as PID 1" else server.pid), START_S)
        time.sleep(1.5 * run / RUNS)
        WAYS[way](server, number)
        assert server.ended(10) == 0, server.said()
        leaves_nothing(server, folders)
        server.close()


def test_an_end_after_processes_were_replaced_answers_who_was_accepted(start):
    """The kernel kills a process when the thread that started it ends: the watch, which started the later ones."""
    for _ in range(RUNS):
        server = start(api_processes=1, workers=1, inline_s=0)
        for victims in (lambda server=server: server.workers, lambda server=server: server.apis):
            (victim,) = victims()
            os.kill(victim, signal.SIGKILL)
            until(lambda victim=victim, victims=victims: victims() not in ([], [victim]), START_S)
        server.connect_anew()
        until(server.answers, START_S)
        (worker,) = server.workers
        with Load(server, fresh=True) as load:
            time.sleep(0.5)
            os.kill(server.pid, signal.SIGTERM)
            assert server.ended(10) == 0, server.said()
        assert (load.books.wrong, load.books.refused) == ([], {})
        assert set(load.books.broken) <= {"ConnectionRefusedError", "ConnectionResetError"}
        assert load.books.broken["ConnectionResetError"] <= 2  # in the kernel's queue when the port closed
        assert f"worker {worker}" not in server.said()
        server.close()


def test_a_worker_that_dies_while_the_server_ends_is_replaced_and_its_requests_are_answered(start):
    for _ in range(RUNS):
        server = start(hang_s=600, inline_s=0)
        (worker,) = server.workers
        os.kill(worker, signal.SIGSTOP)
        with ThreadPoolExecutor(10) as clients:
            jobs = [clients.submit(server.ask, float(x)) for x in range(10)]
            until(lambda server=server: server.metric("rowcast_rows_in_flight") == 10)
            os.kill(server.pid, signal.SIGTERM)
            until(lambda server=server: not server.listens())
            os.kill(worker, signal.SIGKILL)
            assert [job.result().json()["predictions"] for job in jobs] == [[2.0 * x + 1] for x in range(10)]
        assert server.ended(10) == 0, server.said()
        assert server.family() == []
        server.close()
