import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from models.repository import Repository
from training import command

ROOT = Path(__file__).parents[2]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "House prices (2024).csv"
    frame = pl.DataFrame({"size": range(60), "kind": ["a", "b"] * 30}).with_columns(price=pl.col("size") * 2.5)
    frame.write_csv(path)
    return path


def test_a_table_and_a_target_are_enough(table: Path, tmp_path: Path):
    environment = os.environ | {"ROWCAST_REPOSITORY": str(tmp_path / "published"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "training", str(table), "--target", "price", "--epochs", "20"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=1800)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-3].startswith("House-prices-2024/1: regression of price; ")
    assert lines[-2].startswith("  test r2 ")
    assert lines[-1].startswith("  curl http://localhost:8000/v1/models/House-prices-2024:predict ")
    assert '{"instances": [{"size": 1, "kind": "b"}]}' in lines[-1]
    assert len(lines) < 8 * 12 + 4  # about ten lines a member
    assert Repository(tmp_path / "published").versions("House-prices-2024") == [1]


def test_a_row_that_no_command_line_takes_is_not_shown(tmp_path: Path, capsys):
    path = tmp_path / "wide.csv"
    rows = [",".join(map(str, [*range(row, row + 30), row % 7])) for row in range(30)]
    path.write_text("\n".join([",".join([*(f"c{n}" + "x" * 150 for n in range(30)), "y"]), *rows]))
    words = [str(path), "--target", "y", "--task", "regression", "--epochs", "1"]
    assert command.main([*words, "--repository", str(tmp_path / "published")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "  curl http://localhost:8000/v1/models/wide"


def test_json_is_one_line_for_each_version_and_nothing_else(table: Path, tmp_path: Path, capsys):
    repository = Repository(tmp_path / "published")
    for target in ("price", "kind"):
        words = [str(table), "--target", target, "--epochs", "3", "--repository", str(repository.root), "--json"]
        assert command.main(words) == 0
    said = capsys.readouterr()
    price, kind = map(json.loads, said.out.splitlines())
    assert (price["model"], price["version"], price["task"]) == ("House-prices-2024", 1, "regression")
    assert (kind["version"], kind["task"]) == (2, "binary")
    assert price["scores"]["validation"]["metrics"].keys() >= {"rmse", "r2"}
    assert any(warning.endswith("another draw of them may score quite differently") for warning in price["warnings"])
    assert "epoch 1/3" in said.err

    regression, classification = (repository.open("House-prices-2024", number).manifest for number in (1, 2))
    (quantiles,) = regression.predictions.quantiles
    assert (len(quantiles), sorted(quantiles)) == (21, list(quantiles))
    assert sum(classification.predictions.shares) == pytest.approx(1)
    assert (len(classification.predictions.shares), regression.predictions.shares) == (2, ())


def test_bad_input_is_one_sentence_and_status_2(tmp_path: Path, capsys):
    path = tmp_path / "t.csv"
    path.write_text("a,a\n1,2\n")
    assert command.main([str(path), "--target", "a"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"t: {path}: columns 1 and 2 are both named 'a'; rename one\n")


def test_ctrl_c_publishes_nothing_and_says_so(table: Path, tmp_path: Path):
    words = [sys.executable, "-m", "tests.training.ended_by", "SIGINT", "5", str(table), "--target", "price"]
    words += ["--repository", str(tmp_path / "r"), "--checkpoint-s", "600"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "epoch" in done.stdout
    assert (done.returncode, done.stderr) == (130, "interrupted; nothing more was published\n")
    assert Repository(tmp_path / "r").names() == []


def test_output_that_nobody_reads_ends_the_run_with_one_sentence(table: Path, tmp_path: Path):
    nobody, output = os.pipe()
    os.close(nobody)
    words = [sys.executable, "-m", "training", str(table), "--target", "price", "--repository", str(tmp_path / "r")]
    done = subprocess.run(words, cwd=ROOT, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    os.close(output)
    assert (done.returncode, done.stderr) == (141, "nobody reads the output any more; nothing more was published\n")
    assert Repository(tmp_path / "r").names() == []


def test_ctrl_c_before_there_is_anything_to_interrupt_shows_no_traceback(tmp_path: Path):
    (tmp_path / "torch.py").write_text("print('is being imported', flush=True)\nwhile True: pass")  # and takes its time
    words = [sys.executable, "-m", "training", "my.csv", "--target", "y"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, cwd=ROOT, env=environment, text=True, **pipes) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "is being imported\n"
        started.send_signal(signal.SIGINT)
        _, said = started.communicate()
    assert (started.returncode, said) == (-signal.SIGINT, "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["ringz"], "did you mean rings?"),
        (["t.csv"], "t.csv: say what to predict: --target COLUMN"),
        (["t.xlsx"], "t.xlsx: is no plan that ships, no plan's file (.toml) and no table (.csv, .tsv, .parquet)"),
        (
            ["t.csv.gz", "--target", "y"],
            "t-csv: t.csv.gz: is compressed; unpack it first, or save the table as Parquet",
        ),
        (
            ["book.xlsx", "--target", "y"],
            "book: book.xlsx: its suffix is none of .csv, .tsv, .parquet; save the table",
        ),
        (["t.toml"], "t.toml: is absent; the plans that ship are "),
        (["folder.toml"], "folder.toml: cannot be read: Is a directory"),
        (["t.csv", "--target", "y", "--kind", "zip"], "--kind: write COLUMN=KIND, like zip=category, got zip"),
        (["t.csv", "--target", "y", "--kind", "zip=colour"], "t.csv: table.kinds.zip: must be 'number', "),
        (["t.csv", "--target", "y", "--epochs", "0"], "t.csv: fit.epochs: must be greater than or equal to 1, got 0"),
        (["t.csv", "--target", "y", "--epochs", "1.5"], "for --epochs: must be a whole number, got '1.5'"),
        (["t.csv", "--target", "y", "--seed", "x"], "for --seed: must be a whole number"),
        (["t.csv", "--target", "y", "--checkpoint-s", "-3"], "Must be >= 0"),
        (["t.csv", "--target", "y", "--checkpoint-s", "nan"], "Must be >= 0"),
        (["t.csv", "--target", "y"], "t: t.csv: there is no such file"),
        (["--targett", "y"], "Unknown option"),
        (["--target", "y"], "--target: say of which table, like my.csv --target price"),
        (["--drop", "zip", "--unpublished"], "--drop: say of which table"),
        (["a.csv", "b.csv", "--target", "y", "--name", "m"], "--name: 2 models cannot all be m; train one at a time"),
        (["https://x.org/a.csv", "--target", "y"], "https://x.org/a.csv: is an address; download the table first"),
        ([".", "--target", "y"], ".: is a folder; name a file"),
        (["wine", "--target", "y"], "wine: target 'y' is no column; there are "),
    ],
)
def test_what_is_asked_wrongly_is_answered_in_a_sentence(words, sentence, capsys, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("book.xlsx").touch()
    Path("folder.toml").mkdir()
    assert command.main(words) == 2
    said = capsys.readouterr()
    assert sentence in said.err + said.out
    assert "wine: wine: " not in said.err
    assert Repository(Path("models/published")).names() == []


def test_a_failing_plan_does_not_stop_the_others(table: Path, tmp_path: Path, capsys):
    words = ["nosuch.csv", str(table), "--target", "price", "--epochs", "1", "--repository", str(tmp_path / "r")]
    assert command.main(words) == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "nosuch: nosuch.csv: there is no such file; check the path",
        "1 of 2 failed: nosuch",
    ]
    assert Repository(tmp_path / "r").names() == ["House-prices-2024"]


def test_what_is_published_can_be_skipped(table: Path, tmp_path: Path, capsys):
    words = [str(table), "--target", "price", "--epochs", "1", "--repository", str(tmp_path / "r"), "--unpublished"]
    assert command.main(words) == 0
    capsys.readouterr()
    assert command.main(words) == 0
    assert capsys.readouterr().out == "House-prices-2024: version 1 is published already\n"
    assert Repository(tmp_path / "r").versions("House-prices-2024") == [1]


def test_a_plan_is_read_from_its_file_and_the_command_goes_before_it(table: Path, tmp_path: Path):
    path = tmp_path / "p.toml"
    path.write_text(f'name = "p"\ntarget = ["price"]\n[table]\npath = "{table}"\n[fit]\nepochs = 50\nmembers = 1\n')
    words = [
        str(path),
        "--epochs",
        "1",
        "--seed",
        "3",
        "--drop",
        "kind",
        "--name",
        "q",
        "--repository",
        str(tmp_path / "r"),
    ]
    assert command.main(words) == 0
    provenance = Repository(tmp_path / "r").open("q", 1).manifest.provenance
    fit = provenance.plan["fit"]
    assert (provenance.seed, fit["epochs"], fit["members"], provenance.plan["table"]["drop"]) == (3, 1, 1, ["kind"])


def test_a_repository_that_cannot_be_written_is_said_before_the_fit(table: Path, tmp_path: Path, capsys):
    (tmp_path / "file").write_text("")
    for there in ("file", "file/below"):
        words = [str(table), "--target", "price", "--repository", str(tmp_path / there)]
        assert command.main(words) == 2
        said = capsys.readouterr()
        assert said.err.endswith(f"{tmp_path / there} could not be written: Not a directory; nothing was published\n")
        assert said.out == ""


def test_a_file_in_the_place_of_a_model_is_said_before_the_fit(table: Path, tmp_path: Path, capsys):
    (tmp_path / "m").write_text("")
    assert command.main([str(table), "--target", "price", "--name", "m", "--repository", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.err == f"m: {tmp_path / 'm'} could not be written: Not a directory; nothing was published\n"
    assert said.out == ""


def test_a_file_system_without_locks_is_said_before_the_fit(table: Path, tmp_path: Path, capsys, monkeypatch):
    def has_none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", has_none)
    assert command.main([str(table), "--target", "price", "--repository", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.err.endswith(
        "could not be written: its file system cannot lock: No locks available; nothing was published\n"
    )
    assert said.out == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--trials", "0", "--storage", "a.journal"], "Must be >= 1"),
        (["--trials", "1.5", "--storage", "a.journal"], "for --trials"),
        (["--trials", "1", "--storage", "a.journal", "--save", "a.csv/plan.toml"], "a.csv could not be written: Not a"),
        (
            ["--trials", "1", "--storage", "a.journal", "--save", "plan.txt"],
            "plan.txt: a plan is a file that ends with .toml",
        ),
        (
            ["--trials", "1", "--storage", "a.journal", "--save", "a.toml"],
            "a.toml: a plan is a file that ends with .toml",
        ),
        (["--trials", "1", "--storage", "b.db"], "b.db: is no journal of a study; name a new file, or a database by"),
        (["--trials", "1", "--storage", "b.db", "--target", "price"], "target: a column is named twice"),
    ],
)
def test_a_search_that_could_not_end_well_does_not_begin(table: Path, capsys, monkeypatch, words, sentence):
    monkeypatch.chdir(table.parent)
    (table.parent / "a.csv").write_text("")
    (table.parent / "a.toml").mkdir()
    (table.parent / "b.db").write_bytes(b"SQLite format 3\0\x90")
    assert command.main(["search", str(table), "--target", "price", *words]) == 2
    said = capsys.readouterr()
    assert sentence in said.err + said.out
    assert not (table.parent / "a.journal").exists()
