"""`python -m service predict`: files of every kind, of every size, with every mistake."""

import signal
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from models.repository import Repository
from service.commands.output import BadCommand
from service.commands.predict import READ, Scoring
from tests.server.conftest import until
from tests.service import tiny
from tests.service.test_commands import CHECKOUT, run

__all__ = ["run"]

FLOWERS = pl.DataFrame(
    {
        "id": ["a", "b", "c"],
        "width": [5.0, 0.5, None],
        "length": [2.0, 3.0, 0.25],
        "color": ["red", "green", None],
        "wild": [True, None, False],
        "seen": ["2024-05-31", "2024-05-31T09:30:00", None],
    }
)


@pytest.fixture(autouse=True)
def published(tmp_path, monkeypatch):
    for name in ("line", "line", "pair", "flowers", "coin"):
        tiny.publish(tmp_path / "published", name)
    monkeypatch.setenv("ROWCAST_REPOSITORY", str(tmp_path / "published"))
    return tmp_path / "published"


def write(frame, path):
    {".csv": frame.write_csv, ".parquet": frame.write_parquet, ".arrow": frame.write_ipc}.get(
        path.suffix, lambda path: frame.write_csv(path, separator="\t")
    )(path)
    return path


def read(path):
    return {".csv": pl.read_csv, ".parquet": pl.read_parquet, ".arrow": pl.read_ipc}.get(
        path.suffix, lambda path: pl.read_csv(path, separator="\t")
    )(path)


@pytest.mark.parametrize("result", READ)
@pytest.mark.parametrize("source", READ)
def test_every_kind_of_file_becomes_every_other(tmp_path, run, source, result):
    rows = write(FLOWERS, tmp_path / f"rows{source}")
    out = tmp_path / f"out{result}"
    status, said, error = run("predict", "flowers", rows, out, "--probabilities")
    assert (status, error) == (0, "")
    assert said.startswith(f"{out}: 3 rows by flowers/1")
    scored = read(out)
    assert scored.columns == [
        *FLOWERS.columns,
        "prediction",
        "probability_rose",
        "probability_tulip",
        "probability_daisy",
    ]
    assert scored["prediction"].to_list() == ["rose", "tulip", "daisy"]
    assert scored["id"].to_list() == ["a", "b", "c"]
    expected = tiny.answer("flowers", tiny.SCHEMAS["flowers"].encode(FLOWERS.drop("id").to_dicts()))["probabilities"]
    np.testing.assert_allclose(scored[:, -3:].to_numpy(), expected, rtol=1e-5)


def test_moments_and_types_of_columns_are_read_as_what_they_are(tmp_path, run):
    frame = FLOWERS.with_columns(
        pl.col("seen").str.to_datetime(strict=False).alias("seen"),
        pl.col("width").cast(pl.Float32),
        pl.col("color").cast(pl.Categorical),
        pl.lit(None).alias("length"),
    )
    out = tmp_path / "out.parquet"
    assert run("predict", "flowers", write(frame, tmp_path / "rows.parquet"), out)[0] == 0
    assert read(out)["prediction"].to_list() == ["rose", "daisy", "daisy"]


def test_cells_of_a_csv_are_read_as_the_trainer_reads_them(tmp_path, run):
    path = tmp_path / "rows.csv"
    path.write_text("wild,seen,color,length,width\n 1 ,2024-01-01, red , NA ,7\n0.0,n/a,,1e1, ? \nTRUE,,3.0,,\n")
    out = tmp_path / "out.csv"
    assert run("predict", "flowers", path, out, "--only")[0] == 0
    assert out.read_text() == "prediction\nrose\ntulip\ndaisy\n"


class Overflows:
    """A session whose numbers are none."""

    def run(self, matrix):
        return {"probabilities": np.full((len(matrix), 3), np.nan), "label": np.zeros(len(matrix), np.int64)}


