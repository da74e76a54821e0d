"""Whatever process is killed, stopped or ended: who is not on its connections notices nothing."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.accounting import Load
from tests.faults.conftest import FAULT_S
from tests.faults.measured import living
from tests.server.conftest import START_S, until
from tests.service import hostile, tiny

pytestmark = pytest.mark.faults


def ok_counted(server):
    lines = server.client.get("/metrics").text.splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("rowcast_requests_total") and 'code="ok"' in line
    )


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP], ids=lambda number: number.name)
def test_a_worker_that_is_hit_every_two_seconds_fails_no_request(start, number, workers):
    server = start(workers=workers, inline_s=0)
    answered = 0
    for left in (2, 1, 0):  # the best of three pauses: what else the machine does only ever adds to them
        with Load(server) as load:
            until_s = time.monotonic() + FAULT_S
            while time.monotonic() < until_s:
                time.sleep(2)  # the rate of the faults
                until(lambda: living(server) == workers, START_S)  # on a busy machine a start takes longer
                os.kill(min(server.workers), number)  # the one that has lived the longest
        print(f"\n{workers} workers, {number.name}: {load.books}")
        answered += load.books.answered
        assert (load.books.wrong, load.books.refused, load.books.broken) == ([], {}, {})
        if workers == 1 or load.books.p(0.99) < 1 or not left:
            break
    assert workers == 1 or load.books.p(0.99) < 1
    until(lambda: len(server.workers) == workers, START_S)
    until(lambda: ok_counted(server) == answered, what="the server counts as the client does")


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
    assert (load.books.wrong, load.books.refused, load.books.broken) == ([], {}, {})
    assert was_unready
    until(server.is_ready, START_S)
    assert "has been at one thing for" in server.said()


@pytest.mark.parametrize("who", ["API process", "manager", "main"])
def test_a_process_that_is_killed_breaks_its_connections_alone_and_is_replaced(start, who):
    server = start(api_processes=2)
    with Load(server) as load:
        time.sleep(2)
        victim = {"API process": server.forks[-1], "manager": server.forks[0], "main": server.main}[who]
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        if who == "API process":
            until(lambda: len(server.forks) == 3 and victim not in server.forks, START_S)
        else:
            time.sleep(0.2)  # until main has gone
        server.connect_anew()
        until(server.answers, START_S)
        back_s = time.monotonic() - killed
        time.sleep(2)
    print(f"\n{who} killed, answers after {back_s:.1f} s: {load.books}")
    assert (load.books.wrong, load.books.refused) == ([], {})
    if who == "API process":
        assert sum(load.books.broken.values()) <= 20  # connections of the dead one, each once
        # it takes the counts of its last 5 ms along; and may have counted what it could not send any more
        most = load.books.answered + load.books.broken.total()
        until(lambda: load.books.answered - 5 <= ok_counted(server) <= most, what="the server counts as the client")
