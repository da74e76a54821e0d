"""A container is given a part of a machine, by a control group: the server counts that part, and not the machine."""

import contextlib
import os
from pathlib import Path

import pytest

from tests.server.conftest import until

pytestmark = pytest.mark.server


@pytest.fixture
def group():
    """A control group, where this machine lets us make one."""
    for above, quota in (("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us"), ("/sys/fs/cgroup", "cpu.max")):
        path = Path(above, f"rowcast-cores-{os.getpid()}")
        with contextlib.suppress(OSError):
            path.mkdir()
        if (path / quota).exists():
            break
        with contextlib.suppress(OSError):
            path.rmdir()
    else:
        pytest.skip("this machine makes no control groups of processors")
    yield path / quota
    until(lambda: not (path / "cgroup.procs").read_text(), what="nobody is left in the group")
    path.rmdir()


@pytest.mark.parametrize(("quota_us", "expected"), [(90_000, 1), (150_000, 2)])
def test_there_are_as_many_api_processes_as_the_quota_has_cores(start, group, quota_us, expected):
    """As with `docker run --cpus 0.9` and Kubernetes' limits, on a machine of more cores."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one core")
    group.write_text(str(quota_us) if "quota" in group.name else f"{quota_us} 100000")
    inside = ("sh", "-c", f'echo $$ > {group.parent}/cgroup.procs && exec "$@"', "sh")
    server = start(api_processes="", before=inside)
    assert server.answers()
    until(lambda: len(server.apis) == expected, what="as many API processes")
    server.close()
