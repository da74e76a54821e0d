"""The reference pages name everything there is, with the values that the code has."""

from pathlib import Path

from pydantic_core import PydanticUndefined

from service.settings import PREFIX, Settings

PAGES = Path(__file__).parents[2] / "docs" / "reference"


def row_of(name):
    field = Settings.model_fields[name]
    assert field.default is not PydanticUndefined
    default = "unset" if field.default is None else f"`{field.default}`"
    return f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |"


def test_every_setting_stands_in_the_page_with_its_default_and_meaning():
    page = (PAGES / "settings.md").read_text()

    missing = [row_of(name) for name in Settings.model_fields if row_of(name) not in page]

    assert missing == []


def test_the_page_names_no_setting_that_is_gone():
    page = (PAGES / "settings.md").read_text()

    named = {line.split("`")[1] for line in page.splitlines() if line.startswith(f"| `{PREFIX}")}

    assert named == {PREFIX + name.upper() for name in Settings.model_fields}
