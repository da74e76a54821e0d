"""The page of the counts: the numbers of prometheus_client's own collector, without versions that are long gone."""

from collections import Counter

import pytest
from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

from service.observing import counts as read
from service.observing.count_files import value_class
from service.observing.metrics import Metrics
from service.observing.slot import counts_folder
from tests.service.test_metrics import samples


@pytest.fixture
def used(counts, versions, monkeypatch):
    """Counts of two processes that answered several versions."""
    assert counts.is_dir()
    for number, slot in enumerate(("api-0", "api-1")):
        monkeypatch.setattr(values, "ValueClass", value_class(counts_folder, lambda slot=slot: slot))
        metrics = Metrics()
        for name in ("line", "pair", "coin")[number:]:
            metrics.batch(versions[name], 3 + number, 0.002, [0.001, 0.3])
            metrics.answered(versions[name], 3, 0.02, 0.001, 0.002)
            metrics.failed(versions[name], "bad_row", 40.0)
        metrics.failed(None, "unknown_model", 0.1)
        metrics.failed(None, 'odd "\\\n', 0.1, model="line")
        metrics.rows_in_flight(2 + number)
    return metrics


def of(versions, *names):
    return [(name, str(versions[name].number)) for name in names]


def test_the_page_is_that_of_prometheus_clients_collector(counts, used, versions):
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    page = read.WrittenCounts(counts).page(of(versions, "line", "pair", "coin"))
    right = generate_latest(registry)
    assert samples(page) == samples(right)
    assert {line for line in page.splitlines() if line.startswith(b"#")} == {
        line for line in right.splitlines() if line.startswith(b"#")
    }
    reader = read.WrittenCounts(counts)
    for _ in range(2):  # what comes later to the files is read, too
        used.answered(versions["flowers"], 1, 0.01)
        page = reader.page(of(versions, "line", "pair", "coin", "flowers"))
        assert samples(page) == samples(generate_latest(registry))


def test_the_page_is_the_same_once_versions_were_given_up(counts, used, versions):
    reader = read.WrittenCounts(counts)
    before = samples(reader.page(of(versions, "line", "pair", "coin")))
    values.ValueClass.files.forget([("pair", "1")])
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    after = samples(reader.page(of(versions, "line", "pair", "coin")))
    assert after == samples(generate_latest(registry))
    left = {one for one in before if dict(one[1:]).get("model") != "pair"}
    assert {one: after[one] for one in left} == {one: before[one] for one in left}
    used.answered(versions["flowers"], 1, 0.01)
    assert samples(reader.page(of(versions, "flowers"))) == samples(generate_latest(registry))


@pytest.mark.usefixtures("used")
def test_a_file_that_begins_anew_is_read_anew_though_it_got_the_same_inode(counts, versions):
    reader = read.WrittenCounts(counts)
    before = samples(reader.page(of(versions, "line")))
    begun_anew = counts / "gauge_livesum_api-1.db"  # as `forget_process` and `make_room` leave it on many disks
    inode = begun_anew.stat().st_ino
    with begun_anew.open("r+b") as file:
        file.truncate(0)
        file.truncate(2**16)
    assert begun_anew.stat().st_ino == inode
    after = samples(reader.page(of(versions, "line")))
    assert (before["rowcast_rows_in_flight",], after["rowcast_rows_in_flight",]) == (5, 2)


def models_on(page):
    return Counter(dict(labels)["model"] for _, *labels in samples(page) if "model" in dict(labels))


def test_a_version_that_is_gone_leaves_the_page_and_goes_on_when_it_comes_back(counts, used, versions):
    now = 0.0
    reader = read.WrittenCounts(counts, lambda: now)
    everything, rest = of(versions, "line", "pair", "coin"), of(versions, "line", "pair")
    full = reader.page(everything)
    for later in (1.0, read.STAYS_S):
        now = later
        assert samples(reader.page(rest)) == samples(full)  # what it did last may not have been scraped yet
    now = read.STAYS_S + 1
    without = reader.page(rest)
    assert models_on(without).keys() == {"line", "pair", ""}
    assert samples(without).items() < samples(full).items()
    assert samples(reader.page(everything)) == samples(full)
    used.answered(versions["coin"], 1, 0.01)
    labels = (("code", "ok"), ("model", "coin"), ("version", "1"))
    assert samples(reader.page(everything))["rowcast_requests_total", *labels] == 3
    now += 1
    assert models_on(reader.page(rest))["coin"]  # and it leaves no sooner than the first time


def test_what_counts_for_no_version_is_there_as_long_as_its_model(counts, used, versions):
    assert used
    now = 0.0
    reader = read.WrittenCounts(counts, lambda: now)
    reader.page(of(versions, "line"))
    now = 2 * read.STAYS_S
    left = [labels for name, *labels in samples(reader.page(of(versions, "pair"))) if name == "rowcast_requests_total"]
    assert {dict(one)["model"] for one in left} == {"pair", ""}
