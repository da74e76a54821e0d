"""The story of a table that does not fit into memory, or of one that several processes fit together.

    sample -> columns -> split -> schema -> spool -> fit -> choose -> calibrate -> evaluate

Everything that is learned from values (kinds, categories, quantiles, preprocessing) and every score rests on a sample
of rows from all over the table, split as the whole table is. The network itself is fitted on all training rows: they
are encoded once into a file of plain numbers, from which minibatches are drawn block by block. Memory does not grow
with the rows.
"""

import contextlib
import copy
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.errors import shown
from models.manifest import Calibration, Task
from models.schema import Schema
from training.calibrate import fit_temperature
from training.checkpoint import Checkpoint
from training.columns import Data, read_batch, read_columns, targets_of
from training.distributed import Team
from training.encoders import Preprocessing, encode, learn_schema
from training.evaluate import answers_of
from training.fit import SCHEDULES, Diverged, Epoch, Member, choose_device
from training.linear import solve_linear
from training.net import Averaged, Net, make_member
from training.plan import BadPlan, FitPlan, Plan
from training.source import Source
from training.split import Split, part_of, split_in_pieces

BLOCK_ROWS = 4096
"""Rows that lie together in the file and are read together."""
BUFFER_BLOCKS = 16
"""Blocks from all over the file whose rows are shuffled together (CorgiPile: Xu et al. 2022, section 4)."""

Report = Callable[[str], object]
Objective = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Sampled:
    """What the sample says of the table, and the file of all training rows.

    Attributes:
        data: the sample's columns; its `rows_read` are those of the table.
        split: the parts of the sample.
        rows: training rows in the file.
        notes: what was done, a sentence each.
    """

    data: Data
    split: Split
    schema: Schema
    preprocessing: Preprocessing
    spool: "Spool"
    notes: tuple[str, ...]


