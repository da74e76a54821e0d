"""The story: a plan becomes a published version, step by step.

    read -> columns -> split -> schema -> encode -> fit -> choose -> calibrate -> evaluate -> examine
    -> export -> prove -> publish

`train` goes as far as a scored network and touches no file but the table; `run` publishes it as well.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor, nn

from models.manifest import Calibration, Part, Scores, Task
from models.repository import Repository
from models.schema import Matrix, Schema
from training import datasets
from training.calibrate import fit_temperature
from training.checkpoint import Checkpoint
from training.columns import Data, read_columns
from training.distributed import is_team, team
from training.encoders import Preprocessing, encode, learn_schema
from training.evaluate import Targets, answers_of, make_baselines, score_parts
from training.findings import Findings, examine
from training.fit import (
    Epoch,
    Member,
    Objective,
    choose,
    choose_device,
    device_name,
    fit_members,
    mean_loss,
    objective_of,
)
from training.fit import Rows as TensorRows
from training.large import fit_large
from training.leaks import find_leaks
from training.linear import STRENGTHS, solve_linear
from training.net import Averaged, Net, make_member
from training.plan import BadPlan, FitPlan, Loss, Plan
from training.publish import publish
from training.source import is_large
from training.split import Rows, split_rows
from training.table import Table, read_table


@dataclass(frozen=True)
class Step:
    """Where a fit is: an epoch of one member.

    Attributes:
        member: from 1, of `members`.
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
        held_out: answers for the rows of the validation part, by networks that were not fitted on it.
        scores: per part, beside the baselines'.
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
    held_out: dict[str, npt.NDArray[Any]]
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
    fitted = train(plan, report, checkpoint)
    fitted = replace(fitted, findings=examine(fitted))
    number = publish(fitted, repository)
    if checkpoint is not None:
        checkpoint.clear()
    return fitted, number


def train(plan: Plan, report: Report = lambda _: None, checkpoint: Checkpoint | None = None) -> Fitted:
    """Train a plan as far as a scored network.

    Raises:
        RowcastError: the table, the plan or the fit is bad.
    """
    if is_large(plan) or is_team():
        return _train_in_pieces(plan, report, checkpoint or Checkpoint())
    start = time.perf_counter()
    table = read(plan)
    data = read_columns(table, plan)
    split = split_rows(data, plan.split)
    schema = learn_schema(data, split.train, plan.table)
    for note in (notes := (*data.notes, *split.notes)):
        report(note)
    for warning in (warnings := find_leaks(data, split, plan.split)):
        report(f"look at this: {warning}")

    plan = plan.model_copy(update={"task": data.task, "fit": plan.fit.for_rows(len(split.train))})
    matrix = encode(data.frame, schema)
    rows: dict[Part, Rows] = {"train": split.train, "validation": split.validation, "test": split.test}
    parts = {part: PartRows(data.frame[kept], matrix[kept], data.y[kept]) for part, kept in rows.items() if len(kept)}

    problem = _pose(plan, data, schema, parts)
    checkpoint = checkpoint or Checkpoint()
    checkpoint.open(plan, data.sha256, device_name(choose_device()))
    if checkpoint.folder is not None:
        report(f"goes on from the checkpoint in {checkpoint.folder}")
    members = fit_members(
        plan.fit,
        problem.make_member,
        problem.train,
        problem.validation,
        problem.objective,
        report=_steps(plan.fit, report),
        checkpoint=checkpoint,
    )
    if checkpoint.trouble is not None:
        report(checkpoint.trouble)
    chosen = choose(members, _linear_members(problem, plan), plan.fit.averaged or 1, problem.validation_loss)
    calibration = _calibrate(plan.fit, problem.net(chosen), parts["validation"])
    net = problem.net(chosen, 1.0 if calibration is None else calibration.temperature)

    baselines = make_baselines(net, problem.linear(strength=1.0).net, parts["train"].y)
    scores = score_parts(net, baselines, {part: (rows.matrix, rows.y) for part, rows in parts.items()})
    seconds = time.perf_counter() - start
    device = device_name(choose_device())
    held_out = answers_of(net, parts["validation"].matrix)
    return Fitted(
        plan, data, schema, parts, net, members, chosen, held_out, scores, calibration, notes, device, seconds, warnings
    )


def _train_in_pieces(plan: Plan, report: Report, checkpoint: Checkpoint) -> Fitted:
    """The same for a table that is larger than memory, or that several processes fit together."""
    start = time.perf_counter()
    if plan.table.path is None:
        raise BadPlan(plan.name, "several processes fit a table from a file; this one is a dataset")
    epochs = plan.fit.epochs or 1
    with team() as ranks:
        large = fit_large(plan, report, lambda epoch: report(Step(1, 1, epochs, epoch)), ranks, checkpoint)
    sampled = large.sampled
    data, split = sampled.data, sampled.split
    fit = plan.fit.for_rows(sampled.spool.rows)
    plan = plan.model_copy(update={"task": data.task, "fit": fit.model_copy(update={"members": 1, "averaged": 1})})
    for warning in (warnings := find_leaks(data, split, plan.split)):
        report(f"look at this: {warning}")
    matrix = encode(data.frame, sampled.schema)
    rows: dict[Part, Rows] = {"train": split.train, "validation": split.validation, "test": split.test}
    parts = {part: PartRows(data.frame[kept], matrix[kept], data.y[kept]) for part, kept in rows.items() if len(kept)}
    baselines = make_baselines(large.net, large.linear, parts["train"].y)
    return Fitted(
        plan=plan,
        data=data,
        schema=sampled.schema,
        parts=parts,
        net=large.net,
        members=[large.member],
        chosen=large.chosen,
        held_out=answers_of(large.net, parts["validation"].matrix),
        scores=score_parts(large.net, baselines, {part: (rows.matrix, rows.y) for part, rows in parts.items()}),
        calibration=large.calibration,
        notes=sampled.notes,
        device=device_name(choose_device()),
        seconds=time.perf_counter() - start,
        warnings=warnings,
    )


