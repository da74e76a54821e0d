"""Runs the tutorial, writes what it prints into its pages, and keeps its pictures: `make tutorial`."""

import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.docs.pages import FENCED, ROOT, Runner, blocks

PAGES = ROOT / "docs/tutorial"
IMAGES = ROOT / "docs/images/tutorial"


def write(page: Path, folder: Path) -> None:
    """Run a page, put what it printed where it shows something already, in a folder."""
    text = page.read_text()
    with Runner(folder) as runner:
        for block in blocks(text):
            if block.code.startswith("curl "):
                time.sleep(2)  # what came before has reached the server
            printed = runner.run(block)
            if block.shown is not None and "..." not in block.shown:
                text = _with(text, block, printed)
    page.write_text(text)


def _with(text, block, printed):
    [fence] = [fence for fence in FENCED.finditer(text) if fence[2] == block.code]
    shown = FENCED.search(text, fence.end())
    return text[: shown.start(2)] + printed.rstrip() + "\n" + text[shown.end(2) :]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for page in sorted(PAGES.glob("[0-9]*.md")):
            if len(sys.argv) == 1 or page.stem in sys.argv[1:]:
                write(page, Path(folder))
        for image in Path(folder).glob("*.png"):
            shutil.copyfile(image, IMAGES / image.name)
