"""When an API process wakes by itself: as seldom as it may, and once for all that is due.

To wake costs more than what is then looked at, some 0.1 ms on a core that has slept.
"""

import asyncio
import time

_SLACK_S = 0.001  # a timer may go off a little early, and would find that its turn has not come


async def next_turn(every_s: float) -> None:
    """Sleep until the clock shows a multiple of `every_s`, as everybody else does who has so long to sleep."""
    await asyncio.sleep(every_s - time.monotonic() % every_s + _SLACK_S)
