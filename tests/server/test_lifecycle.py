"""How a server starts, and how it ends."""

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.server.conftest import HELD, START_S, pid_namespace, takes_signals, until
from tests.service import tiny

pytestmark = pytest.mark.server


def ends_clean(server):
    """Exit status 0, nobody left, port closed."""
    assert server.ended() == 0, server.said()
    assert server.family() == []
    assert not server.listens()


def in_flight(server, clients, count):
    """So many requests that wait for a worker which does not move."""
    jobs = [
        clients.submit(
            httpx.post, f"http://127.0.0.1:{server.port}/predict", json={"instances": [[x]]}, timeout=START_S
        )
        for x in range(count)
    ]
    until(lambda: server.metric("rowcast_rows_in_flight") == count)
    return jobs


@pytest.mark.parametrize(("number", "api_processes"), [(signal.SIGTERM, 2), (signal.SIGINT, 1)])
def test_a_signal_lets_requests_in_flight_finish(start, number, api_processes):
    """Facts 1, 22, 23: LitServe dies at once, drains nothing and leaves its children."""
    server = start(api_processes=api_processes, **HELD)
    (worker,) = server.workers
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(20) as clients:
        jobs = in_flight(server, clients, 20)
        os.kill(server.pid, number)
        until(lambda: not server.listens(), what="new requests are refused")
        os.kill(worker, signal.SIGCONT)
        assert [job.result().json()["predictions"] for job in jobs] == [[2.0 * x + 1] for x in range(20)]
    ends_clean(server)


def test_a_signal_to_the_whole_group_and_twice_lets_requests_finish_too(start):
    server = start(**HELD)
    (worker,) = server.workers
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(20) as clients:
        jobs = in_flight(server, clients, 20)
        for _ in range(2):
            for one in server.family():  # a container runtime or systemd may tell everybody
                os.kill(one.pid, signal.SIGTERM)
        until(lambda: not server.listens(), what="new requests are refused")
        os.kill(worker, signal.SIGCONT)
        assert [job.result().json()["predictions"] for job in jobs] == [[2.0 * x + 1] for x in range(20)]
    ends_clean(server)


def test_requests_that_take_too_long_do_not_hold_up_the_end(start):
    server = start(drain_s=1, **HELD)
    os.kill(server.workers[0], signal.SIGSTOP)
    with ThreadPoolExecutor(2) as clients:
        in_flight(server, clients, 2)
        os.kill(server.pid, signal.SIGTERM)
        assert server.ended() == 1
    assert "2 requests were cut off after 1 s, ROWCAST_DRAIN_S" in server.said()
    assert server.family() == []


def test_time_in_which_the_whole_server_was_stopped_is_not_held_against_its_end(start):
    """A container that is paused as it ends, or a virtual machine: API processes still have the time to say how."""
    server = start(drain_s=1, **HELD)
    (worker,) = server.workers
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(2) as clients:
        in_flight(server, clients, 2)
        os.kill(server.pid, signal.SIGTERM)
        until(lambda: not server.listens(), what="new requests are refused")
        family = [one.pid for one in server.family()]
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(5)  # longer than all of it may take; this test is about time
        for pid in set(family) - {worker}:
            os.kill(pid, signal.SIGCONT)
        assert server.ended() == 1
    assert "2 requests were cut off after 1 s, ROWCAST_DRAIN_S" in server.said()


@pytest.mark.parametrize("processes", range(1, 6))
def test_a_signal_during_the_start_ends_it(start, processes):
    """Whatever it is doing: supervisor, main, worker, what checks versions, API process."""
    server = start(wait=False)
    until(lambda: len(server.family()) >= processes and (processes > 1 or takes_signals(server.pid)))
    os.kill(server.pid, signal.SIGTERM)
    ends_clean(server)


def test_as_pid_1_a_signal_ends_it_as_well(start):
    """Fact 1: as PID 1 of a container LitServe ignores SIGTERM."""
    server = start(before=pid_namespace())
    os.kill(server.pid_1, signal.SIGTERM)
    assert server.ended() == 0, server.said()


