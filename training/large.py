"""The story of a table that does not fit into memory, or of one that several processes fit together.

    sample -> columns -> split -> schema -> spool -> fit -> choose -> calibrate -> evaluate

Everything that is learned from values (kinds, categories, quantiles, preprocessing) and every score rests on a sample
of rows from all over the table, split as the whole table is. The network itself is fitted on all training rows: they
are encoded once into a file of plain numbers, from which minibatches are drawn block by block. Memory does not grow
with the rows.
"""

import copy
import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.errors import shown
from models.manifest import Calibration, Task
from models.schema import Schema
from training.data.columns import Data, read_batch, read_columns, targets_of
from training.data.schema import encode, learn_schema, what_is_unknown
from training.data.source import Source
from training.data.split import Split, part_of, split_in_pieces
from training.data.spool import Spool, minibatches
from training.faults import as_sentences
from training.fitting.calibrate import calibrate
from training.fitting.checkpoint import Checkpoint
from training.fitting.course import SCHEDULES, Course, Epoch
from training.fitting.device import choose_device, seeded, threads
from training.fitting.distributed import Team
from training.fitting.fit import Member, TensorRows, mean_loss
from training.fitting.kernels import pick_kernels
from training.fitting.losses import LOSSES, objective_of
from training.fitting.step import Stepper
from training.network.averaged import Averaged
from training.network.encoders import Preprocessing, preprocess
from training.network.linear import ask_linear, readings
from training.network.net import Net, answers_of, make_member
from training.plan import BadPlan, FitPlan, Plan
from training.sentences import listed

Report = Callable[[str], object]


@dataclass(frozen=True)
class Sampled:
    """What the sample says of the table, and the file of all training rows.

    Attributes:
        data: the sample's columns; its `rows_read` are those of the table.
        split: the parts of the sample.
        spool: all training rows, encoded.
        notes: what was done, a sentence each.
    """

    data: Data
    split: Split
    schema: Schema
    preprocessing: Preprocessing
    spool: Spool
    notes: tuple[str, ...]


# ------------------------------------------------------------------------------------------------ reading


def read_in_pieces(plan: Plan, folder: Path, report: Report) -> Sampled:
    """Look at a sample, and write all training rows encoded below a folder.

    Raises:
        BadTable: as for a table that is read whole.
    """
    assert plan.table.path is not None
    source = Source.open(Path(plan.table.path))
    data = replace(read_columns(source.sample(), plan), rows_read=source.rows)
    split = split_in_pieces(data, plan.split)
    schema = learn_schema(data, split.train, plan.table)
    matrix = encode(data.frame[split.train], schema)
    pick_kernels()
    preprocessing = Preprocessing(schema, matrix, learned=plan.net.preprocessing == "learned")
    spool = Spool(folder, len(schema.columns), matrix.dtype.type, data.y.shape[1:])
    unknown = 0
    for first, batch in source.batches(list(data.frame.columns)):
        frame, lost = read_batch(batch, first, data, plan, is_text=source.is_text)
        unknown += lost
        train = frame.filter(part_of(frame, data, plan.split) == 0) if frame.height else frame
        if train.height:
            spool.add(encode(train, schema), targets_of(train, data))
    said = [*data.notes, *split.notes, *what_is_unknown(data, split.train, schema)]
    if source.rows > data.frame.height:
        said.append(
            f"of {source.rows:,} rows a sample of {data.frame.height:,} chose kinds, categories and scaling, and gives "
            f"the scores; the network is fitted on all {spool.rows:,} training rows"
        )
    if unknown:
        said.append(f"{unknown:,} rows have a class of {shown(data.targets[0])} that no sampled row has: left out")
    for note in said:
        report(note)
    return Sampled(data, split, schema, preprocessing, spool, tuple(said))


# ------------------------------------------------------------------------------------------------ fitting


