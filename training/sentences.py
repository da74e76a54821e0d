"""Parts of sentences that errors, notes and warnings share."""

import shlex
from collections.abc import Iterable, Sequence

from models.errors import nearest

MOST_LISTED = 5
"""Names in a sentence; beyond, it says how many more there are."""


def hint(wrong: str, known: Iterable[str]) -> str:
    """The known name that a wrong one probably meant, or the known names, as the end of a sentence."""
    names = sorted(filter(None, known))
    near = nearest(wrong, names)
    if near or not names:
        return f"; did you mean {near}?" if near else ""
    return f"; there {'is only' if len(names) == 1 else 'are'} {listed(names, 8)}"


def listed(names: Sequence[object], most: int = MOST_LISTED) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(str(name) for name in names[:most]) + (f" and {more} more" if more > 0 else "")


def kind_option(column: str, kind: str) -> str:
    """How a command says that a column is of some kind."""
    return f"--kind {shlex.quote(f'{column}={kind}')}"


def drop_option(column: str) -> str:
    """How a command leaves a column out."""
    return f"--drop {shlex.quote(column)}"
