"""The proof that a version answers as it did when it was trained: rows with their right answers.

A session replays it before the version goes live, through the same `Schema.encode` as every request. It is the
self-test and the warm-up.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field, JsonValue

from models.errors import BadRow, BadVersion, shown
from models.manifest import Manifest
from models.record import RecordFile
from models.schema import Matrix

FILE = "proof.json"
INPUT = "features"

Answers = Mapping[str, npt.NDArray[Any]]
"""Output of the graph to its values: `prediction` [N, K], or `probabilities` [N, C] and `label` [N]."""


_Tolerance = Annotated[float, Field(ge=0)]


class Session(Protocol):
    """A loaded graph, whatever runs it."""

    @property
    def signature(self) -> Mapping[str, tuple[str, int | None]]:
        """Input and outputs by name: datatype, and length of the second axis (None: only rows)."""
        ...

    def run(self, matrix: Matrix) -> Answers:
        """The answers for a matrix [N, F], N from 0."""
        ...


class Proof(RecordFile):
    """Rows and their right answers.

    Attributes:
        rows: JSON objects as a client would send them; missing values and unknown categories among them.
        answers: output of the graph to its values, row by row.
        rtol, atol: how far an answer may be off, relative and absolute, added up (as `numpy.allclose`). Of several
            targets each may have an `atol` of its own: beside metres, that of millimetres would be any answer's.
    """

    FILE = FILE
    A_WHAT = "a proof"

    rows: Annotated[list[dict[str, JsonValue]], Field(min_length=1)]
    answers: dict[str, list[Any]]
    rtol: _Tolerance = 1e-4
    atol: _Tolerance | list[_Tolerance] = 1e-5


def prove(manifest: Manifest, proof: Proof, session: Session) -> None:
    """Check that a session is the network the manifest describes and gives the proof's answers.

    A label may differ from the proof's where its class is as likely as any other, within twice the tolerance.

    Raises:
        BadVersion: an input or output is not as described, or an answer is not the right one.
    """
    place = f"{manifest.name}/{manifest.version}"
    _check_signature(manifest, session, place)
    if isinstance(proof.atol, list) and [output.width for output in manifest.outputs] != [len(proof.atol)]:
        reason = f"{FILE} has {len(proof.atol)} values of atol, not one for each target"
        raise BadVersion(place, f"{reason}; publish it again")
    try:
        matrix = manifest.input.encode(proof.rows)
    except BadRow as error:
        raise BadVersion(place, f"{FILE} does not fit the schema: {error}; publish it again") from None
    try:
        answers = session.run(matrix)
    except Exception as error:  # noqa: BLE001 - each runtime raises its own
        raise BadVersion(place, f"the graph does not run on its proof: {shown(str(error), 300)}") from None
    for output in manifest.outputs:
        shape = (len(matrix),) if output.width is None else (len(matrix), output.width)
        right = _as_array(proof.answers.get(output.name), place, output.name)
        got = np.asarray(answers[output.name])
        if not right.shape == got.shape == shape:
            reason = f"the graph gives {list(got.shape)}, the proof has {list(right.shape)}, it must be {list(shape)}"
            raise BadVersion(place, f"output '{output.name}': {reason}")
        if not np.isfinite(got).all():
            raise BadVersion(place, f"output '{output.name}' holds values that are not finite")
        agrees = got == right
        if not agrees.all():  # which it often is, and comparing closely takes ten times as long
            if output.name == "label":
                agrees |= _is_as_likely(got, np.asarray(answers["probabilities"]), proof)
            else:
                agrees = np.isclose(got, right, rtol=proof.rtol, atol=proof.atol)
        if not agrees.all():
            first = tuple(int(i) for i in np.argwhere(~agrees)[0])  # row, and column where there is one
            where = f"row {first[0]}" + "".join(f", column {i}" for i in first[1:])
            reason = f"{output.name} of {where} is {got[first]}, must be {right[first]}"
            raise BadVersion(place, f"the proof does not come out: {reason}; publish it again")


def _as_array(answers: object, place: str, output: str) -> npt.NDArray[np.float64]:
    try:
        return np.array(answers, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadVersion(place, f"{FILE} has no table of numbers for output '{output}'; publish it again") from None


def _check_signature(manifest: Manifest, session: Session, place: str) -> None:
    expected: dict[str, tuple[str, int | None]] = {INPUT: (manifest.input.datatype, len(manifest.input.columns))}
    expected |= {output.name: (output.datatype, output.width) for output in manifest.outputs}
    if dict(session.signature) != expected:
        reason = f"the graph has {dict(session.signature)}, the manifest describes {expected}; publish it again"
        raise BadVersion(place, reason)


def _is_as_likely(label: npt.NDArray[Any], probabilities: npt.NDArray[Any], proof: Proof) -> npt.NDArray[np.bool_]:
    """Whether each label [N] has, within the tolerance, the largest of its row's probabilities [N, C]."""
    known = (label >= 0) & (label < probabilities.shape[1])
    own = probabilities[np.arange(len(label)), np.where(known, label, 0)]
    tolerance = 2 * (np.asarray(proof.atol) + proof.rtol)
    as_likely: npt.NDArray[np.bool_] = known & (probabilities.max(axis=1) - own <= tolerance)
    return as_likely
