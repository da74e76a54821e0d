"""Opens a version in a process of its own first, with limits, so that no file can hang, crash or fill a worker.

A worker forks one small process before it opens anything. That one forks again for each version: the grandchild opens
and proves the version as the worker would, may take so much time and memory and no more, and says in one sentence what
it found. The verdict stands in a file named after the manifest's digest, so a version is checked once per server and
not again by every worker and after every restart; one against it holds until a file of the version changes, which may
have been on its way.

A fork costs ten times what opening a small version does. So where many are expected, one grandchild opens several in
turn, each within its own limits, and is believed in one thing alone: that all is well. Whatever else it says, or does
not live to say, the version is checked again by a grandchild of its own, so that none can have another one refused.
"""

import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from models.errors import BadVersion
from models.files import locked
from models.proof import Session
from models.repository import Version
from service.processes import process
from service.workers.opening import TOO_LATE, check_what_comes

_CPU_S = 5  # a small network opens and proves in milliseconds
_MEMORY = 512 * 1024 * 1024
_TOGETHER = 32
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
        serve_shadows: Callable[[], None] = lambda: None,
    ) -> None:
        """Fork the process that checks. Call it before this process has opened a session or started a thread.

        `serve_shadows` is what `start_shadow` has a process do.
        """
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
                process.call_this("checker")
                check_what_comes(theirs, open_session, serve_shadows)
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
        sentence = self._known(version)
        if sentence is None:
            sentence = self._found_alone(version)
        if sentence:
            raise BadVersion(str(version), sentence)

    def _found_alone(self, version: Version) -> str:
        with self._alone():
            sentence = self._known(version)
            if sentence is None:
                state = str(version.state())
                (sentence,) = self._ask_about([version])
                if not sentence.startswith(TOO_LATE):  # the machine was busy: another try may go well
                    self._note(version, f"{state}\n{sentence}" if sentence else "")
            return sentence

    def expect(self, versions: Sequence[Version]) -> None:
        """Check versions of which most are likely to be fine, sooner than one by one; `check` says what came of it."""
        with self._alone():
            left = [version for version in versions if self._known(version) is None]
            while left:
                asked = left[:_TOGETHER]
                said = self._ask_about(asked)
                fine = next((place for place, sentence in enumerate(said) if sentence), len(said))
                for version in asked[:fine]:
                    self._note(version, "")
                left = left[fine + (fine < len(asked)) :]  # the one that is not is checked by itself

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """One check at a time in the whole server: the other workers wait for its verdict, which is theirs as well."""
        return locked(self._verdicts / "lock")

    def _known(self, version: Version) -> str | None:
        with contextlib.suppress(FileNotFoundError):
            state, _, sentence = (self._verdicts / version.manifest.sha256).read_text().partition("\n")
            return sentence if state in {"", str(version.state())} else None
        return None

    def _note(self, version: Version, said: str) -> None:
        verdict = self._verdicts / version.manifest.sha256
        with contextlib.suppress(OSError):  # a full disk: it is checked again
            beside = verdict.with_suffix(f".{os.getpid()}")
            beside.write_text(said)
            beside.replace(verdict)

    def _ask_about(self, versions: Sequence[Version]) -> list[str]:
        """What is wrong with each, empty for nothing; the first with which something is wrong is the last."""
        asked = [[str(one.folder), one.manifest.sha256, *astuple(self._limits(one))] for one in versions]
        return [str(sentence) for sentence in self._ask(["check", asked])]

    def start_shadow(self) -> None:
        """Have a process serve shadows, if none does: of the least importance, for the processor and for memory.

        It is forked from the process that checks, which has opened nothing, and ends with it.
        """
        self._ask(["shadow"])

    def give_way(self) -> None:
        """Check with less importance from now on: whoever is answered by this server comes first."""
        self._ask(["give way"])

    def _ask(self, question: Sequence[object]) -> Any:
        try:
            self._asking.write(json.dumps(question).encode() + b"\n")
            self._asking.flush()
            return json.loads(self._asking.readline())
        except (OSError, ValueError):
            log.error("the process that checks versions died; the worker starts again")  # noqa: TRY400 - it says all
            os._exit(process.FAILED)

    def close(self) -> None:
        """End the process that checks."""
        self._asking.close()
        os.waitpid(self._pid, 0)
