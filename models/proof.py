"""The proof that a version answers as it did when it was trained: rows with their right answers.

A session replays it before the version goes live, through the same `Schema.encode` as every request. It is the
self-test and the warm-up.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Protocol, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from models.errors import BadRow, BadVersion
from models.manifest import Manifest
from models.schema import Matrix

FILE = "proof.json"
INPUT = "features"

Answers = Mapping[str, npt.NDArray[Any]]
"""Output of the graph to its values: `prediction` [N, K], or `probabilities` [N, C] and `label` [N]."""


class Session(Protocol):
    """A loaded graph, whatever runs it."""

    @property
    def signature(self) -> Mapping[str, tuple[str, int | None]]:
        """Input and outputs by name: datatype, and length of the second axis (None: only rows)."""
        ...

    def run(self, matrix: Matrix) -> Answers:
        """The answers for a matrix [N, F], N from 0."""
        ...


class Proof(BaseModel):
    """Rows and their right answers.

    Attributes:
        rows: JSON objects as a client would send them; missing values and unknown categories among them.
        answers: output of the graph to its values, row by row.
        rtol, atol: how far an answer may be off, relative and absolute, added up (as `numpy.allclose`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rows: Annotated[list[dict[str, JsonValue]], Field(min_length=1)]
    answers: dict[str, list[Any]]
    rtol: Annotated[float, Field(ge=0)] = 1e-4
    atol: Annotated[float, Field(ge=0)] = 1e-5

    def to_json(self) -> bytes:
        """The bytes of `proof.json`; floats come back exactly."""
        return (json.dumps(self.model_dump(), ensure_ascii=False, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, raw: bytes, place: str) -> Self:
        """Read the bytes of a `proof.json`; `place` names the version in errors.

        Raises:
            BadVersion: the bytes are no proof.
        """
        try:
            return cls.model_validate_json(raw)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise BadVersion(place, f"{FILE} is not a proof: {reason}; publish it again") from None


def prove(manifest: Manifest, proof: Proof, session: Session) -> None:
    """Check that a session is the network the manifest describes and gives the proof's answers.

    A label may differ where the two likeliest classes are closer than the tolerance.

    Raises:
        BadVersion: an input or output is not as described, or an answer is not the right one.
    """
    place = f"{manifest.name}/{manifest.version}"
    _check_signature(manifest, session, place)
    try:
        matrix = manifest.input.encode(proof.rows)
    except BadRow as error:
        raise BadVersion(place, f"{FILE} does not fit the schema: {error}; publish it again") from None
    answers = session.run(matrix)
    for output in manifest.outputs:
        right = np.asarray(proof.answers.get(output.name, []))
        got = np.asarray(answers[output.name])
        if right.shape != got.shape:
            raise BadVersion(place, f"output '{output.name}' is {list(got.shape)}, the proof has {list(right.shape)}")
        if not np.isfinite(got).all():
            raise BadVersion(place, f"output '{output.name}' holds values that are not finite")
        if output.name == "label":
            agrees = (right == got) | _too_close_to_call(np.asarray(answers["probabilities"]), proof)
        else:
            agrees = np.isclose(got, right, rtol=proof.rtol, atol=proof.atol).all(axis=1)
        if not agrees.all():
            row = int(np.argmin(agrees))
            reason = f"the proof does not come out: row {row}, {output.name} is {got[row]}, must be {right[row]}"
            raise BadVersion(place, reason)


def _check_signature(manifest: Manifest, session: Session, place: str) -> None:
    expected: dict[str, tuple[str, int | None]] = {INPUT: (manifest.input.datatype, len(manifest.input.columns))}
    expected |= {output.name: (output.datatype, output.width) for output in manifest.outputs}
    if dict(session.signature) != expected:
        reason = f"the graph has {dict(session.signature)}, the manifest describes {expected}; publish it again"
        raise BadVersion(place, reason)


def _too_close_to_call(probabilities: npt.NDArray[Any], proof: Proof) -> npt.NDArray[np.bool_]:
    best = np.sort(probabilities, axis=1)[:, -2:]  # [N, 2]
    close: npt.NDArray[np.bool_] = best[:, 1] - best[:, 0] <= 2 * (proof.atol + proof.rtol)
    return close
