"""A container is given a part of a machine, by a control group: the server counts that part, and not the machine."""

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving import graphs
from tests.server.conftest import until
from tests.server.groups import control_group

pytestmark = pytest.mark.server


@pytest.fixture
def group():
    with control_group("cpu", "cpu.cfs_quota_us", "cpu.max") as group:
        yield group


@pytest.mark.parametrize(("quota_us", "expected"), [(90_000, 1), (150_000, 2)])
def test_there_are_as_many_api_processes_as_the_quota_has_cores(start, group, quota_us, expected):
    """As with `docker run --cpus 0.9` and Kubernetes' limits, on a machine of more cores."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one core")
    group.most.write_text(str(quota_us) if "quota" in group.most.name else f"{quota_us} 100000")
    server = start(api_processes="", before=group.before)
    assert server.answers()
    until(lambda: len(server.apis) == expected, what="as many API processes")
    server.close()


def test_a_long_run_has_as_many_threads_as_the_quota_has_cores(start, group, repository):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one core")
    graphs.publish(repository, "slow", features=2, hidden=16, products=60)
    row, servers = {"instances": [[0.25, 0.5]]}, []
    for quota_us in (90_000, 150_000):
        group.most.write_text(str(quota_us) if "quota" in group.most.name else f"{quota_us} 100000")
        server = start(api_processes=1, before=group.before)
        answers = [server.client.post("/v1/models/slow:predict", json=row).json()["predictions"] for _ in range(3)]
        assert answers == [answers[0]] * 3
        servers.append(server)

    def threads():
        """Of each server's worker, which has one for each connection, too, once it has accepted that."""
        return [len(list(Path(f"/proc/{worker}/task").iterdir())) for server in servers for worker in server.workers]

    until(lambda: np.diff(threads()).tolist() == [1], what="one thread more")
    for server in servers:
        server.close()
