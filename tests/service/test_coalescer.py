import asyncio
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.batches import Job
from service.batching.capacity import Capacity
from service.batching.coalescer import MOST_LOSSES, Coalescer
from service.batching.frames import Reply, Status
from service.batching.inline import Inline, InlineSession
from service.problems import DeadlinePassed, ModelFailed, Overloaded
from tests.service.own_time import run_in_own_time


class Doubling:
    """Lanes whose session doubles; they answer when told to, or at once."""

    def __init__(self, lanes=1, at_once=False) -> None:
        self.living = lanes
        self.at_once = at_once
        self.out = []  # batches: (version, matrix, done)
        self.sent = []  # every matrix that ever went out
        self.failing = lambda _: False
        self.killing = lambda _: False

    def idle(self, together=None):
        self.together = together
        return self if self.at_once or len(self.out) < self.living else None

    def run(self, version, matrix, done):
        self.sent.append(matrix)
        self.out.append((version, matrix, done))
        if self.at_once:
            asyncio.get_running_loop().call_soon(self.reply)

    def reply(self, place=0):
        _, matrix, done = self.out.pop(place)
        if self.killing(matrix):
            done(None)
        elif self.failing(matrix):
            done(Reply(Status.FAILED, sentence="the session failed: RuntimeError"))
        else:
            done(Reply(Status.OK, 0.001, answers={"prediction": matrix * 2}))


def coalescer_of(lanes, seen=None, max_batch_rows=100, max_waiting_rows=1000, inline=None, **more):
    return Coalescer(
        lanes,
        inline or Inline(None, 0.0),
        lambda *batch: seen.append(batch) if seen is not None else None,
        max_batch_rows=max_batch_rows,
        capacity=Capacity(1000.0, max_waiting_rows),
        **more,
    )


def rows(*values):
    return np.array(values, dtype=np.float32).reshape(-1, 1)


async def turns(count=5):
    """Let the event loop do what is due."""
    for _ in range(count):
        await asyncio.sleep(0)


def start(coalescer, version, *matrices, deadline_s=1000.0):
    return [asyncio.ensure_future(coalescer.predict(version, matrix, deadline_s)) for matrix in matrices]


MATRICES = st.lists(st.lists(st.floats(-1e6, 1e6, width=32), max_size=4), min_size=1, max_size=8)


@given(batch=MATRICES, guilty=st.floats(-1e6, 1e6, width=32))
def test_an_answer_does_not_depend_on_its_batch_mates(versions, batch, guilty):
    async def ask():
        lanes = Doubling(at_once=True)
        lanes.failing = lambda matrix: bool((matrix == guilty).any())
        coalescer = coalescer_of(lanes)
        jobs = start(coalescer, versions["line"], *[rows(*values) for values in batch])
        return await asyncio.gather(*jobs, return_exceptions=True)

    for values, answer in zip(batch, asyncio.run(ask()), strict=True):
        if guilty in values:
            assert isinstance(answer, ModelFailed)
        else:
            np.testing.assert_array_equal(answer["prediction"], rows(*values) * 2)


def test_what_arrives_while_a_batch_is_out_goes_as_the_next_one(versions):
    async def ask():
        lanes, seen = Doubling(), []
        coalescer = coalescer_of(lanes, seen)
        jobs = start(coalescer, versions["line"], rows(1))
        await turns()
        jobs += start(coalescer, versions["line"], rows(2), rows(3, 4))
        await turns()
        assert [len(matrix) for matrix in lanes.sent] == [1]  # the lone job did not wait, the others do
        lanes.reply()
        await turns()
        assert [len(matrix) for matrix in lanes.sent] == [1, 3]
        lanes.reply()
        await asyncio.gather(*jobs)
        return seen

    first, second = asyncio.run(ask())
    assert (first[1], len(first[3])) == (1, 1)
    assert (second[1], len(second[3])) == (3, 2)  # rows, and how long each of its two jobs waited


def test_a_batch_has_one_version_and_no_more_rows_than_allowed(versions):
    async def ask():
        lanes = Doubling(lanes=3)
        coalescer = coalescer_of(lanes, max_batch_rows=4)
        jobs = start(coalescer, versions["line"], rows(1, 2), rows(3, 4), rows(5), rows(6, 7, 8, 9, 10))
        jobs += start(coalescer, versions["coin"], rows(1))
        await turns()
        batches = [(version.name, len(matrix)) for version, matrix, _ in lanes.out]
        while lanes.out:
            lanes.reply()
            await turns()
        await asyncio.gather(*jobs)
        return batches

    assert asyncio.run(ask()) == [("line", 4), ("line", 1), ("line", 5)]  # a job is never cut


