"""One model on its way from what is live of it to what its folder holds now."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from models.labels import FILE as LABELS
from models.labels import Label
from models.repository import Version
from service.versions.folders import Folder
from service.versions.traffic import Traffic, traffic_of


@dataclass
class Renewal:
    """What of a folder is to be live, as far as it is known.

    Attributes:
        labels: those that hold.
        before: what is live now, None for nothing.
        live: number to version: what was live and is still there, and what was opened since.
        refused: number to the sentence why not.
        keep: how many of the newest versions are live, beside those that labels name.
        unproven: numbers whose versions nobody was there to prove; what is live under them goes on.
    """

    name: str
    folder: Folder
    labels: Mapping[str, Label]
    before: Traffic | None
    live: dict[int, Version]
    refused: dict[int, str]
    keep: int
    unproven: set[int] = field(default_factory=set)
    _newest_first: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._newest_first = sorted(self.folder.stamps, reverse=True)

    def missing(self) -> list[int]:
        """The versions to open next; those that are refused make room for older ones."""
        able = [number for number in self._newest_first if number not in self.refused]
        labelled = self._labelled().intersection(able)
        wanted = dict.fromkeys([*sorted(labelled), *able[: self.keep]])
        return [number for number in wanted if number not in self.live and number not in self.unproven]

    def has_again(self, version: Version) -> bool:
        """Whether this very version is live by now, and only its folder is another one."""
        before = None if self.before is None else self.before.live.get(version.number)
        return before is not None and before.key == version.key

    def go_on_with(self, number: int) -> None:
        """Keep what is live under this number, if anything is."""
        if self.before is not None and number in self.before.live:
            self.live[number] = self.before.live[number]

    def put_off(self, number: int) -> None:
        """Leave it to another look; what is live under this number goes on until then."""
        self.unproven.add(number)
        self.go_on_with(number)

    def refuse(self, number: int, reason: str) -> None:
        """Say why what stands there cannot go live; what was live in its place goes on."""
        self.refused[number] = reason
        self.go_on_with(number)

    def traffic(self) -> Traffic | None:
        """What is asked from now on, None for nothing; what is live now, if that is still all of it."""
        kept = self._kept()
        before = self.before
        if before is not None and kept == before.live and self.labels == before.labels:
            return before
        return traffic_of(kept, self.labels, {} if before is None else before.named) if kept else None

    def failures(self, traffic: Traffic | None) -> dict[str, str]:
        """`<model>/<version>` or `<model>/labels.json` to the sentence why it was refused, or is not asked."""
        failures = {f"{self.name}/{number}": why for number, why in self.refused.items()}
        place = f"{self.name}/{LABELS}"
        if self.folder.labels is None:
            failures[place] = self.folder.fault
        if traffic is None:
            return failures
        for label, said in self.labels.items():
            if said.version not in traffic.live:
                goes_on = traffic.named.get(label)
                instead = "" if goes_on is None else f"; version {goes_on.number} goes on"
                sentence = f"{place}: label '{label}' names version {said.version}, which is not live{instead}"
                failures.setdefault(place, sentence)
        return failures

    def _kept(self) -> dict[int, Version]:
        """What is live once what was missing is: labelled, among the newest, or what a label goes on with."""
        kept = self._labelled().union(sorted(self.live, reverse=True)[: self.keep])
        for label, version in ({} if self.before is None else self.before.named).items():
            if label in self.labels and self.labels[label].version not in self.live:
                kept.add(version.number)
        return {number: version for number, version in sorted(self.live.items()) if number in kept}

    def _labelled(self) -> set[int]:
        return {label.version for label in self.labels.values()}
