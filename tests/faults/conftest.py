"""Servers to be harmed; how they are started is as in tests/server."""

import os

from tests.server.conftest import repository, start

__all__ = ["repository", "start"]

FAULT_S = float(os.environ.get("FAULT_S", "20"))
"""How long each fault is repeated."""
