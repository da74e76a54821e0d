"""An event loop in a time of its own, in which a busy machine is as fast as an idle one."""

import asyncio
import selectors
import time


class _Hurrying(selectors.DefaultSelector):
    """Lets the time pass until which it would have waited."""

    now = 0.0

    def select(self, timeout=None):
        if timeout is not None:
            self.now += max(0.0, timeout)
            timeout = 0
        return super().select(timeout)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Hurrying()
        super().__init__(self._clock)

    def time(self):
        return self._clock.now


def run_in_own_time(work, monkeypatch):
    """What a coroutine returns. Computing takes no time, sleeping none of the machine's; it has no threads."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        monkeypatch.setattr(time, "perf_counter", runner.get_loop().time)
        return runner.run(work)
