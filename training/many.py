"""Many fits on all the cores, or in few loops on a GPU; those that fall behind can be ended on the way."""

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait

import torch

from training.checkpoint import Checkpoint
from training.fit import Diverged, Epoch, Fitting, Job, Member
from training.losses import Objective

LARGE = 1 << 30
"""Multiplications in one minibatch from which a single fit uses more threads than one.

Measured on 2 cores that others were using too, microseconds a step with one thread and with two: 1,020 and 5,600
(10-256-256-1, batch 32), 2,900 and 8,300 (2-100-100-1, batch 1000), 30,000 and 108,000 (30-256-256-1, batch 4096): each
barrier waits for the busiest core. One thread also gives the same weights on machines of any number of cores.
"""


def fit_all(
    jobs: Sequence[Job],
    objective: Objective,
    *,
    report: Callable[[int, Epoch], object],
    checkpoint: Checkpoint | None = None,
    rivals: Sequence[str] = (),
    rungs: Mapping[float, float] | None = None,
) -> list[Member | Diverged]:
    """Fit every job in the way that suits the device; `report` is told which, from 0.

    After each share of the epochs that `rungs` names, in rising order, only those of `rivals`, which say for each job
    whose it is, go on whose loss is at most so many times the least one; the others keep the best weights they had.

    On a GPU jobs of one plan and shape go together, which a single small network could not fill. On a CPU they go side
    by side, one thread each: 8 networks in one loop took longer there than 8 loops (docs/decisions).
    """
    is_gpu = bool(jobs) and jobs[0].train[0].device.type == "cuda"
    given_up = threading.Event()

    def told(number: int, epoch: Epoch) -> None:
        if given_up.is_set():
            raise CancelledError
        report(number, epoch)

    loops = [
        _Loop(jobs, numbers, objective, told, checkpoint)
        for numbers in (_alike(jobs) if is_gpu else [[number] for number in range(len(jobs))])
    ]
    threads = 1 if is_gpu else torch.get_num_threads()
    going = loops
    for share, times in (rungs or {}).items():
        _advance(going, share, threads, given_up)
        losses: dict[str, float] = {}
        for loop in going:
            rival = rivals[loop.numbers[0]]
            losses[rival] = min(loop.loss(share), losses.get(rival, math.inf))
        for loop in going:
            if losses[rivals[loop.numbers[0]]] > times * min(losses.values()):
                loop.end()
        going = [loop for loop in going if not loop.results]
    _advance(going, 1.0, threads, given_up)
    results = {number: result for loop in loops for number, result in zip(loop.numbers, loop.results, strict=True)}
    return [results[number] for number in range(len(jobs))]


class _Loop:
    """Jobs that are fitted together; their fit begins when it is advanced, so that not all are in memory at once.

    Attributes:
        numbers: the jobs' places.
        results: of each, once it has ended.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        numbers: list[int],
        objective: Objective,
        report: Callable[[int, Epoch], object],
        checkpoint: Checkpoint | None,
    ) -> None:
        own = [jobs[number] for number in numbers]
        self.numbers, self.results = numbers, list[Member | Diverged]()

        def told(number: int, epoch: Epoch) -> None:
            report(numbers[number], epoch)

        self._begin = functools.partial(Fitting, own, objective, told, checkpoint)
        self._fitting: Fitting | None = None
        weights = sum(weight.numel() for weight in own[0].net.parameters())
        self.is_large = (own[0].plan.batch or len(own[0].train[0])) * weights >= LARGE

    def advance(self, share: float) -> None:
        """Go on until this share of the epochs; after the last one the loop has ended."""
        try:
            self._fitting = self._fitting or self._begin()
            self._fitting.advance(share)
        except Diverged as error:
            self.results, self._fitting = [error] * len(self.numbers), None
            return
        if share == 1.0:
            self.end()

    def loss(self, share: float) -> float:
        """The least validation loss until this share of the epochs; infinite where the fit diverged."""
        return math.inf if self._fitting is None else self._fitting.loss(share)

    def end(self) -> None:
        """Keep the best weights so far."""
        if self._fitting is not None:
            self.results, self._fitting = list(self._fitting.members()), None


def _alike(jobs: Sequence[Job]) -> list[list[int]]:
    """The places of jobs of one plan, shape and end."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, job in enumerate(jobs):
        shape = tuple((name, weight.shape) for name, weight in job.net.named_parameters())
        groups.setdefault((job.plan, shape, job.until), []).append(number)
    return list(groups.values())


def _advance(loops: Sequence[_Loop], share: float, threads: int, given_up: threading.Event) -> None:
    """Each loop as far as that, as many at a time as there are threads."""
    if len(loops) == 1:
        with _threads(threads if loops[0].is_large else 1):
            loops[0].advance(share)
        return

    def one(loop: _Loop) -> None:
        try:
            loop.advance(share)
        except BaseException:
            given_up.set()
            raise

    with _threads(1), ThreadPoolExecutor(min(threads, max(len(loops), 1))) as pool:
        fits = [pool.submit(one, loop) for loop in loops]
        try:
            wait(fits)
        except BaseException:  # an interrupt: no fit goes on for longer than its epoch
            given_up.set()
            raise
    errors = [error for fit in fits if (error := fit.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, CancelledError)):  # what ended the others first
        raise error


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
