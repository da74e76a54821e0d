"""What processes cost, by the kernel's own books under /proc: processor time, memory, and what else is going on."""

import os
import platform
from pathlib import Path

_PROC = Path("/proc")


def is_readable() -> bool:
    """Whether this kernel keeps such books."""
    return (_PROC / "stat").exists()


def describe() -> dict[str, object]:
    """What a reader wants to know of the machine; nothing that names it."""
    models = [line for line in _read("cpuinfo").splitlines() if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "python": platform.python_version(),
    }


def tree(root: int) -> list[int]:
    """A process and all below it."""
    below: dict[int, list[int]] = {}
    for entry in _PROC.glob("[0-9]*"):
        fields = _read(f"{entry.name}/stat").rpartition(")")[2].split()
        if fields:  # it has not ended meanwhile
            below.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for process in found:
        found += below.get(process, [])
    return found


def processor_s(processes: list[int]) -> float:
    """Seconds of a core that processes took so far, all their threads, to the microsecond where the kernel says so."""
    total = 0.0
    for process in processes:
        for task in _PROC.glob(f"{process}/task/*"):
            counted = _read(f"{process}/task/{task.name}/schedstat").split()
            total += int(counted[0]) / 1e9 if counted else 0.0
    return total


def memory_mb(process: int) -> float:
    """Proportional set size: its own pages, and of those it shares its part."""
    lines = _read(f"{process}/smaps_rollup").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def busy_s() -> float:
    """Seconds that all cores together were not idle since the machine started; 0 where nobody counts."""
    fields = _read("stat").split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq = (int(field) for field in fields[:7]) if fields else (0,) * 7
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def command_of(process: int) -> str:
    """How it was started."""
    return _read(f"{process}/cmdline").replace("\0", " ").strip()


def _read(path: str) -> str:
    try:
        return (_PROC / path).read_text()
    except OSError:
        return ""
