"""What a machine can do to a run, as one sentence each: no memory, no disk."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from models.errors import RowcastError
from models.files import lock_folder


class OutOfMemory(RowcastError):
    """There is not enough memory.

    Attributes:
        reason: what asked for how much, as far as that is known.
    """

    code = "out_of_memory"
    reason: str

    def __str__(self) -> str:
        return (
            f"not enough memory ({self.reason}); a smaller net.hidden or fit.batch, fewer fit.members or fewer columns "
            f"need less, and a table in Parquet is read in pieces when it is large"
        )


class DiskFailed(RowcastError):
    """A file could not be written.

    Attributes:
        place: which one.
        reason: in the system's words.
    """

    code = "disk_failed"
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place} could not be written: {self.reason}; nothing was published"


@contextmanager
def as_sentences(place: str) -> Iterator[None]:
    """Raise what the machine does to the block as a RowcastError; `place` is where files are written.

    Raises:
        OutOfMemory: Python, numpy, or torch on any device had no more.
        DiskFailed: the disk is full or fails.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfMemory(_first_line(error)) from None
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise OutOfMemory(_first_line(error)) from None
    except BrokenPipeError:  # no disk: whoever read what was said has gone
        raise
    except OSError as error:
        raise DiskFailed(str(error.filename or place), error.strerror or str(error)) from None


def check_that_it_can_be_written(place: Path) -> None:
    """Find out before hours of work whether a file or folder can be made there, or in the folder that is there.

    Raises:
        DiskFailed: it cannot be.
    """
    try:
        with tempfile.TemporaryFile(dir=_what_is_there(place)):
            pass
    except OSError as error:
        raise DiskFailed(str(place), error.strerror or str(error)) from None


def check_that_it_can_be_locked(place: Path) -> None:
    """The same of a folder's locks, which publishing takes and some network file systems do not have.

    Raises:
        DiskFailed: it cannot be.
    """
    try:
        os.close(lock_folder(_what_is_there(place)))
    except BlockingIOError:  # somebody has it locked
        pass
    except OSError as error:
        raise DiskFailed(str(place), f"its file system cannot lock: {error.strerror or error}") from None


def _what_is_there(place: Path) -> Path:
    return next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["it does not say for what"])[0][:200]