def test_versions_take_turns(versions):
    async def ask():
        lanes = Doubling()
        coalescer = coalescer_of(lanes, max_batch_rows=1)
        jobs = start(coalescer, versions["line"], rows(1), rows(2), rows(3))
        jobs += start(coalescer, versions["coin"], rows(1))
        order = []
        await turns()
        while lanes.out:
            order.append(lanes.out[0][0].name)
            lanes.reply()
            await turns()
        await asyncio.gather(*jobs)
        return order

    assert asyncio.run(ask()) == ["line", "coin", "line", "line"]


def begin(coalescer, version, kind, *matrices, deadline_s=1000.0):
    """As `start`, for jobs of a kind."""
    is_urgent = kind == "urgent"
    return [
        asyncio.ensure_future(coalescer.predict(version, matrix, deadline_s, is_urgent=is_urgent))
        for matrix in matrices
    ]


def teach(coalescer, version, *, fixed_s, row_s):
    """Have it know what batches of a version cost."""
    for count in (1, 32):
        coalescer._capacity.learn(version.key, count, fixed_s + count * row_s)


def test_urgent_jobs_go_first_and_ordinary_ones_fill_the_batch(versions):
    async def scenario():
        lanes = Doubling()
        waits = []
        coalescer = coalescer_of(lanes, max_batch_rows=4, observe_urgent=lambda _, waited_s: waits.append(waited_s))
        line = versions["line"]
        teach(coalescer, line, fixed_s=1e-7, row_s=0.0)
        tasks = start(coalescer, line, rows(0, 0))
        await turns()
        tasks += begin(coalescer, line, "ordinary", rows(1), rows(2), rows(3))
        tasks += begin(coalescer, line, "urgent", rows(10), rows(11, 12))
        for _ in range(3):
            await turns()
            lanes.reply()
        answers = [answer["prediction"].ravel().tolist() for answer in await asyncio.gather(*tasks)]
        assert [matrix.ravel().tolist() for matrix in lanes.sent] == [[0, 0], [10, 11, 12, 1], [2, 3]]
        assert answers == [[0, 0], [2], [4], [6], [20], [22, 24]]
        assert [waited_s is None for waited_s in waits] == [True, True, False, False]
        assert coalescer.rows_waiting == coalescer._urgent_waiting == 0

    asyncio.run(scenario())


def test_a_version_with_an_urgent_job_has_its_turn_first(versions):
    async def scenario():
        lanes = Doubling()
        coalescer = coalescer_of(lanes)
        tasks = start(coalescer, versions["line"], rows(0))
        await turns()
        for version, kind, x in (("coin", "ordinary", 1), ("line", "ordinary", 2), ("pair", "urgent", 3)):
            tasks += begin(coalescer, versions[version], kind, rows(x))
        await turns()
        for _ in range(4):
            lanes.reply()
            await turns()
        await asyncio.gather(*tasks)
        assert [matrix.ravel().tolist() for matrix in lanes.sent] == [
            [0],
            [3],
            [2],
            [1],
        ]  # as they would take turns but for the urgent one

    asyncio.run(scenario())


def test_after_eight_batches_with_urgent_rows_the_oldest_ordinary_job_goes_first(versions):
    async def scenario():
        lanes = Doubling()
        coalescer = coalescer_of(lanes, max_batch_rows=1)
        tasks = start(coalescer, versions["line"], rows(0))
        await turns()
        tasks += begin(coalescer, versions["line"], "ordinary", rows(1), rows(2))
        tasks += begin(coalescer, versions["line"], "urgent", *(rows(x) for x in range(10, 30)))
        for _ in range(23):
            await turns()
            lanes.reply()
        await asyncio.gather(*tasks)
        sent = [int(matrix[0, 0]) for matrix in lanes.sent]
        assert sent == [0, *range(10, 18), 1, *range(18, 26), 2, *range(26, 30)]

    asyncio.run(scenario())