@dataclass(frozen=True)
class _Scale:
    """A regression's targets as the network learns them; of a classification nothing is changed."""

    centre: Tensor | None
    scale: Tensor | None

    @classmethod
    def of(cls, y: npt.NDArray[Any], plan: Plan, task: Task) -> "_Scale":
        if task != "regression" or not plan.net.scale_targets:
            return cls(None, None)
        spread = y.std(0)
        return cls(torch.tensor(y.mean(0)), torch.tensor(np.where(spread > 0, spread, 1.0)))

    def of_targets(self, y: Tensor) -> Tensor:
        if self.centre is None or self.scale is None:
            return y.to(torch.float32) if y.is_floating_point() else y
        return ((y - self.centre) / self.scale).to(torch.float32)


def fit_streamed(
    plan: Plan,
    sampled: Sampled,
    validation: TensorRows,
    scale: _Scale,
    report: Callable[[Epoch, int], object],
    *,
    team: Team,
    checkpoint: Checkpoint,
) -> Member:
    """Fit one network on all training rows of the file, together with the other ranks.

    Raises:
        Diverged: a loss is not finite.
    """
    fit = plan.fit.for_rows(sampled.spool.rows)
    assert fit.epochs is not None
    preprocessing, device = sampled.preprocessing, choose_device()
    there = replace(sampled, preprocessing=copy.deepcopy(preprocessing).to(device))
    with seeded(fit.seed):
        net = make_member(plan.net, preprocessing.width, preprocessing.sizes, outputs_of(sampled.data)).to(device)
    objective = objective_of(LOSSES[sampled.data.task])
    random = torch.Generator(device).manual_seed(fit.seed)
    step, course = Stepper([net], fit, objective, random), Course(fit)
    if (kept := team.of_leader(checkpoint.load("large"))) is not None:
        step.restore(kept["step"])
        course.restore(kept["course"], device)
    for number in range(len(course.history) + 1, fit.epochs + 1):
        if course.is_over:
            break
        step.drops = course.drops
        start = time.perf_counter()
        random.manual_seed(fit.seed + 1_000_003 * number + 15_485_863 * team.rank)  # a run that resumes draws the same
        train_loss = _one_pass(step, fit, there, scale, team, number=number)
        seconds = time.perf_counter() - start
        epoch = Epoch(number, train_loss, mean_loss(net, validation, objective), sampled.spool.rows / seconds)
        report(epoch, fit.epochs)
        course.take(epoch, step.weights[0])
        if team.leads:
            checkpoint.save("large", lambda: {"step": step.state(), "course": course.state()})
    step.weights[0] = course.weights(step.weights[0])
    return Member(net.eval(), tuple(course.history), course.kept.validation_loss)


@torch.inference_mode()
def _one_pass(step: Stepper, fit: FitPlan, sampled: Sampled, scale: _Scale, team: Team, *, number: int) -> float:
    """A step for each minibatch, of which this rank takes its share; the mean loss over all rows of all ranks."""
    rows, device = sampled.spool.rows, choose_device()
    assert fit.epochs is not None
    total = torch.zeros((), device=device)
    for done, x, y in minibatches(sampled.spool, fit.batch or rows, fit.seed + number):
        rate = fit.learning_rate * SCHEDULES[fit.schedule]((number - 1 + done / rows) / fit.epochs)
        own, share = team.own(len(x)), team.share(len(x))
        inputs, targets = sampled.preprocessing(x[own].to(device)), scale.of_targets(y[own]).to(device)
        losses = step(inputs[None], targets[None], rate, functools.partial(team.agree, share=share))
        if share:
            total += losses.mean() * (share * len(x))
    return team.total(float(total)) / (team.size * rows)


def outputs_of(data: Data) -> int:
    """How many numbers the network answers: one for each target or class, one logit for two classes."""
    return len(data.targets) if data.classes is None else 1 if data.task == "binary" else len(data.classes)


# ------------------------------------------------------------------------------------------------ the network


@dataclass(frozen=True)
class Large:
    """A network that was fitted on a table in pieces, as `recipe` goes on with it.

    Attributes:
        plan: as it was run.
        linear: the linear model to compare it with.
        member: the fitted network.
        chosen: what is averaged in `net`: it, the linear model, or both.
    """

    plan: Plan
    sampled: Sampled
    net: Net
    linear: nn.Module
    member: Member
    chosen: list[Member]
    calibration: Calibration | None


