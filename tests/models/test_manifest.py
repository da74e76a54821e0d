import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.errors import BadName, BadVersion
from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, NumberFeature
from models.manifest import Calibration, FileDigest, Manifest, Output, Provenance, Scores, check_name, finite
from models.schema import Schema
from tests.models.sample import EVERY_KIND, manifest

# ------------------------------------------------------------------------------------------------- strategies

texts = st.text()  # NUL, newlines and every script; what UTF-8 cannot hold is refused, see below
shares = st.floats(0, 1)
reals = st.floats(allow_nan=False, allow_infinity=False)
sha256s = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
counts = st.integers(0, 2**63)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,30}(\.[a-z0-9_-]{1,9}){0,3}", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | reals | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
quantiles = st.lists(reals, max_size=5).map(tuple)
features = st.text(min_size=1, max_size=500).flatmap(
    lambda name: st.one_of(
        st.builds(NumberFeature, name=st.just(name), unit=st.none() | texts, quantiles=quantiles, missing_share=shares),
        st.builds(CategoryFeature, name=st.just(name), categories=st.lists(texts, unique=True).map(tuple)),
        st.builds(BooleanFeature, name=st.just(name), true_share=st.none() | shares),
        st.builds(DatetimeFeature, name=st.just(name), quantiles=quantiles),
    )
)
schemas = st.builds(
    Schema,
    datatype=st.sampled_from(["FP32", "FP64"]),
    features=st.lists(features, min_size=1, max_size=4, unique_by=lambda feature: feature.name).map(tuple),
)
files = st.dictionaries(
    st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,20}(/[a-z0-9_][a-z0-9_.-]{0,9}){0,3}", fullmatch=True),
    st.builds(FileDigest, sha256=sha256s, bytes=counts),
    max_size=3,
)
metrics = st.dictionaries(texts, st.none() | reals, max_size=3)
scores = st.dictionaries(
    st.sampled_from(["train", "validation", "test"]),
    st.builds(Scores, rows=counts, metrics=metrics, baselines=st.dictionaries(texts, metrics, max_size=2)),
)
provenances = st.builds(
    Provenance,
    plan=st.dictionaries(texts, json_values, max_size=4),
    data_sha256=sha256s | st.just("0" * 64),
    data_rows=counts,
    seed=st.integers(),
    commit=st.none() | texts,
    packages=st.dictionaries(texts, texts, max_size=3),
    device=texts,
    seconds=st.floats(0, 1e9),
)
labels = st.booleans() | st.integers() | texts
outcomes = st.one_of(
    st.tuples(st.just("regression"), st.lists(texts, min_size=1, max_size=3).map(tuple), st.none()),
    st.lists(labels, min_size=2, max_size=5, unique_by=lambda label: (type(label), label)).map(
        lambda classes: ("binary" if len(classes) == 2 else "multiclass", ("kind",), tuple(classes))
    ),
)


@st.composite
def manifests(draw):
    task, targets, classes = draw(outcomes)
    return Manifest(
        name=draw(names),
        version=draw(st.integers(1, 2**70)),
        task=task,
        input=draw(schemas),
        targets=targets,
        classes=classes,
        weights=draw(sha256s | st.just("0" * 64)),
        files=draw(files),
        scores=draw(scores),
        calibration=draw(st.none() | st.just(Calibration(method="temperature", temperature=1.5, rows=10))),
        provenance=draw(provenances),
    )


# ------------------------------------------------------------------------------------------------- round trip


@given(manifests())
def test_a_manifest_comes_back_from_its_json(written):
    read = Manifest.from_json(written.to_json(), "house/1")
    assert read == written
    assert read.to_json() == written.to_json()
    assert repr(read) == repr(written)  # 1.0 is not 1, and true is not 1


@given(manifests())
def test_a_manifest_has_the_digest_of_its_bytes_with_that_digest_as_zeros(written):
    raw = written.to_json()
    unsealed = raw.replace(written.sha256.encode(), b"0" * 64, 1)
    assert json.loads(raw)["sha256"] == written.sha256 == hashlib.sha256(unsealed).hexdigest()


def test_a_manifest_may_be_written_by_others_with_other_spaces_and_in_another_order():
    fields = dict(reversed(json.loads(manifest().to_json()).items())) | {"sha256": "0" * 64}
    raw = json.dumps(fields).encode()
    seal, zeros = b'"sha256": "' + hashlib.sha256(raw).hexdigest().encode(), b'"sha256": "' + b"0" * 64

    read = Manifest.from_json(raw.replace(zeros, seal), "house/1")

    assert b'"data_sha256": "' + b"0" * 64 in raw  # these zeros are no seal, though they come first
    assert read.model_copy(update={"sha256": manifest().sha256}) == manifest()


# --------------------------------------------------------------------------------------------------- refusals


def resealed(**changes):
    """The bytes of a manifest some of whose fields were changed by somebody who knows how to seal it."""
    fields = json.loads(manifest().to_json()) | {"sha256": "0" * 64} | changes
    raw = json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()
    return raw.replace(b"0" * 64, hashlib.sha256(raw).hexdigest().encode(), 1)