@pytest.mark.parametrize("probabilities", [False, True])
def test_a_row_for_which_no_number_can_be_computed_has_no_class(published, probabilities):
    version = Repository(published).open("flowers", 1)
    scoring = Scoring(version, Overflows(), probabilities=probabilities)
    with pytest.raises(BadCommand, match="row 2: flowers/1 computes a number that is not finite"):
        scoring.score(FLOWERS.with_row_index("__row of the file__", offset=1), is_text=False)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_texts_that_are_no_value_of_their_kind_count_as_missing_where_that_is_asked(tmp_path, run, suffix):
    columns = {"length": "2", "color": "red", "seen": "2024-05-31", "wild": "true", "width": "7"}
    odd = columns | {"width": "-", "wild": "yes", "seen": "31.5."}
    rows = write(pl.DataFrame([columns, odd, odd | {"width": "1", "color": "-"}]), tmp_path / f"rows{suffix}")
    out = tmp_path / "out.csv"
    status, _, error = run("predict", "flowers", rows, out, "--only")
    assert (status, error.count("\n")) == (2, 1)
    assert error.endswith("; --lenient takes such values for missing\n")  # whichever of them was read first
    status, said, error = run("predict", "flowers", rows, out, "--only", "--probabilities", "--lenient")
    assert (status, error) == (0, "")
    assert "1 values of feature 'width' are no number and count as missing (first: '-' in row 2)\n" in said
    assert "2 values of feature 'wild' are no boolean and count as missing (first: 'yes' in row 2)\n" in said
    assert "2 values of feature 'seen' are no datetime and count as missing (first: '31.5.' in row 2)\n" in said
    seen = {"length": 2.0, "color": "red", "seen": None, "wild": None, "width": None}
    first = seen | {"width": 7.0, "wild": True, "seen": "2024-05-31"}
    matrix = tiny.SCHEMAS["flowers"].encode([first, seen, seen | {"width": 1.0, "color": "-"}])
    expected = tiny.answer("flowers", matrix)["probabilities"]
    np.testing.assert_allclose(read(out)[:, -3:].to_numpy(), expected, rtol=1e-5)


def test_texts_that_are_numbers_are_numbers_in_every_file_as_for_the_trainer(tmp_path, run):
    rows = write(pl.DataFrame({"a": [" 5", "NA"], "b": ["2.0", "1e1"]}), tmp_path / "rows.parquet")
    out = tmp_path / "out.csv"
    assert run("predict", "pair/1", rows, out, "--only")[2] == ""
    assert out.read_text().splitlines()[1] == "7.0,3.0"


@pytest.mark.parametrize("text", ["a;b\n1;2\n", "a\tb\n1\t2\n", "\ufeffa|b\n1|2\n", '"a" , b\r\n"1", 2\r\n'])
def test_a_csv_is_separated_as_the_trainer_lets_it_be(tmp_path, run, text):
    rows, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    rows.write_text(text)
    assert run("predict", "pair/1", rows, out, "--only")[0] == 0
    assert out.read_text() == "prediction_sum,prediction_difference\n3.0,-1.0\n"


def test_columns_without_a_name_are_left_out_as_in_training(tmp_path, run):
    rows, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    rows.write_text("a;b;;\n1;2;;\n3;4;x;\n")
    assert run("predict", "pair/1", rows, out)[2] == ""
    assert out.read_text() == "a,b,prediction_sum,prediction_difference\n1,2,3.0,-1.0\n3,4,7.0,-1.0\n"


def test_a_name_with_quotes_is_found(tmp_path, run):
    rows, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    rows.write_text('x,"say ""hi"""\n1,2\n')
    assert run("predict", "line", rows, out)[0] == 0
    assert out.read_text().startswith('x,"say ""hi""",prediction\n')


@pytest.mark.parametrize("suffix", READ)
def test_a_mark_in_the_name_of_a_file_is_no_pattern_for_others(tmp_path, run, suffix):
    write(FLOWERS, tmp_path / f"rows1{suffix}")
    write(FLOWERS.head(2), tmp_path / f"two{suffix}").replace(tmp_path / f"rows[1]{suffix}")
    status, said, _ = run("predict", "flowers", tmp_path / f"rows[1]{suffix}", tmp_path / "out.csv")
    assert (status, said.split(": ")[1][:6]) == (0, "2 rows")


def test_a_large_file_streams_in_order(tmp_path, run):
    rows = 300_000
    source = write(
        pl.DataFrame({"x": np.arange(rows, dtype=np.float64), "row": np.arange(rows)}), tmp_path / "rows.csv"
    )
    out = tmp_path / "out.parquet"
    assert run("predict", "line", source, out)[1].startswith(f"{out}: 300,000 rows by line/2")
    scored = read(out)
    assert scored["row"].cast(pl.Int64).to_list() == list(range(rows))
    np.testing.assert_array_equal(scored["prediction"].to_numpy(), 2 * np.arange(rows, dtype=np.float32) + 1)


def test_several_targets_have_a_column_each_and_classes_their_own_type(tmp_path, run):
    out = tmp_path / "out.parquet"
    rows = write(pl.DataFrame({"a": [5.0], "b": [2.0]}), tmp_path / "rows.parquet")
    assert run("predict", "pair/1", rows, out)[0] == 0
    assert read(out).to_dicts() == [{"a": 5.0, "b": 2.0, "prediction_sum": 7.0, "prediction_difference": 3.0}]
    rows = write(pl.DataFrame({"x": [5.0, -5.0]}), tmp_path / "rows.parquet")
    assert run("predict", "coin", rows, out, "--only")[0] == 0
    assert read(out)["prediction"].to_list() == [True, False]


