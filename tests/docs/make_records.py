"""Writes the pages on manifests and plans from the classes that read them: `python -m tests.docs.make_records`."""

import ast
import inspect
import json
import re
import textwrap
from itertools import pairwise

from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, NumberFeature
from models.intervals import Intervals, PredictionSets
from models.manifest import Calibration, FileDigest, Importance, Manifest, Predictions, Provenance, Scores
from models.schema import Schema
from tests.docs.pages import ROOT
from training.plan import ExportPlan, FitPlan, NetPlan, Plan, Published, SplitPlan, TablePlan

REFERENCE = ROOT / "docs/reference"
MANIFEST = {
    Manifest: "The manifest",
    Schema: "`input`: the schema",
    NumberFeature: "A feature that is a number",
    CategoryFeature: "A feature that is a category",
    BooleanFeature: "A feature that is a boolean",
    DatetimeFeature: "A feature that is a datetime",
    FileDigest: "`files`: a file",
    Scores: "`scores`: of one part",
    Calibration: "`calibration`",
    Predictions: "`predictions`",
    Intervals: "`intervals`",
    PredictionSets: "`prediction_sets`",
    Importance: "`importances`: one of them",
    Provenance: "`provenance`",
}
MANIFEST_HEAD = """\
# Fields of a manifest

Every version has a `manifest.json`. These are all its fields, written from the code that reads them. How a row becomes
a matrix, how the digests are taken, and everything else that a reader in another language needs is in the
[specification](../../models/README.md).

A field without a default must be there. There are no other fields.
"""
PLAN = {
    Plan: "The plan",
    TablePlan: "`[table]`",
    SplitPlan: "`[split]`",
    NetPlan: "`[net]`",
    FitPlan: "`[fit]`",
    ExportPlan: "`[export]`",
    Published: "`[[published]]`",
}
PLAN_HEAD = """\
# Keys of a plan

A plan is a TOML file that says how one table becomes one model. These are all its keys, written from the code that
reads them. What is left out has its default; `null` here means that the key is left out. The plans that ship are in
[`training/plans/`](../../training/plans/). What the defaults do, step by step: [the default recipe](recipe.md).
"""
PAGES = {"manifest.md": (MANIFEST, MANIFEST_HEAD), "plan.md": (PLAN, PLAN_HEAD)}


def page(name):
    """What a page says."""
    sections, head = PAGES[name]
    records = _records(sections)
    return "\n".join([head, *(_section(record, title, records) for record, title in sections.items())])


def records_without_a_section(name):
    """What the first record of a page refers to and the page leaves out."""
    sections, _ = PAGES[name]
    return set(_records(sections)) - {record.__name__ for record in sections} - {"JsonValue"}


def _records(sections):
    first = next(iter(sections))
    schema = first.model_json_schema()
    return schema["$defs"] | {first.__name__: schema}


def _section(record, title, records):
    fields = records[record.__name__]["properties"]
    required = records[record.__name__].get("required", ())
    said = {"kind": "What it is."} | meanings(record)
    lines = [f"## {title}\n", *_first_words(record), "| field | type | default | meaning |\n|---|---|---|---|"]
    for name, field in fields.items():
        is_due = name in required or (record is Manifest and name in ("format", "sha256"))  # by `from_json`
        default = {} if "$ref" in field else field.get("default", {})  # a section's keys have their own
        default = "" if is_due else f"`{json.dumps(default)}`"
        lines.append(f"| `{name}` | {_type(field)} | {default} | {said[name]} |")
    return "\n".join(lines) + "\n"


def _first_words(record):
    if record in (Manifest, Plan):
        return []
    return [inspect.cleandoc(record.__doc__).split("\n\n")[0].replace("\n", " ") + "\n"]


def meanings(record):
    """What each field of a record means, from the docstrings of its classes."""
    found = {}
    for owner in reversed(record.__mro__[:-2]):
        if owner.__module__.startswith(("models", "training")):
            found |= _from_docstring(owner) | _from_attributes(owner)
    return {name: _sentence(text) for name, text in found.items()}


def _from_docstring(owner):
    _, _, listed = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {8}.*)*)", listed, re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def _from_attributes(owner):
    """Of the strings that stand below fields."""
    [body] = [node.body for node in ast.parse(textwrap.dedent(inspect.getsource(owner))).body]
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }


def _sentence(text):
    text = text.replace("None", "null").replace("|", "\\|")
    first = text[0] if text.startswith("null ") else text[0].upper()
    return first + text[1:] + "." * (not text.endswith("."))


def _type(field):  # noqa: PLR0911 - a return for each kind of type
    """A type of JSON schema in words."""
    if "anyOf" in field:
        return _or([_type(one) for one in field["anyOf"]])
    if "oneOf" in field:
        return _or([_type(one) for one in field["oneOf"]])
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        if name == "JsonValue":
            return "any JSON"
        title = next(title for record, title in (MANIFEST | PLAN).items() if record.__name__ == name)
        word = title.rpartition(" a ")[2] if title.startswith("A feature") else "object"
        return f"[{word}](#{re.sub(r'[^a-z_ -]', '', title.lower()).replace(' ', '-')})"
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return _or([f"`{json.dumps(one)}`" for one in field["enum"]])
    kind = field["type"]
    if kind == "array":
        least = f", {field['minItems']} or more" if field.get("minItems") else ""
        return f"list ({_type(field['items'])}{least})"
    if kind == "object":
        return f"object (name: {_type(_values(field))})"
    return {"string": _text, "integer": _number, "number": _number}.get(kind, lambda _: kind)(field)


def _values(field):
    """The schema of an object's values: files are named by a pattern, everything else by any text."""
    return next(iter(field.get("patternProperties", {}).values()), None) or field["additionalProperties"]


def _or(words):
    return " or ".join([", ".join(words[:-1]), words[-1]])


def _text(field):
    if "64" in field.get("pattern", ""):
        return "sha256"
    most = f" of at most {field['maxLength']} characters" if "maxLength" in field else ""
    return f"text{most}"


def _number(field):
    words = {
        "minimum": "from {}",
        "exclusiveMinimum": "above {}",
        "maximum": "to {}",
        "exclusiveMaximum": "and below {}",
    }
    said = [form.format(field[key]) for key, form in words.items() if key in field]
    return " ".join([field["type"], *said])


if __name__ == "__main__":
    for name in PAGES:
        (REFERENCE / name).write_text(page(name))
