"""What `make bench` says of its figures: ratios within a round, bars met and not met, README's table."""

import math

import pytest

from benchmarks.serving.bars import bars, ratio
from benchmarks.serving.kinds import KINDS, oip_binary, probabilities_in, rows_of
from benchmarks.serving.show import markdown, show


def column(kind, connections, server, *rates):
    runs = [{"rps": rate, "p50_ms": 1000 / rate, "p99_ms": 1.0, "failed": 0, "others": 0.5} for rate in rates]
    return {"kind": kind, "connections": connections, "server": server, "choice": {"BATCH": 1}, "runs": runs}


def found(results, what, bar):
    (one,) = [one for one in bars(results) if one.what.startswith(what) and one.bar == bar]
    return one


def test_a_ratio_is_the_median_of_those_within_a_round():
    ours, theirs = [{"rps": 10.0}, {"rps": 1000.0}, {"rps": 30.0}], [{"rps": 5.0}, {"rps": 100.0}, {"rps": 10.0}]
    assert ratio(ours, theirs, "rps") == 3.0  # of 2, 10 and 3; the medians would give 3.0 only by chance of the drift
    assert ratio(ours, None, "rps") is None
    assert ratio([{"rps": 5.0}], [{"rps": 0.0}], "rps") == math.inf  # it answered nothing in time


@pytest.mark.parametrize(("theirs", "is_met"), [(50.0, True), (51.0, False)])
def test_a_bar_of_requests_is_met_at_its_multiple(theirs, is_met):
    rows = [column("1 row JSON", 64, "rowcast", 100.0), column("1 row JSON", 64, "mosec", theirs)]
    bar = found({"compare": rows}, "1 row JSON, 64", "2 x mosec")
    assert (bar.seen, bar.is_met) == (pytest.approx(100 / theirs), is_met)


@pytest.mark.parametrize(("rate", "is_met"), [(200.0, True), (150.0, False)])
def test_a_bar_of_latency_is_met_below_its_multiple(rate, is_met):
    rows = [column("1 row JSON", 1, "rowcast", rate), column("1 row JSON", 1, "mosec", 100.0)]
    assert found({"compare": rows}, "1 row JSON, 1 connection, p50", "at most 0.6 x mosec's").is_met is is_met


def test_the_open_inference_protocol_is_compared_with_our_plain_path():
    rows = [column("1000 rows OIP JSON", 16, "rowcast", 100.0, 100.0, 100.0)]
    for run, of_plain in zip(rows[0]["runs"], (0.95, 0.89, 0.7), strict=True):
        run["of_plain"] = of_plain
    bar = found({"compare": rows}, "1000 rows OIP JSON", "0.9 x 1000 rows JSON")
    assert (bar.seen, bar.is_met) == (pytest.approx(0.89), False)


def test_slow_models_and_an_idle_server_have_bars():
    slow = {"batches": [{"most_rows": 8, "share": 0.96}], "beside": [{"connections": 1, "p99": 2.1}]}
    results = {"slow": [slow], "idle": {"core": 0.004, "pss_mb": 201.0}}
    assert [bar.is_met for bar in bars(results)] == [True, False, True, False]


def test_results_are_shown_with_what_was_not_met_and_what_disturbed_them(capsys):
    rows = [column("1 row JSON", 64, name, 100.0) for name in ("rowcast", "mosec")]
    show({"compare": rows})
    said = capsys.readouterr().out
    assert "NOT MET" in said
    assert "Other work took 50% of the machine" in said
    table = markdown({"compare": rows})
    assert "| 1 row JSON | 64 | 100 | 10.00 | 1.00 x |  |  |  |" in table
    assert "| 2 x mosec | 1.00, **not met** |" in table


def test_every_form_of_a_request_carries_the_same_rows():
    assert len(rows_of(KINDS["1000 rows, 20 mixed columns"])) == 1000
    assert set(map(len, rows_of(KINDS["1 row, 20 mixed columns"]))) == {20}
    binary = KINDS["1 row OIP binary"]
    body = oip_binary(probabilities_in(b"\0\0\x80?\0\0\0@", binary, 2))
    assert body.raw.endswith(b"\0\0\x80?\0\0\0@")
    assert body.raw[: int(body.headers["Inference-Header-Content-Length"])].endswith(b"}")
