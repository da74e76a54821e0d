"""The jobs of one version that wait for a batch: which goes next, and with how many others.

Jobs that must go alone come first, then urgent ones, then ordinary ones, which are not kept waiting for ever
(docs/decisions/0025-priorities.md).
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

from service.batching.batches import Batch, Job, version_of

_URGENT_IN_A_ROW = 8
"""After so many batches with urgent rows, the oldest ordinary job of the version goes first."""


@dataclass(slots=True)
class Queue:
    """The jobs of one version that wait, their rows, and its batches that are out.

    Attributes:
        sure_rows: as long as no more than so many rows wait in all, jobs are let in without a look.
        again: jobs that go alone.
        jobs, urgent: ordinary and urgent ones, each kind by arrival.
        rows, urgent_rows: of all that wait, and of the urgent ones among them.
        urgent_in_a_row: how many batches with urgent rows went out, one after the other.
        returned: when a batch came back the last time, by `time.perf_counter`.
        look: goes off at `look_at`, when a batch has waited long enough for more rows.
    """

    sure_rows: int
    again: deque[Job] = field(default_factory=deque)
    jobs: dict[Job, None] = field(default_factory=dict)  # a dict is an ordered set: a job may leave from the middle
    urgent: dict[Job, None] = field(default_factory=dict)
    out: list[Batch] = field(default_factory=list)
    rows: int = 0
    urgent_rows: int = 0
    urgent_in_a_row: int = 0
    returned: float = 0.0
    look: asyncio.TimerHandle | None = None
    look_at: float = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether no job waits."""
        return not (self.again or self.jobs or self.urgent)

    @property
    def first(self) -> Job:
        """The job that goes next, of those that wait."""
        if self.again:
            return self.again[0]
        return next(iter(self.urgent if self.urgent and not self.is_ordinarys_turn else self.jobs))

    @property
    def is_ordinarys_turn(self) -> bool:
        """Whether an ordinary job comes before the urgent ones."""
        return bool(self.jobs) and self.urgent_in_a_row >= _URGENT_IN_A_ROW

    def add(self, job: Job) -> None:
        """Have it wait."""
        if job.is_alone:
            self.again.append(job)
        elif job.is_urgent:
            self.urgent[job] = None
            self.urgent_rows += job.rows
        else:
            self.jobs[job] = None
        self.rows += job.rows

    def remove(self, job: Job) -> bool:
        """Have it wait no more; whether it did. One that goes alone stays, and is passed over."""
        if job in self.jobs:
            del self.jobs[job]
        elif job in self.urgent:
            del self.urgent[job]
            self.urgent_rows -= job.rows
        else:
            return False
        self.rows -= job.rows
        return True

    def take(self, most_rows: int) -> Batch | None:
        """The next batch, of so many rows unless a single job has more; None when nobody waits for its job any more."""
        if self.again:
            job = self.again.popleft()
            self.rows -= job.rows
            return None if job.is_settled else Batch(version_of(job), [job], job.rows)
        if self.urgent:
            return self._take_urgent(most_rows)
        self.urgent_in_a_row = 0
        if self.rows <= most_rows:
            jobs, rows = list(self.jobs), self.rows
            self.jobs.clear()
        else:
            jobs, rows = _as_many(self.jobs, most_rows)
            for job in jobs:
                del self.jobs[job]
        self.rows -= rows
        return Batch(version_of(jobs[0]), jobs, rows) if jobs else None

    def _take_urgent(self, most_rows: int) -> Batch:
        """The next batch, in which urgent jobs come first and ordinary ones fill what is left."""
        first = [self.first] if self.is_ordinarys_turn else []
        self.urgent_in_a_row = 0 if first else self.urgent_in_a_row + 1
        jobs, rows = _as_many(dict.fromkeys(chain(first, self.urgent, self.jobs)), most_rows)
        for job in jobs:
            self.remove(job)
        return Batch(version_of(jobs[0]), jobs, rows)


def _as_many(waiting: Iterable[Job], most_rows: int) -> tuple[list[Job], int]:
    """The first jobs that have so many rows together, at least one job, and these rows."""
    jobs: list[Job] = []
    rows = 0
    for job in waiting:
        if jobs and rows + job.rows > most_rows:
            break
        jobs.append(job)
        rows += job.rows
    return jobs, rows