@pytest.mark.parametrize(
    ("model", "text", "sentence"),
    [
        ("line", "y\n1\n", "has no column 'x', a feature of line/2; it has 'y'"),
        ("line", "x\n1\nwide\n", "row 2: feature 'x' must be a number, got 'wide'"),
        ("line", "x,prediction\n1,2\n", "has a column 'prediction' already; rename it, or write predictions --only"),
        ("coin", "x\n1\n" * 1 + "1e999\n", "row 2: feature 'x' must be a finite number, got Infinity"),
        ("line", "x\n1\n3e38\n", "row 2: line/2 computes a number that is not finite; look at this row"),
        ("lines", "x\n1\n", "lines: is not in "),
        ("line", "", "its first line is blank; it needs a header"),
        ("pair", "a,b\n1,2\n3\n", "row 2 has 1 values, the header names 2"),
        ("pair", "a,b\n1,2\n3,4,5\n", "row 2 has 3 values, the header names 2"),
        ("pair", 'a,b\n1,2\n3,"4\n', "row 2 opens a quote that is never closed"),
        ("pair", "a,b,a\n1,2,3\n", "has two columns named 'a'; rename one"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_leaves_no_file(tmp_path, run, model, text, sentence):
    rows, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    rows.write_text(text)
    out.write_text("what was there before")
    status, said, error = run("predict", model, rows, out)
    assert (status, said, error.count("\n")) == (2, "", 1)
    assert sentence in error
    assert out.read_text() == "what was there before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "published", "rows.csv"]


def test_a_result_that_has_no_place_is_said_before_anything_is_computed(tmp_path, run):
    rows = write(pl.DataFrame({"x": [1.0]}), tmp_path / "rows.csv")
    (tmp_path / "folder.csv").mkdir()
    for out in (tmp_path / "nowhere" / "out.csv", tmp_path / "folder.csv"):
        refused = (2, "", f"{out}: is a folder, or its folder is not there; check the path\n")
        assert run("predict", "line", rows, out) == refused


@pytest.mark.parametrize("suffix", READ)
def test_a_disk_without_room_is_said_and_leaves_no_file(tmp_path, suffix):
    rows, out = tmp_path / "rows.csv", tmp_path / f"out{suffix}"
    rows.write_text("x\n" + "1.2345\n" * 100_000)
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); from service.commands import app;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); sys.exit(app.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", "line", rows, out],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{out}: cannot be written: ")
    assert "File too large" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published", "rows.csv"]


def test_ctrl_c_leaves_no_file(tmp_path):
    rows, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    rows.write_text("x\n" + "1.2345\n" * 5_000_000)
    words = [sys.executable, "-m", "service", "predict", "line", rows, out]
    with subprocess.Popen(words, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True) as started:
        until(lambda: list(tmp_path.glob(".out.csv.*")))
        started.send_signal(signal.SIGINT)
        _, said = started.communicate()
    assert (started.returncode, said) == (130, "interrupted\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published", "rows.csv"]


def test_a_blank_line_is_a_row_only_where_that_is_how_a_missing_value_is_written(tmp_path, run):
    rows, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    rows.write_text("a,b\n1,2\n\n3,4\n\r\n\n")
    assert run("predict", "pair", rows, out)[1].startswith(f"{out}: 2 rows by pair/1")
    assert len(out.read_text().splitlines()) == 3
    rows.write_text("a,b\n1,2\n\n3,wide\n")
    assert "row 3: feature 'b' must be a number" in run("predict", "pair", rows, out)[2]
    rows.write_text("x\n1\n\n3\n")
    assert run("predict", "line", rows, out)[1].startswith(f"{out}: 3 rows by line/2")


def test_no_rows_are_no_predictions(tmp_path, run):
    rows, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    rows.write_text("x\n")
    assert run("predict", "line", rows, out)[0] == 0
    assert out.read_text() == "x,prediction\n"


def test_a_version_that_was_changed_predicts_nothing(tmp_path, run, published):
    (published / "line/2/model.onnx").write_bytes(b"changed")
    rows = write(pl.DataFrame({"x": [1.0]}), tmp_path / "rows.csv")
    status, _, error = run("predict", "line/2", rows, tmp_path / "out.csv")
    assert (status, error) == (2, "line/2: model.onnx is not the file its manifest describes; publish it again\n")


def test_without_polars_one_sentence_says_so():
    code = (
        "import sys; sys.modules['polars'] = None; from service.commands import app; sys.exit(app.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", "line", "a.csv", "b.csv"],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("predict: needs polars, which is not installed")
