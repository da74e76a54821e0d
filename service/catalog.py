"""Which versions an API process serves: opened here, proven by the workers, looked up by every request.

The repository is looked at every few seconds. A version is immutable, so a look is cheap: a model is read again only
when its folder's time of change moved. What was live stays live until its folder is gone, it is unloaded, or it is
neither labelled nor among the newest.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from models.errors import BadName, BadVersion
from models.labels import FILE as LABELS
from models.labels import STABLE, Label
from models.manifest import FILE
from models.repository import Repository, Version
from service.problems import NotReady, UnknownLabel, UnknownModel, UnknownVersion
from service.settings import KEEP_VERSIONS
from service.traffic import Traffic, traffic_of
from service.waking import next_turn

_SETTLED_S = 1.0  # a folder changed this recently is read again: its time of change may not tell two changes apart

Prove = Callable[[Version], Awaitable[str | None]]
"""Has a version proven: None when it may go live, else the sentence why not; ConnectionError: nobody there to ask."""

Expect = Callable[[Sequence[str]], Awaitable[None]]
Alone = Callable[[], AbstractAsyncContextManager[None]]

_TOGETHER = 32  # models whose new versions are proven together

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

    def __init__(
        self,
        repository: Repository,
        prove: Prove,
        default_model: str | None = None,
        *,
        keep: int = KEEP_VERSIONS,
        unloaded: Callable[[], frozenset[str]] = frozenset,
        retire: Callable[[Version], None] = lambda _: None,
        expect: Expect | None = None,
        alone: Alone = nullcontext,
    ) -> None:
        """Know of nothing yet.

        `expect` hears of several versions, `<model>/<number>` each, that will be proven next; where others are asked
        meanwhile, that is done in an `alone`.
        `unloaded` says which models are not served whatever the repository holds. `retire` hears of every version that
        is no longer live; requests that were given it before may still ask it.
        """
        self._repository = repository
        self._prove = prove
        self._default_model = default_model
        self._keep = keep
        self._unloaded = unloaded
        self._retire = retire
        self._expect = expect
        self._alone = alone
        self._seen: dict[str, _Seen] = {}
        self._models: dict[str, Traffic] = {}
        self._looking = asyncio.Lock()
        self._device = 0  # where the repository was
        self.unreadable: str | None = None
        """Why the repository, or a model's folder, cannot be read now; None when it can."""
        self.failures: Mapping[str, str] = {}
        """`<model>/<version>` or `<model>/labels.json` to the one sentence why it was refused."""
        self.changes = 0
        """How often what is live, or which version answers what, has changed."""
        self.has_shadows = False
        """Whether any model has a version that computes what another one answers."""

    def find(
        self, name: str | None, number: int | None = None, label: str | None = None, key: str | None = None
    ) -> Version:
        """The version to ask; None is the default model.

        Without number and label it is whom the shares give the routing key to; without a routing key, or where there
        are no shares, the version of "stable", else the latest. No more than `keep` of the newest are live, beside
        those that labels name.

        Raises:
            UnknownModel, UnknownVersion, UnknownLabel: nothing of that name is live.
            NotReady: nothing is live, or the label's version is not.
        """
        name = name if name is not None else self._default()
        model = self._models.get(name)
        if model is None:
            raise self._nothing_live_of(name)
        if number is not None:
            if number not in model.live:
                raise UnknownVersion(name, number, model.live)
            return model.live[number]
        if label is None:
            answering = model.drawn(name, key) if model.shares and key is not None else model.default
            if answering is None:
                raise self._not_live(name, STABLE, model)
            return answering
        if label not in model.labels:
            raise UnknownLabel(name, label, sorted(model.labels))
        if label not in model.named:
            raise self._not_live(name, label, model)
        return model.named[label]

    def is_drawn(self, name: str) -> bool:
        """Whether shares decide which version of a model answers a request."""
        model = self._models.get(name)
        return model is not None and bool(model.shares)

    def shadow_of(self, answering: Version, key: str) -> Version | None:
        """The version that computes a request of this routing key beside the one that answers it, if any does."""
        model = self._models.get(answering.name)
        return None if model is None else model.shadow_of(answering, key)

    def live(self) -> Mapping[str, Mapping[int, Version]]:
        """Every live version by model and number."""
        return {name: model.live for name, model in self._models.items()}

    def labels(self, name: str) -> Mapping[str, int]:
        """Label to version."""
        return {label: said.version for label, said in self.routes(name).items()}

    def routes(self, name: str) -> Mapping[str, Label]:
        """Label to version and shares."""
        model = self._models.get(name)
        return {} if model is None else model.labels

    def unloaded(self) -> frozenset[str]:
        """Models that are not served because somebody said so."""
        return self._unloaded()

    def why_not_ready(self) -> str | None:
        """Why what must be live is not, and what to do; None when it is."""
        if self._default_model is not None and self._default_model not in self._models:
            return str(self._nothing_live_of(self._default_model))
        if self._models:
            return None
        if self.failures:
            place, reason = next(iter(self.failures.items()))
            return f"no version could be opened; the first, {place}: {reason.removeprefix(place + ': ')}"
        if self._unloaded():
            return None  # whoever unloaded the last model wants it so
        return f"nothing is published in {self._repository.root}; `make train` trains and publishes a model"

    async def watch(self, every_s: float) -> None:
        """Look at the repository for ever; what goes wrong is logged and tried again."""
        while True:
            await next_turn(every_s)
            try:
                await self.refresh()
            except Exception:
                log.exception("the repository could not be looked at; what is live goes on")

    async def refresh(self, again: str | None = None) -> None:
        """Look at the repository once: new versions go live, deleted ones go, labels take effect.

        What was refused of the model `again` is opened again; nothing else that was refused is, as it never changes.
        """
        async with self._looking:
            if again is not None:
                self._seen.setdefault(again, _Seen()).changed = 0
                self.failures = {place: why for place, why in self.failures.items() if _model_of(place) != again}
            unreadable, changed = await asyncio.to_thread(self._look)
            if unreadable != self.unreadable:
                if unreadable is not None:
                    log.error("the repository cannot be read, what is live goes on: %s", unreadable)
                else:
                    log.warning("the repository can be read again")
                self.unreadable = unreadable
            models = list(changed.items())
            for start in range(0, len(models), _TOGETHER):
                some = models[start : start + _TOGETHER]
                new = [place for name, stamps in some for place in self._new(name, stamps)]
                async with self._alone() if self._models and len(new) > 1 else nullcontext():
                    if self._expect is not None and len(new) > 1:
                        await self._expect(new)
                    for name, stamps in some:
                        await self._update(name, stamps)

    def _new(self, name: str, stamps: Mapping[int, tuple[int, int]]) -> list[str]:
        """What `_update` is likely to open: those of the newest versions that were not there before."""
        before = self._seen[name].stamps if name in self._seen else {}
        newest = sorted(stamps, reverse=True)[: self._keep]
        return [f"{name}/{number}" for number in newest if stamps[number] != before.get(number)]

    def _default(self) -> str:
        if self._default_model is not None:
            return self._default_model
        if len(self._models) == 1:
            return next(iter(self._models))
        if not self._models and (reason := self.why_not_ready()):
            raise NotReady(reason)
        raise UnknownModel(None, sorted(self._models))

    def _not_live(self, name: str, label: str, model: Traffic) -> NotReady:
        number = model.labels[label].version
        reason = self.failures.get(f"{name}/{number}", "it is not in the repository")
        return NotReady(f"label '{label}' of '{name}' names version {number}, which is not live: {reason}")

    def _nothing_live_of(self, name: str) -> UnknownModel | NotReady:
        if name in self._unloaded():
            return NotReady(f"model '{name}' was unloaded by request; load it by request")
        refused = [sentence for place, sentence in self.failures.items() if _model_of(place) == name]
        if refused:
            return NotReady(f"no version of '{name}' could be opened: {refused[-1]}")
        if not self._models and (reason := self.why_not_ready()):
            return NotReady(reason)
        return UnknownModel(name, sorted(self._models))

    # ------------------------------------------------------------------------------------- looking at the repository

    def _look(self) -> tuple[str | None, dict[str, dict[int, tuple[int, int]]]]:
        """What cannot be read, and models whose folder changed: number to stamp; empty for a model that is gone."""
        root = self._repository.root
        unreadable, found = None, {}
        gone = set(self._seen) | set(self._models)
        unloaded = self._unloaded()
        try:
            device, folders = root.stat().st_dev, _folders_in(root)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not self._models:
                return None, {}  # not there yet
            # a volume was taken away: what is live needs no disk
            return f"{root}: {error.strerror}", {name: {} for name in unloaded & gone}
        if self._models and not folders and device != self._device:
            return f"{root}: the repository that was there is gone", {name: {} for name in unloaded & gone}
        self._device = device
        for name, changed in folders:
            if name in unloaded:
                continue
            gone.discard(name)
            seen = self._seen.setdefault(name, _Seen())
            if changed == seen.changed:
                continue
            seen.changed = changed if time.time() - changed / 1e9 > _SETTLED_S else 0
            try:
                numbers = self._repository.versions(name)
            except BadName:
                continue  # a folder that cannot be a model: somebody's notes
            except OSError as error:
                unreadable, seen.changed = f"{root / name}: {error.strerror}", 0
                continue
            found[name] = {number: _stamp(root / name / str(number) / FILE) for number in numbers}
        for name in gone:
            found[name] = {}
        return unreadable, found

    async def _update(self, name: str, stamps: dict[int, tuple[int, int]]) -> None:
        """Take over what a model's folder holds now: first open what is new, then switch to it at once."""
        seen = self._seen.setdefault(name, _Seen())
        before = self._models.get(name)
        same = {number for number in stamps if stamps[number] == seen.stamps.get(number)}
        live = {n: version for n, version in before.live.items() if n in same} if before is not None else {}
        changed = {f"{name}/{number}" for number in seen.stamps.keys() - same} | {f"{name}/{LABELS}"}
        failures = {place: why for place, why in self.failures.items() if place not in changed}
        seen.stamps = stamps
        labels = await self._read_labels(name, before, failures) if stamps else {}

        wanted: set[int] = set()
        for number in sorted({label.version for label in labels.values()} & stamps.keys()):
            wanted.add(number)
            await self._open(name, number, live, failures)
        newest = 0
        for number in sorted(stamps, reverse=True):
            if newest < self._keep and await self._open(name, number, live, failures):
                wanted.add(number)
                newest += 1
        for label, version in before.named.items() if before is not None else ():
            if labels.get(label) and labels[label].version not in live:  # the label goes on with what it had
                wanted.add(version.number)
        self._publish(name, {n: version for n, version in sorted(live.items()) if n in wanted}, labels, failures)

    async def _read_labels(self, name: str, before: Traffic | None, failures: dict[str, str]) -> Mapping[str, Label]:
        try:
            return await asyncio.to_thread(self._repository.routes, name)
        except (BadVersion, OSError) as error:
            failures[f"{name}/{LABELS}"] = str(error)  # the labels that were right go on
            log.warning("refused: %s", error)
            return {} if before is None else before.labels

    async def _open(self, name: str, number: int, live: dict[int, Version], failures: dict[str, str]) -> bool:
        """Whether a version is live, opened and proven now if it is new."""
        place = f"{name}/{number}"
        if number in live:
            return True
        if place in failures:
            return False
        try:
            version = await asyncio.to_thread(self._repository.open, name, number)
            reason = await self._prove(version)
        except BadVersion as error:
            reason = str(error)
        except ConnectionError:  # nobody was there to prove it: look again
            self._seen[name].changed = 0
            return False
        if reason is None:
            live[number] = version
            log.info("live: %s", version)
            return True
        failures[place] = reason
        log.warning("refused: %s", reason)
        return False

    def _publish(
        self, name: str, live: dict[int, Version], labels: Mapping[str, Label], failures: dict[str, str]
    ) -> None:
        before = self._models.get(name)
        models = {other: model for other, model in self._models.items() if other != name}
        if live:
            models[name] = traffic_of(live, labels, before.named if before is not None else {})
        elif not self._seen[name].stamps:
            del self._seen[name]
        for label in () if name not in models else labels.keys():
            self._say_if_it_is_not_live(name, label, models[name], failures)
        self.changes += 1
        self._models = models  # one assignment: no request sees half of a change
        self.failures = failures
        self.has_shadows = any(model.shadow is not None for model in models.values())
        for number, version in () if before is None else before.live.items():
            if live.get(number) is not version:
                log.info("gone: %s", version)
                self._retire(version)

    def _say_if_it_is_not_live(self, name: str, label: str, model: Traffic, failures: dict[str, str]) -> None:
        number = model.labels[label].version
        if number in model.live:
            return
        instead = f"; version {model.named[label].number} goes on" if label in model.named else ""
        sentence = f"{name}/{LABELS}: label '{label}' names version {number}, which is not live{instead}"
        if self.failures.get(f"{name}/{LABELS}") != sentence:
            log.warning("refused: %s", sentence)
        failures.setdefault(f"{name}/{LABELS}", sentence)


def _folders_in(root: Path) -> Sequence[tuple[str, int]]:
    """Folders that may be models, sorted, with their times of change: one system call for each."""
    with os.scandir(root) as entries:
        folders = [entry for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    return sorted((folder.name, folder.stat().st_mtime_ns) for folder in folders)


def _stamp(manifest: Path) -> tuple[int, int]:
    try:
        status = manifest.stat()
    except OSError:
        return (0, 0)
    return (status.st_ino, status.st_mtime_ns)


def _model_of(place: str) -> str:
    return place.rsplit("/", 1)[0]
