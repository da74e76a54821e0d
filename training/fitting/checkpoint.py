"""What a killed run leaves behind, so that the same command goes on from there and ends with the same weights.

A checkpoint belongs to one plan, one table, one code and one kind of device: another of any of these has another
folder, so nothing is ever resumed that would end elsewhere. It is written beside its place and renamed into it, and
read without running anything in it (`weights_only`). A file that is damaged is passed over.
"""

import contextlib
import hashlib
import io
import pickle
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from models.files import replace
from training.plan import Plan

FOLDER = ".checkpoints"
"""In the repository, whose readers pass over it: it is on the volume that outlives the process."""
EVERY_S = 10.0
"""Seconds of work that a kill may cost. A run that is shorter writes nothing."""

State = Mapping[str, Any]
"""Tensors, numbers, texts and lists and dicts of these."""


class Checkpoint:
    """The states of one run, by key. One that was never opened keeps nothing."""

    def __init__(self, root: Path | None = None, every_s: float = EVERY_S) -> None:
        """Keep states below `root`, none without one; the folder of a run is made when there is something to keep."""
        self._root, self._every_s = root, every_s
        self._folder: Path | None = None
        self._saved = time.monotonic()
        self.trouble: str | None = None
        """Why a state could not be kept, the first time that happened."""

    @property
    def folder(self) -> Path | None:
        """Where the states of this run are; None where there are none."""
        return self._folder if self._folder is not None and self._folder.exists() else None

    def open(self, plan: Plan, data_sha256: str, device: str) -> None:
        """From now on keep, and find, the states of this run."""
        if self._root is None:
            return
        digest = hashlib.sha256()
        for part in (plan.model_dump_json(exclude={"published", "about"}), data_sha256, device, _digest_of_code()):
            digest.update(part.encode() + b"\n")
        self._folder = self._root / f"{plan.name}-{digest.hexdigest()[:16]}"

    def load(self, key: str) -> State | None:
        """The state that was kept under a key; None where there is none that can be read."""
        if self._folder is None:
            return None
        try:
            state: State = torch.load(self._folder / f"{key}.pt", map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            return None
        return state

    def save(self, key: str, state: Callable[[], State], *, is_final: bool = False) -> None:
        """Keep a state, unless one was kept a moment ago; `is_final` ones are kept once the run is worth it.

        A disk that is full stops no fit: the trouble is kept to be told, and the fit goes on without checkpoints.
        """
        if self._folder is None or self.trouble is not None:
            return
        is_due = time.monotonic() - self._saved >= self._every_s
        if not is_due and not (is_final and self._folder.exists()):
            return
        try:
            raw = io.BytesIO()  # torch would say of a full disk that it is at an unexpected position
            torch.save(dict(state()), raw)
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # the same command may run twice at once, in containers whose processes have the same numbers
            replace(self._folder / f"{key}.pt", raw.getbuffer(), mark=uuid.uuid4().hex)
        except OSError as error:
            reason = error.strerror or error
            self.trouble = f"no checkpoint could be kept in {self._folder} ({reason}); the fit goes on without"
        self._saved = time.monotonic()

    def clear(self) -> None:
        """Forget the states of this run: it has ended."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                self._folder.parent.rmdir()  # the last one takes the folder with it


def _digest_of_code() -> str:
    """What the weights depend on beside plan, table and device."""
    digest = hashlib.sha256(torch.__version__.encode())
    for path in code_files():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def code_files() -> list[Path]:
    """The code that the weights depend on: the trainer's, and that of what a row is."""
    root = Path(__file__).parents[2]
    return sorted(path for package in ("models", "training") for path in (root / package).rglob("*.py"))
