"""A control group, as a container is in one: it bounds what the processes in it may have of the machine."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.server.conftest import until


@dataclass
class Group:
    """Attributes:
    path: the group's folder.
    most: the file in it that bounds.
    """

    path: Path
    most: Path

    @property
    def before(self) -> Sequence[str]:
        """What starts a process within it."""
        return ("sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh")


@contextlib.contextmanager
def control_group(controller: str, first: str, second: str) -> Iterator[Group]:
    """A group of its own, where this machine lets us make one; `first` and `second` name its file in either version."""
    for above, most in ((f"/sys/fs/cgroup/{controller}", first), ("/sys/fs/cgroup", second)):
        path = Path(above, f"rowcast-{controller}-{os.getpid()}")
        with contextlib.suppress(OSError):
            path.mkdir()
        if (path / most).exists():
            break
        with contextlib.suppress(OSError):
            path.rmdir()
    else:
        pytest.skip(f"this machine makes no control groups of {controller}")
    yield Group(path, path / most)
    until(lambda: not (path / "cgroup.procs").read_text(), what="nobody is left in the group")
    path.rmdir()
