"""Many fits in processes on all the cores, or in few loops on a GPU; those that fall behind can be ended on the way.

`fit_all` is the whole; `_here` and `_in_processes` are its two ways to take fits a part of their epochs further. What
they move is a `Loop` (`loops.py`), which can stand still and go on in another process (`processes.py`).
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import torch

from training.fitting.checkpoint import Checkpoint
from training.fitting.course import Diverged, Epoch
from training.fitting.device import threads
from training.fitting.fit import Job, Member
from training.fitting.loops import Loop, Standing
from training.fitting.losses import Objective
from training.fitting.processes import Workers, beside, most_processes

WORTH_S = 0.3
"""Seconds of fits from which other processes help: to fork two and to hear from them takes some 0.05 s."""

WORTH_A_MOVE_S = 1.0
"""Seconds of a fit from which it may change processes on its way: its state crosses, its rows are expanded again."""


class _Advance(Protocol):
    """Takes loops to a share of their epochs; None: ends them.

    Those that `follow` go along with a single one: they take no more epochs than were of use to it.
    """

    def __call__(self, some: Sequence[Loop], share: float | None, follow: Sequence[Loop] = ()) -> None:
        """Go."""


def fit_all(
    jobs: Sequence[Job],
    objective: Objective,
    *,
    report: Callable[[int, Epoch], object],
    checkpoint: Checkpoint | None = None,
    rivals: Sequence[str] = (),
    rungs: Mapping[float, float] | None = None,
    others: Callable[[int], Sequence[Job]] | None = None,
    meanwhile: Iterable[object] = (),
) -> list[Member | Diverged]:
    """Fit every job in the way that suits the device; `report` is told which, from 0.

    After each share of the epochs that `rungs` names, in rising order, only those of `rivals`, which say for each job
    whose it is, go on whose loss is at most so many times the least one; the rest keep the best weights they had. Where
    one is left on a CPU, `others` says what is to be fitted for as long as it was worth it for that one, by its number;
    this begins beside it, and its results follow, unless that one diverged.

    On a GPU jobs of one plan and shape go together, which a single small network could not fill. On a CPU each goes
    alone, on one thread, in as many processes as there are cores: 8 networks in one loop took longer there than 8
    loops, and threads wait for each other's turn of the interpreter (docs/decisions/0031, 0051). While processes are at
    work, `meanwhile` is asked for its next; where there are none, it is not.

    Raises:
        LostProcess: one was killed.
    """
    is_gpu = bool(jobs) and jobs[0].train[0].device.type == "cuda"
    groups = _alike(jobs) if is_gpu else [[number] for number in range(len(jobs))]
    loops = [Loop(jobs, numbers, objective, report, checkpoint) for numbers in groups]
    chores = iter(meanwhile)

    def together(some: Sequence[Loop]) -> AbstractContextManager[_Advance]:
        count = 1 if is_gpu or sum(loop.seconds for loop in some) < WORTH_S else min(most_processes(), len(some))
        return _here() if count < 2 else _in_processes(count, some, report, checkpoint, chores)

    going = loops
    with together(loops) as advance:
        for share, times in (rungs or {}).items():
            advance(going, share)
            losses: dict[str, float] = {}
            for loop in going:
                rival = rivals[loop.numbers[0]]
                losses[rival] = min(loop.loss, losses.get(rival, math.inf))
            advance([loop for loop in going if losses[rivals[loop.numbers[0]]] > times * min(losses.values())], None)
            going = [loop for loop in going if not loop.results]
        is_alone = len(going) == 1 and not is_gpu and not going[0].is_large
        if others is None or not is_alone:
            advance(going, 1.0)
    if others is not None and is_alone:
        jobs = [*jobs, *others(going[0].numbers[0])]
        follow = [Loop(jobs, [number], objective, report, checkpoint) for number in range(len(loops), len(jobs))]
        with together([*going, *follow]) as advance:
            advance(going, 1.0, follow)
        loops += [loop for loop in follow if loop.results]
    results = {number: result for loop in loops for number, result in zip(loop.numbers, loop.results, strict=True)}
    return [results[number] for number in sorted(results)]


def _alike(jobs: Sequence[Job]) -> list[list[int]]:
    """The places of jobs of one plan, shape and end."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, job in enumerate(jobs):
        shape = tuple((name, weight.shape) for name, weight in job.net.named_parameters())
        groups.setdefault((job.plan, shape, job.until), []).append(number)
    return list(groups.values())


