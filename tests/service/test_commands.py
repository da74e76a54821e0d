"""`python -m service models ...`: what is published, asked and changed on the command line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from models.manifest import Importance, Scores
from models.repository import Repository
from service.commands import app, output
from tests.service import tiny

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def published(tmp_path, monkeypatch):
    """line 1 and 2, flowers 1; the repository that commands mean."""
    for name in ("line", "line", "flowers"):
        tiny.publish(tmp_path / "published", name, shift=0.5)
    monkeypatch.setenv("ROWCAST_REPOSITORY", str(tmp_path / "published"))
    return Repository(tmp_path / "published")


@pytest.fixture
def run(capsys):
    """Runs a command: exit status, stdout, stderr."""

    def run(*words):
        status = app.main([str(word) for word in words])
        return (status, *capsys.readouterr())

    return run


def test_a_list_shows_labels_scores_and_what_is_damaged(published, run):
    run("models", "label", "line", "stable", 1)
    run("models", "label", "line", "canary", 2, "--share", 0.1)
    (published.root / "flowers/1/model.onnx").write_bytes(b"damaged")
    status, said, _ = run("models", "list")
    lines = {line.split()[0]: line for line in said.splitlines()}
    assert status == 0
    assert "stable" in lines["line/1"]
    assert "rmse 0.5" in lines["line/1"]
    assert "canary (share 10%)" in lines["line/2"]
    assert "model.onnx is not the file its manifest describes" in lines["flowers/1"]
    listed = {(one["model"], one["version"]): one for one in json.loads(run("models", "list", "--json")[1])}
    assert listed["line", 2]["labels"] == {"canary": {"share": 0.1, "shadow": 0.0}}
    assert listed["line", 2]["scores"]["metrics"] == {"rmse": 0.5}
    assert listed["flowers", 1]["error"].startswith("flowers/1: model.onnx")


def test_a_version_is_shown_by_number_by_label_and_as_the_one_that_answers(published, run):
    published.set_label("line", "stable", 1)
    for words, number in (("line/2", 2), ("line/stable", 1), ("line", 1)):
        assert json.loads(run("models", "show", words, "--json")[1])["version"] == number
    _, said, _ = run("models", "show", "flowers")
    assert "-10 to 10 cm" in said
    assert "red, blue" in said
    assert "rose, tulip, daisy" in said


def test_names_are_shown_as_they_are(capsys):
    output.print_table([":smile:"], [["[red]:heart:[/red]"]])
    assert capsys.readouterr().out.split() == [":smile:", "[red]:heart:[/red]"]


@pytest.mark.parametrize("r2", [-3e-15, 4e-16])
def test_an_r2_that_is_nothing_but_rounding_is_shown_as_0(published, run, r2):
    scores = {"r2": r2, "mse": 3e-15}
    tiny.publish(published.root, "line", scores={"test": Scores(rows=10, metrics=scores, baselines={"mean": scores})})
    _, said, _ = run("models", "show", "line/3")
    assert re.search(r"\nr2 +0 +0 *\nmse +3e-15 +3e-15 *\n", said), said


def test_a_label_for_what_is_not_there_says_what_is(published, run):
    status, _, said = run("models", "label", "lines", "stable", 1)
    assert (status, said) == (2, f"lines: is not in {published.root}; did you mean line?\n")
    assert published.names() == ["flowers", "line"]
    status, _, said = run("models", "label", "line", "stable", 7)
    assert (status, said) == (2, "line/7: is not there; of line there are 1, 2\n")


def test_labels_move_roll_back_and_go(published, run):
    assert run("models", "label", "line", "stable", 2)[0] == 0
    assert run("models", "roll-back", "line")[:2] == (0, "line/1 is stable\n")
    assert published.labels("line") == {"stable": 1}
    assert run("models", "unlabel", "line", "stable")[0] == 0
    assert run("models", "unlabel", "line", "stable")[::2] == (
        2,
        "line/stable: there is no such label; line has none\n",
    )
    assert published.labels("line") == {}


def test_what_a_label_names_is_not_deleted_and_the_rest_is(published, run):
    run("models", "label", "line", "stable", 2)
    status, _, sentence = run("models", "delete", "line", 2)
    assert (status, sentence) == (2, "line/2: label 'stable' names it; point the label elsewhere or remove it first\n")
    assert run("models", "delete", "line", 1)[0] == 0
    assert published.versions("line") == [2]


def test_verify_ends_with_1_when_a_byte_has_changed(published, run):
    assert run("models", "verify")[:2] == (0, "3 versions are whole\n")
    (published.root / "line/2/proof.json").write_bytes(b"{}")
    status, said, sentence = run("models", "verify", "line", "--json")
    assert (status, sentence) == (1, "")
    assert list(json.loads(said)["wrong"]) == ["line/2"]
    assert run("models", "verify", "flowers")[0] == 0


@pytest.mark.usefixtures("published")
def test_two_versions_are_compared(run):
    status, said, _ = run("models", "diff", "line/1", "flowers/1", "--json")
    changed = {one["what"]: (one["before"], one["after"]) for one in json.loads(said)}
    assert (status, changed["task"]) == (0, ("regression", "multiclass"))
    assert json.loads(run("models", "diff", "line/1", "line/2", "--json")[1]) == []


def test_a_comparison_for_people_has_short_figures_and_the_beginning_of_what_is_long(published, run):
    matters = Importance(feature="x", value=1 / 3, low=1 / 7, high=2 / 3)
    scores = {"test": Scores(rows=3, metrics={"rmse": 1 / 3})}
    tiny.publish(published.root, "line", scores=scores, importances=(matters,))
    _, said, _ = run("models", "diff", "line/1", "line/3")
    assert re.search(r"^scores.test.metrics.rmse +0\.5 +0\.3333 *$", said, re.MULTILINE)
    assert re.search(r"^importances +feature x, value 0\.3333, low 0\.1429, \.\.\. *$", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("models", "show", "lime"), "lime: is not in {root}; did you mean line?"),
        (("models", "show", "cars"), "cars: is not in {root}; there is flowers, line"),
        (("models", "show", "line/9"), "line/9: is not there; of line there are 1, 2"),
        (("models", "verify", "lime"), "lime: is not in {root}; did you mean line?"),
        (("models", "roll-back", "lime"), "lime: has no versions"),
        (("models", "label", "line", "stable", "3"), "line/3: is not there; of line there are 1, 2"),
        (("models", "list", "--repository", "/no"), "/no: there is no such folder; name the repository by --repository or ROWCAST_REPOSITORY"),  # noqa: E501
    ],
)  # fmt: skip
def test_an_error_is_one_sentence_that_says_what_to_do(published, run, words, sentence):
    assert run(*words) == (2, "", sentence.format(root=published.root) + "\n")


def test_a_word_that_is_no_command_ends_with_2_and_names_the_nearest(run):
    status, _, said = run("modles")
    assert status == 2
    assert 'Did you mean "models"?' in said


@pytest.mark.usefixtures("published")
def test_a_table_is_plain_text_where_there_is_no_terminal():
    done = subprocess.run(
        [sys.executable, "-m", "service", "models", "list"],
        cwd=CHECKOUT, env=os.environ | {"COLUMNS": "20"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "\x1b" not in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["version", "flowers/1", "line/1", "line/2"]


@pytest.mark.parametrize("words", [("list",), ("list", "--json"), ("verify",)])
def test_output_that_nobody_reads_is_no_damage_and_no_noise(published, words):
    (published.root / "flowers/1/model.onnx").write_bytes(b"damaged")
    nobody, output = os.pipe()
    os.close(nobody)
    done = subprocess.run(
        [sys.executable, "-m", "service", "models", *words],
        cwd=CHECKOUT, stdout=output, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(output)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.usefixtures("published")
def test_no_runtime_is_loaded_for_a_look_at_the_repository():
    code = "import sys; from service.commands import app; app.main(['models', 'list']); print([n for n in ('onnxruntime', 'litserve', 'polars', 'aiohttp', 'torch') if n in sys.modules], file=sys.stderr)"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_its_commands(run, shell):
    status, script, _ = run("completion", shell)
    assert status == 0
    assert "roll-back" in script
    assert script.startswith("alias rowcast='python -m service'\n")
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
