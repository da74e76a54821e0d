"""docs/how-to/clients.md: every block runs, one after the other, against a real server of a real model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from models.schema import Schema
from tests.server.conftest import PATIENT, Server, until
from tests.service import tiny

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/clients.md").read_text(encoding="utf-8")

RINGS = {
    "ROWS": {"x1": 0.1, "x2": 0.2},
    "SCHEMAS": Schema(features=(tiny.number("x1"), tiny.number("x2"))),
    "WEIGHTS": ([[1, -1, 0], [0, 1, 1]], [0, 0, 0]),
    "TASKS": "multiclass",
    "TARGETS": ("ring",),
    "CLASSES": (0, 1, 2),
    "PREDICTIONS": None,
}

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    published = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:  # a network of two numbers and three classes needs no training here
        for table, entry in RINGS.items():
            patch.setitem(getattr(tiny, table), "rings", entry)
        tiny.publish(published, "rings")
    server = Server(published, tmp_path_factory.mktemp("log") / "log", **PATIENT)
    server.repository = published
    try:
        until(server.is_ready)
        yield server
    finally:
        server.close()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def run(words, server, text=None, cwd=ROOT, **environment):
    done = subprocess.run(
        words, input=text and text.replace("localhost:8000", f"127.0.0.1:{server.port}"),
        env=os.environ | {"PYTHONUTF8": "1"} | environment, cwd=cwd, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_run(server, block):
    assert run([sys.executable, "-W", "error", "-"], server, block)


def test_curl_and_the_file_command_run(server, tmp_path):
    curl, predict = blocks("sh")
    assert json.loads(run(["sh"], server, curl))["model_name"] == "rings"

    published = str(server.repository)
    features = server.client.get("/v1/models/rings").json()["features"]
    pl.DataFrame({feature["name"]: [0.1, 0.9] for feature in features}).write_csv(tmp_path / "rows.csv")
    command = predict.replace("python", sys.executable, 1)
    run(["sh"], server, command, tmp_path, ROWCAST_REPOSITORY=published, PYTHONPATH=str(ROOT))
    assert pl.read_parquet(tmp_path / "predictions.parquet").height == 2