@contextlib.contextmanager
def _here() -> Iterator[_Advance]:
    """One loop after the other in this process."""
    most = torch.get_num_threads()

    def advance(some: Sequence[Loop], share: float | None, follow: Sequence[Loop] = ()) -> None:
        for loop in some:
            with threads(most if len(some) == 1 and loop.is_large else 1):
                _advance(loop, share)
        if follow and _may_follow(some[0], follow):
            advance(follow, 1.0)

    yield advance


def _may_follow(first: Loop, follow: Sequence[Loop]) -> bool:
    """Whether the first has come to a good end; then the others know theirs."""
    for loop in follow:
        loop.until = first.useful
    return not isinstance(first.results[0], Diverged)


def _advance(loop: Loop, share: float | None) -> None:
    if share is None:
        loop.end()
    else:
        loop.advance(share)


# ------------------------------------------------------------------------------------------------ in processes


class _Task(NamedTuple):
    """A loop's number, how far it is to go and to end, and where it is, unless the process knows that."""

    number: int
    share: float | None
    until: float
    standing: Standing | None


class _Done(NamedTuple):
    """Where the loop is now, and what the checkpoint had trouble with."""

    number: int
    standing: Standing
    trouble: str | None


@contextlib.contextmanager
def _in_processes(
    count: int,
    loops: Sequence[Loop],
    report: Callable[[int, Epoch], object],
    checkpoint: Checkpoint | None,
    meanwhile: Iterator[object],
) -> Iterator[_Advance]:
    """Loops side by side, the longest first; each stays in the process that began it, or goes to one that is idle."""
    begun_by: dict[int, int] = {}

    def do(task: _Task, tell: Callable[[tuple[int, Epoch]], object]) -> _Done:
        loop = loops[task.number]
        loop.report, loop.until = lambda number, epoch: tell((number, epoch)), task.until
        if task.standing is not None:
            loop.go_on_from(task.standing)
        _advance(loop, task.share)
        return _Done(task.number, loop.standing(), None if checkpoint is None else checkpoint.trouble)

    def advance(some: Sequence[Loop], share: float | None, follow: Sequence[Loop] = ()) -> None:
        numbers = [number for number, loop in enumerate(loops) if loop in some and not loop.results]
        following = [number for number, loop in enumerate(loops) if loop in follow]
        waiting = _in_turn(numbers, loops, share, count)
        # meanwhile the others keep level, so that no long one is left for the end
        waiting += [(number, wave) for wave in (some[0].useful_waves if follow else ()) for number in following]
        busy: set[int] = set()

        def draw(worker: int) -> _Task | None:
            free = [turn for turn in waiting if turn[0] not in busy and not loops[turn[0]].results]
            if not free:
                return None
            number, to = next((turn for turn in free if begun_by.get(turn[0], worker) == worker), free[0])
            waiting.remove((number, to))
            busy.add(number)
            is_elsewhere = begun_by.get(number, worker) != worker
            begun_by[number] = worker
            return _Task(number, to, loops[number].until, loops[number].standing() if is_elsewhere else None)

        def done(answer: _Done) -> None:
            busy.remove(answer.number)
            loops[answer.number].go_on_from(answer.standing)
            if following and answer.number in numbers:
                goes_on = _may_follow(loops[answer.number], follow)
                waiting[:] = _in_turn(following, loops, 1.0, count) if goes_on else []
            if checkpoint is not None:
                checkpoint.trouble = checkpoint.trouble or answer.trouble

        if len(some) == 1 and some[0].is_large:  # threads do more for it than a process
            advance_here(some, share)
        else:
            workers.run(draw, lambda step: report(*step), done)

    with _here() as advance_here, Workers(count, do) as workers, beside(meanwhile):
        yield advance


def _in_turn(
    numbers: Sequence[int], loops: Sequence[Loop], share: float | None, count: int
) -> list[tuple[int, float | None]]:
    """Which loop is to go how far, one after the other, in so many processes: the longest first.

    Of three alike in two processes the third would keep one waiting for as long as it takes. So its first half comes
    before all others, and whoever has nothing left to do goes on with it: all are done after one and a half.
    """
    turns = sorted(numbers, key=lambda number: -loops[number].seconds)
    over = len(turns) % count if share == 1.0 and len(turns) > count else 0
    halved = [number for number in turns[len(turns) - over :] if loops[number].seconds > WORTH_A_MOVE_S]
    return [(number, loops[number].half_way) for number in halved] + [(number, share) for number in turns]
