"""README's commands, run as they stand there, in a copy of the checkout."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.server.conftest import START_S, free_port, until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
RUN_ELSEWHERE = {
    "make test": "this very run",
    "make check": "its steps are the targets of CI",
    "make test-faults": "takes minutes",
    "make bench": "takes minutes, and a tool that a test may not install",
    "make bench-quality": "takes hours",
    "make bench-train": "takes minutes",
    "make test-container": "takes minutes, and tools that a test may not install",
    "make reproduce": "takes minutes; its parts are tested in tests/training",
    "make train": "takes minutes; `make serve` below trains one plan the same way, tests/training every step",
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what git would hand to a user, with a repository of its own and a free port."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "my.csv").write_text("area,rooms,price\n" + "".join(f"{a},{a % 5},{a * 3}\n" for a in range(40, 140)))
    return folder


@pytest.fixture(scope="module")
def environment():
    return os.environ | {"VENV": str(ROOT / ".venv"), "ROWCAST_PORT": str(free_port()), "ROWCAST_HOST": "127.0.0.1"}


def run(command, checkout, environment):
    return subprocess.run(
        ["sh", "-c", command.replace("localhost:8000", f"127.0.0.1:{environment['ROWCAST_PORT']}")],
        cwd=checkout, env=environment, capture_output=True, text=True, timeout=10 * START_S, check=False,  # it trains
    )  # fmt: skip


def test_every_command_is_known_to_a_test_here():
    tried = {"make serve", "make", "make train PLAN=wine", "make train DATA=my.csv TARGET=price"}

    unknown = [c for c in COMMANDS if c not in tried | set(RUN_ELSEWHERE) and not c.startswith("curl ")]

    assert not unknown


def test_make_lists_every_target_that_readme_names(checkout, environment):
    listing = run("make", checkout, environment).stdout

    named = {word for command in COMMANDS for word in re.findall(r"make ([a-z-]+)", command)}
    assert named <= set(re.findall(r"^  ([a-z-]+)", listing, re.MULTILINE))


def test_a_table_without_a_target_stops_what_would_train_it_and_nothing_else(checkout, environment):
    environment = environment | {"DATA": "my.csv"}
    assert run("make", checkout, environment).returncode == 0
    stopped = run("make train", checkout, environment)
    assert "DATA=my.csv needs TARGET=, the name of the column to predict" in stopped.stderr
    assert stopped.returncode == 2


def test_one_plan_trains(checkout, environment):
    done = run("make train PLAN=wine", checkout, environment)

    assert done.returncode == 0, done.stderr
    assert (checkout / "models/published/wine/1/manifest.json").is_file()


@pytest.mark.server
def test_serve_answers_as_readme_says_and_picks_up_a_table_of_ones_own(checkout, environment):
    # every plan but rings is published with one epoch, so that `make serve` trains one plan as a user's would all
    plans = [path.stem for path in (checkout / "training/plans").glob("*.toml") if path.stem not in ("rings", "wine")]
    hurried = run(f"$VENV/bin/python -m training {' '.join(plans)} --epochs 1", checkout, environment)
    assert hurried.returncode == 0, hurried.stderr
    server = subprocess.Popen(["make", "serve"], cwd=checkout, env=environment, start_new_session=True)
    client = httpx.Client(base_url=f"http://127.0.0.1:{environment['ROWCAST_PORT']}", timeout=START_S)
    try:
        until(lambda: is_ready(server, client), what="ready")

        [ask] = [command for command in COMMANDS if command.startswith("curl ")]
        answer = json.loads(run(ask, checkout, environment).stdout)
        shown = json.loads(re.search(r"```json\n(.*?)```", README, re.DOTALL)[1])
        assert answer.keys() == shown.keys()
        assert answer["predictions"] == shown["predictions"]

        trained = run("make train DATA=my.csv TARGET=price", checkout, environment)
        assert trained.returncode == 0, trained.stderr
        own = {"instances": [{"area": 90, "rooms": 0}]}
        until(lambda: client.post("/v1/models/my:predict", json=own).status_code == 200)
    finally:
        client.close()
        os.killpg(server.pid, signal.SIGINT)  # what Ctrl-C does
        assert server.wait(START_S) is not None


def is_ready(server, client):
    assert server.poll() is None, "make serve ended"
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False
