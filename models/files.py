"""Files that a crash leaves whole and a reader never sees half, and locks that end with whoever holds them."""

import contextlib
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from models.errors import BadVersion


def read_plain(folder: Path, path: str, place: str, at_most: int = sys.maxsize) -> bytes:
    """The bytes of a file that is no link, device or pipe (reading one of those could lead elsewhere or never end).

    Of a file that is larger than `at_most`, one byte more than that.
    """
    try:
        descriptor = os.open(folder / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BadVersion(place, f"{path} is absent; publish it again") from None
    except OSError as error:
        reason = "is a link, no plain file" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        raise BadVersion(place, f"{path} {reason}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadVersion(place, f"{path} is no plain file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(min(status.st_size, at_most) + 1)
    except OSError as error:
        raise BadVersion(place, f"{path} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def state_of(folder: Path, paths: Iterable[str]) -> tuple[int, ...]:
    """Numbers that change when one of these files of a folder does, or what the folder lists; nothing is read."""
    seen = [folder, *(folder / path for path in paths)]
    state: list[int] = []
    for path in dict.fromkeys([*seen, *(path.parent for path in seen[1:])]):
        try:
            found = path.lstat()
        except OSError:
            state.append(0)
        else:
            state += (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return tuple(state)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that a crash cannot take them away with what was put inside."""
    if not folder.parent.is_dir():
        make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)  # even if the folder was there: who made it may have died before this line


def write(path: Path, raw: bytes | memoryview) -> None:
    """Make a file that is not there yet; it is on the disk when this returns."""
    with path.open("xb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, raw: bytes | memoryview, mark: str = "new") -> None:
    """Put new bytes in place of a file: a reader sees the old or the new, a crash leaves one of them.

    Those who may replace it at the same time, without a lock, need a `mark` each: the suffix of the file beside it.
    """
    beside = path.with_name(f".{path.name.lstrip('.')}.{mark}")
    beside.unlink(missing_ok=True)
    try:
        write(beside, raw)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a file, or what a folder lists, on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """While this lasts, nobody else has locked the file, which is made if it is not there."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)  # less the umask
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def lock_folder(folder: Path) -> int:
    """A descriptor that locks the folder until it is closed.

    Raises:
        BlockingIOError: somebody else has locked it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
