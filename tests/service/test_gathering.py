import asyncio

import pytest

from service.batching.frames import Reply, Status
from service.batching.gathering import Gathering, Line
from tests.service.own_time import run_in_own_time
from tests.service.test_coalescer import Doubling, coalescer_of, rows, start, turns

FLAT = [(1, 0.05), (31, 0.05)]


def learned(*batches):
    gathering = Gathering()
    for number, seconds in batches:
        gathering.learn("key", number, seconds)
    return gathering


def wait_s(gathering, number=3, most_rows=4096, *, is_out=False, since_s=0.0, returned_s=1.0):
    return gathering.wait_s("key", number, most_rows, is_out=is_out, since_s=since_s, returned_s=returned_s)


def test_a_batch_waits_where_few_rows_take_as_long_as_many():
    assert wait_s(learned(*FLAT)) == pytest.approx(0.0025)
    assert wait_s(learned(*FLAT), since_s=0.001) == pytest.approx(0.0015)
    assert wait_s(learned(*FLAT), since_s=0.03, returned_s=0.001) == pytest.approx(0.0015)
    assert wait_s(learned(*FLAT), is_out=True, since_s=0.03) == pytest.approx(0.02)


@pytest.mark.parametrize(
    "asked",
    [{"number": 31}, {"number": 16, "most_rows": 16}, {"since_s": 0.1}, {"is_out": True, "since_s": 0.06}],
    ids=["as many as ever", "as many as may be", "long enough", "as long as a batch takes"],
)
def test_and_goes_once_that_is_enough(asked):
    assert wait_s(learned(*FLAT), **asked) == 0


@pytest.mark.parametrize(
    "batches",
    [[], [(1, 0.01), (30, 0.3)], [(1, 0.001), (30, 0.001)], [(30, 0.05)] * 16, [*FLAT, *[(20, 0.0001)] * 16]],
    ids=[
        "nothing is known",
        "rows cost what they cost",
        "batches are short",
        "all are alike",
        "they have become short",
    ],
)
def test_and_does_not_wait_where_nothing_is_gained(batches):
    assert wait_s(learned(*batches)) == 0


def test_one_batch_that_was_held_up_says_nothing_of_its_rows():
    assert wait_s(learned(*FLAT, (31, 2.0), (30, 0.05))) > 0


def test_where_all_batches_are_alike_what_was_known_before_holds():
    assert wait_s(learned(*FLAT, *[(31, 0.05)] * 16)) > 0


@pytest.mark.parametrize("calm", [1, 16])
def test_what_holds_up_all_large_batches_for_a_while_is_forgotten(calm):
    held_up = learned((1, 0.05), *[(31, 0.09)] * 20)
    assert not held_up.is_merged("key", 62)
    for _ in range(calm):
        held_up.learn("key", 31, 0.05)
    assert held_up.is_merged("key", 62)


def test_and_so_is_what_batches_took_long_ago():
    slower = learned((1, 0.05), (31, 0.05), *[(1, 0.05), (31, 0.31)] * 256)
    assert not slower.is_merged("key", 62)


def reply(lanes, seconds=0.05):
    """Answer the oldest batch that is out."""
    _, matrix, done = lanes.out.pop(0)
    done(Reply(Status.OK, seconds, seconds, answers={"prediction": matrix * 2}))


def test_those_who_ask_again_go_together(versions, monkeypatch):
    async def ask():
        lanes = Doubling()
        coalescer = coalescer_of(lanes)
        jobs = start(coalescer, versions["line"], rows(1))
        await turns()
        jobs += start(coalescer, versions["line"], *[rows(value) for value in range(8)])
        await turns()
        reply(lanes)
        await turns()
        reply(lanes)  # now it is known that eight rows take as long as one
        jobs += start(coalescer, versions["line"], rows(1))
        await turns()
        assert len(lanes.sent) == 2
        jobs += start(coalescer, versions["line"], *[rows(value) for value in range(7)])
        await turns()
        assert [len(matrix) for matrix in lanes.sent] == [1, 8, 8]
        assert lanes.together == versions["line"].key  # a worker may have the like of other processes
        reply(lanes)
        jobs += start(coalescer, versions["line"], rows(1))
        async with asyncio.timeout(5):
            while len(lanes.sent) < 4:  # noqa: ASYNC110 - the lanes are a list
                await asyncio.sleep(0.001)
        reply(lanes)
        await asyncio.gather(*jobs)
        return [len(matrix) for matrix in lanes.sent]

    assert run_in_own_time(ask(), monkeypatch) == [1, 8, 8, 1]


def test_a_batch_that_is_out_for_too_long_keeps_nobody(versions, monkeypatch):
    async def ask():
        lanes = Doubling(lanes=2)
        coalescer = coalescer_of(lanes)
        jobs = start(coalescer, versions["line"], rows(1))
        await turns()
        jobs += start(coalescer, versions["line"], *[rows(value) for value in range(8)])
        await turns()
        reply(lanes, 0.02)
        reply(lanes, 0.02)
        jobs += start(coalescer, versions["line"], *[rows(value) for value in range(8)])
        await turns()
        assert len(lanes.out) == 1  # and never comes back
        jobs += start(coalescer, versions["line"], rows(1))
        await turns()
        assert len(lanes.out) == 1
        async with asyncio.timeout(5):
            while len(lanes.out) < 2:  # noqa: ASYNC110 - the lanes are a list
                await asyncio.sleep(0.001)
        while lanes.out:
            reply(lanes)
        await asyncio.gather(*jobs)

    run_in_own_time(ask(), monkeypatch)


@pytest.mark.parametrize(
    ("batches", "rows", "seconds"),
    [
        ([], 1, 0.0),
        ([(8, 0.05), (8, 0.4)], 1, 0.05),
        ([(1, 0.01), (31, 0.31), (1, 0.5)], 1, 0.01),
        ([(1, 0.01), (31, 0.31), (1, 0.5)], 11, 0.11),
        ([(1, 0.01), (31, 0.31), *[(31, 0.31)] * 16], 1, 0.01),
        ([(1, 0.3), (31, 0.1)], 100, 0.0),
    ],
    ids=["nothing is known", "one was held up", "a row", "some rows", "as was known before", "rows save time"],
)
def test_what_so_many_rows_take_is_read_off_the_batches_that_nothing_held_up(batches, rows, seconds):
    line = Line()
    for each in batches:
        line.learn(*each)
    assert line.least_s(rows) == pytest.approx(seconds)
