"""Whatever process dies, the server goes on."""

import contextlib
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.repository import Repository
from tests.faults.accounting import Load
from tests.server.conftest import CHECKOUT, HELD, PATIENT, START_S, Server, until
from tests.service import tiny

pytestmark = pytest.mark.server


@pytest.mark.parametrize("workers", [1, 2])
def test_killing_workers_under_load_fails_no_request(start, workers):
    """Facts 2, 3, 20: LitServe loses the requests of a dead worker, and the next one too."""
    server = start(workers=workers, inline_s=0)
    with Load(server, rate=1_000_000) as load:
        for _ in range(2):
            load.goes_on()
            before = server.workers
            os.kill(before[0], signal.SIGKILL)
            load.goes_on()
            until(lambda before=before: len(server.workers) == workers and before[0] not in server.workers)
    assert not load.books.failed
    assert re.search(r"inference worker \d died by signal 9; it is started again in 0.0 s", server.said())


def test_an_api_process_that_dies_is_replaced_and_its_counts_go_on(start):
    """Fact 20: LitServe never replaces one."""
    server = start()
    assert server.ask(1.0).status_code == 200
    until(lambda: server.metric("rowcast_requests_total") == 1)
    (api,) = server.apis
    os.kill(api, signal.SIGKILL)
    until(lambda: len(server.apis) == 1 and api not in server.apis)
    until(server.answers)
    until(lambda: server.metric("rowcast_requests_total") == 2)


def test_when_one_of_two_api_processes_dies_the_other_serves_on(start):
    server = start(api_processes=2)
    victim = server.apis[0]
    os.kill(victim, signal.SIGKILL)
    for x in range(50):
        server.connect_anew()
        assert server.answers(float(x))
    until(lambda: len(server.apis) == 2 and victim not in server.apis)


def test_connections_are_spread_evenly_over_api_processes(start):
    """Left alone, one process of two takes nearly all of 16 connections, eight times out of ten."""
    server = start(api_processes=2)
    apis = server.apis

    def connections():
        return [sockets_of(api, server.port, ESTABLISHED) for api in apis]

    def share():
        """How many of 16 connections the first process takes."""
        until(lambda: sum(connections()) == 1)  # this test's own
        before, _ = connections()
        with contextlib.ExitStack() as stack:
            for _ in range(16):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            until(lambda: sum(connections()) == 1 + 16)
            return connections()[0] - before

    until(lambda: 6 <= share() <= 10, what="both processes are up")
    shares = [share() for _ in range(25)]
    # now and then a busy machine does not let a process take its turn in time
    assert sum(6 <= share <= 10 for share in shares) > 12, shares


ESTABLISHED, LISTENING = "01", "0A"


def sockets_of(pid, port, *states):
    """How many sockets of a port a process has in these states."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    wanted = {f"socket:[{line[9]}]" for line in lines if line[1].endswith(f":{port:04X}") and line[3] in states}
    count = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            count += str(file.readlink()) in wanted
    return count


def test_when_litserves_main_process_dies_all_is_started_again(start):
    """Fact 1: killing main leaves orphans that hold the port."""
    server = start()
    assert server.ask(1.0).status_code == 200
    until(lambda: server.metric("rowcast_requests_total") == 1)
    before = server.family()
    os.kill(server.main, signal.SIGKILL)
    gone = {one.pid for one in before} - {server.pid}
    until(lambda: not gone & {one.pid for one in server.family()}, what="the old processes end")
    until(server.answers)
    until(lambda: server.metric("rowcast_requests_total") >= 2, what="the counts of before are kept")


FEW_PROCESSES = """
import errno, os, runpy, sys
fork, supervisor, forks = os.fork, os.getpid(), []

def fork_or_not():
    forks.append(os.getpid() == supervisor)
    if sum(forks) in (2, 3):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()

