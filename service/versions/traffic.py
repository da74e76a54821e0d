"""Which of a model's live versions answers a request; models/README.md, section Labels, says by what rule."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from models.labels import STABLE, Label
from models.repository import Version


@dataclass(frozen=True, slots=True)
class Traffic:
    """One model as it is asked between two changes; a change puts another one in its place.

    Attributes:
        live: number to version, rising; at least one.
        labels: what is said of each label, be its version live or not.
        named: label to version, of those that can be asked.
        default: who answers what names neither a version nor a label, less the shares; None when `stable` names a
            version that is not live.
        shares: the upper end of each share, in [0, 1], with its version, rising.
        shadow: its share, with its version.
    """

    live: Mapping[int, Version]
    labels: Mapping[str, Label] = field(default_factory=dict)
    named: Mapping[str, Version] = field(default_factory=dict)
    default: Version | None = None
    shares: tuple[tuple[float, Version], ...] = ()
    shadow: tuple[float, Version] | None = None

    def drawn(self, name: str, key: str) -> Version | None:
        """Who answers the requests of a routing key, where there are shares."""
        point, _ = points(name, key)
        return next((version for end, version in self.shares if point < end), self.default)

    def shadow_of(self, answering: Version, key: str) -> Version | None:
        """Who computes a request beside the version that answers it."""
        if self.shadow is None or answering is not self.default:
            return None
        share, version = self.shadow
        return version if points(answering.name, key)[1] < share else None


def traffic_of(live: Mapping[int, Version], labels: Mapping[str, Label], before: Mapping[str, Version]) -> Traffic:
    """The traffic of a model.

    A label whose version is not live goes on with the version that it had in `before`, if that is still live. One that
    had none gets no share: what it would answer, `stable` does.
    """
    named: dict[str, Version] = {}
    for name, label in labels.items():
        version = live.get(label.version) or before.get(name)
        if version is not None and live.get(version.number) is version:
            named[name] = version
    default = named.get(STABLE) if STABLE in labels else live[max(live)]
    shares: list[tuple[float, Version]] = []
    end = 0.0
    for name, label in sorted(labels.items()):
        answering = named.get(name, default)
        end += label.share
        if label.share and answering is not None:
            shares.append((end, answering))
    shadow = next(
        ((label.shadow, named[name]) for name, label in labels.items() if label.shadow and name in named), None
    )
    return Traffic(live, labels, named, default, tuple(shares), shadow)


def points(name: str, key: str) -> tuple[float, float]:
    """Where a routing key lies among the shares of a model, and among those of its shadow, in [0, 1).

    The same in every process and at any time, so that whoever asks is answered by the same version.
    """
    digest = hashlib.sha256(f"{name}\n{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64, int.from_bytes(digest[8:16], "big") / 2**64
