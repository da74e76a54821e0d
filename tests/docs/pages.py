"""Runs the blocks of a page in their order: python in one session, sh in a shell, a server beside them.

A block fenced as `text` or `json` that follows one is what it prints. `...` stands for anything there.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import httpx

from tests.server.conftest import START_S, free_port, until

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVE = "python -m service\n"

SESSION = """
import contextlib, io, json, sys
names, replies = {"__name__": "__main__"}, sys.stdout
for line in sys.stdin:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(json.loads(line), "<block>", "exec"), names)
    print(json.dumps(printed.getvalue()), file=replies, flush=True)
"""


class Block(NamedTuple):
    """A block that runs, and what its page says that it prints; None where it says nothing."""

    language: str
    code: str
    shown: str | None


def blocks(text):
    """The blocks of a page that run."""
    found, fences = [], list(FENCED.finditer(text))
    for fence, after in zip(fences, [*fences[1:], None], strict=True):
        if fence[1] in ("python", "sh"):
            follows = after and after[1] in ("text", "json") and not text[fence.end() : after.start()].strip()
            found.append(Block(fence[1], fence[2], after[2] if follows else None))
    return found


class Runner:
    """Runs blocks in a folder, with a repository and ports of its own in place of 8000 and 8001."""

    def __init__(self, folder):
        self.folder, self.port, self.next_port = folder, free_port(), free_port()
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "MPLBACKEND": "agg",
            "ROWCAST_PORT": str(self.port),
            "ROWCAST_HOST": "127.0.0.1",
            "ROWCAST_POLL_S": "0.1",
            "ROWCAST_API_PROCESSES": "1",
        }
        self.session = self.server = None

    def run(self, block):
        """What a block prints."""
        code = block.code.replace("localhost:8000", f"127.0.0.1:{self.port}")
        code = code.replace("localhost:8001", f"127.0.0.1:{self.next_port}").replace("=8001 ", f"={self.next_port} ")
        if block.code == SERVE:
            return self.serve()
        return self.python(code) if block.language == "python" else self.sh(code)

    def python(self, code):
        if self.session is None:
            self.session = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", SESSION], cwd=self.folder, env=self.environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        self.session.stdin.write(json.dumps(code) + "\n")
        self.session.stdin.flush()
        reply = self.session.stdout.readline()
        assert reply, f"{code}\n{self.session.stderr.read()}"
        return json.loads(reply)

    def sh(self, code):
        done = subprocess.run(
            ["sh", "-ec", code], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{code}\n{done.stderr}{done.stdout}"
        return done.stdout.replace(f"127.0.0.1:{self.port}", "localhost:8000")

    def serve(self):
        with (self.folder / "service.log").open("wb") as log:
            self.server = subprocess.Popen(
                [sys.executable, "-m", "service"], cwd=self.folder, env=self.environment, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        with httpx.Client() as client:
            until(lambda: self.is_ready(client))
        return ""

    def is_ready(self, client):
        assert self.server.poll() is None, (self.folder / "service.log").read_text()
        with contextlib.suppress(httpx.TransportError):
            return client.get(f"http://127.0.0.1:{self.port}/health/ready").status_code == 200
        return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.session is not None:
            self.session.communicate()
        if self.server is not None:
            os.killpg(self.server.pid, signal.SIGINT)
            assert self.server.wait(START_S) is not None


NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d*)?(?:e[-+]?\d+)?(?![\w])")


def is_as_shown(printed, shown):
    """Whether they are the same but for the last digits: numbers within 5% or 0.03, times of any length."""
    pattern = ".*".join(re.escape(_plain(part)) for part in shown.strip().split("..."))
    if not re.fullmatch(pattern, _plain(printed.strip()), re.DOTALL):
        return False
    if "..." in shown:
        return True
    return all(abs(a - b) <= max(0.05 * abs(b), 0.03) for a, b in zip(_numbers(printed), _numbers(shown), strict=True))


def _without_times(text):
    return re.sub(r"\d+(\.\d+)? s\b", "a while", text)


def _plain(text):
    return " ".join(NUMBER.sub("#", _without_times(text)).split())


def _numbers(text):
    return [float(number.replace(",", "")) for number in NUMBER.findall(_without_times(text))]
