"""What the choice is made from: candidates fitted on the folds, and a linear model.

Networks are fitted on the targets, or on what a line leaves of them where the line reads what they cannot.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from training.data.folds import Fold, fitted_on
from training.fitting.candidates import Candidate
from training.fitting.checkpoint import Checkpoint
from training.fitting.choice import Unit
from training.fitting.fit import Diverged, Epoch, Job, Member, mean_loss, worth
from training.fitting.fit import Rows as TensorRows
from training.fitting.many import fit_all
from training.fitting.problem import Problem
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

    Attributes:
        rungs: after which shares of the epochs it is asked, and what is allowed to go on then.
        near: what is allowed to go on to the other folds.
    """

    rungs: Mapping[float, float]
    near: float


FEW = Halving({3 / 15: 1.2, 7 / 15: 1.1}, 1.1)
"""Up to `FEW_ROWS`, where a fit takes less than a second and luck decides more."""
MANY = Halving({3 / 15: 1.08, 7 / 15: 1.035}, 1.02)
MOST_PIECES = 512
"""Columns that an expansion may add: beyond, the first layer costs more than all others together."""
UNCLIPPED = 0.5
"""The loss of a line on unclipped numbers, times that on clipped ones, up to which networks are fitted on its rest."""


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
    Talwalkar 2016) with epochs and then folds for a budget. `report` is told of each epoch: which fit it is of, from 0,
    of how many. While other processes fit, `meanwhile` is asked for its next.

    Raises:
        Diverged: no candidate has a finite loss.
    """
    assert problem.plan.fit.members is not None
    members = range(problem.plan.fit.members)
    is_small = len(problem.folds[0].train) <= FEW_ROWS
    halving = FEW if is_small else MANY
    total = (len(candidates) + min(KEPT, len(candidates)) * (len(problem.folds) - 1)) * len(members)
    expansions = {candidate.name: _expansion(problem, candidate) for candidate in candidates}
    lines: dict[int, _Line] = {}
    begun = 0
    done: dict[tuple[str, int, int], Member] = {}  # of a candidate, a fold and a member
    bad: list[Diverged] = []

    def fit_on(some: Sequence[Candidate], folds: Sequence[int]) -> None:
        nonlocal begun
        keys = [(candidate, fold, member) for candidate, fold, member in product(some, folds, members)]
        jobs = [
            _job(
                problem,
                candidate,
                expansions[candidate.name],
                line=lines.get(fold),
                fold=fold,
                member=member,
                until=until(candidate),
            )
            for candidate, fold, member in keys
        ]
        before, begun = begun, begun + len(jobs)
        fitted = fit_all(
            jobs,
            problem.objective,
            report=lambda k, epoch: report(before + k, total, epoch),
            checkpoint=checkpoint,
            rivals=[candidate.name for candidate, _, _ in keys],
            rungs=halving.rungs if folds == [0] else None,
            meanwhile=meanwhile,
        )
        for (candidate, fold, member), result in zip(keys, fitted, strict=True):
            if isinstance(result, Diverged):
                bad.append(result)
            else:
                _forget(problem, result.net, fold)
                done[candidate.name, fold, member] = _corrected(problem, result, fold, lines.get(fold))

    def until(candidate: Candidate) -> float:
        first = of(candidate, 0)
        return worth(candidate.fit.for_rows(len(problem.folds[0].train)), first[0]) if first else 1.0

    def of(candidate: Candidate, fold: int) -> list[Member]:
        found = [done[key] for member in members if (key := (candidate.name, fold, member)) in done]
        return sorted(found, key=lambda one: one.validation_loss)[: problem.plan.fit.averaged]

    may_have_lines = len(candidates) > 1  # a network that a plan names stands alone
    if may_have_lines and not is_small:
        lines = _lines(problem)
    fit_on(candidates, [0])
    # a small table is fitted sooner than the library is imported that solves for lines: that is done beside these fits,
    # and where there are lines after all, as few tables have them, the fits are made once more
    if may_have_lines and is_small and (lines := _lines(problem)):
        done.clear()
        total += begun
        fit_on(candidates, [0])
    losses = {candidate.name: of(candidate, 0)[0].validation_loss for candidate in candidates if of(candidate, 0)}
    standing = sorted((one for one in candidates if one.name in losses), key=lambda one: losses[one.name])[:KEPT]
    standing = [one for one in standing if losses[one.name] <= halving.near * min(losses.values())]
    if others := range(1, len(problem.folds)):
        fit_on(standing, others)
    units = [
        unit_of(problem, candidate.name, [of(candidate, fold) for fold in range(len(problem.folds))])
        for candidate in standing
        if all(of(candidate, fold) for fold in range(len(problem.folds)))
    ]
    if not units:
        raise bad[0]
    return units, list(done.values())


def _expansion(problem: Problem, candidate: Candidate) -> Expansion | None:
    if candidate.net.expansion == "none":
        return None
    numbers, embedded = len(problem.preprocessing.numbers), len(problem.preprocessing.sizes)
    pieces = min(candidate.net.pieces, MOST_PIECES // max(numbers, 1))
    if pieces < 2:
        return None
    kind = Steps if candidate.net.expansion == "steps" else Waves
    return kind(problem.rows(fitted_on(problem.folds))[0], numbers, embedded, pieces).to(problem.x.device)


@dataclass(frozen=True)
class _Line:
    """A fold's linear model, and how much it leaves of the targets: standard deviations, [outputs]."""

    net: LinearMember
    left: Tensor

    @classmethod
    def of(cls, net: nn.Module, rows: TensorRows) -> Self:
        assert isinstance(net, LinearMember)
        x, y = rows
        with torch.no_grad():
            return cls(net, (y - net(x)).std(0).clamp_min(1e-6))

    def rest_of(self, rows: TensorRows) -> TensorRows:
        """The rows with what the line leaves of their targets, in standard deviations."""
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
    clipped, form = (_best_line(problem, [some]) for some in numbers)
    if problem.lines[form].validation_loss > UNCLIPPED * problem.lines[clipped].validation_loss:
        return {}
    models = _lines_of_folds(problem, form)
    return {k: _Line.of(models[k].net, problem.rows(fold.train)) for k, fold in enumerate(problem.folds)}


