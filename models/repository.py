"""Where published versions live: folders that appear whole, are never edited and prove themselves.

<root>/<model>/<version>/     one version, see models/README.md
<root>/<model>/labels.json    labels, their versions and shares, replaced atomically
<root>/<model>/.draft-*/      a publish or a deletion that is under way, or that died
<root>/<model>/.last          the highest number ever given, so that a deleted version's number never comes back
<root>/<model>/.lock          held for the moment in which a number is given
"""

import contextlib
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Self

from models import manifest as manifests
from models import proof as proofs
from models.errors import BadChange, BadVersion, shown
from models.files import lock_folder, locked, make_folder, read_plain, replace, state_of, sync, write
from models.labels import FILE as LABELS
from models.labels import STABLE, Label, read_labels, what_is_wrong, write_labels
from models.manifest import FileDigest, Manifest, check_name, is_name
from models.proof import Proof
from models.schema import Schema

REQUIRED = ("model.onnx", proofs.FILE)
"""The files without which a version could not be served."""

_NUMBER = re.compile(r"[1-9][0-9]*")
_MOST_SEEN = 100
_LARGEST_MANIFEST = 2**28  # bytes; it is the only file of a version whose size nothing else vouches for


@dataclass(frozen=True)
class Version:
    """A version: what its manifest says, and its files, each checked when it is read."""

    folder: Path
    manifest: Manifest = field(hash=False)

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

    @cached_property
    def key(self) -> str:
        """The text by which processes know one opened version: a folder that was replaced holds another one."""
        return f"{self.name}/{self.number}@{self.manifest.sha256[:16]}"

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a version's folder: format known, the files it lists and no others, every digest right.

        Raises:
            BadVersion: with the one thing that is wrong.
        """
        version = cls.described(folder)
        for path in _files_in_version(version.folder, str(version)):
            if path != manifests.FILE and path not in version.manifest.files:
                raise BadVersion(str(version), f"{shown(path)} is not part of it; remove the file")
        for path in dict.fromkeys((*REQUIRED, *version.manifest.files)):
            version.read(path)
        return version

    @classmethod
    def described(cls, folder: Path) -> Self:
        """The version that a folder's manifest describes; no other file of it is looked at.

        Raises:
            BadVersion: the manifest is not what was published, or not of this folder.
        """
        folder = folder.absolute()
        place = f"{folder.parent.name}/{folder.name}"
        raw = read_plain(folder, manifests.FILE, place, at_most=_LARGEST_MANIFEST)
        version = cls(folder, _manifest_from(raw, place))
        if (version.name, str(version.number)) != (folder.parent.name, folder.name):
            raise BadVersion(place, f"{manifests.FILE} says it is {version}; a version is never moved or copied")
        return version

    def read(self, path: str) -> bytes:
        """The bytes of one of its files, checked against the manifest: what is returned is what was published.

        Raises:
            BadVersion: the file is absent, no plain file, or has other bytes.
        """
        expected = self.manifest.files.get(path)
        if expected is None:
            raise BadVersion(str(self), f"it has no {path}; publish it again")
        raw = read_plain(self.folder, path, str(self), at_most=expected.bytes)
        if FileDigest(sha256=hashlib.sha256(raw).hexdigest(), bytes=len(raw)) != expected:
            raise BadVersion(str(self), f"{path} is not the file its manifest describes; publish it again")
        return raw

    def state(self) -> tuple[int, ...]:
        """Numbers that change when one of its files but the manifest does; of very many, one of the first."""
        return state_of(self.folder, tuple(islice(self.manifest.files, _MOST_SEEN)))

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
        """Models with at least one version, sorted; a folder whose name cannot be a model's is passed over."""
        return sorted(name for name in _folders_in(self.root) if is_name(name) and self.versions(name))

    def versions(self, name: str) -> list[int]:
        """Numbers of a model's versions, rising; empty for a model that nobody published."""
        check_name("model", name)
        return sorted(int(entry) for entry in _folders_in(self.root / name) if _NUMBER.fullmatch(entry))

    def open(self, name: str, number: int) -> Version:
        """Open one version with every check that needs no session; `models.proof.prove` is the one that does.

        Raises:
            BadVersion: it is absent or is not what was published.
        """
        check_name("model", name)
        return Version.open(self.root / name / str(number))

    def describe(self, name: str, number: int) -> Version:
        """A version by its manifest alone, for who has another process `open` it: each file is checked as it is read.

        Raises:
            BadVersion: it is absent, or its manifest is not what was published.
        """
        check_name("model", name)
        return Version.described(self.root / name / str(number))

    def publish(self, name: str, fill: Callable[[Path], Callable[[int, dict[str, FileDigest]], Manifest]]) -> int:
        """Publish one version and return its number.

        `fill` writes every file but the manifest into the folder that it is given, and returns a function from the
        version's number and the digests of those files to the manifest. If it raises, nothing is published.
        A crash at any instant leaves what was there before, and at most a draft that the next publish clears.

        Raises:
            BadVersion: what `fill` wrote, or the manifest it describes, could not be opened again.
            OSError: the disk is full or fails; nothing is published.
        """
        check_name("model", name)
        model = self.root / name
        make_folder(model)
        with _draft_in(model) as draft:
            describe = fill(draft)
            digests = {path: _digest_and_sync(draft, path) for path in _files_below(draft)}
            with locked(model / ".lock"):
                number = 1 + max(_last_number(model), *_numbers_taken(model))
                raw = describe(number, digests).to_json()
                _check_what_is_published(_manifest_from(raw, f"{name}/{number}"), name, number, digests)
                write(draft / manifests.FILE, raw)
                for folder in _folders_below(draft):
                    sync(folder)
                replace(model / ".last", str(number).encode())
                _move_into_place(draft, model / str(number))
        return number

    def labels(self, name: str) -> dict[str, int]:
        """Label to version; empty where none was set.

        Raises:
            BadVersion: labels.json is not what `set_label` writes.
        """
        return {label: routed.version for label, routed in self.routes(name).items()}

    def routes(self, name: str) -> dict[str, Label]:
        """Label to version and shares; empty where none was set.

        Raises:
            BadVersion: labels.json is not what `set_label` writes.
        """
        check_name("model", name)
        try:
            (self.root / name / LABELS).lstat()  # what is there and cannot be read is not taken for no labels
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return read_labels(read_plain(self.root / name, LABELS, name), name)

    def set_label(self, name: str, label: str, number: int, *, share: float = 0.0, shadow: float = 0.0) -> None:
        """Point a label at a version that opens, and say what share of the traffic goes there; see `Label`.

        Raises:
            BadName: the label cannot stand in a URL.
            BadVersion: there is no such version, or it cannot be trusted.
            BadChange: the shares cannot be together with those of the other labels.
        """
        check_name("label", label)
        if (there := self.versions(name)) and number not in there:
            raise BadVersion(f"{name}/{number}", f"is not there; of {name} there are {', '.join(map(str, there))}")
        self.open(name, number)
        with locked(self.root / name / ".lock"):
            if not self.has(name, number):
                raise BadVersion(f"{name}/{number}", "is not there: it was deleted just now")
            self._replace_labels(name, self.routes(name) | {label: Label(number, share, shadow)})

    def remove_label(self, name: str, label: str) -> bool:
        """Forget a label, and say whether it was set.

        Raises:
            BadName: it could not be a label.
            BadVersion: the model has no versions.
            BadChange: it is `stable`, and others have shares.
        """
        check_name("label", label)
        if not self.versions(name):
            raise BadVersion(name, "has no versions")
        with locked(self.root / name / ".lock"):
            labels = self.routes(name)
            was_set = labels.pop(label, None) is not None
            if was_set:
                self._replace_labels(name, labels)
            return was_set

    def roll_back(self, name: str) -> int:
        """Point `stable` at the newest version that is older than the one that answers now, and return its number.

        Versions that do not open are passed over. Shares of other labels stay as they are.

        Raises:
            BadChange: there is no such version.
        """
        now = self.labels(name).get(STABLE) or max(self.versions(name), default=0)
        for number in reversed([number for number in self.versions(name) if number < now]):
            try:
                self.set_label(name, STABLE, number)
            except BadVersion:
                continue
            return number
        raise BadChange(name, f"no version older than {now} opens" if now else "has no versions")

    def delete(self, name: str, number: int) -> None:
        """Remove a version; its number never comes back. Who has opened it goes on with what was read.

        The folder vanishes at once, and then its files. A crash leaves the version, or a draft that the next publish
        clears.

        Raises:
            BadVersion: there is no such version.
            BadChange: a label names it.
            OSError: the disk fails.
        """
        check_name("model", name)
        folder = self.root / name / str(number)
        if not folder.is_dir():
            raise BadVersion(f"{name}/{number}", "is not there")
        with locked(self.root / name / ".lock"):
            naming = sorted(label for label, named in self.labels(name).items() if named == number)
            if naming:
                reason = f"label {shown(naming[0])} names it; point the label elsewhere or remove it first"
                raise BadChange(f"{name}/{number}", reason)
            if _last_number(self.root / name) < number:  # somebody removed the file
                replace(self.root / name / ".last", str(number).encode())
            gone = self.root / name / f".draft-{uuid.uuid4().hex}"
            try:
                folder.rename(gone)
            except FileNotFoundError:  # somebody else was faster
                raise BadVersion(f"{name}/{number}", "is not there") from None
            sync(self.root / name)
        shutil.rmtree(gone, ignore_errors=True)  # by now another publish may be clearing it, too

    def verify(self, name: str | None = None) -> dict[str, str]:
        """What is wrong with a model, or with all: `<model>/<version>` or `<model>/labels.json` to the reason.

        Reads every byte and checks every digest. Empty when all is well.
        """
        wrong: dict[str, str] = {}
        for model in self.names() if name is None else [name]:
            for number in self.versions(model):
                try:
                    self.open(model, number)
                except BadVersion as error:
                    wrong[f"{model}/{number}"] = error.reason
            try:
                missing = {label: number for label, number in self.labels(model).items() if not self.has(model, number)}
            except BadVersion as error:
                wrong[f"{model}/{LABELS}"] = error.reason
            else:
                for label, number in missing.items():
                    wrong[f"{model}/{LABELS}"] = f"label {shown(label)} names version {number}, which is not there"
        return wrong

    def has(self, name: str, number: int) -> bool:
        """Whether something stands where a version would; whether it opens is another question."""
        check_name("model", name)
        return number >= 1 and (self.root / name / str(number)).is_dir()

    def _replace_labels(self, name: str, labels: Mapping[str, Label]) -> None:
        if reason := what_is_wrong(labels):
            raise BadChange(name, reason)
        replace(self.root / name / LABELS, write_labels(labels))


