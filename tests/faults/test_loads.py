"""A hundred versions are loaded while another model is asked: what that costs who asks."""

import json
import re
import statistics
import time
from pathlib import Path

import pytest

from tests.faults.accounting import Load
from tests.server.conftest import START_S, until
from tests.service import tiny

pytestmark = pytest.mark.faults

ROUNDS = 3
VERSIONS = 100
AT_REST_S = 4.0


def test_a_hundred_versions_are_loaded_and_nobody_waits(start, tmp_path):
    """The bar is 1.2 times, for a machine that nobody else uses; what was seen stands in docs/explanation/faults.md."""
    root, aside = tmp_path / "published", tmp_path / "aside"
    tiny.publish(root, "line")
    server = start(root, api_processes=2, workers=2)
    ratios = []
    for number in range(ROUNDS):
        for model in range(VERSIONS):
            tiny.publish(aside, "coin", called=f"coin-{number}-{model}")
        with Load(server) as alone:
            time.sleep(AT_REST_S)
        with Load(server) as beside:
            began = time.monotonic()
            for model in list(aside.iterdir()):
                model.rename(root / model.name)
            until(lambda number=number: live(server) == 1 + VERSIONS * (number + 1), 10 * START_S)
            took_s = time.monotonic() - began
            time.sleep(max(0.0, AT_REST_S - took_s))
        assert (beside.books.wrong, beside.books.refused, beside.books.broken) == ([], {}, {})
        ratios.append(beside.books.p(0.99) / alone.books.p(0.99))
        print(f"\nalone: {alone.books}\n{VERSIONS} versions loaded in {took_s:.1f} s beside: {beside.books}")
    print(f"p99 beside loads to p99 alone: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    assert statistics.median(ratios) < 3


def test_an_event_loop_wakes_seldom_for_a_hundred_versions(start, tmp_path):
    """Each time it does something that requests wait for; how often is the same on a busy machine, where p99 is not.

    It woke 340 to 380 times when each version was taken over by itself. An API process that waits for another one wakes
    to see whether it is its turn, so what counts is the one that wakes less.
    """
    root, aside = tmp_path / "published", tmp_path / "aside"
    tiny.publish(root, "line")
    server = start(root, api_processes=2, workers=2, poll_s=2.0, log_level="debug")  # what is live, of each process
    for number in range(ROUNDS):
        for model in range(VERSIONS):
            tiny.publish(aside, "coin", called=f"coin-{number}-{model}")
        before = {pid: wakes(pid) for pid in server.apis}
        for model in list(aside.iterdir()):
            model.rename(root / model.name)
        until(lambda number=number: server.said().count(f"live: coin-{number}-") == 2 * VERSIONS, 10 * START_S)
        woken = [wakes(pid) - count for pid, count in before.items()]
        print(f"\nevent loops woke {woken} times for {VERSIONS} versions")
        assert min(woken) < 2 * VERSIONS


def wakes(pid):
    """How often the first thread of a process has slept."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE).group(1))


def live(server):
    return len(json.loads(server.client.get("/v1/models").content)["models"])


def test_a_shadow_of_every_request_costs_nobody_an_answer(start, tmp_path):
    root, ratios = tmp_path / "published", []
    for _ in range(2):
        tiny.publish(root, "line")
    server = start(root, api_processes=2, workers=2, control=True)
    label = "/v1/models/line/labels"
    assert server.client.put(f"{label}/stable", json={"version": 1}).status_code == 200
    for _ in range(ROUNDS):
        server.client.delete(f"{label}/next")
        with Load(server) as alone:
            time.sleep(AT_REST_S)
        assert server.client.put(f"{label}/next", json={"version": 2, "shadow": 1}).status_code == 200
        with Load(server) as beside:
            time.sleep(AT_REST_S)
        for load in (alone, beside):
            assert not load.books.failed
        ratios.append(beside.books.p(0.99) / alone.books.p(0.99))
        print(f"\nalone: {alone.books}\nwith a shadow: {beside.books}")
    computed = server.metric("rowcast_shadow_rows_total")
    print(
        f"p99 with a shadow to p99 alone: {', '.join(f'{ratio:.2f}' for ratio in ratios)}; {computed:g} rows compared"
    )
    assert statistics.median(ratios) < 3
