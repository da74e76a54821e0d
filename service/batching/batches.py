"""Jobs, and batches of them: the rows of many requests as one matrix, and what becomes of each.

A job ends once: it is answered, it is refused, or nobody waits for it any more. One whose rows no graph can read leaves
its batch, and its mates are computed nevertheless.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy as np

from models.errors import BadRow, RowcastError
from models.proof import Answers
from models.repository import Version
from models.schema import Matrix
from service.problems import ModelFailed

log = logging.getLogger(__name__)

WriteRows = Callable[[Version, Answers], list[bytes]]
"""What writes, at once, an answer for each row of a batch, each as if its row were a request of its own."""


class Job:
    """One request's rows, encoded for one version. A subclass says what is done with what becomes of it.

    Attributes:
        version: None until it is submitted.
        matrix: its rows [N, F]; None where `line` holds its only one.
        line: the values of its only row, see `Schema.line_of`.
        rows: N.
        arrived, deadline: by `time.perf_counter`, in seconds.
        within_s: how long its request may take in all, of which some had passed when it arrived.
        alarm: goes off at its deadline, if that is near.
        is_settled: it was told what became of it, or nobody waits for it any more.
        is_urgent: it goes before those that are not.
        is_alone: it goes without mates, since a batch with it was lost or failed.
        losses: how many workers were lost while they had it.
        together: what answers it and others like it in the same batch at once; None where it is answered by itself.
    """

    version: Version | None = None  # defaults of the class: a job sets what it needs, which takes a third of the time
    matrix: Matrix | None = None
    line: list[Any] | None = None
    rows = 0
    arrived = deadline = within_s = 0.0
    alarm: asyncio.TimerHandle | None = None
    is_settled = False
    is_urgent = False
    is_alone = False
    losses = 0
    together: "Together | None" = None

    def answered(self, batch: "Batch", start: int) -> None:
        """Its rows are those of the batch from `start` on. Called once, and never from within `submit`."""
        raise NotImplementedError

    def refused(self, problem: RowcastError) -> None:
        """There is this problem in the place of answers. Called once, and never from within `submit`."""
        raise NotImplementedError


class Together(Protocol):
    """What answers several jobs of a batch at once."""

    def answered(self, batch: "Batch", told: Sequence[tuple[Job, int]]) -> None:
        """Each job's rows are those of the batch from its number on. Called as `Job.answered` is, in its place."""
        ...


class Batch:
    """Jobs of one version that are computed together, and what was answered to them.

    Attributes:
        sent, computed: when it went out and when its answers came, by `time.perf_counter`.
    """

    __slots__ = ("_written", "answers", "computed", "jobs", "matrix", "rows", "sent", "version")

    def __init__(self, version: Version, jobs: Sequence[Job], rows: int) -> None:
        self.version, self.jobs, self.rows = version, jobs, rows
        self.sent = self.computed = 0.0
        self.matrix: Matrix | None = None
        self.answers: Answers = {}
        self._written: dict[WriteRows, list[bytes] | None] = {}

    def answers_of(self, start: int, rows: int) -> Answers:
        """What was answered to some of its rows."""
        if rows == self.rows:
            return self.answers
        return {name: values[start : start + rows] for name, values in self.answers.items()}

    def answers_from(self, starts: Sequence[int], rows: int) -> Answers:
        """What was answered to so many rows from each of these on, in rising order."""
        first, end = starts[0], starts[-1] + rows
        if end - first == len(starts) * rows:
            return self.answers_of(first, end - first)
        places = (np.asarray(starts)[:, None] + np.arange(rows)).reshape(-1)
        return {name: values[places] for name, values in self.answers.items()}

    def written(self, write_rows: WriteRows) -> list[bytes] | None:
        """An answer for each of its rows, written at once for all jobs that ask.

        None where jobs have many rows, or where one of the rows cannot be written: that is its job's concern alone.
        """
        if self.rows != len(self.jobs):
            return None
        if write_rows not in self._written:
            try:
                self._written[write_rows] = write_rows(self.version, self.answers)
            except ModelFailed:
                self._written[write_rows] = None
        return self._written[write_rows]

    def make_matrix(self) -> Matrix | None:
        """The rows of all jobs, [N, F], kept as `matrix`; None when no job is left.

        Jobs whose rows hold what no graph can read are refused, and leave the batch.
        """
        jobs = self.jobs
        if len(jobs) == 1 and jobs[0].matrix is not None:
            self.matrix = jobs[0].matrix
            return self.matrix
        lines = [job.line for job in jobs if job.line is not None]
        try:
            if len(lines) == len(jobs):
                self.matrix = self.version.schema.stack(lines)
            else:
                self.matrix = np.concatenate([own_matrix(job) for job in jobs])
        except BadRow:
            self.matrix = self._matrix_of_the_good()
        return self.matrix

    def _matrix_of_the_good(self) -> Matrix | None:
        """The same, one job after the other."""
        good: list[Job] = []
        parts: list[Matrix] = []
        for job in self.jobs:
            try:
                parts.append(own_matrix(job))
                good.append(job)
            except BadRow as error:
                refuse(job, error)
        self.jobs, self.rows = good, sum(job.rows for job in good)
        return np.concatenate(parts) if parts else None

    def fits(self, answers: Answers | None) -> bool:
        """Whether there is an answer for each of its rows."""
        return answers is not None and all(len(values) == self.rows for values in answers.values())

    def scatter(self) -> None:
        """Tell each job what was answered to its rows."""
        start, waiting = 0, []
        for job in self.jobs:
            if not settle(job):
                waiting.append((job, start))
            start += job.rows
        for together, told in groupby(waiting, lambda one: one[0].together):
            if together is not None:
                try:
                    together.answered(self, list(told))
                except Exception:
                    log.exception("jobs of %s could not be told their answers", self.version)
            else:
                for job, at in told:
                    answer(job, self, at)


def version_of(job: Job) -> Version:
    """The version that a submitted job asks."""
    assert job.version is not None
    return job.version


def own_matrix(job: Job) -> Matrix:
    """The rows of one job, [N, F]."""
    if job.matrix is not None:
        return job.matrix
    assert job.line is not None
    return version_of(job).schema.stack([job.line])


def answer(job: Job, batch: Batch, start: int) -> None:
    """Tell a job that is settled its answers. Its mates are told theirs whatever comes of it."""
    try:
        job.answered(batch, start)
    except Exception:
        log.exception("a job of %s could not be told its answers", batch.version)


def refuse(job: Job, problem: RowcastError) -> None:
    """Tell a job its problem, unless it is settled; others are told what they are to be whatever comes of it."""
    if settle(job):
        return
    try:
        job.refused(problem)
    except Exception:
        log.exception("a job of %s could not be told: %s", job.version, problem)


def settle(job: Job) -> bool:
    """Whether it was settled already; it is now."""
    was_settled, job.is_settled = job.is_settled, True
    if job.alarm is not None:
        job.alarm.cancel()
    return was_settled
