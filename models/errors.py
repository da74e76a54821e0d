"""What can go wrong at the contract, each with its facts, one sentence and a stable code."""

import json
from typing import ClassVar


class RowcastError(Exception):
    """An error whose sentence may be shown to whoever caused it.

    `code` is stable: clients and dashboards may rely on it.
    """

    code: ClassVar[str] = "internal"


class BadRow(RowcastError):  # noqa: N818 - it names the thing that is bad, as callers say it
    """A row cannot be encoded.

    Attributes:
        row: number of the row in its request or table, from 0; None when the rows as a whole are wrong.
        feature: name of the feature; None when the row as a whole is wrong.
        expected: what was expected, as a claim: "must be a number".
        got: what came instead, shown shortened; empty when nothing came.
    """

    code = "bad_row"

    def __init__(self, row: int | None, feature: str | None, expected: str, got: str = "") -> None:
        super().__init__(row, feature, expected, got)
        self.row, self.feature, self.expected, self.got = row, feature, expected, got

    def __str__(self) -> str:
        place = "" if self.row is None else f"row {self.row}: "
        subject = "" if self.feature is None else f"feature {shown(self.feature)} "
        return f"{place}{subject}{self.expected}" + (f", got {self.got}" if self.got else "")


class BadVersion(RowcastError):  # noqa: N818
    """A folder is not a version that can be trusted.

    Attributes:
        place: the version, as `<model>/<version>` or the folder's path.
        reason: what is wrong and what to do about it.
    """

    code = "bad_version"

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(place, reason)
        self.place, self.reason = place, reason

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class BadName(RowcastError):  # noqa: N818
    """A name cannot be used for a model or a label.

    Attributes:
        kind: "model" or "label".
        name: the name as it came.
        rule: what a name must be.
    """

    code = "bad_name"

    def __init__(self, kind: str, name: str, rule: str) -> None:
        super().__init__(kind, name, rule)
        self.kind, self.name, self.rule = kind, name, rule

    def __str__(self) -> str:
        return f"{shown(self.name)} cannot name a {self.kind}: {self.rule}"


class BadChange(RowcastError):  # noqa: N818
    """A repository cannot be changed in this way; it is as it was.

    Attributes:
        place: the model, or the version as `<model>/<version>`.
        reason: why not, and what to do instead.
    """

    code = "bad_change"

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(place, reason)
        self.place, self.reason = place, reason

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


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