def follow(plan: Plan) -> None:
    """Take this rank's part in a fit that another rank leads.

    Raises:
        RowcastError: as for `train`.
    """
    with team() as ranks:
        fit_large(plan, lambda _: None, lambda _: None, ranks, Checkpoint())


def read(plan: Plan) -> Table:
    """The plan's table, from its file or by its name.

    Raises:
        RowcastError: the file is no table, or no dataset has that name.
    """
    if plan.table.path is not None:
        return read_table(Path(plan.table.path))
    assert plan.table.dataset is not None
    frame = datasets.load(plan.table.dataset, plan.table.rows, plan.fit.seed)
    return Table.of(frame, plan.table.dataset)


# ------------------------------------------------------------------------------------------------ what is fitted


@dataclass(frozen=True)
class _Problem:
    """The plan in torch's terms: rows preprocessed and on the device, targets as the loss wants them."""

    task: Task
    preprocessing: Preprocessing
    make_member: Callable[[], nn.Sequential]
    objective: Objective
    outputs: int
    train: TensorRows
    validation: TensorRows
    centre: Tensor | None
    scale: Tensor | None

    def net(self, members: Sequence[Member], temperature: float = 1.0) -> Net:
        """The published form of some members, on the CPU."""
        nets = [copy.deepcopy(member.net).cpu() for member in members]
        return Net(self.preprocessing, nets, self.task, centre=self.centre, scale=self.scale, temperature=temperature)

    def linear(self, strength: float) -> Member:
        """The linear model with this penalty, as a member without a history."""
        x, y = (tensor.cpu().numpy() for tensor in self.train)
        sizes = self.preprocessing.sizes
        net = solve_linear(x, y, sizes, self.task, outputs=self.outputs, strength=strength).to(self.train[0].device)
        return Member(net, (), mean_loss(net, self.validation, self.objective))

    def validation_loss(self, members: Sequence[Member]) -> float:
        """The loss of the members' average on the validation rows."""
        return mean_loss(Averaged([member.net for member in members], self.task), self.validation, self.objective)


def _pose(plan: Plan, data: Data, schema: Schema, parts: Mapping[Part, PartRows]) -> _Problem:
    loss = _loss(plan, data)
    preprocessing = Preprocessing(schema, parts["train"].matrix, learned=plan.net.preprocessing == "learned")
    outputs = len(data.targets) if data.classes is None else len(data.classes)
    if data.task == "binary" and loss != "cross_entropy":
        outputs = 1
    centre = scale = None
    if data.task == "regression" and plan.net.scale_targets:
        y = parts["train"].y
        spread = y.std(0)
        centre, scale = y.mean(0), np.where(spread > 0, spread, 1.0)
    device = choose_device()

    def tensors(part: PartRows) -> TensorRows:
        y = part.y if centre is None else (part.y - centre) / scale
        y = y if data.task != "regression" else y.astype(np.float32)
        with torch.no_grad():
            return preprocessing(torch.from_numpy(part.matrix)).to(device), torch.from_numpy(y).to(device)

    return _Problem(
        data.task,
        preprocessing,
        lambda: make_member(plan.net, preprocessing.width, preprocessing.sizes, outputs),
        objective_of(loss),
        outputs,
        tensors(parts["train"]),
        tensors(parts["validation"]),
        None if centre is None else torch.tensor(centre, dtype=torch.float32),
        None if scale is None else torch.tensor(scale, dtype=torch.float32),
    )


def _loss(plan: Plan, data: Data) -> Loss:
    """The plan's loss, or the task's own.

    Raises:
        BadPlan: the loss measures another task.
    """
    own: dict[Task, Loss] = {
        "regression": "mse",
        "binary": "binary_cross_entropy",
        "multiclass": "cross_entropy",
    }
    fitting: dict[Task, tuple[Loss, ...]] = {
        "regression": ("mse", "l1"),
        "binary": ("binary_cross_entropy", "cross_entropy", "probability_l1"),
        "multiclass": ("cross_entropy", "probability_l1"),
    }
    loss = plan.fit.loss or own[data.task]
    if loss not in fitting[data.task]:
        reason = f"fit.loss {loss} does not measure a {data.task}; use {' or '.join(fitting[data.task])}"
        raise BadPlan(plan.name, reason)
    return loss


def _linear_members(problem: _Problem, plan: Plan) -> list[Member]:
    """Linear models of several penalties, where the plan asks for them and its members are not linear themselves."""
    if not (plan.fit.linear and plan.net.hidden and plan.net.preprocessing == "learned"):
        return []
    return [problem.linear(strength) for strength in STRENGTHS]


def _calibrate(plan: FitPlan, net: Net, validation: PartRows) -> Calibration | None:
    if net.task == "regression" or not plan.calibrate:
        return None
    probabilities = answers_of(net, validation.matrix)["probabilities"]
    temperature = fit_temperature(probabilities, validation.y)
    return Calibration(method="temperature", temperature=temperature, rows=len(validation.y))


def _steps(plan: FitPlan, report: Report) -> Callable[[int, Epoch], object]:
    assert plan.members is not None
    assert plan.epochs is not None
    members, epochs = plan.members, plan.epochs
    return lambda member, epoch: report(Step(member + 1, members, epochs, epoch))
