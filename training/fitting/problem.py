"""The plan in torch's terms: what is fitted on which rows, and what it says of the rows it was not fitted on.

`pose` makes a `Problem` of a plan and its table: all rows preprocessed once, on the device that their fits are worth.
`units.py` fits networks and linear models on the folds of it, and asks it what they answer for the rows held out from
them; `recipe.py` has it make the published network of those that were chosen.

Shape:
    N rows of the table, R of them held out from some network, in the order of the folds
    x: [N, width], preprocessed
    y: [N, K] of a regression, in the units of the fit: standardised, unless the plan says no; else class codes [N]
    answers about the held-out rows: [R, K] in the units of the fit, or probabilities [R, C]
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.manifest import Task
from models.schema import Matrix, Schema
from training.data.columns import Data
from training.data.folds import Fold, fitted_on
from training.data.split import Rows
from training.fitting.choice import Answers
from training.fitting.device import choose_device
from training.fitting.fit import Member, TensorRows, mean_loss
from training.fitting.kernels import pick_kernels
from training.fitting.loops import seconds_of
from training.fitting.losses import LOSSES, Objective, objective_of
from training.network.averaged import Averaged
from training.network.encoders import Preprocessing, preprocess
from training.network.linear import STRENGTHS, ask_linear, readings
from training.network.net import Net, answers_of
from training.plan import HIDDEN, BadPlan, Loss, Plan

FAR, FAR_OF_MANY = 1.5, 1.2
"""A linear model whose loss on the validation part is so many times the networks' is not solved for on every fold
(docs/decisions/0030)."""
MANY_ANSWERS = 100_000
"""Rows times outputs beyond which the second of them holds: with 12,000 rows of 27 classes the solving took a third of
the run."""


@dataclass(frozen=True)
class Problem:
    """Rows preprocessed and on the device, targets as the loss wants them.

    Attributes:
        x, y: of every row of the table.
        folds: which rows fit and which judge.
        centre, scale: of a regression's targets, [K]; None where they are fitted as they are.
    """

    plan: Plan
    task: Task
    preprocessing: Preprocessing
    objective: Objective
    outputs: int
    x: Tensor
    y: Tensor
    folds: list[Fold]
    centre: Tensor | None
    scale: Tensor | None
    _asked: dict[tuple[float, int], Callable[[], Member]] = field(default_factory=dict)

    @property
    def held_out(self) -> Rows:
        """The rows that some networks are not fitted on, fold after fold."""
        return np.concatenate([fold.held_out for fold in self.folds])

    @property
    def held_out_y(self) -> npt.NDArray[np.float32 | np.int64]:
        """Their targets, as `Answers` give them."""
        targets: npt.NDArray[np.float32 | np.int64] = self.rows(self.held_out)[1].cpu().numpy()
        return targets

    @property
    def far(self) -> float:
        """How many times the networks' loss that of a linear model may be, if it is to be solved for on every fold."""
        return FAR if len(self.folds[0].train) * self.outputs <= MANY_ANSWERS else FAR_OF_MANY

    def rows(self, numbers: Rows) -> TensorRows:
        """Some rows of the table by number."""
        kept = torch.from_numpy(numbers).to(self.x.device)
        return self.x[kept], self.y[kept]

    def net(self, members: Sequence[Member], weights: Sequence[float] | None = None, temperature: float = 1.0) -> Net:
        """The published form of some members, on the CPU."""
        nets = copy.deepcopy([member.net for member in members])  # in one call, since members share their expansion
        return Net(
            self.preprocessing,
            [net.cpu() for net in nets],
            self.task,
            centre=self.centre,
            scale=self.scale,
            temperature=temperature,
            weights=weights,
        )

    def linear(self, strength: float, unclipped: int, fold: Fold) -> Callable[[], Member]:
        """The linear model with this penalty on a fold, as a member without a history, once it is called for."""
        x, y = (tensor.cpu().numpy() for tensor in self.rows(fold.train))
        sizes = self.preprocessing.sizes
        solved = ask_linear(x, y, sizes, self.task, outputs=self.outputs, strength=strength, numbers=unclipped)

        def member() -> Member:
            net = solved().to(self.x.device)
            return Member(net, (), mean_loss(net, self.rows(fold.held_out), self.objective))

        return member

    def ask_lines(self) -> None:
        """Let `lines` be solved for while others fit; it holds as many copies of the rows as there are lines."""
        self._asked.update({form: self.linear(*form, self.folds[0]) for form in self._forms})

    @cached_property
    def lines(self) -> dict[tuple[float, int], Member]:
        """The linear models of the first fold, by penalty and how many numbers are read unclipped."""
        return {form: (self._asked.get(form) or self.linear(*form, self.folds[0]))() for form in self._forms}

    @property
    def _forms(self) -> Iterable[tuple[float, int]]:
        return product(STRENGTHS, readings(self.task, self.preprocessing))

    def baseline(self, fold: Fold) -> Callable[[], Member]:
        """The linear model of scikit-learn's own penalty, of clipped numbers or not, as the fold prefers."""
        asked = [self.linear(1.0, unclipped, fold) for unclipped in readings(self.task, self.preprocessing)]
        return lambda: min((model() for model in asked), key=lambda model: model.validation_loss)

    def answers(self, members: Sequence[Member], rows: Rows) -> Answers:
        """What the average of some members says: predictions [R, K] in the fit's units, or probabilities [R, C]."""
        average = Averaged([member.net for member in members], self.task).eval().to(self.x.device)
        with torch.no_grad():
            raw = torch.cat([average(x) for x in torch.split(self.rows(rows)[0], 1 << 16)]).cpu().double()
        if self.task == "regression":
            return raw.numpy()
        if raw.shape[1] == 1:
            raw = torch.cat([torch.zeros_like(raw), raw], 1)
        answers: Answers = torch.softmax(raw, 1).numpy()
        return answers

    def in_units(self, answers: Answers, net: Net) -> dict[str, npt.NDArray[Any]]:
        """Held-out answers as the net gives its own: in the targets' units, or by its temperature.

        Shape:
            answers: [R, K] or [R, C] -> `prediction` [R, K], or `probabilities` [R, C] and `label` [R]
        """
        said = torch.from_numpy(answers)
        if self.task == "regression":
            if self.centre is not None and self.scale is not None:
                said = said * self.scale + self.centre
            return {"prediction": said.numpy()}
        probabilities = torch.softmax(said.clamp_min(1e-30).log() / net.temperature, 1)
        return {"probabilities": probabilities.numpy(), "label": probabilities.argmax(1).numpy()}

    def published(
        self, held_out: dict[str, npt.NDArray[Any]], net: Net, matrix: Matrix, rows: Rows
    ) -> dict[str, npt.NDArray[Any]]:
        """What the net answers for some rows of the table, with the held-out answers in place of those it has learned.

        A row that no fold holds out, as the only one of its class, keeps the net's own answer.
        """
        own = answers_of(net, matrix)
        place = np.full(len(self.y), -1)
        place[self.held_out] = np.arange(len(self.held_out))
        known = place[rows] >= 0
        for name, answers in held_out.items():
            own[name][known] = answers[place[rows][known]]
        return own


