"""What holds for every test: how its examples are chosen, that no runtime reports to its maker, and nothing is left."""

import os
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

# No deadline and no word about slowness: a busy machine is no bug. Fixtures are made once for all examples of a test,
# which knows it. The same examples every time: a red test is red for everybody; `--hypothesis-profile=search` looks for
# new ones.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.register_profile("search", PATIENT)
settings.register_profile("gate", PATIENT, derandomize=True, database=None)
settings.load_profile("gate")


@pytest.fixture(autouse=True)
def _same_numbers_whatever_ran_before(request, monkeypatch):
    """A module's generator `RNG` begins anew with each test."""
    if hasattr(request.module, "RNG"):
        monkeypatch.setattr(request.module, "RNG", np.random.default_rng(0))


@pytest.fixture(autouse=True, scope="session")
def _what_killed_servers_leave_goes():
    """Most tests end their servers by force."""
    with tempfile.TemporaryDirectory(prefix="rowcast-tests-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        yield
