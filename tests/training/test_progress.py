import pytest

from training import progress
from training.fitting.course import Epoch
from training.recipe import Step


def step(member: int, number: int) -> Step:
    return Step(member, 2, 1000, Epoch(number, 0.5, 0.25, 12345.6))


def test_without_a_terminal_a_member_prints_about_ten_lines(capsys: pytest.CaptureFixture[str]):
    with progress.shown("m") as report:
        report("column 'x' is empty and is left out")
        for number in range(1, 1001):
            report(step(1, number))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "m: column 'x' is empty and is left out"
    assert lines[1] == "m 1/2: epoch 1/1000  train 0.5  validation 0.25  12,346 rows/s"
    assert len(lines) == 12


def test_on_a_terminal_there_is_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    with progress.shown("m") as report:
        report("row [3] of :smile: is kept as it is")
        report(step(2, 500))
    said = capsys.readouterr().out
    assert "m: row [3] of :smile: is kept as it is" in said
    assert "m 2/2" in said
    assert "epoch 500/1000  train 0.5  validation 0.25  12,346 rows/s" in said
