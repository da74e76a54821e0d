"""What the choice is made from: candidates fitted on the folds, and a linear model.

A *candidate* is a network and a recipe (`candidates.py`), a *fold* says which rows fit and which judge
(`data/folds.py`), a *member* is one fitted network. The members of one candidate on all folds are a *unit*: `choice.py`
gives each unit its share in the published average. `fit_units` is the story, `_Fits` keeps the books of it.

Networks are fitted on the targets, or on what a linear model (a *line*, for short) leaves of them; `_lines` says when.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from training.data.folds import Fold, fitted_on
from training.data.split import Rows
from training.fitting.candidates import Candidate
from training.fitting.checkpoint import Checkpoint
from training.fitting.choice import Unit, loss_of
from training.fitting.course import Diverged, Epoch, useful_share, wave_shares
from training.fitting.fit import Job, Member, TensorRows, mean_loss
from training.fitting.many import fit_all
from training.fitting.problem import FAR, Problem
from training.network.encoders import Embedding, known_rows, with_unseen_unknown
from training.network.expansions import Expansion, Steps, Waves
from training.network.linear import Corrected, LinearMember, readings
from training.network.net import make_member
from training.plan import FEW_ROWS

KEPT = 2
"""How many candidates go on to the other folds at most."""


@dataclass(frozen=True)
class Halving:
    """How far behind the least loss on the first fold a candidate may be, by what times.

    Measured in docs/decisions/0030, "When to end a candidate".

    Attributes:
        rungs: after which waves of the learning rate it is asked, from 0, and what is allowed to go on then.
        near: what is allowed to go on to the other folds.
    """

    rungs: Mapping[int, float]
    near: float


FEW = Halving({1: 1.2, 2: 1.1}, 1.1)
"""Up to `FEW_ROWS`, where a fit takes less than a second and luck decides more."""
MANY = Halving({1: 1.08, 2: 1.035}, 1.02)
MOST_PIECES = 512
"""Columns that an expansion may add: beyond, the first layer costs more than all others together."""
UNCLIPPED = 0.5
"""The loss of a line on unclipped numbers, times that on clipped ones, up to which networks are fitted on its rest
(docs/decisions/0050)."""


def fit_units(
    problem: Problem,
    candidates: Sequence[Candidate],
    report: Callable[[int, int, Epoch], object],
    checkpoint: Checkpoint | None = None,
    meanwhile: Iterable[object] = (),
) -> tuple[list[Unit], list[Member]]:
    """The candidates that did best, each fitted on every fold, and every member that was fitted on the way.

    All candidates begin on the first fold; those that are far behind when the learning rate is back at zero end there,
    and the best go on to the other folds, as far as the first one was worth it: successive halving (Jamieson and
    Talwalkar 2016) with epochs and then folds for a budget. One that is alone begins on the other folds before it has
    ended on the first, so that no core waits for that (docs/decisions/0095).

    `report` is told of each epoch: which fit it is of, from 0, of how many. While other processes fit, `meanwhile` is
    asked for its next.

    Raises:
        Diverged: no candidate has a finite loss.
    """
    is_small = len(problem.folds[0].train) <= FEW_ROWS
    halving = FEW if is_small else MANY
    may_have_lines = len(candidates) > 1  # a network that a plan names stands alone
    fits = _Fits(problem, candidates, report, checkpoint, meanwhile)
    lines = functools.cache(lambda: _lines(problem) if may_have_lines else {})
    if not is_small:
        fits.lines = lines()
    elif may_have_lines and problem.task == "regression":
        problem.ask_lines()
    waves = wave_shares(candidates[0].fit)
    rungs = {waves[wave]: times for wave, times in halving.rungs.items() if wave < len(waves) - 1}
    fits.fit(candidates, [0], rungs, goes_on=lambda: not is_small or not lines())
    # Lines are solved for by a library that takes longer to import than a small table to fit. So such fits begin at
    # once, on the targets, while it is imported beside them; few tables have lines, and their fits are made once more
    # (docs/decisions/0071).
    if is_small and lines():
        fits.begin_again(lines())
        fits.fit(candidates, [0], rungs)

    first = {one.name: members[0].validation_loss for one in candidates if (members := fits.of(one, 0))}
    best = sorted((one for one in candidates if one.name in first), key=lambda one: first[one.name])[:KEPT]
    standing = [one for one in best if first[one.name] <= halving.near * first[best[0].name]]
    folds = range(len(problem.folds))
    fits.fit(standing, folds)
    units = [
        unit_of(problem, candidate.name, [fits.of(candidate, fold) for fold in folds])
        for candidate in standing
        if all(fits.of(candidate, fold) for fold in folds)
    ]
    if not units:
        raise fits.diverged[0]
    return units, fits.members


class _Fits:
    """The fits of a run: those that are done, and what the next ones need to know of them.

    Attributes:
        lines: by fold, the linear model on whose rest the networks are fitted; empty where they are fitted on the
            targets.
        diverged: what became of those without a finite loss.
    """

    def __init__(
        self,
        problem: Problem,
        candidates: Sequence[Candidate],
        report: Callable[[int, int, Epoch], object],
        checkpoint: Checkpoint | None,
        meanwhile: Iterable[object],
    ) -> None:
        assert problem.plan.fit.members is not None
        self._problem, self._report, self._checkpoint, self._meanwhile = problem, report, checkpoint, meanwhile
        self._seeds = range(problem.plan.fit.members)
        self._expansions = {candidate.name: _expansion(problem, candidate) for candidate in candidates}
        others = min(KEPT, len(candidates)) * (len(problem.folds) - 1)
        self._total = (len(candidates) + others) * len(self._seeds)
        self._begun: list[tuple[str, int, int]] = []  # by candidate, fold, and which member of both
        self._done: dict[tuple[str, int, int], Member] = {}
        self._before = 0  # fits that were begun on the targets, and then again on the rest of lines
        self.lines: dict[int, _Line] = {}
        self.diverged: list[Diverged] = []

    @property
    def members(self) -> list[Member]:
        """Every fitted network."""
        return list(self._done.values())

    def of(self, candidate: Candidate, fold: int) -> list[Member]:
        """The networks of a candidate on a fold, the best first, as many as the plan averages."""
        keys = [(candidate.name, fold, number) for number in self._seeds]
        found = [self._done[key] for key in keys if key in self._done]
        return sorted(found, key=lambda member: member.validation_loss)[: self._problem.plan.fit.averaged]

    def begin_again(self, lines: dict[int, "_Line"]) -> None:
        """Forget what was fitted; from now on networks are fitted on the rest of these lines."""
        self.lines = lines
        self._done.clear()
        self._total += len(self._begun)
        self._before, self._begun = self._before + len(self._begun), []

    def fit(
        self,
        candidates: Sequence[Candidate],
        folds: Sequence[int],
        rungs: Mapping[float, float] | None = None,
        goes_on: Callable[[], bool] = lambda: True,
    ) -> None:
        """Fit some candidates on some folds, where they have not been.

        Those that fall behind on the `rungs` end there; if one is left and `goes_on`, it is fitted on the other folds.
        """
        before, fresh = self._before + len(self._begun), self._fresh(candidates, folds)
        keys = list(fresh)

        def others(number: int) -> list[Job]:
            more = self._fresh([keys[number][0]], range(len(self._problem.folds))) if goes_on() else []
            keys.extend(more)
            return [self._job(*key) for key in more]

        fitted = fit_all(
            [self._job(*key) for key in fresh],
            self._problem.objective,
            report=lambda k, epoch: self._report(before + k, self._total, epoch),
            checkpoint=self._checkpoint,
            rivals=[candidate.name for candidate, _, _ in fresh],
            rungs=rungs,
            others=others if len(self._seeds) == 1 else None,
            meanwhile=self._meanwhile,
        )
        # one that diverged took along those that were to follow it
        for (candidate, fold, number), result in zip(keys, fitted, strict=False):
            if isinstance(result, Diverged):
                self.diverged.append(result)
            else:
                self._forget_unseen(result.net, fold)
                self._done[candidate.name, fold, number] = self._with_its_line(result, fold)

    def _fresh(self, candidates: Sequence[Candidate], folds: Sequence[int]) -> list[tuple[Candidate, int, int]]:
        """The fits of some candidates on some folds that have not begun, which now begin."""
        keys = product(candidates, folds, self._seeds)
        fresh = [key for key in keys if (key[0].name, *key[1:]) not in self._begun]
        self._begun += [(candidate.name, fold, number) for candidate, fold, number in fresh]
        return fresh

    def _job(self, candidate: Candidate, fold: int, number: int) -> Job:
        problem, line = self._problem, self.lines.get(fold)
        preprocessing, expansion = problem.preprocessing, self._expansions[candidate.name]
        train, held_out = problem.rows(problem.folds[fold].train), problem.rows(problem.folds[fold].held_out)
        if line is not None:
            train, held_out = line.rest_of(train), line.rest_of(held_out)
        return Job.of(
            candidate.fit,
            lambda: make_member(candidate.net, preprocessing.width, preprocessing.sizes, problem.outputs, expansion),
            train,
            (with_unseen_unknown(held_out[0], train[0], preprocessing.sizes), held_out[1]),
            # the first network has the plan's own seed; neighbouring plans share no other
            seed=candidate.fit.seed + 1_000_003 * number + 15_485_863 * fold,
            key=f"{candidate.name}-{fold}-{number}{'' if line is None else '-rest'}",
            until=self._until(candidate),
        )

    def _until(self, candidate: Candidate) -> float:
        """The share of the epochs that is worth fitting: on the first fold all, then as many as were of use there."""
        first = self.of(candidate, 0)
        if not first:
            return 1.0
        plan = candidate.fit.for_rows(len(self._problem.folds[0].train))
        return useful_share(plan, first[0].history)

    def _forget_unseen(self, net: nn.Module, fold: int) -> None:
        """Let a network answer for categories that its fold never showed it as for unknown ones, not as was drawn."""
        for layer in net.children():
            if isinstance(layer, Embedding):
                train, _ = self._problem.rows(self._problem.folds[fold].train)
                with torch.no_grad():
                    layer.table.copy_(layer.table[known_rows(train, self._problem.preprocessing.sizes)])

    def _with_its_line(self, member: Member, fold: int) -> Member:
        """The member with the line that its network was fitted on the rest of, and the loss of both together."""
        line = self.lines.get(fold)
        if line is None:
            return member
        assert isinstance(member.net, nn.Sequential)
        net, held_out = line.with_rest(member.net), self._problem.rows(self._problem.folds[fold].held_out)
        return replace(member, net=net, validation_loss=mean_loss(net, held_out, self._problem.objective))


def unit_of(problem: Problem, name: str, members: Sequence[Sequence[Member]]) -> Unit:
    """The members of each fold as one unit, with what they say of the rows held out from them."""
    answers = [problem.answers(own, fold.held_out) for own, fold in zip(members, problem.folds, strict=True)]
    return Unit(name, [member for own in members for member in own], np.concatenate(answers))


def _expansion(problem: Problem, candidate: Candidate) -> Expansion | None:
    if candidate.net.expansion == "none":
        return None
    numbers, embedded = len(problem.preprocessing.numbers), len(problem.preprocessing.sizes)
    pieces = min(candidate.net.pieces, MOST_PIECES // max(numbers, 1))
    if pieces < 2:
        return None
    kind = Steps if candidate.net.expansion == "steps" else Waves
    return kind(problem.rows(fitted_on(problem.folds))[0], numbers, embedded, pieces).to(problem.x.device)


# ------------------------------------------------------------------------------------------------ linear models


def wants_linear(problem: Problem, units: Sequence[Unit], baseline: Member, validation: Rows) -> bool:
    """Whether a linear model may count: the plan asks, it could come near, and the networks are not linear anyway.

    Where the split is by group or time, rows that judge lie elsewhere than those that train, and test rows elsewhere
    again: how near it comes to networks on one part says little of another, and it counts unless it takes long.
    It and the networks are compared on the same rows, of which it learned none either: of a few dozen others, a few
    that are hard to predict can make twice the loss.
    """
    plan = problem.plan
    if not plan.fit.linear or plan.net.hidden == () or plan.net.preprocessing != "learned":
        return False
    is_apart = plan.split.group is not None or plan.split.time is not None
    if is_apart and problem.far == FAR:
        return True
    common = np.isin(problem.held_out, validation)
    if not common.any():  # each is the only one of its class
        return True
    y = problem.held_out_y[common]
    networks = min(loss_of(unit.answers[common], y) for unit in units)
    return loss_of(problem.answers([baseline], problem.held_out[common]), y) < problem.far * networks


def linear_unit(problem: Problem) -> Unit:
    """The linear model as a unit; the first fold chooses its penalty, and whether it reads clipped numbers.

    Its answers are those of each fold's model, its member is the model of all rows that are fitted on: a mean of linear
    models would be no better.
    """
    form = _best_line(problem, readings(problem.task, problem.preprocessing))
    models = _lines_of_folds(problem, form)
    unit = unit_of(problem, "linear", [[model] for model in models])
    if len(problem.folds) > 1:
        everything = Fold(fitted_on(problem.folds), problem.folds[0].held_out)
        models = [problem.linear(*form, everything)()]
    return Unit("linear", models, unit.answers)


def _best_line(problem: Problem, unclipped: Sequence[int]) -> tuple[float, int]:
    """The best of the first fold's lines that read so many numbers unclipped: its penalty, and this number."""
    forms = [form for form in problem.lines if form[1] in unclipped]
    return min(forms, key=lambda form: problem.lines[form].validation_loss)


