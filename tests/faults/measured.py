"""What a server takes of the machine."""

import contextlib
from pathlib import Path


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
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            (counts,) = [line.partition(b"=")[2] for line in environment if line.startswith(b"PROMETHEUS_MULTIPROC")]
            prefix = f"{Path(counts.decode()).parent}/worker-"
            lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
            return len({line[7] for line in lines if line[3] == "00010000" and line[-1].startswith(prefix)})
    return 0
