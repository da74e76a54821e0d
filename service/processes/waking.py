"""When an API process wakes by itself: as seldom as it may, and once for all that is due.

To wake costs more than what is then looked at, 0.1 to 0.7 ms on a core that has slept.
"""

import asyncio
import math
import time

_SLACK_S = 0.001  # a timer may go off a little early, and would find that its turn has not come

_turns: dict[tuple[asyncio.AbstractEventLoop, float], asyncio.Future[None]] = {}
"""By event loop and time: one timer wakes everybody. Timers of the same time, rounded to ms one by one, would not."""


async def next_turn(every_s: float) -> None:
    """Sleep until the clock shows a multiple of `every_s`, as everybody else does who has so long to sleep."""
    loop, now = asyncio.get_running_loop(), time.monotonic()
    at = round((math.floor(now / every_s) + 1) * every_s, 6)
    turn = _turns.get((loop, at))
    if turn is None:
        turn = _turns[loop, at] = loop.create_future()
        loop.call_later(at - now + _SLACK_S, lambda: _turns.pop((loop, at)).set_result(None))
    await asyncio.shield(turn)  # who is cancelled leaves the others asleep
