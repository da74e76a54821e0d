"""scikit-learn in a process of its own: the same answers as here, and nobody is left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from training import aside
from training.children import LostProcess
from training.judging.metrics import curves_of, of_predictions, of_probabilities
from training.later import imports
from training.network.solving import solve

ROOT = Path(__file__).parents[2]
X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
Y = X.sum(1, keepdims=True)
CODES = (Y[:, 0] > 0).astype(np.int64)
LIKELY = np.stack([1 - CODES, CODES], 1) * 0.8 + 0.1


@pytest.fixture
def _two_cores() -> None:
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one core for us, or forks are not safe on it")


@pytest.fixture
def begun(_two_cores: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    aside.begin()
    yield
    aside.end()


def refused(text: str) -> None:
    raise ValueError(text)


@pytest.mark.usefixtures("begun")
def test_it_answers_what_is_answered_here():
    rows = (X, Y, [], "regression", 1.0), (X, CODES, [], "binary", 1.0)
    for arguments in rows:
        for there, here in zip(aside.asked(solve, *arguments), solve(*arguments), strict=True):
            np.testing.assert_array_equal(there, here)
    assert aside.asked(of_predictions, Y, Y + 0.5) == of_predictions(Y, Y + 0.5)
    assert aside.asked(of_probabilities, CODES, LIKELY) == of_probabilities(CODES, LIKELY)
    assert aside.asked(curves_of, CODES == 1, LIKELY[:, 1])[0][2] == 1.0
    assert aside.asked(os.getpid) != os.getpid()


def test_without_it_the_function_is_called_here_once_its_answer_is_called_for():
    assert not aside.has_begun()
    assert aside.asked(os.getpid) == os.getpid()
    calls: list[int] = []
    answer = aside.ask(calls.append, 1)
    assert calls == []
    answer()
    answer()
    assert calls == [1]


@pytest.mark.usefixtures("begun")
def test_whoever_asked_goes_on_and_may_ask_more_before_it_calls_for_an_answer():
    """Neither side waits for the other to read what is larger than a pipe."""
    large = np.arange(1_000_000)
    asked = [aside.ask(np.negative, large) for _ in range(3)]
    assert aside.asked(abs, -1) == 1
    for answer in reversed(asked):
        np.testing.assert_array_equal(answer(), -large)


@pytest.mark.usefixtures("begun")
def test_what_a_function_raises_there_is_raised_here_and_the_next_is_answered():
    with pytest.raises(ValueError, match=r"^no such thing$"):
        aside.asked(refused, "no such thing")
    assert aside.asked(abs, -1) == 1


@pytest.mark.usefixtures("begun")
def test_a_process_that_is_killed_is_one_sentence():
    with pytest.raises(LostProcess, match=r"^a process of this run was killed by SIGKILL, as"):
        aside.asked(os.kill, aside.asked(os.getpid), signal.SIGKILL)


@pytest.mark.usefixtures("begun")
def test_what_it_has_is_not_imported_here():
    assert list(imports()) == []


@pytest.mark.parametrize(("name", "value"), [("OMP_NUM_THREADS", "1"), ("WORLD_SIZE", "2")])
def test_it_is_not_begun_where_one_process_is_wanted(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    aside.begin()
    assert not aside.has_begun()


@pytest.mark.usefixtures("begun")
def test_a_process_that_is_forked_later_has_no_line_to_it():
    line, its_end = os.pipe()
    if (child := os.fork()) == 0:
        os.write(its_end, b"yes" if aside.has_begun() else b"no")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(line, 3) == b"no"
    os.close(line)
    os.close(its_end)


@pytest.mark.parametrize("end", ["aside.end()", "os.kill(os.getpid(), 9)"])
def test_it_ends_with_its_parent(end):
    """The pipe that both write to ends once neither is there."""
    begin = "import os; from training import aside; aside.begin(); print(aside.asked(os.getpid), flush=True); "
    named = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    said = subprocess.run([sys.executable, "-c", begin + end], cwd=ROOT, env=named, capture_output=True, check=False)
    assert int(said.stdout) > 0


def test_what_it_calls_needs_neither_torch_nor_polars():
    """It would wait for them."""
    modules = "training.aside, training.judging.metrics, training.network.solving, training.publishing.figures"
    count = f"import sys, {modules}; print([name for name in ('torch', 'polars', 'pydantic') if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", count], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


@pytest.mark.usefixtures("_two_cores")
def test_a_run_beside_it_never_imports_the_library(tmp_path: Path):
    """Of a table from a file; the datasets that ship come out of the library itself."""
    np.savetxt(tmp_path / "t.csv", np.c_[X, CODES].round(3), delimiter=",", header="a,b,c,y", comments="")
    named = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    words = [sys.executable, "-c", RUN, str(tmp_path / "t.csv"), str(tmp_path)]
    said = subprocess.run(words, cwd=ROOT, env=named, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["1", "False", "False"]


RUN = """
import sys
from pathlib import Path
from training import aside
aside.begin()
from training import recipe
from training.plan import Plan
from models.repository import Repository

plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": sys.argv[1]}, "fit": {"epochs": 1, "folds": 2}}, "test")
_, number = recipe.run(plan, Repository(Path(sys.argv[2])))
print(number, "matplotlib" in sys.modules, "sklearn" in sys.modules)
"""
