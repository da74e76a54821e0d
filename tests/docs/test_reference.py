"""The reference pages name everything there is, with the values that the code has."""

import re
from pathlib import Path

import numpy as np
import pytest
from pydantic_core import PydanticUndefined

from service.commands.app import app as service
from service.settings import PREFIX, Settings
from tests.docs import make_cli, make_records
from training.command import app as training
from training.judging.evaluate import score

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


@pytest.mark.parametrize("name", make_records.PAGES)
def test_the_pages_on_manifests_and_plans_have_every_field(name):
    assert (PAGES / name).read_text() == make_records.page(name), "python -m tests.docs.make_records"
    assert make_records.records_without_a_section(name) == set()


def test_the_page_on_the_command_line_has_every_command():
    commands = {name for app in (service, training) for name in commands_of(app, app.name[0])}

    assert {"python -m training search", "python -m service models label"} <= commands
    assert commands == set(re.findall(r"^##+ (python .*)", make_cli.PAGE.read_text(), re.MULTILINE))


def commands_of(app, name):
    """A command and all below it."""
    yield name
    for word in app:
        if not word.startswith("-"):
            yield from commands_of(app[word], f"{name} {word}")


def test_every_score_stands_in_its_page():
    page = (PAGES / "scores.md").read_text()
    y = np.array([0, 1, 1])

    known = {*score("regression", y[:, None], {"prediction": y[:, None]})}
    known |= {*score("binary", y, {"probabilities": np.eye(2)[y]})}

    assert {name for name in known if f"| `{name}` |" not in page} == set()
