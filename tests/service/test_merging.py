import threading
import time

import numpy as np
import pytest

from service.workers.merging import Merging
from service.workers.turns import Turns

ROWS = [np.full((rows, 1), rows, np.float32) for rows in (1, 2, 3)]


class Session:
    """Doubles its rows once it is let; `took` is what each of its runs had."""

    def __init__(self) -> None:
        self.took, self.goes, self.begun = [], threading.Event(), threading.Semaphore(0)
        self.fails = False

    def run(self, matrix, _is_alone):
        self.took.append(len(matrix))
        self.begun.release()
        assert self.goes.wait(60)
        if self.fails and len(matrix) > len(ROWS[2]):
            raise MemoryError
        return {"prediction": matrix * 2}, None


@pytest.fixture
def session():
    return Session()


def merging(most_rows=4096, batches=((1, 30.0), (64, 30.0)), longest_s=60.0, turns=None):
    """What a worker knows after batches of so many rows and seconds."""
    known = Merging(most_rows, turns or Turns(), longest_s)
    for rows, seconds in batches:
        known._line.learn(rows, seconds)
    return known


def together(known, session, matrices):
    """The answers to batches that come while the first of them is being computed."""
    answers = {}

    def ask(matrix):
        answers[len(matrix)] = known.run(matrix, session.run).answers["prediction"]

    threads = [threading.Thread(target=ask, args=(matrix,)) for matrix in matrices]
    threads[0].start()
    assert session.begun.acquire(timeout=60)
    for thread in threads[1:]:
        thread.start()
    while len(known._waiting) + len(session.took) < len(matrices):
        time.sleep(0.001)
    session.goes.set()
    for thread in threads:
        thread.join(60)
    return answers


def test_batches_that_come_while_another_is_computed_go_in_one_run(session):
    answers = together(merging(), session, ROWS)
    assert session.took == [1, 5]
    for matrix in ROWS:
        np.testing.assert_array_equal(answers[len(matrix)], matrix * 2)


@pytest.mark.parametrize(
    "known",
    [
        merging(batches=()),
        merging(batches=((1, 0.01), (64, 0.64))),
        merging(batches=((1, 0.001), (64, 0.001))),
        merging(longest_s=10.0),
        merging(most_rows=2),
    ],
    ids=["nothing is known", "rows cost what they cost", "runs are short", "runs are long", "so many may not go"],
)
def test_and_otherwise_none_waits_for_another(known, session):
    together(known, session, ROWS)
    assert sorted(session.took) == [1, 2, 3]


def test_no_run_has_more_rows_than_it_may(session):
    together(merging(most_rows=4), session, ROWS)
    assert sorted(session.took) == [1, 2, 3]


def test_where_a_run_of_several_fails_only_its_own_batch_does(session):
    session.fails = True
    known, ends = merging(), []
    asked = threading.excepthook
    threading.excepthook = lambda args: ends.append(args.exc_type)
    try:
        answers = together(known, session, ROWS)
    finally:
        threading.excepthook = asked
    assert ends == [MemoryError]
    assert session.took[:2] == [1, 5]
    assert sorted(answers) in ([1, 2], [1, 3])


def test_who_was_just_answered_is_waited_for():
    """Two processes whose batches once met go on together."""
    known, took = merging(batches=((1, 0.09), (64, 0.09))), []

    def run(matrix, _is_alone):
        took.append(len(matrix))
        return {"prediction": matrix}, None

    known._returned, known._expected_rows = time.perf_counter() + 30, 5  # a run of five rows came back
    threads = [threading.Thread(target=known.run, args=(matrix, run)) for matrix in ROWS[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert took == [5]


def test_long_runs_of_several_versions_take_turns(session):
    turns = Turns(1, 1e6)
    versions, done = [merging(batches=[(1, 0.05)], turns=turns) for _ in range(2)], {}

    def ask(number):
        done[number] = versions[number].run(ROWS[0], session.run)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    threads[0].start()
    assert session.begun.acquire(timeout=60)
    threads[1].start()
    while not versions[1]._out:
        time.sleep(0.001)
    assert len(session.took) == 1
    session.goes.set()
    for thread in threads:
        thread.join(60)
    assert session.took == [1, 1]


def test_what_a_run_waits_is_not_what_its_rows_take(session):
    turns = Turns(1, 0.2)
    known = merging(batches=[(1, 0.05)], turns=turns)
    session.goes.set()
    with turns.turn(0.05):
        computed = known.run(ROWS[0], session.run)
    _, computed_s = known._line._batches[-1]
    assert computed.seconds - computed_s >= 0.0099
    assert computed.core_s == computed.seconds


def test_what_rows_take_is_what_they_take_of_one_core():
    """A run that several cores share takes less time, and rows do not cost less for that."""
    known, alone = merging(batches=[(1, 0.05)], turns=Turns(1)), []

    def run(matrix, is_alone):
        alone.append(is_alone)
        return {"prediction": matrix}, 40.0

    computed = known.run(ROWS[0], run)
    assert alone == [True]
    assert computed.core_s == 40.0
    assert computed.seconds < 40.0
    assert known._line._batches[-1] == (1, 40.0)
