"""A study that two processes share, of which one is killed; wherever it is stored."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import polars as pl
import pytest
from optuna.trial import FrozenTrial, TrialState

from training.plan import Plan
from training.search import _opened, write_plan

ROOT = Path(__file__).parents[2]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Of a small table and a short fit."""
    x = np.random.default_rng(0).normal(size=(200, 2)).round(3)
    path = tmp_path / "t.csv"
    pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": (x[:, 0] * x[:, 1]).round(3)}).write_csv(path)
    fit = {"epochs": 3, "members": 1}
    return Plan.of({"name": "m", "target": ["y"], "table": {"path": str(path)}, "fit": fit}, "test")


def trials_in(storage: str) -> list[FrozenTrial]:
    """Those of its only study; none before there is one."""
    with _opened(storage) as shared:
        names = optuna.get_all_study_names(shared)
        return optuna.load_study(study_name=names[0], storage=shared).trials if names else []


def check_that_killing_one_of_two_loses_its_trial_alone(plan: Plan, folder: Path, storage: str) -> None:
    """Start two processes, kill one while it runs a trial, and look at what the other leaves."""
    write_plan(plan, folder / "p.toml")
    words = [sys.executable, "-u", "-m", "training", "search", str(folder / "p.toml"), "--trials", "6"]
    words += ["--storage", storage, "--save", str(folder / "best.toml")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    victim, other = (
        subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    )
    deadline = time.monotonic() + 1800
    while time.monotonic() < deadline and victim.poll() is None and not _runs_one(storage, victim.pid):
        time.sleep(0.05)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    said, errors = other.communicate(timeout=1800)
    assert (other.returncode, errors) == (0, "")
    assert re.search(r"m-[0-9a-f]{8}: [67] trials; best validation loss ", said)
    trials = trials_in(storage)
    ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(ended) >= 6
    assert len(trials) - len(ended) <= 1
    told = dict(re.findall(r" trials; trial (\d+): ([^;]+)", said))
    own = {trial.number for trial in trials if trial.user_attrs.get("process", "").endswith(f":{other.pid}")}
    assert set(map(int, told)) == own
    # one that was killed as it began its next trial has not said yet that it is its own
    assert str(other.pid) in {trial.user_attrs.get("process", "").split(":")[-1] for trial in trials}
    assert Plan.read(folder / "best.toml").name == "m"


def _runs_one(storage: str, pid: int) -> bool:
    if "://" not in storage and not Path(storage).exists():
        return False
    try:
        trials = trials_in(storage)
    except (optuna.exceptions.OptunaError, KeyError, RuntimeError):  # it is being made
        return False
    return any(
        trial.state is TrialState.RUNNING and trial.user_attrs.get("process", "").endswith(f":{pid}")
        for trial in trials
    )
