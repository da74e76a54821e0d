"""How many cores this process may use: what a container is given may be less than what the machine has."""

import contextlib
import math
import os
from pathlib import Path, PurePosixPath

_GROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that it may run on, and no more than its control groups let it use of them at a time; at least 1.

    A part of a core counts as one: what is there is to be used.
    """
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), *_quotas())))


def _quotas() -> list[float]:
    """What Docker's --cpus and Kubernetes' limits have set for this process or for a group that it is in, in cores."""
    found = [math.inf]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            mounted = [_GROUPS / controllers, _GROUPS / "cpu"] if controllers else [_GROUPS, _GROUPS / "unified"]
            inside = PurePosixPath(path.lstrip("/"))  # as the host sees it, where the container has no view of its own
            for group in (mount / part for mount in mounted for part in (inside, *inside.parents)):
                found += _quota_of(group)
    return found


def _quota_of(group: Path) -> list[float]:
    """The quota of one control group, of version 2 or 1; none where there is none."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return [int(quota) / int(period)]  # "max" is no number
    with contextlib.suppress(OSError, ValueError):
        quota = (group / "cpu.cfs_quota_us").read_text()
        if int(quota) > 0:
            return [int(quota) / int((group / "cpu.cfs_period_us").read_text())]
    return []
