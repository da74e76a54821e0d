"""docs/reference/cli.md is what the commands say of themselves."""

from tests.docs.make_cli import PAGE, page


def test_the_page_is_current():
    assert PAGE.read_text() == page(), "python -m tests.docs.make_cli"