def refusal(raw):
    with pytest.raises(BadVersion) as caught:
        Manifest.from_json(raw, "house/1")
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()
    return caught.value.reason


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0"), (2, "2"), (-1, "-1"), ("1", "'1'"), (True, "true"), (1.0, "1.0"), (None, "null")]
)
def test_an_unknown_format_is_refused_by_its_number(number, shown):
    assert refusal(resealed(format=number)) == f"format {shown} is unknown; this release reads format 1"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "manifest.json is not JSON; publish it again"),
        (b"\xff\xfe{", "manifest.json is not JSON; publish it again"),
        (b"[" * 100_000, "manifest.json is not JSON; publish it again"),
        (b'{"format": 1' + b"0" * 5000 + b"}", "manifest.json is not JSON; publish it again"),
        (b"[1]", "manifest.json names no format; publish it again"),
        (b"{}", "manifest.json names no format; publish it again"),
        (b'{"format": 1}', "manifest.json is not the file that was published; publish it again"),
        (b'{"format": 1, "sha256": ""}', "manifest.json is not the file that was published; publish it again"),
        (b'{"format": 1, "sha256": "\\ud800"}', "manifest.json is not the file that was published; publish it again"),
        (manifest().to_json()[:-1], "manifest.json is not the file that was published; publish it again"),
        (manifest().to_json() + b"\n", "manifest.json is not the file that was published; publish it again"),
        (b"\xef\xbb\xbf" + manifest().to_json(), "manifest.json is not the file that was published; publish it again"),
    ],
)
def test_bytes_that_are_no_manifest_are_refused(raw, reason):
    assert refusal(raw) == reason


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"name": ".."}, "name: '..' cannot name a model"),
        ({"name": 7}, "name"),
        ({"version": 0}, "version"),
        ({"version": 1.0}, "version"),
        ({"version": "1"}, "version"),
        ({"task": "ranking"}, "task"),
        ({"targets": []}, "targets"),
        ({"classes": ["a", "b"]}, "a regression has no classes"),
        ({"weights": "AB" * 32}, "weights"),
        ({"weights": ...}, "weights"),
        ({"files": {"../x": {"sha256": "ab" * 32, "bytes": 1}}}, "files"),
        ({"files": {"/x": {"sha256": "ab" * 32, "bytes": 1}}}, "files"),
        ({"files": {"a//x": {"sha256": "ab" * 32, "bytes": 1}}}, "files"),
        ({"files": {".x": {"sha256": "ab" * 32, "bytes": 1}}}, "files"),
        ({"files": {"x\n": {"sha256": "ab" * 32, "bytes": 1}}}, "files"),
        ({"files": {"x": {"sha256": "ab" * 32, "bytes": -1}}}, "files.x.bytes"),
        ({"scores": {"holdout": {"rows": 1, "metrics": {}}}}, "scores"),
        ({"scores": {"test": {"rows": 1, "metrics": {"rmse": math.inf}}}}, "scores.test.metrics.rmse"),
        ({"scores": {"test": {"rows": 1, "metrics": {"rmse": "0.5"}}}}, "scores.test.metrics.rmse"),
        ({"input": {"features": []}}, "input.features"),
        ({"input": {"features": [{"name": "x", "kind": "image"}]}}, "input.features.0"),
        ({"input": {"features": [{"name": "x", "kind": "number", "quantiles": ["1"]}]}}, "input.features.0.number"),
        ({"surprise" * 100: 1}, "surprise"),
        ({"provenance": {}}, "provenance.plan"),
    ],
)
def test_a_field_that_is_not_as_specified_is_named(changes, place):
    assert place in refusal(resealed(**changes))


@pytest.mark.parametrize(
    ("task", "targets", "classes", "reason"),
    [
        ("binary", ("y",), None, "one target and its classes"),
        ("binary", ("y", "z"), ("a", "b"), "one target and its classes"),
        ("binary", ("y",), ("a", "b", "c"), "2 classes, not 3"),
        ("multiclass", ("y",), ("a", "b", "a"), "a class stands twice"),
        ("multiclass", ("y",), ("a",), "at least 2 items"),
    ],
)
def test_classes_and_targets_must_fit_the_task(task, targets, classes, reason):
    with pytest.raises(ValidationError, match=reason):
        manifest(task=task, targets=targets, classes=classes)


def test_true_and_1_and_text_are_three_classes():
    read = Manifest.from_json(manifest(task="multiclass", classes=(True, 1, "1")).to_json(), "house/1")
    assert [type(label) for label in read.classes] == [bool, int, str]


@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
def test_a_text_that_utf_8_cannot_hold_never_reaches_a_manifest(text):
    with pytest.raises(ValidationError):
        manifest(input=Schema(features=(CategoryFeature(name="x", categories=(text,)),)))
    with pytest.raises(ValidationError):
        manifest(targets=(text,))


def test_a_manifest_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        manifest().version = 2


def test_the_outputs_follow_from_task_and_targets_and_classes():
    assert manifest(targets=("a", "b")).outputs == (Output(name="prediction", datatype="FP32", width=2),)
    assert manifest(task="multiclass", classes=("a", "b", "c")).outputs == (
        Output(name="probabilities", datatype="FP32", width=3),
        Output(name="label", datatype="INT64", width=None),
    )
    assert manifest(input=EVERY_KIND).outputs[0].datatype == "FP32"  # whatever the input's is


# ------------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize("name", ["a", "7", "iris", "Iris-2.5_b", "x" * 100, "a.b.c", "con-"])
def test_a_plain_name_may_name_a_model(name):
    check_name("model", name)


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "a..b", "/", "a/b", "\\", ".hidden", "-x", "_x", "a b", "a\n", "a\0", "größe", "٣",
        "x" * 101, "x" * 200, "%2e", "a:b", "~", "\ud800", "lost+found",
    ],
)  # fmt: skip
def test_what_could_lead_elsewhere_in_a_path_or_url_names_nothing(name):
    with pytest.raises(BadName, match="use 1 to 100 letters") as caught:
        check_name("label", name)
    assert caught.value.kind == "label"
    assert len(str(caught.value)) < 300
    with pytest.raises(BadName):
        manifest(name=name)


def test_a_metric_that_is_not_finite_is_written_as_none():
    assert finite({"a": 1, "b": math.nan, "c": -math.inf}) == {"a": 1.0, "b": None, "c": None}
