"""What a server takes of the machine."""

import contextlib
import os
import time
from pathlib import Path

from tests.server.conftest import START_S, until


def memory_mb(server) -> float:
    """Memory of all its processes, each shared page counted once (PSS)."""
    total = 0
    for one in server.family():
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def living(server) -> int:
    """How many inference workers listen: more are there while some are starting."""
    for pid in server.workers:
        with contextlib.suppress(OSError):
            works_in = Path(f"/proc/{pid}/cwd").readlink()
            if works_in.name != "nothing":  # it has just begun
                continue
            prefix = f"{works_in.parent}/worker-"
            lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
            return len({line[7] for line in lines if line[3] == "00010000" and line[-1].startswith(prefix)})
    return 0


def hit_every_two_seconds(server, number, workers, seconds):
    """Send a signal to the worker that has lived the longest, again and again.

    Each time all must have been up for a second: a busy machine takes longer than 2 s to start the next one.
    """
    end = time.monotonic() + seconds
    until(lambda: living(server) == workers, START_S)
    while time.monotonic() < end:
        due = time.monotonic() + 2
        victim = server.workers[0]
        os.kill(victim, number)
        until(lambda victim=victim: victim not in server.workers and living(server) == workers, START_S)
        time.sleep(max(1.0, due - time.monotonic()))
