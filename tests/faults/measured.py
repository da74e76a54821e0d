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
