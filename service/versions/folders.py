"""What the repository's folders hold, for a thread to read beside the event loop.

The thread takes the interpreter from the event loop, so it reads no more than what is asked by: of a version the
manifest alone. See docs/decisions/0057-loads-in-groups.md.
"""

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models.errors import BadName, BadVersion
from models.files import state_of
from models.labels import FILE as LABELS
from models.labels import Label
from models.manifest import FILE
from models.repository import Repository, Version

_SETTLED_S = 1.0  # a folder changed this recently is read again: its time of change may not tell two changes apart

Place = tuple[str, int]
"""Model and version."""

Stamp = tuple[int, ...]
"""What tells a folder or a manifest from another one put in its place, and from what it was before a change.

The time of the content alone does not: who unpacks an archive sets it, in many archives all to the same.
"""


@dataclass(frozen=True)
class Folder:
    """What a model's folder holds; nothing, if it is gone.

    Attributes:
        stamps: those of its versions, by number.
        changed: of the refused versions, those whose files have changed since they were described.
        labels: what is said of each; None when that cannot be read.
        fault: why not.
    """

    stamps: Mapping[int, Stamp] = field(default_factory=dict)
    changed: Collection[int] = ()
    labels: Mapping[str, Label] | None = field(default_factory=dict)
    fault: str = ""


class Folders:
    """The folders of a repository, each read again only when it has changed or another one stands in its place."""

    def __init__(self, repository: Repository) -> None:
        self._repository, self._root = repository, repository.root
        self._device = 0  # where the repository was
        self._stand: Mapping[str, Stamp] = {}  # model to its folder's
        self._read_at: dict[str, Stamp] = {}  # the same as it was when the folder was read, once it has settled
        self._described: dict[Place, tuple[Version | None, Stamp]] = {}  # and the state of its files before
        self._changed: set[Place] = set()  # of these, by the last look

    def look_again(self, name: str) -> None:
        """Read a model's folder at the next look, whether it has changed or not."""
        self._read_at.pop(name, None)

    def look(
        self, known: Iterable[str], unloaded: frozenset[str], refused: Iterable[Place] = ()
    ) -> tuple[str | None, list[str]]:
        """What cannot be read, and the models to `read` again, sorted; of `known` ones, those that are gone, too.

        Models that are `unloaded` count as gone. Versions that are `refused` may still be on their way: where one has
        changed, its model is among them.
        """
        gone = {*known}
        try:
            device, folders = self._root.stat().st_dev, _folders_in(self._root)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not gone:
                return None, []  # not there yet
            return self._away(error.strerror or str(error), unloaded & gone)
        if gone and not folders and device != self._device:
            return self._away("the repository that was there is gone", unloaded & gone)
        self._device = device
        self._stand = {name: stamp for name, stamp in folders.items() if name not in unloaded}
        self._described = {place: self._described[place] for place in refused if place in self._described}
        self._changed = {place for place, (found, was) in self._described.items() if self._state(place, found) != was}
        moved = {name for name, stamp in self._stand.items() if stamp != self._read_at.get(name)}
        moved |= self._stand.keys() & {name for name, _ in self._changed}
        return None, sorted(moved | gone - self._stand.keys())

    def _away(self, reason: str, unloaded: Collection[str]) -> tuple[str, list[str]]:
        """What a look says when a volume was taken away: what is live needs no disk."""
        self._stand = {name: stamp for name, stamp in self._stand.items() if name not in unloaded}
        return f"{self._root}: {reason}", sorted(unloaded)

    def read(self, names: Iterable[str]) -> tuple[str | None, dict[str, Folder]]:
        """What cannot be read of these models, and what the folders of the others hold, as of the last look."""
        unreadable, found = None, {}
        for name in names:
            self.look_again(name)
            stamp = self._stand.get(name)
            if stamp is None:
                found[name] = Folder()
                continue
            try:
                found[name] = self._folder(name)
            except BadName:
                pass  # a folder that cannot be a model: somebody's notes
            except OSError as error:
                unreadable = f"{self._root / name}: {error.strerror}"
                continue
            if time.time() - _changed_at(stamp) > _SETTLED_S:
                self._read_at[name] = stamp
        return unreadable, found

    def _folder(self, name: str) -> Folder:
        folder = self._root / name
        stamps = {number: _stamp(str(folder / str(number) / FILE)) for number in self._repository.versions(name)}
        changed = [number for model, number in self._changed if model == name]
        try:
            return Folder(stamps, changed, self._repository.routes(name) if stamps else {})
        except (BadVersion, OSError) as error:
            return Folder(stamps, changed, None, str(error))

    def describe(self, places: Sequence[Place]) -> list[Version | str]:
        """The version at each place by its manifest alone, or why there is none."""
        described: list[Version | str] = []
        for place in places:
            manifest = self._manifest(place)  # before it is read: what comes afterwards is a change
            try:
                version = self._repository.describe(*place)
            except BadVersion as error:
                described.append(str(error))
                self._described[place] = None, (*manifest, *self._files(place, None))
            else:
                described.append(version)
                self._described[place] = version, (*manifest, *self._files(place, version))
        return described

    def _state(self, place: Place, version: Version | None) -> Stamp:
        """What tells all files of a version from what they were before a change."""
        return (*self._manifest(place), *self._files(place, version))

    def _manifest(self, place: Place) -> Stamp:
        return _stamp(str(self._root / place[0] / str(place[1]) / FILE))

    def _files(self, place: Place, version: Version | None) -> Stamp:
        return state_of(self._root / place[0] / str(place[1]), ()) if version is None else version.state()


def _folders_in(root: Path) -> dict[str, Stamp]:
    """Folders that may be models with their stamps: two system calls for each.

    A file of labels that is written in place changes nothing of its folder's.
    """
    with os.scandir(root) as entries:
        folders = [entry for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    return {folder.name: (*_stamp_of(folder.stat()), *_stamp(f"{folder.path}/{LABELS}")) for folder in folders}


def _stamp(path: str) -> Stamp:
    try:
        return _stamp_of(os.stat(path))  # noqa: PTH116 - a Path takes longer to make than to ask about
    except OSError:
        return ()


def _stamp_of(status: os.stat_result) -> Stamp:
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


def _changed_at(stamp: Stamp) -> float:
    """When it changed last, in seconds since the epoch."""
    return max(*stamp[2:4], *stamp[6:8]) / 1e9
