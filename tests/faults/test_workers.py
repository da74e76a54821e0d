"""What happens to a worker that is idle or busy, cannot start, or is asked what its session raises on."""

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.accounting import Load
from tests.faults.conftest import FAULT_S
from tests.faults.measured import hit_every_two_seconds, living
from tests.server.conftest import START_S, until
from tests.service import hostile, tiny

pytestmark = pytest.mark.faults

SIGNALS = pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP], ids=lambda number: number.name
)


@SIGNALS
def test_whoever_asks_after_an_idle_worker_was_hit_is_answered(start, number):
    """Fact 20: LitServe loses the next request."""
    server = start(workers=1, inline_s=0)
    longest = 0.0
    for _ in range(5):
        until(lambda: living(server) == 1, START_S)
        time.sleep(0.2)  # it is idle
        os.kill(server.workers[0], number)
        began = time.monotonic()
        assert server.answers()
        longest = max(longest, time.monotonic() - began)
    print(f"\nan idle worker, {number.name}, 5 times: the next answer took {longest:.1f} s at most")
    until(lambda: server.metric("rowcast_requests_total", code="ok") == 5)


@SIGNALS
def test_a_busy_worker_that_is_hit_every_two_seconds_fails_no_request(start, tmp_path, number):
    """Each row takes some milliseconds of a core, so that most hits fall into a batch."""
    root = tmp_path / "costly"
    tiny.publish(root, "line", hostile.costly(1000))
    server = start(root, workers=2, max_wait_s=10)
    answered = 0
    for left in (2, 1, 0):  # the best of three pauses: what else the machine does only ever adds to them
        with Load(server, rate=100) as load:
            hit_every_two_seconds(server, number, 2, FAULT_S / 2)
        print(f"\nbusy workers, {number.name}: {load.books}")
        answered += load.books.answered
        assert not load.books.failed
        if load.books.p(0.99) < 1 or not left:
            break
    assert load.books.p(0.99) < 1
    until(lambda: server.metric("rowcast_requests_total", code="ok") == answered)


def test_a_worker_that_cannot_start_is_tried_again_ever_later_and_the_other_serves_on(start, repository):
    """Its only version was damaged on the disk: who has it open answers on, nobody can open it anew."""
    server = start(workers=2, inline_s=0, max_wait_s=10)
    until(lambda: living(server) == 2, START_S)
    graph = repository / "line/1/model.onnx"
    good = graph.read_bytes()
    with Load(server) as load:
        graph.write_bytes(good[:-1] + b"!")
        os.kill(server.workers[0], signal.SIGKILL)
        until(lambda: len(waits(server)) == 4, START_S, "four starts have failed")
        graph.write_bytes(good)
        until(lambda: living(server) == 2, START_S, "it is back by itself")
        time.sleep(1)
    print(f"\na worker that cannot start, waits {waits(server)}: {load.books}")
    assert not load.books.failed
    assert waits(server) == [0.0, 0.5, 1.0, 2.0]
    load.check_counts()


def waits(server):
    """What the log says of each start of a worker."""
    return [
        float(wait) for wait in re.findall(r"inference worker \d died .* started again in ([\d.]+) s", server.said())
    ]


@pytest.mark.parametrize("inline_s", [0, 0.001], ids=["by workers", "by API processes"])
def test_rows_on_which_the_session_raises_are_refused_and_nobody_beside_them_notices(start, tmp_path, inline_s):
    root = tmp_path / "raising"
    tiny.publish(root, "line", hostile.raises_for_large_x())
    server = start(root, workers=2, inline_s=inline_s)
    until(server.answers)
    until(lambda: living(server) == 2, START_S)
    workers = set(server.workers)
    with Load(server, rate=1000) as load, ThreadPoolExecutor(4) as clients:
        guilty = list(clients.map(lambda _: server.ask(2e6), range(500)))
    print(f"\n500 rows on which the session raises: {load.books}")
    assert {(answer.status_code, answer.json()["code"]) for answer in guilty} == {(500, "model_failed")}
    assert not load.books.failed
    assert set(server.workers) == workers
    load.check_counts(more=1)