@pytest.mark.parametrize(("fixed_s", "row_s", "expected"), [(0.0, 0.01, [1, 1]), (0.01, 0.0, [11, 30])])
def test_as_long_as_somebody_urgent_may_come_batches_have_the_rows_that_the_pace_needs(
    versions, monkeypatch, fixed_s, row_s, expected
):
    async def scenario():
        lanes, line = Doubling(), versions["line"]
        coalescer = coalescer_of(lanes)
        teach(coalescer, line, fixed_s=fixed_s, row_s=row_s)
        tasks = start(coalescer, line, *(rows(x) for x in range(10)))
        tasks += begin(coalescer, line, "urgent", rows(1))
        await turns()
        tasks += start(coalescer, line, *(rows(x) for x in range(30)))
        await turns()
        while lanes.out:
            await asyncio.sleep(fixed_s)  # what a batch takes
            lanes.reply()
            await turns()
        await asyncio.gather(*tasks)
        assert [len(matrix) for matrix in lanes.sent[:2]] == expected

    run_in_own_time(scenario(), monkeypatch)


def test_in_a_full_queue_an_urgent_job_takes_the_place_of_the_last_ordinary_ones(versions):
    async def scenario():
        lanes = Doubling()
        coalescer = coalescer_of(lanes, max_waiting_rows=4)
        line = versions["line"]
        tasks = start(coalescer, line, rows(0))
        await turns()
        ordinary = begin(coalescer, line, "ordinary", rows(1), rows(2), rows(3, 4))
        await turns()
        (urgent,) = begin(coalescer, line, "urgent", rows(10))
        await turns()
        for refused in (ordinary[2], *begin(coalescer, line, "ordinary", rows(5, 6))):
            with pytest.raises(Overloaded):
                await refused
        more = begin(coalescer, line, "urgent", rows(11, 12, 13))
        await turns()
        with pytest.raises(Overloaded):  # urgent rows alone fill the queue
            await begin(coalescer, line, "urgent", rows(14))[0]
        assert coalescer.rows_waiting == 4
        for refused in ordinary[:2]:
            with pytest.raises(Overloaded):
                await refused
        while lanes.out:
            lanes.reply()
            await turns()
        assert [len(answer["prediction"]) for answer in await asyncio.gather(*tasks, urgent, *more)] == [1, 1, 3]

    asyncio.run(scenario())


def test_an_urgent_job_that_nobody_waits_for_or_that_is_late_leaves_the_queue(versions):
    async def scenario():
        lanes = Doubling()
        coalescer = coalescer_of(lanes)
        line = versions["line"]
        tasks = start(coalescer, line, rows(0))
        await turns()
        (left,) = begin(coalescer, line, "urgent", rows(1))
        (late,) = begin(coalescer, line, "urgent", rows(2), deadline_s=0.01)
        await turns()
        left.cancel()
        with pytest.raises(DeadlinePassed):
            await late
        assert coalescer.rows_waiting == coalescer._urgent_waiting == 0
        lanes.reply()
        await asyncio.gather(*tasks)
        assert len(lanes.sent) == 1

    asyncio.run(scenario())


def test_a_full_queue_refuses_and_says_when_to_try_again(versions):
    async def ask():
        lanes = Doubling()
        coalescer = coalescer_of(lanes, max_waiting_rows=3)
        jobs = start(coalescer, versions["line"], rows(0))
        await turns()
        jobs += start(coalescer, versions["line"], rows(1, 2))
        await turns()
        with pytest.raises(Overloaded) as refused:
            await coalescer.predict(versions["line"], rows(3, 4), 5.0)
        jobs += start(coalescer, versions["line"], rows(5))
        await turns()
        while lanes.out:
            lanes.reply()
            await turns()
        await asyncio.gather(*jobs)
        assert coalescer.rows_waiting == 0
        return refused.value

    refused = asyncio.run(ask())
    assert refused.rows_waiting == 2
    assert 0 < refused.retry_after_s <= 60


@pytest.mark.parametrize("kind", ["urgent", "ordinary"])
def test_a_job_that_comes_when_its_deadline_has_passed_is_not_computed_where_nobody_waits(versions, kind):
    async def ask():
        lanes = Doubling()
        coalescer = coalescer_of(lanes)
        (late,) = begin(coalescer, versions["line"], kind, rows(2), deadline_s=-0.001)
        with pytest.raises(DeadlinePassed):
            await late
        await turns()
        return lanes.sent

    assert asyncio.run(ask()) == []


def test_a_job_whose_deadline_passed_is_never_computed(versions):
    async def ask():
        lanes = Doubling()
        coalescer = coalescer_of(lanes)
        first = start(coalescer, versions["line"], rows(1))
        await turns()
        (late,) = start(coalescer, versions["line"], rows(2), deadline_s=0.01)
        with pytest.raises(DeadlinePassed) as passed:
            await late
        assert passed.value.seconds == 0.01
        with pytest.raises(DeadlinePassed) as passed:
            await coalescer.predict(versions["line"], rows(2), 0.0, within_s=0.5)
        assert passed.value.seconds == 0.5  # that its client knows of, not what was left of it
        assert coalescer.rows_waiting == 0
        lanes.reply()
        await asyncio.gather(*first)
        await turns()
        return lanes.sent

    assert len(asyncio.run(ask())) == 1


