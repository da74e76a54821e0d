"""The page for the one who is on call names every metric and every error code that the code has."""

import importlib
import pkgutil
import re
from pathlib import Path

import models.errors
import service.settings
from models.errors import RowcastError

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
SERVICE = Path(service.__file__).parent
REFERENCE = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text()
METRICS = "".join(path.read_text() for path in SERVICE.rglob("*.py"))
SHADOW = ("requests", "rows", "equal_rows", "difference", "compute_seconds")


def codes():
    """Of every problem that a module of the service or of the contract defines."""
    for module in pkgutil.walk_packages(service.__path__, "service."):
        if not module.name.endswith(("__main__", "torchscript")):
            importlib.import_module(module.name)
    kinds, found = [RowcastError], set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind is not RowcastError and kind.__module__.startswith(("service", models.errors.__name__)):
            found.add(kind.code)
    return found


def test_every_error_code_stands_in_the_page():
    assert {code for code in codes() if f"`{code}`" not in PAGE} == set()


def test_every_metric_stands_in_the_page():
    names = set(re.findall(r'"(rowcast_\w+)"', METRICS))
    assert len(names) > 10
    names = {name for name in names if not name.endswith(("_sum", "_count", "_bucket"))}  # series of a histogram
    missing = {name for name in names if f"| `{name}` |" not in PAGE and f"| `{name}_total` |" not in PAGE}
    assert missing == set()


def test_the_page_names_each_metric_as_it_is_scraped():
    scraped = set(re.findall(r"^\| `(rowcast_\w+)`", REFERENCE, re.MULTILINE))
    assert set(re.findall(r"`(rowcast_\w+)", PAGE)) - scraped == set()


def test_every_alert_stands_in_the_page_and_in_that_on_monitoring():
    root = Path(__file__).parents[2]
    alerts = set(re.findall(r"- alert: (\w+)", (root / "deploy/prometheus/rules.yaml").read_text()))
    assert len(alerts) > 5
    for page in (PAGE, (root / "docs/how-to/monitoring.md").read_text()):
        assert set(re.findall(r"`(Rowcast\w+)`", page)) == alerts


def test_the_page_names_nothing_that_is_gone():
    known = {name.removesuffix("_total") for name in re.findall(r'"(rowcast_\w+)"', METRICS)}
    known |= {f"rowcast_shadow_{name}" for name in SHADOW}
    named = {name.removesuffix("_total") for name in re.findall(r"`(rowcast_\w+)", PAGE)}
    assert named - known == set()
    settings = set(re.findall(r"ROWCAST_[A-Z_]+", PAGE))
    fields = {f"ROWCAST_{name.upper()}" for name in service.settings.Settings.model_fields}
    assert settings - fields == set()