def pose(plan: Plan, data: Data, schema: Schema, matrix: Matrix, folds: list[Fold]) -> Problem:
    """The problem of a plan; what preprocessing and target scaling learn, they learn from the rows that are fitted on.

    Raises:
        BadPlan: the loss measures another task.
    """
    loss = _loss(plan, data)
    pick_kernels()
    rows = fitted_on(folds)
    preprocessing = Preprocessing(schema, matrix[rows], learned=plan.net.preprocessing == "learned")
    outputs = len(data.targets) if data.classes is None else len(data.classes)
    if data.task == "binary" and loss != "cross_entropy":
        outputs = 1
    y: npt.NDArray[np.float32 | np.float64 | np.int64] = data.y
    centre = scale = None
    if data.task == "regression":
        if plan.net.scale_targets:
            spread = y[rows].std(0)
            centre, scale = y[rows].mean(0), np.where(spread > 0, spread, 1.0)
            y = (y - centre) / scale
        y = y.astype(np.float32)
    x = preprocess(preprocessing, matrix)
    device = choose_device(_seconds_of(plan, x.shape[1], folds))
    return Problem(
        plan=plan,
        task=data.task,
        preprocessing=preprocessing,
        objective=objective_of(loss),
        outputs=outputs,
        x=x.to(device),
        y=torch.from_numpy(y).to(device),
        folds=folds,
        centre=None if centre is None else torch.tensor(centre, dtype=torch.float32),
        scale=None if scale is None else torch.tensor(scale, dtype=torch.float32),
    )


def _seconds_of(plan: Plan, width: int, folds: Sequence[Fold]) -> float:
    """What the fits of one candidate take on one core, roughly; where the plan names no network, of a usual one."""
    hidden = HIDDEN if plan.net.hidden is None else plan.net.hidden
    weights = sum(inputs * outputs for inputs, outputs in pairwise((width, *hidden)))
    return len(folds) * (plan.fit.members or 1) * seconds_of(plan.fit, len(folds[0].train), weights)


def _loss(plan: Plan, data: Data) -> Loss:
    """The plan's loss, or the task's own.

    Raises:
        BadPlan: the loss measures another task.
    """
    fitting: dict[Task, tuple[Loss, ...]] = {
        "regression": ("mse", "l1"),
        "binary": ("binary_cross_entropy", "cross_entropy", "probability_l1"),
        "multiclass": ("cross_entropy", "probability_l1"),
    }
    loss = plan.fit.loss or LOSSES[data.task]
    if loss not in fitting[data.task]:
        reason = f"fit.loss {loss} does not measure a {data.task}; use {' or '.join(fitting[data.task])}"
        raise BadPlan(plan.name, reason)
    return loss
