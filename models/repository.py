"""Where published versions live: folders that appear whole, are never edited and prove themselves.

<root>/<model>/<version>/     one version, see models/README.md
<root>/<model>/labels.json    label to version, replaced atomically
<root>/<model>/.draft-*/      a publish that is under way, or that died
<root>/<model>/.last          the highest number ever given, so that a deleted version's number never comes back
<root>/<model>/.lock          held for the moment in which a number is given
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from models import manifest as manifests
from models import proof as proofs
from models.errors import BadVersion, shown
from models.manifest import FileDigest, Manifest, check_name
from models.proof import Proof
from models.schema import Schema

LABELS = "labels.json"


@dataclass(frozen=True)
class Version:
    """A version whose every byte was checked when it was opened."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The model."""
        return self.manifest.name

    @property
    def number(self) -> int:
        """The version's number."""
        return self.manifest.version

    @property
    def schema(self) -> Schema:
        """What a row is."""
        return self.manifest.input

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a version's folder: format known, the files it lists and no others, every digest right.

        Raises:
            BadVersion: with the one thing that is wrong.
        """
        place = f"{folder.parent.name}/{folder.name}"
        raw = _read_plain_file(folder / manifests.FILE, place)
        version = cls(folder, Manifest.from_json(raw, place))
        if (version.name, str(version.number)) != (folder.parent.name, folder.name):
            raise BadVersion(place, f"{manifests.FILE} says it is {version}; a version is never moved or copied")
        for path in _files_below(folder):
            if path != manifests.FILE and path not in version.manifest.files:
                raise BadVersion(place, f"{shown(path)} is not part of it; remove the file")
        for path in version.manifest.files:
            version.read(path)
        return version

    def read(self, path: str) -> bytes:
        """The bytes of one of its files, checked against the manifest: what is returned is what was published.

        Raises:
            BadVersion: the file is absent, no plain file, or has other bytes.
        """
        raw = _read_plain_file(self.folder / path, str(self))
        if FileDigest(sha256=hashlib.sha256(raw).hexdigest(), bytes=len(raw)) != self.manifest.files.get(path):
            raise BadVersion(str(self), f"{path} is not the file its manifest describes; publish it again")
        return raw

    def proof(self) -> Proof:
        """Rows with their right answers.

        Raises:
            BadVersion: as for `read`.
        """
        return Proof.from_json(self.read(proofs.FILE), str(self))


@dataclass(frozen=True)
class Repository:
    """All published versions below one folder, which need not exist yet."""

    root: Path

    def names(self) -> list[str]:
        """Models with at least one version, sorted."""
        return sorted(name for name in _folders_in(self.root) if self.versions(name))

    def versions(self, name: str) -> list[int]:
        """Numbers of a model's versions, rising; empty for a model that nobody published."""
        check_name("model", name)
        return sorted(int(entry) for entry in _folders_in(self.root / name) if _is_number(entry))

    def open(self, name: str, number: int) -> Version:
        """Open one version with every check that needs no session; `models.proof.prove` is the one that does.

        Raises:
            BadVersion: it is absent or is not what was published.
        """
        check_name("model", name)
        return Version.open(self.root / name / str(number))

    def publish(self, name: str, fill: Callable[[Path], Callable[[int, dict[str, FileDigest]], Manifest]]) -> int:
        """Publish one version and return its number.

        `fill` writes every file but the manifest into the folder that it is given, and returns a function from the
        version's number and the digests of those files to the manifest. If it raises, nothing is published.
        A crash at any instant leaves what was there before, and at most a draft that the next publish clears.
        """
        check_name("model", name)
        model = self.root / name
        model.mkdir(parents=True, exist_ok=True)
        with _draft_in(model) as draft:
            describe = fill(draft)
            digests = {path: _digest_and_sync(draft / path) for path in _files_below(draft)}
            with _locked(model):
                number = 1 + max([_last_number(model), *self.versions(name)])
                _write(draft / manifests.FILE, describe(number, digests).to_json())
                for folder in _folders_below(draft):
                    _sync(folder)
                _replace(model / ".last", str(number).encode())
                draft.rename(model / str(number))  # refuses a folder that another publisher has just filled
                _sync(model)
        return number

    def labels(self, name: str) -> dict[str, int]:
        """Label to version; empty where none was set.

        Raises:
            BadVersion: labels.json is not what `set_label` writes.
        """
        check_name("model", name)
        path = self.root / name / LABELS
        try:
            labels = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            raise BadVersion(f"{name}/{LABELS}", "is not JSON; set the labels again") from None
        if not isinstance(labels, dict) or not all(type(number) is int for number in labels.values()):
            raise BadVersion(f"{name}/{LABELS}", 'must map labels to versions, like {"stable": 3}')
        return labels

    def set_label(self, name: str, label: str, number: int | None) -> None:
        """Point a label at a version that opens, or remove it with None.

        Raises:
            BadName: the label cannot stand in a URL.
            BadVersion: there is no such version, or it cannot be trusted.
        """
        check_name("label", label)
        if number is not None:
            self.open(name, number)
        with _locked(self.root / name):
            labels = {key: value for key, value in self.labels(name).items() if key != label}
            if number is not None:
                labels[label] = number
            _replace(self.root / name / LABELS, (json.dumps(labels, indent=1, sort_keys=True) + "\n").encode())


# --------------------------------------------------------------------------------------------------- reading


def _read_plain_file(path: Path, place: str) -> bytes:
    """The bytes of a file that is no link, device or pipe (opening one of those could lead elsewhere or hang)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise BadVersion(place, f"{path.name} is absent; publish it again") from None
    except OSError as error:
        raise BadVersion(place, f"{path.name} cannot be read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        try:
            return file.read()
        except OSError as error:
            raise BadVersion(place, f"{path.name} cannot be read: {error.strerror}") from None


def _folders_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_number(entry: str) -> bool:
    return entry.isascii() and entry.isdigit() and not entry.startswith("0")


def _files_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())


def _folders_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_dir()] + [folder]


# --------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def _draft_in(model: Path) -> Iterator[Path]:
    """A folder to fill beside the versions; removed if it is still there at the end."""
    with _locked(model):
        _clear_dead_drafts(model)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=model))
        draft.chmod(0o755)  # mkdtemp says 0700; the server may run as another user
        owner = _lock(draft, fcntl.LOCK_EX)  # held while this process lives: this draft is not dead
    try:
        yield draft
    finally:
        os.close(owner)
        shutil.rmtree(draft, ignore_errors=True)


def _clear_dead_drafts(model: Path) -> None:
    for draft in model.glob(".draft-*"):
        try:
            owner = _lock(draft, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, FileNotFoundError):  # another publisher is filling it, or has just renamed it
            continue
        shutil.rmtree(draft, ignore_errors=True)
        os.close(owner)


@contextlib.contextmanager
def _locked(model: Path) -> Iterator[None]:
    descriptor = os.open(model / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path, operation: int) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def _last_number(model: Path) -> int:
    try:
        text = (model / ".last").read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return 0
    return int(text) if _is_number(text) else 0


def _digest_and_sync(path: Path) -> FileDigest:
    raw = _read_plain_file(path, path.parent.name)
    _sync(path)
    return FileDigest(sha256=hashlib.sha256(raw).hexdigest(), bytes=len(raw))


def _write(path: Path, raw: bytes) -> None:
    with path.open("xb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, raw: bytes) -> None:
    """Put new bytes in place of a file: a reader sees the old or the new, a crash leaves one of them."""
    beside = path.with_name(f".{path.name.lstrip('.')}.new")
    beside.unlink(missing_ok=True)
    _write(beside, raw)
    beside.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