class Spool:
    """Encoded rows and their targets in two files of plain numbers, written once and read block by block."""

    def __init__(self, folder: Path, columns: int, dtype: type[np.floating], y_shape: tuple[int, ...]) -> None:
        self._paths = folder / "x", folder / "y"
        self._columns, self._dtype, self._y_shape = columns, np.dtype(dtype), y_shape
        self._y_dtype = np.dtype(np.float64 if y_shape else np.int64)
        self.rows = 0

    def add(self, matrix: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
        """Write some more rows."""
        for path, values, dtype in zip(self._paths, (matrix, y), (self._dtype, self._y_dtype), strict=True):
            with path.open("ab") as file:
                file.write(np.ascontiguousarray(values, dtype=dtype).data)
        self.rows += len(y)

    @property
    def blocks(self) -> int:
        """How many blocks there are; the last may be shorter."""
        return math.ceil(self.rows / BLOCK_ROWS)

    def block(self, number: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The rows of one block: matrix [N, columns] and targets."""
        start = number * BLOCK_ROWS
        rows = min(BLOCK_ROWS, self.rows - start)
        width = math.prod(self._y_shape)
        x = _read(self._paths[0], self._dtype, start * self._columns, rows * self._columns)
        y = _read(self._paths[1], self._y_dtype, start * width, rows * width)
        return x.reshape(rows, self._columns), y.reshape(rows, *self._y_shape)


def _read(path: Path, dtype: "np.dtype[Any]", start: int, count: int) -> npt.NDArray[Any]:
    values = np.fromfile(path, dtype=dtype, count=count, offset=start * dtype.itemsize)
    if len(values) != count:
        raise OSError(f"{path} is shorter than what was written")
    return values


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
    preprocessing = Preprocessing(schema, matrix, learned=plan.net.preprocessing == "learned")
    spool = Spool(folder, len(schema.columns), matrix.dtype.type, data.y.shape[1:])
    unknown = 0
    for first, batch in source.batches(list(data.frame.columns)):
        frame, lost = read_batch(batch, first, data, plan, is_text=source.is_text)
        unknown += lost
        train = frame.filter(part_of(frame, data, plan.split) == 0) if frame.height else frame
        if train.height:
            spool.add(encode(train, schema), targets_of(train, data))
    said = [*data.notes, *split.notes]
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
    validation: tuple[Tensor, Tensor],
    scale: _Scale,
    report: Callable[[Epoch], object],
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
    torch.manual_seed(fit.seed)
    preprocessing, outputs = sampled.preprocessing, outputs_of(sampled.data)
    net = make_member(plan.net, preprocessing.width, preprocessing.sizes, outputs).to(choose_device())
    optimizer = _optimizer(fit, net)
    one_pass = _Pass(fit, sampled, scale, team, team.joined(net), optimizer)
    best, best_weights = Epoch(0, math.inf, math.inf, 0.0), copy.deepcopy(net.state_dict())
    history: list[Epoch] = []
    if (kept := team.of_leader(checkpoint.load("large"))) is not None:
        net.load_state_dict(kept["weights"])
        optimizer.load_state_dict(kept["optimizer"])
        history = [Epoch(**fields) for fields in kept["history"]]
        best, best_weights = Epoch(**kept["best"]), kept["best_weights"]
    while len(history) < fit.epochs and not (fit.patience and len(history) - best.number >= fit.patience):
        start = time.perf_counter()
        train_loss = one_pass.run(len(history) + 1)
        rate = sampled.spool.rows / (time.perf_counter() - start)
        epoch = Epoch(len(history) + 1, train_loss, _mean_loss(net, validation, one_pass.objective), rate)
        history.append(epoch)
        report(epoch)
        _check(epoch)
        if epoch.validation_loss < best.validation_loss:
            best, best_weights = epoch, copy.deepcopy(net.state_dict())
        if team.leads:
            state: dict[str, Any] = {
                "weights": net.state_dict(),
                "optimizer": optimizer.state_dict(),
                "best": asdict(best),
            }
            state |= {"history": [asdict(one) for one in history], "best_weights": best_weights}
            checkpoint.save("large", lambda state=state: state)  # type: ignore[misc]  # mypy cannot infer it
    if fit.keep == "best":
        net.load_state_dict(best_weights)
    return Member(net.eval(), tuple(history), (best if fit.keep == "best" else history[-1]).validation_loss)


@dataclass(frozen=True)
class _Pass:
    """What one pass over the training rows needs; `fit` is a plan for the number of these rows."""

    fit: FitPlan
    sampled: Sampled
    scale: _Scale
    team: Team
    net: nn.Module
    optimizer: torch.optim.Optimizer

    @property
    def objective(self) -> Objective:
        return objective_of(self.sampled.data.task)

    def run(self, number: int) -> float:
        """A step for each minibatch, of which this rank takes its share; the mean loss over all rows of all ranks."""
        fit, rows, device = self.fit, self.sampled.spool.rows, choose_device()
        assert fit.epochs is not None
        # of dropout; a run that resumes draws the same
        torch.manual_seed(fit.seed + 1_000_003 * number + 15_485_863 * self.team.rank)
        total = torch.zeros((), device=device)
        self.net.train()
        for done, x, y in minibatches(self.sampled.spool, fit.batch or rows, fit.seed + number):
            rate = fit.learning_rate * SCHEDULES[fit.schedule]((number - 1 + done / rows) / fit.epochs)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            own = self.team.own(len(x))
            raw = self.net(self.sampled.preprocessing(x[own]).to(device))
            loss = self.objective(raw, self.scale.of_targets(y[own]).to(device)) * self.team.share(len(x))
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            self.optimizer.step()
            total += loss.detach() * len(x)
        return self.team.total(float(total)) / (self.team.size * rows)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One core for a process: with two each step waits for the busier one, and torchrun has a process for each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(epoch: Epoch) -> None:
    for name, value in (("training loss", epoch.train_loss), ("validation loss", epoch.validation_loss)):
        if not math.isfinite(value):
            raise Diverged(epoch.number, f"{name} is {value}")


def minibatches(spool: Spool, batch: int, seed: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Every row once: how many rows came before, matrix and targets, in an order that the seed alone decides."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(spool.blocks)
    waiting: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None
    done = 0
    together = max(BUFFER_BLOCKS, math.ceil(batch / BLOCK_ROWS))
    for start in range(0, len(order), together):
        blocks = [spool.block(int(number)) for number in order[start : start + together]]
        x, y = (np.concatenate(column) for column in zip(*blocks, strict=True))
        shuffled = rng.permutation(len(x))
        x, y = x[shuffled], y[shuffled]
        if waiting is not None:
            x, y = np.concatenate([waiting[0], x]), np.concatenate([waiting[1], y])
        is_last = start + together >= len(order)
        whole = len(x) if is_last else len(x) - len(x) % batch
        for first in range(0, whole, batch):
            part = slice(first, min(first + batch, whole))
            yield done, torch.from_numpy(x[part]), torch.from_numpy(y[part])
            done += part.stop - part.start
        waiting = x[whole:], y[whole:]


def outputs_of(data: Data) -> int:
    """How many numbers the network answers: one for each target or class, one logit for two classes."""
    return len(data.targets) if data.classes is None else 1 if data.task == "binary" else len(data.classes)


def objective_of(task: Task) -> Objective:
    """The task's own loss, of raw outputs [N, outputs] and targets."""
    if task == "regression":
        return functional.mse_loss
    if task == "multiclass":
        return functional.cross_entropy
    return lambda raw, y: functional.binary_cross_entropy_with_logits(raw[:, 0], y.to(raw.dtype))


def _optimizer(fit: FitPlan, net: nn.Module) -> torch.optim.Optimizer:
    weights = list(net.parameters())
    if fit.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=fit.learning_rate, momentum=fit.momentum)
    decay = fit.weight_decay if fit.optimizer == "adamw" else 0.0
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},  # biases are spared
    ]
    return torch.optim.AdamW(groups, lr=fit.learning_rate, betas=(0.9, fit.beta2), fused=True)


