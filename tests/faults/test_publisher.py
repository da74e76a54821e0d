"""A publisher that is killed at any moment, again and again, beside requests: every version is whole or not there."""

import json
import subprocess
import sys

import pytest

from models.repository import Repository
from tests.faults.accounting import Load
from tests.server.conftest import CHECKOUT, START_S, until
from tests.service import tiny

pytestmark = pytest.mark.faults

KILLS = 50
PUBLISHERS = f"""
import os, random, signal, sys, time
from pathlib import Path
from tests.service import tiny

chance = random.Random(0)
for _ in range({KILLS}):
    child = os.fork()
    while child == 0:
        tiny.publish(Path(sys.argv[1]), "line")
    time.sleep(chance.uniform(0, 0.12))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_a_publisher_that_is_killed_fifty_times_leaves_whole_versions_alone(start, repository):
    server = start(keep_versions=2, workers=2)
    with Load(server) as load:
        subprocess.run([sys.executable, "-c", PUBLISHERS, repository], cwd=CHECKOUT, check=True, timeout=START_S)
        tiny.publish(repository, "line")
        newest = max(Repository(repository).versions("line"))
        until(lambda: str(newest) in load.books.right, START_S, "the newest is served")
    print(f"\n{KILLS} kills, {newest} versions: {load.books}")
    assert newest > 2
    assert not load.books.failed
    assert "refused" not in server.said()
    for number in Repository(repository).versions("line"):
        version = Repository(repository).open("line", number)
        assert json.loads((version.folder / "manifest.json").read_text())["version"] == number
        for name in version.manifest.files:
            version.read(name)  # raises unless its digest is right
    load.check_counts()
