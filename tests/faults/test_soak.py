"""At half its capacity for long, a worker killed every 20 s: nothing is lost, nothing grows, all is counted."""

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.accounting import Load
from tests.faults.conftest import SOAK_S
from tests.faults.measured import memory_mb
from tests.server.conftest import START_S, processes, until

pytestmark = pytest.mark.faults

KILL_EVERY_S = 20


def descriptors_and_threads(server):
    """Of those processes that live from the start to the end."""
    lasting = [server.pid, server.main, *server.apis]
    files = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in lasting)
    threads = sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in lasting)
    return files, threads


def zombies(server):
    return [one.pid for one in processes() if one.session == server.pid and one.state == "Z"]


def counted(server):
    """Requests for `line` by outcome, as the server counts them."""
    families = {family.name: family for family in text_string_to_metric_families(server.client.get("/metrics").text)}
    counts = Counter()
    for sample in families["rowcast_requests"].samples:
        if sample.labels["model"] == "line" and sample.value:
            counts[sample.labels["code"]] += int(sample.value)
    return counts


def test_a_long_time_at_half_load_loses_nothing_and_grows_nothing(start):
    server = start(workers=2, api_processes=2, inline_s=0)
    with Load(server, rate=1_000_000) as fastest:
        time.sleep(5)
    rate = fastest.books.answered / 5 / 2
    before = counted(server)
    with Load(server, rate=rate) as load:
        time.sleep(min(30, SOAK_S / 4))  # caches fill, threads start
        first = memory_mb(server), descriptors_and_threads(server), load.books.sent
        end = time.monotonic() + SOAK_S
        while time.monotonic() < end:
            time.sleep(min(KILL_EVERY_S, max(0.1, end - time.monotonic())))
            os.kill(server.workers[0], signal.SIGKILL)
        until(lambda: len(server.workers) == 2, START_S)
        time.sleep(3)
        last = memory_mb(server), descriptors_and_threads(server), load.books.sent
    books = load.books
    growth = (last[0] - first[0]) / max(1, last[2] - first[2]) * 10_000
    print(f"\n{SOAK_S / 60:.0f} min at {rate:.0f}/s: {books}")
    print(f"{growth:.2f} MB for 10,000 requests ({last[0]:.0f} MB); files, threads {first[1]}, {last[1]}")
    assert books.wrong == []
    assert books.answered >= 0.995 * books.sent
    assert growth < 1.5 or last[0] - first[0] < 15  # a new worker differs from an old one by some megabytes
    assert last[1][0] <= first[1][0] + 10
    assert last[1][1] <= first[1][1] + 4
    assert zombies(server) == []
    expected = Counter({"ok": books.answered}) + books.refused
    until(lambda: counted(server) - before == expected, what=f"{counted(server) - before} is {expected}")