# --------------------------------------------------------------------------------------------------- reading


def _manifest_from(raw: bytes, place: str) -> Manifest:
    if len(raw) > _LARGEST_MANIFEST:
        raise BadVersion(place, f"{manifests.FILE} is larger than {_LARGEST_MANIFEST} bytes; publish it again")
    return Manifest.from_json(raw, place)


def _files_in_version(folder: Path, place: str) -> list[str]:
    try:
        return _files_below(folder)
    except OSError as error:  # somebody deletes it just now
        raise BadVersion(place, f"its folder cannot be read: {error.strerror}") from None


def _folders_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _folders_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_dir()] + [folder]


# --------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def _draft_in(model: Path) -> Iterator[Path]:
    """A folder to fill beside the versions; removed if it is still there at the end."""
    draft = model / f".draft-{uuid.uuid4().hex}"
    with locked(model / ".lock"):
        _clear_dead_drafts(model)
        draft.mkdir()
        try:
            owner = lock_folder(draft)  # held while this process lives: this draft is not dead
        except OSError:
            draft.rmdir()
            raise
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.close(owner)


def _clear_dead_drafts(model: Path) -> None:
    for draft in model.glob(".draft-*"):
        with contextlib.suppress(OSError):  # another publisher is filling it, or it is no folder of ours
            owner = lock_folder(draft)
            shutil.rmtree(draft, ignore_errors=True)
            os.close(owner)


