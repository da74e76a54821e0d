"""What the processes of the server use, when they started, what they may hold; looked up at each scrape."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Vitals(Collector):
    """One server's; it is asked in an API process, whose parent is the parent of all others."""

    def __init__(self, waiting_rows_limit: int, sockets: Sequence[Path]) -> None:
        """`sockets` are those on which the inference workers listen."""
        self._limit, self._sockets = waiting_rows_limit, sockets

    def collect(self) -> Iterator[Metric]:
        processes = _family_of(os.getppid())
        cpu_s = sum(map(_cpu_s, processes))
        yield CounterMetricFamily("rowcast_cpu_seconds", "Processor time of all processes of the server", value=cpu_s)
        memory = sum(map(_memory_bytes, processes))
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
        what = "Rows that may wait before requests are shed"
        yield GaugeMetricFamily("rowcast_waiting_rows_limit", what, value=self._limit)


def _family_of(main: int) -> list[int]:
    """A process and its children."""
    family = [main]
    for thread in Path(f"/proc/{main}/task").glob("*"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            family += [int(child) for child in (thread / "children").read_text().split()]
    return family


def _cpu_s(process: int) -> float:
    """Of the process, and of those of its children that ended: a process that is replaced takes nothing away."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / _TICKS_PER_S
    return 0.0


def _memory_bytes(process: int) -> float:
    """Its proportional set size: a page that several processes share counts once in their sum."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024.0 * int(line.split()[1])
    return 0.0