os.fork, sys.argv[1:] = fork_or_not, []
runpy.run_module("service", run_name="__main__")
"""
"""A server whose supervisor gets no process from the kernel, the second and the third time that it wants one."""


def test_where_the_kernel_makes_no_process_for_a_while_main_is_started_later(start):
    server = start(before=[sys.executable, "-c", FEW_PROCESSES])
    os.kill(server.main, signal.SIGKILL)
    until(lambda: server.said().count("it is tried again in") == 2)
    said = [line for line in server.said().splitlines() if "tried again" in line]
    assert [line.partition("main ")[2] for line in said] == [
        f"process cannot be started: Resource temporarily unavailable; it is tried again in {wait} s"
        for wait in (1.0, 2.0)
    ]
    server.connect_anew()
    until(server.answers)


def test_no_process_outlives_the_one_that_was_started(start):
    """Fact 1."""
    server = start(api_processes=2, workers=2)
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.family(), what="children end with their parent")
    until(lambda: not server.listens(), what="their last threads have ended, too")


def test_only_those_that_speak_http_hold_the_port(start):
    """Workers are forks of main, which holds it too, and what they open may be hostile."""
    server = start(inline_s=0)
    assert server.answers()
    holders = {
        one.name: sockets_of(one.pid, server.port, LISTENING, ESTABLISHED) > 0
        for one in server.family()
        if one.pid not in {server.pid, server.main}
    }
    assert holders == {"api-0": True, "worker-0": False, "checker": False}


def test_no_child_outlives_a_parent_that_dies_during_the_start(start):
    server = start(wait=False)
    until(lambda: len(server.family()) >= 4, what="main, worker, what checks versions")
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.family())


def test_a_deadline_is_kept_while_nothing_is_computed(start):
    """Facts 4, 21: LitServe checks a timeout only when a request leaves its queue."""
    server = start(deadline_s=0.5, **HELD)
    (worker,) = server.workers
    os.kill(worker, signal.SIGSTOP)
    until(lambda: [one.state for one in server.family() if one.pid == worker] == ["T"])  # not at once, with threads
    answer = server.ask(1.0)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_passed")
    os.kill(worker, signal.SIGCONT)
    until(server.answers)


def test_a_stopped_worker_is_replaced_before_anybody_notices(start):
    """Fact 21: a frozen worker is ready for ever."""
    server = start(hang_s=10, inline_s=0)
    (worker,) = server.workers
    os.kill(worker, signal.SIGSTOP)
    assert server.answers()
    # it may have answered before it stood still
    until(lambda: "inference worker 0 is stopped; killed" in server.said())


def test_while_nobody_reads_the_log_the_server_answers_and_counts_lines_that_are_lost(repository, tmp_path):
    os.mkfifo(tmp_path / "log")
    reading = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    server = Server(repository, tmp_path / "log", access_log=1, **PATIENT)
    try:
        until(server.is_ready)
        many = f"GET /{'x' * 200} HTTP/1.1\r\nHost: a\r\nX-Request-Id: {'y' * 128}\r\n\r\n".encode() * 100

        def is_lost():
            with socket.create_connection(("127.0.0.1", server.port), timeout=START_S) as wire:
                wire.sendall(many)
                left = 100
                while left:
                    left -= wire.recv(1 << 20).count(b"HTTP/1.1 404")
            return server.metric("rowcast_log_lines_lost_total") > 0

        until(is_lost)
        assert server.answers()
        os.set_blocking(reading, True)
        said = b""
        while not re.search(rb"\d+ lines of the log were lost, since nobody read it\n", said[-100_000:]):
            said += os.read(reading, 1 << 16)
        assert all(line.startswith(b"20") for line in said.splitlines())  # each is whole and begins with its time
    finally:
        server.close()
        os.close(reading)


def test_a_bad_row_never_harms_its_batch_mates(start):
    """Fact 10: one exception fails every request of LitServe's batch; fact 5: bad input is a 500."""
    server = start(**HELD)
    (worker,) = server.workers
    os.kill(worker, signal.SIGSTOP)  # what is asked now goes as one or two batches
    with ThreadPoolExecutor(12) as clients:
        good = [clients.submit(server.ask, float(x)) for x in range(8)]
        bad = [
            clients.submit(server.client.post, "/predict", content=c) for c in (b"{", b'{"instances": [{"x": "a"}]}')
        ]
        until(lambda: server.metric("rowcast_rows_in_flight") == 8)
        os.kill(worker, signal.SIGCONT)
        assert [job.result().json()["predictions"] for job in good] == [[2.0 * x + 1] for x in range(8)]
        assert [job.result().status_code for job in bad] == [400, 400]


