"""Opens a version in a process of its own first, with limits, so that no file can hang, crash or fill a worker.

A worker forks one small process before it opens anything. That one forks again for each version: the grandchild opens
and proves the version as the worker would, may take so much time and memory and no more, and says in one sentence what
it found. The verdict stands in a file named after the manifest's digest, so a version is checked once per server and
not again by every worker and after every restart.
"""

import contextlib
import faulthandler
import json
import logging
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.errors import BadVersion, shown
from models.proof import Session, prove
from models.repository import Version
from service import process

_CPU_S = 5  # a small network opens and proves in milliseconds
_MEMORY = 512 * 1024 * 1024
_LONGEST_SENTENCE = 2000
_MB = 1024 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What opening a version may take.

    Attributes:
        cpu_s: seconds of a core.
        wall_s: seconds, on a machine that does other things too.
        memory: bytes, beside what the process has before it begins.
    """

    cpu_s: int
    wall_s: float
    memory: int


def limits_for(version: Version) -> Limits:
    """Enough for a version of its size several times over."""
    size = sum(digest.bytes for digest in version.manifest.files.values())
    cpu_s = _CPU_S + size // (20 * _MB)
    return Limits(cpu_s, 4.0 * cpu_s, _MEMORY + 10 * size)


class Checker:
    """The worker's side: asks, and remembers. One caller at a time."""

    def __init__(
        self,
        open_session: Callable[[Version], Session],
        verdicts: Path,
        limits: Callable[[Version], Limits] = limits_for,
    ) -> None:
        """Fork the process that checks. Call it before this process has opened a session or started a thread."""
        verdicts.mkdir(exist_ok=True)
        self._verdicts = verdicts
        self._limits = limits
        ours, theirs = socket.socketpair()
        worker = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                ours.close()
                process.end_with(worker)
                _check_what_comes(theirs, open_session)
            finally:
                os._exit(0)
        theirs.close()
        self._asking = ours.makefile("rwb")
        ours.close()

    def check(self, version: Version) -> None:
        """Have a version opened and proven.

        Raises:
            BadVersion: it cannot be, or not within its limits.
        """
        verdict = self._verdicts / version.manifest.sha256
        with contextlib.suppress(FileNotFoundError):
            return _raise_if_bad(version, verdict.read_text())
        limits = self._limits(version)
        question = [str(version.folder), version.manifest.sha256, limits.cpu_s, limits.wall_s, limits.memory]
        try:
            self._asking.write(json.dumps(question).encode() + b"\n")
            self._asking.flush()
            sentence = json.loads(self._asking.readline())
        except (OSError, ValueError):
            log.error("the process that checks versions died; the worker starts again")  # noqa: TRY400 - it says all
            os._exit(process.FAILED)
        with contextlib.suppress(OSError):  # a full disk: it is checked again
            beside = verdict.with_suffix(f".{os.getpid()}")
            beside.write_text(sentence)
            beside.replace(verdict)
        return _raise_if_bad(version, sentence)

    def close(self) -> None:
        """End the process that checks."""
        self._asking.close()
        os.waitpid(self._pid, 0)


def _raise_if_bad(version: Version, sentence: str) -> None:
    if sentence:
        raise BadVersion(str(version), sentence)


# ----------------------------------------------------------------------------------------- in the process that checks


def _check_what_comes(asked: socket.socket, open_session: Callable[[Version], Session]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # it ends with its worker
        signal.signal(number, signal.SIG_IGN)
    with asked.makefile("rwb") as lines:
        for line in lines:
            folder, manifest, *limits = json.loads(line)
            sentence = _check(Path(folder), manifest, Limits(*limits), open_session)
            lines.write(json.dumps(sentence).encode() + b"\n")
            lines.flush()


def _check(folder: Path, manifest: str, limits: Limits, open_session: Callable[[Version], Session]) -> str:
    """What is wrong with a version, empty when nothing is."""
    said, say = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            process.end_with(parent)
            os.write(say, _open(folder, manifest, limits, open_session).encode()[:_LONGEST_SENTENCE])
            os._exit(0)
        finally:
            os._exit(process.FAILED)
    os.close(say)
    sentence, in_time = _read_until(said, time.monotonic() + limits.wall_s)
    os.close(said)
    os.kill(child, signal.SIGKILL)  # it is not waited for; after its last word this changes nothing
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not in_time:
        return f"opening it takes longer than {limits.wall_s:g} s"
    if sentence:
        return sentence.decode(errors="replace").removeprefix(_FINE)
    if code == -signal.SIGXCPU:
        return f"opening it computes for longer than {limits.cpu_s} s"
    return f"opening it kills the process, by signal {-code}" if code < 0 else "opening it ends the process"


_FINE = "fine"


def _read_until(said: int, deadline: float) -> tuple[bytes, bool]:
    """All that is said until the other side closes, and whether that was before the deadline."""
    poll = select.poll()
    poll.register(said, select.POLLIN)
    sentence = b""
    while (rest := deadline - time.monotonic()) > 0:
        if poll.poll(1000 * rest):
            more = os.read(said, _LONGEST_SENTENCE)
            if not more:
                return sentence, True
            sentence += more
    return sentence, False


def _open(folder: Path, manifest: str, limits: Limits, open_session: Callable[[Version], Session]) -> str:
    """What is wrong with a version, or that it is fine; in the grandchild."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a runtime that crashes writes its last words there
    faulthandler.disable()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_AS, used + limits.memory),
        (resource.RLIMIT_CPU, limits.cpu_s),
    ):
        resource.setrlimit(what, (most, most + 1 if what == resource.RLIMIT_CPU else most))
    try:
        version = Version.open(folder)
        if version.manifest.sha256 != manifest:
            return "another version stands in its place by now"
        prove(version.manifest, version.proof(), open_session(version))
    except BadVersion as error:
        return error.reason
    except MemoryError:
        return f"opening it needs more than {limits.memory // _MB} MB of memory"
    except Exception as error:  # noqa: BLE001 - whatever a hostile file makes of the runtime
        return f"it cannot be opened: {shown(str(error), 300)}"
    return _FINE