def test_a_job_that_nobody_waits_for_is_never_computed(versions):
    async def ask():
        lanes = Doubling()
        coalescer = coalescer_of(lanes)
        first = start(coalescer, versions["line"], rows(1))
        await turns()
        (left,) = start(coalescer, versions["line"], rows(2))
        await turns()
        left.cancel()
        await turns()
        assert coalescer.rows_waiting == 0
        lanes.reply()
        await asyncio.gather(*first)
        await turns()
        return lanes.sent

    assert len(asyncio.run(ask())) == 1


def test_a_lost_worker_loses_no_job(versions):
    async def ask():
        lanes = Doubling(at_once=True)
        lanes.killing = lambda _: len(lanes.sent) == 1
        return await asyncio.gather(*start(coalescer_of(lanes), versions["line"], rows(1), rows(2)))

    assert [answer["prediction"].item() for answer in asyncio.run(ask())] == [2, 4]


def test_a_job_under_which_workers_die_is_given_up_and_its_mates_are_not(versions):
    async def ask():
        lanes = Doubling(at_once=True)
        lanes.killing = lambda matrix: bool((matrix == 13).any())
        jobs = start(coalescer_of(lanes), versions["line"], rows(1), rows(13), rows(2))
        answers = await asyncio.gather(*jobs, return_exceptions=True)
        return answers, sum(bool((matrix == 13).any()) for matrix in lanes.sent)

    (one, poison, two), deaths = asyncio.run(ask())
    assert (one["prediction"].item(), two["prediction"].item()) == (2, 4)
    assert isinstance(poison, ModelFailed)
    assert deaths == MOST_LOSSES


def test_a_session_that_gives_another_number_of_answers_has_failed(versions):
    async def ask():
        lanes = Doubling()
        (job,) = start(coalescer_of(lanes), versions["line"], rows(1, 2))
        await turns()
        lanes.out.pop()[2](Reply(Status.OK, 0.0, answers={"prediction": rows(1)}))
        await job

    with pytest.raises(ModelFailed, match="another number of answers than rows"):
        asyncio.run(ask())


def test_a_job_without_rows_is_answered_with_none(versions):
    async def ask():
        return await coalescer_of(Doubling(at_once=True)).predict(versions["line"], rows(), 1.0)

    assert asyncio.run(ask())["prediction"].shape == (0, 1)


class Noting(Job):
    """A job that notes what it is told."""

    def __init__(self, told, name, version, *values, line=None, deadline_s=1000.0) -> None:
        self.told, self.name, self.version = told, name, version
        self.matrix, self.line, self.rows = (None, line, 1) if line else (rows(*values), None, len(values))
        self.arrived = time.perf_counter()
        self.deadline = self.arrived + deadline_s

    def answered(self, batch, start):
        self.told.append((self.name, batch.answers_of(start, self.rows)["prediction"].ravel().tolist()))

    def refused(self, problem):
        self.told.append((self.name, problem))


def test_whoever_submits_is_told_once_and_later_and_not_at_all_after_withdrawing(versions):
    async def ask():
        lanes, told = Doubling(), []
        coalescer = coalescer_of(lanes, max_waiting_rows=2)
        coalescer.submit(Noting(told, "first", versions["line"], 1))
        assert told == []
        await turns()
        coalescer.submit(Noting(told, "late", versions["line"], 2, deadline_s=1e-6))
        gone = Noting(told, "gone", versions["line"], 3)
        coalescer.submit(gone)
        coalescer.withdraw(gone)
        await turns()
        lanes.reply()
        await turns()
        assert (coalescer.rows_waiting, lanes.out) == (0, [])
        return told

    (late, passed), (first, answers) = asyncio.run(ask())
    assert (late, type(passed)) == ("late", DeadlinePassed)
    assert (first, answers) == ("first", [2])


class Breaking(Noting):
    """A job that fails whatever it is told."""

    def answered(self, batch, start):
        super().answered(batch, start)
        raise RuntimeError

    def refused(self, problem):
        super().refused(problem)
        raise RuntimeError


