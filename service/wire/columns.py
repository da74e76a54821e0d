"""What is true of named columns in every format."""

from collections.abc import Sequence

from models.errors import BadRow
from models.schema import Schema


def check_names(names: Sequence[str], schema: Schema, where: str) -> None:
    """Refuse, before any value is looked at, a name that stands twice, and more names than there are features.

    Raises:
        BadRow: so it is.
    """
    few = names[: len(schema.names) + 1]  # of more, one of these is already wrong
    seen: set[str] = set()
    for name in few:
        if name in seen:
            raise BadRow(None, name, f"must stand once {where}", "it twice")
        seen.add(name)
    if len(few) > len(schema.names):
        schema.encode_columns(dict.fromkeys(few, ()))  # says which one is unknown
