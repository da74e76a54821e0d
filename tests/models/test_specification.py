"""models/README.md specifies everything that the code reads."""

import dataclasses
import re
from pathlib import Path
from typing import get_args

import pytest

from models import features, intervals, labels, manifest, moments, proof, repository, schema, shapley
from tests.models import sample

PAGE = (Path(__file__).parents[2] / "models/README.md").read_text("utf-8")
RECORDS = [
    manifest.Manifest,
    manifest.FileDigest,
    manifest.Scores,
    manifest.Calibration,
    manifest.Predictions,
    manifest.Provenance,
    manifest.Importance,
    intervals.Intervals,
    intervals.PredictionSets,
    shapley.Background,
    proof.Proof,
    schema.Schema,
    features.NumberFeature,
    features.CategoryFeature,
    features.BooleanFeature,
    features.DatetimeFeature,
]


@pytest.mark.parametrize("record", RECORDS)
def test_every_field_is_specified(record):
    missing = [name for name in record.model_fields if f"`{name}`" not in PAGE and f'"{name}"' not in PAGE]
    assert missing == []


def test_every_word_that_a_field_may_hold_is_specified():
    words = [
        *get_args(manifest.Task),
        *get_args(manifest.Part),
        *get_args(schema.Datatype),
        *(kind.model_fields["kind"].default for kind in RECORDS[-4:]),
        *(output.name for task in ("regression", "binary") for output in outputs(task)),
    ]
    assert [word for word in words if f'"{word}"' not in PAGE and f"`{word}`" not in PAGE] == []


def outputs(task):
    return sample.manifest(task=task, classes=None if task == "regression" else (False, True)).outputs


def test_every_file_and_part_of_a_datetime_is_specified():
    names = [*repository.REQUIRED, shapley.FILE, labels.FILE, manifest.FILE, ".last", ".lock", ".draft-"]
    assert [name for name in names if name not in PAGE] == []
    assert [part for part in moments.PARTS if f"`<name>.{part}`" not in PAGE] == []


def test_the_labels_on_the_page_are_some_and_every_field_is_specified():
    (block,) = re.findall(r'^    (\{"stable".*)\n', PAGE, re.MULTILINE)
    assert labels.read_labels(block.encode(), "the page")["canary"] == labels.Label(4, share=0.05)
    assert [f.name for f in dataclasses.fields(labels.Label) if f"`{f.name}`" not in PAGE] == []


def test_the_format_and_the_limits_are_those_of_the_code():
    assert f"**format {manifest.FORMAT}**" in PAGE
    assert repository._LARGEST_MANIFEST == 256 * 2**20
    assert "at most 256 MiB" in PAGE


def test_the_proof_on_the_page_is_one():
    (block,) = re.findall(r'^    \{"rows".*\n(?:     .*\n)+', PAGE, re.MULTILINE)
    read = proof.Proof.from_json(block.encode(), "the page")
    assert (read.rtol, read.atol) == (1e-4, 1e-5)
    assert "`rtol` (default 1e-4) and `atol` (default 1e-5)" in PAGE
    assert proof.Proof(rows=read.rows, answers=read.answers) == read
