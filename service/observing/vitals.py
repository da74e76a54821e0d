"""What the processes of the server use, when they started, what they may hold; looked up at each scrape."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_TRIES = 5
_KNOWN_S = 60.0
"""How long it is known what memory a process takes. To find out, the kernel walks through its pages: 4 ms of a core,
which requests may want (docs/decisions/0086-what-an-api-process-does-at-a-stretch.md)."""


class Vitals(Collector):
    """One server's."""

    def __init__(self, waiting_rows_limit: int, sockets: Sequence[Path], ups: Sequence[Path], first: int) -> None:
        """`sockets` are those on which the inference workers listen, `ups` the files that API processes make.

        `first` is the process that all others are below.
        """
        self._limit, self._sockets, self._ups, self._first = waiting_rows_limit, sockets, ups, first
        self._memory = Memory(_memory_bytes)

    def collect(self) -> Iterator[Metric]:
        cpu_s = _added_up(lambda: _family_of(self._first), _cpu_s)
        yield CounterMetricFamily("rowcast_cpu_seconds", "Processor time of all processes of the server", value=cpu_s)
        memory = self._memory.of(_family_of(self._first))
        yield GaugeMetricFamily("rowcast_memory_bytes", "Memory of all processes, shared pages once", value=memory)
        started = GaugeMetricFamily(
            "rowcast_worker_start_time_seconds",
            "When each inference worker began to listen, in Unix time",
            labels=["worker"],
        )
        for path in self._sockets:
            with contextlib.suppress(FileNotFoundError):  # it has not come up yet
                started.add_metric([path.stem], path.stat().st_mtime)
        yield started
        what = "Processes that died and have not come up again, or not yet come up"
        down = GaugeMetricFamily("rowcast_processes_down", what, labels=["kind"])
        for kind, files in (("api", self._ups), ("worker", self._sockets)):
            down.add_metric([kind], sum(not file.exists() for file in files))
        yield down
        what = "Rows that may wait before requests are shed"
        yield GaugeMetricFamily("rowcast_waiting_rows_limit", what, value=self._limit)


class Memory:
    """What processes take together, where few of them are looked at each time."""

    def __init__(self, look: Callable[[int], float], clock: Callable[[], float] = time.monotonic) -> None:
        """`look` says how many bytes a process takes now."""
        self._look, self._clock = look, clock
        self._known: dict[int, tuple[float, float]] = {}  # bytes, and when that was so

    def of(self, processes: Sequence[int]) -> float:
        """Their bytes: looks at those that are new, and at the one it saw longest ago if that is a minute."""
        now, before = self._clock(), self._known
        known = {process: before.get(process) or (self._look(process), now) for process in processes}
        longest = min(known, key=lambda process: known[process][1])
        if now - known[longest][1] >= _KNOWN_S:
            known[longest] = self._look(longest), now
        self._known = known
        return sum(taken for taken, _ in known.values())


def _family_of(first: int) -> list[int]:
    """A process and all that are below it."""
    family = [first]
    for one in family:  # which grows
        threads: list[Path] = []
        with contextlib.suppress(OSError):  # a process that has just ended
            threads = [*Path(f"/proc/{one}/task").iterdir()]
        for thread in threads:
            with contextlib.suppress(OSError):  # a thread that has
                family += [int(child) for child in (thread / "children").read_text().split()]
    return family


def _added_up(family: Callable[[], Sequence[int]], look: Callable[[int], float | None]) -> float:
    """What processes took together, looked at anew where one is gone meanwhile: a sum without it would go down."""
    took: list[float | None] = []
    for _ in range(_TRIES):
        took = [look(one) for one in family()]
        if None not in took:
            break
    return sum(filter(None, took))


def _cpu_s(process: int) -> float | None:
    """Of the process, and of those of its children that ended; None for one that is gone, whose parent has it then."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / _TICKS_PER_S
    return None


def _memory_bytes(process: int) -> float:
    """Its proportional set size: a page that several processes share counts once in their sum."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024.0 * int(line.split()[1])
    return 0.0
