"""docs/tutorial: every block runs, prints what the page shows, and draws the pictures that the page has."""

import re

import pytest

from tests.docs.pages import ROOT, Runner, blocks, is_as_shown
from tests.server.conftest import until

PAGES = ROOT / "docs/tutorial"
IMAGES = ROOT / "docs/images/tutorial"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a reader is: the chapters follow each other."""
    return tmp_path_factory.mktemp("tutorial")


@pytest.mark.parametrize(
    "name",
    [
        "1-one-neuron",
        "2-layers",
        "3-founding-systems",
        "4-your-table",
        pytest.param("5-serving", marks=pytest.mark.server),  # the models of chapter 4
    ],
)
def test_a_chapter_does_what_it_says(name, folder):
    text = (PAGES / f"{name}.md").read_text()

    with Runner(folder) as runner:
        for block in blocks(text):
            if block.code.startswith("curl "):  # a server notices what came before within two seconds
                until(lambda block=block: is_as_shown(runner.run(block), block.shown), what=block.shown)
            else:
                printed = runner.run(block)
                assert block.shown is None or is_as_shown(printed, block.shown), printed

    assert {image for image in re.findall(r"images/tutorial/(.*?)\)", text) if not (folder / image).is_file()} == set()


def test_every_picture_is_shown_somewhere():
    shown = {image for page in PAGES.glob("*.md") for image in re.findall(r"images/tutorial/(.*?)\)", page.read_text())}

    assert {image.name for image in IMAGES.iterdir()} == shown


def test_other_words_and_other_numbers_are_not_as_shown():
    assert is_as_shown("loss 0.0925 in 3.1 s", "loss 0.0931 in 12 s")
    assert is_as_shown("a\nb 7\nc", "...\nb 7\n...")
    assert not is_as_shown("loss 0.0925", "loss 0.5")
    assert not is_as_shown("version 2", "version 1")
    assert not is_as_shown("gain 1", "loss 1")