def test_what_a_server_that_was_killed_left_is_removed_by_the_next_start(start, folders):
    """A container whose memory ended starts again with the same /tmp, until that is full."""
    killed, other = start(), start()
    for _ in range(2):
        assert len(list(folders.iterdir())) == 2
        os.kill(killed.pid, signal.SIGKILL)
        until(lambda killed=killed: not killed.family(), what="children end with their parent")
        assert len(list(folders.iterdir())) == 2  # nobody was left to remove it
        killed = start()
        assert "which a server that was killed had left" in killed.said()
    assert other.answers()
    for server in (killed, other):
        os.kill(server.pid, signal.SIGTERM)
        ends_clean(server)
    assert list(folders.iterdir()) == []


def test_an_empty_repository_is_served_live_not_ready_and_says_how_to_train(start, tmp_path):
    server = start(tmp_path / "nothing", wait=False)
    until(server.is_live)
    answer = server.client.get("/health/ready")
    assert answer.status_code == 503
    assert "`make train` trains and publishes a model" in answer.json()["error"]
    assert server.ask(1.0).status_code == 503
    tiny.publish(tmp_path / "nothing", "line")
    until(server.is_ready)
    assert server.answers()
    os.kill(server.pid, signal.SIGTERM)
    ends_clean(server)


def test_a_port_in_use_is_one_sentence(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = start(wait=False, port=taken.getsockname()[1])
        assert server.ended() == 3
    (line,) = server.said().splitlines()
    assert line.endswith("cannot be listened on: Address already in use; set ROWCAST_PORT")


def test_a_temporary_folder_too_deep_for_sockets_is_one_sentence(start, tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    server = start(wait=False)
    assert server.ended() == 3
    (line,) = server.said().splitlines()
    assert f"no socket can be made in {deep}" in line
    assert line.endswith("AF_UNIX path too long; name another in TMPDIR, or one of a shorter path")
    assert list(deep.iterdir()) == []


def test_a_temporary_folder_that_cannot_be_written_to_is_one_sentence(start, tmp_path, monkeypatch):
    """Python would take another folder without a word."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    server = start(wait=False)
    assert server.ended() == 3
    (line,) = server.said().splitlines()
    assert line.endswith(f"TMPDIR names {tmp_path}/nowhere, and nothing can be written there")


def test_too_few_open_files_are_one_sentence(start):
    server = start(wait=False, before=("sh", "-c", 'ulimit -n 64; exec "$@"', "sh"))
    assert server.ended() == 3
    (line,) = server.said().splitlines()
    assert line.endswith("a process may have 64 files open and needs 256 beside its connections; raise ulimit -n")


def test_bad_settings_are_one_sentence(start):
    server = start(wait=False, prot=9000)
    assert server.ended() == 2
    assert server.said() == "ROWCAST_PROT is not a setting; did you mean ROWCAST_PORT?\n"


def test_when_every_version_is_bad_the_start_ends_in_one_sentence(start, repository):
    """Fact 26: LitServe waits for ever, or starts the worker again without end."""
    graph = repository / "line/1/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    server = start(wait=False)
    assert server.ended() == 3
    said = server.said().splitlines()
    assert "can be served: line/1: model.onnx is not the file its manifest describes; publish it again" in said[-1]
    assert "Traceback" not in server.said()
    assert server.family() == []


def test_a_repository_that_this_user_may_not_enter_is_one_sentence(start, repository):
    """Such as a volume of another user's."""
    repository.chmod(0)
    before = () if os.geteuid() else ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
    server = start(wait=False, before=before)
    assert server.ended() == 3
    (line,) = server.said().splitlines()
    assert line.endswith(f"{repository}: Permission denied for user {os.geteuid()}")
    repository.chmod(0o700)


def test_a_device_that_is_not_there_is_one_sentence(start):
    if Path("/dev/nvidia0").exists():
        pytest.skip("it is there")
    server = start(wait=False, device="cuda")
    assert server.ended() == 3
    assert "ROWCAST_DEVICE is cuda, and no GPU or no CUDA libraries are there" in server.said()
    assert "Traceback" not in server.said()


def test_a_backend_whose_file_no_version_has_is_one_sentence(start):
    pytest.importorskip("torch")
    server = start(wait=False, backend="torchscript")
    assert server.ended() == 3
    assert "model.torchscript.pt" in server.said()
