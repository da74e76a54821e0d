"""Which versions an API process serves: described here, opened and proven by the workers, looked up by every request.

The repository is looked at every few seconds. A version is immutable, so a look is cheap: a model is read again only
when its folder's time of change moved. What was live stays live until its folder is gone, it is unloaded, or it is
neither labelled nor among the newest. Many new versions are taken over in groups: what is done for each of them, on
the event loop and in the thread beside it, requests wait for. Between groups is a rest, so that few requests meet one
(docs/decisions/0083-versions-come-at-a-pace.md).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext

from models.labels import FILE as LABELS
from models.labels import STABLE, Label
from models.repository import Repository, Version
from service.problems import NotReady, UnknownLabel, UnknownModel, UnknownVersion
from service.processes.scheduling import take_ordinary_slices
from service.processes.waking import next_turn
from service.settings import KEEP_VERSIONS
from service.versions.folders import Folder, Folders, Stamp
from service.versions.renewal import Renewal
from service.versions.traffic import Traffic

Prove = Callable[[Sequence[Version]], Awaitable[Sequence[str | None]]]
"""Has versions proven: for each None when it may go live, else the sentence why not.

ConnectionError: nobody there to ask.
"""

Alone = Callable[[], AbstractAsyncContextManager[None]]

_TOGETHER = 32  # models that are taken over together, and versions that are proven together
_IN_PEACE = 16  # the same, where others are asked meanwhile; fewer at a time cost more in all
_RESTS = 9.0  # times as long as such a group took: of a hundred requests about ten meet one
_LONGEST_REST_S = 2.0

log = logging.getLogger(__name__)


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
        alone: Alone = nullcontext,
        rest: Callable[[float], Awaitable[None]] = asyncio.sleep,
        says_what_is_live: bool = True,
    ) -> None:
        """Know of nothing yet.

        Several versions that are new while others are asked are proven in an `alone`, with a `rest` of so many seconds
        in between.
        `unloaded` says which models are not served whatever the repository holds. `retire` hears of every version that
        is no longer live; requests that were given it before may still ask it. Of the processes of a server one
        `says_what_is_live`, the others only to those who debug.
        """
        self._root = repository.root
        self._folders = Folders(repository)
        self._reader = ThreadPoolExecutor(1, "reader", take_ordinary_slices)  # a request that comes is answered first
        self._prove = prove
        self._default_model = default_model
        self._keep = keep
        self._unloaded = unloaded
        self._retire = retire
        self._alone = alone
        self._rest = rest
        self._level = logging.INFO if says_what_is_live else logging.DEBUG
        self._stamps: dict[str, Mapping[int, Stamp]] = {}
        self._models: dict[str, Traffic] = {}
        self._looking = asyncio.Lock()
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
                raise UnknownVersion(name, number, sorted(model.live))
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
        if self.unreadable is not None:
            return f"the repository cannot be read: {self.unreadable}"
        if self.failures:
            place, reason = next(iter(self.failures.items()))
            return f"no version could be opened; the first, {place}: {reason.removeprefix(place + ': ')}"
        if self._unloaded():
            return None  # whoever unloaded the last model wants it so
        return f"nothing is published in {self._root}; `make train` trains and publishes a model"

    async def watch(self, every_s: float) -> None:
        """Look at the repository for ever; what goes wrong is logged and tried again.

        Many versions that are new while others are asked come a few at a time. Whoever calls `refresh` meanwhile has
        them at once, and what changes of a live model does not wait for new ones.
        """
        while True:
            await next_turn(every_s)
            try:
                await self._refresh_in_peace(every_s)
            except Exception:
                log.exception("the repository could not be looked at; what is live goes on")

    async def _refresh_in_peace(self, look_again_s: float) -> None:
        longest_s, left = 0.0, 1
        while left:
            async with self._looking:
                unreadable, changed = await self._look()
            until, left = time.monotonic() + look_again_s, len(changed)
            for some in _groups(changed, _IN_PEACE if self._models else _TOGETHER):
                async with self._looking:
                    fault, took_s = await self._take_over(some)
                unreadable, left = unreadable or fault, left - len(some)
                if took_s and left:
                    longest_s = max(longest_s, took_s)  # another process may have had these opened
                    await self._rest(min(_RESTS * longest_s, _LONGEST_REST_S))
                    if time.monotonic() > until:
                        break
            if unreadable is not None or not left:
                self._say_whether_readable(unreadable)

    async def refresh(self, again: str | None = None) -> None:
        """Look at the repository once: new versions go live, deleted ones go, labels take effect.

        What was refused is opened again once one of its files has changed, or its model is `again`.
        """
        async with self._looking:
            if again is not None:
                self._folders.look_again(again)
                self.failures = {place: why for place, why in self.failures.items() if _model_of(place) != again}
            unreadable, changed = await self._look()
            for some in _groups(changed, _TOGETHER):
                fault, _ = await self._take_over(some)
                unreadable = unreadable or fault
            self._say_whether_readable(unreadable)

    async def _look(self) -> tuple[str | None, list[str]]:
        """What cannot be read, and the models that have changed: those that are live come first."""
        known = self._stamps.keys() | self._models.keys()
        refused = [(name, int(number)) for name, number in map(_parts, self.failures) if number != LABELS]
        aside = asyncio.get_running_loop().run_in_executor
        unreadable, changed = await aside(self._reader, self._folders.look, known, self._unloaded(), refused)
        return unreadable, sorted(changed, key=lambda name: name not in self._models)

    async def _take_over(self, names: Sequence[str]) -> tuple[str | None, float]:
        """What of these models could not be read, and how many seconds those took that have new versions."""
        async with self._alone() if self._models and len(names) > 1 else nullcontext():
            began, aside = time.monotonic(), asyncio.get_running_loop().run_in_executor
            unreadable, found = await aside(self._reader, self._folders.read, names)
            renewals = [self._renewal(name, folder) for name, folder in found.items()]
            is_new = any(one.missing() for one in renewals)
            try:
                await self._open(renewals)
            except Exception:  # whatever it was, nothing of them is taken over: the next look has to
                self._look_again(renewals)
                raise
            for before, after in self._switch(renewals):
                await self._tell(_live(before), _live(after))
            return unreadable, time.monotonic() - began if is_new else 0.0

    def _say_whether_readable(self, unreadable: str | None) -> None:
        if unreadable != self.unreadable:
            if unreadable is not None:
                log.error("the repository cannot be read, what is live goes on: %s", unreadable)
            else:
                log.warning("the repository can be read again")
            self.unreadable = unreadable

    def _renewal(self, name: str, folder: Folder) -> Renewal:
        before = self._models.get(name)
        labels = folder.labels
        if labels is None:  # those that were right go on
            labels = {} if before is None else before.labels
        stood = {**self._stamps.get(name, {}), **dict.fromkeys(folder.changed)}
        same = [number for number, stamp in folder.stamps.items() if stood.get(number) == stamp]
        live = {} if before is None else {number: before.live[number] for number in same if number in before.live}
        why = {number: self.failures.get(f"{name}/{number}") for number in same}
        refused = {number: sentence for number, sentence in why.items() if sentence is not None}
        return Renewal(name, folder, labels, before, live, refused, self._keep)

    async def _open(self, renewals: Sequence[Renewal]) -> None:
        """Have what is missing described here and proven by the workers, `_TOGETHER` at a time."""
        while some := [(one, number) for one in renewals for number in one.missing()][:_TOGETHER]:
            places = [(one.name, number) for one, number in some]
            loop = asyncio.get_running_loop()
            described = await loop.run_in_executor(self._reader, self._folders.describe, places)
            new = [
                version
                for (one, _), version in zip(some, described, strict=True)
                if isinstance(version, Version) and not one.has_again(version)
            ]
            is_anybody_there = True
            try:
                said = iter(await self._prove(new) if new else ())
            except ConnectionError:
                is_anybody_there = False
                self._look_again(renewals)
            for (one, number), version in zip(some, described, strict=True):
                if isinstance(version, str):
                    one.refuse(number, version)
                elif one.has_again(version):
                    one.go_on_with(number)
                elif not is_anybody_there:
                    one.put_off(number)
                elif (reason := next(said)) is not None:
                    one.refuse(number, reason)
                else:
                    one.live[number] = version

    def _look_again(self, renewals: Sequence[Renewal]) -> None:
        for one in renewals:
            self._folders.look_again(one.name)

    def _switch(self, renewals: Sequence[Renewal]) -> list[tuple[Traffic | None, Traffic | None]]:
        """Take over what the models' folders hold now, all of it at once; what of them was live, and what is."""
        names = {one.name for one in renewals}
        failures = {place: why for place, why in self.failures.items() if _model_of(place) not in names}
        models, changed = dict(self._models), []
        for one in renewals:
            traffic = one.traffic()
            if traffic is not one.before:
                changed.append((one.before, traffic))
                models.pop(one.name, None)
                models.update({} if traffic is None else {one.name: traffic})
            seen = one.folder.stamps.items()
            self._stamps[one.name] = {number: stamp for number, stamp in seen if number not in one.unproven}
            if traffic is None and not one.folder.stamps:
                del self._stamps[one.name]
            failures |= one.failures(traffic)
        for place, why in failures.items():
            if self.failures.get(place) != why:
                log.warning("refused: %s", why)
        self.failures = failures
        if changed:
            self.changes += 1
            self._models = models  # one assignment: no request sees half of a change
            self.has_shadows = any(model.shadow is not None for model in models.values())
        return changed

    async def _tell(self, before: Mapping[int, Version], after: Mapping[int, Version]) -> None:
        """Say which versions came and which went, with room for requests after each."""
        for version in after.values():
            if before.get(version.number) is not version:
                log.log(self._level, "live: %s", version)
                await asyncio.sleep(0)
        for version in before.values():
            if after.get(version.number) is not version:
                log.log(self._level, "gone: %s", version)
                self._retire(version)
                await asyncio.sleep(0)

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


def _groups(names: Sequence[str], size: int) -> list[Sequence[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]


def _live(traffic: Traffic | None) -> Mapping[int, Version]:
    return {} if traffic is None else traffic.live


def _model_of(place: str) -> str:
    return _parts(place)[0]


def _parts(place: str) -> tuple[str, str]:
    name, _, what = place.rpartition("/")
    return name, what
