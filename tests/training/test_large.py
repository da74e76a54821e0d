"""Tables in pieces and fits by several processes: real files, real ranks, and the memory that they take."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.csv_file import BadTable
from models.proof import prove
from models.repository import Repository
from training import recipe
from training.data import source
from training.data.spool import BLOCK_ROWS, Spool, minibatches
from training.faults import DiskFailed
from training.fitting.distributed import Team
from training.plan import BadPlan, Plan
from training.publishing.export import ONNX, OnnxSession

ROOT = Path(__file__).parents[2]
IN_PIECES = "import sys; from training.data import source; source.LARGE_CELLS = 0\n"
IN_PIECES += "from training.command import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def in_pieces(monkeypatch):
    """Every table counts as large."""
    monkeypatch.setattr(source, "LARGE_CELLS", 0)


def table(rows: int, path: Path, columns: int = 3) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, columns)).round(3)
    frame = pl.DataFrame(x, schema=[f"x{number}" for number in range(columns)]).with_columns(
        colour=pl.Series(rng.choice(["red", "green", "blue"], rows)),
        y=pl.Series((2 * x[:, 0] + x[:, 1] ** 2 + rng.normal(0, 0.1, rows)).round(3)),
    )
    frame = frame.with_columns(side=pl.when(pl.col("y") > 1).then(pl.lit("up")).otherwise(pl.lit("down")))
    frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path, row_group_size=5000)
    return path


def plan_of(path: Path, target: str, drop: str, **fields: object) -> Plan:
    fit = {"epochs": 4, "batch": 256}
    whole = {"name": "m", "target": [target], "table": {"path": str(path), "drop": [drop]}, "fit": fit}
    return Plan.of(whole | fields, "test")


@pytest.mark.usefixtures("in_pieces")
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize(("target", "drop", "metric"), [("y", "side", "r2"), ("side", "y", "accuracy")])
def test_a_table_in_pieces_becomes_a_version(tmp_path: Path, suffix, target, drop, metric):
    path = table(12_000, tmp_path / f"t{suffix}")
    fitted, number = recipe.run(plan_of(path, target, drop), Repository(tmp_path / "r"))
    version = Repository(tmp_path / "r").open("m", number)
    prove(version.manifest, version.proof(), OnnxSession(version.read(ONNX)))
    assert fitted.scores["test"].metrics[metric] > 0.9
    assert version.manifest.provenance.data_rows == 12_000


@pytest.mark.usefixtures("in_pieces")
def test_dropout_ends_where_the_loss_falls_steeply(tmp_path: Path):
    path = table(2000, tmp_path / "t.parquet")
    fit = {"epochs": 31, "batch": 256, "schedule": "coslog5", "patience": 0}
    losses = {}
    for ends in (True, False):
        plan = plan_of(path, "y", "side", net={"dropout": 0.2, "hidden": [32]}, fit=fit | {"dropout_ends": ends})
        (history,) = recipe.train(plan).history
        losses[ends] = [epoch.train_loss for epoch in history]
    same = [ended == dropping for ended, dropping in zip(losses[True], losses[False], strict=True)]
    assert same[:16] == [True] * 15 + [False]  # the last wave begins with the 16th epoch


@pytest.mark.usefixtures("in_pieces")
def test_all_training_rows_are_fitted_on_although_a_sample_says_the_rest(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(source, "SAMPLE_ROWS", 2000)
    path = table(10_000, tmp_path / "t.parquet")
    fitted = recipe.train(plan_of(path, "y", "side"))
    assert sum(len(part.y) for part in fitted.parts.values()) == 2000
    assert fitted.data.rows_read == 10_000
    (note,) = fitted.notes[-1:]
    assert note.startswith("of 10,000 rows a sample of 2,000 chose kinds")
    rows = int(note.split("all ")[1].split(" ")[0].replace(",", ""))
    assert 5800 < rows < 6200


def test_a_sample_has_rows_from_everywhere_and_neither_rows_nor_columns_make_it_larger(tmp_path: Path, monkeypatch):
    pl.DataFrame({"row": range(1000), "b": [0] * 1000}).write_parquet(tmp_path / "t.parquet")
    opened = source.Source.open(tmp_path / "t.parquet")
    assert opened.sample().frame["row"].to_list() == list(range(1000))
    monkeypatch.setattr(source, "_FEWEST_ROWS", 10)
    for rows, cells, most in ((300, 10**6, 300), (999, 10**6, 999), (10**6, 600, 300), (10**6, 1, 10)):
        monkeypatch.setattr(source, "SAMPLE_ROWS", rows)
        monkeypatch.setattr(source, "SAMPLE_CELLS", cells)
        sampled = opened.sample().frame["row"].to_numpy()
        assert len(sampled) == most
        assert (np.abs(sampled - np.arange(most) * 1000 / most) <= 1000 / most + 1).all()


def test_a_sample_of_what_comes_and_goes_has_all_of_it(tmp_path: Path, monkeypatch):
    hours = np.arange(24 * 500) % 24
    pl.DataFrame({"hour": hours}).write_parquet(tmp_path / "t.parquet")
    monkeypatch.setattr(source, "SAMPLE_ROWS", 500)  # every 24th row
    monkeypatch.setattr(source, "_FEWEST_ROWS", 10)
    sampled = source.Source.open(tmp_path / "t.parquet").sample()
    assert np.bincount(sampled.frame["hour"].to_numpy(), minlength=24).min() > 5
    assert sampled.numbers is not None
    assert (hours[sampled.numbers.to_numpy() - 1] == sampled.frame["hour"].to_numpy()).all()


@pytest.mark.usefixtures("in_pieces")
def test_an_odd_value_beyond_the_sample_is_refused_with_its_row(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(source, "SAMPLE_ROWS", 100)
    path = table(5000, tmp_path / "t.csv")
    lines = path.read_text().splitlines()
    lines[4322] = "wide" + lines[4322][lines[4322].index(",") :]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(BadTable, match=r"column 'x0' .*'wide' in row 4322"):
        recipe.train(plan_of(path, "y", "side"))


@pytest.mark.usefixtures("in_pieces")
def test_what_is_said_of_a_sampled_row_names_its_row_in_the_file(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(source, "SAMPLE_ROWS", 1000)
    monkeypatch.setattr(source, "_FEWEST_ROWS", 10)
    path = tmp_path / "t.parquet"
    pl.DataFrame({"a": np.arange(5000.0), "y": [*np.ones(4000), *np.full(1000, np.inf)]}).write_parquet(path)
    with pytest.raises(BadTable, match=r"row 400[1-5]: the number is infinite"):
        recipe.train(Plan.of({"name": "m", "target": ["y"], "table": {"path": str(path)}}, "test"))


@pytest.mark.usefixtures("in_pieces")
def test_classes_that_are_fractions_are_known_in_every_piece(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(source, "SAMPLE_ROWS", 500)
    stars = np.arange(2000) % 10 / 2 + 0.5
    pl.DataFrame({"a": stars + np.arange(2000) / 1e5, "b": stars, "y": stars}).write_parquet(tmp_path / "t.parquet")
    fitted = recipe.train(plan_of(tmp_path / "t.parquet", "y", "b", task="multiclass"))
    assert fitted.data.classes == tuple(f"{half / 2}" for half in range(1, 11))
    assert "all 1,2" in fitted.notes[-1]


@pytest.mark.usefixtures("in_pieces")
def test_a_split_by_time_is_refused(tmp_path: Path):
    path = table(1000, tmp_path / "t.parquet")
    with pytest.raises(BadTable, match=r"is read in pieces, and split.time 'x0' needs it whole"):
        recipe.train(plan_of(path, "y", "side", split={"time": "x0"}))


@pytest.mark.usefixtures("in_pieces")
@pytest.mark.parametrize(
    ("fields", "keys"),
    [
        ({"fit": {"members": 3}}, "fit.members"),
        ({"fit": {"folds": 5, "shuffle": False}}, "fit.folds, fit.shuffle"),
        ({"net": {"hidden": [8], "expansion": "waves"}}, "net.expansion"),
    ],
)
def test_what_only_a_table_in_memory_can_have_is_refused_not_passed_over(tmp_path: Path, fields, keys):
    path = table(100, tmp_path / "t.parquet")
    with pytest.raises(BadPlan, match=rf"^m: a table in pieces is fitted by one network.*; leave out {keys}$"):
        recipe.train(plan_of(path, "y", "side", **fields))


@pytest.mark.usefixtures("in_pieces")
def test_a_full_disk_names_the_folder_of_the_encoded_rows_not_the_repository(tmp_path: Path):
    plan = plan_of(table(1000, tmp_path / "t.parquet"), "y", "side")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # stands in for a disk that is full
    try:
        with pytest.raises(DiskFailed, match=r"rowcast-rows-.* could not be written: File too large"):
            recipe.train(plan)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("in_pieces")
def test_what_is_told_of_a_fit_in_pieces_is_what_is_done(tmp_path: Path):
    said: list[object] = []
    fitted = recipe.train(plan_of(table(1000, tmp_path / "t.parquet"), "y", "side", fit={"patience": 1}), said.append)
    steps = [step for step in said if isinstance(step, recipe.Step)]
    assert {(step.members, step.epochs) for step in steps} == {(1, fitted.plan.fit.epochs)}
    assert fitted.plan.fit.epochs == 64
    assert (fitted.plan.fit.folds, fitted.plan.fit.members, fitted.plan.fit.averaged) == (1, 1, 1)


@given(rows=st.integers(1, 3 * BLOCK_ROWS), batch=st.integers(1, 9000), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_each_row_is_in_one_minibatch_and_its_target_with_it(tmp_path_factory, rows, batch, seed):
    spool = Spool(tmp_path_factory.mktemp("spool"), 2, np.float32, (1,))
    x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    for start in range(0, rows, 1000):
        spool.add(x[start : start + 1000], x[start : start + 1000, :1].astype(np.float64))
    seen, sizes = [], []
    for done, inputs, targets in minibatches(spool, batch, seed):
        assert done == sum(sizes)
        assert torch.equal(inputs[:, :1].double(), targets)
        seen.append(inputs[:, 0].numpy())
        sizes.append(len(inputs))
    assert np.array_equal(np.sort(np.concatenate(seen)), x[:, 0])
    assert all(size == batch for size in sizes[:-1])


@given(rows=st.integers(2, 100), size=st.integers(1, 4))
def test_the_shares_of_the_ranks_make_the_mean_of_all_rows(rows, size):
    values = np.arange(rows) ** 2.0
    ranks = [Team(rank, size) for rank in range(min(size, rows))]
    means = [values[rank.own(rows)].mean() * rank.share(rows) for rank in ranks]
    assert np.sum(means) / size == pytest.approx(values.mean())


def run(words: list[str], path: Path, repository: Path) -> int:
    """Train in another process; the most memory that it had, in MB."""
    words = [*words, str(path), "--target", "y", "--drop", "side", "--epochs", "2", "--name", "m"]
    process = subprocess.Popen(
        [*words, "--repository", str(repository)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert process.stdout is not None
    process.stdout.read()
    errors = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    process.stderr.close()
    assert process.returncode == 0, errors
    return usage.ru_maxrss // 1024


def test_memory_does_not_grow_with_the_rows(tmp_path: Path):
    sampled = "from training.data import source; source.SAMPLE_ROWS = 20_000\n" + IN_PIECES
    small = run([sys.executable, "-c", sampled], table(100_000, tmp_path / "s.parquet", 12), tmp_path / "r")
    large = run([sys.executable, "-c", sampled], table(1_000_000, tmp_path / "l.parquet", 12), tmp_path / "r")
    # read whole, 900,000 more rows of 14 columns would take 60 bytes a value: 720 MB
    assert large - small < 250


def test_two_ranks_give_the_weights_of_one_and_one_version(tmp_path: Path):
    path = table(20_000, tmp_path / "t.parquet")
    run([sys.executable, "-c", IN_PIECES], path, tmp_path / "one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    run([*torchrun, "-m", "training"], path, tmp_path / "two")
    versions = [Repository(tmp_path / where).versions("m") for where in ("one", "two")]
    assert versions == [[1], [1]]
    one, two = (Repository(tmp_path / where).open("m", 1) for where in ("one", "two"))
    answers = [np.array(version.proof().answers["prediction"]) for version in (one, two)]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-3)
    r2 = [version.manifest.scores["test"].metrics["r2"] for version in (one, two)]
    assert r2[0] == pytest.approx(r2[1], abs=1e-4)
    assert r2[0] > 0.8
