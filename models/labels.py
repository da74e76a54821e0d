"""What labels.json says: which version a label names, and what share of the traffic goes there.

{"stable": 3, "canary": {"version": 4, "share": 0.05}, "next": {"version": 5, "shadow": 0.1}}

Who asks without naming a version or a label is answered by `stable`, but for the shares that other labels have.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.errors import BadVersion, shown
from models.manifest import is_name

FILE = "labels.json"
STABLE = "stable"
_REPAIR = "remove the file and set the labels again"


@dataclass(frozen=True, slots=True)
class Label:
    """What one label says.

    Attributes:
        version: the number that it names.
        share: of the requests that name neither a version nor a label, how many this version answers, 0 to 1.
        shadow: of the requests that `stable` answers, how many this version computes as well, to be answered to
            nobody, 0 to 1.
    """

    version: int
    share: float = 0.0
    shadow: float = 0.0


def read_labels(raw: bytes, model: str) -> dict[str, Label]:
    """The labels in a file.

    Raises:
        BadVersion: it is not what `write_labels` writes.
    """
    place = f"{model}/{FILE}"
    try:
        read = json.loads(raw, object_pairs_hook=_once_each)
    except (ValueError, RecursionError):
        raise BadVersion(place, f"is not JSON in which each key stands once; {_REPAIR}") from None
    labels = {label: _label(value) for label, value in read.items()} if isinstance(read, dict) else {}
    whole = {label: value for label, value in labels.items() if value is not None and is_name(label)}
    if not isinstance(read, dict) or len(whole) < len(read):
        raise BadVersion(place, f'must map labels to versions, like {{"stable": 3}}; {_REPAIR}')
    if reason := what_is_wrong(whole):
        raise BadVersion(place, f"{reason}; {_REPAIR}")
    return whole


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values; of one label, two versions cannot both be meant."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError
    return dict(pairs)


def write_labels(labels: Mapping[str, Label]) -> bytes:
    """The file, sorted by label; a label without a share is a plain number."""
    entries: dict[str, Any] = {}
    for name, label in labels.items():
        shares = {"share": label.share, "shadow": label.shadow}
        given = {key: share for key, share in shares.items() if share}
        entries[name] = {"version": label.version, **given} if given else label.version
    return (json.dumps(entries, indent=1, sort_keys=True) + "\n").encode()


def what_is_wrong(labels: Mapping[str, Label]) -> str | None:
    """Why labels say together what cannot be done; None when it can."""
    for name, label in labels.items():
        if reason := _what_is_wrong_with(name, label, has_stable=STABLE in labels):
            return reason
    if math.fsum(label.share for label in labels.values()) > 1 + 1e-9:
        return "the shares of all labels together must be at most 1"
    shadows = sorted(name for name, label in labels.items() if label.shadow)
    if len(shadows) > 1:
        return f"one label alone may be a shadow, not {' and '.join(map(shown, shadows))}"
    return None


def _what_is_wrong_with(name: str, label: Label, *, has_stable: bool) -> str | None:
    for what, share in (("share", label.share), ("shadow", label.shadow)):
        if not 0 <= share <= 1:  # true of NaN as well
            return f"the {what} of label {shown(name)} must be from 0 to 1, got {share}"
    if label.share and label.shadow:
        return f"label {shown(name)} must have a share or be a shadow, not both"
    if (label.share or label.shadow) and name == STABLE:
        return f"'{STABLE}' must have no share: it answers what the others leave"
    if (label.share or label.shadow) and not has_stable:
        return f"label {shown(name)} must have no share while no '{STABLE}' answers the rest"
    return None


def _label(value: object) -> Label | None:
    """What a value of the file says; None for one that says nothing."""
    if isinstance(value, dict):
        if not value.keys() <= {"version", "share", "shadow"}:
            return None
        number, shares = value.get("version"), (value.get("share", 0), value.get("shadow", 0))
    else:
        number, shares = value, (0, 0)
    if type(number) is not int or number < 1 or not all(type(share) in (int, float) for share in shares):
        return None
    try:
        return Label(number, *map(float, shares))
    except OverflowError:  # an integer beyond all floats
        return None