@pytest.mark.parametrize("outcome", ["answered", "late", "failed", "lost"])
def test_a_job_that_fails_when_it_is_told_harms_no_other(versions, outcome, monkeypatch):
    async def ask():
        told, lanes = [], Doubling(at_once=outcome != "late")
        lanes.failing, lanes.killing = (lambda _: outcome == "failed"), (lambda _: outcome == "lost")
        coalescer = coalescer_of(lanes)
        for name, kind in (("breaking", Breaking), ("mate", Noting)):
            coalescer.submit(kind(told, name, versions["line"], 1, deadline_s=0.1))
        await asyncio.sleep(0.25)
        assert coalescer.rows_waiting == 0
        return [(name, type(said)) for name, said in told]

    kind = {"answered": list, "late": DeadlinePassed}.get(outcome, ModelFailed)
    assert run_in_own_time(ask(), monkeypatch) == [("breaking", kind), ("mate", kind)]


def test_a_deadline_that_is_far_passes_as_well_whether_the_job_waits_or_is_out(versions, monkeypatch):
    async def ask():
        lanes, told = Doubling(), []
        coalescer = coalescer_of(lanes)
        coalescer.submit(Noting(told, "out", versions["line"], 1, deadline_s=0.1))
        await turns()
        coalescer.submit(Noting(told, "waiting", versions["line"], 2, deadline_s=0.1))
        coalescer.submit(Noting(told, "patient", versions["line"], 3, deadline_s=9.0))
        await asyncio.sleep(0.25)
        assert coalescer.rows_waiting == 1
        lanes.reply()
        await turns()
        lanes.reply()
        await turns()
        return told

    told = dict(run_in_own_time(ask(), monkeypatch))
    assert isinstance(told.pop("out"), DeadlinePassed)
    assert isinstance(told.pop("waiting"), DeadlinePassed)
    assert told == {"patient": [6]}


@given(st.lists(st.lists(st.floats(-1e30, 1e30) | st.just(1e39), min_size=1, max_size=3), min_size=1, max_size=6))
def test_lines_go_with_matrices_and_one_that_no_graph_can_read_is_refused_alone(versions, jobs):
    async def ask():
        lanes, told = Doubling(at_once=True), []
        coalescer = coalescer_of(lanes)
        for name, values in enumerate(jobs):
            if len(values) == 1:
                coalescer.submit(Noting(told, name, versions["line"], line=values))
            else:
                coalescer.submit(Noting(told, name, versions["line"], *[min(value, 1e30) for value in values]))
        while len(told) < len(jobs):
            await turns(1)
        return dict(told)

    told = asyncio.run(ask())
    for name, values in enumerate(jobs):
        if values == [1e39]:
            assert (told[name].row, told[name].feature) == (0, "x")
        else:
            right = np.array([min(value, 1e30) for value in values], np.float32) * 2
            np.testing.assert_array_equal(np.array(told[name], np.float32), right)


class Tripling:
    """A session that triples, or fails on a 13."""

    def __init__(self) -> None:
        self.ran = []

    def run(self, matrix):
        self.ran.append(len(matrix))
        if (matrix == 13).any():
            raise RuntimeError
        return {"prediction": matrix * 3}


class Here:
    """What `Inline` offers: one session for requests of up to so many rows."""

    def __init__(self, most_rows) -> None:
        self.tripling = Tripling()
        self.inline_session = InlineSession(self.tripling.run, most_rows)

    def session(self, _):
        return self.inline_session


def test_small_requests_are_computed_here_four_times_as_many_rows_together_and_large_ones_are_sent(versions):
    async def ask():
        lanes, here = Doubling(at_once=True), Here(most_rows=2)
        coalescer = coalescer_of(lanes, inline=here)
        answers = await asyncio.gather(*start(coalescer, versions["line"], rows(4, 5, 6)))
        answers += await asyncio.gather(*start(coalescer, versions["line"], *[rows(1, 2)] * 4, rows(3)))
        return [answer["prediction"].ravel().tolist() for answer in answers], here.tripling.ran, len(lanes.sent)

    answers, ran, sent = asyncio.run(ask())
    assert answers == [[8, 10, 12], *[[3, 6]] * 4, [9]]
    assert (ran, sent) == ([8, 1], 1)


def test_a_batch_that_fails_here_is_repeated_job_by_job(versions):
    async def ask():
        coalescer = coalescer_of(Doubling(at_once=True), inline=Here(most_rows=10))
        return await asyncio.gather(
            *start(coalescer, versions["line"], rows(1), rows(13), rows(2)), return_exceptions=True
        )

    one, guilty, two = asyncio.run(ask())
    assert (one["prediction"].item(), two["prediction"].item()) == (3, 6)
    assert isinstance(guilty, ModelFailed)
