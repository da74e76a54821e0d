"""The folder of a server: nobody touches it while it lives, and it does not stay when the server is killed."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from service.processes.run_folder import OWNER, remove_what_killed_servers_left, run_folder

OWN = "from service.processes.run_folder import *; import os, sys, time\n"
HOLD = OWN + "with run_folder() as folder: print(folder, flush=True); sys.stdin.read()"
HOLD_IN_A_CHILD = OWN + "with run_folder(): (child := os.fork()) and print(child, flush=True); sys.stdin.read()"
REMOVE = OWN + "from pathlib import Path; print('up', flush=True); sys.stdin.read(1)\n"
REMOVE += "remove_what_killed_servers_left(Path(sys.argv[1]))"


@contextmanager
def process(where, code, *arguments):
    """A process of its own, and its first line."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"TMPDIR": str(where)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as one:
        try:
            yield one, one.stdout.readline().strip()
        finally:
            one.kill()


def killed(where):
    """The folder of one that was killed."""
    with process(where, HOLD) as (_, folder):
        pass
    assert [str(path) for path in where.iterdir()] == [folder]
    return where / folder


def test_it_is_private_and_gone_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with run_folder() as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / OWNER).read_text() == f"{os.getpid()}\n"
    assert list(tmp_path.iterdir()) == []


def test_that_of_one_that_was_killed_is_removed_with_all_that_is_in_it(tmp_path):
    folder = killed(tmp_path)
    (folder / "metrics").mkdir()
    (folder / "metrics" / "counter_api-0.db").write_bytes(b"x")
    remove_what_killed_servers_left(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_that_of_one_that_lives_stays(tmp_path):
    with process(tmp_path, HOLD) as (_, folder):
        remove_what_killed_servers_left(tmp_path)
        assert (tmp_path / folder / OWNER).exists()


def test_that_of_one_whose_child_lives_stays(tmp_path):
    """The kernel needs a moment to end the children, and they use it."""
    with process(tmp_path, HOLD_IN_A_CHILD) as (parent, child):
        parent.kill()
        parent.wait()
        remove_what_killed_servers_left(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
        os.kill(int(child), signal.SIGKILL)
        parent.stdout.read()  # ends when the last that could write has ended
    remove_what_killed_servers_left(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_of_a_server_stays(tmp_path):
    folder = killed(tmp_path)
    (tmp_path / "rowcast-rows-of-a-fit").mkdir()
    (tmp_path / "rowcast-file").write_text("")
    (tmp_path / "elsewhere").mkdir()
    folder.rename(tmp_path / "elsewhere" / "kept")
    (tmp_path / "rowcast-linked").symlink_to(tmp_path / "elsewhere" / "kept")
    (tmp_path / "rowcast-linking").mkdir()
    (tmp_path / "rowcast-linking" / OWNER).symlink_to(tmp_path / "elsewhere" / "kept" / OWNER)
    before = sorted(tmp_path.rglob("*"))
    remove_what_killed_servers_left(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_another_user_s_stays(tmp_path):
    if os.geteuid():
        pytest.skip("only root gives a folder away")
    folder = killed(tmp_path)
    os.chown(folder, 12345, -1)
    os.chown(folder / OWNER, 12345, -1)
    remove_what_killed_servers_left(tmp_path)
    assert folder.exists()


def test_many_at_once_remove_each_folder_and_no_other(tmp_path):
    for number in range(20):
        folder = tmp_path / f"rowcast-{number}"
        folder.mkdir()
        (folder / OWNER).write_text("1\n")
    with (
        process(tmp_path, HOLD) as (_, lives),
        process(tmp_path, REMOVE, str(tmp_path)) as (one, _),
        process(tmp_path, REMOVE, str(tmp_path)) as (other, _),
    ):
        for each in (one, other):
            each.stdin.write(".")
            each.stdin.close()
        assert [each.wait() for each in (one, other)] == [0, 0]
        assert [str(path) for path in tmp_path.iterdir()] == [lives]


def test_where_there_is_nothing_nothing_is_removed(tmp_path):
    remove_what_killed_servers_left(tmp_path / "nowhere")
