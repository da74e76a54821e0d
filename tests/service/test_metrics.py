import asyncio
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import values
from prometheus_client.parser import text_string_to_metric_families

from models.features import NumberFeature
from models.manifest import Predictions
from models.schema import Schema
from service.batching.agreement import Agreement
from service.batching.shadow import Counts
from service.observing import metrics
from service.observing.count_files import value_class
from service.observing.counts import STAYS_S
from service.observing.drift import Drift
from service.observing.slot import counts_folder, forget_process
from service.observing.vitals import Vitals
from tests.models import sample as contract

PAGE = Path(__file__).parents[2] / "docs/reference/metrics.md"
VERSION = SimpleNamespace(
    name="line",
    number=1,
    key="line/1@0",
    manifest=SimpleNamespace(name="line", version=1, task="regression", weights="ab" * 32),
)
REFUSED = ["line/2", "line/3", "x/1"]

pytestmark = pytest.mark.usefixtures("counts")


def samples(page):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def scrape(counting):
    return samples(counting.page([VERSION], REFUSED, is_ready=True))


def sample(page, name, **labels):
    return page.get((name, *sorted(labels.items())))


LINE = {"model": "line", "version": "1"}


def test_a_request_is_counted_by_version_and_outcome():
    counting = metrics.Metrics()
    counting.answered(VERSION, 3, 0.0002)
    counting.answered(VERSION, 4, 0.2)
    counting.failed(VERSION, "bad_row", 0.0002)
    counting.failed(None, "unknown_model", 0.0002)
    page = scrape(counting)
    assert sample(page, "rowcast_requests_total", **LINE, code="ok") == 2
    assert sample(page, "rowcast_requests_total", **LINE, code="bad_row") == 1
    assert sample(page, "rowcast_requests_total", model="", version="", code="unknown_model") == 1
    assert sample(page, "rowcast_rows_total", **LINE) == 7
    assert sample(page, "rowcast_request_duration_seconds_count", **LINE) == 3
    assert sample(page, "rowcast_request_duration_seconds_bucket", **LINE, le="0.00025") == 2


def test_the_requests_of_one_turn_are_counted_as_they_are_one_by_one():
    seconds = [0.00005, 0.0001, 0.00011, 0.0004, 3.0, 99.0, 0.0004]

    async def count(counting):
        for number, one in enumerate(seconds):
            counting.answered(VERSION, 3, one) if number % 2 else counting.failed(VERSION, "bad_row", one)
            counting.rows_in_flight(2 * number)
        await asyncio.sleep(0)
        return scrape(counting)

    together = asyncio.run(count(metrics.Metrics()))
    counting = metrics.Metrics()  # the same files: it goes on from what they hold
    for number, one in enumerate(seconds):
        counting.answered(VERSION, 3, one) if number % 2 else counting.failed(VERSION, "bad_row", one)
    twice = scrape(counting)
    assert sample(together, "rowcast_requests_total", **LINE, code="ok") == 3
    assert sample(together, "rowcast_rows_in_flight") == 12
    assert sample(together, "rowcast_request_duration_seconds_bucket", **LINE, le="0.0001") == 2
    for key, value in together.items():
        if key[0].startswith(("rowcast_requests", "rowcast_rows_total", "rowcast_request_duration")):
            assert twice[key] == pytest.approx(2 * value), key


def test_what_comes_soon_after_is_written_a_moment_later():
    async def count(counting):
        rows = []
        for _ in range(2):
            counting.answered(VERSION, 5, 0.001)
            await asyncio.sleep(0)
            rows.append(sample(scrape(counting), "rowcast_rows_total", **LINE))
        await asyncio.sleep(2 * metrics.KEPT_BACK_S)
        return [*rows, sample(scrape(counting), "rowcast_rows_total", **LINE)]

    first, second, later = asyncio.run(count(metrics.Metrics()))
    assert first == 5
    assert second in (5, 10)  # 10 if more than a moment passed
    assert later == 10


def test_a_batch_is_counted_once_and_its_waits_one_by_one():
    counting = metrics.Metrics()
    counting.batch(VERSION, 64, 0.001, [0.0001, 0.0003])
    page = scrape(counting)
    assert sample(page, "rowcast_batch_rows_count", **LINE) == 1
    assert sample(page, "rowcast_batch_rows_sum", **LINE) == 64
    assert sample(page, "rowcast_compute_duration_seconds_sum", **LINE) == 0.001
    assert sample(page, "rowcast_queue_duration_seconds_count", **LINE) == 2


def test_a_live_version_is_on_the_page_before_its_first_request():
    page = scrape(metrics.Metrics())
    assert sample(page, "rowcast_requests_total", **LINE, code="ok") == 0
    assert sample(page, "rowcast_rows_total", **LINE) == 0
    assert sample(page, "rowcast_model_info", **LINE, task="regression", weights="abababababab") == 1


