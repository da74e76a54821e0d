"""What the process does that a worker forks to check versions: it forks again, and opens them there, within limits."""

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
from dataclasses import dataclass
from pathlib import Path

from models.errors import BadVersion, shown
from models.proof import Session, prove
from models.repository import Version
from service.processes import process

TOO_LATE = "opening it takes longer"
"""How the sentence begins of a version for which there was not enough time, which another try may have."""

_FINE = b"fine"
_LONGEST_SENTENCE = 2000
_NICE = 5  # a share of a busy core, so that a good version is checked in time
_LEAST = 19
_MB = 1024 * 1024

log = logging.getLogger(__name__)


def check_what_comes(
    asked: socket.socket, open_session: Callable[[Version], Session], serve_shadows: Callable[[], None]
) -> None:
    """Answer a line of JSON to each, until the worker hangs up: ["check", versions], ["shadow"] or ["give way"]."""
    shadow = 0
    for number in (signal.SIGTERM, signal.SIGINT):  # it ends with its worker
        signal.signal(number, signal.SIG_IGN)
    with asked.makefile("rwb") as lines:
        for line in lines:
            sentences: list[str] = []
            match json.loads(line):
                case ["check", versions]:
                    sentences = _check([_Asked(*one) for one in versions], open_session)
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
        return f"{TOO_LATE} than {asked.wall_s:g} s"
    if line:
        return line.decode(errors="replace")
    if code == -signal.SIGXCPU:
        return f"opening it computes for longer than {asked.cpu_s} s"
    return f"opening it kills the process, by signal {-code}" if code < 0 else "opening it ends the process"


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
