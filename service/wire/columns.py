"""What is true of named columns in every format."""

from collections.abc import Iterable

from models.errors import BadRow


def check_once(names: Iterable[str], where: str) -> None:
    """Refuse a name that stands twice.

    Raises:
        BadRow: one does.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadRow(None, name, f"must stand once {where}", "it twice")
        seen.add(name)
