"""Versions come, go, are rolled back, deleted and corrupted; every answer is right for the version it names."""

import os
import random
import re
import shutil
import time

import pytest

from models.repository import Repository
from tests.faults.accounting import Load
from tests.server.conftest import START_S, until
from tests.service import hostile, tiny

pytestmark = pytest.mark.faults


def test_two_hundred_changes_of_labels_and_shares_fail_no_request(start, tmp_path):
    """Set in the repository and by request, with a canary, a shadow, and another model loaded and unloaded."""
    root, dice = tmp_path / "routed", random.Random(0)
    for shift in (1, 2, 3, 4):
        tiny.publish(root, "line", shift=shift)
    tiny.publish(root, "coin")
    repository = Repository(root)
    repository.set_label("line", "stable", 1)
    server = start(root, workers=2, api_processes=2, control=True, keep_versions=1)
    with Load(server, shift=lambda version: version) as load:
        for _ in range(200):
            number, share = dice.choice([1, 2, 3, 4]), dice.choice([0.0, 0.05, 0.5, 1.0])
            change = dice.choice(["stable", "canary", "shadow", "by request", "no canary", "unload", "load"])
            if change == "stable":
                repository.set_label("line", "stable", number)
            elif change == "canary":
                repository.set_label("line", "canary", number, share=share)
            elif change == "shadow":
                repository.set_label("line", "next", number, shadow=share)
            elif change == "by request":
                path = f"/v1/models/line/labels/{dice.choice(['stable', 'old'])}"
                assert server.client.put(path, json={"version": number}).status_code == 200
            elif change == "no canary":
                repository.remove_label("line", "canary")
            else:
                assert server.client.post(f"/v2/repository/models/coin/{change}").status_code == 200
            time.sleep(0.05)  # so that looks fall between any two changes
    print(f"\n200 changes of labels: {load.books}")
    assert not load.books.failed
    assert len(load.books.right) == 4
    load.check_counts()


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
    assert not load.books.failed
    assert len(load.books.right) > 5
    load.check_counts()


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
    assert not load.books.failed
    load.check_counts()
    assert set(load.books.right) == {"1"}
    assert set(server.workers) == workers
    reasons = "opening it|cannot open|does not run on its proof|not finite"
    for number in range(2, 2 + len(files)):
        said = [line for line in server.said().splitlines() if f"refused: line/{number}: " in line]
        assert said
        assert all(re.search(reasons, line) for line in said)


def test_what_is_done_to_live_files_behind_the_servers_back_changes_no_answer(start, tmp_path):
    """A worker holds what it proved: bits that flip, links and files swapped beneath it reach nobody."""
    root, dice = tmp_path / "touched", random.Random(2)
    first = tiny.publish(root, "line")
    server = start(root, workers=2, inline_s=0)
    graph = first.folder / "model.onnx"
    good = graph.read_bytes()
    other = tiny.graph("line", shift=7).SerializeToString()
    (tmp_path / "secret").write_bytes(other)
    with Load(server) as load:
        for turn in range(40):
            match turn % 4:
                case 0:  # in place, while it is open
                    flipped = bytearray(good)
                    flipped[dice.randrange(len(good))] ^= 1 << dice.randrange(8)
                    with graph.open("r+b") as file:
                        file.write(flipped)
                case 1:  # another file in its place
                    (root / "other").write_bytes(other)
                    (root / "other").replace(graph)
                case 2:  # a link to a file elsewhere
                    graph.unlink()
                    os.link(tmp_path / "secret", graph)
                case 3:
                    graph.unlink()
                    graph.symlink_to(tmp_path / "secret")
            if turn == 20:
                os.kill(server.workers[0], 9)  # the next one opens what is there now
            time.sleep(0.1)
            if turn % 4 > 1:
                graph.unlink()
                graph.write_bytes(good)
        graph.write_bytes(good)
        os.utime(first.folder)
        until(lambda: len(server.workers) == 2, START_S)
    print(f"\n40 changes beneath a live version: {load.books}")
    assert (load.books.wrong, load.books.broken) == ([], {})
    assert set(load.books.refused) <= {"model_failed", "not_ready"}
    assert load.books.answered >= 0.5 * load.books.sent


def test_hard_links_and_flipped_bits_are_refused_live(start, tmp_path):
    root, dice = tmp_path / "attacked", random.Random(3)
    tiny.publish(root, "line")
    server = start(root)
    expected = 0
    (tmp_path / "secret").write_bytes(tiny.graph("line", shift=7).SerializeToString())
    with Load(server) as load:
        for number in range(2, 22):
            draft = tiny.publish(root, "line")
            graph = draft.folder / "model.onnx"
            raw = bytearray(graph.read_bytes())
            raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
            damaged = tmp_path / f"damaged-{number}"
            damaged.write_bytes(raw if number % 2 else (tmp_path / "secret").read_bytes())
            graph.unlink()
            os.link(damaged, graph)
            expected += 1
            time.sleep(0.02)
        until(lambda: server.metric("rowcast_model_load_failures") >= expected / 2, START_S)
    print(f"\n20 links and flipped bits: {load.books}")
    assert not load.books.failed
    load.check_counts()