def fit_large(
    plan: Plan, report: Report, epochs: Callable[[Epoch, int], object], team: Team, checkpoint: Checkpoint
) -> Large:
    """Read, fit and calibrate; `epochs` is told of each pass over the training rows, and of how many there may be.

    Raises:
        BadPlan: the plan asks for what only a table in memory can have.
        RowcastError: the table or the fit is bad.
    """
    _check_plan(plan)
    with tempfile.TemporaryDirectory(prefix="rowcast-rows-") as folder:
        with as_sentences(folder):  # it may be on another disk than the repository
            sampled = read_in_pieces(plan, Path(folder), report if team.leads else lambda _: None)
        data = sampled.data
        if plan.fit.loss not in (None, LOSSES[data.task]):
            raise BadPlan(plan.name, f"a table in pieces is fitted by {LOSSES[data.task]}, not by {plan.fit.loss}")
        checkpoint.open(plan, data.sha256, choose_device().type)
        scale = _Scale.of(data.y[sampled.split.train], plan, data.task)
        x, y = _tensors(sampled, sampled.split.validation, scale)
        validation = (x.to(choose_device()), y.to(choose_device()))
        with threads(1):  # with two each step waits for the busier core, and torchrun has a process for each core
            member = fit_streamed(plan, sampled, validation, scale, epochs, team=team, checkpoint=checkpoint)
    member.net.cpu()
    task = data.task
    objective = objective_of(LOSSES[task])
    train = _tensors(sampled, sampled.split.train, scale)
    sizes, outputs = sampled.preprocessing.sizes, outputs_of(data)
    solved = [
        ask_linear(train[0].numpy(), train[1].numpy(), sizes, data.task, outputs=outputs, numbers=unclipped)()
        for unclipped in readings(data.task, sampled.preprocessing)
    ]
    lines = [Member(linear, (), mean_loss(linear, (x, y), objective)) for linear in solved]
    line = min(lines, key=lambda one: one.validation_loss)
    ways = [[member]] if not plan.fit.linear else [[member], [line], [member, line]]
    losses = [mean_loss(Averaged([one.net for one in way], data.task), (x, y), objective) for way in ways]
    chosen = ways[int(np.argmin(losses))]

    def net(temperature: float) -> Net:
        nets = [copy.deepcopy(one.net) for one in chosen]
        centre = None if scale.centre is None else scale.centre.to(torch.float32)
        spread = None if scale.scale is None else scale.scale.to(torch.float32)
        return Net(sampled.preprocessing, nets, data.task, centre=centre, scale=spread, temperature=temperature)

    calibration = None
    if task != "regression" and plan.fit.calibrate:
        rows = sampled.split.validation
        probabilities = answers_of(net(1.0), encode(data.frame[rows], sampled.schema))["probabilities"]
        calibration = calibrate(probabilities, data.y[rows])
    final = net(1.0 if calibration is None else calibration.temperature)
    one = {"members": 1, "averaged": 1, "folds": 1}
    fit = plan.fit.for_rows(sampled.spool.rows).model_copy(update=one)
    as_run = plan.model_copy(update={"task": task, "fit": fit})
    return Large(as_run, sampled, final, line.net, member, chosen, calibration)


def _check_plan(plan: Plan) -> None:
    fit = plan.fit
    asked = {
        "fit.members": fit.members not in (None, 1),
        "fit.averaged": fit.averaged not in (None, 1),
        "fit.folds": fit.folds not in (None, 1),
        "fit.shuffle": not fit.shuffle,
        "net.expansion": plan.net.expansion != "none",
    }
    if keys := [key for key, is_asked in asked.items() if is_asked]:
        what = "a table in pieces is fitted by one network, on shuffled rows and without an expansion"
        raise BadPlan(plan.name, f"{what}; leave out {listed(keys)}")


def _tensors(sampled: Sampled, rows: npt.NDArray[np.int64], scale: _Scale) -> TensorRows:
    data = sampled.data
    x = preprocess(sampled.preprocessing, encode(data.frame[rows], sampled.schema))
    return x, scale.of_targets(torch.from_numpy(data.y[rows]))