def _corrected(problem: Problem, member: Member, fold: int, line: _Line | None) -> Member:
    """The member with the line that its network was fitted on the rest of, and the loss of both together."""
    if line is None:
        return member
    assert isinstance(member.net, nn.Sequential)
    net = line.with_rest(member.net)
    return replace(
        member, net=net, validation_loss=mean_loss(net, problem.rows(problem.folds[fold].held_out), problem.objective)
    )


def _forget(problem: Problem, net: nn.Module, fold: int) -> None:
    """Let a network answer for categories that its fold never showed it, which are as drawn, as for unknown ones."""
    sizes = problem.preprocessing.sizes
    for layer in net.children():
        if isinstance(layer, Embedding):
            with torch.no_grad():
                layer.table.copy_(layer.table[known_rows(problem.rows(problem.folds[fold].train)[0], sizes)])


def _job(
    problem: Problem,
    candidate: Candidate,
    expansion: Expansion | None,
    *,
    line: _Line | None,
    fold: int,
    member: int,
    until: float,
) -> Job:
    preprocessing, rows = problem.preprocessing, problem.folds[fold]
    # the first network has the plan's own seed; neighbouring plans share no other
    seed = candidate.fit.seed + 1_000_003 * member + 15_485_863 * fold
    train, held_out = problem.rows(rows.train), problem.rows(rows.held_out)
    if line is not None:
        train, held_out = line.rest_of(train), line.rest_of(held_out)
    return Job.of(
        candidate.fit,
        lambda: make_member(candidate.net, preprocessing.width, preprocessing.sizes, problem.outputs, expansion),
        train,
        (with_unseen_unknown(held_out[0], train[0], preprocessing.sizes), held_out[1]),
        seed,
        key=f"{candidate.name}-{fold}-{member}{'' if line is None else '-rest'}",
        until=until,
    )


def unit_of(problem: Problem, name: str, members: Sequence[Sequence[Member]]) -> Unit:
    """The members of each fold as one unit, with what they say of the rows held out from them."""
    answers = [problem.answers(own, fold.held_out) for own, fold in zip(members, problem.folds, strict=True)]
    return Unit(name, [member for own in members for member in own], np.concatenate(answers))


def linear_unit(problem: Problem) -> Unit:
    """The linear model of the penalty that does best on the first fold, and of clipped numbers or not, likewise.

    Its answers are those of each fold's model, its member is the model of all rows that are fitted on: a mean of linear
    models would be no better.
    """
    form = _best_line(problem, readings(problem.task, problem.preprocessing))
    models = _lines_of_folds(problem, form)
    unit = unit_of(problem, "linear", [[model] for model in models])
    if len(problem.folds) > 1:
        everything = Fold(fitted_on(problem.folds), problem.folds[0].held_out)
        models = [problem.linear(*form, everything)]
    return Unit("linear", models, unit.answers)


def _best_line(problem: Problem, unclipped: Sequence[int]) -> tuple[float, int]:
    """Of the first fold's linear models that read so many numbers unclipped, the best: its penalty, and this number."""
    forms = [form for form in problem.lines if form[1] in unclipped]
    return min(forms, key=lambda form: problem.lines[form].validation_loss)


def _lines_of_folds(problem: Problem, form: tuple[float, int]) -> list[Member]:
    return [problem.lines[form], *(problem.linear(*form, fold) for fold in problem.folds[1:])]