def test_refused_versions_are_counted_by_model():
    page = scrape(metrics.Metrics())
    assert sample(page, "rowcast_model_load_failures", model="line") == 2
    assert sample(page, "rowcast_model_load_failures", model="x") == 1


def test_ready_is_one_or_zero():
    counting = metrics.Metrics()
    assert sample(scrape(counting), "rowcast_ready") == 1
    assert sample(samples(counting.page([VERSION], REFUSED, is_ready=False)), "rowcast_ready") == 0


PROCESS = """
    import os, signal, sys
    from types import SimpleNamespace
    from service.observing import metrics
    from service.observing.slot import use_slot
    use_slot(sys.argv[1])
    counting = metrics.Metrics()
    version = SimpleNamespace(name="line", number=1, key="line/1@0")
    for _ in range(10):
        counting.answered(version, 5, 0.001)
    counting.rows_in_flight(3)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def count_ten_requests_and_die(slot):
    dead = subprocess.run([sys.executable, "-c", textwrap.dedent(PROCESS), slot], check=False)
    assert dead.returncode == -signal.SIGKILL


def test_processes_add_up_and_a_killed_ones_successor_goes_on_with_its_counts(counts):
    seen, files = [], []
    for _ in range(3):
        for slot in ("api-1", "api-2"):
            count_ten_requests_and_die(slot)
            seen.append(sample(scrape(metrics.Metrics()), "rowcast_requests_total", **LINE, code="ok"))
            files.append(len(list(counts.iterdir())))
    assert seen == [10, 20, 30, 40, 50, 60]
    assert files[1] == files[-1]


def test_totals_add_up_over_processes_and_never_go_down():
    seen = []
    for slot in ("api-1", "api-2", "api-1"):
        count_ten_requests_and_die(slot)
        totals = metrics.Metrics().totals()["line", "1"]
        seen.append((totals.answered, totals.rows, totals.failed))
        assert totals.seconds["whole"] > 0
    assert seen == [(10, 50, 0), (20, 100, 0), (30, 150, 0)]


def test_seconds_of_stages_are_kept_back_for_a_moment_and_never_lost():
    counting = metrics.Metrics()
    for _ in range(4):
        counting.answered(VERSION, 1, 0.5, encode_s=0.25, write_s=0.125)
    counting.failed(VERSION, "bad_row", 0.25)
    counting.batch(VERSION, 4, 0.5, [0.0, 0.25])
    counting.write_what_is_kept()
    totals = counting.totals()["line", "1"]
    assert totals.seconds == {
        "encode": 1.0,
        "queue": 0.25,
        "compute": 1.0,
        "write": 0.5,
        "whole": 2.0,
        "failed": 0.25,
    }
    assert (totals.answered, totals.failed, totals.batches) == (4, 1, 1)


def test_rows_in_flight_of_a_dead_process_are_forgotten():
    counting = metrics.Metrics()
    counting.rows_in_flight(2)
    count_ten_requests_and_die("api-1")
    assert sample(scrape(counting), "rowcast_rows_in_flight") == 5
    forget_process("api-1")
    assert sample(scrape(counting), "rowcast_rows_in_flight") == 2


def test_a_new_process_in_a_slot_has_no_rows_in_flight():
    metrics.Metrics().rows_in_flight(2)
    assert sample(scrape(metrics.Metrics()), "rowcast_rows_in_flight") == 0


@pytest.fixture
def full_page(counts, tmp_path):
    counting = metrics.Metrics()
    counting.answered(VERSION, 3, 0.0002)
    counting.batch(VERSION, 64, 0.001, [0.0001])
    for waited_s in (None, 0.001):
        counting.urgent(VERSION, waited_s)
    shadows = Counts(counting.registry)
    shadows.requests(VERSION, "ok")
    shadows.compared(VERSION, Agreement(rows=1, equal=1, difference=0.0))
    shadows.computed(VERSION, 0.001)
    measured = Drift(counts, "api-0", 2000)
    number = NumberFeature(name='wi"dth\n', quantiles=(0.0, 1.0))
    manifest = contract.manifest(input=Schema(features=(number,)), predictions=Predictions(quantiles=((0.0, 1.0),)))
    version = SimpleNamespace(name="house", number=1, manifest=manifest, key="house/1@0")
    matrix = np.ones((400, 1), dtype=np.float32)
    measured.sample(version, matrix, {"prediction": matrix})
    measured.fold()
    (tmp_path / "worker-0.sock").touch()
    vitals = Vitals(2000, [tmp_path / "worker-0.sock", tmp_path / "worker-1.sock"], [], os.getpid())
    return counting.page([VERSION], REFUSED, is_ready=True, more=[measured.collector([version]), vitals])


def test_every_metric_is_on_its_page_with_its_type_and_labels(full_page):
    documented = PAGE.read_text()
    documented_names = set(re.findall(r"^\| `(\w+)` \|", documented, re.MULTILINE))
    families = list(text_string_to_metric_families(full_page.decode()))
    assert {family.name + ("_total" if family.type == "counter" else "") for family in families} == documented_names
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        row = re.search(rf"^\| `{name}` \| (\w+) \| ([^|]*)\|", documented, re.MULTILINE)
        assert row, name
        assert row[1] == family.type
        assert sorted(re.findall(r"`(\w+)`", row[2])) == labels


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Debian's package prometheus")
def test_promtool_has_nothing_to_say(full_page):
    checked = subprocess.run(["promtool", "check", "metrics"], input=full_page, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


# ------------------------------------------------------------------------------------ versions that come and go


def version(number):
    manifest = SimpleNamespace(name="line", version=number, task="regression", weights="ab" * 32)
    return SimpleNamespace(name="line", number=number, key=f"line/{number}@0", manifest=manifest)


def used_by(counting, one):
    counting.batch(one, 3, 0.002, [0.001, 0.3])
    counting.answered(one, 3, 0.02, 0.001, 0.002)
    counting.failed(one, "bad_row", 0.02)
    counting.urgent(one, 0.1)


def live(*numbers):
    return {("line", str(number)) for number in numbers}


class Time:
    now = 0.0

    def __call__(self):
        return self.now


def used_bytes(folder):
    return {path.name: int.from_bytes(path.read_bytes()[:4], "little") for path in folder.glob("*.db")}


def test_hundreds_of_versions_that_come_and_go_take_no_more_room_than_a_few(counts):
    clock = Time()
    counting, another = metrics.Metrics(clock), metrics.Metrics(clock)
    after = {}
    for number in range(1001, 1301):  # names of one length
        used_by(counting, version(number))
        counting.forget_gone(live(1001, number))
        clock.now += STAYS_S / 2
        if number % 20:
            another.totals()
            continue
        page = samples(another.page([version(1001), version(number)], [], is_ready=True))
        for alive in (1001, number):  # also to a reader that knew the files before
            assert sample(page, "rowcast_requests_total", model="line", version=str(alive), code="ok") == 1
            assert sample(page, "rowcast_batch_rows_count", model="line", version=str(alive)) == 1
        assert len({dict(one[1:])["version"] for one in page if one[0] == "rowcast_batch_rows_count"}) <= 7
        kept = [metric._metrics for metric in counting._of_versions()] + [another._counts._series, counting._of_version]
        after[number] = used_bytes(counts), list(map(len, kept))
    assert after[1300] == after[1040]


def test_a_version_that_comes_back_goes_on_until_it_is_given_up_and_then_begins_at_zero():
    clock = Time()
    counting = metrics.Metrics(clock)
    one = version(1)

    def answered():
        used_by(counting, one)
        return sample(scrape(counting), "rowcast_requests_total", **LINE, code="ok")

    assert answered() == 1
    counting.forget_gone(live(2))
    clock.now += 2 * STAYS_S
    counting.forget_gone(live(2))
    assert answered() == 2
    counting.forget_gone(live(1))  # and it is live again
    clock.now += 2 * STAYS_S + 1
    counting.forget_gone(live(1))
    assert answered() == 3
    counting.forget_gone(live(2))
    clock.now += 2 * STAYS_S + 1
    counting.forget_gone(live(2))
    assert answered() == 1


def test_a_process_gives_up_what_the_one_before_it_in_its_slot_has_counted(counts, monkeypatch):
    used_by(metrics.Metrics(), version(1))
    before = used_bytes(counts)
    monkeypatch.setattr(values, "ValueClass", value_class(counts_folder, lambda: "api-0"))
    clock = Time()
    counting = metrics.Metrics(clock)
    counting.forget_gone(live(2))
    assert used_bytes(counts) == before
    clock.now += 2 * STAYS_S + 1
    counting.forget_gone(live(2))
    assert used_bytes(counts)["histogram_api-0.db"] == 8
    assert sample(scrape(counting), "rowcast_batch_rows_count", **LINE) is None


def test_counts_that_cannot_be_given_up_on_a_full_disk_stay(counts, monkeypatch, caplog):
    clock = Time()
    counting = metrics.Metrics(clock)
    used_by(counting, VERSION)
    counting.forget_gone(live(2))
    clock.now += 2 * STAYS_S + 1
    before = used_bytes(counts)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "posix_fallocate", full)
        counting.forget_gone(live(2))
    assert used_bytes(counts) == before
    assert "No space left" in caplog.text
    counting.forget_gone(live(2))
    assert used_bytes(counts)["histogram_api-0.db"] == 8
