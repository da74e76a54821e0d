"""Servers to be harmed."""

import os
import resource

import pytest

from tests.server.conftest import folders, repository, starting

__all__ = ["folders", "repository"]


@pytest.fixture
def start(repository, tmp_path):
    """Starts servers with the settings that ship: what they do in time is what is tested here."""
    yield from starting(repository, tmp_path, {})


FAULT_S = float(os.environ.get("FAULT_S", "20"))
"""How long each fault is repeated."""

RUNS = int(os.environ.get("FAULT_RUNS", "3"))
"""How often each way to start and end is tried."""

BODIES = int(os.environ.get("FAULT_BODIES", "20000"))
"""How many bodies nobody wrote are sent; a million take some minutes."""

SOAK_S = 60 * float(os.environ.get("FAULT_SOAK_MIN", "10"))
"""How long the server is used at half its capacity while workers die."""

_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # clients of thousands of connections
