"""What can go wrong at the contract, each with its facts, one sentence and a stable code."""

import difflib
import json
from bisect import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, dataclass_transform


@dataclass_transform(eq_default=False)
class RowcastError(Exception):
    """An error whose sentence may be shown to whoever caused it.

    Each kind is a dataclass of the facts that its sentence is made of, and is named after what it says; a kind with a
    single fact may have that as its sentence. `code` is stable: clients and dashboards may rely on it.
    """

    code: ClassVar[str] = "internal"

    def __init_subclass__(cls) -> None:
        dataclass(eq=False)(cls)

    def __post_init__(self) -> None:
        super().__init__(*vars(self).values())  # pickle makes an error again of these


class AtPlace(RowcastError):
    """Something is wrong at a place.

    Attributes:
        place: a file, a folder, a dataset, or a version as `<model>/<version>`.
        reason: what is wrong, and what to do about it.
    """

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class BadRow(RowcastError):
    """A row cannot be encoded.

    Attributes:
        row: number of the row in its request or table, from 0; None when the rows as a whole are wrong.
        feature: name of the feature; None when the row as a whole is wrong.
        expected: what was expected, as a claim: "must be a number".
        got: what came instead, shown shortened; empty when nothing came.
    """

    code = "bad_row"
    row: int | None
    feature: str | None
    expected: str
    got: str = ""

    def __str__(self) -> str:
        place = "" if self.row is None else f"row {self.row}: "
        subject = "" if self.feature is None else f"feature {shown(self.feature)} "
        return f"{place}{subject}{self.expected}" + (f", got {self.got}" if self.got else "")


class BadVersion(AtPlace):
    """A folder is not a version that can be trusted."""

    code = "bad_version"


class BadName(RowcastError):
    """A name cannot be used for a model or a label.

    Attributes:
        kind: "model" or "label".
        name: the name as it came.
        rule: what a name must be.
    """

    code = "bad_name"
    kind: str
    name: str
    rule: str

    def __str__(self) -> str:
        return f"{shown(self.name)} cannot name a {self.kind}: {self.rule}"


class BadChange(AtPlace):
    """A repository cannot be changed in this way; it is as it was."""

    code = "bad_change"


_LONGEST_COMPARED, _MOST_COMPARED = 60, 200


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that somebody may have meant who gave another one; None where none is near.

    Large and small letters are alike. To compare two names takes time with the square of their length, and clients
    choose one of them: a name of more than 60 letters is near to none, and where more than 200 are known it is compared
    with its neighbours in the alphabet.
    """
    if len(name) > _LONGEST_COMPARED:
        return None
    names = sorted((one.casefold(), one) for one in known)
    meant = name.casefold()
    start = max(0, bisect(names, (meant, "")) - _MOST_COMPARED // 2) if len(names) > _MOST_COMPARED else 0
    compared = dict(names[start : start + _MOST_COMPARED])
    near = difflib.get_close_matches(meant, compared, n=1)
    return compared[near[0]] if near else None


def shown(value: object, limit: int = 60) -> str:
    """The value as a person would read it in a sentence, on one line, at most `limit` characters long."""
    if isinstance(value, dict):
        return f"an object with {len(value)} keys"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"  # its decimal text may be refused or take seconds
    if isinstance(value, str):
        text = repr(value[:limit])  # escapes what is no printable character
        return text if len(text) <= limit and len(value) <= limit else f"{text[: limit - 4]}...{text[0]}"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = " ".join(str(value).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
