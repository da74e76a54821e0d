"""The documentation builds as a site, without a warning and with nothing from elsewhere."""

import re
import subprocess
import sys

import pytest

from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    words = ["-q", "-n", "-W", "--keep-going", "-d", str(folder / "doctrees"), "-c", "docs", ".", str(folder / "html")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr  # a broken link, or a page that the index does not lead to
    return folder / "html"


def test_every_page_is_on_the_site(site):
    pages = {path.relative_to(ROOT).with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}

    assert len(pages) > 50
    assert {page for page in pages if not (site / page).is_file()} == set()
    assert "docs/index.html" in (site / "index.html").read_text()


def test_pages_load_nothing_from_elsewhere(site):
    loads = re.compile(
        r'<(?:script|img|iframe)[^>]*src="(https?:)?//|<link[^>]*href="(https?:)?//|@import|url\((https?:)?//'
    )

    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert [page.name for page in pages if loads.search(page.read_text())] == []


def test_a_search_finds_what_is_there(site):
    assert "backpropag" in (site / "searchindex.js").read_text()  # stems of words
