"""A study that processes share: real processes, a real journal, and one of them killed."""

import resource
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import optuna
import polars as pl
import pytest
from optuna.trial import TrialState

from models.csv_file import BadTable
from tests.training.sharing import check_that_killing_one_of_two_loses_its_trial_alone, plan, trials_in
from training.faults import DiskFailed
from training.plan import BadPlan, Plan
from training.search import _run, _told, plan_of, search, write_plan

__all__ = ["plan"]


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_the_best_of_the_trials_is_a_plan_that_trains(plan: Plan, tmp_path: Path, kind):
    storage = str(tmp_path / "j.log") if kind == "journal" else f"sqlite:///{tmp_path}/s.db"
    heard: list[str] = []
    found = search(plan, 4, storage, heard.append)
    assert found.trials == 4
    assert len(heard) == 4
    assert found.plan.net.hidden != plan.net.hidden
    write_plan(found.plan, tmp_path / "best.toml")
    assert Plan.read(tmp_path / "best.toml") == found.plan
    again = search(plan, 4, storage, heard.append)  # all of them are done: nothing is run
    assert (again, len(heard)) == (found, 4)


def test_a_table_that_has_changed_is_another_study(plan: Plan, tmp_path: Path):
    storage, heard = str(tmp_path / "j.log"), []
    before = search(plan, 1, storage)
    table = Path(str(plan.table.path))
    table.write_text(table.read_text() + "0.5,0.5,1000\n")
    found = search(plan, 1, storage, heard.append)
    assert (found.study != before.study, len(heard)) == (True, 1)


def test_every_target_of_several_counts_alike_in_whatever_unit(plan: Plan, tmp_path: Path):
    table = Path(str(plan.table.path))
    pl.read_csv(table).with_columns(grams=1e9 * pl.col("a")).write_csv(table)
    found = search(plan.model_copy(update={"target": ("y", "grams")}), 1, str(tmp_path / "j.log"))
    assert 0 < found.loss < 10


def test_two_processes_share_a_study_and_killing_one_loses_its_trial_alone(plan: Plan, tmp_path: Path):
    check_that_killing_one_of_two_loses_its_trial_alone(plan, tmp_path, str(tmp_path / "shared" / "j.log"))


def test_a_trial_whose_process_died_is_failed_by_the_next(plan: Plan, tmp_path: Path):
    storage = str(tmp_path / "j.log")
    found = search(plan, 1, storage)
    backend = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(storage))
    lost = optuna.load_study(study_name=found.study, storage=backend).ask()
    search(plan, 2, storage, stale_s=0.0)
    assert trials_in(storage)[lost.number].state is TrialState.FAIL


def test_a_trial_that_another_process_took_for_lost_stays_lost_and_the_search_goes_on(plan: Plan, tmp_path: Path):
    endless = plan.model_copy(update={"fit": plan.fit.model_copy(update={"epochs": 10**6, "patience": 10**6})})
    backend = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "j.log")))
    study = optuna.create_study(storage=backend, study_name="s")

    def take_for_lost():
        elsewhere = optuna.load_study(storage=backend, study_name="s")
        while not any(trial.intermediate_values for trial in elsewhere.trials):
            pass
        elsewhere.tell(0, state=TrialState.FAIL)

    other = threading.Thread(target=take_for_lost)
    other.start()
    lost = _run(study, endless)
    other.join()
    assert lost.state is TrialState.FAIL
    assert _told(study, lost) == "trial 0: taken for lost by another process"
    assert _run(study, plan).state is TrialState.COMPLETE


def test_a_process_tells_of_its_own_trial_while_others_have_later_ones(plan: Plan, tmp_path: Path):
    storage, heard = str(tmp_path / "j.log"), []
    found = search(plan, 1, storage)
    backend = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(storage))
    study = optuna.load_study(study_name=found.study, storage=backend)
    for _ in range(2):  # the second waits for another process
        study.enqueue_trial({})
    search(plan, 2, storage, heard.append)
    own = trials_in(storage)[1]
    (said,) = heard
    assert own.value is not None
    assert said.startswith(f"{found.study}: 2 of 2 trials; trial 1: {own.value:.4g}; best ")