def _check_what_is_published(manifest: Manifest, name: str, number: int, digests: dict[str, FileDigest]) -> None:
    place = f"{name}/{number}"
    if (manifest.name, manifest.version) != (name, number):
        raise BadVersion(place, f"its manifest would say it is {manifest.name}/{manifest.version}")
    if manifest.files != digests:
        raise BadVersion(place, "its manifest would not list the files that were written, with their digests")
    for path in REQUIRED:
        if path not in digests:
            raise BadVersion(place, f"it would have no {path}")


def _numbers_taken(model: Path) -> list[int]:
    """Numbers that something stands at, a version or not."""
    return [0, *(int(path.name) for path in model.iterdir() if _NUMBER.fullmatch(path.name))]


def _move_into_place(draft: Path, version: Path) -> None:
    draft.rename(version)
    try:
        sync(version.parent)
    except OSError:  # a crash might undo the move, and the caller will hear that nothing was published
        version.rename(draft)
        raise


def _last_number(model: Path) -> int:
    try:
        text = (model / ".last").read_bytes()[:100].decode("ascii", "replace").strip()
    except FileNotFoundError:
        return 0
    return int(text) if _NUMBER.fullmatch(text) else 0


def _digest_and_sync(draft: Path, path: str) -> FileDigest:
    raw = read_plain(draft, path, draft.parent.name)
    readable_like_its_folder = draft.stat().st_mode & 0o666
    (draft / path).chmod(readable_like_its_folder)  # some writers make files that only their owner may read
    sync(draft / path)
    return FileDigest(sha256=hashlib.sha256(raw).hexdigest(), bytes=len(raw))


def _files_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
