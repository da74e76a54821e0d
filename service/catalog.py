"""Which versions an API process serves: opened here, proven by the workers, looked up by every request.

The repository is looked at every few seconds. A version is immutable, so a look is cheap: a model is read again only
when its folder's time of change moved. What was live stays live until its folder is gone.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from models.errors import BadName, BadVersion
from models.manifest import FILE
from models.repository import LABELS, Repository, Version
from service.problems import NotReady, UnknownLabel, UnknownModel, UnknownVersion

STABLE = "stable"
_SETTLED_S = 1.0  # a folder changed this recently is read again: its time of change may not tell two changes apart

Prove = Callable[[Version], Awaitable[str | None]]
"""Has a version proven: None when it may go live, else the sentence why not; ConnectionError: nobody there to ask."""

log = logging.getLogger(__name__)


@dataclass
class _Seen:
    """What is known of one model's folder.

    Attributes:
        changed: its time of change when it was last read, in nanoseconds; 0 when it must be read again.
        stamps: number to what tells a manifest from another one put in its place.
    """

    changed: int = 0
    stamps: dict[int, tuple[int, int]] = field(default_factory=dict)


class Catalog:
    """The live versions."""

    def __init__(self, repository: Repository, prove: Prove, default_model: str | None = None) -> None:
        self._repository = repository
        self._prove = prove
        self._default_model = default_model
        self._seen: dict[str, _Seen] = {}
        self._live: dict[str, dict[int, Version]] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self.unreadable: str | None = None
        """Why the repository, or a model's folder, cannot be read now; None when it can."""
        self.failures: Mapping[str, str] = {}
        """`<model>/<version>` to the one sentence why it was refused."""

    def find(self, name: str | None, number: int | None = None, label: str | None = None) -> Version:
        """The version to ask; None is the default model, no number the label "stable" if it is set, else the latest.

        Raises:
            UnknownModel, UnknownVersion, UnknownLabel: nothing of that name is live.
            NotReady: nothing is live, or the label's version is not.
        """
        name = name if name is not None else self._default()
        versions = self._live.get(name)
        if not versions:
            raise self._nothing_live_of(name)
        if number is not None:
            if number not in versions:
                raise UnknownVersion(name, number, sorted(versions))
            return versions[number]
        labels = self._labels.get(name, {})
        if label is None and STABLE not in labels:
            return versions[max(versions)]
        label = label or STABLE
        if label not in labels:
            raise UnknownLabel(name, label, sorted(labels))
        if labels[label] not in versions:
            reason = self.failures.get(f"{name}/{labels[label]}", "it is not in the repository")
            raise NotReady(f"label '{label}' of '{name}' names version {labels[label]}, which is not live: {reason}")
        return versions[labels[label]]

    def live(self) -> Mapping[str, Mapping[int, Version]]:
        """Every live version by model and number."""
        return self._live

    def labels(self, name: str) -> Mapping[str, int]:
        """Label to version."""
        return self._labels.get(name, {})

    def why_not_ready(self) -> str | None:
        """Why what must be live is not, and what to do; None when it is."""
        if self._default_model is not None and self._default_model not in self._live:
            return str(self._nothing_live_of(self._default_model))
        if self._live:
            return None
        if self.failures:
            place, reason = next(iter(self.failures.items()))
            return f"no version could be opened; the first, {place}: {reason.removeprefix(place + ': ')}"
        return f"nothing is published in {self._repository.root}; `make train` trains and publishes a model"

    async def watch(self, every_s: float) -> None:
        """Look at the repository for ever; what goes wrong is logged and tried again."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.refresh()
            except Exception:
                log.exception("the repository could not be looked at; what is live goes on")

    async def refresh(self) -> None:
        """Look at the repository once: new versions go live, deleted ones go, labels take effect."""
        unreadable, changed = await asyncio.to_thread(self._look)
        if unreadable != self.unreadable:
            if unreadable is not None:
                log.error("the repository cannot be read, what is live goes on: %s", unreadable)
            else:
                log.warning("the repository can be read again")
            self.unreadable = unreadable
        for name, stamps in changed.items():
            await self._update(name, stamps)

    def _default(self) -> str:
        if self._default_model is not None:
            return self._default_model
        if len(self._live) == 1:
            return next(iter(self._live))
        if not self._live:
            raise NotReady(self.why_not_ready() or "")
        raise UnknownModel(None, sorted(self._live))

    def _nothing_live_of(self, name: str) -> UnknownModel | NotReady:
        refused = [sentence for place, sentence in self.failures.items() if place.rsplit("/", 1)[0] == name]
        if refused:
            return NotReady(f"no version of '{name}' could be opened: {refused[-1]}")
        if not self._live:
            return NotReady(self.why_not_ready() or "")
        return UnknownModel(name, sorted(self._live))

    def _look(self) -> tuple[str | None, dict[str, dict[int, tuple[int, int]]]]:
        """What cannot be read, and models whose folder changed: number to stamp; empty for a model that is gone."""
        root = self._repository.root
        try:
            folders = _folders_in(root)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not self._live:
                return None, {}  # not there yet
            return f"{root}: {error.strerror}", {}  # a volume was taken away: what is live needs no disk
        unreadable, found = None, {}
        gone = set(self._seen)
        for folder in folders:
            gone.discard(folder.name)
            seen = self._seen.setdefault(folder.name, _Seen())
            changed = folder.stat().st_mtime_ns
            if changed == seen.changed:
                continue
            seen.changed = changed if time.time() - changed / 1e9 > _SETTLED_S else 0
            try:
                numbers = self._repository.versions(folder.name)
            except BadName:
                continue  # a folder that cannot be a model: somebody's notes
            except OSError as error:
                unreadable, seen.changed = f"{folder}: {error.strerror}", 0
                continue
            found[folder.name] = {number: _stamp(folder / str(number) / FILE) for number in numbers}
        for name in gone:
            found[name] = {}
        return unreadable, found

    async def _update(self, name: str, stamps: dict[int, tuple[int, int]]) -> None:
        seen = self._seen.get(name, _Seen())
        live = {n: v for n, v in self._live.get(name, {}).items() if _is_same(n, stamps, seen.stamps)}
        changed = {f"{name}/{n}" for n in seen.stamps if not _is_same(n, stamps, seen.stamps)} | {f"{name}/{LABELS}"}
        failures = {place: why for place, why in self.failures.items() if place not in changed}
        for number in sorted(set(stamps) - set(live)):
            place = f"{name}/{number}"
            if place in failures:
                continue
            try:
                version = await asyncio.to_thread(self._repository.open, name, number)
                reason = await self._prove(version)
            except BadVersion as error:
                reason = str(error)
            except ConnectionError:
                seen.changed = 0  # look again: nobody was there to prove it
                stamps.pop(number)
                continue
            if reason is None:
                live[number] = version
                log.info("live: %s", version)
            else:
                failures[place] = reason
                log.warning("refused: %s", reason)
        seen.stamps = stamps
        if not stamps:
            self._seen.pop(name, None)
        self._publish(name, live, failures)

    def _publish(self, name: str, live: dict[int, Version], failures: dict[str, str]) -> None:
        for number in set(self._live.get(name, {})) - set(live):
            log.info("gone: %s/%d", name, number)
        self._live = {other: versions for other, versions in self._live.items() if other != name}
        if live:
            self._live[name] = dict(sorted(live.items()))
        try:
            labels = self._repository.labels(name)
            self._labels = {other: theirs for other, theirs in self._labels.items() if other != name}
            if labels:
                self._labels[name] = labels
        except (BadVersion, OSError) as error:
            failures[f"{name}/{LABELS}"] = str(error)  # the labels that were right go on
            log.warning("refused: %s", error)
        self.failures = failures


def _folders_in(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _stamp(manifest: Path) -> tuple[int, int]:
    try:
        status = manifest.stat()
    except OSError:
        return (0, 0)
    return (status.st_ino, status.st_mtime_ns)


def _is_same(number: int, stamps: dict[int, tuple[int, int]], before: dict[int, tuple[int, int]]) -> bool:
    return number in stamps and stamps[number] == before.get(number)