def _mean_loss(net: nn.Module, rows: tuple[Tensor, Tensor], objective: Objective, most: int = 1 << 16) -> float:
    x, y = rows
    net.eval()
    with torch.no_grad():
        parts = zip(torch.split(x, most), torch.split(y, most), strict=True)
        return sum(float(objective(net(some), truth)) * len(some) for some, truth in parts) / max(len(x), 1)


# ------------------------------------------------------------------------------------------------ the network


@dataclass(frozen=True)
class Large:
    """A network that was fitted on a table in pieces, as `recipe` goes on with it."""

    sampled: Sampled
    net: Net
    linear: nn.Module
    member: Member
    chosen: list[Member]
    calibration: Calibration | None


def fit_large(
    plan: Plan, report: Report, epochs: Callable[[Epoch], object], team: Team, checkpoint: Checkpoint
) -> Large:
    """Read, fit and calibrate; `epochs` is told of each pass over the training rows.

    Raises:
        BadPlan: the plan asks for what only a table in memory can have.
        RowcastError: the table or the fit is bad.
    """
    own = {"regression": "mse", "binary": "binary_cross_entropy", "multiclass": "cross_entropy"}
    with tempfile.TemporaryDirectory(prefix="rowcast-rows-") as folder:
        sampled = read_in_pieces(plan, Path(folder), report if team.leads else lambda _: None)
        data = sampled.data
        if plan.fit.loss not in (None, own[data.task]):
            raise BadPlan(plan.name, f"a table in pieces is fitted by {own[data.task]}, not by {plan.fit.loss}")
        checkpoint.open(plan, data.sha256, choose_device().type)
        scale = _Scale.of(data.y[sampled.split.train], plan, data.task)
        x, y = _tensors(sampled, sampled.split.validation, scale)
        validation = (x.to(choose_device()), y.to(choose_device()))
        with _one_thread():
            member = fit_streamed(plan, sampled, validation, scale, epochs, team=team, checkpoint=checkpoint)
    member.net.cpu()
    objective = objective_of(data.task)
    train = _tensors(sampled, sampled.split.train, scale)
    sizes, outputs = sampled.preprocessing.sizes, outputs_of(data)
    linear = solve_linear(train[0].numpy(), train[1].numpy(), sizes, data.task, outputs=outputs, strength=1.0)
    line = Member(linear, (), _mean_loss(linear, (x, y), objective))
    ways = [[member]] if not plan.fit.linear else [[member], [line], [member, line]]
    losses = [_mean_loss(Averaged([one.net for one in way], data.task), (x, y), objective) for way in ways]
    chosen = ways[int(np.argmin(losses))]

    def net(temperature: float) -> Net:
        nets = [copy.deepcopy(one.net) for one in chosen]
        centre = None if scale.centre is None else scale.centre.to(torch.float32)
        spread = None if scale.scale is None else scale.scale.to(torch.float32)
        return Net(sampled.preprocessing, nets, data.task, centre=centre, scale=spread, temperature=temperature)

    calibration = None
    if data.task != "regression" and plan.fit.calibrate:
        rows = sampled.split.validation
        probabilities = answers_of(net(1.0), encode(data.frame[rows], sampled.schema))["probabilities"]
        temperature = fit_temperature(probabilities, data.y[rows].astype(np.int64))
        calibration = Calibration(method="temperature", temperature=temperature, rows=len(rows))
    final = net(1.0 if calibration is None else calibration.temperature)
    return Large(sampled, final, linear, member, chosen, calibration)


def _tensors(sampled: Sampled, rows: npt.NDArray[np.int64], scale: _Scale) -> tuple[Tensor, Tensor]:
    data = sampled.data
    matrix = torch.from_numpy(encode(data.frame[rows], sampled.schema))
    with torch.no_grad():
        x = torch.cat([sampled.preprocessing(part) for part in torch.split(matrix, 1 << 16)])
    return x, scale.of_targets(torch.from_numpy(data.y[rows]))
