"""Tasks for forked processes: each has what this one had when it was forked, so only tasks and answers cross.

A child computes on one thread, asks nothing of Polars, whose threads no fork takes along, and ends with its parent.
"""

import contextlib
import multiprocessing
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from typing import Generic, Self, TypeVar

import polars as pl
import torch

from training.children import Child
from training.fitting.distributed import is_team

_Task = TypeVar("_Task")
_Told = TypeVar("_Told")
_Answer = TypeVar("_Answer")


def most_processes() -> int:
    """How many may compute at a time: as many as torch would use threads on our cores; 1 where a fork is not safe.

    That is elsewhere than on Linux, where system libraries start threads of their own; beside a GPU's context and among
    torchrun's processes, whose connections no fork takes along; and in a process of somebody's pool.
    """
    has_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if sys.platform != "linux" or has_gpu or is_team() or multiprocessing.current_process().daemon:
        return 1
    return min(torch.get_num_threads(), cores())


def cores() -> int:
    """Cores that this process may run on, and no more than its control groups let it use at a time, rounded down.

    Polars counts them for its own threads, where `POLARS_MAX_THREADS` says nothing else; torch asks nobody for quotas.
    """
    return pl.thread_pool_size()


class Workers(Generic[_Task, _Told, _Answer]):
    """Children that work until the block is left; then, for whatever reason, they are killed."""

    def __init__(self, count: int, do: Callable[[_Task, Callable[[_Told], object]], _Answer]) -> None:
        """Fork so many; `do` is what each does with a task, and may tell something on the way."""
        self._workers: list[Child] = []
        for _ in range(count):
            self._workers.append(Child(do, _alone, [worker.connection for worker in self._workers]))

    def __enter__(self) -> Self:
        """The children are there already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill them: what they would still say nobody wants to hear."""
        for worker in self._workers:
            worker.kill()

    def run(
        self,
        draw: Callable[[int], _Task | None],
        told: Callable[[_Told], object],
        done: Callable[[_Answer], object],
    ) -> None:
        """Let the children work until there are no more tasks.

        Args:
            draw: the next task for a child, by its number from 0; None where there is none.
            told: is given what a child tells, as it comes.
            done: is given an answer.

        Raises:
            LostProcess: a child has died; whatever a task raises is raised as it is.
        """
        free, busy = list(range(len(self._workers))), dict[Connection, int]()
        while True:
            for number in list(free):
                if (task := draw(number)) is not None:
                    self._workers[number].give(task)
                    busy[self._workers[number].connection] = number
                    free.remove(number)
            if not busy:
                return
            ready = wait(list(busy))
            for connection, number in [pair for pair in busy.items() if pair[0] in ready]:
                kind, value = self._workers[number].hear()
                if kind == "told":
                    told(value)
                    continue
                if kind == "failed":
                    raise value
                del busy[connection]
                free.append(number)
                done(value)


@contextlib.contextmanager
def elsewhere(work: Callable[[], object]) -> Iterator[None]:
    """Let a child do some work, of which only files remain, beside the block; where none may be forked, before it.

    Raises:
        LostProcess: the child was killed; whatever the work raises is raised once the block has ended.
    """
    if most_processes() < 2:
        work()
        yield
        return

    def do(*_: object) -> None:
        work()

    worker = Child(do, _alone)
    try:
        worker.give(None)
        yield
        kind, error = worker.hear()
    finally:
        worker.kill()
    if kind == "failed":
        raise error


@contextlib.contextmanager
def beside(chores: Iterator[object]) -> Iterator[None]:
    """Go through some chores while the block waits for children; what is not begun when it ends is left.

    In a thread, as a chore may take longer than a child; it has ended with the block, before anything else is forked.
    What a chore raises is raised then.
    """
    is_over = threading.Event()

    def go() -> None:
        while not is_over.is_set() and next(chores, is_over) is not is_over:
            pass

    with ThreadPoolExecutor(1) as thread:
        gone = thread.submit(go)
        try:
            yield
        finally:
            is_over.set()
    gone.result()


def _alone() -> None:
    torch.set_num_threads(1)  # OpenMP's other threads are not in a fork, and would be waited for
