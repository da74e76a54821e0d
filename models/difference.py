"""What one version has that another has not: for people who decide which of the two shall answer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from models.manifest import Manifest
from models.repository import Version


@dataclass(frozen=True)
class Change:
    """One thing that differs; None where a version does not have it.

    Attributes:
        what: its place in the manifest, such as "input.features.size.unit" or "scores.test.metrics.rmse".
        before, after: as in JSON.
    """

    what: str
    before: Any
    after: Any


def difference(before: Version, after: Version) -> list[Change]:
    """Everything but number and digests of files that two versions say of themselves differently, sorted by place.

    Features are told apart by name, and a change of their order is a change of "input.order".
    """
    old, new = dict(_facts(before.manifest)), dict(_facts(after.manifest))
    return [
        Change(what, old.get(what), new.get(what))
        for what in sorted(old.keys() | new.keys())
        if old.get(what) != new.get(what)
    ]


def _facts(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    said = manifest.model_dump(mode="json", exclude={"sha256", "version", "files"})
    said["files"] = sorted(manifest.files)
    features = said["input"].pop("features")
    said["input"]["order"] = [feature["name"] for feature in features]
    said["input"]["features"] = {feature["name"]: feature for feature in features}
    yield from _leaves("", said)


def _leaves(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{place}.{key}" if place else key, inner)
    else:
        yield place, value
