"""Which file of a version is its report."""

from models.repository import Version


def report_of(version: Version) -> str | None:
    """The HTML file of a version's report; None for one that was published without."""
    pages = [path for path in version.manifest.files if path.startswith("report/") and path.endswith(".html")]
    return "report/index.html" if "report/index.html" in pages else min(pages, default=None)
