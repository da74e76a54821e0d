"""The page on how data flows names files that are there, and every folder of the service."""

import re

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "how-data-flows.md").read_text()
FILES = {
    path.relative_to(ROOT).as_posix()
    for part in ("models", "service", "training")
    for path in (ROOT / part).rglob("*.py")
}


def test_every_file_that_the_page_names_is_there():
    named = set(re.findall(r"`([\w/]+\.py)`", PAGE))

    assert len(named) > 80
    assert {name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in FILES)} == set()


def test_every_folder_of_the_service_is_on_the_page():
    folders = {file.split("/")[1] for file in FILES if file.startswith("service/") and file.count("/") > 1}

    assert {folder for folder in folders if f"`{folder}/`" not in PAGE} == set()
