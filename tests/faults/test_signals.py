"""Signals that somebody sends by mistake, by habit or by closing a terminal, to any process of a server."""

import contextlib
import os
import signal
import time

import pytest

from tests.faults.accounting import Load
from tests.server.conftest import START_S, until

pytestmark = pytest.mark.faults


def test_signals_that_mean_nothing_harm_nobody(start):
    server = start(api_processes=2, workers=2, inline_s=0)
    before = {one.pid for one in server.family()}
    with Load(server) as load:
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGPIPE):
            time.sleep(0.2)
            for pid in before:
                os.kill(pid, number)
        time.sleep(1)
    print(f"\n{load.books}")
    assert not load.books.failed
    assert {one.pid for one in server.family()} == before
    load.check_counts()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT], ids=lambda number: number.name)
@pytest.mark.parametrize("who", ["main", "everybody"])
def test_a_closed_terminal_ends_a_server_as_sigterm_does(start, number, who):
    server = start(api_processes=2)
    with Load(server, fresh=True) as load:
        time.sleep(0.5)
        for pid in [server.pid] if who == "main" else [one.pid for one in server.family()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        assert server.ended(10) == 0, server.said()
    print(f"\n{load.books}")
    assert (load.books.wrong, load.books.refused) == ([], {})
    assert set(load.books.broken) <= {"ConnectionRefusedError", "ConnectionResetError"}
    assert "ending" in server.said()
    assert server.family() == []


def test_a_server_that_was_started_with_nohup_outlives_its_terminal(start):
    server = start(before=("nohup",))
    os.kill(server.pid, signal.SIGHUP)
    time.sleep(0.5)
    assert server.answers()
    os.kill(server.pid, signal.SIGTERM)
    assert server.ended(10) == 0


def test_while_main_is_stopped_the_others_serve_and_it_makes_up_for_it_afterwards(start):
    server = start(api_processes=2, workers=2, inline_s=0)
    with Load(server) as load:
        os.kill(server.main, signal.SIGSTOP)
        time.sleep(1)
        victim = server.workers[0]
        os.kill(victim, signal.SIGKILL)
        time.sleep(4)
        os.kill(server.main, signal.SIGCONT)
        until(lambda: len(server.workers) == 2 and victim not in server.workers, START_S)
        time.sleep(0.5)
    print(f"\n{load.books}")
    assert not load.books.failed
    assert load.books.p(0.99) < 1  # the other worker had them
    assert server.said().count("died") == 1


def test_a_server_whose_main_process_is_stopped_ends_when_it_is_told_to(start):
    server = start()
    os.kill(server.main, signal.SIGSTOP)
    os.kill(server.pid, signal.SIGTERM)
    assert server.ended(10) == 0, server.said()
    assert server.family() == []


def test_an_api_process_that_is_stopped_for_seconds_breaks_its_connections_alone(start):
    server = start(api_processes=2)
    with Load(server) as load:
        time.sleep(0.5)
        victim = server.apis[-1]
        os.kill(victim, signal.SIGSTOP)
        until(lambda: len(server.apis) == 2 and victim not in server.apis, START_S)
        time.sleep(0.5)
    print(f"\n{load.books}")
    assert (load.books.wrong, load.books.refused) == ([], {})
    assert load.books.broken.total() <= 20  # each connection once
    assert load.books.p(0.99) < 1


def test_a_server_that_is_paused_whole_goes_on_with_the_same_processes(start):
    """As by `docker pause`, or with the machine that it runs on; before, whoever was busy then was taken to hang."""
    server = start(api_processes=2, workers=2, inline_s=0, hang_s=4)
    before = {one.pid for one in server.family()}
    with Load(server) as load:
        time.sleep(0.5)
        for pid in (server.pid, server.main, *server.workers, *server.apis):
            os.kill(pid, signal.SIGSTOP)
        stopped = [one.pid for one in server.family() if one.state == "T"]
        time.sleep(8)
        for pid in reversed(stopped):
            os.kill(pid, signal.SIGCONT)
        until(server.answers, START_S)
        time.sleep(1.5)
    print(f"\n{load.books}")
    assert (load.books.wrong, load.books.refused, load.books.broken) == ([], {}, {})
    assert {one.pid for one in server.family()} == before, server.said()