def _lines_of_folds(problem: Problem, form: tuple[float, int]) -> list[Member]:
    return [problem.lines[form], *(problem.linear(*form, fold)() for fold in problem.folds[1:])]


@dataclass(frozen=True)
class _Line:
    """A fold's linear model, on whose rest networks are fitted.

    Attributes:
        left: the standard deviation of what it leaves of each target, [outputs]; the rest is told in these.
    """

    net: LinearMember
    left: Tensor

    @classmethod
    def of(cls, net: nn.Module, rows: TensorRows) -> Self:
        assert isinstance(net, LinearMember)
        x, y = rows
        with torch.no_grad():
            return cls(net, (y - net(x)).std(0).clamp_min(1e-6))

    def rest_of(self, rows: TensorRows) -> TensorRows:
        """The rows with the rest for a target."""
        x, y = rows
        with torch.no_grad():
            return x, (y - self.net(x)) / self.left

    def with_rest(self, perceptron: nn.Sequential) -> Corrected:
        """The line and a perceptron that was fitted on the rest; its last layer is changed into the targets' units."""
        last = perceptron[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(self.left[:, None])
            last.bias.mul_(self.left)
        return Corrected(self.net, perceptron)


def _lines(problem: Problem) -> dict[int, _Line]:
    """The line of each fold whose rest its networks are fitted on; none where they are fitted on the targets.

    There are lines where they do much worse on clipped numbers than on numbers as they were: networks, which read
    clipped ones, level off where such targets still rise. Elsewhere networks learn slopes better by themselves.
    """
    numbers = readings(problem.task, problem.preprocessing)
    if len(numbers) == 1 or not problem.plan.fit.linear or problem.plan.fit.loss not in (None, "mse"):
        return {}
    clipped, unclipped = (_best_line(problem, [some]) for some in numbers)
    if problem.lines[unclipped].validation_loss > UNCLIPPED * problem.lines[clipped].validation_loss:
        return {}
    models = _lines_of_folds(problem, unclipped)
    return {k: _Line.of(models[k].net, problem.rows(fold.train)) for k, fold in enumerate(problem.folds)}
