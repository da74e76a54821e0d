"""A run that is killed goes on from where it was and ends with the same weights."""

import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from models.repository import Repository
from training.command import main
from training.fitting.checkpoint import FOLDER, Checkpoint, code_files
from training.plan import Plan

ROOT = Path(__file__).parents[2]
PLAN = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t.csv"}}, "test")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3)).round(3)
    y = (x[:, 0] - x[:, 1] ** 2 + rng.normal(0, 0.2, 400)).round(3)
    path = tmp_path_factory.mktemp("table") / "killed.csv"
    pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": y}).write_csv(path)
    return path


def command(table: Path, repository: Path) -> list[str]:
    plan = table.with_suffix(".toml")
    fit = "epochs = 12\nbatch = 1\nmembers = 2\nfolds = 2\nseed = 1\n"  # long enough for two processes
    plan.write_text(f'name = "killed"\ntarget = ["y"]\n[table]\npath = "{table}"\n[net]\nhidden = [32]\n[fit]\n{fit}')
    return [str(plan), "--repository", str(repository), "--checkpoint-s", "0"]


def run(*words: str, threads: str = "1") -> subprocess.CompletedProcess[str]:
    """A module that has run to its end, and so have its children: they hold the same output."""
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def weights(repository: Path) -> str:
    return Repository(repository).open("killed", 1).manifest.weights


@pytest.fixture(scope="module")
def undisturbed(table: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights of a run that is not killed."""
    repository = tmp_path_factory.mktemp("whole")
    assert main(command(table, repository)) == 0
    return weights(repository)


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("lines", ["8", "30"])
def test_a_run_that_is_killed_ends_with_the_weights_of_one_that_is_not(  # noqa: PLR0917
    table: Path, tmp_path: Path, capsys, undisturbed, lines, threads
):
    killed = run("tests.training.ended_by", "SIGKILL", lines, *command(table, tmp_path / "r"), threads=threads)
    assert killed.returncode == -signal.SIGKILL
    assert Repository(tmp_path / "r").names() == []
    assert list((tmp_path / "r" / FOLDER).glob("killed-*/*.pt"))

    torch.set_num_threads(int(threads))
    assert main(command(table, tmp_path / "r")) == 0
    assert "goes on from the checkpoint in " in capsys.readouterr().out
    assert weights(tmp_path / "r") == undisturbed
    assert not (tmp_path / "r" / FOLDER).exists()


@pytest.mark.parametrize("threads", ["1", "2"])
def test_ctrl_c_says_where_the_checkpoint_is(table: Path, tmp_path: Path, threads):
    ended = run("tests.training.ended_by", "SIGINT", "8", *command(table, tmp_path / "r"), threads=threads)
    (folder,) = (tmp_path / "r" / FOLDER).iterdir()
    assert ended.returncode == 130
    assert ended.stderr.splitlines() == [
        f"killed: the same command goes on from the checkpoint in {folder}",
        "interrupted; nothing more was published",
    ]
    assert Repository(tmp_path / "r").names() == []


def test_the_code_of_what_a_row_is_decides_too_whether_a_checkpoint_is_gone_on_from():
    root = Path(__file__).parents[2]
    names = {path.relative_to(root).as_posix() for path in code_files()}
    assert {"models/features.py", "models/moments.py", "training/fitting/step.py"} <= names


def test_sigterm_ends_every_process(table: Path, tmp_path: Path):
    ended = run("tests.training.ended_by", "SIGTERM", "8", *command(table, tmp_path / "r"), threads="2")
    assert ended.returncode == -signal.SIGTERM
    assert Repository(tmp_path / "r").names() == []


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    opened = Checkpoint(tmp_path / FOLDER, every_s=0)
    opened.open(PLAN, "0" * 64, "cpu")
    return opened


def test_another_plan_table_or_device_finds_nothing(checkpoint: Checkpoint, tmp_path: Path):
    checkpoint.save("a", lambda: {"x": torch.ones(2)})
    for plan, data, device in (
        (PLAN.model_copy(update={"name": "n"}), "0" * 64, "cpu"),
        (PLAN.model_copy(update={"fit": PLAN.fit.model_copy(update={"seed": 5})}), "0" * 64, "cpu"),
        (PLAN, "1" * 64, "cpu"),
        (PLAN, "0" * 64, "NVIDIA H100"),
    ):
        other = Checkpoint(tmp_path / FOLDER, every_s=0)
        other.open(plan, data, device)
        assert other.load("a") is None
        assert other.folder is None
    same = Checkpoint(tmp_path / FOLDER)
    same.open(PLAN, "0" * 64, "cpu")
    found = same.load("a")
    assert found is not None
    assert found["x"].tolist() == [1, 1]


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda _: b"", lambda _: b"PK and then nothing"])
def test_a_damaged_state_is_passed_over(checkpoint: Checkpoint, damage):
    checkpoint.save("a", lambda: {"x": torch.ones(200)})
    assert checkpoint.folder is not None
    path = checkpoint.folder / "a.pt"
    path.write_bytes(damage(path.read_bytes()))
    assert checkpoint.load("a") is None


class Hostile:
    def __reduce__(self):
        return os.system, ("touch /tmp/rowcast-was-here",)


def test_a_state_runs_nothing(checkpoint: Checkpoint):
    checkpoint.save("a", lambda: {"x": 1})
    assert checkpoint.folder is not None
    torch.save({"x": Hostile()}, checkpoint.folder / "a.pt")
    assert checkpoint.load("a") is None
    assert not Path("/tmp/rowcast-was-here").exists()


def test_a_short_run_leaves_no_trace(tmp_path: Path):
    patient = Checkpoint(tmp_path / FOLDER, every_s=60)
    patient.open(PLAN, "0" * 64, "cpu")
    patient.save("a", lambda: {"x": 1}, is_final=True)
    assert not (tmp_path / FOLDER).exists()


def test_a_disk_that_takes_nothing_is_told_once_and_stops_no_fit(tmp_path: Path):
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    checkpoint = Checkpoint(tmp_path / FOLDER, every_s=0)
    checkpoint.open(PLAN, "0" * 64, "cpu")
    checkpoint.save("a", lambda: {"x": 1})
    assert checkpoint.trouble is not None
    assert checkpoint.trouble.startswith("no checkpoint could be kept in ")
    assert checkpoint.load("a") is None


def test_a_disk_that_fills_up_is_told_in_the_words_of_the_system(checkpoint: Checkpoint):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # stands in for a disk that is full
    try:
        checkpoint.save("a", lambda: {"x": torch.ones(200)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint.trouble is not None
    assert checkpoint.trouble.endswith(" (File too large); the fit goes on without")
    assert checkpoint.folder is not None
    assert not list(checkpoint.folder.iterdir())


def test_two_runs_of_one_command_at_once_tear_nothing(tmp_path: Path):
    both = [Checkpoint(tmp_path / FOLDER, every_s=0) for _ in range(2)]

    def keep(one: Checkpoint) -> None:
        for _ in range(50):
            one.save("a", lambda: {"x": torch.ones(1000)})

    for one in both:
        one.open(PLAN, "0" * 64, "cpu")
    with ThreadPoolExecutor(2) as runs:  # of one number, like the first processes of two containers
        list(runs.map(keep, both))
    assert [one.trouble for one in both] == [None, None]
    assert both[0].folder is not None
    assert [path.name for path in both[0].folder.iterdir()] == ["a.pt"]
