"""A fitted network becomes a version: findings, files, proof and manifest, proved before it is published."""

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import JsonValue

from models import proof as proofs
from models import shapley
from models.features import CategoryFeature
from models.manifest import FileDigest, Manifest, Predictions, Provenance
from models.proof import Proof, prove
from models.repository import Repository
from models.schema import Schema
from training.data.rows import table_rows
from training.data.schema import quantiles_of
from training.data.spread import spread
from training.fitting.processes import elsewhere
from training.judging.findings import examine
from training.plan import Plan
from training.publishing.export import ONNX, OnnxSession, awkward_rows, export
from training.publishing.report import begin_to_draw, write_report

if TYPE_CHECKING:
    from training.recipe import Fitted  # recipe tells the story and imports this file

REPORT = "report"
PROOF_ROWS = 16
MOST_UNKNOWN = 16  # rows of the proof that have an unknown category, each another feature's
PARITY_ROWS = 256
PACKAGES = ("torch", "numpy", "polars", "scikit-learn", "onnx")


def publish(fitted: "Fitted", repository: Repository) -> tuple["Fitted", int]:
    """Examine, write, prove and publish a network; the number is that of the new version.

    Where there are cores, one process exports and another one draws while this one examines.

    Raises:
        NoParity, BadVersion: a file or the whole does not answer as the network; nothing is published then.
    """
    proof = make_proof(fitted)
    train = fitted.parts["train"].matrix

    def fill(draft: Path) -> "functools.partial[Manifest]":
        nonlocal fitted
        rows = train[spread(len(train), PARITY_ROWS)]
        awkward, program = awkward_rows(fitted.schema, rows), fitted.plan.export.program
        with elsewhere(lambda: export(fitted.net, awkward, draft, program=program)):
            drawn, findings = begin_to_draw(fitted), examine(fitted)
            fitted = replace(fitted, findings=findings)
            (draft / proofs.FILE).write_bytes(proof.to_json())
            (draft / shapley.FILE).write_bytes(findings.background.to_json())
            write_report(draft / REPORT, fitted, drawn)
        session = OnnxSession((draft / ONNX).read_bytes())
        return functools.partial(_describe, fitted, proof, session)

    number = repository.publish(fitted.plan.name, fill)
    return fitted, number


def _describe(
    fitted: "Fitted", proof: Proof, session: OnnxSession, number: int, files: dict[str, FileDigest]
) -> Manifest:
    """The manifest of a draft, once the draft has proved itself."""
    found = fitted.findings
    manifest = Manifest(
        name=fitted.plan.name,
        version=number,
        task=fitted.data.task,
        input=fitted.schema,
        targets=fitted.data.targets,
        classes=fitted.data.classes,
        weights=digest_weights(fitted.net),
        files=files,
        scores=fitted.scores,
        calibration=fitted.calibration,
        predictions=_predictions(fitted),
        intervals=found.intervals if found else None,
        prediction_sets=found.prediction_sets if found else None,
        importances=found.importances if found else (),
        provenance=_provenance(fitted),
    )
    prove(manifest, proof, session)
    return manifest


def _predictions(fitted: "Fitted") -> Predictions:
    """How the predictions for the training rows are distributed."""
    answers = fitted.predict(fitted.parts["train"].matrix)
    if fitted.data.classes is None:
        targets = answers["prediction"].astype(np.float64).T
        return Predictions(quantiles=tuple(quantiles_of(target) for target in targets))
    counts = np.bincount(answers["label"], minlength=len(fitted.data.classes))
    return Predictions(shares=tuple((counts / counts.sum()).tolist()))


def digest_weights(net: torch.nn.Module) -> str:
    """Sha256 over name, dtype, shape and little-endian bytes of every tensor, sorted by name.

    The same weights have the same digest whatever file they are in.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        values = tensor.detach().cpu().contiguous().numpy()
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name}\n{values.dtype.name}\n{list(values.shape)}\n".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------ the proof


def make_proof(fitted: "Fitted") -> Proof:
    """Rows of the table as a client would send them, hard ones among them, with the eager network's answers.

    An answer may be off by 1e-4 of itself and 1e-5 of a probability or of its target's standard deviation.
    """
    rows = [*table_rows(fitted.parts["train"].frame, fitted.schema, most=PROOF_ROWS), *hard_rows(fitted.schema)]
    answers = fitted.predict(fitted.schema.encode(rows))
    tolerances = [1e-5]
    if fitted.data.task == "regression":
        tolerances = [1e-5 * (float(spread) or 1.0) for spread in fitted.parts["train"].y.std(0)]
    atol = tolerances[0] if len(tolerances) == 1 else tolerances
    return Proof(rows=rows, answers={name: values.tolist() for name, values in answers.items()}, atol=atol)


def hard_rows(schema: Schema) -> list[dict[str, JsonValue]]:
    """A row in which everything is missing, and one for each category that names one nobody has seen."""
    nothing: dict[str, JsonValue] = dict.fromkeys(schema.names)
    rows = [nothing]
    for feature in [feature for feature in schema.features if isinstance(feature, CategoryFeature)][:MOST_UNKNOWN]:
        unseen = "unseen"
        while unseen in feature.categories:
            unseen += "?"
        rows.append(nothing | {feature.name: unseen})
    return rows


# ------------------------------------------------------------------------------------------------ the provenance


def _provenance(fitted: "Fitted") -> Provenance:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return Provenance(
        plan=_plan_as_run(fitted.plan),
        data_sha256=fitted.data.sha256,
        data_rows=fitted.data.rows_read,
        seed=fitted.plan.fit.seed,
        commit=_commit(),
        packages={"python": platform.python_version(), **versions},
        device=fitted.device,
        seconds=round(fitted.seconds, 3),
        notes=fitted.notes,
        warnings=fitted.warnings,
    )


def _plan_as_run(plan: Plan) -> dict[str, JsonValue]:
    """The plan with every default written out; of an absolute path only the file's name: it tells of this machine."""
    fields = plan.model_dump(mode="json", exclude={"published"})
    path = plan.table.path
    if path is not None and Path(path).is_absolute():
        fields["table"]["path"] = Path(path).name
    return fields


def _commit() -> str | None:
    """The commit of this code, with "+" where files were changed; None outside a repository."""
    folder = Path(__file__).parents[1]

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".", "../models") else "")
    except (OSError, subprocess.SubprocessError):
        return None
