"""Environments for clients whose pins are not ours, and what such clients say."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import START_S


def environment_beside_ours(folder: Path, packages: list[str]) -> Path:
    """The Python of one with these packages, made once; what they do not bring themselves is taken from ours."""
    ours = sysconfig.get_path("purelib")
    made, said, python = folder / ".made", " ".join([*packages, ours]), folder / "bin" / "python"
    if not made.is_file() or made.read_text() != said:
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "ours.pth").write_text(ours)  # behind its own
        pip("--python", python, "install", "--no-compile", *packages)  # most of it is never imported
        made.write_text(said)
    return python


def pip(*arguments: str | Path) -> None:
    """Have pip do something; where no index can be reached, the test is skipped."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, "--quiet"],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip(f"no package index can be reached: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def said_by(python: Path, script: str, port: int) -> Any:
    """What a client beside this file prints, as JSON, once it has asked the server at the port."""
    words = [python, Path(__file__).with_name(script), str(port)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=START_S)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
