"""The private folder of a server that runs, for its sockets and counts; nothing of it stays, whatever ends the server.

A server that is killed takes all its processes along, so its folder is left to the next start. That one knows it by
the file OWNER, and its owner to be gone by the lock on the folder: the kernel keeps it until the last process of a
server has ended. OWNER is made under the lock, so a folder with OWNER and without a lock is nobody's any more.
systemd-tmpfiles, which clears /tmp of what is old, passes over folders that are locked.
"""

import contextlib
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from models.files import lock_folder

PREFIX = "rowcast-"
OWNER = "supervisor.pid"
"""File in the folder that says who made it, for people."""

log = logging.getLogger(__name__)


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """A new folder for this process and its children alone, removed at the end.

    Raises:
        OSError: there is no room for it.
    """
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))  # mode 0700
    lock = None
    try:
        with contextlib.suppress(OSError):  # a file system without locks: then nobody else removes it
            lock = lock_folder(folder)
        if lock is not None:
            (folder / OWNER).write_text(f"{os.getpid()}\n")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_what_killed_servers_left(where: Path) -> None:
    """Remove this user's folders of servers of which no process lives."""
    for folder in sorted(where.glob(f"{PREFIX}*")):
        with contextlib.suppress(OSError):  # it is somebody's, or has just been removed
            if not _is_of_a_server(folder):
                continue
            lock = lock_folder(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
            log.info("removed %s, which a server that was killed had left", folder)


def _is_of_a_server(folder: Path) -> bool:
    made, owner = folder.lstat(), (folder / OWNER).lstat()  # links are followed by neither
    return stat.S_ISDIR(made.st_mode) and stat.S_ISREG(owner.st_mode) and made.st_uid == owner.st_uid == os.geteuid()
