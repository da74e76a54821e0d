import asyncio
import time

from service.processes import waking
from service.processes.waking import next_turn


def test_one_timer_wakes_everybody_who_has_so_long_to_sleep():
    async def sleep():
        sleepers = [asyncio.create_task(next_turn(every_s)) for every_s in (0.5, 0.25, 0.5)]
        await asyncio.sleep(0)
        turns = [at for _, at in waking._turns]
        await asyncio.gather(*sleepers)
        return turns, time.monotonic()

    while time.monotonic() % 0.5 < 0.25:  # the next multiple of one is that of the other
        time.sleep(0.01)
    turns, woke = asyncio.run(sleep())
    assert len(turns) == 1
    assert turns[0] <= woke
    assert not waking._turns


def test_one_that_is_cancelled_wakes_nobody_and_keeps_nobody_asleep():
    async def cancel_one():
        first, second = (asyncio.create_task(next_turn(0.1)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await second
        return first.cancelled()

    assert asyncio.run(cancel_one())
