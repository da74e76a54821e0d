"""Memory ends: whose request wants too much of it is told so, whoever is killed for it is replaced."""

import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.accounting import Load
from tests.faults.conftest import FAULT_S
from tests.faults.measured import hit_every_two_seconds, living
from tests.server.conftest import START_S, until
from tests.server.groups import control_group
from tests.service import hostile, tiny

pytestmark = pytest.mark.faults


@pytest.fixture
def greedy(tmp_path):
    """`line`, which takes four bytes for each unit of x above a million."""
    root = tmp_path / "greedy"
    tiny.publish(root, "line", hostile.greedy_for_large_x())
    return root


@pytest.mark.parametrize("workers", [1, 2])
def test_a_row_that_wants_more_memory_than_a_worker_may_have_fails_alone(start, greedy, workers):
    server = start(greedy, workers=workers)
    for pid in server.workers:
        has = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (has + 2**29, has + 2**29))
    before = set(server.workers)
    with Load(server) as load, ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(server.ask, [1e9] * 12))
    print(f"\n{workers} workers without memory: {load.books}")
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(500, "model_failed")}
    assert not load.books.failed
    assert set(server.workers) == before


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_the_kernel_kills_whenever_it_grows_fails_nobody_else(start, greedy, workers):
    """As the kernel does it: SIGKILL to the process that has the most, here by our hand at 300 MB."""
    server = start(greedy, workers=workers, deadline_s=20, max_wait_s=10)
    with Load(server, rate=100) as load, ThreadPoolExecutor(2) as clients:
        guilty = [clients.submit(server.ask, 1.5e8) for _ in range(2)]
        while not all(one.done() for one in guilty):
            for pid in server.workers:
                if resident_mb(pid) > 300:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
    print(f"\n{workers} workers, killed as they grow: {load.books}; {[one.result().text[:100] for one in guilty]}")
    assert {one.result().status_code for one in guilty} <= {200, 500, 504}  # 200: it was quicker than we
    assert not load.books.failed
    until(lambda: len(server.workers) == workers, START_S)


@pytest.fixture
def group():
    with control_group("memory", "memory.limit_in_bytes", "memory.max") as group:
        yield group


def limit(group, more_mb):
    """Let the group have so much more memory than it has now."""
    used = group.path / ("memory.usage_in_bytes" if "limit" in group.most.name else "memory.current")
    group.most.write_text(str(int(used.read_text()) + more_mb * 2**20))


def test_the_kernel_ends_a_busy_worker_for_memory_and_only_the_guilty_notice(group, start, greedy):
    server = start(greedy, workers=2, before=group.before, deadline_s=20, max_wait_s=10)
    until(lambda: living(server) == 2, START_S)
    limit(group, 250)
    with Load(server, rate=100) as load:
        guilty = server.ask(2.5e8)  # a gigabyte
        until(lambda: living(server) == 2, START_S)
        time.sleep(1)
    deaths = server.said().count("died by signal 9")
    print(f"\nmemory ended {deaths} busy workers: {load.books}; the guilty one {guilty.text[:100]}")
    assert guilty.status_code in (500, 504)
    assert deaths
    assert not load.books.failed
    assert "API process" not in server.said()
    load.check_counts()


HOG = """
import pathlib, sys
taken = []
while pathlib.Path("/proc", sys.argv[1], "cmdline").read_bytes():  # empty once it is killed
    taken.append(b"x" * 2**20)
"""


def test_the_kernel_ends_an_idle_worker_for_memory_and_nobody_notices(group, start):
    server = start(workers=2, inline_s=0, before=group.before, max_wait_s=10)
    until(lambda: living(server) == 2, START_S)
    limit(group, 150)
    with Load(server) as load:
        for _ in range(3):
            until(lambda: living(server) == 2, START_S)
            time.sleep(1)
            before = server.workers
            command = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', group.path, sys.executable, "-c", HOG]
            subprocess.run([*command, str(before[0])], check=False, capture_output=True, timeout=60)
        until(lambda: living(server) == 2, START_S)
        time.sleep(1)
    deaths = server.said().count("died by signal 9")
    print(f"\nmemory ended {deaths} workers: {load.books}")
    assert deaths >= 3
    assert not load.books.failed
    assert "API process" not in server.said()
    load.check_counts()


def resident_mb(pid):
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return 0.0


def test_the_kernel_takes_a_worker_before_any_other_process(start):
    server = start()
    scores = {one.pid: int(Path(f"/proc/{one.pid}/oom_score_adj").read_text()) for one in server.family()}
    (worker,) = server.workers
    assert all(scores[worker] > score for pid, score in scores.items() if pid in {server.pid, server.main})


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
def test_a_worker_that_is_hit_under_saturation_fails_no_request(start, number):
    """As many at a time as there are clients, each asking again at once."""
    server = start(workers=2, inline_s=0, max_wait_s=10)
    with Load(server, rate=1_000_000) as load:
        hit_every_two_seconds(server, number, 2, FAULT_S)
    print(f"\nsaturated, {number.name}: {load.books}")
    assert not load.books.failed
    assert load.books.p(0.99) < 1
