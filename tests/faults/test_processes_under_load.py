"""Whatever process is killed, stopped or ended: who is not on its connections notices nothing."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.accounting import Load
from tests.faults.conftest import FAULT_S
from tests.faults.measured import hit_every_two_seconds
from tests.server.conftest import START_S, until
from tests.service import hostile, tiny

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP], ids=lambda number: number.name)
def test_a_worker_that_is_hit_every_two_seconds_fails_no_request(start, number, workers):
    server = start(workers=workers, inline_s=0, max_wait_s=10)  # a busy machine is not the fault here
    answered = 0
    for left in (2, 1, 0):  # the best of three pauses: what else the machine does only ever adds to them
        with Load(server) as load:
            hit_every_two_seconds(server, number, workers, FAULT_S)
        print(f"\n{workers} workers, {number.name}: {load.books}")
        answered += load.books.answered
        assert not load.books.failed
        if workers == 1 or load.books.p(0.99) < 1 or not left:
            break
    assert workers == 1 or load.books.p(0.99) < 1
    until(lambda: len(server.workers) == workers, START_S)
    until(lambda: server.metric("rowcast_requests_total", code="ok") == answered)


def test_a_hung_predict_costs_nobody_else_an_answer_and_readiness_tells_the_truth(start, tmp_path):
    root = tmp_path / "slow"
    tiny.publish(root, "line", hostile.slow_for_large_x())
    server = start(root, hang_s=1.5)  # three tries, and three starts of a worker, fit the deadline
    was_unready = False
    with Load(server, rate=50) as load:
        time.sleep(1)
        with ThreadPoolExecutor(1) as one:
            answer = one.submit(server.ask, 1e18)
            while not answer.done():
                was_unready |= server.client.get("/health/ready").status_code == 503
                time.sleep(0.05)
    print(f"\nhung predict: {load.books}; the guilty one: {answer.result().status_code}")
    assert answer.result().json()["code"] in ("deadline_passed", "model_failed")
    assert not load.books.failed
    assert was_unready
    until(server.is_ready, START_S)
    assert "has been at one thing for" in server.said()
    load.check_counts()


@pytest.mark.parametrize("who", ["API process", "main"])
def test_a_process_that_is_killed_breaks_its_connections_alone_and_is_replaced(start, who):
    began = time.monotonic()
    server = start(api_processes=2)
    cold_s, back_s = time.monotonic() - began, []
    sent, answered, broken = 0, 0, 0
    for left in (2, 1, 0):  # the quickest of three: what else the machine does only ever delays
        with Load(server) as load:
            time.sleep(2)
            before = server.apis if who == "API process" else [one.pid for one in server.family()]
            victim = server.apis[-1] if who == "API process" else server.main
            gone = {victim} if who == "API process" else {*before} - {server.pid}
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            until(lambda gone=gone: not gone & {one.pid for one in server.family()}, START_S, "they end")
            server.connect_anew()
            until(server.answers, START_S)
            if who == "API process":
                until(lambda: len(server.apis) == 2, START_S)
            until(lambda: is_up(server), START_S)
            back_s.append(time.monotonic() - killed)
            time.sleep(1)
        print(f"\n{who} killed, all is back after {back_s[-1]:.1f} s, a cold start took {cold_s:.1f} s: {load.books}")
        sent, answered = sent + 1, answered + load.books.answered
        broken += load.books.broken.total() - load.books.broken["ConnectionRefusedError"]
        assert (load.books.wrong, load.books.refused) == ([], {})
        if who == "API process":
            assert load.books.broken.total() <= 20  # connections of the dead one, each once
            assert not load.books.broken["ConnectionRefusedError"]
        if min(back_s) < 2 * cold_s or not left:
            break
    assert min(back_s) < 2 * cold_s
    # one that is killed takes the counts of its last 5 ms along; and may have counted what it could not send any more
    least, most = (
        answered + sent - 10 * sent,
        answered + sent + broken,
    )  # each time `answers` asked once, in vain or not
    until(
        lambda: least <= server.metric("rowcast_requests_total", code="ok") <= most,
        what=f"{least} to {most} are counted, not {server.metric('rowcast_requests_total', code='ok')}",
    )


def is_up(server):
    """Whether every API process answers: each says so in the metrics."""
    lines = server.client.get("/metrics").text.splitlines()
    return sum(line.startswith("rowcast_process_start_time_seconds{") for line in lines) >= 2 and server.is_ready()


def test_when_the_process_that_was_started_is_killed_no_other_lives_and_the_port_is_closed(start):
    server = start(api_processes=2, workers=2)
    with Load(server) as load:
        time.sleep(1)
        os.kill(server.pid, signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: not server.family() and not server.listens(), 5, "all have ended")
        took_s = time.monotonic() - killed
    print(f"\nthe supervisor killed, all ended after {took_s:.2f} s: {load.books}")
    assert (load.books.wrong, load.books.refused) == ([], {})
