"""`python -m service bench` measures a real server, and says so when it would measure something else."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest

from service.commands.bench import CannotMeasure, Seen, refuse_what_is_not_the_server_s, summarize
from tests.server.conftest import CHECKOUT, START_S, until


def bench(*words):
    return subprocess.run(
        [sys.executable, "-m", "service", "bench", *map(str, words)],
        cwd=CHECKOUT, env=os.environ, capture_output=True, text=True, check=False, timeout=START_S,
    )  # fmt: skip


@pytest.mark.server
def test_it_counts_what_the_server_counts(start):
    server = start()
    url = f"http://127.0.0.1:{server.port}"
    done = bench(url, "line", "--connections", 2, "--processes", 1, "--rows", 500, "--seconds", 1, "--json")
    if done.returncode == 3:  # on a machine without a free core it must not say otherwise
        assert "waited for a free core" in done.stderr
        return
    report = json.loads(done.stdout)
    assert (done.returncode, report["failed"]) == (0, {})
    until(lambda: server.metric("rowcast_rows_total") == 500 * server.metric("rowcast_requests_total"))
    assert 0 < report["answers"] <= server.metric("rowcast_requests_total")  # which has those of the warm-up, too
    assert report["p50_ms"] <= report["max_ms"]


@pytest.mark.server
def test_what_cannot_be_measured_is_said(start):
    url = f"http://127.0.0.1:{start().port}"
    refused = bench(url, "line", "--connections", 1, "--rows", 200_000, "--seconds", 1)
    assert refused.returncode == 3
    assert "413 too_large" in refused.stderr

    unknown = bench(url, "lime", "--json")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "did you mean 'line'?" in unknown.stderr


def test_nobody_there_is_one_sentence():
    done = bench("http://127.0.0.1:1", "line")
    assert done.returncode == 2
    assert done.stderr.endswith("is it up?\n")


@pytest.mark.server
def test_ctrl_c_is_one_word(start):
    server = start()
    words = [sys.executable, "-m", "service", "bench", f"http://127.0.0.1:{server.port}", "line", "--seconds", "600"]
    with subprocess.Popen(words, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True, start_new_session=True) as started:
        until(lambda: server.metric("rowcast_requests_total") > 0)
        os.killpg(started.pid, signal.SIGINT)  # as a terminal sends it
        _, said = started.communicate()
    assert (started.returncode, said) == (130, "interrupted\n")


def saw(**of_client):
    return [Seen(seconds=[0.001] * 500 + [0.1] * 500, **of_client)]


def test_percentiles_are_told_only_where_enough_answers_lie_beyond_them():
    report = summarize(saw() * 2, rows=3, seconds=2.0)
    assert report["rows_per_s"] == 3000
    assert (report["p90_ms"], report["max_ms"]) == (100.0, 100.0)
    assert "p99_ms" in report
    assert "p99.9_ms" not in report


@pytest.mark.parametrize(
    ("of_client", "why"),
    [
        ({"busy": 0.9}, "computed 90% of the time"),
        ({"busy": 0.3, "waited": 0.6}, "waited for a free core 60%"),
        ({"opened": 9}, "9 connections were opened anew"),
    ],
)
def test_figures_of_anything_but_the_server_are_refused(of_client, why):
    seen = saw(**of_client)
    with pytest.raises(CannotMeasure, match=why):
        refuse_what_is_not_the_server_s(summarize(seen, 1, 1.0), seen, connections=4)


def test_nothing_answered_is_no_measurement():
    seen = [Seen(wrong=Counter({"503 overloaded": 7}))]
    with pytest.raises(CannotMeasure, match="503 overloaded"):
        refuse_what_is_not_the_server_s(summarize(seen, 1, 1.0), seen, connections=4)


def test_a_measurement_of_a_quiet_server_passes():
    seen = saw(busy=0.2, opened=1)
    refuse_what_is_not_the_server_s(summarize(seen, 1, 1.0), seen, connections=4)
