"""The story: a plan becomes a published version, step by step.

    read -> columns -> split -> fold -> schema -> encode -> fit -> choose -> calibrate -> evaluate -> examine
         -> export -> prove -> publish

`run` is the whole of it. `train` goes as far as a scored network and touches no file but the table. Every step is a
function that can be called alone; those of one kind are in one folder, `data/` to `publishing/`.

The rows are numbered once and for all in `data.frame`. The split names three parts of them; folds deal the training and
the validation part anew, so that every row of both is held out from some network. The test part chooses nothing.

Shape:
    N rows that have a target, F columns of the matrix, K targets or C classes, R of the rows held out
    matrix: [N, F]; data.y: [N, K], or class codes [N]; answers: [N, K], or probabilities [N, C]
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import polars as pl
from torch import nn

from models.manifest import Calibration, Part, Scores
from models.repository import Repository
from models.schema import Matrix, Schema
from training.data.columns import Data, read_columns
from training.data.folds import Fold, deal_folds, fitted_on
from training.data.schema import encode, learn_schema, what_is_unknown
from training.data.source import is_large
from training.data.split import Split, split_rows
from training.data.table import Table, read_table
from training.data.totals import without_total
from training.fitting.calibrate import calibrate
from training.fitting.candidates import candidates_of
from training.fitting.checkpoint import Checkpoint
from training.fitting.choice import choose
from training.fitting.course import Epoch
from training.fitting.device import bfloat16_from, choose_device, device_name
from training.fitting.distributed import is_team, team
from training.fitting.fit import Member
from training.fitting.problem import Problem, pose
from training.fitting.units import fit_units, linear_unit, wants_linear
from training.judging.evaluate import Targets, doubts, make_baselines, score, score_parts
from training.judging.findings import Findings
from training.judging.leaks import find_leaks
from training.large import fit_large
from training.later import imports
from training.network.net import Net, answers_of
from training.plan import BadPlan, FitPlan, Plan
from training.publishing.publish import publish


@dataclass(frozen=True)
class Step:
    """Where a fit is: an epoch of one member.

    Attributes:
        member: from 1, of `members` at most.
        epochs: how many the plan allows.
    """

    member: int
    members: int
    epochs: int
    epoch: Epoch


Report = Callable[[str | Step], object]
"""Is given a sentence for each thing that was done, and a step after each epoch."""


@dataclass(frozen=True)
class PartRows:
    """The rows of one part: typed, encoded, and their targets (class codes of a classification)."""

    frame: pl.DataFrame
    matrix: Matrix
    y: Targets


@dataclass(frozen=True)
class Fitted:
    """A trained network with everything that its report and its manifest tell.

    Attributes:
        plan: as it was run; what it left to the number of rows is filled in.
        data: the table's columns, task, targets and classes.
        parts: "train", "validation" and, where it has rows, "test".
        net: the network as it is exported.
        members: every fitted member; `chosen` are those in `net`, a linear one perhaps among them.
        weights: how much each of the chosen counts in the average.
        held_out, held_out_y: answers for rows by networks that were not fitted on them, and their targets; with folds
            these are the rows of training and validation, else those of validation.
        scores: per part, beside the baselines'; of the validation part, of held-out answers.
        notes: what was done that nobody asked for, a sentence each.
        device: what the members were fitted on.
        seconds: from reading the table to the scores.
        warnings: what a careful person would look at before relying on the scores, a sentence each.
        findings: what else is known of the network; None until somebody looked.
    """

    plan: Plan
    data: Data
    schema: Schema
    parts: dict[Part, PartRows]
    net: Net
    members: list[Member]
    chosen: list[Member]
    weights: list[float]
    held_out: dict[str, npt.NDArray[Any]]
    held_out_y: Targets
    scores: dict[Part, Scores]
    calibration: Calibration | None
    notes: tuple[str, ...]
    device: str
    seconds: float
    warnings: tuple[str, ...] = ()
    findings: Findings | None = None

    @property
    def history(self) -> list[tuple[Epoch, ...]]:
        """The epochs of each fitted member."""
        return [member.history for member in self.members]

    def predict(self, matrix: Matrix) -> dict[str, npt.NDArray[Any]]:
        """The answers of the published network: `prediction` [N, K], or `probabilities` [N, C] and `label` [N]."""
        return answers_of(self.net, matrix)


def run(
    plan: Plan, repository: Repository, report: Report = lambda _: None, checkpoint: Checkpoint | None = None
) -> tuple[Fitted, int]:
    """Train a plan and publish it; the number is that of the new version.

    With a checkpoint the run goes on from where an earlier one of the same plan and table was killed.

    Raises:
        RowcastError: the table, the plan or the fit is bad, or a file does not answer as the network; nothing is
            published then.
    """
    fitted, number = publish(train(plan, report, checkpoint), repository)
    if checkpoint is not None:
        checkpoint.clear()
    return fitted, number


def train(plan: Plan, report: Report = lambda _: None, checkpoint: Checkpoint | None = None) -> Fitted:
    """Train a plan as far as a scored network.

    Raises:
        RowcastError: the table, the plan or the fit is bad.
    """
    checkpoint = checkpoint or Checkpoint()
    if is_large(plan) or is_team():
        return _train_in_pieces(plan, report, checkpoint)
    start = time.perf_counter()
    data = read_columns(without_total(read(plan)), plan)
    split = split_rows(data, plan.split)
    # by what the plan leaves open, which is settled behind it
    candidates = candidates_of(plan, data.task, len(split.train))
    plan = _settled(plan, candidates[0].fit.epochs, data, split)
    assert plan.fit.folds is not None
    folds = deal_folds(data, split, plan.split, plan.fit.folds)
    schema = learn_schema(data, fitted_on(folds), plan.table)
    notes = (*data.notes, *split.notes, *what_is_unknown(data, fitted_on(folds), schema))
    for note in notes:
        report(note)
    leaks = _warned(find_leaks(data, split, plan.split), report)

    matrix = encode(data.frame, schema)
    parts = _parts_of(data, matrix, split)
    problem = pose(plan, data, schema, matrix, folds)
    _open(checkpoint, problem, data, report)
    asked_baseline = problem.baseline(Fold(split.train, split.validation))
    units, members = fit_units(problem, candidates, _steps(plan.fit, report), checkpoint, imports())
    if checkpoint.trouble is not None:
        report(checkpoint.trouble)

    baseline = asked_baseline()
    if wants_linear(problem, units, baseline, split.validation):
        units.append(linear_unit(problem))
    choice = choose(units, problem.held_out_y)
    if len(units) > 1:
        report(str(choice))
    is_calibrated = data.task != "regression" and plan.fit.calibrate
    calibration = calibrate(choice.answers, problem.held_out_y) if is_calibrated else None
    net = problem.net(choice.members, choice.weights, 1.0 if calibration is None else calibration.temperature)

    scores = _scores_of(net, baseline.net, parts)
    held_out = problem.in_units(choice.answers, net)
    if len(folds) > 1:  # most of the networks were fitted on the validation rows: score what the others say of them
        answers = problem.published(held_out, net, parts["validation"].matrix, split.validation)
        metrics = score(data.task, parts["validation"].y, answers)
        scores["validation"] = scores["validation"].model_copy(update={"metrics": metrics})
    doubted = _warned(doubts(scores), report)
    return Fitted(
        plan=plan,
        data=data,
        schema=schema,
        parts=parts,
        net=net,
        members=members,
        chosen=choice.members,
        weights=choice.weights,
        held_out=held_out,
        held_out_y=data.y[problem.held_out],
        scores=scores,
        calibration=calibration,
        notes=notes,
        device=device_name(problem.x.device),
        seconds=time.perf_counter() - start,
        warnings=(*leaks, *doubted),
    )


def _train_in_pieces(plan: Plan, report: Report, checkpoint: Checkpoint) -> Fitted:
    """The same for a table that is larger than memory, or that several processes fit together."""
    start = time.perf_counter()
    if plan.table.path is None:
        raise BadPlan(plan.name, "several processes fit a table from a file; this one is a dataset")
    with team() as ranks:
        large = fit_large(plan, report, lambda epoch, epochs: report(Step(1, 1, epochs, epoch)), ranks, checkpoint)
    plan, data, split = large.plan, large.sampled.data, large.sampled.split
    leaks = _warned(find_leaks(data, split, plan.split), report)
    parts = _parts_of(data, encode(data.frame, large.sampled.schema), split)
    scores = _scores_of(large.net, large.linear, parts)
    doubted = _warned(doubts(scores), report)
    return Fitted(
        plan=plan,
        data=data,
        schema=large.sampled.schema,
        parts=parts,
        net=large.net,
        members=[large.member],
        chosen=large.chosen,
        weights=[1 / len(large.chosen)] * len(large.chosen),
        held_out=answers_of(large.net, parts["validation"].matrix),
        held_out_y=parts["validation"].y,
        scores=scores,
        calibration=large.calibration,
        notes=large.sampled.notes,
        device=device_name(choose_device()),
        seconds=time.perf_counter() - start,
        warnings=(*leaks, *doubted),
    )


def follow(plan: Plan) -> None:
    """Take this rank's part in a fit that another rank leads.

    Raises:
        RowcastError: as for `train`.
    """
    with team() as ranks:
        fit_large(plan, lambda _: None, lambda *_: None, ranks, Checkpoint())


def read(plan: Plan) -> Table:
    """The plan's table, from its file or by its name.

    Raises:
        RowcastError: the file is no table, or no dataset has that name.
    """
    if plan.table.path is not None:
        return read_table(Path(plan.table.path))
    from training.data import datasets  # noqa: PLC0415 - scikit-learn: see training/later.py

    assert plan.table.dataset is not None
    frame = datasets.load(plan.table.dataset, plan.table.rows, plan.fit.seed)
    return Table.of(frame, plan.table.dataset)


def _settled(plan: Plan, epochs: int | None, data: Data, split: Split) -> Plan:
    """The plan with what it leaves to the table decided; `epochs` are those of its candidates, where these say so."""
    fit = plan.fit.model_copy(update={"epochs": epochs})
    if fit.folds is None and plan.split.time is not None:
        fit = fit.model_copy(update={"folds": 1})  # what is newer must not be known where what is older is judged
    return plan.model_copy(update={"task": data.task, "fit": fit.for_rows(len(split.train))})


def _parts_of(data: Data, matrix: Matrix, split: Split) -> dict[Part, PartRows]:
    return {part: PartRows(data.frame[rows], matrix[rows], data.y[rows]) for part, rows in split.parts.items()}


def _scores_of(net: Net, linear: nn.Module, parts: Mapping[Part, PartRows]) -> dict[Part, Scores]:
    baselines = make_baselines(net, linear, parts["train"].y)
    return score_parts(net, baselines, {part: (rows.matrix, rows.y) for part, rows in parts.items()})


def _open(checkpoint: Checkpoint, problem: Problem, data: Data, report: Report) -> None:
    """Begin to keep states, or go on from those of a run that was killed, if its weights would have been the same."""
    device = problem.x.device
    arithmetic = f"{device_name(device)}, bfloat16 from {bfloat16_from(device, rows=1)}"
    checkpoint.open(problem.plan, data.sha256, arithmetic)
    if checkpoint.folder is not None:
        report(f"goes on from the checkpoint in {checkpoint.folder}")


def _warned(sentences: Sequence[str], report: Report) -> tuple[str, ...]:
    """The sentences, which were reported."""
    for sentence in sentences:
        report(f"look at this: {sentence}")
    return tuple(sentences)


def _steps(plan: FitPlan, report: Report) -> Callable[[int, int, Epoch], object]:
    epochs = plan.epochs
    assert epochs is not None
    return lambda member, members, epoch: report(Step(member + 1, members, epochs, epoch))
