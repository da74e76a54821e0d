"""A study in a real PostgreSQL server that is started for it, shared by real processes, one of them killed."""

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from tests.server.conftest import START_S, free_port
from tests.training.sharing import ROOT, check_that_killing_one_of_two_loses_its_trial_alone, plan, trials_in
from training.plan import BadPlan, Plan
from training.search import _opened, search

__all__ = ["plan"]

psycopg = pytest.importorskip("psycopg", reason="psycopg, the driver of PostgreSQL, is not installed")

PASSWORD = "s3cret/:@"
IN_A_URL = "s3cret%2F%3A%40"


def _programs() -> Path | None:
    """Where initdb and postgres are: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else None


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """host:port of a server of its own."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed; on Debian: apt-get install --no-install-recommends postgresql")
    # it refuses to run as root, and no other user may enter pytest's own folders
    account = pwd.getpwnam("nobody").pw_uid if os.getuid() == 0 else os.getuid()
    with tempfile.TemporaryDirectory(prefix="rowcast-postgresql-") as name:
        folder = Path(name)
        (folder / "password").write_text(PASSWORD)
        for path in (folder, folder / "password"):
            os.chown(path, account, -1)
        initdb = [programs / "initdb", "-D", folder / "data", "-U", "rowcast", "-A", "scram-sha-256", "--no-sync"]
        initdb += ["--encoding=UTF8", "--locale=C", f"--pwfile={folder}/password"]
        made = subprocess.run(initdb, user=account, cwd=folder, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        port = free_port()
        words = [programs / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port), "-k", folder]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(words, user=account, cwd=folder, stdout=log, stderr=log)
        try:
            _wait_for(port, process, folder / "log")
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)  # ends the sessions that are left
            process.wait(START_S)


def _wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            psycopg.connect(_parts(port)).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(log.read_text())


def _parts(port: int) -> str:
    return psycopg.conninfo.make_conninfo(
        host="127.0.0.1", port=port, user="rowcast", password=PASSWORD, dbname="postgres"
    )


@pytest.fixture
def storage(server: str, request: pytest.FixtureRequest) -> str:
    """The URL of an empty database."""
    name = re.sub(r"\W", "_", request.node.name)[:40]
    with psycopg.connect(_parts(int(server.split(":")[1])), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql+psycopg://rowcast:{IN_A_URL}@{server}/{name}"


def test_two_processes_share_a_study_and_killing_one_loses_its_trial_alone(plan: Plan, tmp_path: Path, storage: str):
    check_that_killing_one_of_two_loses_its_trial_alone(plan, tmp_path, storage)


def test_a_trial_whose_process_died_is_failed_by_the_next(plan: Plan, storage: str):
    found = search(plan, 1, storage)
    with _opened(storage) as shared:
        lost = optuna.load_study(study_name=found.study, storage=shared).ask()
    search(plan, 2, storage, stale_s=0.0)
    assert trials_in(storage)[lost.number].state is TrialState.FAIL


def test_processes_that_open_an_empty_database_at_the_same_time_share_it(storage: str):
    opened = subprocess.run(
        [sys.executable, "-c", FOUR_OPENERS, storage], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (opened.stdout, opened.stderr) == ("[0, 0, 0, 0]\n", "")


FOUR_OPENERS = """
import os, sys
from multiprocessing import get_context
from training.search import _opened

def open_it(gate):
    gate.wait()
    with _opened(sys.argv[1]):
        pass

fork = get_context("fork")  # what is imported is so once
gate = fork.Barrier(4)
openers = [fork.Process(target=open_it, args=(gate,)) for _ in range(4)]
for opener in openers:
    opener.start()
for opener in openers:
    opener.join()
print([opener.exitcode for opener in openers])
"""


def test_a_wrong_password_is_refused_and_none_is_told(plan: Plan, storage: str):
    with pytest.raises(BadPlan, match=r"cannot be opened: .*password authentication failed") as error:
        search(plan, 1, storage.replace(IN_A_URL, "an%2Fother"))
    for secret in ("an%2Fother", "an/other", PASSWORD, IN_A_URL):
        assert secret not in str(error.value)
