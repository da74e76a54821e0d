"""Tables that break trainers: each becomes a version, or one clear sentence; never quiet garbage."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from models.csv_file import BadTable
from models.proof import prove
from models.repository import Repository
from training import command, recipe
from training.plan import Plan
from training.publishing.export import ONNX, OnnxSession

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)


def plan_of(frame: pl.DataFrame, folder: Path, **fields: object) -> Plan:
    path = folder / "t.parquet"
    frame.write_parquet(path)
    fit = {"epochs": 2, "members": 1, **fields.pop("fit", {})}  # type: ignore[dict-item]
    return Plan.of({"name": "m", "target": ["y"], "table": {"path": str(path)}, "fit": fit, **fields}, "test")


def published(frame: pl.DataFrame, folder: Path, **fields: object) -> recipe.Fitted:
    """The network of a table that trains, published, proven and opened."""
    fitted, number = recipe.run(plan_of(frame, folder, **fields), Repository(folder / "r"))
    version = Repository(folder / "r").open("m", number)
    prove(version.manifest, version.proof(), OnnxSession(version.read(ONNX)))
    return fitted


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"x": [1.0], "y": [2.0]}, "1 of 1 rows have a target; training needs at least 10"),
        ({"x": RNG.normal(size=9), "y": RNG.normal(size=9)}, "has 9 rows with a target; training needs at least 10"),
        ({"x": RNG.normal(size=20), "y": [3.0] * 20}, "target 'y' is 3.0 in every row; there is nothing to learn"),
        ({"x": RNG.normal(size=20), "y": [None] * 20}, "0 of 20 rows have a target"),
        ({"x": [7] * 20, "y": RNG.normal(size=20)}, "no column is left to predict 'y' from"),
        ({"x": [None] * 20, "y": RNG.normal(size=20)}, "no column is left to predict 'y' from"),
        ({"x": RNG.normal(size=20), "y": [np.inf, *RNG.normal(size=19)]}, "column 'y', row 1: the number is infinite"),
        ({"x": RNG.normal(size=20), "y": [-2e37, *RNG.normal(size=19)]}, "target 'y', row 1: -2e+37 is beyond 1e+37"),
        ({"x": RNG.normal(size=2002), "y": [f"c{i // 2}" for i in range(2002)]}, "1001 distinct values in 2002 rows"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_one_sentence(columns, reason, tmp_path: Path):
    with pytest.raises(BadTable) as error:
        recipe.run(plan_of(pl.DataFrame(columns), tmp_path), Repository(tmp_path / "r"))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert Repository(tmp_path / "r").names() == []


def test_a_thousand_classes_are_learned(tmp_path: Path):
    code = np.repeat(np.arange(1000), 6)
    frame = pl.DataFrame({"x": code / 1000 + RNG.normal(0, 1e-4, 6000), "z": RNG.normal(size=6000), "y": code})
    fitted = published(frame, tmp_path, task="multiclass")
    assert len(fitted.data.classes or ()) == 1000
    assert any("too few training rows" in warning for warning in fitted.warnings)
    assert np.isfinite(fitted.predict(fitted.parts["test"].matrix)["probabilities"]).all()


def test_thousands_of_columns_are_learned(tmp_path: Path):
    x = RNG.normal(size=(60, 3_000)).round(2)
    frame = pl.DataFrame(x, schema=[f"x{number}" for number in range(3_000)]).with_columns(y=pl.Series(x[:, 0] * 2))
    fitted = published(frame, tmp_path, net={"hidden": (8,)})
    assert len(fitted.schema.features) == 3_000
    assert fitted.findings is not None
    assert fitted.findings.importances == ()


def test_a_class_that_only_the_test_rows_would_have_is_trained_on_and_said_so(tmp_path: Path):
    part = ["train"] * 40 + ["validation"] * 20 + ["test"] * 20
    y = ["a", "b"] * 35 + ["c"] * 10
    frame = pl.DataFrame({"x": RNG.normal(size=80), "part": part, "y": y})
    fitted = published(frame, tmp_path, split={"column": "part"})
    assert fitted.data.classes == ("a", "b", "c")
    assert "class 'c' has only 10 rows, none in the training part; moved there" in fitted.notes
    assert "no test row is of class 'c': the scores say nothing of it" in fitted.warnings


def test_columns_that_are_constant_missing_or_equal_do_no_harm(tmp_path: Path):
    x = RNG.normal(size=200)
    frame = pl.DataFrame(
        {
            "x": x,
            "again": x,
            "constant": [1.0] * 200,
            "nothing": pl.Series([None] * 200, dtype=pl.Float64),
            "mostly": [5.0] + [None] * 199,
            "y": 2 * x + RNG.normal(0, 0.1, 200),
        }
    )
    fitted = published(frame, tmp_path, fit={"epochs": 30})
    assert fitted.schema.names == ("x", "again", "mostly")
    assert fitted.scores["test"].metrics["r2"] > 0.9


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e36])
def test_targets_of_any_size_are_learned(tmp_path: Path, scale):
    x = RNG.normal(size=200)
    fitted = published(pl.DataFrame({"x": x, "z": x**2, "y": scale * (x + 3)}), tmp_path, fit={"epochs": 30})
    assert fitted.scores["test"].metrics["r2"] > 0.9
    proof = Repository(tmp_path / "r").open("m", 1).proof()
    assert proof.atol == pytest.approx(1e-5 * fitted.parts["train"].y.std(), abs=0)  # else any answer were right enough


def test_a_small_target_beside_a_large_one_is_learned_and_proved(tmp_path: Path):
    x = RNG.normal(size=200)
    frame = pl.DataFrame({"x": x, "z": x**2, "y": 1e6 * (x + 3), "small": 1e-6 * x})
    fitted = published(frame, tmp_path, target=["y", "small"], fit={"epochs": 30})
    assert fitted.scores["test"].metrics["r2"] > 0.9
    proof = Repository(tmp_path / "r").open("m", 1).proof()
    np.testing.assert_allclose(proof.atol, 1e-5 * fitted.parts["train"].y.std(0))


# ------------------------------------------------------------------------------------------------ the machine


def test_a_network_that_does_not_fit_into_memory_is_one_sentence(tmp_path: Path, capsys):
    path = tmp_path / "p.toml"
    plan_of(pl.DataFrame({"x": RNG.normal(size=50), "z": RNG.normal(size=50), "y": RNG.normal(size=50)}), tmp_path)
    path.write_text(
        f'name = "p"\ntarget = ["y"]\n[table]\npath = "{tmp_path}/t.parquet"\n[net]\nhidden = [1000000, 1000000]\n'
    )
    assert command.main([str(path), "--repository", str(tmp_path / "r")]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("p: not enough memory (")
    assert errors.count("\n") == 1
    assert Repository(tmp_path / "r").names() == []


def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(tmp_path: Path):
    """The largest file that the process may write stands in for a disk that is full."""
    frame = pl.DataFrame({"x": RNG.normal(size=60), "z": RNG.normal(size=60)}).with_columns(y=pl.col("x") * 2)
    path = tmp_path / "t.csv"
    frame.write_csv(path)
    words = [str(path), "--target", "y", "--epochs", "2", "--repository", str(tmp_path / "r")]
    assert command.main(words) == 0

    def almost_full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    full = subprocess.run(
        [sys.executable, "-m", "training", *words], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=almost_full, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert full.returncode == 2, full.stderr
    assert full.stderr.splitlines()[-1].endswith("could not be written: File too large; nothing was published")
    assert Repository(tmp_path / "r").versions("t") == [1]
    assert [entry.name for entry in (tmp_path / "r" / "t").iterdir() if entry.name.startswith(".draft")] == []
