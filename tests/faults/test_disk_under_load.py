"""The disk is full or the repository cannot be read: what serves goes on, and says what is the matter."""

import contextlib
import os
import shutil
import signal
import subprocess
import time

import pytest

from models.repository import Repository
from tests.faults.accounting import Load
from tests.faults.measured import living
from tests.server.conftest import START_S, until
from tests.service import tiny

pytestmark = pytest.mark.faults


@contextlib.contextmanager
def small_disk(folder, size="4m"):
    """A file system of its own in `folder`."""
    folder.mkdir(exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=False)
    if made.returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False, capture_output=True)  # a test may have done so


def fill(folder):
    """Leave no byte free."""
    with contextlib.suppress(OSError), (folder / "everything").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def is_unaffected(load):
    print(f"\n{load.books}")
    assert not load.books.failed


def test_a_volume_that_vanishes_and_returns_takes_nothing_along(start, tmp_path):
    """What is left where it was mounted is an empty folder, as if every model had been deleted."""
    kept, root = tmp_path / "kept", tmp_path / "disk"
    tiny.publish(kept, "line")
    with small_disk(root):
        shutil.copytree(kept, root, dirs_exist_ok=True)
        server = start(root, inline_s=0, workers=2, max_wait_s=10)
        until(lambda: living(server) == 2, START_S)
        with Load(server) as load:
            subprocess.run(["umount", "--lazy", root], check=True)
            until(lambda: server.metric("rowcast_repository_readable") == 0, START_S, "the metric says so")
            os.kill(server.workers[0], signal.SIGKILL)
            time.sleep(2)
            with small_disk(root):
                shutil.copytree(kept, root, dirs_exist_ok=True)
                until(lambda: server.metric("rowcast_repository_readable") == 1, START_S, "it is back")
                tiny.publish(root, "line")
                until(lambda: "2" in load.books.right, START_S, "what is published from then on is served")
                until(lambda: living(server) == 2, START_S, "the worker is back")
        is_unaffected(load)
        assert "the repository that was there is gone" in server.said()


def test_a_full_disk_under_the_repository_refuses_the_publisher_alone(start, tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        root = disk / "published"
        tiny.publish(root, "line")
        server = start(root)
        with Load(server) as load:
            fill(disk)
            with pytest.raises(OSError, match="No space left"):
                tiny.publish(root, "line")
            with pytest.raises(OSError, match="No space left"):
                Repository(root).set_label("line", "stable", 1)
            assert Repository(root).versions("line") == [1]
            (disk / "everything").unlink()
            tiny.publish(root, "line")
            until(lambda: "2" in load.books.right, START_S, "the next version is served once there is room")
        is_unaffected(load)
        server.close()


def test_a_full_disk_under_the_temporary_folder_stops_nobody(start, repository, tmp_path, monkeypatch):
    """Sockets, verdicts and the mapped files of the metrics are there: a page that has no room is SIGBUS."""
    with small_disk(tmp_path / "t", "64m") as disk:
        monkeypatch.setenv("TMPDIR", str(disk))
        for name in ("coin", "pair"):
            tiny.publish(repository, name)
        server = start(workers=2, api_processes=2)
        with Load(server) as load:
            fill(disk)
            for name in ("line", "coin", "pair"):  # series that were not there before
                for version in range(2):
                    server.client.post(f"/v1/models/{name}/versions/{version + 1}:predict", json={"instances": [[1]]})
                    server.client.post(f"/v1/models/{name}:predict", json={"instances": [["no number"]]})
            os.kill(server.workers[0], signal.SIGKILL)
            time.sleep(3)
        is_unaffected(load)
        assert server.is_ready()
        assert "SIGBUS" not in server.said()
        assert "died by signal 7" not in server.said()
        until(lambda: len(server.workers) == 2, START_S)
        server.close()


def test_a_full_disk_under_the_temporary_folder_is_no_matter_to_limits_and_new_series(start, tmp_path, monkeypatch):
    """More clients than a page of the table has, and more versions than the files of the metrics have room for."""
    root = tmp_path / "many"
    for number in range(100):
        tiny.publish(root, "line", called=f"line-{number}")
    with small_disk(tmp_path / "t", "64m") as disk:
        monkeypatch.setenv("TMPDIR", str(disk))
        server = start(root, rate_limit=1000, trusted_proxies="127.0.0.0/8", default_model="line-0")
        fill(disk)
        for asked in range(2000):
            path, client = f"/v1/models/line-{asked % 100}:predict", f"10.0.{asked // 250}.{asked % 250}"
            answer = server.client.post(path, json={"instances": [[1]]}, headers={"x-forwarded-for": client})
            assert answer.json()["predictions"] == [3.0]
        assert "what comes new to the metrics waits for room" in server.said()
        (disk / "everything").unlink()
        time.sleep(6)  # so long a full disk is left alone
        for asked in range(100):
            server.client.post(f"/v1/models/line-{asked}:predict", json={"instances": [[1]]})
        until(lambda: server.metric("rowcast_requests_total", code="ok") == 2100)
        assert "died" not in server.said()
        server.close()


def test_a_temporary_folder_without_room_stops_the_start_in_one_sentence(start, tmp_path, monkeypatch):
    with small_disk(tmp_path / "t", "1m") as disk:
        monkeypatch.setenv("TMPDIR", str(disk))
        server = start(wait=False)
        assert server.ended() == 3
        (line,) = server.said().splitlines()
        assert f"no room for counts in {disk}/rowcast-" in line
        assert list(disk.iterdir()) == []


def test_a_temporary_folder_that_killed_servers_filled_stops_no_start(start, tmp_path, monkeypatch):
    """A container whose memory ends again and again keeps its /tmp."""
    with small_disk(tmp_path / "t", "8m") as disk:
        monkeypatch.setenv("TMPDIR", str(disk))
        server = start()
        (folder,) = disk.iterdir()
        fill(folder)
        server.close()
        assert start().answers()
        assert not folder.exists()


@pytest.mark.parametrize("how", ["taken away", "a file in its place", "a folder that cannot be entered"])
def test_a_repository_that_cannot_be_read_serves_on_and_says_so(start, repository, tmp_path, how):
    if "entered" in how and os.geteuid() == 0:
        pytest.skip("root enters every folder")
    server = start(api_processes=2, workers=2, inline_s=0, max_wait_s=10)
    until(lambda: living(server) == 2, START_S)
    with Load(server) as load:
        if "entered" in how:
            (repository / "line").chmod(0o000)
        else:
            repository.rename(tmp_path / "away")
        if "file" in how:
            repository.write_text("")
        os.kill(server.workers[0], signal.SIGKILL)
        until(lambda: server.metric("rowcast_repository_readable") == 0, what="the metric says so")
        assert "cannot be read" in server.client.get("/health/ready").json()["warning"]
        time.sleep(1)  # ten looks
        assert server.said().count("the repository cannot be read, what is live goes on") == 2  # each process, once
        if "entered" in how:
            (repository / "line").chmod(0o755)
        else:
            repository.unlink(missing_ok=True)
            (tmp_path / "away").rename(repository)
        until(lambda: living(server) == 2, START_S, "the worker is back")
        tiny.publish(repository, "line")
        until(lambda: "2" in load.books.right, START_S)
        until(lambda: server.metric("rowcast_repository_readable") == 1)
    is_unaffected(load)
    load.check_counts()
