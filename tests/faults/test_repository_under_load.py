"""Versions come, go, are rolled back, deleted and corrupted; every answer is right for the version it names."""

import random
import shutil
import time

import pytest

from models.repository import Repository
from tests.faults.accounting import Load
from tests.faults.test_processes_under_load import ok_counted
from tests.server.conftest import START_S, until
from tests.service import hostile, tiny

pytestmark = pytest.mark.faults


def test_two_hundred_changes_of_versions_fail_no_request(start, tmp_path):
    root, dice = tmp_path / "changing", random.Random(0)
    tiny.publish(root, "line", shift=1)
    good = [1]
    server = start(root, workers=2, api_processes=2)
    with Load(server, shift=lambda version: version) as load:
        for _ in range(200):
            change = dice.choice(["publish", "publish", "roll back", "delete", "corrupt"])
            if change == "publish":
                good.append(tiny.publish(root, "line", shift=last(root) + 1).number)
            elif change == "roll back":
                Repository(root).set_label("line", "stable", dice.choice(good))
            elif change == "delete" and len(good) > 3:
                stable = Repository(root).labels("line").get("stable")
                going = next(number for number in good if number != stable)
                good.remove(going)
                shutil.rmtree(root / "line" / str(going))
            elif change == "corrupt":
                graph = tiny.publish(root, "line", shift=last(root) + 1).folder / "model.onnx"
                graph.write_bytes(graph.read_bytes()[:-1] + b"!")
            time.sleep(0.05)  # so that looks fall between any two changes
    print(f"\n200 changes: {load.books}")
    assert (load.books.wrong, load.books.refused, load.books.broken) == ([], {}, {})
    assert len(load.books.right) > 5
    until(lambda: ok_counted(server) == load.books.answered, what="the server counts as the client does")


def last(root):
    return int((root / "line/.last").read_text())


def test_hostile_files_are_refused_while_what_served_serves_on(start, tmp_path):
    root = tmp_path / "attacked"
    tiny.publish(root, "line")
    server = start(root, workers=2)
    workers = set(server.workers)
    files = [hostile.endless(), hostile.deep(), hostile.gigabytes(), hostile.elsewhere("x"), hostile.nan_weights()]
    with Load(server) as load:
        for file in files:
            tiny.publish(root, "line", file)
        until(lambda: server.metric("rowcast_model_load_failures") == len(files), START_S)
    print(f"\nhostile files: {load.books}")
    assert (load.books.wrong, load.books.refused, load.books.broken) == ([], {}, {})
    assert set(load.books.right) == {"1"}
    assert load.books.p(0.99) < 1
    assert set(server.workers) == workers
