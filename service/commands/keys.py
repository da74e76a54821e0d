"""`python -m service key NAME` makes an API key."""

import sys
from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter
from pydantic import ValidationError

from service.access.keys import SCOPES, Key, Scope, make_key
from service.commands.output import BadCommand

_Flag = Parameter(negative=())


def key(
    name: str,
    *,
    scope: Annotated[tuple[Scope, ...], _Flag] = ("predict",),
    model: Annotated[tuple[str, ...], _Flag] = (),
    rate_limit: float | None = None,
    rate_burst: int | None = None,
    expires: datetime | None = None,
    urgent: Annotated[bool, _Flag] = False,
) -> int:
    """Make an API key: the key itself goes to stderr, once, and what the file of keys needs to stdout.

    Args:
        name: Whose key it is, for the log and the limits; two keys may have one name while one replaces the other.
        scope: predict, metrics or admin; repeat it for several.
        model: A model that it may ask; repeat it for several. Without any, all.
        rate_limit: Requests per second, instead of those of ROWCAST_RATE_LIMIT.
        rate_burst: Requests at once, instead of those of one second.
        expires: From when on it is none, such as 2027-01-31; midnight, here, where no time is given.
        urgent: Its requests may ask to go before others.
    """
    if rate_burst is not None and rate_limit is None:
        raise BadCommand("--rate-burst", "says how many requests may come at once of a --rate-limit; give that as well")
    ends = None if expires is None else expires.astimezone()
    if ends is not None and ends <= datetime.now(UTC):
        raise BadCommand("--expires", f"is {ends.isoformat()}, which is over; name a moment to come")
    secret, digest = make_key()
    try:
        made = Key(
            name=name,
            sha256=digest,
            scopes=frozenset(scope),
            models=frozenset(model) or None,
            rate_limit=rate_limit,
            rate_burst=rate_burst,
            expires=ends,
            urgent=urgent,
        )
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        print(f"{fault['loc'][0]}: {fault['msg']}", file=sys.stderr)  # noqa: T201 - a command prints
        return 2
    print("\n".join(_lines(made)))  # noqa: T201
    print(f"{secret}\nThis is the key. It is shown once; its file needs the digest alone.", file=sys.stderr)  # noqa: T201
    return 0


def _lines(made: Key) -> list[str]:
    """The key's part of a file of keys. Names and digests need no escapes in TOML; a model's name has none either."""
    lines = ["[[key]]", f'name = "{made.name}"', f'sha256 = "{made.sha256}"']
    lines.append(f"scopes = {_list([scope for scope in SCOPES if scope in made.scopes])}")
    if made.models is not None:
        lines.append(f"models = {_list(sorted(made.models))}")
    lines += [
        f"{field} = {value}" for field in ("rate_limit", "rate_burst") if (value := getattr(made, field)) is not None
    ]
    if made.expires is not None:
        lines.append(f"expires = {made.expires.isoformat()}")
    if made.urgent:
        lines.append("urgent = true")
    return [*lines, ""]


def _list(names: list[Scope] | list[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"
