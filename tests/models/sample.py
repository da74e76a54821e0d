"""Small things the tests of the contract share: a schema of every kind, JSON of every kind, a version of four files."""

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, NumberFeature
from models.manifest import FileDigest, Manifest, Provenance, Scores
from models.proof import Proof
from models.schema import Schema

EVERY_KIND = Schema(
    datatype="FP64",
    features=(
        NumberFeature(name="size"),
        CategoryFeature(name="place", categories=("hill", "true", "3")),
        BooleanFeature(name="garden"),
        DatetimeFeature(name="sold"),
    ),
)

PROVENANCE = Provenance(
    plan={}, data_sha256="0" * 64, data_rows=1, seed=0, commit=None, packages={}, device="cpu", seconds=0.5
)


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "house",
        "version": 1,
        "task": "regression",
        "input": EVERY_KIND,
        "targets": ("price",),
        "weights": "ab" * 32,
        "files": {},
        "scores": {"test": Scores(rows=10, metrics={"rmse": 0.5, "r2": None})},
        "provenance": PROVENANCE,
    }
    return Manifest(**fields | changes)


def fill(draft: Path, name: str = "house") -> Any:
    """Write a version of four files; the graph is none, since nothing here runs it."""
    (draft / "model.onnx").write_bytes(b"no graph, but bytes with a digest")
    row = {"size": 1.0, "place": "hill", "garden": None, "sold": "2024-05-31"}
    (draft / "proof.json").write_bytes(Proof(rows=[row], answers={"prediction": [[2.0]]}).to_json())
    (draft / "report").mkdir()
    (draft / "report/card.html").write_text("<title>house</title>")

    def describe(number: int, files: dict[str, FileDigest]) -> Manifest:
        return manifest(name=name, version=number, files=files)

    return describe


def bytes_below(folder: Path) -> dict[str, bytes]:
    """What every file below a folder holds."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------- strategies

any_text = st.text(st.characters())  # lone surrogates and NUL among them
any_integer = st.integers() | st.sampled_from([2**53 + 1, -(2**64), 10**308, 10**400, -(10**4000)])
any_scalar = st.none() | st.booleans() | any_integer | st.floats() | any_text | st.just("x" * 10_000)
any_json = st.recursive(any_scalar, lambda inner: st.lists(inner) | st.dictionaries(any_text, inner), max_leaves=8)

numbers = st.none() | st.just(float("nan")) | st.floats(-3e38, 3e38) | st.integers(-(2**70), 2**70)
categories = (
    st.none() | st.booleans() | st.sampled_from(["hill", "true", "3", 3, 3.0, "valley"]) | st.floats() | any_text
)
bits = st.sampled_from([None, True, False, 0, 1, 0.0, 1.0])
moments = st.none() | st.datetimes().map(str) | st.datetimes().map(lambda moment: moment.date().isoformat())
good_values = st.tuples(numbers, categories, bits, moments)
