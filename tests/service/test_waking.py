import asyncio
import time

from service.processes import waking
from service.processes.waking import next_turn


def turns_of_this_loop():
    return [at for loop, at in waking._turns if loop is asyncio.get_running_loop()]


def test_one_timer_wakes_everybody_who_has_so_long_to_sleep(monkeypatch):
    async def sleep():
        sleepers = [asyncio.create_task(next_turn(every_s)) for every_s in (2.0, 1.0, 2.0)]
        await asyncio.sleep(0)
        turns = turns_of_this_loop()
        for one in sleepers:
            one.cancel()
        return turns

    monkeypatch.setattr(time, "monotonic", lambda: 1001.5)
    assert asyncio.run(sleep()) == [1002.0]


def test_nobody_wakes_before_their_turn_and_nothing_is_left_of_it():
    async def sleep():
        began = time.monotonic()
        await next_turn(0.1)
        return began, time.monotonic(), turns_of_this_loop()

    began, woke, left = asyncio.run(sleep())
    assert began // 0.1 < woke // 0.1
    assert not left


def test_one_that_is_cancelled_wakes_nobody_and_keeps_nobody_asleep():
    async def cancel_one():
        first, second = (asyncio.create_task(next_turn(0.1)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await second
        return first.cancelled()

    assert asyncio.run(cancel_one())
