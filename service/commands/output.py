"""How commands answer: a table for people, JSON for programs."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from models.errors import AtPlace, RowcastError, nearest
from models.repository import Repository, Version
from service.settings import Settings

Json = Annotated[bool, Parameter(name="--json", negative=(), help="Answer in JSON.")]
Where = Annotated[
    Path | None, Parameter(name="--repository", help="The published versions; ROWCAST_REPOSITORY, or models/published.")
]

_MOST_NAMES = 10


class NotWell(RowcastError):
    """The command was carried out, and what it found is not well; the sentence is empty when it was told already."""

    code = "not_well"


class BadCommand(AtPlace):
    """The command asks for what is not there; its place is what it names."""

    code = "bad_command"


def repository_at(where: Path | None) -> Repository:
    """The repository that a command means.

    Raises:
        BadCommand: nothing is there.
    """
    root = where or Path(os.environ.get("ROWCAST_REPOSITORY") or Settings.model_fields["repository"].default)
    if not root.is_dir():
        raise BadCommand(
            str(root), "there is no such folder; name the repository by --repository or ROWCAST_REPOSITORY"
        )
    return Repository(root)


def open_version(repository: Repository, words: str) -> Version:
    """The version that MODEL, MODEL/NUMBER or MODEL/LABEL names; a model alone is the version that answers for it.

    Raises:
        BadCommand: there is none.
        BadVersion: it cannot be trusted.
    """
    name, _, which = words.partition("/")
    if name not in repository.names():
        raise BadCommand(name, f"is not in {repository.root}; {_known(name, repository.names())}")
    labels, numbers = repository.labels(name), repository.versions(name)
    number = int(which) if which.isdecimal() else labels.get(which or "stable", 0 if which else numbers[-1])
    if number not in numbers:
        there = ", ".join([*map(str, numbers), *labels])
        raise BadCommand(words, f"is not there; of {name} there are {there}")
    return repository.open(name, number)


def _known(name: str, names: Sequence[str]) -> str:
    """The model that was probably meant, or the first few."""
    near = nearest(name, names)
    if near:
        return f"did you mean {near}?"
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"there is {', '.join(names[:_MOST_NAMES]) or 'nothing'}{more}"


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout, cut to a terminal's width and whole elsewhere."""
    table = Table(*headings, box=None, pad_edge=False, header_style="bold", show_header=any(headings))
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, emoji=False, width=10_000)
    with console.capture() as drawn:  # rich would end the program itself, with 1, where nobody reads
        console.print(table)
    sys.stdout.write(drawn.get())
