"""What a published version says of itself: `manifest.json`, format 1.

`models/README.md` is the specification; this file is its code. The manifest digests every other file of the version
and, with its own digest read as zeros, itself: no byte of a version can change unnoticed.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, ValidationError, model_validator

from models.errors import BadName, BadVersion, shown
from models.features import Share
from models.intervals import Intervals, PredictionSets
from models.record import Record
from models.schema import Datatype, Schema

FORMAT = 1
FILE = "manifest.json"
Task = Literal["regression", "binary", "multiclass"]
Part = Literal["train", "validation", "test"]
ClassLabel = bool | int | str
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$", max_length=200)
]
Metric = Annotated[float, Field(allow_inf_nan=False)] | None

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NO_DIGEST = "0" * 64


class FileDigest(Record):
    """What the bytes of one file must be.

    Attributes:
        sha256: their digest.
        bytes: how many there are.
    """

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class Scores(Record):
    """How well the network and its baselines do on one part of the table.

    Attributes:
        rows: how many rows were scored.
        metrics: metric to value; None where it is undefined, such as ROC AUC with one class.
        baselines: the same metrics for each baseline, such as "mean" or "linear".
    """

    rows: Annotated[int, Field(ge=0)]
    metrics: dict[str, Metric]
    baselines: dict[str, dict[str, Metric]] = Field(default_factory=dict)


class Calibration(Record):
    """How the probabilities were calibrated; already part of the graph.

    Attributes:
        method: "temperature", that of Guo et al. 2017, section 4.2.
        temperature: what the logits are divided by.
        rows: how many validation rows chose it.
    """

    method: Literal["temperature"]
    temperature: Annotated[float, Field(gt=0)]
    rows: Annotated[int, Field(ge=0)]


class Predictions(Record):
    """How the predictions for the training rows are distributed; later ones are compared with it.

    Attributes:
        quantiles: of a regression, for each target, at i / (len - 1), as those of a number feature; else empty.
        shares: of a classification, for each class, the share of rows in which it is the likeliest; else empty.
    """

    quantiles: Annotated[tuple[tuple[float, ...], ...], Field(strict=False)] = ()
    shares: Annotated[tuple[Share, ...], Field(strict=False)] = ()


class Importance(Record):
    """How much worse the answers get when a feature's values are shuffled among the rows.

    Attributes:
        feature: its name.
        value: what is lost of R2 (mean over the targets), or what is added to the log loss (nats).
        low, high: the bounds that hold the value with 95%, over the drawing of the rows.
    """

    feature: str
    value: float
    low: float
    high: float


class Provenance(Record):
    """How the version came to be, enough to make it again.

    Attributes:
        plan: the plan as it was run, every default written out.
        data_sha256: digest of the table as it was read.
        data_rows: rows of that table.
        seed: the seed of every random choice.
        commit: commit of the code; None outside a repository; ends in "+" where files were changed.
        packages: package to version, Python among them.
        device: what it was trained on, such as "cpu" or the name of the GPU.
        seconds: from reading the table to its scores.
        notes: what was done that nobody asked for, such as a column left out, a sentence each.
        warnings: what a careful person would look at before relying on the scores, a sentence each.
    """

    plan: dict[str, JsonValue]
    data_sha256: Sha256
    data_rows: Annotated[int, Field(ge=0)]
    seed: int
    commit: str | None
    packages: dict[str, str]
    device: str
    seconds: Annotated[float, Field(ge=0)]
    notes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    warnings: Annotated[tuple[str, ...], Field(strict=False)] = ()


class Output(Record):
    """One output of the graph: name, datatype and the length of its second axis, None where it has only rows."""

    name: str
    datatype: Literal["FP32", "FP64", "INT64"]
    width: int | None


class Manifest(Record):
    """Everything about a version but its weights.

    Attributes:
        format: of the whole version; a reader refuses one that it does not know.
        sha256: digest of the manifest's own bytes, in which it stands as zeros; filled in when left out.
        name: the model.
        version: its number, from 1.
        task: what is predicted.
        input: the schema (`schema` is a word that pydantic keeps for itself).
        targets: names of the predicted columns; one for a classification.
        classes: what the target may be, in the order of the probabilities; None for a regression.
        weights: canonical digest of the weights, the same whatever file they were written to.
        files: every other file of the version, by its path in the folder.
        scores: per part of the table.
        calibration: how the probabilities were calibrated; None where they were not.
        predictions: how those for the training rows are distributed, for measuring drift.
        intervals: how sure an answer of a regression is.
        prediction_sets: how sure an answer of a classification is.
        importances: of the features, the largest first.
        provenance: how the version came to be.
    """

    format: Literal[1] = 1
    sha256: Sha256 = _NO_DIGEST
    name: str
    version: Annotated[int, Field(ge=1)]
    task: Task
    input: Annotated[Schema, Field(strict=False)]
    targets: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    classes: Annotated[tuple[ClassLabel, ...], Field(min_length=2, strict=False)] | None = None
    weights: Sha256
    files: dict[FileName, FileDigest]
    scores: dict[Part, Scores]
    calibration: Calibration | None = None
    predictions: Predictions | None = None
    intervals: Intervals | None = None
    prediction_sets: PredictionSets | None = None
    importances: Annotated[tuple[Importance, ...], Field(strict=False)] = ()
    provenance: Provenance

    @model_validator(mode="after")
    def _classes_fit_the_task(self) -> Self:
        if self.task == "regression":
            if self.classes is not None:
                raise ValueError("a regression has no classes")
            return self
        if self.classes is None or len(self.targets) != 1:
            raise ValueError(f"a {self.task} classification has one target and its classes")
        if self.task == "binary" and len(self.classes) != 2:
            raise ValueError(f"a binary classification has 2 classes, not {len(self.classes)}")
        if len({(type(label), label) for label in self.classes}) != len(self.classes):
            raise ValueError("a class stands twice")
        return self

    @model_validator(mode="after")
    def _constants_fit_the_outputs(self) -> Self:
        if self.intervals is not None and (self.classes is not None or len(self.intervals.edges) != len(self.targets)):
            raise ValueError("intervals are of a regression, with bins for each target")
        if self.prediction_sets is not None and self.classes is None:
            raise ValueError("prediction sets are of a classification")
        return self

    @model_validator(mode="after")
    def _is_sealed(self) -> Self:
        check_name("model", self.name)
        if self.sha256 == _NO_DIGEST:
            self.__dict__["sha256"] = _digest(self._unsealed())  # frozen for everybody else
        return self

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The outputs of the graph, in order."""
        real: Datatype = "FP32"
        if self.classes is None:
            return (Output(name="prediction", datatype=real, width=len(self.targets)),)
        return (
            Output(name="probabilities", datatype=real, width=len(self.classes)),
            Output(name="label", datatype="INT64", width=None),
        )

    def to_json(self) -> bytes:
        """The bytes of `manifest.json`, its own digest filled in."""
        unsealed = self._unsealed()
        return unsealed.replace(_NO_DIGEST.encode(), _digest(unsealed).encode(), 1)

    def _unsealed(self) -> bytes:
        fields = self.model_dump(mode="json") | {"sha256": _NO_DIGEST}
        return (json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, raw: bytes, place: str) -> Self:
        """Read the bytes of a `manifest.json`; `place` names the version in errors.

        Raises:
            BadVersion: no JSON, another format, a byte changed, or a field that is not as specified.
        """
        try:
            fields = json.loads(raw)
        except (ValueError, RecursionError):
            raise BadVersion(place, f"{FILE} is not JSON; publish it again") from None
        if not isinstance(fields, dict) or "format" not in fields:
            raise BadVersion(place, f"{FILE} names no format; publish it again")
        if type(fields["format"]) is not int or fields["format"] != FORMAT:
            raise BadVersion(place, f"format {shown(fields['format'])} is unknown; this release reads format {FORMAT}")
        digest = fields.get("sha256")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or not _is_sealed_with(digest, raw):
            raise BadVersion(place, f"{FILE} is not the file that was published; publish it again")
        try:
            return cls.model_validate_json(raw, strict=True)
        except BadName as error:
            raise BadVersion(place, f"{FILE}, name: {error}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(shown(step).strip("'") for step in first["loc"][:8]) or "as a whole"
            raise BadVersion(place, f"{FILE}, {where}: {first['msg'][:300]}") from None


def check_name(kind: str, name: str) -> None:
    """Refuse a name that could not stand in a path of the file system or of a URL.

    Raises:
        BadName: saying what a name must be.
    """
    if not is_name(name):
        rule = "use 1 to 100 letters, digits, '.', '_' or '-', beginning with a letter or digit, without '..'"
        raise BadName(kind, name, rule)


def is_name(name: str) -> bool:
    """Whether `check_name` lets a name pass."""
    return _NAME.fullmatch(name) is not None and ".." not in name


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """The metrics with None in place of what is not a finite number, as a manifest holds them."""
    return {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _is_sealed_with(digest: str, raw: bytes) -> bool:
    return _digest(raw.replace(digest.encode(), _NO_DIGEST.encode(), 1)) == digest