def test_a_disk_that_is_full_leaves_the_plan_that_was_there(plan: Plan, tmp_path: Path):
    write_plan(plan, tmp_path / "best.toml")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))  # stands in for a disk that is full
    try:
        with pytest.raises(OSError, match="File too large"):
            write_plan(plan.model_copy(update={"about": "another"}), tmp_path / "best.toml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert Plan.read(tmp_path / "best.toml") == plan
    assert [path.name for path in tmp_path.glob("*best*")] == ["best.toml"]


def test_a_line_that_a_full_disk_cut_short_costs_no_other_trial(plan: Plan, tmp_path: Path):
    storage = tmp_path / "j.log"
    search(plan, 1, str(storage))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (storage.stat().st_size + 50, before[1]))  # stands in for a full disk
    try:
        with pytest.raises(DiskFailed, match=r"j\.log could not be written: File too large"):
            search(plan, 2, str(storage))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not storage.read_bytes().endswith(b"\n")
    assert search(plan, 2, str(storage)).trials == 2


@pytest.mark.parametrize("line", ["garbage", "{}", '{"op_code": 99}', "[]"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_journal_that_is_damaged_is_said_so(plan: Plan, tmp_path: Path, line, is_first):
    storage = tmp_path / "j.log"
    search(plan, 1, str(storage))
    head, *rest = storage.read_text().splitlines()
    storage.write_text("\n".join([head, line, *rest] if is_first else [head, *rest, line]) + "\n")
    with pytest.raises(BadPlan, match=r"j\.log: is damaged: a line of it is none of a journal's; name a new file"):
        search(plan, 2, str(storage))


def test_a_database_that_fails_meanwhile_is_said_so(plan: Plan, tmp_path: Path):
    def lose(_: str) -> None:
        with closing(sqlite3.connect(tmp_path / "s.db")) as database:
            database.execute("DROP TABLE trials")

    with pytest.raises(BadPlan, match=r"s\.db: fails: .*no such table: trials"):
        search(plan, 2, f"sqlite:///{tmp_path}/s.db", lose)


def test_processes_of_one_study_may_save_its_best_plan_at_the_same_place(plan: Plan, tmp_path: Path):
    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda _: write_plan(plan, tmp_path / "best.toml"), range(100)))
    assert Plan.read(tmp_path / "best.toml") == plan
    assert [path.name for path in tmp_path.glob("*best*")] == ["best.toml"]


def test_every_value_of_a_trial_is_in_its_plan(plan: Plan):
    values = {"width": 48, "depth": 3, "activation": "gelu", "dropout": 0.25, "learning_rate": 0.01}
    made = plan_of(plan, values | {"weight_decay": 0.05})
    assert made.net.hidden == (48, 48, 48)
    assert (made.net.activation, made.net.dropout) == ("gelu", 0.25)
    assert (made.fit.learning_rate, made.fit.weight_decay, made.fit.epochs) == (0.01, 0.05, 3)


def test_what_cannot_be_searched_is_refused(plan: Plan, tmp_path: Path):
    with pytest.raises(BadTable, match="there is no such file"):
        search(plan.model_copy(update={"table": plan.table.model_copy(update={"path": "no.csv"})}), 1, "j.log")
    (tmp_path / "file").touch()
    with pytest.raises(BadPlan, match="cannot be opened"):
        search(plan, 1, f"{tmp_path}/file/j.log")
    with pytest.raises(BadPlan, match=r"nosuchdb://host/name: cannot be opened") as error:
        search(plan, 1, "nosuchdb://user:secret@host/name")
    assert "secret" not in str(error.value)
