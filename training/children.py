"""A forked process that does what it is given and ends with its parent.

It knows neither torch nor what it is for: `fitting/processes.py` has fits done so, `aside.py` what scikit-learn does.
"""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from models.errors import RowcastError

_PR_SET_PDEATHSIG = 1


Do = Callable[[Any, Callable[[Any], object]], Any]
"""What a child does with a task: it may tell something on the way, and answers."""


class LostProcess(RowcastError):
    """A child ended before it had answered.

    Attributes:
        exitcode: the status that it ended with, or minus the number of the signal that killed it.
    """

    code = "process_lost"
    exitcode: int

    def __str__(self) -> str:
        how = f"ended with status {self.exitcode}"
        if self.exitcode < 0:
            how = f"was killed by {signal.Signals(-self.exitcode).name}"
        if self.exitcode == -signal.SIGKILL:
            how += ", as the system does where memory is short"
        return f"a process of this run {how}; with OMP_NUM_THREADS=1 there is only one, which needs less memory"


class Child:
    """A child and the line to it.

    Attributes:
        connection: has something to hear when it is ready.
    """

    def __init__(self, do: Do, prepare: Callable[[], object], others: Sequence[Connection] = ()) -> None:
        """Fork it: it prepares itself, then does each task that it is given; `others` are lines of other children."""
        fork = multiprocessing.get_context("fork")
        self.connection, its_end = fork.Pipe()
        lines = (*others, self.connection)
        self._process = fork.Process(target=_serve, args=(do, prepare, its_end, lines, os.getpid()), daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for the parent, which kills
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns of any thread beside; those of this program hold no lock that a child asks for
                warnings.simplefilter("ignore", DeprecationWarning)
                self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        its_end.close()  # so that the line ends when the child does

    def give(self, task: object) -> None:
        """Send a task.

        Raises:
            LostProcess: the child has died.
        """
        with self._alive():
            self.connection.send(task)

    def hear(self) -> tuple[str, Any]:
        """What it says: "told" and something on the way, "done" and the answer, or "failed" and what was raised.

        Raises:
            LostProcess: the child has died.
        """
        with self._alive():
            said: tuple[str, Any] = self.connection.recv()
        return said

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError):  # the line ends with the child
            self._process.join()
            raise LostProcess(self._process.exitcode or 0) from None

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(do: Do, prepare: Callable[[], object], line: Connection, others: Sequence[Connection], parent: int) -> None:
    """Do what comes until this process is killed; what it holds of its parent's is neither flushed nor ended."""
    with contextlib.suppress(BaseException):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for other in others:
            other.close()
        gc.freeze()  # to look for garbage in what is the parent's would copy all of it
        prepare()
        while os.getppid() == parent:
            task = line.recv()
            try:
                line.send(("done", do(task, lambda told: line.send(("told", told)))))
            except Exception as error:  # noqa: BLE001 - the parent raises it
                line.send(("failed", error))
    os._exit(1)
