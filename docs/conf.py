"""The site of the documentation: `make docs` builds it to build/docs.

The pages are plain Markdown that reads well without a site. Its navigation is what `index.md` and the pages that
it links to list.
"""

import re

from sphinx.application import Sphinx

project = "Rowcast"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "models/README.md", "CHANGELOG.md"]  # the source folder is the checkout
exclude_patterns = [".*", "build", "**/__pycache__", "tests", "benchmarks", "models/published"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "Rowcast"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_extra_path = ["site"]  # index.html, which leads to the first page
html_static_path = ["style"]
html_css_files = ["pages.css"]
LISTS = ("docs/index", "docs/tutorial/index")
"""Pages whose lists of links are the navigation."""


def add_navigation(_: Sphinx, page: str, source: list[str]) -> None:
    """Append what Markdown has no words for, tables of contents; name folders, for which a site has no page."""
    source[0] = re.sub(r"\[([^\]]+)\]\([./\w-]+/\)", r"\1", source[0])
    if page == "docs/decisions/README":
        source[0] += _contents("", ["0*"], ":glob:", ":titlesonly:")
    elif page in LISTS:
        for section in re.split(r"^## ", source[0], flags=re.MULTILINE):
            title = section.partition("\n")[0] if page == root_doc else ""
            links = re.findall(r"^(?:-|\d\.) \[.*?\]\((.*?)\.md\)", section, re.MULTILINE)
            source[0] += _contents(title, links, ":hidden:") if links else ""


def _contents(title: str, entries: list[str], *options: str) -> str:
    caption = [f":caption: {title}"] if title else []
    return "\n".join(["\n\n```{toctree}", *caption, *options, "", *entries, "```\n"])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_navigation)