def test_no_process_of_a_default_server_has_torch(start):
    server = start()
    server.ask(1.0)
    maps = "".join(Path(f"/proc/{one.pid}/maps").read_text() for one in server.family())
    assert "onnxruntime" in maps
    assert "libtorch" not in maps


def test_a_server_that_nobody_asks_sleeps(start):
    """Fact 9: LitServe polls. uvicorn wakes ten times a second in each API process, LitServe once."""
    server = start(api_processes=2, poll_s=2.0)

    def wakes():
        """How often each process has woken by itself; a preemption on a busy machine does not count."""
        counted = re.compile(r"^voluntary_ctxt_switches:\s+(\d+)$", re.MULTILINE)
        wakes = Counter()
        for one in server.family():
            for task in Path(f"/proc/{one.pid}/task").glob("*/status"):
                with contextlib.suppress(OSError):  # it has ended since it was seen
                    wakes[one.pid] += int(counted.search(task.read_text())[1])
        return wakes

    apis = server.apis

    def is_asleep():
        before = wakes()
        time.sleep(3)  # this test is about time
        per_s = {pid: (count - before[pid]) / 3 for pid, count in wakes().items()}
        return all(per_s[pid] <= 8 for pid in apis) and sum(per_s.values()) <= 25

    until(is_asleep, what="it sleeps once its start has settled")


def test_versions_come_and_go_and_labels_take_effect_without_a_restart(start, repository):
    server = start(workers=2, api_processes=2)

    def served():
        return [server.ask(1.0).json().get("model_version") for _ in range(4)]

    tiny.publish(repository, "line")
    until(lambda: served() == ["2"] * 4)
    Repository(repository).set_label("line", "stable", 1)
    until(lambda: served() == ["1"] * 4)
    tiny.publish(repository, "coin")
    until(lambda: server.client.post("/v1/models/coin:predict", json={"instances": [[1]]}).status_code == 200)
    shutil.rmtree(repository / "coin")
    until(lambda: server.client.post("/v1/models/coin:predict", json={"instances": [[1]]}).status_code == 404)


def test_a_version_that_is_gone_before_anybody_looked_is_no_fault_of_the_model(start, repository):
    """A worker that came since cannot open it; clients may ask again, and will hear that it is unknown."""
    tiny.publish(repository, "line", shift=1)
    server = start(poll_s=10_000, **HELD)
    (before,) = server.workers
    shutil.rmtree(repository / "line/1")
    os.kill(before, signal.SIGKILL)
    until(lambda: server.workers not in ([], [before]), what="another worker")
    answer = server.client.post("/v1/models/line/versions/1:predict", json={"instances": [[3]]})
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready"), answer.text
    assert answer.json()["error"].startswith("line/1: ")
    assert "retry-after" in answer.headers
    assert server.ask(3).json()["predictions"] == [8.0]


def test_a_bad_version_is_refused_and_what_served_serves_on(start, repository, tmp_path):
    for _ in range(2):
        changed = tiny.publish(tmp_path / "aside", "line").folder / "model.onnx"
    changed.write_bytes(changed.read_bytes()[:-1] + b"!")
    server = start()
    changed.parent.rename(repository / "line/2")
    until(lambda: server.metric("rowcast_model_load_failures") == 1)
    assert "refused: line/2: model.onnx is not the file its manifest describes" in server.said()
    assert server.answers()


def test_litserve_leaves_no_client_file_no_gzip_and_health_without_a_key(start):
    """Facts 6, 14, 16."""
    server = start(api_key="a long secret")
    assert not (CHECKOUT / "client.py").exists()
    assert server.client.get("/health").status_code == 200
    assert server.client.get("/health/ready").status_code == 200
    many = {"instances": [{"x": 1}] * 1000}
    assert server.client.post("/predict", json=many).status_code == 401
    answer = server.client.post("/predict", json=many, headers={"X-API-Key": "a long secret"})
    assert (answer.status_code, answer.headers.get("content-encoding")) == (200, None)
