"""The whole path as a user walks it: a table, a command, a server, answers, an end. Real processes throughout."""

import concurrent.futures
import csv
import os
import random
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

from models.repository import Repository
from tests.server.conftest import CHECKOUT, START_S, until

pytestmark = pytest.mark.server


def write_table(path, rows=400):
    """Who renews: numbers and a date with gaps, a category, a boolean; the outcome depends on all of them."""
    draw = random.Random(7)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["age", "plan", "trial", "joined", "renews"])
        for _ in range(rows):
            age, plan, trial = draw.randint(18, 90), draw.choice(["basic", "pro", "team"]), draw.random() < 0.5
            joined = f"{draw.randint(2019, 2024)}-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}"
            score = age / 90 + (plan == "pro") - trial + (joined > "2022") - 0.8
            out.writerow([
                "" if draw.random() < 0.1 else age,
                plan,
                str(trial).lower(),
                "" if draw.random() < 0.1 else joined,
                "yes" if score > 0 else "no",
            ])  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A repository with one model, trained and published by the command that a user types."""
    folder = tmp_path_factory.mktemp("end-to-end")
    write_table(folder / "renewals.csv")
    done = subprocess.run(
        [sys.executable, "-m", "training", str(folder / "renewals.csv"), "--target", "renews", "--epochs", "5"],
        cwd=CHECKOUT,
        env=os.environ | {"ROWCAST_REPOSITORY": str(folder / "published"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=10 * START_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "published"


GOOD = {"age": 44, "plan": "pro", "trial": False, "joined": "2023-05-01"}
ROWS = [
    GOOD,
    GOOD | {"age": None, "joined": None},
    GOOD | {"plan": "nobody has this plan"},
    {"age": None, "plan": None, "trial": None, "joined": None},
]
BAD = {
    "row 1: feature 'age' must be a number, got 'old'": [GOOD, GOOD | {"age": "old"}],
    "row 0: feature 'plan' is absent; send null if its value is missing": [{"age": 1, "trial": True, "joined": None}],
    "row 0: feature 'ages' is unknown; did you mean 'age'?": [GOOD | {"ages": 1}],
    "row 0: feature 'trial' must be true or false, got 2": [GOOD | {"trial": 2}],
}


def ask(server, rows):
    return server.client.post("/v1/models/renewals:predict", json={"instances": rows})


def probabilities(answer):
    return np.array(answer.json()["probabilities"], dtype=np.float32)


@pytest.mark.parametrize("backend", ["onnx", "torchscript"])
def test_what_was_trained_is_what_is_answered(published, start, backend):
    version = Repository(published).open("renewals", 1)
    graph = onnxruntime.InferenceSession(version.read("model.onnx"), providers=["CPUExecutionProvider"])
    right = graph.run(["probabilities"], {"features": version.schema.encode(ROWS)})[0]

    answer = ask(start(published, backend=backend), ROWS)

    assert answer.status_code == 200, answer.text
    assert (answer.json()["model_name"], answer.json()["model_version"]) == ("renewals", "1")
    np.testing.assert_allclose(probabilities(answer), right, atol=1e-5)
    named = [answer.json()["classes"][likeliest] for likeliest in right.argmax(1)]
    assert answer.json()["predictions"] == named


def test_good_and_bad_in_one_batch_then_a_scrape_then_nothing_is_left(published, start):
    server = start(published)
    alone = [probabilities(ask(server, [row])) for row in ROWS]
    asked = [([row], None) for row in ROWS] * 20 + [(rows, sentence) for sentence, rows in BAD.items()] * 20
    random.Random(0).shuffle(asked)

    with concurrent.futures.ThreadPoolExecutor(32) as clients:
        answers = list(clients.map(lambda one: ask(server, one[0]), asked))

    for (rows, sentence), answer in zip(asked, answers, strict=True):
        if sentence is None:
            assert answer.status_code == 200
            np.testing.assert_allclose(probabilities(answer), alone[ROWS.index(rows[0])], atol=1e-6)
        else:
            assert (answer.status_code, answer.json()["error"]) == (400, sentence)

    assert server.metric('rowcast_requests_total{code="ok",model="renewals",version="1"}') == 4 + 80
    assert server.metric('rowcast_requests_total{code="bad_row",model="renewals",version="1"}') == 80

    family = server.family()
    server.process.terminate()

    assert server.ended() == 0
    assert len(family) > 2
    assert until(lambda: not server.family())
    assert not server.listens()
