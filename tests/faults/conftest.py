"""Servers to be harmed; how they are started is as in tests/server."""

import os
import resource

from tests.server.conftest import repository, start

__all__ = ["repository", "start"]

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
