"""Opens a version in a process of its own first, with limits, so that no file can hang, crash or fill a worker.

A worker forks one small process before it opens anything. That one forks again for each version: the grandchild opens
and proves the version as the worker would, may take so much time and memory and no more, and says in one sentence what
it found. The verdict stands in a file named after the manifest's digest, so a version is checked once per server and
not again by every worker and after every restart.

A fork costs ten times what opening a small version does. So where many are expected, one grandchild opens several in
turn, each within its own limits, and is believed in one thing alone: that all is well. Whatever else it says, or does
not live to say, the version is checked again by a grandchild of its own, so that none can have another one refused.
"""

import contextlib
import faulthandler
import json
import logging
import math
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from models.errors import BadVersion, shown
from models.files import locked
from models.proof import Session, prove
from models.repository import Version
from service.processes import process

_CPU_S = 5  # a small network opens and proves in milliseconds
_MEMORY = 512 * 1024 * 1024
_LONGEST_SENTENCE = 2000
_TOGETHER = 32
_NICE = 5  # a share of a busy core, so that a good version is checked in time
_LEAST = 19
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
                _check_what_comes(theirs, open_session, serve_shadows)
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
                (sentence,) = self._ask_about([version])
                if not sentence.startswith(_TOO_LATE):  # the machine was busy: another try may go well
                    self._note(version, sentence)
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
            return (self._verdicts / version.manifest.sha256).read_text()
        return None

    def _note(self, version: Version, sentence: str) -> None:
        verdict = self._verdicts / version.manifest.sha256
        with contextlib.suppress(OSError):  # a full disk: it is checked again
            beside = verdict.with_suffix(f".{os.getpid()}")
            beside.write_text(sentence)
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


# ----------------------------------------------------------------------------------------- in the process that checks


def _check_what_comes(
    asked: socket.socket, open_session: Callable[[Version], Session], serve_shadows: Callable[[], None]
) -> None:
    shadow = 0
    for number in (signal.SIGTERM, signal.SIGINT):  # it ends with its worker
        signal.signal(number, signal.SIG_IGN)
    with asked.makefile("rwb") as lines:
        for line in lines:
            sentences: list[str] = []
            match json.loads(line):
                case ["check", asked]:
                    sentences = _check([_Asked(*one) for one in asked], open_session)
                case ["give way"]:
                    os.nice(_NICE)
                case ["shadow"] if not _lives(shadow):
                    shadow = _fork_shadow(serve_shadows)
            lines.write(json.dumps(sentences).encode() + b"\n")
            lines.flush()


def _lives(child: int) -> bool:
    return child != 0 and os.waitpid(child, os.WNOHANG)[0] == 0


def _fork_shadow(serve_shadows: Callable[[], None]) -> int:
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            process.end_with(parent)
            process.call_this("shadow")
            os.nice(_LEAST)
            Path("/proc/self/oom_score_adj").write_text("1000")
            serve_shadows()
        except Exception:
            log.exception("the process that computes shadows failed")
        finally:
            os._exit(process.FAILED)
    return child


@dataclass(frozen=True)
class _Asked:
    """A version that is to be checked: where it is, its manifest's digest, and its `Limits`."""

    folder: str
    manifest: str
    cpu_s: int
    wall_s: float
    memory: int


def _check(asked: Sequence[_Asked], open_session: Callable[[Version], Session]) -> list[str]:
    """What is wrong with each version, empty for nothing; the first with which something is wrong is the last."""
    said, say = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            process.end_with(parent)
            _open_all(asked, open_session, say)
            os._exit(0)
        finally:
            os._exit(process.FAILED)
    os.close(say)
    sentences: list[str] = []
    rest = b""
    for one in asked:
        line, rest, in_time = _next_line(said, rest, time.monotonic() + one.wall_s)
        if line is None or line != _FINE:
            break
        sentences.append("")
    os.close(said)
    os.kill(child, signal.SIGKILL)  # it is not waited for; after its last word this changes nothing
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if len(sentences) < len(asked):
        sentences.append(_what_happened(asked[len(sentences)], line, code, in_time=in_time))
    return sentences


def _what_happened(asked: _Asked, line: bytes | None, code: int, *, in_time: bool) -> str:
    if not in_time:
        return f"{_TOO_LATE} than {asked.wall_s:g} s"
    if line:
        return line.decode(errors="replace")
    if code == -signal.SIGXCPU:
        return f"opening it computes for longer than {asked.cpu_s} s"
    return f"opening it kills the process, by signal {-code}" if code < 0 else "opening it ends the process"


_FINE = b"fine"
_TOO_LATE = "opening it takes longer"


def _next_line(said: int, rest: bytes, deadline: float) -> tuple[bytes | None, bytes, bool]:
    """The next line that is said, what follows it, and whether that was before the deadline; None at the end."""
    poll = select.poll()
    poll.register(said, select.POLLIN)
    while b"\n" not in rest:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return None, rest, False
        if poll.poll(1000 * left_s):
            more = os.read(said, _LONGEST_SENTENCE)
            if not more:
                return None, rest, True
            rest = (rest + more)[: 2 * _LONGEST_SENTENCE]
    line, _, rest = rest.partition(b"\n")
    return line, rest, True


def _open_all(asked: Sequence[_Asked], open_session: Callable[[Version], Session], say: int) -> None:
    """Say a line for each version, until one is not fine; in the grandchild."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a runtime that crashes writes its last words there
    faulthandler.disable()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    most = sum(one.cpu_s + 1 for one in asked)
    for one in asked:
        memory = used + one.memory  # whatever those before it have left counts as its own
        resource.setrlimit(resource.RLIMIT_AS, (memory, resource.RLIM_INFINITY if len(asked) > 1 else memory))
        so_far = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = min(most, math.ceil(so_far.ru_utime + so_far.ru_stime) + one.cpu_s) if len(asked) > 1 else one.cpu_s
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, most))
        sentence = _open(one, open_session)
        os.write(say, sentence[:_LONGEST_SENTENCE] + b"\n")
        if sentence != _FINE:
            return


def _open(asked: _Asked, open_session: Callable[[Version], Session]) -> bytes:
    """What is wrong with a version, on one line, or that it is fine."""
    try:
        version = Version.open(Path(asked.folder))
        if version.manifest.sha256 != asked.manifest:
            return b"another version stands in its place by now"
        prove(version.manifest, version.proof(), open_session(version))
    except BadVersion as error:
        return error.reason.replace("\n", " ").encode(errors="replace")
    except MemoryError:
        return b"opening it needs more than %d MB of memory" % (asked.memory // _MB)
    except Exception as error:  # noqa: BLE001 - whatever a hostile file makes of the runtime
        return f"it cannot be opened: {shown(str(error), 300)}".encode(errors="replace")
    return _FINE
