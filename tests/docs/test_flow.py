"""The page on how data flows names files that are there, and every folder of the trainer and the service."""

import re

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "how-data-flows.md").read_text()
FILES = {
    path.relative_to(ROOT).as_posix()
    for part in ("models", "service", "training")
    for path in (ROOT / part).rglob("*.py")
}

MOST_LINES = 1500
"""Of the files of the hot path together, so that to read them stays a matter of minutes."""


def test_every_file_that_the_page_names_is_there():
    named = set(re.findall(r"`([\w/]+\.py)`", PAGE))

    assert len(named) > 80
    assert {name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in FILES)} == set()


def test_every_file_of_the_service_is_on_the_page():
    named = set(re.findall(r"`([\w/]+\.py)`", PAGE))
    files = {file for file in FILES if file.startswith("service/") and "__" not in file}

    assert {file for file in files if not any(f"/{file}".endswith(f"/{name}") for name in named)} == set()


def test_the_hot_path_is_as_short_as_the_page_says():
    told = {name: int(lines) for name, lines in re.findall(r"`([\w/]+\.py)`(?: \||\s\()\s?(\d+) (?:\||lines)", PAGE)}
    there = {name: len((ROOT / "service" / name).read_text().splitlines()) for name in told}

    assert len(told) == 6
    assert {name for name in told if abs(there[name] - told[name]) > 20} == set()
    assert sum(lines for name, lines in there.items() if name != "http/same_turn.py") <= MOST_LINES


def test_every_folder_of_trainer_and_service_is_on_the_page():
    folders = {file.split("/")[1] for file in FILES if not file.startswith("models/") and file.count("/") > 1}

    assert {folder for folder in folders if f"`{folder}/`" not in PAGE} == set()
